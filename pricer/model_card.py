"""The README that travels with an adapter: what it is and what made it, nothing measured."""

import json
from pathlib import Path

from pricer.params import Params
from pricer.provenance import file_sha256

SECTIONS = ("quantization", "lora", "train")


def adapter_card(params: Params, base_model_dir: Path, prompts_dir: Path) -> str:
    """Return the model card of an adapter in Markdown, the same for the same inputs."""
    base_model = base_model_dir.name
    origin = base_model_dir / "origin.json"
    if origin.is_file():
        base_model = json.loads(origin.read_text(encoding="utf-8"))["base_model"]
    rows = [
        f"| `{section}.{key}` | `{value}` |"
        for section in SECTIONS
        for key, value in getattr(params, section).model_dump().items()
    ]
    hashes = [
        f"| `{split}.parquet` | `{file_sha256(prompts_dir / f'{split}.parquet')}` |"
        for split in ("train", "validation")
    ]
    return "\n".join(
        [
            "---",
            "library_name: peft",
            "pipeline_tag: text-generation",
            "tags: [lora, qlora, price-prediction]",
            "---",
            "",
            "# Price adapter",
            "",
            "A LoRA adapter that makes a language model continue a product description with its "
            "price in US dollars, trained by `pricer`.",
            "",
            f"- Base model: {base_model}",
            "- Format: PEFT; `peft.PeftModel.from_pretrained(base_model, this_folder)` loads it",
            "",
            "| param | value |",
            "|---|---|",
            *rows,
            "",
            "| prompts | SHA-256 |",
            "|---|---|",
            *hashes,
            "",
        ]
    )
