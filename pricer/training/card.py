"""The README that travels with an adapter: what it is, what made it, how to use it."""

import json
from pathlib import Path
from typing import Any

from pricer.escaping import markdown
from pricer.hub import read_origin
from pricer.model.base import base_model_sha256
from pricer.params import Params, flat_params
from pricer.products.prompts import PREFIX, QUESTION, evidence_line
from pricer.provenance import file_sha256

SECTIONS = ("quantization", "lora", "train")


def base_model_name(base_model_dir: Path) -> str:
    """Return what an adapter calls its base model: its name on the Hub, else its folder."""
    hub = read_origin(base_model_dir).hub
    return hub.repo if hub else str(base_model_dir)


def adapter_card(params: Params, base_model_dir: Path, prompts_dir: Path) -> str:
    """Return the model card of an adapter in Markdown, the same for the same inputs.

    The licence of a base model on the Hub is the adapter's too: it is made from it.
    """
    origin = read_origin(base_model_dir)
    hub = origin.hub
    facts: dict[str, Any] = {}
    told = {"neighbors": params.evidence.neighbors, "words": params.evidence.words}
    with_evidence = any(told.values())
    example = evidence_line([111, 82, 114][: told["neighbors"]], 122 if told["words"] else None)
    line = f", what similar products cost (`{example}`), an empty line" if with_evidence else ""
    models = ', evidence="EVIDENCE_MODELS"' if with_evidence else ""
    if hub:
        facts |= {"base_model": hub.repo, "base_model_relation": "adapter"}
        facts |= {str(key): text for key, text in hub.license.items()}
    # what `Predictor` reads, for the same prompts on the same base model
    facts["pricer"] = {
        "base_model_sha256": base_model_sha256(base_model_dir),
        "cutoff": params.prompts.cutoff,
        "quantization": params.quantization.model_dump(),
        **({"evidence": told} if with_evidence else {}),
    }
    rows = [
        f"| `{key}` | {markdown(str(value))} |"
        for key, value in flat_params({name: getattr(params, name) for name in SECTIONS}).items()
        if key != "train.backup"  # it changes nothing, and is nobody else's business
    ]
    hashes = [
        f"| `{split}.parquet` | `{file_sha256(prompts_dir / f'{split}.parquet')}` |"
        for split in ("train", "validation")
    ]
    named = f'"{hub.repo}", revision="{hub.commit}"' if hub else '"BASE_MODEL_FOLDER"'
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value)}" for key, value in facts.items()),
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
            f"- Base model: {markdown(origin.base_model)}",
            *(["- Built with Llama"] if "llama" in facts.get("license", "") else []),
            "- Format: PEFT",
            "",
            "## Use",
            "",
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"base_model = AutoModelForCausalLM.from_pretrained({named})",
            f"tokenizer = AutoTokenizer.from_pretrained({named})",
            'model = PeftModel.from_pretrained(base_model, "THIS_ADAPTER")',
            "```",
            "",
            f"A prompt is `{QUESTION}`, an empty line, the first {params.prompts.cutoff} tokens of "
            f"the description, an empty line{line} and `{PREFIX}`; the price "
            "comes next. `pricer` reads whole price distributions from it: "
            f'`Predictor("BASE_MODEL_FOLDER", "THIS_ADAPTER"{models})`.',
            "",
            "It is meant for estimates of what a new consumer product costs, from a text about "
            "it. It knows neither the date nor the market, repeats what its training data paid, "
            "and is no appraisal: do not decide about people or large sums with it.",
            "",
            "## Training",
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
