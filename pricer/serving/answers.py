"""Answers: what a model or its fallback says of a question, as callers and the log get it."""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from pricer.errors import MEMORY_FULL_WORDS
from pricer.serving.fallback import Fallback
from pricer.serving.log import QUANTILES
from pricer.serving.queue import Job, Question
from pricer.serving.variants import Variant

if TYPE_CHECKING:
    from pricer.prices.predictor import PriceEstimate

# why the model did not answer
LOW_MASS, NO_DISTRIBUTION, NO_PRICE = "low-price-mass", "no-distribution", "no-price"
OUT_OF_MEMORY, MODEL_ERROR = "out-of-memory", "model-error"
TIMEOUT, FALLBACK_ONLY = "timeout", "fallback-only"
WORDS_KIND = "words"  # of estimate, beside the distribution's

logger = logging.getLogger("pricer.serving")

Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What there is to say of a question.

    Attributes:
        row: as `pricer.serving.log.estimates` has it.
        probabilities: of each whole-dollar price, where the caller wants them.
    """

    row: Row
    probabilities: list[float] | None = None


@dataclass(frozen=True)
class Pricing:
    """How questions are answered; never raises for a product.

    Attributes:
        fallback: answers where the model cannot.
        min_price_mass: of an estimate that is given.
        keep_descriptions: whether the log has them, or their hashes alone.
    """

    fallback: Fallback
    min_price_mass: float
    keep_descriptions: bool

    def answer(self, jobs: Sequence[Job]) -> list[Answer]:
        """Return an answer to each question of jobs for one variant."""
        predictor = jobs[0].variant.predictor
        if predictor is None:
            return [self.fall_back(job, FALLBACK_ONLY) for job in jobs]
        try:
            found = predictor.answer(*_asked(jobs))
        except Exception as error:  # whatever a library raises: the caller gets an answer
            failure = error
        else:
            return [self._checked(job, one) for job, one in zip(jobs, found, strict=True)]
        if len(jobs) > 1:
            # one product may have spoilt the batch, or memory was too short for all of them
            return [answer for job in jobs for answer in self.answer([job])]
        logger.error("no estimate by the model", exc_info=failure)
        return [self.fall_back(jobs[0], _reason(failure))]

    def _checked(self, job: Job, estimate: "PriceEstimate | None") -> Answer:
        if estimate is None:
            return self.fall_back(job, NO_DISTRIBUTION)
        if estimate.price_mass < self.min_price_mass:
            return self.fall_back(job, LOW_MASS)
        if estimate.estimate_usd <= 0:
            return self.fall_back(job, NO_PRICE)
        assert estimate.probabilities is not None and job.variant.predictor is not None
        neighbors = estimate.neighbors
        row = self._row(job) | {
            "kind": job.question.kind or job.variant.predictor.settings.point,
            "estimate_usd": estimate.estimate_usd,
            "low_usd": estimate.low_usd,
            "high_usd": estimate.high_usd,
            "calibrated": estimate.calibrated,
            "expected_error_usd": estimate.expected_error_usd,
            "quantiles_usd": _quantiles(estimate.probabilities),
            "price_mass": estimate.price_mass,
            "truncated": estimate.truncated,
            "neighbors": None if neighbors is None else [vars(one) for one in neighbors],
            "words_estimate_usd": estimate.words_estimate_usd,
        }
        if not job.question.distribution:
            return Answer(row)
        return Answer(row, [float(f"{p:.4g}") for p in estimate.probabilities])

    def fall_back(self, job: Job, reason: str) -> Answer:
        """Return what words and neighbours say, and why the model does not."""
        question = job.question
        [words] = self.fallback.estimate([question.text], [question.level])
        return Answer(
            self._row(job)
            | {
                "kind": WORDS_KIND,
                "estimate_usd": words.estimate_usd,
                "low_usd": words.low_usd,
                "high_usd": words.high_usd,
                "calibrated": words.low_usd is not None,
                "neighbors": [vars(one) for one in words.neighbors],
                "words_estimate_usd": words.estimate_usd,
                "fallback": reason,
            }
        )

    def _row(self, job: Job) -> Row:
        """Return what is known of an answer before there is one."""
        question = job.question
        return {
            "id": uuid.uuid4().hex,
            "created_at": datetime.now(UTC),
            "variant": job.variant.name,
            "model_sha256": job.variant.model_sha256,
            "assignment": job.assignment,
            "shadow_of": job.shadow_of,
            "subject_sha256": question.subject_sha256,
            "description": question.text if self.keep_descriptions else None,
            "description_sha256": text_sha256(question.text),
            "category": question.category if self.keep_descriptions else None,
            "level": question.level,
            "price_mass": None,
            "truncated": False,
            "expected_error_usd": None,
            "quantiles_usd": None,
            "fallback": None,
        }


def check_variant(variant: Variant, kind: str | None, level: int) -> None:
    """Raise PricerError if a variant cannot give such an estimate, or such an interval."""
    if variant.predictor is not None:
        from pricer.prices.predictor import Asked

        variant.predictor.check_asked(Asked(kind, level))


def text_sha256(text: str) -> str:
    """Return the hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(jobs: Sequence[Job]) -> tuple[list[str], list[Any]]:
    from pricer.prices.predictor import Asked

    def asked(question: Question) -> Asked:
        return Asked(question.kind, question.level, distribution=True)

    return [job.question.text for job in jobs], [asked(job.question) for job in jobs]


def _quantiles(probabilities: "np.ndarray[Any, Any]") -> list[int]:
    """Return the quantiles of a distribution that the log keeps, USD."""
    reached = probabilities.cumsum().searchsorted(np.array(QUANTILES) / 100 - 1e-12)
    quantiles: list[int] = reached.clip(max=len(probabilities) - 1).tolist()
    return quantiles


def _reason(error: Exception) -> str:
    short = isinstance(error, MemoryError) or any(w in str(error) for w in MEMORY_FULL_WORDS)
    return OUT_OF_MEMORY if short else MODEL_ERROR
