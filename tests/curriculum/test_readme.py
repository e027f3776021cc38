"""The README names only what exists, and its result tables say what the committed ledger says."""

import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.readme_tables import END, LEDGER, START, fill, gap_lines, tables
from common.config import ROOT
from common.ledger import COLUMNS

README = (ROOT / "README.md").read_text()
MADE_BY_RUNS = ("runs/", "checkpoints/")


def missing_files(readme: str, root: Path) -> list[str]:
    """Files, modules and make targets that a README names in links and code, and that are not there."""
    makefile = (root / "Makefile").read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.DOTALL))
    links = [link for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", readme) if "://" not in link]
    links += [source for source in re.findall(r'<img[^>]*src="([^"]+)"', readme) if "://" not in source]
    named = re.findall(r"(?<![\w./<:{}-])[\w./-]+\.(?:ipynb|py|txt|toml|cfg|md|yml)\b", code)
    named += [f"{module.replace('.', '/')}.py" for module in re.findall(r"-m (common\.\w+)", code)]
    targets = re.findall(r"\bmake ([a-z]+)", code)
    found = [path for path in links + named if not path.startswith(MADE_BY_RUNS) and not (root / path).exists()]
    return found + [f"make {target}" for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def test_readme_names_only_what_exists():
    assert missing_files(README, ROOT) == []


def test_what_a_readme_names_in_vain_is_found(tmp_path):
    (tmp_path / "Makefile").write_text("run:\n")
    (tmp_path / "real.py").write_text("")
    readme = "`make run` `make fly` [a](R9.ipynb#x) [b](https://x.org/y.py) `python -m common.no` `real.py`"
    assert missing_files(readme, tmp_path) == ["R9.ipynb", "common/no.py", "make fly"]


def test_tables_are_those_of_the_ledger():
    assert fill(README, tables()) == README, "run: python -m benchmarks.readme_tables"
    assert README.count("| center_loss |") >= 2, "the tables name the trained approach"


def test_committed_ledger_is_clean():
    ledger = pd.read_csv(LEDGER)
    assert list(ledger) == COLUMNS
    assert (ledger["split"] == "test").all() and set(ledger["threshold_from"].dropna()) == {"validation"}
    key = ["dataset", "profile", "approach", "variant", "protocol", "attack", "eps_255", "metric", "seed"]
    assert not ledger.duplicated(key).any()


def test_a_changed_value_changes_the_table_and_nothing_else(tmp_path):
    ledger = pd.read_csv(LEDGER, dtype={"fingerprint": str})
    ledger.loc[ledger["approach"] == "center_loss", "value"] = 0.123
    ledger.to_csv(tmp_path / "results.csv", index=False)
    assert tables(tmp_path / "results.csv") != tables() and "0.123" in tables(tmp_path / "results.csv")
    assert fill(f"a{START}old{END}z", "new") == f"a{START}\nnew\n{END}z"
    with pytest.raises(ValueError):
        fill("no markers", "new")


def test_differences_stand_in_the_table_with_their_signs_and_intervals():
    gap = dict(approach="triplet", against="frozen_backbone", value=0.0512, low=-0.01, high=0.1)
    lines = gap_lines(pd.DataFrame([{**gap, "metric": metric} for metric in ("roc_auc", "map_at_r")]))
    assert lines[2:] == ["| triplet - frozen_backbone" + 2 * " | +0.051 [-0.010, +0.100]" + " |"]
