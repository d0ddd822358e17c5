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
from pricer.serving.limits import Limits
from pricer.serving.service import LOG_S, Service

KEEP_ALIVE_S = 75
ABORT_S = 2  # for what is left of an answer to be taken
MOST_CONNECTIONS = 1_000
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
    """HTTP on a connection that always has a deadline, which each step of a request puts off.

    For the request to arrive, for its answer, for the next request: who is slow in any of them
    loses the connection, and holds nobody back.
    """

    request_timeout_s: float
    answer_timeout_s: float
    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait(self.request_timeout_s)

    def on_message_begin(self) -> None:
        """Wait for the rest of a request."""
        super().on_message_begin()
        self._wait(self.request_timeout_s)

    def on_message_complete(self) -> None:
        """Wait for the answer to be given and taken."""
        self._wait(self.answer_timeout_s)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait(KEEP_ALIVE_S + 1)  # by then it has been asked to close
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._deadline = self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        self.transport.close()
        # what is not taken is not waited for
        self._deadline = self.loop.call_later(ABORT_S, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """A server that leaves signals to `run`: its own would send the process the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """Return how uvicorn serves an app: bounded in time and connections, quiet."""
    timeouts = {
        "request_timeout_s": limits.timeout_s,
        "answer_timeout_s": 2 * (limits.timeout_s + LOG_S),
    }
    return uvicorn.Config(
        app,
        http=type("Protocol", (TimedProtocol,), timeouts),
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",  # what is no HTTP is no news
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(int(limits.grace_s), 1),
        limit_concurrency=MOST_CONNECTIONS,
        backlog=MOST_CONNECTIONS,
    )


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
    server = _Server(http_config(app, limits))

    def stop(number: int, frame: FrameType | None) -> None:
        service.closing = True
        # whatever hangs by then, such as a database that does not answer
        watchdog = threading.Timer(limits.grace_s + LAST_PASS_S + LOG_S, os._exit, [0])
        watchdog.daemon = True
        watchdog.start()
        server.handle_exit(number, frame)

    refused: list[OSError] = []

    def serve() -> None:
        try:
            asyncio.run(server.serve([bound]))
        except OSError as error:
            refused.append(error)
        finally:
            service.close(LAST_PASS_S)

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, stop)
    requests = threading.Thread(target=serve, name="http")
    requests.start()
    service.read()
    requests.join()
    if refused:
        raise PricerError(f"cannot listen: {refused[0].strerror}: name another --port")
