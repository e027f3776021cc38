"""The page of tables: self-contained, escaped, written whole."""

import re

import pandas as pd
import pytest

from common.report import write_page


def test_page_holds_its_tables_and_needs_nothing_beside_it(tmp_path):
    table = pd.DataFrame({"ROC-AUC": ["0.9 <b>"]}, index=["siamese & co"])
    tables = {"closed set": table, "open": table}
    path = write_page(tmp_path / "new" / "report.html", "A < B", ["One.", "5 > 4"], tables)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "<title>A &lt; B</title>" in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["closed set", "open"]
    assert re.findall(r"<p>(.*?)</p>", page) == ["One.", "5 &gt; 4"]
    assert page.count("siamese &amp; co") == 2 and "<b>" not in page
    assert not re.search(r"(src|href)=|url\(|@import", page)


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = write_page(tmp_path / "report.html", "old", [], {})
    with pytest.raises(UnicodeEncodeError):
        write_page(path, "half a character: \ud800", [], {})
    assert "old" in path.read_text() and [file.name for file in tmp_path.iterdir()] == ["report.html"]
