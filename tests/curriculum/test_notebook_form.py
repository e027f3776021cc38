"""The form that every notebook of the curriculum keeps, and planted faults that its checker must see."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from common.config import ROOT
from common.notebooks import NOTEBOOKS

FOUND = sorted(ROOT.glob("R*.ipynb"))
MOST_CELLS, MOST_LINES, SHORT_CELL, MOST_BYTES = 55, 20, 8, 3_000_000
CHECKED = re.compile(r"^\s*#+\s*NBVAL_CHECK_OUTPUT\s*$", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+)$", re.MULTILINE)
EXERCISE = re.compile(r"^\W*Exercise\s+\d+", re.MULTILINE)
FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL | re.IGNORECASE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOCAL_PATH = re.compile(r"(?<![\w.:/])/(?:tmp|work|home|root|Users|content|var)/[\w.-]+|site-packages")
INLINE_PICTURE = re.compile(r"data:image/[\w+.-]+;base64,[A-Za-z0-9+/=\s]+")


def complaints(path: Path) -> list[str]:
    """Check one notebook; an empty list means that its form is right."""
    notebook = nbformat.read(path, as_version=4)
    found = [*size(path, notebook), *story(notebook), *exercises(notebook)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if (counts := [cell.execution_count for cell in code]) != list(range(1, len(code) + 1)):
        found.append(f"execution counts {counts} are not 1, 2, 3, ...: run it from top to bottom")
    if not any(CHECKED.search(cell.source) for cell in code):
        found.append("no `# NBVAL_CHECK_OUTPUT` cell pins a stable fact")
    return found + [f"cell {notebook.cells.index(cell)}: {complaint}" for cell in code for complaint in outputs(cell)]


def markdown(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def solutions(notebook) -> list[str]:
    """The Python of every folded solution."""
    folded = [body for summary, body in FOLDED.findall(markdown(notebook)) if "solution" in summary.lower()]
    return [block for body in folded for block in PYTHON.findall(body)]


def size(path, notebook):
    lines = [len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code"]
    if len(notebook.cells) > MOST_CELLS:
        yield f"{len(notebook.cells)} cells; at most {MOST_CELLS}"
    if max(lines) > MOST_LINES:
        yield f"a cell of {max(lines)} lines; at most {MOST_LINES}"
    if 2 * sum(count < SHORT_CELL for count in lines) <= len(lines):
        yield f"most code cells should be under {SHORT_CELL} lines; their lengths are {lines}"
    if path.stat().st_size > MOST_BYTES:
        yield f"{path.stat().st_size / 1e6:.1f} MB; at most {MOST_BYTES / 1e6} MB"


def story(notebook):
    """The frame: title and badge, objectives, what flows forward."""
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.lstrip().startswith("# "):
        yield "it does not start with its title (`# ...`)"
    opening = "\n".join(cell.source for cell in notebook.cells[:2] if cell.cell_type == "markdown")
    if "colab.research.google.com" not in opening:
        yield "no Colab badge beside the title"
    text = markdown(notebook)
    learn = re.search(r"What you will learn(.*?)(?=^#|\n\n[^\s\-*\d]|\Z)", text, re.MULTILINE | re.DOTALL)
    objectives = re.findall(r"^\s*(?:[-*]|\d+\.)\s+\S", learn[1], re.MULTILINE) if learn else []
    if not 3 <= len(objectives) <= 5:
        yield f'"What you will learn" lists {len(objectives)} objectives; 3 to 5'
    headings = HEADING.findall(text)
    if not headings or "flows forward" not in headings[-1]:
        yield 'the last section is not about "what flows forward"'


def exercises(notebook):
    parts = EXERCISE.split(markdown(notebook))[1:]
    if len(parts) not in (2, 3):
        yield f"{len(parts)} exercises that start with `Exercise 1`, `Exercise 2`, ...; two or three"
    for number, part in enumerate(parts, 1):
        if "hint" not in part.lower():
            yield f"exercise {number} has no hint"
        if not any("solution" in summary.lower() for summary, _ in FOLDED.findall(part)):
            yield f"exercise {number} has no folded solution"
    for block in solutions(notebook):
        try:
            ast.parse(TransformerManager().transform_cell(block))  # magics and shell lines included
        except SyntaxError as error:
            yield f"a folded solution is not Python: {error}"


def outputs(cell):
    if cell.execution_count is None:
        yield "not executed"
    if CHECKED.search(cell.source) and not cell.outputs:
        yield "checked by nbval but shows nothing, so the check is empty"
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"ends in {output.ename}"
        if output.get("name") == "stderr":
            yield f"writes to stderr: {output.text[:80]!r}"
        data = dict(output.get("data", {}))
        if data.pop("image/png", None) and not output.metadata.get("image/png", {}).get("alt", "").strip():
            yield "a figure without alt text (show it with plotting.show)"
        local = LOCAL_PATH.search(INLINE_PICTURE.sub("", " ".join(map(str, [output.get("text", ""), *data.values()]))))
        if local:
            yield f"an output shows a path of one machine: {local[0]}"


def test_there_are_notebooks_and_all_belong_to_the_curriculum():
    assert FOUND, f"there is no R*.ipynb in {ROOT}"
    assert {path.stem for path in FOUND} <= set(NOTEBOOKS)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_form(path):
    assert complaints(path) == []


SOLUTION = "<details><summary>Solution</summary>\n\n```python\n%time print(1)\n```\n</details>\n"


def executed(source, count, *shown):
    return new_code_cell(source, execution_count=count, outputs=list(shown))


def figure(alt):
    return new_output("display_data", {"image/png": "/tmp/x"}, metadata={"image/png": {"alt": alt}} if alt else {})


def said(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def good_notebook():
    """A small notebook that keeps the form."""
    parts = [f"### Exercise {n}\nTry it. **Hint**: look.\n\n{SOLUTION}" for n in (1, 2)]
    return new_notebook(cells=[
        new_markdown_cell("# R0: title\n[![Colab](badge)](https://colab.research.google.com/github/x)"),
        new_markdown_cell("## What you will learn\n- one\n- two\n- three\n\nTime: a minute.\n\n- not one"),
        executed("# NBVAL_CHECK_OUTPUT\n1 + 1", 1, new_output("execute_result", {"text/plain": "2"})),
        executed("%time show()", 2, figure("A line that rises."), said("see https://x.org/home/page 1/tmp/3")),
        new_markdown_cell("\n".join(["## Exercises", *parts])),
        new_markdown_cell("## What flows forward\nEverything."),
    ])  # fmt: skip


def drop(text, replacement=""):
    """A fault: every cell's source loses `text`."""

    def fault(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(text, replacement)

    return fault


def cell_3(*shown, **values):
    """A fault: one cell shows something else, or gets other values."""
    return lambda notebook: notebook.cells[3].update({"outputs": list(shown), **values})


# name: (fault, words of the complaint it must cause)
FAULTS = {
    "too many cells": (lambda notebook: notebook.cells.extend(map(new_markdown_cell, "x" * 50)), "56 cells"),
    "long cell": (cell_3(source="\n".join(["x = 1"] * 21)), "21 lines"),
    "few short cells": (cell_3(source="\n".join(["x = 1"] * 8)), "under 8 lines"),
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
    "out of order": (cell_3(execution_count=5), "execution counts"),
    "not executed": (cell_3(execution_count=None), "cell 3: not executed"),
    "checked, but empty": (cell_3(source="# NBVAL_CHECK_OUTPUT\n1"), "the check is empty"),
    "nothing checked": (drop("NBVAL_CHECK_OUTPUT"), "pins a stable fact"),
    "check beside code": (drop("# NBVAL_CHECK_OUTPUT\n1 + 1", "1 + 1  # NBVAL_CHECK_OUTPUT"), "pins a stable fact"),
    "error": (cell_3(new_output("error", ename="KeyError", evalue="", traceback=[])), "KeyError"),
    "warning": (cell_3(said("Warning: x", "stderr")), "stderr"),
    "no alt text": (cell_3(figure("")), "alt text"),
    "blank alt text": (cell_3(figure(" ")), "alt text"),
    "local path": (cell_3(said("saved to '/home/ann/x.pth'")), "/home/ann"),
    "path in html": (cell_3(new_output("display_data", {"text/html": "<td>/tmp/x.jpg</td>"})), "/tmp/x.jpg"),
    "too large": (cell_3(said("x" * 3_000_000)), "3.0 MB"),
}


def check(notebook, folder):
    nbformat.write(notebook, folder / "R0.ipynb")
    return complaints(folder / "R0.ipynb")


def test_good_form_raises_no_complaint(tmp_path):
    assert check(good_notebook(), tmp_path) == []
    assert solutions(good_notebook()) == ["%time print(1)\n"] * 2


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(name, tmp_path):
    fault, words = FAULTS[name]
    notebook = good_notebook()
    fault(notebook)
    found = check(notebook, tmp_path)
    assert any(words in complaint for complaint in found), found
