"""Hashes of the data and the code that a result comes from."""

import hashlib
import sys
from pathlib import Path

# what these change reaches a stage only as param values, or as files at a commit
NOT_HASHED = ("pricer.errors", "pricer.hub", "pricer.params")


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by its name."""
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}


def code_files() -> list[Path]:
    """Return the library's files that this process has loaded, but for those of NOT_HASHED."""
    return sorted(
        Path(module.__file__)
        for name, module in sys.modules.items()
        if name.startswith("pricer.") and name not in NOT_HASHED and module.__file__
    )
