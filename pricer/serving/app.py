"""The routes of the service, and their OpenAPI document."""

import asyncio
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pricer.errors import one_line
from pricer.products.items import clean_text
from pricer.serving import schemas
from pricer.serving.answers import Answer, text_sha256
from pricer.serving.gate import FAILED, Gate
from pricer.serving.keys import Keys
from pricer.serving.log import LogError, Row
from pricer.serving.problems import MEDIA_TYPE, PROBLEMS, Problem
from pricer.serving.queue import Question
from pricer.serving.service import Service, log_unavailable

PAGE = Path(__file__).parent / "page"
ABOUT = """What a product costs, from its description: an estimate in dollars, with an interval.

Errors are RFC 9457 problem details with a stable `code`."""


def make_app(
    service: Service, *, keys: Keys | None = None, hosts: Collection[str] | None = None
) -> ASGIApp:
    """Return the service as an ASGI app; see `Gate` for `keys` and `hosts`."""
    app = FastAPI(
        title="pricer",
        version=version("pricer"),
        description=ABOUT,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    _add_routes(app, secured=keys is not None)
    _add_page(app)
    _complete_document(app, secured=keys is not None)
    app.add_exception_handler(HTTPException, _tell_status)
    app.add_exception_handler(RequestValidationError, _tell_fields)
    app.add_exception_handler(Problem, _tell)
    app.add_exception_handler(LogError, _tell_log)
    app.add_exception_handler(Exception, _tell_failure)
    return Gate(app, limits=service.limits, meters=service.meters, keys=keys, hosts=hosts)


def _add_routes(app: FastAPI, *, secured: bool) -> None:
    service: Service = app.state.service

    def described(*codes: str) -> dict[str, Any]:
        extra: dict[str, Any] = {"openapi_extra": {"security": [{"key": []}]}} if secured else {}
        return {"responses": _responses(*codes, *(["unauthorized"] if secured else []))} | extra

    refused = ("bad-request", "too-large", "unsupported-media-type", "invalid-request")
    lost = ("log-unavailable",)

    @app.post(
        "/v1/estimates",
        summary="Price products",
        response_model=schemas.EstimatesResponse,
        **described(*refused, *lost, "timeout"),
    )
    async def estimate(asked: schemas.EstimatesRequest, request: Request) -> Response:
        _check_count("/products", asked.products, service)
        questions = [_question(product, asked) for product in asked.products]
        answers = await service.estimate(questions, asked.variant, lambda: _gone(request))
        return JSONResponse({"estimates": [_estimate(answer) for answer in answers]})

    @app.get(
        "/v1/estimates/{estimate_id}",
        summary="An estimate as it is in the log, with what came of it",
        response_model=schemas.EstimateRecord,
        **described("unknown-estimate", "invalid-request", *lost),
    )
    async def read_estimate(estimate_id: schemas.EstimateId) -> schemas.EstimateRecord:
        return _record(await asyncio.to_thread(service.log.read, estimate_id))

    @app.post(
        "/v1/outcomes",
        summary="Say what products really sold for",
        status_code=201,
        response_model=schemas.OutcomesResponse,
        **described(*refused, "unknown-estimate", *lost),
    )
    async def record(asked: schemas.OutcomesRequest) -> schemas.OutcomesResponse:
        _check_count("/outcomes", asked.outcomes, service)
        prices = [(one.estimate_id, one.price_usd) for one in asked.outcomes]
        if len(dict(prices)) < len(prices):
            errors = [{"field": "/outcomes", "message": "an estimate is named twice"}]
            raise Problem("invalid-request", _summary(errors), errors=errors)
        rows = await asyncio.to_thread(service.log.add_outcomes, prices)
        for row, (_, price) in zip(rows, prices, strict=True):
            error = abs(row["estimate_usd"] - price)
            service.meters.outcome_errors.labels(row["variant"]).observe(error)
        return schemas.OutcomesResponse(estimates=[_record(row) for row in rows])

    @app.get("/healthz", summary="Whether the process lives", response_model=schemas.State)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        summary="Whether it can answer: weights loaded, one estimate made, database there",
        response_model=schemas.State,
        responses=_responses("not-ready"),
    )
    async def readyz() -> dict[str, str]:
        await service.check()
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        **(described() | {"responses": described()["responses"] | _PLAIN}),
    )
    async def metrics() -> Response:
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4")


_PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Text format 0.0.4", "content": {"text/plain": {"schema": {}}}}
}


def _add_page(app: FastAPI) -> None:
    for path, name in (("/", "index.html"), ("/style.css",) * 2, ("/script.js",) * 2):
        file = PAGE / name.lstrip("/")

        async def page(file: Path = file) -> FileResponse:
            return FileResponse(file)

        app.add_api_route(path, page, include_in_schema=False, response_model=None)


def _complete_document(app: FastAPI, *, secured: bool) -> None:
    """Put into the OpenAPI document what problems look like, and that a key is needed."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        components = document.setdefault("components", {})
        told = schemas.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"] |= told.pop("$defs") | {"ProblemDetails": told}
        if secured:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of errors."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, title = PROBLEMS[code]
        retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
        by_status[status] = {"description": title, "content": content}
        if status == 503:
            by_status[status] |= {"headers": retry}
    return by_status


def _check_count(field: str, given: Sequence[object], service: Service) -> None:
    most = service.limits.max_products
    if len(given) > most:
        errors = [{"field": field, "message": f"at most {most} at once, got {len(given)}"}]
        raise Problem("invalid-request", _summary(errors), errors=errors)


def _question(product: schemas.Product, asked: schemas.EstimatesRequest) -> Question:
    text = product.text
    return Question(
        text=text,
        subject_sha256=text_sha256(text if product.key is None else f"key:{product.key}"),
        category=clean_text(product.category) or None,
        kind=asked.kind,
        level=asked.interval,
        distribution=asked.distribution,
    )


def _estimate(answer: Answer) -> dict[str, Any]:
    told = _told(answer.row)
    return told if answer.probabilities is None else told | {"probabilities": answer.probabilities}


def _told(row: Row) -> dict[str, Any]:
    """Return what a caller gets of a row of the log."""
    names = ["id", "estimate_usd", "kind", "price_mass", "truncated", "neighbors"]
    names += ["words_estimate_usd", "variant", "fallback"]
    interval = None
    if row["low_usd"] is not None:
        interval = {name: row[name] for name in ("level", "low_usd", "high_usd", "calibrated")}
    return {name: row[name] for name in names} | {"interval": interval}


def _record(row: Row) -> schemas.EstimateRecord:
    beside = {name: row[name] for name in ("created_at", "description", "outcomes")}
    return schemas.EstimateRecord.model_validate(_told(row) | beside)


async def _gone(request: Request) -> None:
    """Wait until the caller has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return JSONResponse(error.body(), error.status, error.headers, media_type=MEDIA_TYPE)


async def _tell_log(request: Request, error: Exception) -> Response:
    return await _tell(request, log_unavailable(error))


async def _tell_failure(request: Request, error: Exception) -> Response:
    return await _tell(request, Problem("internal", FAILED))


async def _tell_status(request: Request, error: Exception) -> Response:
    """Tell what the framework refuses: no such route or method, a body it cannot read."""
    assert isinstance(error, HTTPException)
    codes = {404: "not-found", 405: "method-not-allowed"}
    code = codes.get(error.status_code, "bad-request")
    detail = f"{request.method} {one_line(request.url.path)}: {error.detail}"
    return await _tell(request, Problem(code, detail, headers=error.headers))


async def _tell_fields(request: Request, error: Exception) -> Response:
    """Tell which fields are wrong; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return await _tell(request, Problem("invalid-json", "the body is not JSON"))
    errors = [_field_error(one["loc"], one["msg"]) for one in error.errors()[:20]]
    return await _tell(request, Problem("invalid-request", _summary(errors), errors=errors))


def _field_error(location: Sequence[int | str], message: str) -> dict[str, Any]:
    _, *place = location  # "body", "path"
    escaped = [one_line(str(part)).replace("~", "~0").replace("/", "~1")[:100] for part in place]
    told = {"field": "".join(f"/{part}" for part in escaped), "message": one_line(message)}
    of_product = len(place) > 1 and place[0] == "products" and isinstance(place[1], int)
    return told | ({"product": place[1]} if of_product else {})


def _summary(errors: Sequence[dict[str, Any]]) -> str:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{first['field'] or 'the body'}: {first['message']}{more}"
