"""`pricer publish`: prompts and adapter of the last run to the Hugging Face Hub."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pricer.errors import PricerError, quoted
from pricer.workspace import Workspace


def publish(
    adapter: Annotated[str | None, typer.Option(help="OWNER/NAME of the model")] = None,
    prompts: Annotated[str | None, typer.Option(help="OWNER/NAME of the data set")] = None,
    public: Annotated[bool, typer.Option("--public", help="for all to see; else private")] = False,
    without_evidence: Annotated[
        bool,
        typer.Option(
            "--without-evidence", help="keep titles and prices of training products from it"
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be sent")] = False,
) -> None:
    """Send the adapter, the prompts or both of the last run to the Hugging Face Hub."""
    if not adapter and not prompts:
        raise PricerError("name a repository with --adapter or --prompts (OWNER/NAME)")
    # DVC, pandas and the Hub's client take a second to import: only this command waits for them
    from pricer.commands.publications import adapter_publication, prompts_publication, run_tag
    from pricer.commands.publications import publish as send
    from pricer.commands.runs import stages_to_run
    from pricer.params import REPOSITORY, flat_params, read_params

    for repo in filter(None, (adapter, prompts)):
        if not re.fullmatch(REPOSITORY, repo):
            raise PricerError(f"{quoted(repo)} is no name of a repository, must be OWNER/NAME")
    params = flat_params(dict(read_params()))
    # a card must not tell the scores or the data of another run
    if stale := stages_to_run("evaluate" if adapter else "prompts"):
        raise PricerError(f"{', '.join(stale)} would run anew: `dvc repro` first, then publish")
    left = Workspace()
    tag = run_tag(left.lock)
    with tempfile.TemporaryDirectory() as temporary:
        folder, publications = Path(temporary), []
        if prompts:
            publications.append(
                prompts_publication(prompts, folder / "prompts", left, params=params, tag=tag)
            )
        if adapter:
            publications.append(
                adapter_publication(
                    adapter, folder / "adapter", left, tag=tag, evidence=not without_evidence
                )
            )
        for publication in publications:
            if dry_run:
                print(publication.describe(public=public))
            else:
                print(f"{send(publication, public=public)} (tag {tag})")
                print(publication.note, end="\n" if publication.note else "")
