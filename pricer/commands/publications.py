"""What a run is on the Hugging Face Hub: its prompts as a data set, its adapter as a model."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, get_token

from pricer.errors import HubError, without_passwords
from pricer.escaping import markdown
from pricer.evidence.models import PRODUCTS
from pricer.files import read_facts, read_parquet, write_parquet
from pricer.hub import TOKENS, ask, read_origin
from pricer.prices.record import record_of
from pricer.provenance import file_sha256
from pricer.tables import table
from pricer.workspace import Workspace, require

# the names that the reference data sets use
PUBLISHED_SPLITS = {"train": "train", "validation": "val", "test": "test"}
SCORES = {
    "mae": "mean absolute error (USD)",
    "mse": "mean squared error (USD²)",
    "r2": "R²",
    "median_ae": "median absolute error (USD)",
    "rmsle": "root mean squared log error",
    "crps": "CRPS (USD)",
    "coverage_80": "share of prices in their 80% interval",
}
WITHOUT_EVIDENCE = (
    "The models that know what similar products cost, and hold the titles and prices of training "
    "products, are not part of this repository. The adapter was trained on prompts that tell it "
    "and cannot be asked without: who has the folder gives it as `evidence=` to `Predictor`."
)


@dataclass(frozen=True)
class Publication:
    """A repository on the Hub as it will be.

    Attributes:
        repo: OWNER/NAME.
        kind: of the repository.
        folder: holds all of its files.
        tag: names the run.
        note: what one should know before it is sent, in one line; "" if there is nothing.
    """

    repo: str
    kind: Literal["model", "dataset"]
    folder: Path
    tag: str
    note: str = ""

    def describe(self, *, public: bool) -> str:
        """Say what would be sent: the files with their sizes, and the card."""
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        lines = [
            f"{self.kind} {self.repo}, {'public' if public else 'private'}, tag {self.tag}",
            *(
                f"  {file.relative_to(self.folder)}  {file.stat().st_size:,} bytes"
                for file in files
            ),
            *([self.note] if self.note else []),
            "",
            (self.folder / "README.md").read_text(encoding="utf-8"),
        ]
        return "\n".join(lines)


def run_tag(lock_file: Path) -> str:
    """Return a tag that names a run by what DVC recorded of it: params, data and code."""
    return f"run-{file_sha256(lock_file)[:12]}"


def prompts_publication(
    repo: str, folder: Path, left: Workspace, *, params: dict[str, Any], tag: str
) -> Publication:
    """Write prompts and completions of each split, and the card, to a new folder."""
    folder.mkdir()
    counts, hashes = [], []
    for split, name in PUBLISHED_SPLITS.items():
        source = left.prompts / f"{split}.parquet"
        rows = read_parquet(source, columns=["prompt", "completion"])
        write_parquet(folder / "data" / f"{name}-00000-of-00001.parquet", rows)
        counts.append([f"`{name}`", f"{len(rows):,}"])
        hashes.append([f"`{split}.parquet`", f"`{file_sha256(source)}`"])
    tokens = read_facts(left.metrics / "prompts.json")
    card = [
        "---",
        "task_categories: [text-generation]",
        "tags: [price-prediction]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(f"  - {{split: {name}, path: data/{name}-*}}" for name in PUBLISHED_SPLITS.values()),
        "---",
        "",
        "# Prompts for price prediction",
        "",
        "Product descriptions as prompts, prices in US dollars as completions, made by `pricer`.",
        "",
        table(["split", "examples"], counts),
        "",
        f"- Products: {read_facts(left.metrics / 'items.json')['origin']}",
        f"- Tokenizer: that of {markdown(read_origin(left.base_model).base_model)}",
        f"- Cutoff: {params['prompts.cutoff']} tokens of a description; "
        f"{tokens['truncated']:,} of {tokens['n']:,} descriptions are longer",
        f"- The longest example has {tokens['example_tokens_max']} tokens, "
        f"{params['prompts.max_length']} are allowed",
        "- Completions of train and val are "
        + ("whole dollars; those of test are exact" if params["prompts.round_prices"] else "exact"),
        *_told_in_prompts(params),
        f"- Run: `{tag}`",
        "",
        table(["prompts of the run", "SHA-256"], hashes),
        "",
        "The license of the products is that of where they come from.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(card), encoding="utf-8")
    return Publication(repo, "dataset", folder, tag)


def _told_in_prompts(params: dict[str, Any]) -> list[str]:
    neighbors, words = params["evidence.neighbors"], params["evidence.words"]
    told = [f"the prices of {neighbors} similar training products"] if neighbors else []
    told += ["what a linear model of words and neighbours suggests"] if words else []
    if not told:
        return []
    return [
        f"- Prompts tell evidence after the description: {' and '.join(told)}; "
        "for products of train, without their own price"
    ]


def adapter_publication(
    repo: str, folder: Path, left: Workspace, *, tag: str, evidence: bool = True
) -> Publication:
    """Copy an adapter to a new folder, with what the run measured added to its card.

    Args:
        repo: OWNER/NAME.
        folder: to make.
        left: what the run left.
        tag: names the run.
        evidence: where prompts tell evidence, whether the models that it comes from go along.
    """
    folder.mkdir()
    for file in sorted(left.adapter.iterdir()):
        shutil.copyfile(file, folder / file.name)
    scores = read_facts(left.metrics / "evaluate.json")
    rows = [
        [
            label,
            f"{scores[key]:.4g}",
            f"{scores[f'{key}_ci_low']:.4g} to {scores[f'{key}_ci_high']:.4g}"
            if f"{key}_ci_low" in scores
            else "",
        ]
        for key, label in SCORES.items()
        if key in scores
    ]
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(
            f"\n## Results\n\nOn {scores['n']:,} test products: "
            f"{read_facts(left.metrics / 'items.json')['origin']}.\n\n"
            f"{table(['score', 'value', '95% interval'], rows)}\n\nRun: `{tag}`\n"
        )
        if record_of(left.adapter).evidence is None:
            return Publication(repo, "model", folder, tag)
        note = _add_evidence(folder, left) if evidence else WITHOUT_EVIDENCE
        card.write(f"\n## Evidence\n\n{note}\n")
    return Publication(repo, "model", folder, tag, note)


def _add_evidence(folder: Path, left: Workspace) -> str:
    """Copy the models of evidence into an adapter's folder, and say what they tell whom."""
    require(left.evidence_models)
    shutil.copytree(left.evidence_models, folder / "evidence")
    products = len(read_parquet(folder / "evidence" / PRODUCTS, ["id"]))
    return (
        f"`evidence/` holds the titles and prices of {products:,} training products, for all to "
        "read who may read this repository. What prompts tell of similar products comes from "
        'there: `Predictor("BASE_MODEL_FOLDER", "THIS_ADAPTER", evidence="THIS_ADAPTER/evidence")`.'
    )


def publish(publication: Publication, *, public: bool) -> str:
    """Send a publication as one commit, tag it, and return its address.

    Raises:
        HubError: there is no token, the Hub refuses, or the repository can be seen by all and
            `public` is not set.
    """
    if not get_token():
        raise HubError(
            "no token to publish with: make one that may write "
            f"at {TOKENS} and put it into HF_TOKEN, in the environment or in .env"
        )
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set: unset it to publish")
    api = HfApi()
    repo, kind = publication.repo, publication.kind

    def send() -> str:
        url = api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo, repo_type=kind).private:
            raise HubError(f"{repo} exists and can be seen by all: add --public if it may")
        done = api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=publication.folder,
            commit_message=f"pricer {publication.tag}",
        )
        api.create_tag(repo, tag=publication.tag, revision=done.oid, repo_type=kind, exist_ok=True)
        return str(url)

    return without_passwords(
        ask(send, repo, kind, named="--prompts" if kind == "dataset" else "--adapter")
    )
