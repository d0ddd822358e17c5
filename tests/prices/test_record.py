"""What belongs together is priced with; anything else is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pricer.errors import PricerError
from pricer.model.adapters import adapter_sha256
from pricer.model.base import base_model_sha256, load_base_model
from pricer.prices.predictor import Predictor
from pricer.prices.record import (
    QUANTIZATION,
    Calibration,
    ServingRecord,
    ToldEvidence,
    check_belongs,
    read_record,
    record_of,
    write_record,
)
from pricer.provenance import folder_digest

UNQUANTIZED = QUANTIZATION.model_copy(update={"load_in_4bit": False})


@pytest.fixture
def base(base_model_dir, tmp_path) -> Path:
    """A base model of this test's own, to damage."""
    return Path(shutil.copytree(base_model_dir, tmp_path / "base_model"))


@pytest.fixture
def adapter(base_model_dir, base, tmp_path) -> Path:
    """An adapter with a card that names the base model that it was trained on."""
    model = load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=UNQUANTIZED,
    )
    folder = tmp_path / "adapter"
    get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(folder)
    write_card(folder, base_model_sha256=base_model_sha256(base), cutoff=7)
    return folder


def write_card(folder: Path, **settings: object) -> None:
    (folder / "README.md").write_text(f"---\npricer: {json.dumps(settings)}\n---\n# An adapter\n")


@pytest.fixture
def record(base, adapter) -> ServingRecord:
    return ServingRecord(
        quantization=UNQUANTIZED,
        dtype="float32",
        calibration=Calibration(method="made up", n=9, offsets={"80": 0.25}),
        base_model_sha256=base_model_sha256(base),
        adapter_sha256=adapter_sha256(adapter),
    )


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def refusal(
    record: ServingRecord, base: Path, adapter: Path | None, evidence: Path | None = None
) -> str:
    with pytest.raises(PricerError) as error:
        check_belongs(record, base, adapter, evidence)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_record_comes_back_as_it_was_written(record, tmp_path):
    write_record(tmp_path / "tuned.json", record)
    assert read_record(tmp_path / "tuned.json") == record


def test_what_belongs_together_is_calibrated(record, base, adapter):
    [estimate] = Predictor(base, adapter, settings=record).predict(["steel kettle"])
    assert estimate.calibrated


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_another_base_model_is_refused(record, base, adapter, name):
    flip_a_bit(base / name)
    assert f"{base} is not the one that {adapter} was trained on" in refusal(record, base, adapter)
    (adapter / "README.md").unlink()
    assert f"{base} is not the one that the serving record is of" in refusal(record, base, adapter)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_another_adapter_is_refused(record, base, adapter, name):
    flip_a_bit(adapter / name)
    assert f"{adapter} is not the one that the serving record is of" in refusal(
        record, base, adapter
    )


def test_a_calibration_of_another_model_is_refused(record, base, adapter):
    assert "no adapter is not the one that the serving" in refusal(record, base, None)
    of_base = record.model_copy(update={"adapter_sha256": None})
    assert f"{adapter} is not the one that the serving" in refusal(of_base, base, adapter)
    with pytest.raises(PricerError, match="is not the one that the serving record is of"):
        Predictor(base, adapter, settings=of_base)


def test_a_base_model_that_the_adapter_was_not_trained_on_is_refused(base, adapter):
    flip_a_bit(base / "model.safetensors")
    said = refusal(ServingRecord(), base, adapter)
    assert f"{base} is not the one that {adapter} was trained on (SHA-256 " in said


def test_an_adapter_is_used_with_what_its_card_says(base, adapter):
    """Two folders are enough, as docs and the card itself say."""
    check_belongs(record_of(adapter), base, adapter)


def test_evidence_of_another_run_or_none_is_refused(record, base, adapter, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "words.safetensors").write_bytes(b"fitted")
    told = ToldEvidence(neighbors=3, words=True, models_sha256=folder_digest(models))
    record = record.model_copy(update={"evidence": told})
    check_belongs(record, base, adapter, models)
    assert "is asked with evidence in its prompts" in refusal(record, base, adapter)
    assert "nowhere is no folder, must hold" in refusal(record, base, adapter, tmp_path / "nowhere")
    flip_a_bit(models / "words.safetensors")
    assert f"{models} is not the one that the serving record is of" in refusal(
        record, base, adapter, models
    )
    # without a hash nothing is compared, and evidence that nobody is told is not looked at
    free = told.model_copy(update={"models_sha256": None})
    check_belongs(record.model_copy(update={"evidence": free}), base, adapter, models)
    check_belongs(record.model_copy(update={"evidence": None}), base, adapter, models)


def test_a_card_that_tells_evidence_asks_for_its_models(base, adapter):
    write_card(adapter, evidence={"neighbors": 2, "words": False})
    assert record_of(adapter).evidence == ToldEvidence(neighbors=2, words=False)
    with pytest.raises(PricerError, match="give the folder of its models, evidence="):
        Predictor(base, adapter)


def test_the_card_says_how_an_adapter_is_asked(adapter):
    assert record_of(adapter).cutoff == 7 and record_of(None).cutoff == 96
    (adapter / "README.md").write_text("# Somebody else's adapter\n")
    assert record_of(adapter) == ServingRecord()
    others = ServingRecord(cutoff=50, max_price=500)
    assert record_of(adapter, among=others) == others
    write_card(adapter, cutoff=7)
    found = record_of(adapter, among=others)
    assert (found.cutoff, found.max_price, found.base_model_sha256) == (7, 500, None)
    write_card(adapter, cutoff="many")
    with pytest.raises(PricerError, match=r"README.md: pricer.cutoff: Input should be"):
        record_of(adapter)


def test_a_card_may_be_edited(record, base, adapter):
    card = adapter / "README.md"
    card.write_text(card.read_text() + "\n## Results\n")
    check_belongs(record, base, adapter)


def test_where_a_base_model_lies_and_came_from_changes_nothing(base, base_model_dir):
    (base / "origin.json").write_text('{"base_model": "folder elsewhere"}')
    assert base_model_sha256(base) == base_model_sha256(base_model_dir)
    files = {"model.safetensors": {"size": 1, "sha256": "0" * 64}}
    hub = {"repo": "a/b", "commit": "c" * 40, "files": files}
    (base / "origin.json").write_text(json.dumps({"base_model": "a/b", "hub": hub}))
    assert base_model_sha256(base) != base_model_sha256(base_model_dir)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"[1]", "valid dictionary"),
        (b'{"cutoff": 0}', "cutoff: Input should be greater than or equal to 1"),
        (b'{"cutof": 1}', "cutof: Extra inputs"),
        (b'{"max_dropped_mass": NaN}', "max_dropped_mass: Input should be a finite number"),
        (
            b'{"calibration": {"method": "", "n": 9, "offsets": {"80": Infinity}}}',
            "calibration.offsets.80: Input should be a finite number",
        ),
        (
            b'{"calibration": {"method": "", "n": 9, "offsets": {"80": 6.95}}}',
            "calibration.offsets.80 must be -6.9 to 6.9 for prices up to $999, got 6.95",
        ),
        (
            b'{"calibration": {"method": "", "n": 9, "offsets": {}, "slope": -0.1}}',
            "calibration.slope: Input should be greater than or equal to 0",
        ),
        (
            b'{"calibration": {"method": "", "n": 9, "offsets": {}, "intercept": 1e10}}',
            "calibration.intercept: Input should be less than or equal to 1000000000",
        ),
        (b"[" * 100_000, "nested too deep"),
        (b'{"evidence": {"neighbors": 3}}', "evidence.words: Field required"),
        (b'{"evidence": {"neighbors": 11, "words": true}}', "evidence.neighbors: Input should"),
        (b'{"base_model_sha256": "short"}', "base_model_sha256: String should match"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, content, says):
    file = tmp_path / "tuned.json"
    file.write_bytes(content)
    with pytest.raises(PricerError, match="tuned.json is no serving record") as error:
        read_record(file)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_card_without_evidence_means_none_also_beside_one_with_it(tmp_path):
    among = ServingRecord(cutoff=60, evidence=ToldEvidence(neighbors=3, words=True), point="mean")
    (tmp_path / "README.md").write_text('---\npricer: {"cutoff": 90}\n---\n')
    asked = record_of(tmp_path, among=among)
    assert (asked.cutoff, asked.evidence, asked.point) == (90, None, "mean")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")  # one that says nothing
    assert record_of(tmp_path, among=among).evidence == among.evidence
