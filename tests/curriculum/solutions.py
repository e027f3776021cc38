"""Copies of notebooks whose last cells are the folded solutions of their exercises: a run of a copy tries both.

`python tests/curriculum/solutions.py FOLDER NOTEBOOK ...` writes them; `make test` runs them in place of the originals.
"""

import re
import sys
from pathlib import Path

import nbformat

FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL | re.IGNORECASE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def markdown(notebook) -> str:
    """All the text of a notebook."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def solutions(notebook) -> list[str]:
    """The Python of every folded solution, in order."""
    folded = [body for summary, body in FOLDED.findall(markdown(notebook)) if "solution" in summary.lower()]
    return [block for body in folded for block in PYTHON.findall(body)]


def with_solutions(path: Path, folder: Path) -> Path:
    """Write a copy of a notebook into `folder`, its solutions as its last cells; their outputs are not compared."""
    notebook = nbformat.read(path, as_version=4)
    for block in solutions(notebook):
        tags = {"tags": ["nbval-ignore-output"]}
        notebook.cells.append(nbformat.v4.new_code_cell(block.rstrip("\n"), metadata=tags))
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


if __name__ == "__main__":
    for name in sys.argv[2:]:
        with_solutions(Path(name), Path(sys.argv[1]))
