"""Hashes of the data and the code that a result comes from."""

import hashlib
import json
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
# what these change reaches a stage only as param values, paths, files at a commit, or messages
NOT_HASHED = {"errors.py", "hub.py", "params.py", "stage.py", "workspace.py"}


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by its name."""
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}


def digest(hashes: dict[str, str]) -> str:
    """Return one SHA-256 for files that are known by name and hash."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Return one SHA-256 of a folder: of the names of all files in it, at any depth, and theirs."""
    return digest(
        {
            file.relative_to(folder).as_posix(): file_sha256(file)
            for file in folder.rglob("*")
            if file.is_file()
        }
    )


def code_files() -> dict[str, Path]:
    """Return the library's files that this process has loaded, by their path in the package.

    Those of NOT_HASHED, and what only says what a package is, are left out.
    """
    files = {
        Path(module.__file__)
        for name, module in list(sys.modules.items())
        if name.startswith("pricer.") and module.__file__
    }
    paths = {file.relative_to(PACKAGE).as_posix(): file for file in sorted(files)}
    return {
        path: file
        for path, file in paths.items()
        if path not in NOT_HASHED and file.name != "__init__.py"
    }


def code_hashes() -> dict[str, str]:
    """Return the SHA-256 of each of `code_files`, by its path in the package."""
    return {f"pricer/{path}": file_sha256(file) for path, file in code_files().items()}
