"""Presets: what sets of knobs change of the defaults, and how they get into `params.yaml`.

`demo.yaml` holds the defaults, every one of them; the others are overlays on it. Some come with the
library; a project may have more of its own.
"""

import difflib
import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from pricer.errors import ParamsError, quoted
from pricer.params import Params, flat, load_yaml, params_text, parse_params
from pricer.provenance import PACKAGE

BUILT_IN = PACKAGE / "presets"
DEFAULTS = "demo"


def preset_files(folder: Path) -> dict[str, Path]:
    """Return the file of every preset by its name: the library's, and those of a project's folder.

    Of two with the same name, the project's is taken.
    """
    files = {file.stem: file for file in (*BUILT_IN.glob("*.yaml"), *folder.glob("*.yaml"))}
    return dict(sorted(files.items()))


def preset_params(folder: Path, name: str) -> Params:
    """Return the params of a preset: the defaults with what it changes.

    Raises:
        ParamsError: there is no such preset, or with it the params are not allowed.
    """
    text = preset_text(folder, name)
    return parse_params(text, preset_files(folder)[name])


def preset_text(folder: Path, name: str) -> str:
    """Return a whole params file with the values of a preset and the comments of the defaults.

    Raises:
        ParamsError: there is no such preset, or it does not map sections to knobs.
    """
    params = _overlay(folder, DEFAULTS)
    if name == DEFAULTS:
        return params_text(preset_files(folder)[DEFAULTS])
    _update(params, _overlay(folder, name))
    return dump(params)


def with_knobs(text: str, values: dict[str, Any]) -> str:
    """Return the params file `text` with other values, by section and knob; comments stay."""
    params = round_trip().load(text)
    _update(params, values)
    return dump(params)


def check_preset(folder: Path, name: str) -> None:
    """Check that a preset is sound and, but for the defaults, holds only what differs from them.

    Raises:
        ParamsError: with what is wrong.
    """
    preset_params(folder, name)
    if name == DEFAULTS:
        return
    defaults = flat(_overlay(folder, DEFAULTS))
    repeated = [
        f"{knob} repeats the default, {value}"
        for knob, value in flat(_overlay(folder, name)).items()
        if defaults[knob] == value
    ]
    if repeated:
        raise ParamsError(f"{preset_files(folder)[name]}: {'; '.join(repeated)}: take it out")


def _overlay(folder: Path, name: str) -> dict[str, Any]:
    files = preset_files(folder)
    if name not in files:
        raise ParamsError(f"there is no preset {quoted(name)} (known: {', '.join(files)})")
    file = files[name]
    values = load_yaml(round_trip(), params_text(file), file)
    if not isinstance(values, dict):
        raise ParamsError(f"{file} must map sections to the knobs that differ from the defaults")
    return values


class _Representer(RoundTripRepresenter):
    """Writes `null` where the library would write nothing."""

    def represent_null(self, _: None) -> ScalarNode:
        """Return the node of None."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_null)


def round_trip() -> YAML:
    """Return what reads and writes YAML with its comments and order."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1000  # no line is broken that was not
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def dump(params: dict[str, Any]) -> str:
    """Return what `round_trip` has read as text."""
    stream = io.StringIO()
    round_trip().dump(params, stream)
    return stream.getvalue()


def with_preset(text: str, preset: str) -> str:
    """Return the params file `text` with the values of `preset`, in its own order and comments.

    Args:
        text: of `params.yaml`; a knob that the preset does not have is taken out.
        preset: a whole params file, from `preset_text`.

    Raises:
        ParamsError: `text` is no YAML, so that nobody can tell what it says.
    """
    params = load_yaml(round_trip(), text, Path("params.yaml"))
    if not isinstance(params, dict):  # there is nothing to keep
        return preset
    values = round_trip().load(preset)
    _remove_others(params, values)
    _update(params, values)
    return dump(params)


def _remove_others(section: dict[str, Any], values: dict[str, Any]) -> None:
    """Take out the knobs of a section that `values` does not have."""
    for key in [key for key in section if key not in values]:
        del section[key]
    for key, value in section.items():
        if isinstance(value, dict) and isinstance(values[key], dict):
            _remove_others(value, values[key])


def _update(section: dict[str, Any], values: dict[str, Any]) -> None:
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
