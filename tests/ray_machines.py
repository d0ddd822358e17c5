"""A Ray cluster of processes on this machine, as `ray start` makes it on several."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STARTS_WITHIN_S = 240


@dataclass
class Machines:
    """A head, and what others there are, all on loopback; none has a GPU."""

    folder: Path
    port: int
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def token(self) -> dict[str, str]:
        return {key: self.environment[key] for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}

    def start(self, name: str, cores: int) -> None:
        """Start a machine with so many cores; "head" is the one that the others are told of."""
        where = [f"--address={self.address}"]
        if name == "head":
            where = ["--head", f"--port={self.port}", "--include-dashboard=false"]
            where += [f"--temp-dir={self.folder}"]
        self.running[name] = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats"]
            + [*where, "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
            + [f"--num-cpus={cores}"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, cores: int) -> None:
        """Wait until so many cores are there in all."""
        ask = f"import ray; ray.init({self.address!r}); print(ray.cluster_resources().get('CPU'))"
        expected = "None" if not cores else f"{cores}.0"

        def there() -> bool:
            told = subprocess.run(
                [sys.executable, "-c", ask], env=self.environment, capture_output=True, text=True
            )
            return told.stdout.strip() == expected

        deadline = time.monotonic() + STARTS_WITHIN_S
        while not there():
            assert time.monotonic() < deadline

    def stop(self, name: str) -> None:
        """Kill a machine, with everything on it."""
        process = self.running.pop(name)
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()

    def actors(self) -> list[psutil.Process]:
        """Processes that hold a model."""
        found = []
        for process in self.running.values():
            with_children = psutil.Process(process.pid).children(recursive=True)
            found += [one for one in with_children if name_of(one).startswith("ray::MapWorker")]
        return found


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def ray_machines(head_cores: int = 0) -> Iterator[Machines]:
    """Start a head that is there, with a token of its own; kill all there is in the end."""
    # the paths of its sockets must be short
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # a machine that is gone is missed within seconds
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    cluster = Machines(folder, port, environment)
    try:
        cluster.start("head", head_cores)
        cluster.wait(head_cores)
        yield cluster
    finally:
        for name in reversed(list(cluster.running)):
            cluster.stop(name)
        shutil.rmtree(folder, ignore_errors=True)
