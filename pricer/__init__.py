"""Teach a language model what things cost.

The names of `__all__` are what others build on; torch is imported when one of them is asked for.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pricer.errors import PricerError
    from pricer.evidence.models import Neighbor
    from pricer.prices.distribution import crps
    from pricer.prices.predictor import Predictor, PriceEstimate
    from pricer.prices.record import ServingRecord
    from pricer.products.prompts import build_prompt

__all__ = [
    "Neighbor",
    "PriceEstimate",
    "Predictor",
    "PricerError",
    "ServingRecord",
    "build_prompt",
    "crps",
]

_HOMES = {
    "Neighbor": "pricer.evidence.models",
    "PriceEstimate": "pricer.prices.predictor",
    "Predictor": "pricer.prices.predictor",
    "PricerError": "pricer.errors",
    "ServingRecord": "pricer.prices.record",
    "build_prompt": "pricer.products.prompts",
    "crps": "pricer.prices.distribution",
}

# bitsandbytes says as it is imported, by whichever module, that a faster path for packed 4-bit
# weights is missing; they are never packed here (pricer.model.base)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
