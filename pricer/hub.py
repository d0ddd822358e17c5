"""The Hugging Face Hub: revisions become commits, files at a commit come from its cache.

What is read at a commit is always the same, so no stage depends on this file: an edit here changes
when and how bytes arrive, and what is said when they do not.
"""

import errno
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    get_token,
    metadata_load,
    set_client_factory,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory, parse_ratelimit_headers
from pydantic import BaseModel, ConfigDict, Field

from pricer.errors import DISK_FULL, BaseModelError, HubError, quoted, without_passwords
from pricer.files import read_json
from pricer.params import REPOSITORY, first_problem
from pricer.provenance import file_sha256

Kind = Literal["model", "dataset", "adapter"]
T = TypeVar("T")

LONGEST_WAIT_S = 90  # a longer rate limit is told, not waited for
TIMEOUT_S = 120  # the library would wait for ever
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_CARD = 2**20  # bytes: YAML takes seconds for each
# what the Hub calls each kind of repository, and what it is called in params.yaml
TYPES = {"model": "model", "dataset": "dataset", "adapter": "model"}
NAMED_BY = {
    "model": "model.hub.id",
    "dataset": "items.hub.dataset",
    "adapter": "adapter.hub.id",
}
REVISED_BY = {
    "model": "model.hub.revision",
    "dataset": "items.hub.revision",
    "adapter": "adapter.hub.revision",
}
TOKENS = "https://huggingface.co/settings/tokens"


class RateLimited(Exception):
    """The Hub asks for a pause, of `seconds` if it says how long."""

    def __init__(self, seconds: int | None) -> None:  # noqa: D107
        super().__init__(f"rate limited for {seconds} s")
        self.seconds = seconds


class PinnedFile(BaseModel):
    """A file on the Hub: its size in bytes and its hash."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=f"^{SHA256.pattern}$")]


class PinnedModel(BaseModel):
    """A base model on the Hub: enough to find these very weights again."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    repo: Annotated[str, Field(pattern=f"^{REPOSITORY}$")]
    commit: Annotated[str, Field(pattern=f"^{COMMIT.pattern}$")]
    license: dict[Literal["license", "license_name", "license_link"], str] = {}
    files: dict[str, PinnedFile] = {}


class Origin(BaseModel):
    """Where a base model comes from, as its `origin.json` says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    base_model: str
    """In words."""
    hub: PinnedModel | None = None


def resolve(repo: str, kind: Kind, revision: str) -> str:
    """Return the commit that a branch, tag or commit hash stands for now.

    Raises:
        HubError: it cannot be told; what an earlier run has found is no answer.
    """
    if COMMIT.fullmatch(revision):
        return revision
    info = ask(
        lambda: HfApi().repo_info(
            repo, repo_type=TYPES[kind], revision=revision, timeout=TIMEOUT_S
        ),
        repo,
        kind,
        revision=revision,
    )
    return str(info.sha)


def revision_notice(repo: str, kind: Kind, revision: str, commit: str) -> dict[str, str]:
    """Return `moved`: what a source tells of a revision that is a branch or a tag; {} of a commit.

    It is for the user alone: the same commit under another name is the same source.
    """
    if revision == commit:
        return {}
    return {
        "moved": f"{repo}: revision {revision} is commit {commit} now, and can move: "
        f"{REVISED_BY[kind]} set to that hash pins it"
    }


def download(
    repo: str, kind: Kind, commit: str, patterns: list[str], *, whole: bool = True
) -> Path:
    """Return the folder of the Hub's cache that holds a repository's files at a commit.

    Files that are there already are not downloaded again. A connection that breaks is taken up
    where it broke; what a killed run had finished is kept.

    Args:
        repo: OWNER/NAME.
        kind: of the repository.
        commit: a whole commit hash.
        patterns: of the files that are wanted.
        whole: take files in folders too, not those at the top alone.

    Raises:
        HubError: some cannot be had, or are not what the Hub says they are.
    """
    folder = ask(
        lambda: snapshot_download(
            repo,
            repo_type=TYPES[kind],
            revision=commit,
            allow_patterns=patterns,
            ignore_patterns=None if whole else ["*/*"],
        ),
        repo,
        kind,
        revision=commit,
    )
    return Path(folder)


def file_names(repo: str, kind: Kind, commit: str, folder: Path) -> list[str]:
    """Return the names of all files at a commit of which something was downloaded to `folder`."""
    try:
        tree = get_cached_repo_tree(repo, repo_type=TYPES[kind], revision=commit)
    except CachedRepoTreeNotFoundError:  # what is there came another way, and there is no network
        return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    return sorted(checked_names((file.path for file in tree), repo))


def checked_names(names: Iterable[object], repo: str) -> list[str]:
    """Return names of files that a repository tells, each inside of its own folder.

    What a repository says of itself is not to be trusted: an absolute name, or one with `..`, is
    that of another file on this machine.

    Raises:
        HubError: a name is none.
    """
    checked = []
    for name in names:
        parts = name.split("/") if isinstance(name, str) else [""]
        if not all(part.isprintable() and part.strip(". ") for part in parts) or "\\" in str(name):
            raise HubError(
                f"{repo}: {quoted(name)} is no name of a file in a repository, "
                "which someone may have made so on purpose: nothing of it is used"
            )
        checked.append(str(name))
    return checked


def card_data(folder: Path) -> dict[str, Any]:
    """Return the metadata in the README.md of a downloaded repository, {} where there is none."""
    readme = folder / "README.md"
    try:
        small = readme.is_file() and readme.stat().st_size <= LARGEST_CARD
        metadata = metadata_load(readme) if small else None
    except Exception:  # whatever is wrong with a README, it is not what was asked for
        return {}
    return metadata if isinstance(metadata, dict) else {}


def checked_sha256(file: Path) -> str:
    """Return the SHA-256 of a file in the Hub's cache; remove it if the Hub knows it by another.

    Raises:
        HubError: the file is damaged.
    """
    got = file_sha256(file)
    # the cache names a large file by its hash; where it cannot link, it does not say
    blob = file.parent / file.readlink() if file.is_symlink() else file
    if SHA256.fullmatch(blob.name) and blob.name != got:
        cache = Path(constants.HF_HUB_CACHE).resolve()
        for path in (file, blob):
            if path.parent.resolve().is_relative_to(cache):  # what is elsewhere is not ours
                path.unlink(missing_ok=True)
        raise HubError(
            f"{file.name} in the Hub's cache is damaged (SHA-256 {got}, the Hub says {blob.name}): "
            "it has been removed, run the same command again to download it anew"
        )
    return got


def read_origin(base_model_dir: Path) -> Origin:
    """Return where a base model comes from; of one without `origin.json`, its folder's name.

    Raises:
        BaseModelError: the file is damaged.
    """
    file = base_model_dir / "origin.json"
    if not file.is_file():
        return Origin(base_model=base_model_dir.name)
    try:
        return Origin.model_validate(read_json(file))
    except ValueError as error:  # of JSON, of the encoding, of pydantic
        raise BaseModelError(
            f"{file} does not say where a base model comes from ({first_problem(error)}): "
            "`dvc checkout` or `dvc repro fetch` brings it back"
        ) from None


def weights_folder(base_model_dir: Path) -> Path:
    """Return where a base model's weights are: its folder, or the Hub's cache for a pinned one.

    What has been cleared from the cache is downloaded again, at the same commit.

    Raises:
        HubError: it cannot be.
    """
    hub = read_origin(base_model_dir).hub
    if not hub:
        return base_model_dir
    repo, commit = hub.repo, hub.commit
    names = checked_names(hub.files, repo)
    cached = [try_to_load_from_cache(repo, name, revision=commit) for name in names]
    if names and all(isinstance(path, str) for path in cached):  # the Hub need not be asked
        folder = Path(str(cached[0])).parent
    else:
        folder = download(repo, "model", commit, names, whole=False)
    for name, known in hub.files.items():
        size = (folder / name).stat().st_size
        if size != known.size:
            checked_sha256(folder / name)
            raise HubError(f"{folder / name} has {size} bytes, not {known.size}: remove it")
    return folder


def ask(
    call: Callable[[], T], repo: str, kind: Kind, *, revision: str = "main", named: str = ""
) -> T:
    """Return what `call` gets from the Hub; wait while the Hub asks for a short pause.

    Args:
        call: asks the Hub; again from the start after a pause.
        repo: what it asks about.
        kind: of the repository.
        revision: likewise.
        named: where the user has named the repository; the param of its kind if not given.

    Raises:
        HubError: with what to do next, for everything that a user or the network can cause.
    """
    set_client_factory(_client)
    waited = 0
    while True:
        try:
            return call()
        except RateLimited as limited:
            pause_s = max(limited.seconds or 0, 1)
            waited += pause_s
            if limited.seconds is None or waited > LONGEST_WAIT_S:
                pause = f"for {limited.seconds} seconds" if limited.seconds else "for some minutes"
                hint = "" if get_token() else "; with a token in HF_TOKEN it allows more requests"
                raise HubError(
                    f"{repo}: the Hub allows no more requests {pause}: "
                    f"run the same command again then, what is finished is kept{hint}"
                ) from None
            print(f"the Hub asks to wait {pause_s} s", flush=True)
            time.sleep(pause_s)
        except Exception as error:
            line = _explain(error, repo, kind, revision, named or NAMED_BY[kind])
            if line is None:
                raise
            raise HubError(_without_secrets(f"{repo}: {line}")) from error


def _client() -> httpx2.Client:
    """Return the library's client, but one that neither waits for ever nor sits out any limit."""
    client = default_client_factory()
    client.timeout = httpx2.Timeout(TIMEOUT_S)
    client.event_hooks = client.event_hooks | {"response": [_tell_rate_limit]}
    return client


def _tell_rate_limit(response: httpx2.Response) -> None:
    if response.status_code != 429:
        return
    limit = parse_ratelimit_headers(response.headers)
    after = response.headers.get("retry-after", "")
    if limit is not None and limit.remaining == 0:
        raise RateLimited(limit.reset_in_seconds)
    raise RateLimited(int(after) if after.isdigit() else None)


def _explain(error: BaseException, repo: str, kind: Kind, revision: str, named: str) -> str | None:
    """Say what went wrong and what to do; None for what is nobody's fault but the program's."""
    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and error.__cause__:
        error = error.__cause__  # the library wraps what happened
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    match error:
        case GatedRepoError():
            return _explain_gated(error, page)
        case DisabledRepoError():
            return "its authors or the Hub have disabled it"
        case RevisionNotFoundError():
            return f"no revision {revision} ({REVISED_BY[kind]}): {page}/tree/main lists them"
        case RepositoryNotFoundError():
            return _explain_missing(named)
        case HfHubHTTPError():
            return _explain_status(error, named)
        case HFValidationError():
            return f"no name of a repository, must be OWNER/NAME ({named})"
        case FileMetadataError():
            return f"{constants.ENDPOINT} does not answer like the Hub: check HF_ENDPOINT, proxies"
        case OfflineModeIsEnabled() | LocalEntryNotFoundError():
            return (
                f"HF_HUB_OFFLINE is set, and revision {revision} is not all in the cache "
                f"({constants.HF_HUB_CACHE}): unset it, or pin a commit that is there"
            )
        case httpx2.ProxyError():
            return "the proxy (HTTPS_PROXY, HTTP_PROXY) refuses or does not answer: check or unset"
        case httpx2.TransportError():
            return (
                f"cannot reach {constants.ENDPOINT} ({type(error).__name__}): check the network, "
                "and HTTPS_PROXY if there is a proxy, then run the same command again"
            )
        case OSError() if error.errno in DISK_FULL:
            return (
                f"no disk space left in {constants.HF_HUB_CACHE}: free some, or set HF_HOME to a "
                "folder on another disk, then run the same command again"
            )
        case OSError() if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return (
                f"cannot write to {constants.HF_HUB_CACHE}: set HF_HOME to a folder that is yours"
            )
        case OSError() if "Consistency check failed" in str(error):
            return "a file came incomplete: run the same command again, what is finished is kept"
        case _:
            return None


def _explain_gated(error: GatedRepoError, page: str) -> str:
    said = error.response.headers.get("X-Error-Message", "")
    if not get_token():
        return (
            f"it is gated, and there is no token: accept its licence at {page}, then put a token "
            f"of the same account ({TOKENS}) into HF_TOKEN, in the environment or in .env"
        )
    if "awaiting" in said or "pending" in said:
        return f"its authors have not yet answered your request for access, see {page}"
    if "fine-grained" in said:
        return f"your token may not read gated repositories: allow it at {TOKENS}"
    if error.response.status_code == 401:
        return f"the Hub does not know the token in HF_TOKEN: make another at {TOKENS}"
    return (
        f"its licence is not accepted by your token's account: accept it at {page}, "
        "then run the same command again"
    )


def _explain_missing(named: str) -> str:
    if get_token():
        return f"not found, or your token's account may not see it: check {named}"
    return f"not found, or private: check {named}; if it is private, set HF_TOKEN"


def _explain_status(error: HfHubHTTPError, named: str) -> str:
    status = error.response.status_code
    if status == 401:
        if get_token():
            return f"the Hub does not know the token in HF_TOKEN: make another at {TOKENS}"
        return _explain_missing(named)
    said = " ".join((error.server_message or "").split())[:200]
    if status == 403:
        return f"your token may not do this ({said or 'no reason given'}): see {TOKENS}"
    if status >= 500:
        return f"the Hub has a problem (HTTP {status}): try later, https://status.huggingface.co"
    return f"the Hub answers with HTTP {status} ({said or 'no reason given'})"


def _without_secrets(text: str) -> str:
    token = get_token()
    return without_passwords(text.replace(token, "[token]") if token else text)
