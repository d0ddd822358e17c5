"""`pricer serve`: the HTTP service, its page and its log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from pricer.errors import PricerError
from pricer.workspace import Workspace, require

LOG = "data/estimates.sqlite"


@contextmanager
def serving_extra() -> Iterator[None]:
    """Tell in one line that the libraries of the service are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PricerError(
            f"the service needs an extra, {error.name} is missing: pip install 'pricer[serve]'"
        ) from None


def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free")] = 8000,
    database: Annotated[
        str,
        typer.Option(
            help="SQLite file, or postgresql://USER:PASSWORD@HOST/NAME", envvar="PRICER_DATABASE"
        ),
    ] = LOG,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file of keys, one a line, that callers need")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="listen beyond this machine without a key")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: another adapter on the same base model; may be repeated"),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="serving record that `pricer monitor --recalibrate` wrote"),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="NAME=SHARE of subjects that a variant answers")
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(help="NAME of a variant that is asked too, for the log alone")
    ] = None,
    shadow_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="of the time that the shadow may take")
    ] = 0.1,
    fallback_only: Annotated[
        bool, typer.Option("--fallback-only", help="no model: words and neighbours answer")
    ] = False,
    descriptions: Annotated[
        Literal["stored", "hashed"], typer.Option(help="what the log keeps of them")
    ] = "stored",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="products a forward pass; as the last run had it")
    ] = None,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="that a product waits for others to be read with")
    ] = 5,
    max_queue: Annotated[int, typer.Option(min=1, help="products that wait at most")] = 256,
    max_products: Annotated[int, typer.Option(min=1, max=1000, help="of a request")] = 64,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="for the model to answer")] = 30,
    min_price_mass: Annotated[
        float, typer.Option(min=0, max=1, help="below it, words and neighbours answer")
    ] = 0.05,
    grace_s: Annotated[float, typer.Option(min=1, help="to end in, after SIGTERM")] = 20,
) -> None:
    """Answer with prices over HTTP, and log every answer and what came of it."""
    with serving_extra():
        from pricer.serving import app, fallback, keys, server
        from pricer.serving.answers import Pricing
        from pricer.serving.limits import Limits
        from pricer.serving.log import Log
        from pricer.serving.meters import Monitored
        from pricer.serving.service import Service
        from pricer.serving.variants import (
            WORDS,
            Variant,
            Variants,
            check_variants,
            load_variants,
        )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folders, shares = check_variants(variant or [], split or [], shadow)
    if fallback_only and folders:
        raise PricerError("--fallback-only has no model, --variant names one: leave one out")
    if max_products > max_queue:
        raise PricerError(f"--max-queue {max_queue}: must hold --max-products, {max_products}")
    known = keys.read_keys(api_key_file) if api_key_file else None
    bound = server.bind(host, port)
    hosts = {"localhost", "127.0.0.1", "[::1]", host} if server.is_loopback(bound) else None
    if not (hosts or known or open_to_all):
        raise PricerError(
            f"--host {host}: others could reach it: give --api-key-file, or say --open-to-all"
        )
    root = Workspace()
    record = record or root.record
    require(root.evidence_models, *([] if fallback_only else [root.adapter, record]))
    most = max_products if fallback_only else _batch_size_of(record)
    if batch_size and batch_size > most:
        raise PricerError(f"--batch-size {batch_size}: the last run has predict.batch_size {most}")
    log = Log(database)
    words = fallback.load_fallback(root)
    if fallback_only:
        variants = Variants({WORDS: Variant(WORDS, None, None)})
    else:
        variants = load_variants(root.root, record, folders, shares, shadow)
    limits = Limits(
        batch_size=batch_size or most,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_products=max_products,
        timeout_s=timeout_s,
        min_price_mass=min_price_mass,
        shadow_share=shadow_share,
        grace_s=grace_s,
    )
    pricing = Pricing(words, min_price_mass, keep_descriptions=descriptions == "stored")
    service = Service(variants, pricing, log, limits)
    service.meters.registry.register(Monitored(root.monitor / "monitor.json"))
    made = app.make_app(service, keys=known, hosts=None if known else hosts)
    names, address = ", ".join(variants.by_name), f"http://{host}:{bound.getsockname()[1]}"
    print(f"pricer: {names} on {address}, log in {log.where}", file=sys.stderr, flush=True)
    server.run(made, bound, service)


def _batch_size_of(record: Path) -> int:
    from pricer.prices.record import read_record

    return read_record(record).batch_size
