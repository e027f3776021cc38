"""Pages that open anywhere: executed notebooks and Markdown as single HTML files that load nothing from anywhere.

Formulas are MathML, pictures lie inside, a widget is the picture it showed last, and no script runs.
"""

import argparse
import html
import re
from functools import partial
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from common.config import ROOT
from common.datasets.files import write_text

LANDING = "report.html"  # what one opens first among the pages of a run
PAGES_HERE = "<!-- pages of the run -->"  # where a report says which others lie beside it
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<style>{style}</style></head><body>
"""
WIDGET, STATE = (f"application/vnd.jupyter.widget-{what}+json" for what in ("view", "state"))
SHOWN = "text/html", "text/markdown", "image/png", "image/jpeg", "text/plain"  # the best form of an output first
NAMED = re.compile(r"\\(log|ln|exp|cos|sin)(?![A-Za-z])\s*(?=[A-Za-z\\])")  # functions that want room before a letter
PAGE = re.compile(r"^((?:\.\./)?R[1-7]_\w+|(?:docs/)?(?!README)\w+)\.(?:ipynb|md)(?=#|$)")  # what has one
ACTIVE = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL)
REMOTE = re.compile(r'<img(?=[^>]*\bsrc="(?:https?:)?//)(?:[^>]*?\balt="([^"]*)")?[^>]*>')  # badges


def page(title: str, body: str, links: dict[str, str] | None = None) -> str:
    """A whole page around `body`, which is HTML; `title` and the texts of `links` (text -> address) are escaped."""
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    style = Path(__file__).with_suffix(".css").read_text() + f"{light}\n@media (prefers-color-scheme: dark) {{{dark}}}"
    body = re.sub(r"<table.*?</table>", r'<div class="scroll" tabindex="0">\g<0></div>', body, flags=re.DOTALL)
    body = REMOTE.sub(lambda found: found[1] or "a picture on the web", body)
    body = body.replace("<th></th>", "<td></td>")  # a corner heads nothing
    body = body.replace("<pre>", '<pre tabindex="0">')  # what scrolls is reached by the keyboard, too
    head = HEAD.format(title=html.escape(title), style=style)
    return f"{head}{navigation(links or {})}<main>\n{body}\n</main></body></html>\n"


def navigation(links: dict[str, str]) -> str:
    """Links (text -> address) as a bar; nothing where there are none."""
    texts = [f'<a href="{html.escape(url)}">{html.escape(text)}</a>' for text, url in links.items()]
    return f'<nav aria-label="Pages">{" ".join(texts)}</nav>\n' if texts else ""


def picture(data: str, kind: str, alt: str, width: int | None = None) -> str:
    """A picture inside the page: `data` in base64, `kind` as in "image/png", `width` in pixels of a usual screen."""
    wide = f' style="--width: {int(width)}"' if width else ""
    return f'<figure><img src="data:{kind};base64,{"".join(data.split())}" alt="{html.escape(alt)}"{wide}></figure>'


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, headings named as GitHub names them, and links among pages."""

    def __init__(self):
        super().__init__(escape=False)
        self.names = {}

    def _formula(self, text: str, display: str) -> str:
        try:
            return convert(NAMED.sub(r"\\\1\\,", text), display=display)
        except Exception:  # better the source of one formula than no page
            return f"<code>{html.escape(text)}</code>"

    def inline_math(self, body: str) -> str:
        return self._formula(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<div class="scroll" tabindex="0">{self._formula(body, "block")}</div>\n'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def heading(self, text: str, level: int, **_) -> str:
        plain = html.unescape(re.sub(r"<math.*?</math>|<[^>]+>", "", text)).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        self.names[name] = again = self.names.get(name, -1) + 1
        return f'<h{level} id="{html.escape(name)}{f"-{again}" if again else ""}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not (PAGE.match(url) or re.match(r"https?:|mailto:|#", url)):
            return text  # it lies in the repository, not among the pages
        return super().link(text, PAGE.sub(r"\1.html", url), title)


def markdown_page(text: str, links: dict[str, str] | None = None) -> str:
    """A Markdown file's text as a page; its first heading is the title."""
    title = re.search(r"^#+ (.+)$", text, re.MULTILINE)
    return page(title[1] if title else "Page", MarkdownWithMath(_Renderer()).render(text), links)


def notebook_page(notebook: nbformat.NotebookNode, name: str, links: dict[str, str] | None = None) -> str:
    """An executed notebook as a page: text, code and outputs as they stand there; progress bars are left out."""
    render, body = MarkdownWithMath(_Renderer()).render, []
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            body.append(f"<section>{render(cell.source)}</section>")
        elif cell.cell_type == "code" and cell.source.strip():
            body.append(highlight(cell.source, get_lexer_by_name("ipython3"), HtmlFormatter()))
            shown = "\n".join(filter(None, map(partial(_output, state=state, render=render), cell.outputs)))
            body.append(f'<div class="output">{shown}</div>' if shown else "")
    return page(name.replace("_", " "), "\n".join(body), links)


def _output(output: dict, state: dict, render) -> str:
    """One output of a cell as HTML."""
    if output["output_type"] == "stream":
        return f"<pre>{ansi2html(output['text'])}</pre>"
    if output["output_type"] == "error":
        return f"<pre>{ansi2html(chr(10).join(output['traceback']))}</pre>"
    data, told = output["data"], output.get("metadata", {})
    if WIDGET in data:
        return _still(data[WIDGET]["model_id"], state, render)
    kind = next((kind for kind in SHOWN if kind in data), None)
    if kind in ("text/html", "text/markdown"):
        return ACTIVE.sub("", data[kind] if kind == "text/html" else render(data[kind]))
    if kind == "text/plain":
        return f"<pre>{ansi2html(data[kind])}</pre>"
    looks = {"alt": "A figure without a description", **told.get(kind, {})}
    return picture(data[kind], kind, looks["alt"], looks.get("width")) if kind else ""


def _still(identity: str, state: dict, render) -> str:
    """What a widget showed when it was saved: pictures, text and where its sliders stood."""
    widget = state.get(identity, {})
    values, kind = widget.get("state", {}), widget.get("model_name", "")
    inside = [child.removeprefix("IPY_MODEL_") for child in values.get("children") or ()]
    if any(state.get(child, {}).get("model_name") == "FloatProgressModel" for child in inside):
        return ""  # a bar that has run to its end
    if kind == "ImageModel":
        data = [part["data"] for part in widget.get("buffers", ()) if part["path"] == ["value"]]
        return picture(data[0], "image/png", "What the controls show at this place") if data else ""
    if kind == "HTMLModel":
        return ACTIVE.sub("", values.get("value", ""))
    if "Slider" in kind:
        place = f": {values['value']}" if values.get("readout", True) and "value" in values else ""
        return f'<p class="note">{html.escape(values.get("description", ""))}{place} (moves in Jupyter)</p>'
    outputs = [_output(output, state, render) for output in values.get("outputs") or ()]
    return "\n".join([_still(child, state, render) for child in inside] + outputs)


def land(folder: Path, report: Path | None = None) -> Path:
    """Write the landing page of a folder of pages: a run's `report` where there is one, with links to what lies there.

    The pages of `docs/`, to which the notebooks link, are written beside it.
    """
    for file in sorted((ROOT / "docs").glob("*.md")):
        text = markdown_page(file.read_text(encoding="utf-8"), {"All pages": f"../{LANDING}"})
        write_text(folder / "docs" / f"{file.stem}.html", text)
    links = {file.stem.replace("_", " "): file.name for file in sorted(folder.glob("R[1-7]_*.html"))}
    links |= {file.stem.capitalize(): f"docs/{file.name}" for file in sorted((folder / "docs").glob("*.html"))}
    if report and report.exists():
        text = report.read_text(encoding="utf-8").replace(PAGES_HERE, navigation(links))
    else:
        body = "<h1>Image similarity</h1>\n<p>The pages above are all there is so far; R7 adds a report of the run.</p>"
        text = page("Image similarity", body, links)
    return write_text(folder / LANDING, text)


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m common.pages R1.ipynb R2.ipynb --output site` exports notebooks as they stand."""
    parser = argparse.ArgumentParser(prog="python -m common.pages", description="Executed notebooks as pages.")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK.ipynb")
    parser.add_argument("--output", type=Path, default=Path("runs/pages"), help="default runs/pages/")
    parser.add_argument("--report", type=Path, help="the report of a run, for the landing page")
    given = parser.parse_args(arguments)
    for path in given.notebooks:
        text = notebook_page(nbformat.read(path, as_version=4), path.stem, {"All pages": LANDING})
        write_text(given.output / f"{path.stem}.html", text)
    print(f"Pages: {land(given.output, given.report)}")


if __name__ == "__main__":
    main()
