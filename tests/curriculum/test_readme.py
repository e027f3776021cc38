"""The README's result tables say what the committed ledger says, and nothing else."""

import pandas as pd
import pytest

from benchmarks.readme_tables import END, LEDGER, START, fill, tables
from common.config import ROOT
from common.ledger import COLUMNS


def test_tables_are_those_of_the_ledger():
    readme = (ROOT / "README.md").read_text()
    assert fill(readme, tables()) == readme, "run: python -m benchmarks.readme_tables"
    assert readme.count("| center_loss |") >= 2, "the tables name the trained approach"


def test_committed_ledger_is_clean():
    ledger = pd.read_csv(LEDGER)
    assert list(ledger) == COLUMNS
    assert (ledger["split"] == "test").all() and set(ledger["threshold_from"].dropna()) == {"validation"}
    key = ["dataset", "profile", "approach", "variant", "protocol", "attack", "eps_255", "metric", "seed"]
    assert not ledger.duplicated(key).any()


def test_a_changed_value_changes_the_table(tmp_path):
    ledger = pd.read_csv(LEDGER, dtype={"fingerprint": str})
    ledger.loc[ledger["approach"] == "center_loss", "value"] = 0.123
    ledger.to_csv(tmp_path / "results.csv", index=False)
    assert tables(tmp_path / "results.csv") != tables() and "0.123" in tables(tmp_path / "results.csv")


def test_fill_replaces_only_what_is_between_the_markers():
    assert fill(f"a{START}old{END}z", "new") == f"a{START}\nnew\n{END}z"
    with pytest.raises(ValueError):
        fill("no markers", "new")
