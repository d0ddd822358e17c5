"""What others build on: few names, each where it says, with an example that runs."""

import doctest
import subprocess
import sys
import tomllib

import pytest

import pricer
from tests.conftest import ROOT


def test_the_public_names_are_these():
    assert pricer.__all__ == [
        "Neighbor",
        "PriceEstimate",
        "Predictor",
        "PricerError",
        "ServingRecord",
        "build_prompt",
        "crps",
    ]
    assert set(pricer._HOMES) == set(pricer.__all__)


@pytest.mark.parametrize("name", pricer.__all__)
def test_a_public_name_is_documented_where_it_lives(name):
    value = getattr(pricer, name)
    assert value.__doc__ and value.__module__ == pricer._HOMES[name]


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="module 'pricer' has no attribute 'predictor_'"):
        pricer.predictor_  # noqa: B018


def test_the_command_tells_its_version(commands):
    told = subprocess.run([commands / "pricer", "--version"], capture_output=True, text=True)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{declared}\n", "")


def test_types_travel_with_the_package():
    assert (ROOT / "pricer/py.typed").is_file()


@pytest.mark.parametrize("name", ["build_prompt", "crps"])
def test_the_examples_in_the_docstrings_run(name):
    value = getattr(pricer, name)
    home = sys.modules[value.__module__].__dict__
    [found] = doctest.DocTestFinder(recurse=False).find(value, name, globs=dict(home))
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0


def test_modules_are_imported_when_they_are_asked_for(commands):
    module = "pricer.prices.predictor"
    code = f"import sys, pricer; before = {module!r} in sys.modules; pricer.Predictor; "
    code += f"sys.exit(before or {module!r} not in sys.modules)"
    assert subprocess.run([str(commands / "python"), "-c", code], cwd=ROOT).returncode == 0
