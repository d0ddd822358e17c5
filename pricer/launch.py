"""Several processes for one stage: started through `accelerate launch`, each with its rank."""

import logging
import os
import sys
from typing import TypeVar

from pricer.errors import ParamsError, PricerError
from pricer.params import Compute

T = TypeVar("T")


def launched(stage: str, compute: Compute, *, device: str) -> bool:
    """Run a stage in as many processes as params ask for; tell whether that was done.

    It is not for one process, nor where this is one of the processes already.

    With several machines each runs the same command; MACHINE_RANK (0 to machines - 1) and
    MASTER_ADDR, the first one's address, say who is who, MASTER_PORT where they meet.

    Args:
        stage: module name; it gets the arguments that this process has.
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
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    here = compute.processes // compute.machines
    if device == "cuda" and here > torch.cuda.device_count():
        raise ParamsError(
            f"compute.processes asks for {here} processes on this machine, one a GPU, "
            f"but torch sees {torch.cuda.device_count()} GPUs"
        )
    if device == "cpu" and compute.strategy == "fsdp":
        raise ParamsError("compute.strategy fsdp needs GPUs: use ddp")
    command = ["--num_processes", compute.processes, "--num_machines", compute.machines]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--num_cpu_threads_per_process", max(1, torch.get_num_threads() // here)]
    command += ["--machine_rank", os.environ.get("MACHINE_RANK", 0)]
    if compute.machines > 1:
        command += ["--main_process_ip", os.environ.get("MASTER_ADDR", "127.0.0.1")]
    # by themselves the processes of one machine meet at any port that is free
    port = 29500 if compute.machines > 1 else 0
    command += ["--main_process_port", os.environ.get("MASTER_PORT", port)]
    if compute.strategy == "fsdp":
        command += ["--use_fsdp", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
        command += ["--fsdp_use_orig_params", "false", "--fsdp_cpu_ram_efficient_loading", "false"]
    else:
        command += ["--multi_gpu"]  # which is its name for one process a device, CPUs too
    command += ["--module", stage, *sys.argv[1:]]
    # it would tell in its own words what the processes say in theirs
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args([str(part) for part in command]))
    except ChildFailedError as error:
        ranks = ", ".join(str(rank) for rank in sorted(error.failures))
        raise PricerError(f"failed in the processes {ranks}: their own lines are above") from None
    return True


def join(device: str) -> tuple[int, int]:
    """Join the other processes of this stage; return this one's rank and how many there are.

    Args:
        device: type of device, "cpu" or "cuda".
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return state.process_index, processes


def from_first(value: T, processes: int) -> T:
    """Return the value that the process of rank 0 has."""
    if processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    [value] = broadcast_object_list([value])
    return value
