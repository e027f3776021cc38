"""The notebooks keep their form, and the checker of that form sees what it should."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_form import complaints, solutions

from common.notebooks import NOTEBOOKS

ROOT = Path(__file__).resolve().parents[2]
FOUND = sorted(ROOT.glob("R*.ipynb"))
SOLUTION = "<details><summary>Solution</summary>\n\n```python\n%time print(1)\n```\n</details>\n"


def executed(source, count, *outputs):
    return new_code_cell(source, execution_count=count, outputs=list(outputs))


def figure(alt):
    return new_output("display_data", {"image/png": "/tmp/x"}, metadata={"image/png": {"alt": alt}} if alt else {})


def said(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def good_notebook():
    """A small notebook that keeps the form."""
    exercises = [f"### Exercise {n}\nTry it. **Hint**: look.\n\n{SOLUTION}" for n in (1, 2)]
    return new_notebook(
        cells=[
            new_markdown_cell("# R0: title\n[![Colab](badge)](https://colab.research.google.com/github/x)"),
            new_markdown_cell("## What you will learn\n- one\n- two\n- three\n\nTime: a minute.\n\n- not one"),
            executed("# NBVAL_CHECK_OUTPUT\n1 + 1", 1, new_output("execute_result", {"text/plain": "2"})),
            executed("%time show()", 2, figure("A line that rises."), said("see https://x.org/home/page 1/tmp/3")),
            new_markdown_cell("\n".join(["## Exercises", *exercises])),
            new_markdown_cell("## What flows forward\nEverything."),
        ]
    )


def drop(text, replacement=""):
    """A fault: every cell's source loses `text`."""

    def fault(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(text, replacement)

    return fault


def set_cell(number, **values):
    """A fault: one cell gets other values."""
    return lambda notebook: notebook.cells[number].update(values)


# name: (fault, words of the complaint it must cause)
FAULTS = {
    "too many cells": (
        lambda nb: nb.cells.__setitem__(slice(5, 5), [new_markdown_cell("x") for _ in range(35)]),
        "41 cells",
    ),
    "long cell": (set_cell(3, source="\n".join(["x = 1"] * 21)), "21 lines"),
    "few short cells": (set_cell(3, source="\n".join(["x = 1"] * 8)), "under 8 lines"),
    "function": (set_cell(3, source="def helper():\n    pass"), "defines helper"),
    "nested class": (set_cell(3, source="if True:\n    class Helper:\n        pass"), "defines Helper"),
    "no title": (drop("# R0", "R0"), "title"),
    "no badge": (drop("colab.research"), "badge"),
    "two objectives": (drop("- one\n"), "2 objectives"),
    "no objectives": (drop("What you will learn"), "0 objectives"),
    "six objectives": (drop("- two\n", "- a\n- b\n- c\n- d\n"), "6 objectives"),
    "one exercise": (drop("Exercise 2"), "1 exercises that"),
    "no hint": (drop("Hint"), "exercise 2 has no hint"),
    "open solution": (drop("<details>"), "no folded solution"),
    "broken solution": (drop("%time print(1)", "1 +"), "not Python"),
    "no ending": (drop("flows forward", "next"), "flows forward"),
    "out of order": (set_cell(3, execution_count=5), "execution counts"),
    "not executed": (set_cell(3, execution_count=None), "cell 3: not executed"),
    "checked, stripped": (set_cell(2, execution_count=None, outputs=[]), "the check is empty"),
    "nothing checked": (drop("NBVAL_CHECK_OUTPUT"), "pins a stable fact"),
    "check beside code": (drop("# NBVAL_CHECK_OUTPUT\n1 + 1", "1 + 1  # NBVAL_CHECK_OUTPUT"), "pins a stable fact"),
    "error": (set_cell(3, outputs=[new_output("error", ename="KeyError", evalue="", traceback=[])]), "KeyError"),
    "warning": (set_cell(3, outputs=[said("Warning: x", "stderr")]), "stderr"),
    "no alt text": (set_cell(3, outputs=[figure("")]), "alt text"),
    "blank alt text": (set_cell(3, outputs=[figure(" ")]), "alt text"),
    "local path": (set_cell(3, outputs=[said("saved to '/home/ann/x.pth'")]), "/home/ann"),
    "path in html": (
        set_cell(3, outputs=[new_output("display_data", {"text/html": "<td>/tmp/x.jpg</td>"})]),
        "/tmp/x.jpg",
    ),
    "too large": (set_cell(3, outputs=[said("x" * 1_500_000)]), "1.5 MB"),
}


def check(notebook, folder):
    path = folder / "R0.ipynb"
    nbformat.write(notebook, path)
    return complaints(path)


def test_good_form_raises_no_complaint(tmp_path):
    assert check(good_notebook(), tmp_path) == []
    assert solutions(good_notebook()) == ["%time print(1)\n"] * 2


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(name, tmp_path):
    fault, words = FAULTS[name]
    notebook = good_notebook()
    fault(notebook)
    found = check(notebook, tmp_path)
    assert any(words in complaint for complaint in found), found


def test_there_are_notebooks_and_all_belong_to_the_curriculum():
    assert FOUND, f"there is no R*.ipynb in {ROOT}"
    assert {path.stem for path in FOUND} <= set(NOTEBOOKS)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_notebook_keeps_the_form_and_its_solutions_compile_but_are_not_run(path):
    assert complaints(path) == []
