"""What goes in and out of the API, as its OpenAPI document says it."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pricer.products.items import clean_text
from pricer.serving.variants import NAME

KETTLE = "Electric kettle, stainless steel, 1.7 litres, 2200 W"
MOST = 1_000  # products or outcomes of a request, whatever a service allows
ID = "0b0f2b9c3c5d4f0f8f6f3a0c9e1d7a52"

Text = Annotated[str, Field(max_length=20_000)]
Line = Annotated[str, Field(max_length=1_000)]
EstimateId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", examples=[ID])]
VariantName = Annotated[str, Field(pattern=NAME)]


def _whole(value: object) -> object:
    """Return 80 for 80.0, which JSON Schema takes for an integer too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _few_enough(value: object) -> object:
    """Refuse a list that no limit would allow before each of its members is looked at."""
    if isinstance(value, list) and len(value) > MOST:
        raise PydanticCustomError("count", "at most {most} at once", {"most": MOST})
    return value


FewEnough = BeforeValidator(_few_enough)
Whole = Annotated[int, BeforeValidator(_whole)]


class Strict(BaseModel):
    """What a caller sends: no other fields, no numbers as text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: object) -> object:
        """Refuse what would make an error for each of very many fields."""
        if isinstance(value, dict) and len(value) > 20:
            raise PydanticCustomError("fields", "at most 20 fields")
        return value


class Product(Strict):
    """A product: a description, or its parts."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}
                for name in ("description", "title")
            ]
        }
    )

    description: Text | None = Field(None, examples=[KETTLE])
    title: Line | None = None
    category: Line | None = None
    key: Line | None = Field(
        None,
        description="Whose estimate it is, such as a listing's id: the same key gets the same "
        "variant. Only its hash is kept. The description's where none is given.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "Product":
        if not self.text:
            raise PydanticCustomError("empty", "a description or a title is needed")
        return self

    @property
    def text(self) -> str:
        """What is priced: the parts as lines, in the form that items have."""
        description = clean_text(self.description)
        title, category = clean_text(self.title), clean_text(self.category)
        if not (title or category):
            return description
        parts = {"Title": title, "Category": category, "Description": description}
        told = title or description
        return "\n".join(f"{name}: {part}" for name, part in parts.items() if part) if told else ""


class EstimatesRequest(Strict):
    """Products to price."""

    products: Annotated[list[Product], FewEnough, Field(min_length=1)] = Field(
        examples=[[{"description": KETTLE}]]
    )
    interval: Whole = Field(80, ge=1, le=99, description="Level of the interval, percent.")
    kind: Literal["median", "mean", "mode", "greedy"] | None = Field(
        None, description="Of estimate; that of the last run where none is given."
    )
    distribution: bool = Field(False, description="Every price's probability too.")
    variant: VariantName | None = Field(None, description="Which model answers.")


class PriceInterval(BaseModel):
    """Where the price lies."""

    level: int = Field(description="Percent of prices that lie inside.")
    low_usd: float
    high_usd: float
    calibrated: bool = Field(description="Whether that was measured, or is the model's own word.")


class SimilarProduct(BaseModel):
    """A training product that was used as evidence."""

    title: str
    price_usd: float
    similarity: float = Field(description="Cosine of weighted words, 0 to 1.")


class Estimate(BaseModel):
    """What a product is estimated to cost."""

    id: EstimateId
    estimate_usd: float = Field(examples=[38.0])
    kind: str = Field(description="Of estimate: median, mean, mode, greedy; words in a fallback.")
    interval: PriceInterval | None = Field(description="None where none could be calibrated.")
    price_mass: float | None = Field(
        description="Probability that the model says a price at all; None in a fallback."
    )
    truncated: bool = Field(description="Whether the description was cut to the model's length.")
    neighbors: list[SimilarProduct] | None = Field(
        description="The most similar training products, where they were used as evidence."
    )
    words_estimate_usd: float | None = Field(description="What words and neighbours suggest.")
    variant: str = Field(description="Which model answered.", examples=["tuned"])
    fallback: str | None = Field(
        description="Why the model did not answer, but the linear model of words: low-price-mass, "
        "no-price (it said $0), no-distribution, out-of-memory, model-error, timeout, "
        "fallback-only."
    )
    probabilities: list[float] | None = Field(
        None, description="Of each whole-dollar price from $0, where asked for."
    )


class EstimatesResponse(BaseModel):
    """An estimate for each product, in order."""

    estimates: list[Estimate]


class Outcome(Strict):
    """What a product really sold for."""

    estimate_id: EstimateId
    price_usd: float = Field(gt=0, le=1e9, examples=[41.5])


class OutcomesRequest(Strict):
    """Outcomes: all are recorded, or none."""

    outcomes: Annotated[list[Outcome], FewEnough, Field(min_length=1)]


class RecordedOutcome(BaseModel):
    """An outcome in the log."""

    price_usd: float
    recorded_at: datetime


class EstimateRecord(BaseModel):
    """An estimate as it is in the log, with what came of it."""

    id: EstimateId
    created_at: datetime
    description: str | None = Field(description="None where only hashes are kept.")
    estimate_usd: float
    kind: str
    interval: PriceInterval | None
    price_mass: float | None
    truncated: bool
    neighbors: list[SimilarProduct] | None
    words_estimate_usd: float | None
    variant: str
    fallback: str | None
    outcomes: list[RecordedOutcome] = Field(
        description="The newest 100, in the order they came; the last one counts."
    )


class OutcomesResponse(BaseModel):
    """The estimates that outcomes were recorded for, in order."""

    estimates: list[EstimateRecord]


class State(BaseModel):
    """How the service is."""

    status: str = Field(examples=["ok"])


class FieldError(BaseModel):
    """What is wrong with a field."""

    field: str = Field(examples=["/products/0/description"])
    message: str
    product: int | None = Field(None, description="Which product, counted from 0.")


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["urn:problem-type:pricer:queue-full"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable, one for each kind of error.")
    errors: list[FieldError] | None = None
