"""A package index on loopback that serves wheels, well or badly."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.loopback import LoopbackServer


@dataclass
class PackageIndex:
    """Where it listens, and an event for the first request of a wheel."""

    url: str
    asked: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        """What makes pip use this index and no other, without patience."""
        return {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": f"{self.url}/simple/",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
            "PIP_DEFAULT_TIMEOUT": "60",
        }


@contextmanager
def package_index(*wheels: Path, cut_at: int | None = None, stall: bool = False) -> Iterator:
    """Serve wheels; the pages of all packages list all of them.

    Args:
        wheels: the files.
        cut_at: close the connection after so many bytes.
        stall: send nothing until `release` is set.
    """
    contents = {f"/files/{wheel.name}": wheel.read_bytes() for wheel in wheels}
    links = "".join(f'<a href="{path}">{path.rpartition("/")[2]}</a>' for path in contents)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".whl"):
                index.asked.set()
                if stall:
                    index.release.wait(60)
                self._answer(contents[self.path], "application/octet-stream", cut_at)
            else:
                self._answer(links.encode(), "text/html", None)

        def _answer(self, body: bytes, kind: str, cut: int | None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body[:cut])
            except OSError:
                pass  # the client is gone

        def log_message(self, *args: object) -> None:
            pass

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    index = PackageIndex(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        index.release.set()
        server.shutdown()
        server.server_close()
