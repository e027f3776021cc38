"""Pages open anywhere: no network, no raw formula, no lost picture, no text that acts as HTML."""

import base64
import re
import shutil
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from common.config import ROOT
from common.pages import LANDING, PAGES_HERE, land, main, markdown_page, notebook_page, page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$|\\[A-Za-z]{3,}", re.DOTALL)
PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
).decode()
VIEW, STATE = (f"application/vnd.jupyter.widget-{what}+json" for what in ("view", "state"))


def said(text: str) -> str:
    """What a page says in its text: without code, formulas and tags."""
    text = re.sub(r"<(style|pre|code|math)\b.*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", "", text)


def widget(model: str, name: str, buffers=(), **state) -> dict:
    return {model: {"model_name": name, "state": state, "buffers": list(buffers)}}


def executed() -> nbformat.NotebookNode:
    """A notebook with every kind of output that ours have."""
    image = [{"encoding": "base64", "path": ["value"], "data": PIXEL}]
    state = widget("box", "VBoxModel", children=["IPY_MODEL_slide", "IPY_MODEL_image", "IPY_MODEL_text"])
    state |= widget("slide", "IntSliderModel", description="petals", value=9) | widget("image", "ImageModel", image)
    state |= widget("text", "HTMLModel", value="<b>nine</b><script>alert(1)</script>")
    state |= widget("bars", "HBoxModel", children=["IPY_MODEL_bar"]) | widget("bar", "FloatProgressModel", value=3)
    code = new_code_cell("x = 1  # <b>", outputs=[
        new_output("stream", text="\x1b[31mred\x1b[0m & <i>\n"),
        new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": dict(alt='A "line" rises.', width=9)}),
        new_output("display_data", {"text/markdown": "*The caption, $x_1$*"}),
        new_output("execute_result", {"text/html": "<style>td {}</style><table><tr><td>7</td></tr></table>"}),
        new_output("display_data", {VIEW: {"model_id": "box"}, "text/plain": "VBox(...)"}),
        new_output("display_data", {VIEW: {"model_id": "bars"}, "text/plain": "  0%|          | 0/8"}),
        new_output("display_data", {"application/javascript": "alert(2)"}),
        new_output("error", ename="E", evalue="v", traceback=["Traceback", "E: v"]),
    ])  # fmt: skip
    text = r"""# R9: a title
[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/x)

A line with $z = f(x)$, [R2](R2_Backbone_Selection.ipynb#why), [terms](docs/glossary.md#roc-auc),
[code](common/find.py), [what it is](README.md), [up](../R1_Data_Exploration.ipynb).

$$L = \underbrace{-\log p(y \mid z)}_{\text{be separable}} + \max_{\lVert \delta \rVert_\infty \le \varepsilon} s$$

## MAP@R and more
## MAP@R and more

<details><summary>Solution</summary>

```python
x
```
</details>"""
    return new_notebook(cells=[new_markdown_cell(text), code], metadata={"widgets": {STATE: {"state": state}}})


def test_a_notebook_keeps_what_it_shows_and_asks_nobody():
    text = notebook_page(executed(), "R9_A_Title")
    assert "<title>R9 A Title</title>" in text and '<html lang="en">' in text
    assert text.count("<math") == 3 and not FORMULA.search(said(text)) and "be&#x000A0;separable" in text
    assert 'alt="A &quot;line&quot; rises."' in text and "--width: 9" in text
    assert text.count(f"data:image/png;base64,{PIXEL}") == 2, "the figure and what the widget showed"
    assert "petals: 9" in text and "<b>nine</b>" in text and "0%|" not in text and "VBox" not in text
    assert "&amp; &lt;i&gt;" in text and "<script" not in text and "alert(" not in text and "td {}" not in text
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', text) == [
        "https://colab.research.google.com/x", "R2_Backbone_Selection.html#why", "docs/glossary.html#roc-auc",
        "../R1_Data_Exploration.html",
    ]  # fmt: skip
    assert ">Open In Colab</a>" in text and "code" in said(text)
    assert 'id="mapr-and-more"' in text and 'id="mapr-and-more-1"' in text
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text


def test_words_of_others_are_no_html():
    text = page("A < B", "", {"<b>": 'x"y.html'})
    assert "<title>A &lt; B</title>" in text and "&lt;b&gt;" in text and 'href="x&quot;y.html"' in text


def test_a_formula_nobody_understands_is_shown_as_it_is():
    assert "<code>" in markdown_page(r"Odd: $\begin{x}$") or "<math" in markdown_page(r"Odd: $\begin{x}$")


@pytest.mark.parametrize("path", sorted(ROOT.glob("R*.ipynb")), ids=lambda path: path.stem[:2])
def test_no_formula_of_the_notebooks_stays_raw(path):
    text = notebook_page(nbformat.read(path, as_version=4), path.stem)
    assert not FORMULA.findall(said(text)), "raw TeX"
    assert "<th></th>" not in text, "a heading of nothing"
    assert not re.search(r"<(script|link(?! rel=\"icon\")|iframe)|src=\"(?!data:)", text)
    alts = re.findall(r'<img src="data:[^"]*" alt="([^"]*)"', text)
    assert len(alts) == text.count("<img") and all(alts)


def test_the_landing_page_names_what_is_there(tmp_path):
    report = tmp_path / "kept.html"
    report.write_text(page("Report", f"{PAGES_HERE}<p>All of it.</p>"))
    folder = tmp_path / "site"
    main([str(ROOT / "R1_Data_Exploration.ipynb"), "--output", str(folder)])
    bare = (folder / LANDING).read_text()
    assert 'href="R1_Data_Exploration.html"' in bare and "R2_" not in bare and 'href="docs/protocol.html"' in bare
    assert 'href="../report.html"' in (folder / "docs" / "protocol.html").read_text()
    filled = land(folder, report).read_text()
    assert "All of it." in filled and 'href="R1_Data_Exploration.html"' in filled and PAGES_HERE not in filled
    for link in re.findall(r'href="([^":]+)"', filled + bare):
        assert (folder / link).exists(), link


@pytest.mark.skipif(not BROWSER, reason="neither chromium nor google-chrome is installed here")
@pytest.mark.parametrize("planted", ["", '<img src="https://example.org/x.png">', "<script>alert(1)</script>"])
def test_a_browser_has_nothing_to_complain_of(tmp_path, planted):
    text = notebook_page(executed(), "R9_A_Title", {"All pages": LANDING})
    (tmp_path / "page.html").write_text(text.replace("</main>", f"{planted}</main>"))
    command = [BROWSER, "--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run"]
    watch = ["--enable-logging=stderr", "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run([*command, *watch], capture_output=True, text=True, timeout=120)
    assert "R9: a title" in done.stdout
    assert ("Content Security Policy" in done.stderr) == ("CONSOLE" in done.stderr) == bool(planted), done.stderr
