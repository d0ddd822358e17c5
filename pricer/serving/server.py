"""A socket, the HTTP server on it, and how both end."""

import asyncio
import contextlib
import ipaddress
import os
import resource
import signal
import socket
import threading
from asyncio import TimerHandle, Transport
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pricer.errors import PricerError
from pricer.serving.service import Service

KEEP_ALIVE_S = 75
LAST_PASS_S = 5  # for a pass that runs when all requests have ended


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, and not listened on yet.

    Raises:
        PricerError: there is no such host here, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # with its protocol, by which asyncio knows that it may send at once (TCP_NODELAY): without,
        # each answer waits 40 ms for an acknowledgement
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise PricerError(
            f"--host {host} --port {port}: {error.strerror}: name others, or stop what is there"
        ) from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Tell whether only this machine can reach a socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


class TimedProtocol(HttpToolsProtocol):
    """HTTP whose requests arrive whole within the service's timeout, or the connection ends."""

    request_timeout_s: float
    _late: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request."""
        super().on_message_begin()
        self._wait()

    def on_message_complete(self) -> None:
        """Wait no more."""
        self._stop()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(self.request_timeout_s, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """A server that leaves signals to `run`: its own would send the process the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(app: ASGIApp, bound: socket.socket, service: Service) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then those that are there; then end.

    Returns within the service's `grace_s` and the seconds that its log takes. The caller's thread
    computes, see `Service.read`; requests come and go in one of their own.

    Raises:
        PricerError: somebody else has begun to listen there.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection is an open file
    limits = service.limits
    protocol = type("Protocol", (TimedProtocol,), {"request_timeout_s": limits.timeout_s})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",  # what is no HTTP is no news
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(int(limits.grace_s), 1),
        backlog=1024,
    )
    server = _Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        service.closing = True
        server.handle_exit(number, frame)

    refused: list[OSError] = []

    def serve() -> None:
        try:
            asyncio.run(server.serve([bound]))
        except OSError as error:
            refused.append(error)
        finally:
            if not service.close(LAST_PASS_S):
                os._exit(0)  # in a pass that nobody waits for; the log is written

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, stop)
    requests = threading.Thread(target=serve, name="http")
    requests.start()
    service.read()
    requests.join()
    if refused:
        raise PricerError(f"cannot listen: {refused[0].strerror}: name another --port")
