"""Clients that are slow, vanish, or send too much: nobody else waits for them."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from pricer.serving.limits import Limits
from pricer.serving.server import bind, http_config
from tests.pipeline.conftest import wait_until

from .conftest import KETTLE, Running, serving

BODY = json.dumps({"products": [{"description": KETTLE}]}).encode()
REQUEST = (
    b"POST /v1/estimates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


@pytest.fixture(scope="module")
def impatient(shop, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log.sqlite"
    with serving(shop, "--database", str(log), "--timeout-s", "2") as running:
        yield running


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "beginning",
    [b"", b"POST /v1/est", REQUEST, REQUEST + BODY[:5], b"GET /healthz HTTP/1.1\r\nX: "],
    ids=["nothing", "half a line", "no body", "half a body", "half a header"],
)
def test_a_request_that_never_ends_holds_nobody_back_and_is_ended(impatient: Running, beginning):
    slow = [impatient.raw() for _ in range(100)]
    for connection in slow:
        connection.sendall(beginning)
    begin = time.monotonic()
    assert impatient.estimate(KETTLE)
    assert time.monotonic() - begin < 2
    for connection in slow:  # within the deadline of the socket, or this raises
        answer = read_all(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        connection.close()


@contextmanager
def in_process(app, limits: Limits) -> Iterator[tuple[str, int]]:
    """Serve an app from a thread, as `pricer serve` does from its own; give the address."""
    bound = bind("127.0.0.1", 0)
    one = uvicorn.Server(http_config(app, limits))
    thread = threading.Thread(target=lambda: asyncio.run(one.serve([bound])))
    thread.start()
    try:
        wait_until(lambda: one.started)
        yield bound.getsockname()
    finally:
        one.should_exit = True
        thread.join()


async def large(scope, receive, send) -> None:
    """Answer with more than any buffer holds."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(100):
        await send({"type": "http.response.body", "body": b"a" * 2**20, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def closed(connection: socket.socket) -> bool:
    """Tell whether the other side has ended a connection, of which nothing is read."""
    try:
        connection.sendall(b"\r\n")
    except OSError:
        return True
    return False


def test_who_does_not_take_an_answer_loses_the_connection(monkeypatch):
    monkeypatch.setattr("pricer.serving.server.LOG_S", 0)
    with in_process(large, Limits(timeout_s=0.3)) as address:
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: closed(connection))


@pytest.mark.parametrize("after", [b"", b"\r\n", b"\n\r\n"])
def test_nobody_stays_without_a_request(monkeypatch, after):
    """Also who sends line ends alone, which begin no request."""
    monkeypatch.setattr("pricer.serving.server.KEEP_ALIVE_S", 1)

    async def small(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with in_process(small, Limits(timeout_s=1)) as address:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.sendall(after)
            read_all(connection)  # ends, or the socket's deadline raises


def test_one_byte_after_the_other_is_not_waited_for(impatient: Running):
    with impatient.raw() as connection:
        connection.settimeout(0.05)
        begin = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for byte in REQUEST * 100:
                connection.sendall(bytes([byte]))
                try:
                    if not connection.recv(1):
                        raise ConnectionResetError
                except TimeoutError:
                    pass
        assert time.monotonic() - begin < 20


def test_a_client_that_closes_its_side_takes_nothing_from_others(impatient: Running):
    connections = [impatient.raw() for _ in range(20)]
    for connection in connections:
        connection.sendall(REQUEST + BODY)
        connection.shutdown(socket.SHUT_WR)
    assert impatient.estimate(KETTLE)
    for connection in connections:
        read_all(connection)
        connection.close()
    assert impatient.meter("pricer_queue_length") == 0


def test_a_vanished_client_leaves_the_queue(shop, tmp_path):
    """Only what is in the model already is read to its end."""
    options = ("--batch-size", "1", "--max-queue", "64", "--max-products", "64")
    with serving(shop, "--database", str(tmp_path / "log.sqlite"), *options) as running:
        body = json.dumps({"products": [{"description": KETTLE}] * 64}).encode()
        request = REQUEST.replace(b"Length: %d" % len(BODY), b"Length: %d" % len(body))
        with running.raw() as connection:
            connection.sendall(request + body)
            wait_until(lambda: running.meter("pricer_queue_length") > 0, running.process)
        wait_until(lambda: running.meter("pricer_queue_length") == 0, running.process)
        assert running.estimate(KETTLE)
        assert running.meter("pricer_estimates_total") < 64


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_megabytes_is_refused_and_never_held(impatient: Running, chunked):
    block = b"a" * 2**20

    def blocks():
        for _ in range(100):
            yield block

    headers = {"Content-Type": "application/json"}
    if not chunked:
        headers["Content-Length"] = str(100 * len(block))
    with impatient.client() as client:
        told = client.post("/v1/estimates", content=blocks(), headers=headers)
    assert (told.status_code, told.json()["code"]) == (413, "too-large")
    assert impatient.estimate(KETTLE)


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 200_000]
)
def test_what_is_no_http_is_refused(impatient: Running, request_):
    with impatient.raw() as connection:
        try:
            connection.sendall(request_)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = read_all(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert impatient.estimate(KETTLE)


def test_when_too_many_wait_more_are_told_when_to_come_back(shop, tmp_path):
    options = ("--batch-size", "1", "--max-queue", "32", "--max-products", "32")
    with serving(shop, "--database", str(tmp_path / "log.sqlite"), *options) as running:
        with running.client() as client, running.raw() as connection:
            body = json.dumps({"products": [{"description": KETTLE}] * 32}).encode()
            request = REQUEST.replace(b"Length: %d" % len(BODY), b"Length: %d" % len(body))
            connection.sendall(request + body)
            wait_until(lambda: running.meter("pricer_queue_length") > 5, running.process)
            told = client.post("/v1/estimates", json=json.loads(body))
            assert (told.status_code, told.json()["code"]) == (503, "queue-full")
            assert int(told.headers["Retry-After"]) >= 1
            assert client.get("/readyz").status_code == 200  # busy is not broken
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
