"""What this machine has, what the current params need of it, and what stands in the way."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which

from pricer.commands.memory import GIB
from pricer.errors import ParamsError, PricerError
from pricer.launch import check_processes
from pricer.params import Params, read_params
from pricer.training.checkpoints import LIBRARIES, free_bytes, lasting_root, space_for_checkpoints
from pricer.training.checks import check_backup, check_optimizer, check_trackers
from pricer.workspace import Workspace

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
TOKENS = ("HF_TOKEN", "WANDB_API_KEY")
# bytes of disk below which the next run may not fit beside what DVC keeps of earlier ones
ROOM = 5e9


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: heading that it belongs to.
        what: what was looked at.
        value: what was found.
        problem: what stands in the way and the next step, in one line; None if nothing does.
        fatal: whether nothing can be trained before the problem is solved.
    """

    group: str
    what: str
    value: str
    problem: str | None = None
    fatal: bool = False


def examine(root: Path) -> Iterator[Finding]:
    """Yield everything that is found, in the order it is told.

    Args:
        root: the project's root, which is the current folder.
    """
    yield from check_libraries(root)
    yield from describe_machine()
    try:
        params = read_params(Workspace(root).params)
    except PricerError as error:
        yield Finding("params", "params.yaml", "not usable", str(error), fatal=True)
        return
    yield from check_gpus(params)
    yield from check_precision(params)
    yield from check_training(params)
    yield from check_memory_and_disk(params, root)
    yield from check_tokens(params)
    yield from check_repositories(root)


def check_libraries(root: Path) -> Iterator[Finding]:
    """Compare Python and the libraries that shape results with what the project pins."""
    python = platform.python_version()
    problem = None
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problem = f"Python {python} is not supported: make .venv anew with 3.11, 3.12 or 3.13"
    yield Finding("libraries", "Python", f"{python} ({sys.executable})", problem, fatal=True)
    # the library's own, or those of a project that has it installed
    constraints, requirements = root / "constraints.txt", root / "requirements.txt"
    file = constraints if constraints.is_file() else requirements
    pins = {}
    if file.is_file():
        text = file.read_text(encoding="utf-8", errors="replace")
        # this library's own version is a comment where pip cannot have it by its name
        pinned = re.findall(r"^(?:# (?=pricer==))?([\w.-]+)==([\w.]+)", text, re.MULTILINE)
        pins = {name.lower(): pin for name, pin in pinned}
    again = "`pip install -r requirements.txt` mends it"
    if file == constraints:
        again = "`rm .venv/ready && make repro` sets .venv up again"
    for name in (*LIBRARIES, "datasets", "dvc", "pricer"):
        if name == "pricer" and file == requirements:
            again = "install that one's wheel or repository, PyPI's pricer is another project's"
        pin = pins.get(name, "")
        try:
            found = version(name)
        except PackageNotFoundError:
            missing = f"{name} is not installed: {again}"
            yield Finding("libraries", name, "missing", missing, fatal=True)
            continue
        differs = bool(pin) and found.partition("+")[0] != pin
        problem = f"{name} is {found}, pinned is {pin}: results may differ; {again}"
        yield Finding("libraries", name, found, problem if differs else None)


def describe_machine() -> Iterator[Finding]:
    """Tell system, cores, what the CPU computes fast, and memory."""
    yield Finding("machine", "system", f"{platform.system()} {platform.release()}")
    cpu, features = cpu_features(Path("/proc/cpuinfo"))
    yield Finding(
        "machine", "CPU", f"{cpu or platform.machine()}, {_cores()} cores for this process"
    )
    yield Finding("machine", "CPU features", ", ".join(features) or "not known")
    yield Finding("machine", "memory", f"{memory_bytes() / GIB:.1f} GiB")


def cpu_features(cpuinfo: Path) -> tuple[str, list[str]]:
    """Return a CPU's name and those of its features that matter here, where Linux lists them."""
    if not cpuinfo.is_file():
        return "", []
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    return name[1] if name else "", [feature for feature in CPU_FEATURES if feature in found]


def memory_bytes() -> int:
    """Return the machine's memory, or what its control group leaves to this process."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(physical, int(text)) if text.isdecimal() else physical


def check_gpus(params: Params) -> Iterator[Finding]:
    """Tell every GPU that torch sees, and whether bitsandbytes can quantize on it."""
    import torch

    from pricer.model.base import check_quantizes_on

    count = torch.cuda.device_count()
    if not count:
        yield Finding("GPUs", "CUDA", f"none that torch {torch.__version__} sees")
        return
    yield Finding("GPUs", "CUDA", f"{torch.version.cuda}, {count} GPUs")
    for gpu in range(count):
        properties = torch.cuda.get_device_properties(gpu)
        major, minor = torch.cuda.get_device_capability(gpu)
        total = f"{properties.total_memory / GIB:.1f} GiB, compute capability {major}.{minor}"
        yield Finding("GPUs", f"cuda:{gpu}", f"{properties.name}, {total}")
    problem = _problem_of(lambda: check_quantizes_on(torch.device("cuda")))
    fatal = params.quantization.bits < 16 and params.compute.device != "cpu"
    yield Finding("GPUs", "bitsandbytes", "no CUDA" if problem else "CUDA", problem, fatal)


def check_precision(params: Params) -> Iterator[Finding]:
    """Tell where and in which type the current params compute, and why."""
    from pricer.model.base import choose_device, choose_dtype, dtype_name

    asked, quantization = params.compute, params.quantization
    try:
        device = choose_device(asked.device)
        dtype = choose_dtype(asked.dtype, device)
    except PricerError as error:
        yield Finding("params", "precision", "none", str(error), fatal=True)
        return
    why = f"compute.dtype is {asked.dtype}"
    if asked.dtype == "auto":
        why = f"auto: what the {'CPU' if device.type == 'cpu' else 'GPU'} multiplies fast"
    kinds = {4: quantization.bnb_4bit_quant_type, 8: "int8"}
    bits = kinds.get(quantization.bits, "no quantization")
    name = dtype_name(dtype)
    yield Finding("params", "device", f"{device} (compute.device is {asked.device})")
    yield Finding("params", "precision", f"{bits}, computed in {name} ({why})")


def check_training(params: Params) -> Iterator[Finding]:
    """Tell what the params of training ask for that cannot be had here."""
    import torch

    train, compute, gpus = params.train, params.compute, torch.cuda.device_count()
    device = "cpu" if compute.device == "cpu" or not gpus else "cuda"
    trackers = ", ".join(["DVCLive", *train.report_to])
    processes = f"{compute.processes} on {compute.machines} machines"
    for what, value, check in (
        ("optimizer", train.optim, partial(check_optimizer, train.optim, device=device)),
        ("processes", processes, partial(check_processes, compute, device=device, gpus=gpus)),
        ("backup", train.backup or "none", partial(check_backup, train.backup)),
        ("trackers", trackers, partial(check_trackers, train.report_to)),
    ):
        yield Finding("params", what, value, _problem_of(check), fatal=True)


def check_memory_and_disk(params: Params, root: Path) -> Iterator[Finding]:
    """Compare the estimate for the current params with the memory and the disks that there are."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from pricer.commands.inspection import adapted_model, estimate, model_shape
    from pricer.model.base import choose_device
    from pricer.model.sources import describe_source, find_config

    trainable = 0
    try:
        config, source = find_config(params.model, Workspace(root).base_model)
        shape = model_shape(adapted_model(config, params.lora))
        trainable = shape.adapter
        needed = sum(estimate(shape, params).values())
        device = choose_device(params.compute.device)
        if device.type == "cuda":
            there = torch.cuda.get_device_properties(device).total_memory
        else:
            there = memory_bytes()
        told = f"{needed / GIB:.1f} of {there / GIB:.1f} GiB on {device} (from {source})"
        problem = (
            f"training needs about {needed / GIB:.1f} GiB, {device} has {there / GIB:.1f}: lower "
            "train.per_device_train_batch_size (and raise train.gradient_accumulation_steps), or "
            "set train.activation_checkpointing to true; `pricer inspect` tells it by part"
        )
        yield Finding("params", "memory to train", told, problem if needed > there else None)
    except PricerError as error:
        # layers or a folder that are not there; what is to be fetched may just not be here yet
        fatal = isinstance(error, ParamsError) or describe_source(params.model).config is not None
        yield Finding("params", "memory to train", "not known", str(error), fatal)
    checkpoints = lasting_root(root) / ".checkpoints"
    limit = params.train.save_total_limit
    saves = params.train.save_strategy == "steps"
    run = checkpoints / "any"  # of a run that has written none yet
    folders = {
        "data": (root / "data", 0),
        "DVC cache": (root / ".dvc/cache", 0),
        "checkpoints": (checkpoints, space_for_checkpoints(run, trainable, limit) if saves else 0),
        "Hugging Face cache": (Path(HF_HUB_CACHE), 0),
    }
    for what, (folder, needs) in folders.items():
        free = free_bytes(folder)
        least = needs if free < needs else ROOM
        problem = (
            f"{free / 1e9:.1f} GB are free for {folder}, {least / 1e9:.1f} GB may be needed: make "
            "room, `dvc gc --workspace` drops what no result here uses"
        )
        told = f"{free / 1e9:.1f} GB free in {folder}"
        told += f", a run may take {needs / 1e9:.1f} GB" if needs else ""
        fatal = free < needs
        yield Finding("disk", what, told, problem if free < least else None, fatal)


def check_tokens(params: Params) -> Iterator[Finding]:
    """Tell which tokens are set, never their values."""
    from huggingface_hub.constants import HF_TOKEN_PATH

    from pricer.model.sources import describe_source

    repo = describe_source(params.model).hub_repo
    for name in TOKENS:
        there = bool(os.environ.get(name))
        value = "set" if there else "not set"
        problem = None
        if name == "HF_TOKEN" and not there and Path(HF_TOKEN_PATH).is_file():
            value = "not set, but `hf auth login` has saved one"
        elif name == "HF_TOKEN" and not there and repo:
            problem = (
                f"HF_TOKEN is not set, and {repo} may be gated: put a token from "
                "https://huggingface.co/settings/tokens into .env"
            )
        elif name == "WANDB_API_KEY" and not there and "wandb" in params.train.report_to:
            problem = (
                "train.report_to names wandb, but WANDB_API_KEY is not set: unless `wandb login` "
                "has saved one, the run stays in .trackers/wandb; `wandb sync` sends it later"
            )
        yield Finding("tokens", name, value, problem)


def check_repositories(root: Path) -> Iterator[Finding]:
    """Tell the state of git and DVC."""
    revision = _run(root, "git", "rev-parse", "--short", "HEAD")
    if which("git") is None:
        problem = "git is not installed, and DVC's experiments need it: install it"
        yield Finding("git and DVC", "git", "not installed", problem, fatal=True)
    elif revision is None:
        problem = (
            "git has no commit here, and DVC's experiments need one: `git add -A && git commit`"
        )
        yield Finding("git and DVC", "git", "no commit", problem, fatal=True)
    else:
        changed = len((_run(root, "git", "status", "--porcelain", ".") or "").splitlines())
        yield Finding("git and DVC", "git", f"{revision}, {changed} files changed or new")
    if not (root / ".dvc").is_dir():
        problem = "no .dvc folder here: run from the project's root"
        yield Finding("git and DVC", "DVC", "not set up", problem, fatal=True)
        return
    remotes = _run(root, sys.executable, "-m", "dvc", "remote", "list") or ""
    names = ", ".join(line.split()[0] for line in remotes.splitlines() if line.strip())
    yield Finding("git and DVC", "DVC remote", names or "none: results stay on this machine")


def _problem_of(check: Callable[[], None]) -> str | None:
    try:
        check()
    except PricerError as error:
        return str(error)
    return None


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # where the system has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _run(root: Path, *command: str) -> str | None:
    if which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace")
    return done.stdout.strip() if done.returncode == 0 else None
