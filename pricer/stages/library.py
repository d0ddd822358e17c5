"""library: hashes of the code that the other stages run, in a project that has it installed.

They depend on these, so that an upgrade reruns what it changes. Runs always, and takes a second.
"""

from pathlib import Path

from pricer.library import write_hashes


def main(library_dir: Path) -> None:
    """Write the hashes to `library_dir`, a file for each stage."""
    write_hashes(library_dir)
