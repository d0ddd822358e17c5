"""A service in this process, whose model does what a test says."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from pricer.prices.predictor import Asked, PriceEstimate
from pricer.serving.answers import Answer, Pricing
from pricer.serving.fallback import Fallback
from pricer.serving.limits import Limits
from pricer.serving.log import Log
from pricer.serving.queue import Question
from pricer.serving.service import Service
from pricer.serving.variants import Variant, Variants

PROBABILITIES = np.full(1000, 0.001)


def estimate(**changes: Any) -> PriceEstimate:
    told = {
        "estimate_usd": 42.0,
        "low_usd": 30.0,
        "high_usd": 60.0,
        "interval": 80,
        "calibrated": True,
        "expected_error_usd": 12.5,
        "price_mass": 0.99,
        "dropped_mass": 0.0,
        "truncated": False,
        "probabilities": PROBABILITIES,
    }
    return PriceEstimate(**(told | changes))


class StubPredictor:
    """Takes `seconds` a pass, and says of each text what `says` does."""

    def __init__(
        self,
        says: Callable[[str], PriceEstimate | None] = lambda _: estimate(),
        seconds: float = 0.0,
    ) -> None:
        self.settings = SimpleNamespace(point="median")
        self.says, self.seconds = says, seconds
        self.passes: list[list[str]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def check_asked(self, asked: Asked) -> None:
        pass

    def answer(self, texts: list[str], asked: Sequence[Asked]) -> list[PriceEstimate | None]:
        self.passes.append(texts)
        assert self.go_on.wait(60)
        time.sleep(self.seconds)
        return [self.says(text) for text in texts]


class StubModels:
    """Models of evidence that say $7 of everything."""

    def of_texts(self, texts: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame({"words_estimate_usd": np.full(len(texts), 7.0)})

    def neighbors(self, table: pd.DataFrame, count: int) -> list[tuple[()]]:
        return [()] * len(table)


@contextmanager
def service_of(
    log: Log,
    predictors: dict[str, StubPredictor],
    shadow: str | None = None,
    **limits: float,
) -> Iterator[Service]:
    variants = {name: Variant(name, one, "0" * 64) for name, one in predictors.items()}
    bounds = Limits(**({"max_wait_ms": 0, "timeout_s": 30} | limits))
    pricing = Pricing(
        Fallback(StubModels(), {80: 0.5}), bounds.min_price_mass, keep_descriptions=True
    )
    service = Service(Variants(variants, {}, shadow), pricing, log, bounds)
    reading = threading.Thread(target=service.read)
    reading.start()
    try:
        yield service
    finally:
        for one in predictors.values():
            one.go_on.set()
        assert service.close(60)
        reading.join()


def question(text: str = "A kettle") -> Question:
    return Question(text, "0" * 64, None, None, 80, distribution=False)


async def never() -> None:
    await asyncio.Event().wait()


async def ask(service: Service, *texts: str) -> list[Answer]:
    return await service.estimate([question(text) for text in texts], None, never)
