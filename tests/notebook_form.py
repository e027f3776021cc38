"""The form every notebook of the curriculum keeps: `complaints(path)` lists where one departs from it."""

import ast
import re
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

MOST_CELLS, MOST_LINES, SHORT_CELL, MOST_BYTES = 40, 20, 8, 1_500_000
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
    found = [*_size(path, notebook), *_story(notebook), *_exercises(notebook)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts {counts} are not 1, 2, 3, ...: run it from top to bottom")
    if not any(CHECKED.search(cell.source) for cell in code):
        found.append("no `# NBVAL_CHECK_OUTPUT` cell pins a stable fact")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            found += [f"cell {number}: {complaint}" for complaint in [*_source(cell), *_outputs(cell)]]
    return found


def solutions(notebook: nbformat.NotebookNode) -> list[str]:
    """The Python of every folded solution."""
    folded = [body for summary, body in FOLDED.findall(_markdown(notebook)) if "solution" in summary.lower()]
    return [block for body in folded for block in PYTHON.findall(body)]


def compiles(source: str) -> ast.Module:
    """Parse a cell, its magics and shell lines included; raises SyntaxError."""
    return ast.parse(TransformerManager().transform_cell(source))


def _markdown(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _size(path, notebook):
    lines = [len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code"]
    if len(notebook.cells) > MOST_CELLS:
        yield f"{len(notebook.cells)} cells; at most {MOST_CELLS}"
    if 2 * sum(count < SHORT_CELL for count in lines) <= len(lines):
        yield f"most code cells should be under {SHORT_CELL} lines; their lengths are {lines}"
    if path.stat().st_size > MOST_BYTES:
        yield f"{path.stat().st_size / 1e6:.1f} MB; at most {MOST_BYTES / 1e6} MB"


def _story(notebook):
    """The frame: title and badge, objectives, what flows forward."""
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.lstrip().startswith("# "):
        yield "it does not start with its title (`# ...`)"
    opening = "\n".join(cell.source for cell in notebook.cells[:2] if cell.cell_type == "markdown")
    if "colab.research.google.com" not in opening:
        yield "no Colab badge beside the title"
    text = _markdown(notebook)
    learn = re.search(r"What you will learn(.*?)(?=^#|\n\n[^\s\-*\d]|\Z)", text, re.MULTILINE | re.DOTALL)
    objectives = re.findall(r"^\s*(?:[-*]|\d+\.)\s+\S", learn[1], re.MULTILINE) if learn else []
    if not 3 <= len(objectives) <= 5:
        yield f'"What you will learn" lists {len(objectives)} objectives; 3 to 5'
    headings = HEADING.findall(text)
    if not headings or "flows forward" not in headings[-1]:
        yield 'the last section is not about "what flows forward"'


def _exercises(notebook):
    parts = EXERCISE.split(_markdown(notebook))[1:]
    if len(parts) not in (2, 3):
        yield f"{len(parts)} exercises that start with `Exercise 1`, `Exercise 2`, ...; two or three"
    for number, part in enumerate(parts, 1):
        if "hint" not in part.lower():
            yield f"exercise {number} has no hint"
        if not any("solution" in summary.lower() for summary, _ in FOLDED.findall(part)):
            yield f"exercise {number} has no folded solution"
    for block in solutions(notebook):
        try:
            compiles(block)
        except SyntaxError as error:
            yield f"a folded solution is not Python: {error}"


def _source(cell):
    lines = len(cell.source.splitlines())
    if lines > MOST_LINES:
        yield f"{lines} lines; at most {MOST_LINES}"
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [node.name for node in ast.walk(compiles(cell.source)) if isinstance(node, definitions)]
    if names:
        yield f"defines {', '.join(names)}; helpers belong in common/"


def _outputs(cell):
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
