"""Each route and each error, over a real socket."""

import asyncio
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pandas as pd
import pytest

from pricer.serving.app import make_app
from pricer.serving.log import Log
from tests.serving.stubs import StubPredictor, service_of

from .conftest import KETTLE, Running, serving

UNKNOWN = "0" * 32


def test_an_estimate_has_all_that_a_caller_needs(service: Running):
    [found] = service.estimate(KETTLE)
    assert re.fullmatch("[0-9a-f]{32}", found["id"])
    interval = found["interval"]
    assert interval["level"] == 80 and interval["low_usd"] <= interval["high_usd"]
    assert interval["calibrated"] is True
    assert found["kind"] == "mean" and found["variant"] == "tuned"
    assert found["fallback"] is None and 0 < found["price_mass"] <= 1
    assert found["truncated"] is False and "probabilities" not in found
    assert found["neighbors"] == [] and found["words_estimate_usd"] > 0  # no product is like it


def test_what_was_used_as_evidence_is_told(service: Running, shop):
    item = pd.read_parquet(shop.folder / "data/items/train.parquet").iloc[3]
    [found] = service.estimate(item["summary"])
    nearest = found["neighbors"][0]
    assert nearest == {"title": item["title"], "price_usd": item["price"], "similarity": 1.0}
    assert len(found["neighbors"]) <= 3


def test_it_is_what_the_predictor_says(service: Running, shop):
    code = (
        "import json; from pricer import Predictor;"
        f"[one] = Predictor.from_pipeline().predict([{KETTLE!r}], point='mean', level=60);"
        "print(json.dumps([one.estimate_usd, one.low_usd, one.high_usd]))"
    )
    expected = json.loads(shop.run("python", "-c", code).stdout)
    [found] = service.estimate(KETTLE, kind="mean", interval=60)
    interval = found["interval"]
    assert [found["estimate_usd"], interval["low_usd"], interval["high_usd"]] == pytest.approx(
        expected, abs=0.01
    )


def test_the_distribution_is_given_where_it_is_asked_for(service: Running):
    [found] = service.estimate(KETTLE, distribution=True)
    assert len(found["probabilities"]) == 1000
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-3)


def test_parts_of_a_product_are_read_as_items_are(service: Running):
    product = {"title": "Kettle", "category": "Kitchen", "description": "1.7 litres"}
    text = "Title: Kettle\nCategory: Kitchen\nDescription: 1.7 litres"
    with service.client() as client:
        [found] = client.post("/v1/estimates", json={"products": [product]}).json()["estimates"]
        assert client.get(f"/v1/estimates/{found['id']}").json()["description"] == text
    [whole] = service.estimate(text)
    assert whole["estimate_usd"] == found["estimate_usd"]


def test_outcomes_are_kept_and_so_are_their_corrections(service: Running):
    [found] = service.estimate(KETTLE)
    with service.client() as client:
        for price in (40, 41.5):
            outcome = {"estimate_id": found["id"], "price_usd": price}
            told = client.post("/v1/outcomes", json={"outcomes": [outcome]})
            assert told.status_code == 201
        kept = client.get(f"/v1/estimates/{found['id']}").json()
    assert told.json()["estimates"] == [kept]
    assert [one["price_usd"] for one in kept["outcomes"]] == [40, 41.5]
    assert {name: kept[name] for name in ("estimate_usd", "interval", "variant")} == {
        name: found[name] for name in ("estimate_usd", "interval", "variant")
    }
    assert kept["description"] == KETTLE and kept["created_at"].endswith("Z")


def test_of_outcomes_with_one_unknown_estimate_none_is_kept(service: Running):
    [found] = service.estimate(KETTLE)
    outcomes = [{"estimate_id": one, "price_usd": 5} for one in (found["id"], UNKNOWN)]
    with service.client() as client:
        told = client.post("/v1/outcomes", json={"outcomes": outcomes})
        assert told.status_code == 404 and told.json()["code"] == "unknown-estimate"
        assert client.get(f"/v1/estimates/{found['id']}").json()["outcomes"] == []


def test_it_says_how_it_is_and_counts(service: Running):
    before = service.meter("pricer_estimates_total")
    service.estimate(KETTLE, "A lamp")
    with service.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
    assert service.meter("pricer_estimates_total") == before + 2
    for name in ("requests_total", "request_seconds_count", "batch_size_sum", "price_mass_count"):
        assert service.meter(f"pricer_{name}") > 0
    assert service.meter("pricer_queue_length") == 0


ESTIMATES, OUTCOMES = "/v1/estimates", "/v1/outcomes"


@pytest.mark.parametrize(
    ("path", "body", "field", "product"),
    [
        (ESTIMATES, {"products": [{"description": KETTLE}, {"description": " \u200b"}]},
         "/products/1", 1),
        (ESTIMATES, {"products": [{"description": 5}]}, "/products/0/description", 0),
        (ESTIMATES, {"products": [{"description": "a" * 20_001}]}, "/products/0/description", 0),
        (ESTIMATES, {"products": [{"category": "Kitchen"}]}, "/products/0", 0),
        (ESTIMATES, {"products": []}, "/products", None),
        (ESTIMATES, {"products": [{"title": "a"}] * 65}, "/products", None),
        (ESTIMATES, {}, "/products", None),
        (ESTIMATES, [], "", None),
        (ESTIMATES, {"products": [{"title": "a"}], "interval": 0}, "/interval", None),
        (ESTIMATES, {"products": [{"title": "a"}], "interval": True}, "/interval", None),
        (ESTIMATES, {"products": [{"title": "a"}], "kind": "best"}, "/kind", None),
        (ESTIMATES, {"products": [{"title": "a"}], "extra": 1}, "/extra", None),
        (OUTCOMES, {"outcomes": [{"estimate_id": UNKNOWN, "price_usd": 0}]},
         "/outcomes/0/price_usd", None),
        (OUTCOMES, {"outcomes": [{"estimate_id": "../x", "price_usd": 1}]},
         "/outcomes/0/estimate_id", None),
        (OUTCOMES, {"outcomes": []}, "/outcomes", None),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(service: Running, path, body, field, product):
    with service.client() as client:
        told = client.post(path, json=body)
    problem = told.json()
    assert told.status_code == 422 and problem["code"] == "invalid-request"
    assert problem["errors"][0]["field"] == field
    assert problem["errors"][0].get("product") == product
    assert "\n" not in problem["detail"] and field in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status", "code"),
    [
        ("POST", ESTIMATES, b"{", "application/json", 422, "invalid-json"),
        ("POST", ESTIMATES, b"\xff\xfe", "application/json", 422, "invalid-json"),
        ("POST", ESTIMATES, b"[" * 100_000, "application/json", 400, "bad-request"),
        ("POST", OUTCOMES, b'{"outcomes": [{"estimate_id": "%032d", "price_usd": NaN}]}' % 0,
         "application/json", 422, "invalid-request"),
        ("POST", ESTIMATES, b'{"products": [{"title": "\\ud800"}]}', "application/json", 422,
         "invalid-request"),
        ("POST", ESTIMATES, b"{}", "text/plain", 415, "unsupported-media-type"),
        ("POST", ESTIMATES, b"a" * (2**20 + 1), "application/json", 413, "too-large"),
        ("GET", ESTIMATES, b"", None, 405, "method-not-allowed"),
        ("GET", "/v2", b"", None, 404, "not-found"),
        ("GET", f"{ESTIMATES}/{UNKNOWN}", b"", None, 404, "unknown-estimate"),
        ("GET", f"{ESTIMATES}/%00", b"", None, 422, "invalid-request"),
    ],
)  # fmt: skip
def test_each_error_has_its_code(service: Running, method, path, content, kind, status, code):
    headers = {"Content-Type": kind} if kind else {}
    with service.client() as client:
        told = client.request(method, path, content=content, headers=headers)
    assert (told.status_code, told.json()["code"]) == (status, code)
    assert told.headers["Content-Type"] == "application/problem+json"
    assert told.json()["status"] == status and told.json()["type"].endswith(code)


def test_what_a_model_cannot_give_is_refused_before_it_is_asked(service: Running):
    for asked, code in (
        ({"variant": "b"}, "unknown-variant"),
        ({"interval": 99}, "unknown-interval"),
    ):
        body = {"products": [{"description": KETTLE}]} | asked
        with service.client() as client:
            told = client.post(ESTIMATES, json=body)
        assert (told.status_code, told.json()["code"]) == (422, code)


def test_many_at_once_get_what_each_gets_alone(service: Running):
    descriptions = [f"{KETTLE}, {number} pieces, colour {number % 7}" for number in range(64)]
    alone = [service.estimate(one)[0] for one in descriptions]
    before = service.meter("pricer_batch_size_count")
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda one: service.estimate(one)[0], descriptions))
    for one, other in zip(alone, together, strict=True):
        assert one["price_mass"] == pytest.approx(other["price_mass"], abs=1e-3)
        assert one["estimate_usd"] == pytest.approx(other["estimate_usd"], abs=1)
        assert one["neighbors"] == other["neighbors"]
    assert service.meter("pricer_batch_size_count") - before < 40  # read together


def test_a_request_for_another_host_is_refused(service: Running):
    """As a page elsewhere sends it, whose name leads to this machine (DNS rebinding)."""
    with service.client() as client:
        told = client.get("/healthz", headers={"Host": "evil.example:80"})
        assert (told.status_code, told.json()["code"]) == (421, "misdirected")
        assert client.get("/healthz", headers={"Host": "localhost"}).status_code == 200


def test_what_fails_is_told_as_a_problem_and_no_more(tmp_path, monkeypatch):
    log = Log(str(tmp_path / "log.sqlite"))

    def fail(_):
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(log, "read", fail)

    async def get(service):
        transport = httpx2.ASGITransport(make_app(service), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(f"{ESTIMATES}/{UNKNOWN}")

    with service_of(log, {"tuned": StubPredictor()}) as service:
        told = asyncio.run(get(service))
    assert (told.status_code, told.json()["code"]) == (500, "internal")
    assert "secret" not in told.text


def test_a_request_of_very_many_wrong_things_is_refused_at_once(service: Running):
    bodies = [{"products": [1] * 300_000}, {str(n): n for n in range(50_000)}]
    bodies.append({"products": [{str(n): n for n in range(50_000)}]})
    with service.client() as client:
        for body in bodies:
            begin = time.monotonic()
            told = client.post(ESTIMATES, json=body)
            assert told.status_code == 422 and len(told.content) < 10_000
            assert time.monotonic() - begin < 2


def test_of_very_many_corrections_the_newest_are_shown(service: Running):
    [found] = service.estimate(KETTLE)
    outcomes = [{"estimate_id": found["id"], "price_usd": 1 + n} for n in range(110)]
    with service.client() as client:
        for one in outcomes:
            assert client.post(OUTCOMES, json={"outcomes": [one]}).status_code == 201
        shown = client.get(f"{ESTIMATES}/{found['id']}").json()["outcomes"]
        assert client.post(OUTCOMES, json={"outcomes": outcomes[:2]}).status_code == 422
    assert [one["price_usd"] for one in shown] == list(range(11, 111))


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(service: Running, shop, tmp_path):
    port = str(service.address[1])
    options = ("--port", port, "--database", str(tmp_path / "log.sqlite"))
    done = shop.run("pricer", "serve", *options, ok=False)
    assert "Address already in use" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "log.sqlite").exists()


def test_a_service_without_its_model_answers_with_words(shop, tmp_path):
    log = str(tmp_path / "log.sqlite")
    with serving(shop, "--database", log, "--fallback-only") as running:
        [found] = running.estimate(KETTLE)
        assert found["fallback"] == "fallback-only" and found["kind"] == "words"
        assert found["price_mass"] is None and found["variant"] == "words"
        assert found["estimate_usd"] == found["words_estimate_usd"] > 0
        assert found["interval"]["calibrated"]
        [high] = running.estimate(KETTLE, interval=99)
        assert high["interval"] is None  # of so few validation products
        assert running.meter("pricer_fallbacks_total") == 2


def test_below_a_price_mass_words_answer(shop, tmp_path):
    log = str(tmp_path / "log.sqlite")
    with serving(shop, "--database", log, "--min-price-mass", "1") as running:
        for found in running.estimate(KETTLE, "A lamp", distribution=True):
            assert found["fallback"] == "low-price-mass" and "probabilities" not in found
        assert running.meter("pricer_fallbacks_total") == 2
