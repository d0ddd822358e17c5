"""What has no exact sum, or is asked in another way, is refused before anything is loaded."""

import json
from pathlib import Path

import pytest

from pricer.errors import PricerError
from pricer.export.combining import check_combinable
from pricer.model.base import base_model_sha256
from pricer.prices.record import ServingRecord, ToldEvidence

RECORD = ServingRecord(cutoff=60, evidence=ToldEvidence(neighbors=0, words=True))


def an_adapter(folder: Path, base: Path, config: dict, card: dict) -> Path:
    folder.mkdir()
    plain = {"peft_type": "LORA", "target_modules": ["q_proj"], "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    told = {
        "base_model_sha256": base_model_sha256(base),
        "cutoff": 60,
        "quantization": RECORD.quantization.model_dump(),
        "evidence": {"neighbors": 0, "words": True},
    }
    said = {key: value for key, value in (told | card).items() if value is not None}
    (folder / "README.md").write_text(f"---\npricer: {json.dumps(said)}\n---\n")
    return folder


@pytest.mark.parametrize(
    ("config", "card", "says"),
    [
        ({}, {}, None),
        ({"use_dora": True}, {}, "has use_dora True, with which adapters have no sum"),
        ({"lora_bias": True}, {}, "has lora_bias True"),
        ({"init_lora_weights": "olora"}, {}, "has init_lora_weights 'olora'"),
        ({"layers_to_transform": [1]}, {}, "has layers_to_transform"),
        ({"target_modules": ".*proj"}, {}, "names its layers by a pattern"),
        ({}, {"base_model_sha256": "0" * 64}, "its card says base_model_sha256 '000"),
        ({}, {"cutoff": 110}, "its card says cutoff 110, the last run has 60"),
        ({}, {"evidence": None}, "its card says evidence None"),
        ({}, {"quantization": None}, "its card says quantization None"),
    ],
)
def test_what_cannot_be_summed_is_told(base_model_dir, tmp_path, config, card, says):
    one = an_adapter(tmp_path / "one", base_model_dir, {}, {})
    other = an_adapter(tmp_path / "other", base_model_dir, config, card)
    if says is None:
        check_combinable({one: 0.5, other: 0.5}, base_model_dir, RECORD)
        return
    with pytest.raises(PricerError, match=f"other: .*{says}"):
        check_combinable({one: 0.5, other: 0.5}, base_model_dir, RECORD)
