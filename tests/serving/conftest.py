"""The running program on a real socket, with the tiny model, on SQLite and on PostgreSQL."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.pipeline.conftest import Project, wait_until
from tests.pipeline.conftest import reproduced as reproduced

KETTLE = "Electric kettle, stainless steel, 1.7 litres, 2200 W"
DEADLINE_S = 60


@dataclass
class Running:
    """A service that runs."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url, headers=self.headers, timeout=DEADLINE_S, trust_env=False
        )

    def estimate(self, *descriptions: str, **asked: Any) -> list[dict[str, Any]]:
        """Return the estimates of some descriptions."""
        products = [{"description": one} for one in descriptions]
        with self.client() as client:
            answer = client.post("/v1/estimates", json={"products": products} | asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["estimates"]

    def meter(self, name: str) -> float:
        """Return the sum of a Prometheus figure over its labels."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        values = [line.rsplit(" ", 1) for line in lines if re.match(rf"{name}(?:{{| )", line)]
        return sum(float(value) for _, value in values)

    def raw(self) -> socket.socket:
        """Return a connection, to send what no client would."""
        return socket.create_connection(self.address, timeout=DEADLINE_S)


@contextmanager
def serving(
    project: Project, *options: str, ok: bool = True, program: str = "pricer"
) -> Iterator[Running]:
    """Run `pricer serve` on a port that is free; end it with SIGTERM unless it has ended."""
    process = project.start(program, "serve", "--port", "0", *options)
    assert process.stderr
    try:
        said: list[str] = []
        url = None
        for line in process.stderr:
            said.append(line)
            if found := re.search(r" on (http://\S+?),", line):
                url = found[1].replace("0.0.0.0", "127.0.0.1")
                break
        assert url, said
        running = Running(process, url, said)
        _wait_for(running)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=DEADLINE_S)
        said += rest.splitlines(keepends=True)
    if ok:
        assert process.returncode == 0, said
        assert len(said) == 1, said


def _wait_for(running: Running) -> None:
    def listening() -> bool:
        try:
            running.raw().close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listening, running.process)


@pytest.fixture(scope="session")
def shop(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project to serve, whose model says more than $0: its median is that of next to nothing."""
    project = reproduced.copy(tmp_path_factory.mktemp("shop") / "project")
    record = project.folder / "data/serving/tuned.json"
    told = json.loads(record.read_text()) | {"point": "mean"}
    record.unlink()  # it may be a link into DVC's cache
    record.write_text(json.dumps(told))
    return project


@pytest.fixture(scope="module")
def service(shop: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that several tests ask."""
    log = tmp_path_factory.mktemp("log") / "log.sqlite"
    with serving(shop, "--database", str(log)) as running:
        yield running


@dataclass
class Postgres:
    """A PostgreSQL server of its own."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://pricer@127.0.0.1:{self.port}/postgres"

    def control(self, *arguments: str) -> None:
        """Start or stop it."""
        _as_postgres("pg_ctl", "-w", "-s", "-D", str(self.folder / "data"), *arguments)

    def start(self) -> None:
        """Start it, for connections from this machine alone."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.control("-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once; connections end."""
        self.control("-m", "fast", "stop")


def _binaries() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


def _as_postgres(name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL, which refuses to be run by root."""
    binaries = _binaries()
    assert binaries
    who: Any = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    done = subprocess.run(
        [str(binaries / name), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        **who,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A new PostgreSQL server in a temporary folder; Debian's package, which CI installs."""
    if _binaries() is None:
        pytest.skip("needs Debian's postgresql package")
    # a folder that another user may reach, which pytest's own is not
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            server = Postgres(folder, free.getsockname()[1])
        data = str(folder / "data")
        _as_postgres("initdb", "-D", data, "-U", "pricer", "-A", "trust", "-E", "UTF8", "-N")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
