"""What a repository says of itself never reaches a file outside of its folder."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.errors import BaseModelError, HubError, ItemsError
from pricer.hub import checked_names, checked_sha256, weights_folder
from pricer.model.folder import weight_files
from pricer.products.hub_source import _checked_card

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


@pytest.mark.parametrize("name", [name for name in OUTSIDE if isinstance(name, str)], ids=repr)
def test_an_index_names_no_file_outside_of_its_folder(name, tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HubError, match="is no name of a file in a repository"):
        weight_files(tmp_path)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": ["a"]}, {"weight_map": {"a": "b/c"}}])
def test_an_index_without_names_of_files_beside_it_is_one_line(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="model.safetensors.index.json: "):
        weight_files(tmp_path)


def card(folder, configs):
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return folder


@pytest.mark.parametrize(
    "pattern",
    [
        "http://127.0.0.1/a.parquet",
        "file:///etc/passwd",
        "hf://datasets/a/b/c.parquet",
        "zip://a.parquet::https://127.0.0.1/a.zip",
        "x:/etc/*",
        "/etc/*",
        "../*.parquet",
        "data/../../*",
        "~/*",
        "a\\b",
        "a\nb",
        "*" * 40,
        "a" * 400,
    ],
)
def test_patterns_of_a_card_match_nothing_but_the_repositorys_files(pattern, tmp_path):
    """A library would follow them to any address and any folder."""
    for files in (pattern, ["*", pattern], [{"split": "train", "path": ["*", pattern]}]):
        configs = [{"config_name": "default", "data_files": files}]
        with pytest.raises(ItemsError, match="owner/name: data_files in its card: ") as error:
            _checked_card(card(tmp_path, configs), "owner/name")
        assert len(str(error.value)) < 300 and str(error.value).isprintable()
    with pytest.raises(ItemsError, match="owner/name: data_files in its card: "):
        configs = [{"config_name": "default", "data_dir": pattern}]
        _checked_card(card(tmp_path, configs), "owner/name")


@pytest.mark.parametrize(
    "configs", [7, [7], [{}], [{"config_name": 1}], [{"config_name": "a", "data_files": {"b": 1}}]]
)
def test_a_card_of_another_form_is_one_line(configs, tmp_path):
    with pytest.raises(ItemsError, match="configs in its card .README.md. are not of the form"):
        _checked_card(card(tmp_path, configs), "owner/name")


def test_usual_patterns_stay_and_nothing_else_of_a_card_is_handed_on(tmp_path):
    files = [{"split": "train", "path": "./data/train-*"}, {"split": "test", "path": ["a/**"]}]
    configs = [{"config_name": "default", "data_files": files}]
    text = _checked_card(card(tmp_path, [configs[0] | {"extra": "http://x"}]), "owner/name")
    assert json.loads(text.split("---")[1]) == {"configs": configs}


def test_a_card_that_is_damaged_or_endless_says_nothing(tmp_path):
    for text in ("---\n" + "[" * 5000 + "\n---\n", f"---\na: {'b' * 2**20}\n---\n", "\x00"):
        (tmp_path / "README.md").write_text(text)
        assert "configs" in _checked_card(tmp_path, "owner/name")
