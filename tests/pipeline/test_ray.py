"""Bulk prediction on a real Ray cluster of processes, some of which are killed."""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from pricer.products.catalog import generate_products
from tests.pipeline.conftest import Project, wait_until

CHUNK = 128


@dataclass
class Machines:
    """A head without cores and two workers with one each, all on loopback."""

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

    def start(self, name: str) -> None:
        where = ["--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0"]
        if name != "head":
            where = [f"--address={self.address}", "--num-cpus=1"]
        self.running[name] = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--block", "--disable-usage-stats"]
            + [*where, "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
            + ([f"--temp-dir={self.folder}"] if name == "head" else []),
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, cores: int) -> None:
        """Wait until so many cores are there."""
        ask = f"import ray; ray.init({self.address!r}); print(ray.cluster_resources().get('CPU'))"
        expected = "None" if not cores else f"{cores}.0"

        def there() -> bool:
            told = subprocess.run(
                [sys.executable, "-c", ask], env=self.environment, capture_output=True, text=True
            )
            return told.stdout.strip() == expected

        wait_until(there)

    def stop(self, name: str) -> None:
        """Kill a machine, with everything on it."""
        process = self.running.pop(name)
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for one in family:
            with_suppress_kill(one)
        process.wait()

    def actors(self) -> list[psutil.Process]:
        """Processes that hold a model."""
        found = []
        for process in self.running.values():
            with_children = psutil.Process(process.pid).children(recursive=True)
            found += [one for one in with_children if name_of(one).startswith("ray::MapWorker")]
        return found


def with_suppress_kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def machines() -> Iterator[Machines]:
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
        cluster.start("head")
        cluster.wait(0)
        cluster.start("first")  # two at the same moment get into each other's way
        cluster.wait(1)
        cluster.start("second")
        cluster.wait(2)
        yield cluster
    finally:
        for name in reversed(list(cluster.running)):
            cluster.stop(name)
        shutil.rmtree(folder, ignore_errors=True)


def make_products(path: Path, parts: int) -> Path:
    rows = generate_products(CHUNK * parts - 28, seed=3, noise=0.1, min_price=1, max_price=900)
    table = pd.DataFrame(rows)[["summary"]].reset_index(names="id")
    table.loc[7, "summary"] = None
    table.to_parquet(path)
    return path


def command(products: Path, out: Path, *how: str) -> list[str]:
    told = ["--file", str(products), "--output", str(out), "--part-rows", str(CHUNK)]
    return ["pricer", "predict", *told, *how]


def content(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.iterdir())}


def test_nothing_is_lost_and_nothing_done_twice_whatever_is_killed(
    reproduced: Project, machines: Machines, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kills = pytestconfig.getoption("--ray-kills")
    products = make_products(tmp_path / "products.parquet", 2 * kills + 4)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    reproduced.run(*command(products, undisturbed, "--shard", "1/1", "--threads", "1"))
    how = ("--ray", machines.address)
    reproduced = replace(reproduced, environment=reproduced.environment | machines.token)
    run = reproduced.start(*command(products, out, *how))
    chance = random.Random(kills)
    kinds = ["actor", "driver", "machine"]
    for kill in range(kills):
        before = len(list(out.glob("*.parquet"))) if out.exists() else 0
        wait_until(lambda n=before: out.exists() and len(list(out.glob("*.parquet"))) > n, run)  # type: ignore[misc]
        kind = kinds[kill % 3]
        if kind == "actor" and (actors := machines.actors()):
            with_suppress_kill(chance.choice(actors))
        elif kind == "machine":
            name = chance.choice(["first", "second"])
            machines.stop(name)
            machines.start(name)
        else:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            run = reproduced.start(*command(products, out, *how, "--resume"))
    _, said = run.communicate(timeout=600)
    assert run.returncode == 0, said
    assert content(out) == content(undisturbed)
    assert f"{CHUNK * (2 * kills + 4) - 28} products (1 without an estimate" in said


def test_ray_starts_here_and_ends_with_the_command(reproduced: Project, tmp_path: Path) -> None:
    products = make_products(tmp_path / "products.parquet", 3)
    reproduced.run(*command(products, tmp_path / "one", "--shard", "1/1", "--threads", "1"))
    done = reproduced.run(*command(products, tmp_path / "all", "--ray", "auto"))
    assert content(tmp_path / "all") == content(tmp_path / "one")
    assert "item/s" in done.stderr and "356 products (1 without" in done.stderr
    failed = reproduced.run(*command(products, tmp_path / "all", "--ray", "auto"), ok=False)
    assert "3 of 3 parts are there: add --resume" in failed.stderr.splitlines()[-1]


def test_what_ray_cannot_do_is_told_in_one_line(reproduced: Project, tmp_path: Path) -> None:
    products = make_products(tmp_path / "products.parquet", 1)
    nobody = command(products, tmp_path / "out", "--ray", "127.0.0.1:9")
    failed = reproduced.run(*nobody, ok=False)
    assert failed.stderr.splitlines()[-1].startswith("pricer: --ray 127.0.0.1:9: ")
    assert "Traceback" not in failed.stderr
    nowhere = command(products, tmp_path / "out", "--ray", "over there")
    assert "--ray is auto or an address as" in reproduced.run(*nowhere, ok=False).stderr
    many = command(products, tmp_path / "out", "--ray", "auto", "--threads", "5000")
    assert "no machine has the 5000 cores" in reproduced.run(*many, ok=False).stderr
    both = command(products, tmp_path / "out", "--ray", "auto", "--shard", "1/2")
    assert "exclude one another" in reproduced.run(*both, ok=False).stderr
    url = ["pricer", "predict", "--file", "s3://a/b.parquet", "--output", "out.parquet"]
    assert "is for --ray and --shard" in reproduced.run(*url, ok=False).stderr
