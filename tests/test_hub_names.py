"""What a repository says of itself never reaches a file outside of its folder."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.errors import HubError
from pricer.hub import checked_names, checked_sha256, weights_folder

OUTSIDE = [
    "/etc/passwd",
    "../secret",
    "data/../../secret",
    "data//x",
    "a/./b",
    "..",
    "",
    "a\\..\\b",
    "a\nb",
    "a\x1b[2Jb",
    None,
    7,
    ["a"],
]


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(HubError, match="is no name of a file in a repository") as error:
        checked_names(["README.md", name], "owner/name")
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


@given(st.lists(st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9_.-]*(/[a-zA-Z0-9_-]+)*", fullmatch=True)))
def test_names_of_files_stay_what_they_are(names):
    assert checked_names(names, "owner/name") == names


@given(st.text(max_size=40))
def test_whatever_is_allowed_lies_in_the_folder(name):
    try:
        checked_names([name], "owner/name")
    except HubError:
        return
    parts = name.split("/")
    assert not name.startswith("/") and ".." not in parts and "" not in parts


def test_a_file_outside_of_the_cache_is_never_removed(tmp_path, monkeypatch):
    """Its name may look like a hash."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / hashlib.sha256(b"other").hexdigest()
    mine.write_bytes(b"mine")
    link = tmp_path / "cache/models--a--b/snapshots/c/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    with pytest.raises(HubError, match="is damaged"):
        checked_sha256(link)
    assert mine.read_bytes() == b"mine" and not link.is_symlink()


def test_an_origin_that_names_other_files_is_refused(tmp_path):
    files = {"../../secret": {"size": 1, "sha256": "0" * 64}}
    origin = {"base_model": "a/b", "hub": {"repo": "a/b", "commit": "c" * 40, "files": files}}
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    with pytest.raises(HubError, match="is no name of a file in a repository"):
        weights_folder(tmp_path)
