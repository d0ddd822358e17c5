"""LitServe with `pricer`'s predictor, for `bench.serve`; its processes import the API from here."""

import sys

import litserve

from pricer.prices.predictor import Predictor, PriceEstimate


class Api(litserve.LitAPI):  # type: ignore[misc]
    """A description to a price, batches as `pricer serve` has them."""

    def setup(self, device: str) -> None:
        """Load the predictor, in the process that will use it."""
        self.predictor = Predictor.from_pipeline()
        self.predictor.predict(["A kettle"])

    # annotations would be taken for schemas
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """Return the description."""
        return str(request["description"])

    def predict(self, inputs: list[str]) -> list[PriceEstimate]:
        """Price a batch."""
        return self.predictor.predict(inputs)

    def batch(self, inputs: list[str]) -> list[str]:
        """Leave them as they are."""
        return inputs

    def unbatch(self, output: list[PriceEstimate]) -> list[PriceEstimate]:
        """Leave them as they are."""
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """Return the price."""
        return {"estimate_usd": output.estimate_usd}


if __name__ == "__main__":
    host, port, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    api = Api(max_batch_size=batch_size, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", timeout=300)
    server.run(host=host, port=port, generate_client_file=False, log_level="warning")
