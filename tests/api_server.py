"""A server on loopback that speaks as an OpenAI-compatible API does, or refuses in every way."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.loopback import LoopbackServer

KEY = "sk-secretOfTheTests"


class Api(LoopbackServer):
    """A server that speaks as it is told: statuses first, then prices."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.requests: list[dict] = []
        self.keys: set[str] = set()
        self.answer: str | Callable[[str], str] = "About $25."
        self.body: bytes | None = None
        self.hold_after: int | None = None
        self.held, self.lock = threading.Event(), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.keys.add(self.headers["Authorization"])
            refused = self.server.refusals.pop(0) if self.server.refusals else None
            if refused is None:
                self.server.requests.append(asked)
            hold = self.server.hold_after is not None and (
                len(self.server.requests) > self.server.hold_after
            )
        if hold:
            self.server.held.set()
            threading.Event().wait(60)
        status, headers = refused or (200, {})
        answer = self.server.answer
        if callable(answer):
            answer = answer(asked["messages"][0]["content"])
        said = {"message": {"role": "assistant", "content": answer}}
        body: dict = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m1",
            "choices": [{"index": 0, "finish_reason": "stop"} | said],
            "usage": {"prompt_tokens": 90, "completion_tokens": 4, "total_tokens": 94},
        }
        if refused:
            body = {"error": {"message": f"no, {KEY} is not allowed", "code": status}}
        data = json.dumps(body).encode() if self.server.body is None else self.server.body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    thread = threading.Thread(target=api.serve_forever)
    thread.start()
    try:
        yield api
    finally:
        api.shutdown()
        thread.join()
        api.server_close()
