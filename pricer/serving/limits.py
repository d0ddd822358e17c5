"""What a service takes on, at most: the options of `pricer serve`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    Attributes:
        batch_size: products a forward pass.
        max_wait_ms: how long a product waits for the next one, to be read with it.
        max_queue: products that wait at most; more are refused.
        max_products: of a request.
        max_body: bytes of a request.
        timeout_s: for a request to arrive, and for the model to answer it.
        min_price_mass: an estimate of less is replaced, see `pricer.serving.fallback`.
        shadow_share: of the time that shadow estimates may take, 0 to 1.
        grace_s: to answer what is in the queue after SIGTERM.
    """

    batch_size: int = 32
    max_wait_ms: float = 5
    max_queue: int = 256
    max_products: int = 64
    max_body: int = 2**20
    timeout_s: float = 30
    min_price_mass: float = 0.05
    shadow_share: float = 0.1
    grace_s: float = 20
