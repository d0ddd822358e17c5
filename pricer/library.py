"""What a stage's results come from in the library: the code that its script imports.

`dvc.yaml` of this repository lists these files, which a test computes with what is here. A project
that has the library installed, and not its files, gets their hashes from the stage `library`.
"""

import ast
import re
from pathlib import Path

from pricer.files import read_facts, write_json, writing
from pricer.provenance import NOT_HASHED, PACKAGE, file_sha256

ROOT = PACKAGE.parent
NOT_TRACKED = {PACKAGE / name for name in NOT_HASHED}
HASHES = "metrics/library"  # where they are in such a project
OWN = "library"  # the script that writes the hashes of the others' code


def stage_hashes() -> dict[str, dict[str, str]]:
    """Return the SHA-256 of each file of code that a stage needs, by its path, by script."""
    scripts = sorted((PACKAGE / "stages").glob("[!_]*.py"))
    return {
        script.stem: {path: file_sha256(ROOT / path) for path in sorted(code_of(script))}
        for script in scripts
        if script.stem != OWN
    }


def write_hashes(folder: Path) -> None:
    """Write `SCRIPT.json` for each script, with what `stage_hashes` says of it."""
    with writing(folder, folder=True) as partial:
        for name, hashes in stage_hashes().items():
            write_json(partial / f"{name}.json", hashes)


def is_current(folder: Path) -> bool:
    """Tell whether `write_hashes` would write the same again."""
    files = {name: folder / f"{name}.json" for name in stage_hashes()}
    if not all(file.is_file() for file in files.values()):
        return False
    return {name: read_facts(file) for name, file in files.items()} == stage_hashes()


def code_of(script: Path) -> set[str]:
    """Return the files that `script` needs, itself among them, by their path: `pricer/files.py`.

    Not those of NOT_HASHED, nor what they alone need.
    """
    found, open_ = {script}, [script]
    while open_:
        new = library_files(open_.pop()) - found - NOT_TRACKED
        found |= new
        open_ += new
    return {file.relative_to(ROOT).as_posix() for file in found}


def library_files(path: Path) -> set[Path]:
    """Return the library's files that `path` imports itself, and those it names beside the code."""
    names = re.findall(r'"(\w+(?:\.\w+)?\.(?:jinja|json))"', path.read_text(encoding="utf-8"))
    files = {path.parent / name for name in names}
    if path.suffix == ".py":
        modules = (name.replace(".", "/") for name in imports(path) if name.startswith("pricer."))
        files |= {ROOT / f"{module}.py" for module in modules}
    return {file for file in files if file.is_file()}


def imports(path: Path) -> set[str]:
    """Return what `path` imports when it runs, anywhere in it; not what is for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
