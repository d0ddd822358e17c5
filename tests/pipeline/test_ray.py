"""Bulk prediction on a real Ray cluster of processes, some of which are killed."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from pricer.products.catalog import generate_products
from tests.pipeline.conftest import Project, wait_until
from tests.pipeline.test_resume import kill
from tests.ray_machines import Machines, ray_machines

CHUNK = 128


@pytest.fixture
def machines() -> Iterator[Machines]:
    """A head without cores and two workers with one each."""
    with ray_machines() as cluster:
        cluster.start("first", 1)  # two at the same moment get into each other's way
        cluster.wait(1)
        cluster.start("second", 1)
        cluster.wait(2)
        yield cluster


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
    for number in range(kills):
        before = len(list(out.glob("*.parquet"))) if out.exists() else 0
        wait_until(lambda n=before: out.exists() and len(list(out.glob("*.parquet"))) > n, run)  # type: ignore[misc]
        kind = kinds[number % 3]
        if kind == "actor" and (actors := machines.actors()):
            with suppress(psutil.NoSuchProcess):
                chance.choice(actors).kill()
        elif kind == "machine":
            name = chance.choice(["first", "second"])
            machines.stop(name)
            machines.start(name, 1)
        else:
            kill(run)
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
