"""Presets: whole sets of knobs, written to `params.yaml` without losing its comments."""

import difflib
import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from pricer.errors import ParamsError
from pricer.params import read_params


def preset_names(folder: Path) -> list[str]:
    """Return the names of all presets."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def preset_file(folder: Path, name: str) -> Path:
    """Return the file of a preset, all of it checked.

    Raises:
        ParamsError: there is no such preset, or it is no complete and sound set of knobs.
    """
    if name not in preset_names(folder):
        known = ", ".join(preset_names(folder)) or f"none in {folder}: run from the project's root"
        raise ParamsError(f"there is no preset {name!r} (known: {known})")
    read_params(folder / f"{name}.yaml")
    return folder / f"{name}.yaml"


class _Representer(RoundTripRepresenter):
    """Writes `null` where the library would write nothing."""

    def represent_null(self, _: None) -> ScalarNode:
        """Return the node of None."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_null)


def with_preset(text: str, preset: str) -> str:
    """Return the params file `text` with the values of `preset`, in its own order and comments.

    Args:
        text: of `params.yaml`; a knob that the preset does not have is taken out.
        preset: of a preset.

    Raises:
        ParamsError: `text` is no YAML, so that nobody can tell what it says.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1000  # no line is broken that was not
    try:
        params, values = yaml.load(text), yaml.load(preset)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise ParamsError(
            f"params.yaml is not valid YAML{where}: mend it, or `git checkout params.yaml`"
        ) from None
    if not isinstance(params, dict):  # there is nothing to keep
        return preset
    _update(params, values)
    stream = io.StringIO()
    yaml.dump(params, stream)
    return stream.getvalue()


def _update(section: dict[str, Any], values: dict[str, Any]) -> None:
    for key in [key for key in section if key not in values]:
        del section[key]
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(section.get(key), dict):
            _update(section[key], value)
        # an equal value keeps its spelling
        elif key not in section or section[key] != value or type(section[key]) is not type(value):
            section[key] = value


def difference(before: str, after: str, name: str) -> str:
    """Return what differs between two texts of the file `name`, as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        fromfile=name,
        tofile=f"{name} (new)",
    )
    return "".join(lines)
