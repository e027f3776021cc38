"""A page of tables that opens in any browser and needs nothing beside it."""

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.datasets.files import write_whole

STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
div { overflow-x: auto } table { border-collapse: collapse; font-size: 0.85rem }
th, td { padding: 0.4rem 0.7rem; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top }"""


def write_page(path: Path, title: str, notes: Sequence[str], tables: dict[str, pd.DataFrame]) -> Path:
    """Write one self-contained HTML page, whole or not at all.

    Args:
        path: of the page.
        title: its heading.
        notes: paragraphs above the tables.
        tables: heading -> table, in this order.

    Returns:
        The path.
    """
    title, paragraphs = html.escape(title), "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    shown = "".join(
        f"<h2>{html.escape(heading)}</h2>\n<div>{table.to_html(border=0)}</div>\n" for heading, table in tables.items()
    )
    page = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{STYLE}</style></head>
<body>
<h1>{title}</h1>
{paragraphs}{shown}</body>
</html>
"""
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path
