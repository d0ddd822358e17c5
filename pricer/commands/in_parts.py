"""`pricer predict` of more products than one process takes on: a shard here, or all on Ray."""

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pricer.commands.on_ray import Cluster
from pricer.commands.partial import CHUNK
from pricer.commands.parts import (
    Job,
    check_folders,
    check_writable,
    clear_leftovers,
    follow,
    remaining,
    try_part,
)
from pricer.commands.pricing import Question, load, options
from pricer.errors import ItemsError, quoted
from pricer.prices.record import read_record
from pricer.products.parts import Ids, Plan, plan
from pricer.products.readers import Row
from pricer.workspace import Workspace, require


@dataclass(frozen=True)
class Bulk:
    """Products, and where and how their parts are written.

    Attributes:
        products: path or URL of a file or folder.
        out: path or URL of a folder.
        question: what is asked of each product.
        part_rows: products of a part at most.
        threads: CPU threads of an actor or a shard; None for one, or all.
        resume: go on with the parts that are missing.
    """

    products: str
    out: str
    question: Question
    part_rows: int
    threads: int | None
    resume: bool

    def planned(self) -> Plan:
        """Return all parts.

        Raises:
            ItemsError: products or output cannot be used.
        """
        if self.part_rows % CHUNK:
            raise ItemsError(
                f"--part-rows must be a multiple of {CHUNK}, the products that are priced at "
                f"once, got {self.part_rows}"
            )
        if not self.products or not self.out or "-" in (self.products, self.out):
            raise ItemsError("--ray and --shard need a --file and an --output that others can read")
        check_folders(self.products, self.out)
        print("looking for the parts of the products", file=sys.stderr, flush=True)
        return plan(self.products, self.part_rows)

    def options(self, device: str) -> Row:
        """Return what shapes parts besides products, as far as known without the model."""
        left = Workspace()
        require(left.base_model, left.adapter, left.record)
        shaping = options(self.question, read_record(left.record), device)
        return shaping | {"part_rows": self.part_rows}

    def job(self, ids: Ids, options: Row) -> Job:
        """Return what all parts have in common, the same from every folder that a process is in."""
        products, out = absolute(self.products), absolute(self.out)
        return Job(Path.cwd(), self.question, options, products, ids, out)


def absolute(where: str) -> str:
    """Return a path that is the same from every folder; a URL as it is."""
    return where if "://" in where else os.path.abspath(where)


def shard_numbers(text: str) -> tuple[int, int]:
    """Return I and N of `I/N`, with I from 1 to N.

    Raises:
        ItemsError: it is not of that form.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    number, shards = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= shards:
        raise ItemsError(f"--shard is I/N with I from 1 to N, as 3/16, got {quoted(text)}")
    return number, shards


def price_shard(bulk: Bulk, shard: str) -> Counter[str]:
    """Price every N-th part in this process; return how many were `priced`, and `failed`."""
    number, shards = shard_numbers(shard)
    whole = bulk.planned()
    own = whole.parts[number - 1 :: shards]
    import torch

    from pricer.model.base import choose_device

    if bulk.threads is not None:
        torch.set_num_threads(bulk.threads)
    asked = bulk.options(choose_device("auto").type)
    todo, counts = remaining(whole, own, bulk.out, asked, resume=bulk.resume)
    if todo:
        check_writable(todo, bulk.out)
        clear_leftovers(todo, bulk.out)
        estimate, _ = load(bulk.question)
        job = bulk.job(whole.ids, asked)
        outcomes = (try_part(part, job, estimate) for part in todo)
        follow(outcomes, total=sum(part.rows for part in own), counts=counts)
    return counts


def price_on_ray(bulk: Bulk, address: str) -> Counter[str]:
    """Price all parts on the cluster at an address; return how many were `priced`, and `failed`."""
    whole = bulk.planned()
    with Cluster(address) as cluster:
        asked = bulk.options(cluster.device)
        todo, counts = remaining(whole, whole.parts, bulk.out, asked, resume=bulk.resume)
        if todo:
            check_writable(todo, bulk.out)
            clear_leftovers(todo, bulk.out)
            outcomes = cluster.price(todo, bulk.job(whole.ids, asked), bulk.threads or 1)
            follow(outcomes, total=sum(part.rows for part in whole.parts), counts=counts)
    return counts
