"""A web server on loopback."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """A server whose clients may go away at any time, as killed ones do."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that are gone: another test may be listening by now."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
