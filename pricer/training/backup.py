"""Checkpoints beyond this machine: each is sent while training goes on, and found by another.

They lie in `<train.backup>/<fingerprint of the run>/checkpoint-N/`. One is complete where its
manifest is: that is written last and removed first, or all of it is one commit on the Hub. What
comes back is checked as if anybody could have written it: its files have names from a short list,
which the trainer reads as data and never as code, a size that fits, and the hashes of the manifest.
"""

import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils.tqdm import disable_progress_bars
from safetensors import safe_open
from transformers.trainer_pt_utils import safe_globals

from pricer.errors import PricerError, first_line, one_line, quoted
from pricer.files import read_json, write_json, writing
from pricer.hub import ask
from pricer.training.checkpoints import (
    MANIFEST,
    all_checkpoints,
    checkpoint_step,
    free_bytes,
    is_complete,
)

# what the trainer goes on from: JSON, safetensors, and what it reads with `weights_only`
NEEDED = re.compile(
    r"adapter_config\.json|(?:adapter_model|best|whole)\.safetensors|trainer_state\.json"
    r"|optimizer\.(?:pt|bin)|scheduler\.pt|scaler\.pt|rng_state(?:_\d{1,5})?\.pth"
)
ALWAYS = {"adapter_config.json", "adapter_model.safetensors", "trainer_state.json"}
RUN = re.compile(r"[0-9a-f]{16}")
CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
LARGEST_MANIFEST = 2**16  # bytes
LARGEST = 2**36  # bytes of a checkpoint: ten times that of the largest preset
CHUNK = 2**24  # bytes
SENDING = ".sending"  # in a run's folder: links to what is on its way
LAST_WAIT_S = 10  # for what is on its way when training ends
# nobody waits for minutes before training begins
PATIENT = {"connect_timeout": 3, "read_timeout": 10, "retries": {"total_max_attempts": 1}}
OPTIONS: dict[str, dict[str, Any]] = {
    "file": {"auto_mkdir": True},
    "s3": {"config_kwargs": PATIENT},
}


# it would tell each of its attempts; what comes of them is told here
logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)


class Unusable(Exception):
    """What a backup holds is damaged, or not what was sent; the text says what."""


class Remote:
    """The checkpoints of one run beyond this machine.

    Attributes:
        files: the file system they lie in.
        root: their folder there.
        repo: OWNER/NAME on the Hub; None elsewhere.
        run: the run's fingerprint.
    """

    def __init__(self, url: str, run: str) -> None:
        """Take `train.backup` and the fingerprint; nothing is asked yet."""
        scheme, _, place = url.partition("://")
        self.repo = place.strip("/") if scheme == "hf" else None
        self.run = run
        # what others have written meanwhile counts, not what was listed before
        options = {"skip_instance_cache": True, "use_listings_cache": False}
        self.files, path = fsspec.url_to_fs(url, **options, **OPTIONS.get(scheme, {}))
        self.root = f"{path.rstrip('/')}/{run}"

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, the newest first."""
        return sorted(
            (step for step, complete in self._folders().items() if complete), reverse=True
        )

    def others(self) -> int:
        """Return how many other runs have checkpoints there."""
        try:
            paths = self.files.ls(self.root.rpartition("/")[0], detail=False)
        except FileNotFoundError:
            return 0
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sum(bool(RUN.fullmatch(name)) for name in names - {self.run})

    def put(self, checkpoint: Path, keep: int) -> None:
        """Send a sealed checkpoint, then remove all before it but the newest complete ones.

        Args:
            checkpoint: holds nothing but what is sent.
            keep: `train.save_total_limit`, the one that is sent included.
        """
        names = sorted(file.name for file in checkpoint.iterdir() if file.name != MANIFEST)
        if self.repo:
            self._commit(checkpoint, [*names, MANIFEST], keep)
            return
        folder = f"{self.root}/{checkpoint.name}"
        self._remove_mark(folder)  # what is written over is not complete meanwhile
        for name in [*names, MANIFEST]:
            self.files.put_file(str(checkpoint / name), f"{folder}/{name}")
        for step in self._surplus(keep, checkpoint_step(checkpoint)):
            self._remove_mark(f"{self.root}/checkpoint-{step}")
            self.files.rm(f"{self.root}/checkpoint-{step}", recursive=True)

    def take(self, step: int, folder: Path) -> None:
        """Fill an empty folder with the checkpoint of a step.

        Raises:
            Unusable: it is damaged, or not what was sent.
        """
        there = f"{self.root}/checkpoint-{step}"
        manifest = f"{there}/{MANIFEST}"
        self._copy(manifest, folder / MANIFEST, self._size(manifest, LARGEST_MANIFEST))
        names = _listed(folder / MANIFEST)
        sizes = {name: self._size(f"{there}/{name}", LARGEST) for name in names}
        if sum(sizes.values()) > min(LARGEST, free_bytes(folder)):
            raise Unusable(f"{sum(sizes.values()) / 1e9:.1f} GB are more than there is room for")
        for name, size in sizes.items():
            self._copy(f"{there}/{name}", folder / name, size)
        if not is_complete(folder):
            raise Unusable("its files are not as they were sealed")
        for name in names:
            _check_data(folder / name)

    def _folders(self) -> dict[int, bool]:
        """Return for the step of each checkpoint whether it is complete."""
        self.files.invalidate_cache()
        try:
            paths = self.files.ls(self.root, detail=False)
        except FileNotFoundError:
            return {}
        found = (CHECKPOINT.fullmatch(path.rstrip("/").rpartition("/")[2]) for path in paths)
        return {
            int(match[1]): self.files.exists(f"{self.root}/{match[0]}/{MANIFEST}")
            for match in found
            if match
        }

    def _surplus(self, keep: int, sent: int) -> list[int]:
        """Return the steps of what is to go: before `sent`, all but the newest that are complete.

        Later ones are no use, or this run would have begun with them; it comes by them yet.
        """
        folders = {step: whole for step, whole in self._folders().items() if step <= sent}
        kept = sorted((step for step in folders if folders[step]), reverse=True)[:keep]
        return [step for step in folders if step not in kept]

    def _remove_mark(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            self.files.rm_file(f"{folder}/{MANIFEST}")

    def _commit(self, checkpoint: Path, names: list[str], keep: int) -> None:
        """Send a checkpoint and remove older ones in one commit, which is there or is not."""
        api, repo = HfApi(), str(self.repo)
        ask(lambda: api.create_repo(repo, private=True, exist_ok=True), **self._asked)
        older = [step for step in self.steps() if step < checkpoint_step(checkpoint)]
        additions = [
            CommitOperationAdd(f"{self.run}/{checkpoint.name}/{name}", checkpoint / name)
            for name in names
        ]
        for addition in additions:
            # one by one: for several the library starts threads, which an exit would wait for
            ask(partial(api.preupload_lfs_files, repo, [addition]), **self._asked)
        deletions = [
            CommitOperationDelete(f"{self.run}/checkpoint-{step}/", is_folder=True)
            for step in older[max(keep - 1, 0) :]
        ]
        message = f"Run {self.run}, {checkpoint.name}"
        ask(
            lambda: api.create_commit(repo, [*additions, *deletions], commit_message=message),
            **self._asked,
        )

    @property
    def _asked(self) -> Any:
        return {"repo": self.repo, "kind": "model", "named": "train.backup"}

    def _size(self, path: str, largest: int) -> int:
        """Return the bytes of a file there."""
        try:
            size = self.files.info(path)["size"]
        except FileNotFoundError:
            raise Unusable(f"{path.rpartition('/')[2]} is missing") from None
        if not isinstance(size, int) or not 0 <= size <= largest:
            raise Unusable(f"{path.rpartition('/')[2]} has {quoted(size)} bytes")
        return size

    def _copy(self, path: str, file: Path, size: int) -> None:
        """Copy a file that has `size` bytes; one that has others is cut, which its hash tells."""
        with self.files.open(path, "rb", block_size=CHUNK) as source, file.open("wb") as target:
            while size > 0 and (chunk := source.read(min(CHUNK, size))):
                target.write(chunk)
                size -= len(chunk)


def _listed(manifest: Path) -> list[str]:
    """Return the names in a manifest that somebody may have made up.

    Raises:
        Unusable: it lists what no backup holds, or lacks what each does.
    """
    try:
        names = read_json(manifest)
    except ValueError as error:
        raise Unusable(f"{MANIFEST}: {first_line(error)}") from None
    if not isinstance(names, dict):
        raise Unusable(f"{MANIFEST} is no list of files")
    if wrong := [name for name in names if not NEEDED.fullmatch(name)]:
        raise Unusable(f"{MANIFEST} lists {quoted(wrong[0])}, which no backup holds")
    if missing := sorted(ALWAYS - set(names)):
        raise Unusable(f"{MANIFEST} does not list {missing[0]}")
    return list(names)


def _check_data(file: Path) -> None:
    """Raise Unusable unless a file with the right hash can be read, without running what is in it.

    Who made the hash may have made the file. Tensors are not loaded for it.
    """
    try:
        if file.suffix == ".json":
            usable = isinstance(read_json(file), dict)
        elif file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                usable = bool(tensors.keys())
        else:
            with safe_globals():  # as the trainer reads it
                usable = isinstance(torch.load(file, "cpu", weights_only=True, mmap=True), dict)
    except Exception:  # a file that somebody made up can raise anything
        usable = False
    if not usable:
        raise Unusable(f"{file.name} is no data that training goes on from")


class Backup:
    """Sends a run's checkpoints in the background, and brings the newest one back.

    It is for the process of rank 0, which holds the run's lock. Whatever goes wrong is told in one
    line, once a run, and training goes on.

    Attributes:
        url: `train.backup`.
        run: folder of the run's checkpoints, named by its fingerprint.
        keep: `train.save_total_limit`.
    """

    def __init__(self, url: str, run: Path, keep: int) -> None:
        """Take where to, and what of; nothing is asked or sent yet."""
        self.url = url
        self.run = run
        self.keep = keep
        self._remote: Remote | None = None
        self._changed = threading.Condition()
        self._waiting: Path | None = None  # the newest that is not on its way
        self._sending = False
        self._failing = False
        self._told = False
        shutil.rmtree(run / SENDING, ignore_errors=True)  # a killed run's

    @property
    def remote(self) -> Remote:
        """The other side; made when it is first asked, for what cannot even be made is told."""
        if self._remote is None:
            self._remote = Remote(self.url, self.run.name)
        return self._remote

    def restore(self) -> None:
        """Bring the newest complete checkpoint back, if it is newer than what is here."""
        with self._telling("training starts from what is here"):
            whole = (checkpoint_step(one) for one in all_checkpoints(self.run) if is_complete(one))
            here = next(whole, 0)
            steps = self.remote.steps()
            if not steps and (others := self.remote.others()):
                self._tell(
                    f"nothing of this run ({self.run.name}), but of {others} others: params, "
                    "prompts, base model, code, libraries, Python, device, precision, processes "
                    "or (on a CPU) threads were others"
                )
            next((step for step in steps if step > here and self._take(step)), None)

    def send(self, checkpoint: Path) -> None:
        """Send a sealed checkpoint from another thread, instead of one that still waits."""
        with self._telling("training goes on without"):
            staged = stage(checkpoint, self.run / SENDING)
            with self._changed:
                replaced, self._waiting = self._waiting, staged
                if not self._sending:
                    self._sending = True
                    # the process may end whatever this thread waits for
                    threading.Thread(target=self._work, name="backup", daemon=True).start()
            if replaced and replaced != staged:
                shutil.rmtree(replaced)

    def close(self) -> None:
        """Wait for what is on its way, but not for long: the adapter is about to be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._failing or not self._sending, LAST_WAIT_S)

    def _work(self) -> None:
        """Send what waits until nothing does."""
        disable_progress_bars()  # of the Hub's library; by now the model is loaded
        while True:
            with self._changed:
                staged, self._waiting = self._waiting, None
                if staged is None:
                    self._sending = False
                    self._changed.notify_all()
                    return
            sent = False
            with self._telling("training goes on without"):
                self.remote.put(staged, self.keep)
                sent = True
            self._failing = not sent
            shutil.rmtree(staged, ignore_errors=True)

    def _take(self, step: int) -> bool:
        """Bring a checkpoint back and return True, or tell why it is not used."""
        try:
            with writing(self.run / f"checkpoint-{step}", folder=True) as folder:
                self.remote.take(step, folder)
        except Unusable as error:
            self._tell(f"checkpoint-{step} is not used ({error})")
            return False
        print(f"checkpoint-{step} comes from {self.url}", flush=True)
        return True

    @contextmanager
    def _telling(self, consequence: str) -> Iterator[None]:
        """Tell the first error of a run; it ends the block, and nothing else."""
        try:
            yield
        except Exception as error:
            if not self._told:
                self._told = True
                self._tell(
                    f"{reason(error)}: {consequence}; check the address, the network and your "
                    "rights there"
                )

    def _tell(self, what: str) -> None:
        print(one_line(f"train.backup {self.url}: {what}"), file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """Return in a few words why a backup failed, without signed addresses."""
    if not isinstance(error, PricerError):
        while isinstance(error.__cause__, Exception):  # libraries wrap what happened
            error = error.__cause__
    text = re.sub(r"\?[^\s'\"]+", "", first_line(error))[:300]
    return text if isinstance(error, PricerError) else f"{type(error).__name__}, {text}"


def stage(checkpoint: Path, folder: Path) -> Path:
    """Return a copy of a sealed checkpoint below `folder`, of links and what is sent alone.

    So it stays whole while it is sent, when `keep_newest` removes the checkpoint itself.
    """
    hashes = read_json(checkpoint / MANIFEST)
    sent = {name: hashes[name] for name in hashes if NEEDED.fullmatch(name)}
    staged = folder / checkpoint.name
    with writing(staged, folder=True) as links:
        for name in sent:
            link(checkpoint / name, links / name)
        write_json(links / MANIFEST, sent)
    return staged


def link(file: Path, name: Path) -> None:
    """Give a file another name; copy it where the disk has no links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
