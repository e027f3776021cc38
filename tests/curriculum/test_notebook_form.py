"""The form that every notebook of the curriculum keeps, and planted faults that its checker must see."""

import ast
import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from curriculum.solutions import FOLDED, markdown, solutions
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from common.config import ROOT
from common.notebooks import NOTEBOOKS

# Notebooks that are not lessons yet: of them only the older rules are asked. Whoever rewrites one takes it out.
NOT_YET: set[str] = set()
SETUP = """import sys

if "google.colab" in sys.modules:  # fetch the project; elsewhere it is here already
    address = "https://github.com/OWNER/image-similarity"
    assert "OWNER/" not in address, "Put your repository's address into this cell: README, 'For maintainers'."
    !test -d /content/similarity || git clone -q --depth 1 {address} /content/similarity
    %cd -q /content/similarity
    %pip install -q -r requirements.txt"""
MOST_WORDS, MOST_CORE_WORDS, MOST_CORE_WORDS_OF = 120, 2_000, {"R6": 2_200, "R7": 2_200}
WIDEST, SHARP = 1_000, 1.5  # pixels of a figure on the screen, and how many there are for each of them
FOUND = sorted(ROOT.glob("R*.ipynb"))
MOST_CELLS, MOST_LINES, SHORT_CELL, MOST_BYTES = 48, 20, 12, 1_500_000
CHECKED = re.compile(r"^\s*#+\s*NBVAL_CHECK_OUTPUT\s*$", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+)$", re.MULTILINE)
EXERCISE = re.compile(r"^\W*Exercise\s+\d+", re.MULTILINE)
LOCAL_PATH = re.compile(r"(?<![\w.:/])/(?:tmp|work|home|root|Users|content|var)/[\w.-]+|site-packages")
UNCOUNTED = re.compile(
    r"^```.*?^```|\$\$.*?\$\$|\$[^$\n]+\$|^[ ]*\|.*?$|<[^>]+>|\]\([^)]*\)", re.MULTILINE | re.DOTALL
)  # in Markdown: code, formulas, rows of tables, tags, links
PICTURES = ("image/png", "image/jpeg")
INLINE_PICTURE = re.compile(r"data:image/[\w+.-]+;base64,[A-Za-z0-9+/=\s]+")


def complaints(path: Path) -> list[str]:
    """Check one notebook; an empty list means that its form is right."""
    notebook = nbformat.read(path, as_version=4)
    found = [*size(path, notebook), *story(notebook), *exercises(notebook)]
    if path.stem not in NOT_YET:
        found += [*frame(path, notebook), *lesson(path, notebook), *endings(notebook), *figures(notebook)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if (counts := [cell.execution_count for cell in code]) != list(range(1, len(code) + 1)):
        found.append(f"execution counts {counts} are not 1, 2, 3, ...: run it from top to bottom")
    if not any(CHECKED.search(cell.source) for cell in code):
        found.append("no `# NBVAL_CHECK_OUTPUT` cell pins a stable fact")
    return found + [f"cell {notebook.cells.index(cell)}: {complaint}" for cell in code for complaint in outputs(cell)]


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
    learn = re.search(r"What you will learn(.*?)(?=^#|\n\n(?![-*] |\d+\. )|\Z)", text, re.MULTILINE | re.DOTALL)
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
        for kind in PICTURES:
            if data.pop(kind, None) and len(output.metadata.get(kind, {}).get("alt", "").split()) < 2:
                yield "a figure without alt text (show it with plotting.show)"
        local = LOCAL_PATH.search(INLINE_PICTURE.sub("", " ".join(map(str, [output.get("text", ""), *data.values()]))))
        if local:
            yield f"an output shows a path of one machine: {local[0]}"


def sections(notebook) -> dict[str, list]:
    """Title of each `## ` section -> its parts in order: Markdown as a string, or a code cell; "" comes first."""
    found, title = {"": []}, ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found[title].append(cell)
            continue
        for number, piece in enumerate(re.split(r"^## +", cell.source, flags=re.MULTILINE)):
            if number:
                title, _, piece = piece.partition("\n")
                title = title.strip()
                found.setdefault(title, [])
            if piece.strip():
                found[title].append(piece)
    return found


def words(text: str) -> int:
    """How many words of a Markdown text are read: none of what is folded, of tables, formulas and code."""
    return len(re.findall(r"\S*\w\S*", UNCOUNTED.sub(" ", FOLDED.sub(" ", text))))


def folds(parts, kind: str) -> int:
    """How many folded parts there are whose summary names their kind."""
    text = "\n\n".join(part for part in parts if isinstance(part, str))
    return sum(kind in summary.lower() for summary, _ in FOLDED.findall(text))


def pictures(cell):
    """Of a code cell's figures: the picture, its metadata, and the text that is shown next."""
    for output, after in zip(cell.outputs, [*cell.outputs[1:], {}], strict=False):
        for kind in PICTURES:
            if kind in output.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(output.data[kind])))
                caption = after.get("data", {}).get("text/markdown", "")
                yield picture, output.metadata.get(kind, {}), caption.strip("*\n ")


def frame(path, notebook):
    """The first three cells: what the lesson is, the set-up that all share, its settings."""
    first, *cells = notebook.cells
    if not first.source.lstrip().startswith(f"# {path.stem[:2]}: "):
        yield f"the title does not start with `# {path.stem[:2]}: `"
    for word in ("**Time", "**Needs", "**Passes on", "(docs/glossary.md"):
        if word not in first.source:
            yield f"the first cell has no {word}"
    address = re.compile(r"https://github\.com/[\w./-]+")
    if address.sub("", cells[0].source) != address.sub("", SETUP) or cells[0].cell_type != "code":
        yield "the second cell is not the set-up cell that all notebooks share"
    for cell in cells:
        ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and ignored == cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
            yield f"a cell is neither checked nor tagged nbval-ignore-output, or both: {cell.source[:40]!r}"
    if "config = setup(" not in cells[1].source:
        yield "the third cell does not say `config = setup()`"


def lesson(path, notebook):
    """Sections: numbered, short, each with a question before its output and the folded answer after it."""
    found = sections(notebook)
    titles = [*found]
    told = titles[1 : titles.index("Exercises")] if "Exercises" in titles else titles[1:]
    told = [title for title in told if title not in ("What you will learn", "What we found")]
    if not all(title.startswith(f"{number}. ") for number, title in enumerate(told, 1)):
        yield f"sections are not numbered `## 1. `, `## 2. `, ...: {told}"
    core = [title for title in told if not title.endswith("(optional)")]
    most = MOST_CORE_WORDS_OF.get(path.stem[:2], MOST_CORE_WORDS)
    if (count := sum(words(part) for title in core for part in found[title] if isinstance(part, str))) > most:
        yield f"{count} words in core sections; at most {most}"
    count = 0
    for title in told:
        for part in found[title]:
            count = count + words(part) if isinstance(part, str) else 0
            if count > MOST_WORDS:
                yield f"{count} words between two code cells in section {title!r}; at most {MOST_WORDS}"
                count = 0
    for title in core:
        marked = "".join(part if isinstance(part, str) else "(code)" for part in found[title])
        if not re.search(r"\*\*Predict.*\(code\).*<summary>Answer", marked, re.DOTALL):
            yield f"section {title!r} has no `**Predict.**`, then code, then a folded answer"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = TransformerManager().transform_cell(cell.source)
            if any(isinstance(node, ast.Lambda) for node in ast.walk(ast.parse(source))):
                yield f"cell {notebook.cells.index(cell)}: a lambda"
            if remark := re.search(r"# *(fmt:|noqa|type:)", cell.source):
                yield f"cell {notebook.cells.index(cell)}: {remark[0]} is for tools, not for readers"


def endings(notebook):
    """The title's question answered, exercises of three grades, a quiz, and takeaways last."""
    found = sections(notebook)
    ends = ["What we found", "Exercises", "Quiz"]
    for title in ends:
        if title not in found:
            yield f"no section `## {title}`"
    if (order := [title for title in found if title in ends]) != [title for title in ends if title in found]:
        yield f"the last sections are {order}, not in the order {ends}"
    tried = found.get("Exercises", [])
    text = "\n\n".join(part for part in tried if isinstance(part, str))
    for number, grade in enumerate(("change a number", "write code", "think"), 1):
        if not re.search(rf"^### Exercise {number}: {grade}", text, re.MULTILINE):
            yield f"no `### Exercise {number}: {grade}`"
    stubs = [cell.source for cell in tried if not isinstance(cell, str)]
    if not any("..." in one and "is not None" in one and "assert" in one for one in stubs):
        yield "exercise 2 has no cell with a stub (`...`) and an assert behind `is not None`"
    if (count := folds(found.get("Quiz", []), "answer")) != 5:
        yield f"{count} folded answers in the quiz; five"
    shown = [cell for cell in found.get("What we found", []) if not isinstance(cell, str)]
    if not any(next(pictures(cell), None) for cell in shown):
        yield "no figure in `What we found`"
    if "Takeaways" not in [*found][-1]:
        yield "the last section is not `## Takeaways, and what flows forward`"


def figures(notebook):
    """Figures that a projector can show, with two texts."""
    for place, cell in enumerate(notebook.cells):
        for picture, told, caption in pictures(cell) if cell.cell_type == "code" else ():
            width = told.get("width", 0)
            if not 0 < width <= WIDEST:
                yield f"cell {place}: a figure shown {width} pixels wide; 1 to {WIDEST}"
            elif picture.width < SHARP * width - 2:
                yield f"cell {place}: {picture.width} pixels for a figure shown {width} wide; {SHARP} times as many"
            if not caption:
                yield f"cell {place}: a figure without a caption"
            elif caption == told.get("alt", "").strip():
                yield f"cell {place}: the alt text repeats the caption"


def test_there_are_notebooks_and_all_belong_to_the_curriculum():
    assert FOUND, f"there is no R*.ipynb in {ROOT}"
    assert {path.stem for path in FOUND} <= set(NOTEBOOKS)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_form(path):
    assert complaints(path) == []


SOLUTION = "<details><summary>Solution</summary>\n\n```python\n%time print(1)\n```\n</details>\n"
ANSWER = "<details><summary>Answer</summary>\n\nIt rises.\n</details>\n"
STUB = """def best(scores):
    ...

answer = best([1, 2])
if answer is not None:
    assert answer == 2
    print("Right.")"""


def executed(source, count, *shown):
    metadata = {} if source.startswith("# NBVAL_CHECK_OUTPUT") else {"tags": ["nbval-ignore-output"]}
    return new_code_cell(source, execution_count=count, outputs=list(shown), metadata=metadata)


def figure(alt="A line.", width=100, pixels=150):
    drawn = io.BytesIO()
    Image.new("RGB", (pixels, 10)).save(drawn, "png")
    told = {"image/png": {"alt": alt, "width": width}}
    return new_output("display_data", {"image/png": base64.b64encode(drawn.getvalue()).decode()}, metadata=told)


def caption(text="*It rises.*"):
    return new_output("display_data", {"text/markdown": text})


def said(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def good_notebook():
    """A small notebook that keeps the form."""
    exercises = [f"### Exercise {number}: {grade}\nTry it. **Hint**: look.\n\n{SOLUTION}"
                 for number, grade in enumerate(("change a number", "write code", "think"), 1)]  # fmt: skip
    return new_notebook(cells=[
        new_markdown_cell("# R0: title\n[![Colab](badge)](https://colab.research.google.com/github/x)\n\n"
                          "**What you will learn**\n- one\n- two\n- three\n\n**Time**: a minute.\n\n- not one\n\n"
                          "**Needs** nothing. **Passes on** nothing. [Words](docs/glossary.md)"),
        executed(SETUP, 1),
        executed("# NBVAL_CHECK_OUTPUT\nconfig = setup()\n1 + 1", 2, new_output("execute_result", {"text/plain": "2"})),
        new_markdown_cell("## 1. Lines\n" + "word " * 100 + "\n\n**Predict.** Does it rise?"),
        executed("%time show()", 3, figure(), caption(), said("see https://x.org/home/page 1/tmp/3")),
        new_markdown_cell(ANSWER + "\n| a | table |\n|---|---|\n" + "| of | words |\n" * 99 + "$$ a b c $$\n" * 99),
        new_markdown_cell("## 2. More lines (optional)\nThey rise, too."),
        executed("1", 4),
        new_markdown_cell("## What we found"),
        executed("show()", 5, figure(), caption()),
        new_markdown_cell("\n".join(["## Exercises", *exercises[:2]])),
        executed(STUB, 6),
        new_markdown_cell(exercises[2]),
        new_markdown_cell("## Quiz\n" + "word " * 200 + ANSWER * 5),
        new_markdown_cell("## Takeaways, and what flows forward\nEverything."),
    ])  # fmt: skip


def drop(text, replacement=""):
    """A fault: every cell's source loses `text`."""

    def fault(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(text, replacement)

    return fault


def cell_4(*shown, **values):
    """A fault: one cell shows something else, or gets other values."""
    return lambda notebook: notebook.cells[4].update({"outputs": list(shown), **values})


def cell_1(**values):
    """A fault: the set-up cell has other values."""
    return lambda notebook: notebook.cells[1].update(values)


def long_cells(notebook):
    """A fault: no code cell is short."""
    for cell in notebook.cells:
        cell.source += "\n1" * SHORT_CELL * (cell.cell_type == "code")


# name: (fault, words of the complaint it must cause)
FAULTS = {
    "too many cells": (lambda notebook: notebook.cells.extend(map(new_markdown_cell, "x" * 50)), "65 cells"),
    "long cell": (cell_4(source="\n".join(["x = 1"] * 21)), "21 lines"),
    "few short cells": (long_cells, "under 12 lines"),
    "no title": (drop("# R0", "R0"), "title"),
    "other title": (drop("# R0: ", "# R1: "), "does not start with `# R0: `"),
    "no time": (drop("**Time**", "Time"), "no **Time"),
    "no needs": (drop("**Needs**", ""), "no **Needs"),
    "hands nothing on": (drop("**Passes on**", ""), "no **Passes on"),
    "no glossary": (drop("(docs/glossary.md)"), "no (docs/glossary.md"),
    "other set-up": (drop("%pip install -q", "%pip install"), "not the set-up cell"),
    "an untagged cell": (cell_1(metadata={}), "neither checked nor tagged"),
    "no configuration": (drop("setup()", "set_up()"), "does not say `config = setup()`"),
    "riddle": (drop("## 1. Lines", "## Lines"), "not numbered"),
    "wrong number": (drop("## 2. More", "## 3. More"), "not numbered"),
    "long prose": (drop("word", "word word"), "words between two code cells in section '1. Lines'"),
    "long prose in an optional section": (drop("They rise", "rise " * 121), "section '2. More lines (optional)'"),
    "too many core words": (
        lambda notebook: notebook.cells.__setitem__(slice(4, 4), notebook.cells[3:5] * 20), "words in core sections"),
    "no question": (drop("**Predict.**"), "'1. Lines' has no `**Predict.**`"),
    "open answer": (drop("<summary>Answer</summary>\n\nIt rises.\n</details>\n\n|", "|"), "has no `**Predict.**`"),
    "answer before the output": (lambda notebook: notebook.cells.insert(4, notebook.cells.pop(5)), "then a folded"),
    "lambda": (cell_4(source="sorted([], key=lambda x: x)"), "cell 4: a lambda"),
    "formatter's remark": (cell_4(source="x = 1  # fmt: skip"), "cell 4: # fmt:"),
    "linter's remark": (cell_4(source="x = 1  # noqa: E501"), "cell 4: # noqa"),
    "no exercises": (drop("## Exercises", "## 3. Work"), "no section `## Exercises`"),
    "no quiz": (drop("## Quiz", "## Riddles"), "no section `## Quiz`"),
    "no finding": (drop("## What we found", "## End"), "no section `## What we found`"),
    "no number to change": (drop("1: change a number", "1: play"), "no `### Exercise 1: change a number`"),
    "no code to write": (drop("2: write code", "2: play"), "no `### Exercise 2: write code`"),
    "no thinking": (drop("3: think", "3: play"), "no `### Exercise 3: think`"),
    "no stub": (drop("    ...", "    return 2"), "no cell with a stub"),
    "no assert": (drop("assert answer == 2", "answer == 2"), "no cell with a stub"),
    "stub that stops": (drop("if answer is not None:", "if True:"), "no cell with a stub"),
    "four questions": (lambda notebook: notebook.cells[13].update(source="## Quiz\n" + 4 * ANSWER), "4 folded answers"),
    "finding without a figure": (lambda notebook: notebook.cells[9].update(outputs=[]), "no figure in `What we"),
    "finding after the quiz": (lambda notebook: notebook.cells.insert(13, notebook.cells.pop(8)), "not in the order"),
    "no takeaways": (drop("## Takeaways, and what", "## What"), "not `## Takeaways"),
    "figure without a width": (cell_4(figure(width=0), caption()), "cell 4: a figure shown 0 pixels"),
    "too wide a figure": (cell_4(figure(width=1200, pixels=1800), caption()), "cell 4: a figure shown 1200"),
    "blurred figure": (cell_4(figure(pixels=120), caption()), "cell 4: 120 pixels for a figure shown 100"),
    "no caption": (cell_4(figure()), "cell 4: a figure without a caption"),
    "one text for two": (cell_4(figure("It rises."), caption()), "cell 4: the alt text repeats"),
    "no badge": (drop("colab.research"), "badge"),
    "two objectives": (drop("- one\n"), "2 objectives"),
    "no objectives": (drop("What you will learn"), "0 objectives"),
    "six objectives": (drop("- two\n", "- a\n- b\n- c\n- d\n"), "6 objectives"),
    "no exercise": (drop("Exercise "), "0 exercises that"),
    "no hint": (drop("Hint"), "exercise 3 has no hint"),
    "open solution": (drop("<details><summary>Sol", "Sol"), "no folded solution"),
    "broken solution": (drop("%time print(1)", "1 +"), "not Python"),
    "no ending": (drop("flows forward", "next"), "flows forward"),
    "out of order": (cell_4(execution_count=5), "execution counts"),
    "not executed": (cell_4(execution_count=None), "cell 4: not executed"),
    "checked, but empty": (cell_4(source="# NBVAL_CHECK_OUTPUT\n1"), "the check is empty"),
    "nothing checked": (drop("NBVAL_CHECK_OUTPUT"), "pins a stable fact"),
    "check beside code": (drop("# NBVAL_CHECK_OUTPUT\n", "1  # NBVAL_CHECK_OUTPUT\n"), "pins a stable fact"),
    "error": (cell_4(new_output("error", ename="KeyError", evalue="", traceback=[])), "KeyError"),
    "warning": (cell_4(said("Warning: x", "stderr")), "stderr"),
    "no alt text": (cell_4(figure("")), "alt text"),
    "blank alt text": (cell_4(figure(" ")), "alt text"),
    "alt text without words": (cell_4(figure(".")), "alt text"),
    "local path": (cell_4(said("saved to '/home/ann/x.pth'")), "/home/ann"),
    "path in html": (cell_4(new_output("display_data", {"text/html": "<td>/tmp/x.jpg</td>"})), "/tmp/x.jpg"),
    "too large": (cell_4(said("x" * 3_000_000)), "3.0 MB"),
}


def check(notebook, folder):
    nbformat.write(notebook, folder / "R0.ipynb")
    return complaints(folder / "R0.ipynb")


def test_good_form_raises_no_complaint(tmp_path):
    assert check(good_notebook(), tmp_path) == []
    assert solutions(good_notebook()) == ["%time print(1)\n"] * 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(name, tmp_path):
    fault, words = FAULTS[name]
    notebook = good_notebook()
    fault(notebook)
    found = check(notebook, tmp_path)
    assert any(words in complaint for complaint in found), found
