"""docs/params.md from the docstrings of `pricer/params.py`: `python docs/make_params.py`.

What is allowed follows from the types, the defaults from `pricer/presets/demo.yaml`, and who reads
a knob from `dvc.yaml`. With `--check`, as in `make lint`, nothing is written: the page has to be
so.
"""

import sys
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from ruamel.yaml import YAML

from pricer.params import ALLOWED, Params, flat, load_yaml, params_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/params.md"
DEFAULTS = ROOT / "pricer/presets/demo.yaml"

INTRO = """\
# Params

`params.yaml` holds every knob. Every stage checks all of it before it starts: unknown or missing \
keys, wrong types, values out of range and contradictions are told at once.

`dvc exp run -S train.learning_rate=1e-4` changes one for one run; `dvc params diff` shows what \
differs from the last commit. The defaults are the preset `demo`; `pricer preset` writes it, or \
another that changes some of them, to `params.yaml`.

This page is made from `pricer/params.py`: `make format` writes it, `make lint` compares it.
"""
HEAD = ["knob", "default", "allowed", "what it is", "read by"]


def page() -> str:
    """Return the page."""
    schema = Params.model_json_schema()
    defaults = flat(load_yaml(YAML(typ="safe", pure=True), params_text(DEFAULTS), DEFAULTS))
    readers = knob_readers(list(defaults))
    text = INTRO
    for stage in [name for name, knobs in readers.items() if len(knobs) == len(defaults)]:
        text += f"\n`{stage}` reads every knob, and is named where no other stage does.\n"
    sections = (section_text(name, schema, defaults, readers) for name in schema["properties"])
    return text + "".join(sections)


def knob_readers(knobs: list[str]) -> dict[str, set[str]]:
    """Return the knobs that each stage declares to read, itself or a section that they are in."""
    with Repo(str(ROOT)) as repo:
        declared = {
            stage.addressing: [
                key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params
            ]
            for stage in repo.index.stages
        }
    return {
        stage: {knob for knob in knobs if any(f"{knob}.".startswith(f"{key}.") for key in keys)}
        for stage, keys in declared.items()
    }


def section_text(
    name: str, schema: dict[str, Any], defaults: dict[str, Any], readers: dict[str, set[str]]
) -> str:
    """Return the text of a section and those in it.

    Args:
        name: dotted.
        schema: JSON schema of all params.
        defaults: by dotted key.
        readers: from `knob_readers`.
    """
    definition = resolved(name, schema)
    rows, inner = [HEAD, ["---"] * len(HEAD)], ""
    for key, knob in definition["properties"].items():
        dotted = f"{name}.{key}"
        if "$ref" in knob:
            inner += section_text(dotted, schema, defaults, readers)
            continue
        rows.append(
            [
                f"`{dotted}`",
                code(defaults[dotted]),
                allowed(knob),
                " ".join(knob["description"].split()).rstrip("."),
                ", ".join(f"`{stage}`" for stage in who_reads(dotted, readers)),
            ]
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"\n##{'#' * name.count('.')} {name}\n\n{definition['description']}\n\n{table}\n{inner}"


def resolved(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section by its dotted name."""
    section = schema
    for key in name.split("."):
        section = schema["$defs"][section["properties"][key]["$ref"].rpartition("/")[2]]
    return section


def who_reads(knob: str, readers: dict[str, set[str]]) -> list[str]:
    """Return the stages that read a knob; one that reads every knob only if no other does."""
    reading = [stage for stage, knobs in readers.items() if knob in knobs]
    every_knob = set().union(*readers.values())
    particular = [stage for stage in reading if readers[stage] != every_knob]
    return particular or reading


def allowed(knob: dict[str, Any]) -> str:
    """Return in words what the JSON schema of a knob allows."""
    if "anyOf" in knob:
        return ", or ".join(allowed(choice) for choice in knob["anyOf"])
    if "$ref" in knob:
        return "sections"
    if "enum" in knob:
        return ", ".join(code(value) for value in knob["enum"])
    match knob["type"]:
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
        case "array":
            return f"a list of {allowed(knob['items'])}"
        case "string":
            return ALLOWED[knob["pattern"]] if "pattern" in knob else "text"
        case _:
            return number_range(knob)


def number_range(knob: dict[str, Any]) -> str:
    """Return the range of a number in words."""
    low = f"above {knob['exclusiveMinimum']:g}" if "exclusiveMinimum" in knob else knob["minimum"]
    if "maximum" in knob:
        return f"{low} to {knob['maximum']}"
    if knob.get("exclusiveMaximum") == 1:
        return f"{low} to below 1"
    return f"{low}" if "exclusiveMinimum" in knob else f"{low} and up"


def code(value: Any) -> str:
    """Return a value as YAML has it, long ones cut."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value)
    return f"`{text if len(text) < 50 else f'{text[:12]}...'}`"


def main() -> None:
    """Write the page, or compare it."""
    text = page()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/params.md is not what pricer/params.py says: `make format` writes it anew")


if __name__ == "__main__":
    main()
