"""Parts of many products on the machines of a Ray cluster, by actors that hold the model."""

import logging
import os
import re
import secrets
import socket
import traceback
import warnings
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pricer.commands.bulk import Estimate
from pricer.commands.parts import Job, Outcome, try_part
from pricer.commands.pricing import load
from pricer.errors import PricerError, explain, first_line, quoted
from pricer.products.parts import Part

HERE = "auto"
# of a part whose process or machine was lost: one that kills every process is not tried for ever
RETRIES = 10
MISSING = "--ray needs Ray: pip install 'pricer[ray]'"


class Actor:
    """One process with the model: prices the parts that it is given, one after the other."""

    def __init__(self, job: Job, threads: int) -> None:
        """Load the model; an error is told with the first part, as Ray would try for ever."""
        self.job = job
        self.error: str | None = None
        try:
            self.estimate = self._load(threads)
        except Exception as error:
            self.error = _explained(error)

    def _load(self, threads: int) -> Estimate:
        import torch

        os.environ["HF_HUB_OFFLINE"] = "1"
        torch.set_num_threads(threads)
        estimate, own = load(self.job.question, self.job.root)
        if changed := [key for key in own if self.job.options[key] != own[key]]:
            raise PricerError(
                f"{self.job.root} is not as where the command was given ({', '.join(changed)}): "
                "bring the same commit and `dvc pull` to every machine"
            )
        return estimate

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Price a part, whose fields are a row; return a row with those of its `Outcome`."""
        return asdict(self._outcome(Part(**row)))

    def _outcome(self, part: Part) -> Outcome:
        if self.error is not None:
            return Outcome(part.name, error=self.error, ends=True)
        try:
            outcome = try_part(part, self.job, self.estimate)
        except Exception as error:
            return Outcome(part.name, error=_explained(error), ends=True)
        return replace(outcome, error=_here(outcome.error)) if outcome.ends else outcome


def _explained(error: Exception) -> str:
    line = explain(error)
    if line is None:  # a bug: what it says here is in Ray's log of this process
        traceback.print_exception(error)
        line = f"{type(error).__name__}: {first_line(error)}"
    return _here(line)


def _here(line: str | None) -> str:
    return f"{socket.gethostname()}: {line}"


def _set_up(*, here: bool) -> None:
    """Set what Ray reads from the environment, where the user has not."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what ends a run, Python tells too
    if here:  # others in the network could run code in it
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # `ray start` asks for one by itself, but a program does not look for it
    if here or "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray/auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_answers(address: str) -> None:
    """Raise PricerError if nobody listens there; Ray would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?([^/\s]+):(\d{1,5})", address)
    if not match:
        raise PricerError(f"--ray is {HERE} or an address as 10.0.0.1:6379, got {quoted(address)}")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise PricerError(
            f"--ray {address}: {first_line(error)}: `ray start --head` starts a cluster"
        ) from None


class Cluster:
    """A connection to Ray for as long as a `with` block."""

    def __init__(self, address: str) -> None:
        """Take the address of a cluster, HERE for one that is started here and ends with it."""
        self.address = address

    def __enter__(self) -> "Cluster":
        """Connect.

        Raises:
            PricerError: Ray is not installed, or does not answer.
        """
        if self.address != HERE:
            _check_answers(self.address)
        _set_up(here=self.address == HERE)
        try:
            import ray
        except ImportError:
            raise PricerError(MISSING) from None
        try:
            ray.init(
                address="local" if self.address == HERE else self.address,
                log_to_driver=bool(os.environ.get("PRICER_DEBUG")),
                logging_level=logging.ERROR,
                include_dashboard=False if self.address == HERE else None,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PricerError(
                f"--ray {self.address}: {first_line(error)}: is `ray start` running there, with "
                "the same Ray, Python and token (RAY_AUTH_TOKEN) as here?"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        import ray

        ray.shutdown()

    @property
    def device(self) -> str:
        """The type of device that actors compute on: GPUs where there is one."""
        import ray

        return "cuda" if ray.cluster_resources().get("GPU") else "cpu"

    def actors(self, threads: int) -> int:
        """Return how many fit: one a GPU, or one for so many cores."""
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(machine.get("GPU", 0) for machine in machines)
        # an actor is on one machine: what two of them have left over is none
        free = gpus or sum(machine.get("CPU", 0) // threads for machine in machines)
        if not free:
            raise PricerError(
                f"--ray {self.address}: no machine has the {threads} cores that --threads asks for"
            )
        return int(free)

    def price(self, parts: list[Part], job: Job, threads: int) -> Generator[Outcome, None, None]:
        """Yield what became of each part, as they are done.

        A part whose process or machine is lost is priced anew by another.
        """
        from ray.data import ActorPoolStrategy, DataContext, from_items
        from ray.exceptions import RayActorError, RayError

        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        most = min(self.actors(threads), len(parts))
        # a block a part, and none waits behind another where an actor is free
        rows = from_items([asdict(part) for part in parts], override_num_blocks=len(parts))
        with warnings.catch_warnings():
            # to be removed in 2.64, which the extra leaves out; nothing else sets the retries
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            outcomes = rows.map(
                Actor,
                fn_constructor_args=[job, threads],
                compute=ActorPoolStrategy(
                    min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=1
                ),
                num_cpus=threads,
                num_gpus=1 if self.device == "cuda" else 0,
                max_task_retries=RETRIES,
            )
        try:
            for row in outcomes.iter_rows():
                yield Outcome(**row)
        except RayActorError:
            raise PricerError(
                f"--ray {self.address}: a part was tried {RETRIES + 1} times, its process ended "
                f"each time: is there memory for {most} actors? --resume goes on with the parts "
                "that are left"
            ) from None
        except RayError as error:
            raise PricerError(
                f"--ray {self.address}: {first_line(error)}; --resume goes on with the parts that "
                "are left"
            ) from error
