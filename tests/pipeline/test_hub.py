"""A whole run on products and a base model from the Hub, and what it publishes."""

import json
from pathlib import Path

import pandas as pd

from pricer.products.catalog import generate_products
from tests.hub_server import folder_files

from .conftest import knowing

TOKEN = "hf_secretOfTheTests"


def item_files(folder: Path) -> dict[str, bytes]:
    """The files of a data set of 36, 12 and 12 products; the last split's stay in `folder` too."""
    products = pd.DataFrame(
        generate_products(60, seed=3, noise=0.1, min_price=1, max_price=900)
    ).drop(columns="noise_free_price")
    files = {}
    for split, rows in (("train", slice(0, 36)), ("val", slice(36, 48)), ("test", slice(48, 60))):
        products[rows].to_parquet(folder / "table.parquet")
        files[f"data/{split}-00000-of-00001.parquet"] = (folder / "table.parquet").read_bytes()
    return files


def test_from_the_hub_and_back(reproduced, served, base_model_dir, tmp_path):
    hub, *_ = served
    project = knowing(served, reproduced.copy(tmp_path / "project"))
    folder, files = project.folder, item_files(tmp_path)
    hub.add("dataset", "shop/items", files)
    card = b"---\nlicense: apache-2.0\n---\n"
    model = folder_files(base_model_dir) | {"README.md": card}
    hub.add("model", "shop/tiny", model, gated=True)
    hub.tokens[TOKEN] = {"shop/tiny", "write"}
    del project.environment["HF_TOKEN"]
    (folder / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    project.set(
        items__source="hub",
        items__hub__dataset="shop/items",
        model__source="hub",
        model__hub__id="shop/tiny",
    )
    project.run("dvc", "repro")

    adapter = json.loads((folder / "data/adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "shop/tiny"
    card = (folder / "data/adapter/README.md").read_text()
    assert 'base_model: "shop/tiny"\n' in card and 'license: "apache-2.0"\n' in card
    commit = hub.repos["model", "shop/tiny"].find("main")
    assert f'from_pretrained("shop/tiny", revision="{commit}")' in card
    assert not list((folder / "data/base_model").glob("*.safetensors"))
    counts = json.loads((folder / "metrics/items.json").read_text())
    assert counts["dataset"] == "shop/items" and counts["read"] == 60

    command = ["pricer", "publish", "--adapter", "tests/adapter", "--prompts", "tests/prompts"]
    said = project.run(*command, "--dry-run").stdout
    assert "model tests/adapter, private" in said and "## Results" in said
    assert ("model", "tests/adapter") not in hub.repos
    project.run(*command)
    [(tag, commit)] = hub.repos["model", "tests/adapter"].tags.items()
    assert f"tag {tag}" in said
    weights = hub.repos["model", "tests/adapter"].commits[commit]["adapter_model.safetensors"]
    assert weights == (folder / "data/adapter/adapter_model.safetensors").read_bytes()
    prompts = hub.repos["dataset", "tests/prompts"]
    assert "data/val-00000-of-00001.parquet" in prompts.commits[prompts.tags[tag]]

    # the prompts are a data set to train on; what is trained is not published as something else
    project.set(items__hub__dataset="tests/prompts", prompts__cutoff=59)
    failed = project.run(*command, ok=False)
    assert "fetch@items, predict, predict_base, prompts, train would run anew" in failed.stderr
    project.run("dvc", "repro", "prompts")
    before = pd.read_parquet(tmp_path / "table.parquet")
    again = pd.read_parquet(folder / "data/items/test.parquet")
    assert again["title"].tolist() == before["title"].tolist()
    assert again["price"].tolist() == before["price"].tolist()

    for place in ("data", "metrics", "dvc.lock", ".dvc/tmp", "params.yaml"):
        found = [folder / place] if (folder / place).is_file() else (folder / place).rglob("*")
        for file in found:
            assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
