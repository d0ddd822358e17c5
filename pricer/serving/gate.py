"""What every request passes before a route sees it: host, key, size, type; and its last words."""

import asyncio
import json
import logging
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pricer.serving.keys import Keys
from pricer.serving.limits import Limits
from pricer.serving.meters import Meters
from pricer.serving.problems import MEDIA_TYPE, Problem

OPEN = ("/", "/style.css", "/script.js", "/healthz", "/readyz", "/openapi.json")  # without a key
JSON = "application/json"
FAILED = "the service has failed: what it writes to stderr says why"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Gate:
    """ASGI middleware; problems it finds are the answer, and those of the routes too."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        meters: Meters,
        keys: Keys | None,
        hosts: Collection[str] | None,
    ) -> None:
        """Stand before an app.

        Args:
            app: with the routes.
            limits: of requests.
            meters: that count them.
            keys: that are accepted; None where none is needed.
            hosts: that a request may name; None for any. A page elsewhere whose name leads here
                (DNS rebinding) names another.
        """
        self._app, self._limits, self._meters = app, limits, meters
        self._keys, self._hosts = keys, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await self._app(scope, body, sending)
        except Problem as problem:
            await _send(problem, sending)
        except Exception:
            logging.getLogger("pricer.serving").exception("a request failed")
            if not status:
                await _send(Problem("internal", FAILED), sending)
        route = getattr(scope.get("route"), "path", "none")
        self._meters.requests.labels(route, status).inc()
        self._meters.latency.labels(route).observe(time.monotonic() - begin)

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Problem("misdirected", "this service answers to its own name: see --host")
        if self._keys is not None and scope["path"] not in OPEN:
            kind, _, key = headers.get(b"authorization", "").partition(" ")
            if kind.lower() != "bearer" or not self._keys.accepts(key.strip()):
                raise Problem(
                    "unauthorized",
                    "send the header Authorization: Bearer KEY",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._limits.max_body:
            raise self._too_large()
        if scope["method"] == "POST":
            media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if media_type != JSON:
                raise Problem("unsupported-media-type", f"send Content-Type: {JSON}")

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Return what gives a route the whole body; it is read here, so that it is never large."""
        if scope["method"] in ("GET", "HEAD"):
            return receive
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem("bad-request", "the body ended early")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._limits.max_body:
                        raise self._too_large()
        except TimeoutError:
            raise Problem(
                "bad-request",
                f"the body did not come within {self._limits.timeout_s:g} s",
                headers={"Connection": "close"},
            ) from None
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_again() -> Message:
            return whole.pop() if whole else await receive()

        return receive_again

    def _too_large(self) -> Problem:
        return Problem("too-large", f"a request has at most {self._limits.max_body} bytes")


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host


async def _send(problem: Problem, send: Send) -> None:
    body = json.dumps(problem.body()).encode()
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body))} | problem.headers
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(name.lower().encode(), text.encode()) for name, text in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
