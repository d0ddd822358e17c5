"""What the OpenAPI document says is what happens, for requests that it allows and others."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from .conftest import serving


@pytest.fixture(scope="module")
def documented(shop, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log.sqlite"
    with serving(shop, "--database", str(log)) as running:
        yield schemathesis.openapi.from_url(f"{running.url}/openapi.json")


ROUTES = ["POST /v1/estimates", "GET /v1/estimates/{estimate_id}", "POST /v1/outcomes"]
ROUTES += ["GET /healthz", "GET /readyz", "GET /metrics"]
CASES = [(route, GenerationMode.POSITIVE) for route in ROUTES]
CASES += [(route, GenerationMode.NEGATIVE) for route in ROUTES[:3]]  # the others take nothing


@pytest.mark.parametrize(("route", "mode"), CASES)
def test_every_response_is_as_declared_and_none_is_a_failure(documented, route, mode):
    method, _, path = route.partition(" ")

    @given(documented[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    def every(case):
        response = case.call(timeout=60)
        excluded = []
        if response.status_code == 422 and mode is GenerationMode.POSITIVE:
            # what no schema can say: such a variant, such an interval, text that shows something
            problem = response.json()
            assert (
                problem["code"] in ("unknown-variant", "unknown-interval")
                or "a description or a title is needed" in problem["detail"]
                or "an estimate is named twice" in problem["detail"]
            )
            excluded = [positive_data_acceptance]
        case.validate_response(response, excluded_checks=excluded)

    every()


def test_the_document_is_complete(documented):
    document = documented.raw_schema
    assert document["openapi"].startswith("3.1")
    paths = {path: set(methods) for path, methods in document["paths"].items()}
    assert paths == {
        "/v1/estimates": {"post"},
        "/v1/estimates/{estimate_id}": {"get"},
        "/v1/outcomes": {"post"},
        "/healthz": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route["summary"]
            for status, response in route["responses"].items():
                assert int(status) < 400 or "application/problem+json" in response["content"], path
    fields = document["components"]["schemas"]["EstimatesRequest"]["properties"]
    assert fields["products"]["examples"]
