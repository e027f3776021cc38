"""Solutions of exercises are run: in copies of the notebooks, after everything else."""

import os
import subprocess
import sys

import nbformat
import pytest
from curriculum.solutions import solutions, with_solutions
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from common.config import ROOT

FOLDED = """<details><summary>{}</summary>

It doubles.

```python
assert double(two) == {}
```

```python
%time two = double(two)
```

</details>
"""


def lesson(folder, claim):
    """A notebook whose solution claims that twice two is `claim`."""
    text = FOLDED.format("Answer", "'never run'") + FOLDED.format("Solution", claim)
    cells = [new_code_cell("from common.config import ROOT\ntwo = 2"), new_markdown_cell(text),
             new_code_cell("def double(number):\n    return 2 * number")]  # fmt: skip
    nbformat.write(new_notebook(cells=cells), folder / "R0.ipynb")
    return folder / "R0.ipynb"


def run(folder):
    """Run a folder of copies as `make test` does; returns the exit status and what was said."""
    options = ["-p", "no:xdist", "--nbval-lax", "--nbval-current-env", "-c", ROOT / "pyproject.toml", folder]
    command = [sys.executable, "-m", "pytest", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # so that kernels that start elsewhere find common
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def test_solutions_stand_at_the_end_in_order_and_answers_do_not(tmp_path):
    original = lesson(tmp_path, 4)
    copy = with_solutions(original, tmp_path / "new" / "copies")
    before, after = (nbformat.read(path, as_version=4).cells for path in (original, copy))
    assert [cell.source for cell in after[:3]] == [cell.source for cell in before]
    assert [cell.source for cell in after[3:]] == ["assert double(two) == 4", "%time two = double(two)"]
    assert all(cell.metadata.tags == ["nbval-ignore-output"] for cell in after[3:])
    assert solutions(nbformat.read(original, as_version=4)) == [cell.source + "\n" for cell in after[3:]]


@pytest.mark.parametrize("claim, status", [(4, 0), (5, 1)])
def test_a_broken_solution_fails_the_test(claim, status, tmp_path):
    script = [sys.executable, ROOT / "tests" / "curriculum" / "solutions.py"]
    subprocess.run([*script, tmp_path / "copies", lesson(tmp_path, claim)], check=True)
    found, said = run(tmp_path / "copies")
    assert found == status, said
    assert ("AssertionError" in said) == (status == 1)
