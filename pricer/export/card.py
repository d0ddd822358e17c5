"""What is written beside an exported model: where it is from, how to ask it, how it was judged."""

import json
import shutil
from pathlib import Path
from typing import Literal

from pricer.escaping import markdown
from pricer.hub import read_origin
from pricer.prices.record import ServingRecord
from pricer.products.prompts import build_prompt, evidence_line
from pricer.provenance import folder_digest

EVIDENCE = "evidence"


def model_card(
    base: Path,
    adapter: Path,
    settings: ServingRecord,
    *,
    relation: Literal["merge", "adapter"] = "merge",
    is_made: str,
    judged: str,
    use: str,
) -> str:
    """Return the card of an exported model, which `Predictor` reads too.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter.
        settings: how the exported model is asked.
        relation: to the base model, as the Hub calls it.
        is_made: what it is, in a sentence.
        judged: how its prices differ from the trained model's.
        use: how it is used, in Markdown.
    """
    origin = read_origin(base)
    facts: dict[str, object] = {}
    if origin.hub:
        facts |= {"base_model": origin.hub.repo, "base_model_relation": relation}
        facts |= {str(key): text for key, text in origin.hub.license.items()}
    facts["pricer"] = settings.model_dump(
        include={"base_model_sha256", "cutoff", "quantization", "evidence", "max_price"},
        exclude_none=True,
    )
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value)}" for key, value in facts.items()),
            "pipeline_tag: text-generation",
            "tags: [price-prediction]",
            "---",
            "",
            "# Prices of products",
            "",
            is_made,
            "",
            f"- Base model: {markdown(origin.base_model)}",
            *(["- Built with Llama"] if "llama" in str(facts.get("license", "")) else []),
            f"- Adapter: SHA-256 {folder_digest(adapter)[:12]} of its folder",
            "",
            "## Judged again",
            "",
            judged,
            "",
            "## Use",
            "",
            use,
            "",
            "A prompt, whose next token is the price:",
            "",
            "```text",
            example_prompt(settings),
            "```",
            "",
            f"The description is cut to {settings.cutoff} tokens.",
            "",
        ]
    )


def example_prompt(settings: ServingRecord) -> str:
    """Return a prompt of the form that the model was trained on."""
    told = settings.evidence
    line = ""
    if told:
        neighbors = [119, 135, 99, 129, 89, 145, 109, 125, 139, 95][: told.neighbors]
        line = evidence_line(neighbors, 122 if told.words else None)
    return build_prompt("Noise-cancelling over-ear headphones, 40 h battery", line)


def copy_evidence(evidence: Path, folder: Path) -> str:
    """Copy the models of evidence into an exported folder, and say what they are."""
    shutil.copytree(evidence, folder / EVIDENCE)
    return (
        "Prompts tell what similar products cost; the models in `evidence/` know it, and hold the "
        "titles and prices of all training products: leave that folder out of what others may "
        "read if they may not."
    )
