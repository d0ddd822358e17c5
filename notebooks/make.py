"""Make each `.ipynb` from the `.py` beside it, without outputs; with --check, compare.

The same text gives the same bytes: cells are numbered, and nothing of a machine is in it.
"""

import sys
from pathlib import Path

import jupytext
import nbformat

KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook_text(script: Path) -> str:
    """Return the notebook of a script in jupytext's percent format."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)) + "\n"


def main() -> None:
    """Write the notebooks, or compare them."""
    for script in sorted(set(Path(__file__).parent.glob("*.py")) - {Path(__file__)}):
        text, notebook = notebook_text(script), script.with_suffix(".ipynb")
        if sys.argv[1:] != ["--check"]:
            notebook.write_text(text, encoding="utf-8")
        elif not notebook.exists() or notebook.read_text(encoding="utf-8") != text:
            sys.exit(f"{notebook.name} is not what {script.name} says: `make format` writes it")


if __name__ == "__main__":
    main()
