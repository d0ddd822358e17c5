"""Hashes of what made a result."""

import hashlib
import os
from pathlib import Path

from pricer import provenance
from pricer.provenance import code_hashes, folder_digest


def test_a_folders_digest_is_of_every_name_and_byte_at_any_depth(tmp_path):
    folder = tmp_path / "model"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "deep/er/b").write_text("2")
    digest = folder_digest(folder)
    other = tmp_path / "elsewhere"
    (other / "deep/er").mkdir(parents=True)
    (other / "deep/er/b").write_text("2")
    os.symlink(folder / "a", other / "a")  # as DVC may link from its cache
    assert folder_digest(other) == digest and len(digest) == 64
    (folder / "deep/er/b").write_text("3")
    changed = folder_digest(folder)
    (folder / "deep/er/b").write_text("2")
    (folder / "deep/er/b").rename(folder / "deep/b")
    assert len({digest, changed, folder_digest(folder)}) == 3


def test_code_is_known_by_its_path_in_the_package():
    file = Path(provenance.__file__)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert code_hashes()["pricer/provenance.py"] == digest
