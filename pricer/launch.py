"""Several processes for one stage: started through `accelerate launch`, each with its rank."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import TypeVar

from pricer.errors import ParamsError, PricerError, quoted
from pricer.params import Compute

T = TypeVar("T")

# of another process, before it counts as lost: one may load a model or write a checkpoint meanwhile
SILENCE = timedelta(minutes=10)
SIGN_OF_LIFE_S = 5


def rank() -> int:
    """Return the number of this process among those of its stage, 0 for the first or only one."""
    return int(os.environ.get("RANK", 0))


def process_count() -> int:
    """Return how many processes this one belongs to, itself included."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int | None:
    """Return the number of this process among those on this machine, None for an only one."""
    number = os.environ.get("LOCAL_RANK")
    return None if number is None else int(number)


def first_here() -> bool:
    """Tell whether this process is the first or only one of its stage on this machine.

    It writes the results: they are the same on each machine.
    """
    return local_rank() in (None, 0)


def machines() -> int:
    """Return how many machines the processes of this stage are on."""
    return process_count() // int(os.environ.get("LOCAL_WORLD_SIZE", process_count()))


def machine_rank() -> int:
    """Return the number of this machine among those of this stage, 0 for the first or only one."""
    return int(os.environ.get("GROUP_RANK", 0))


def check_processes(compute: Compute, *, device: str, gpus: int) -> None:
    """Raise ParamsError if there are fewer GPUs than processes, or none to split a model over.

    Args:
        compute: how many processes, and how they share the model.
        device: type of device that they compute on, "cpu" or "cuda".
        gpus: how many this machine has.
    """
    here = compute.processes // compute.machines
    if device == "cpu" and compute.strategy == "fsdp":
        raise ParamsError("compute.strategy fsdp needs GPUs: set it to ddp")
    if device == "cuda" and here > gpus:
        raise ParamsError(
            f"compute.processes asks for {here} on this machine, one a GPU, "
            f"but torch sees {gpus} GPUs: lower it"
        )


def check_meeting(compute: Compute) -> None:
    """Raise ParamsError if several machines are not told who is who: they would wait in vain."""
    number, address = os.environ.get("MACHINE_RANK", ""), os.environ.get("MASTER_ADDR")
    if compute.machines == 1:
        return
    if not (number.isdecimal() and int(number) < compute.machines and address):
        raise ParamsError(
            f"compute.machines is {compute.machines}: set MACHINE_RANK (0 to "
            f"{compute.machines - 1}, another on each machine) and MASTER_ADDR (the address of "
            f"machine 0) in the environment, got {quoted(number)} and {quoted(address)}"
        )


def launched(compute: Compute, *, device: str) -> bool:
    """Run this stage in as many processes as params ask for; tell whether that was done.

    It is not for one process, nor where this is one of the processes already.

    With several machines each runs the same command; MACHINE_RANK (0 to machines - 1) and
    MASTER_ADDR, the first one's address, say who is who, MASTER_PORT where they meet.

    Args:
        compute: how many processes, and how they share the model.
        device: type of device that they compute on, "cpu" or "cuda".

    Raises:
        ParamsError: this machine has fewer GPUs than that.
        PricerError: a process failed; it has said why.
    """
    if compute.processes == 1 or "RANK" in os.environ:
        return False
    # these take seconds to import: only who starts processes waits for them
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    check_processes(compute, device=device, gpus=torch.cuda.device_count())
    check_meeting(compute)
    if compute.machines > 1:
        # gloo would take the address that the machine's own name has, often 127.0.0.1
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_to(os.environ["MASTER_ADDR"]))
    command = launch_arguments(compute, threads=torch.get_num_threads())
    # it would tell in its own words what the processes say in theirs
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args([*command, *sys.argv[1:]]))
    except ChildFailedError as error:
        ranks = ", ".join(str(rank) for rank in sorted(error.failures))
        raise PricerError(f"failed in the processes {ranks}: their own lines are above") from None
    except SignalException:
        raise PricerError("interrupted") from None
    return True


def interface_to(address: str) -> str:
    """Return the name of the network interface that reaches an address.

    Raises:
        PricerError: none does.
    """
    import psutil

    try:
        [(family, *_, place), *_] = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # which sends nothing
            probe.connect(place)
            own = probe.getsockname()[0]
    except OSError as error:
        raise PricerError(
            f"no way to MASTER_ADDR {quoted(address)} ({error.strerror}): check it, and the network"
        ) from None
    names = [name for name, of in psutil.net_if_addrs().items() if own in {a.address for a in of}]
    return str(names[0])


def launch_arguments(compute: Compute, *, threads: int) -> list[str]:
    """Return what `accelerate launch` is told, up to the stage's name and paths.

    Args:
        compute: how many processes, and how they share the model.
        threads: that the processes of one machine share.
    """
    here = compute.processes // compute.machines
    command = ["--num_processes", compute.processes, "--num_machines", compute.machines]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--num_cpu_threads_per_process", max(1, threads // here)]
    command += ["--machine_rank", os.environ["MACHINE_RANK"] if compute.machines > 1 else 0]
    if compute.machines > 1:
        command += ["--main_process_ip", os.environ["MASTER_ADDR"]]
    # by themselves the processes of one machine meet at any port that is free
    port = 29500 if compute.machines > 1 else 0
    command += ["--main_process_port", os.environ.get("MASTER_PORT", port)]
    if compute.strategy == "fsdp":
        command += ["--use_fsdp", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
        command += ["--fsdp_use_orig_params", "false", "--fsdp_cpu_ram_efficient_loading", "false"]
    else:
        command += ["--multi_gpu"]  # which is its name for one process a device, CPUs too
    return [str(part) for part in (*command, "--module", "pricer.stages")]


def join(device: str) -> tuple[int, int]:
    """Join the other processes of this stage; return this one's rank and how many there are.

    Args:
        device: type of device, "cpu" or "cuda".
    """
    if process_count() > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=SILENCE)
    return rank(), process_count()


def from_first(value: T) -> T:
    """Return the value that the process of rank 0 has."""
    if process_count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    [value] = broadcast_object_list([value])
    return value


def in_first(action: Callable[[], None]) -> None:
    """Run something in the process of rank 0; the others wait, be it longer than SILENCE."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(action) if rank() == 0 else None
        while not from_first(running is None or bool(wait([running], SIGN_OF_LIFE_S).done)):
            pass
        if running:
            running.result()


def from_all(value: T) -> list[T]:
    """Return the values that all processes have, by rank; none goes on before all have called."""
    if process_count() == 1:
        return [value]
    import torch

    every: list[T] = [value] * process_count()
    torch.distributed.all_gather_object(every, value)
    return every
