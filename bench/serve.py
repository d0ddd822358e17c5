"""The service under load: against the bare predictor, the notebooks' service, and LitServe.

Every way prices the same products with the same weights, each server in a process of its own, one
asked at a time, in rounds: the ratios count.

    python -m bench.serve                                 # on what `make repro` left
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np

from pricer.evidence.models import read_models
from pricer.evidence.wording import wording
from pricer.files import read_parquet
from pricer.prices.predictor import Asked, Predictor, PriceEstimate
from pricer.prices.record import read_record
from pricer.products.prompts import build_prompt
from pricer.workspace import Workspace

CLIENTS = 32
ALONE = 16  # products a round, one after the other
BARE = "Predictor.predict"
HERE = "127.0.0.1"
STUB_RATE, STUB_SECONDS = 200, 10


@dataclass(frozen=True)
class Load:
    """What came of some requests: seconds for all of them, and for each."""

    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Return answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return the latency that so many percent are below, in milliseconds."""
        return float(np.percentile(self.latencies, percent)) * 1000


def descriptions(count: int) -> list[str]:
    """Return test products."""
    return read_parquet(Workspace().items / "test.parquet")["summary"].head(count).tolist()


async def closed_loop(url: str, path: str, bodies: Sequence[Any], clients: int) -> Load:
    """Send each body once, by so many clients, each of which waits for its answer."""
    waiting, latencies = list(reversed(bodies)), []
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(
        base_url=url, timeout=300, limits=limits, trust_env=False
    ) as client:

        async def ask() -> None:
            while waiting:
                begin = time.perf_counter()
                (await client.post(path, json=waiting.pop())).raise_for_status()
                latencies.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(clients)))
        return Load(time.perf_counter() - begin, latencies)


async def open_loop(url: str, path: str, body: Any, rate: float, seconds: float) -> Load:
    """Send a body so often a second, whether or not earlier ones were answered."""
    latencies: list[float] = []
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(
        base_url=url, timeout=60, limits=limits, trust_env=False
    ) as client:

        async def ask() -> None:
            begin = time.perf_counter()
            (await client.post(path, json=body)).raise_for_status()
            latencies.append(time.perf_counter() - begin)

        begin, asked = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(begin + number / rate - time.perf_counter(), 0))
            asked.append(asyncio.ensure_future(ask()))
        await asyncio.gather(*asked)
        return Load(time.perf_counter() - begin, latencies)


# --- the servers, each in its own process ---


def serve_reference(port: int) -> None:
    """The service that the notebooks' users write: one product at a time, a lock."""
    import torch
    import uvicorn
    from fastapi import Body, FastAPI
    from peft import PeftModel
    from transformers import AutoTokenizer

    from bench.predict import load_as_the_notebooks

    left = Workspace()
    model = PeftModel.from_pretrained(load_as_the_notebooks(left.base_model), str(left.adapter))
    tokenizer = AutoTokenizer.from_pretrained(left.base_model)
    evidence = read_models(left.evidence_models)
    told = read_record(left.record).evidence
    lock, app = threading.Lock(), FastAPI()

    @app.post("/price")
    def price(description: str = Body(embed=True)) -> dict[str, float]:
        line = ""
        if told:
            table = evidence.of_texts([description])
            [line] = wording(table, neighbors=told.neighbors, words=told.words)
        with lock, torch.no_grad():
            inputs = tokenizer(build_prompt(description, line), return_tensors="pt")
            inputs = inputs.to(model.device)
            out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
        match = re.search(r"[-+]?\d*\.\d+|\d+", text)
        return {"price": float(match[0]) if match else 0.0}

    uvicorn.run(app, host=HERE, port=port, log_level="warning")


class StubPredictor:
    """Answers at once."""

    settings = SimpleNamespace(point="median")

    def check_asked(self, asked: Asked) -> None:
        """Allow everything."""

    def answer(self, texts: list[str], asked: Sequence[Asked]) -> list[PriceEstimate]:
        """Say $42 of everything."""
        even = np.full(1000, 0.001)
        one = PriceEstimate(42, 30, 60, 80, True, 9, 0.99, 0.0, False, probabilities=even)
        return [one] * len(texts)


def serve_stub(port: int, database: str) -> None:
    """The service, with a model that takes no time."""
    from pricer.serving.answers import Pricing
    from pricer.serving.app import make_app
    from pricer.serving.fallback import load_fallback
    from pricer.serving.limits import Limits
    from pricer.serving.log import Log
    from pricer.serving.server import bind, run
    from pricer.serving.service import Service
    from pricer.serving.variants import Variant, Variants

    predictor: Any = StubPredictor()
    variants = Variants({"tuned": Variant("tuned", predictor, "0" * 64)})
    # what others wait for is part of a batch's time, not of the overhead
    limits = Limits(max_wait_ms=0)
    pricing = Pricing(load_fallback(Workspace()), 0.05, keep_descriptions=True)
    service = Service(variants, pricing, Log(database), limits)
    run(make_app(service), bind(HERE, port), service)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind((HERE, 0))
        return int(one.getsockname()[1])


@contextmanager
def running(*command: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it listens; end it afterwards."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while True:
            assert process.poll() is None, command
            try:
                socket.create_connection((HERE, port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


# --- what is measured ---


def start(stack: ExitStack, module: str, *arguments: object, port: int) -> str:
    """Run a module of the bench that serves on a port; return its address."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    stack.enter_context(running(*command, port=port))
    return f"http://{HERE}:{port}"


def start_litserve(stack: ExitStack) -> str:
    """Start LitServe; return its address."""
    port = free_port()
    return start(stack, "bench.litserve_server", HERE, port, CLIENTS, port=port)


def start_own(stack: ExitStack, name: str, *arguments: object) -> str:
    """Start one of the servers of this module; return its address."""
    port = free_port()
    return start(stack, "bench.serve", "--serve", name, "--port", port, *arguments, port=port)


def start_pricer(stack: ExitStack, folder: Path) -> str:
    """Start `pricer serve`; return its address."""
    port = free_port()
    command = (str(Path(sys.executable).parent / "pricer"), "serve", "--port", str(port))
    database = str(folder / "log.sqlite")
    stack.enter_context(running(*command, "--database", database, port=port))
    return f"http://{HERE}:{port}"


def throughput(products: list[str], rounds: int, folder: Path) -> None:
    """Print answers a second with CLIENTS at once, and one after the other.

    Only the server that is asked runs: one that waits may wake often enough to slow another.
    """
    ours = [{"products": [{"description": one}]} for one in products]
    theirs = [{"description": one} for one in products]
    ways: dict[str, tuple[Callable[[ExitStack], str], str, list[Any]]] = {
        "pricer serve": (lambda stack: start_pricer(stack, folder), "/v1/estimates", ours),
        "LitServe": (start_litserve, "/predict", theirs),
        "notebooks' service": (lambda stack: start_own(stack, "reference"), "/price", theirs),
    }
    loads: dict[str, list[Load]] = {}
    singles: dict[str, list[Load]] = {}
    predictor = Predictor.from_pipeline()
    predictor.predict(products[:CLIENTS])
    for number in range(rounds):
        few = slice(number * ALONE, (number + 1) * ALONE)
        loads.setdefault(BARE, []).append(called(predictor, [products]))
        singles.setdefault(BARE, []).append(called(predictor, [[one] for one in products[few]]))
        for name, (start_it, path, bodies) in ways.items():
            with ExitStack() as stack:
                url = start_it(stack)
                asyncio.run(closed_loop(url, path, bodies[:CLIENTS], CLIENTS))
                for found, sent, clients in (
                    (loads, bodies, CLIENTS),
                    (singles, bodies[few], 1),
                ):
                    load = asyncio.run(closed_loop(url, path, sent, clients))
                    found.setdefault(name, []).append(load)
    print(f"\n{len(products)} products, {CLIENTS} clients at once, {rounds} rounds\n")
    print_table(loads)
    print(f"\none client, {ALONE} products a round, {rounds} rounds\n")
    print_table(singles)


def called(predictor: Predictor, batches: list[list[str]]) -> Load:
    """Call the predictor itself, batch by batch."""
    latencies, seconds = [], 0.0
    for batch in batches:
        begin = time.perf_counter()
        predictor.predict(batch)
        took = time.perf_counter() - begin
        seconds += took
        latencies += [took] * len(batch)
    return Load(seconds, latencies)


def print_table(loads: dict[str, list[Load]]) -> None:
    """Print a Markdown table: medians of rounds, and medians of each round's ratios."""
    print("| way | answers/s | times the predictor | p50 ms | times the predictor | p95 ms |")
    print("|---|---|---|---|---|---|")
    bare = loads[BARE]
    for name, found in loads.items():
        pairs = list(zip(found, bare, strict=True))
        rate = statistics.median(one.rate / other.rate for one, other in pairs)
        p50 = statistics.median(one.percentile(50) / other.percentile(50) for one, other in pairs)
        rates = [one.rate for one in found]
        print(
            f"| {name} | {statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}) "
            f"| {rate:.2f} | {statistics.median(one.percentile(50) for one in found):.0f} "
            f"| {p50:.2f} | {statistics.median(one.percentile(95) for one in found):.0f} |"
        )


def overhead(rounds: int, folder: Path) -> None:
    """Print the latency of the service with a model that takes no time."""
    body = {"products": [{"description": descriptions(1)[0]}]}
    loads = []
    with ExitStack() as stack:
        url = start_own(stack, "stub", "--database", folder / "stub.sqlite")
        asyncio.run(open_loop(url, "/v1/estimates", body, 50, 2))
        for _ in range(rounds):
            loads.append(
                asyncio.run(open_loop(url, "/v1/estimates", body, STUB_RATE, STUB_SECONDS))
            )
    print(
        f"\na model that takes no time, {STUB_RATE} requests a second for {STUB_SECONDS} s: ",
        end="",
    )
    for percent in (50, 95, 99):
        found = statistics.median(load.percentile(percent) for load in loads)
        print(f"p{percent} {found:.1f} ms, ", end="")
    print(f"{rounds} rounds")


def memory() -> None:
    """Print what the weights of one and of two variants take."""
    adapter = Workspace().adapter
    one = Predictor.from_pipeline()
    sizes = [weights_mib(one)]
    sizes.append(weights_mib(one.beside(adapter)))
    size = sum(file.stat().st_size for file in adapter.glob("*.safetensors")) / 2**20
    print(f"\nweights of one variant {sizes[0]:.0f} MiB, of two {sizes[1]:.0f} MiB; ", end="")
    print(f"an adapter's file (float32) {size:.0f} MiB")


def weights_mib(predictor: Predictor) -> float:
    """Return what parameters and buffers take, each once."""
    tensors = [*predictor.model.parameters(), *predictor.model.buffers()]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
    return float(sum(one.nbytes() for one in storages.values())) / 2**20


def main() -> None:
    """Measure all, or be one of the servers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=["reference", "stub"], help="one server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    if options.serve == "reference":
        serve_reference(options.port)
    elif options.serve == "stub":
        serve_stub(options.port, options.database)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            overhead(options.rounds, folder)
            memory()
            throughput(descriptions(options.products), options.rounds, folder)


if __name__ == "__main__":
    main()
