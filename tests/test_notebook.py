"""What the notebook promises of itself: made from its script, explained cell by cell."""

import re
import subprocess
import sys

import jupytext
import nbformat

from pricer.files import writing
from tests.conftest import ROOT

SCRIPT = ROOT / "notebooks/pricer.py"
# in the order of the course
STEPS = ["Set up", "Which run fits this machine", "Items", "Prompts", "Base model", "Training"]
STEPS += ["Testing", "A product of yours", "Change a knob", "Take it along", "Serve it"]


def test_the_notebook_is_what_its_script_says_and_holds_nothing_of_a_machine(tmp_path):
    for name in ("pricer.py", "pricer.ipynb", "make.py"):
        (tmp_path / name).write_bytes((ROOT / "notebooks" / name).read_bytes())
    check = [sys.executable, str(tmp_path / "make.py"), "--check"]
    assert subprocess.run(check).returncode == 0
    notebook = nbformat.read(tmp_path / "pricer.ipynb", 4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 15
    assert not [cell for cell in code if cell.outputs or cell.execution_count or cell.metadata]

    script = tmp_path / "pricer.py"
    script.write_text(script.read_text().replace("print(", "print(1, ", 1))
    stale = subprocess.run(check, capture_output=True, text=True)
    assert stale.returncode == 1
    assert stale.stderr == "pricer.ipynb is not what pricer.py says: `make format` writes it\n"


def test_every_cell_is_explained_in_two_or_three_sentences():
    cells = jupytext.read(SCRIPT).cells
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source
            text = re.sub(r"^#.*\n", "", before.source)
            sentences = re.findall(r"[.?]\s+(?=[A-Z`])|\.$", text)
            assert 2 <= len(sentences) <= 3, before.source


def test_it_follows_the_courses_order():
    cells = jupytext.read(SCRIPT).cells
    headings = [found[1] for cell in cells if (found := re.match("## (.+)", cell.source))]
    assert headings[:-1] == STEPS


def test_it_looks_for_curves_where_they_lie_while_the_model_trains(tmp_path):
    with writing(tmp_path / "train", folder=True) as partial:
        assert f'draw("metrics/{partial.name}")' in SCRIPT.read_text()
