"""What `pricer predict` asks of the model, and the row it writes of each product."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pricer.commands.bulk import Estimate
from pricer.params import Point
from pricer.prices.record import ServingRecord
from pricer.products.readers import REPLACEMENT, Row
from pricer.provenance import PACKAGE, digest, file_sha256

if TYPE_CHECKING:
    from pricer.prices.predictor import PriceEstimate

# columns that there are where prompts tell evidence
EVIDENCE = ("neighbors", "words_estimate_usd")
# whose code a price comes from, whatever else the process has loaded
PRICING = ("products", "evidence", "model", "prices")


@dataclass(frozen=True)
class Question:
    """What is asked of every product's price.

    Attributes:
        interval: its level, percent.
        point: the estimate; None for that of the last run.
        distribution: the probability of every price too.
    """

    interval: int = 80
    point: Point | None = None
    distribution: bool = False


def load(question: Question, root: Path = Path()) -> tuple[Estimate, Row]:
    """Return what prices a chunk of products, and the options that shape what it says.

    Args:
        question: what is asked.
        root: the project whose last run answers.
    """
    # torch takes seconds to import: only a command that predicts waits for it
    from pricer.prices.predictor import Predictor

    predictor = Predictor.from_pipeline(root)
    without = () if predictor.settings.evidence else EVIDENCE

    def estimate(products: list[Row]) -> list[Row]:
        found = predictor.predict_each(
            products,
            point=question.point,
            level=question.interval,
            distribution=question.distribution,
        )
        rows = [_row(product, one, question) for product, one in zip(products, found, strict=True)]
        return [
            {column: value for column, value in row.items() if column not in without}
            for row in rows
        ]

    return estimate, options(question, predictor.settings, predictor.model.device.type)


def options(question: Question, settings: ServingRecord, device: str) -> Row:
    """Return all that shapes a row besides its product, as JSON values.

    Args:
        question: what is asked.
        settings: of the model; they have the hashes of base model and adapter, the calibration,
            the precision and all else.
        device: type of device, "cpu" or "cuda".
    """
    return {
        "interval": question.interval,
        "point": question.point or settings.point,
        "distribution": question.distribution,
        "model": settings.sha256(),
        "device": device,
        "code": digest(pricing_hashes()),
    }


def pricing_hashes() -> dict[str, str]:
    """Return the SHA-256 of each file of PRICING, by its path in the package."""
    files = (file for folder in PRICING for file in sorted((PACKAGE / folder).glob("*.py")))
    return {file.relative_to(PACKAGE).as_posix(): file_sha256(file) for file in files}


def _row(product: Row, found: "PriceEstimate | str", question: Question) -> Row:
    """Return what is written about a product: the same columns with an estimate or without."""
    from pricer.prices.predictor import PriceEstimate

    row = {"id": product["id"]} if "id" in product else {}
    row |= dict.fromkeys(field.name for field in fields(PriceEstimate))
    row |= {"interval": question.interval} | ({} if isinstance(found, str) else vars(found))
    if row["neighbors"] is not None:
        row["neighbors"] = [vars(one) for one in row["neighbors"]]
    probabilities = row.pop("probabilities")
    row["damaged_text"] = REPLACEMENT in (product["summary"] or "")
    row["error"] = found if isinstance(found, str) else None
    row["summary"] = product["summary"]
    if question.distribution:
        known = probabilities is not None
        row["probabilities"] = [float(f"{p:.4g}") for p in probabilities] if known else None
    return row
