"""The ledger: rows replaced and never doubled, unknown words refused, honest tables, a page that stands alone."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from toys import config, image_set

from common import ledger
from common.ledger import ALLOWED, COLUMNS, in_words, leaderboard, read_results, record, robustness, scoreboard

pytestmark = pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning:common")


@pytest.fixture
def run(tmp_path):
    return config(tmp_path)


@pytest.fixture(scope="module")
def pictures():
    return image_set(2, 2, 4)


def row(value=0.9, **changes):
    known = dict(
        approach="center_loss", variant="standard", protocol="closed_set", split="test", metric="roc_auc",
        value=value, low=value - 0.02, high=value + 0.02, n=100, seed=0, threshold_from="", train_seconds=10.0,
    )  # fmt: skip
    return {**known, **changes}


def rows(*given):
    return pd.DataFrame(list(given))


def test_before_anything_was_measured_the_ledger_is_empty(run):
    assert list(read_results(run)) == COLUMNS and not len(read_results(run))
    assert not any(len(table(read_results(run))) for table in (leaderboard, scoreboard, robustness))


def test_rows_come_back_as_they_were_recorded(run, pictures):
    given = rows(row(), row(0.1 + 0.2, metric="accuracy", threshold_from="validation"))
    recorded = record(run, pictures, "R3", given)
    read = read_results(run)
    assert list(read) == COLUMNS == list(recorded)
    for name in given:
        expected = given[name].where(given[name] != "", np.nan)
        pd.testing.assert_series_equal(read[name], expected, check_dtype=False, check_names=False)
    known = dict(dataset="rendered", profile="quick", notebook="R3", fingerprint=pictures.fingerprint)
    for name, value in known.items():
        assert set(read[name].astype(str)) == {value} == set(recorded[name])
    assert read[["attack", "eps_255"]].isna().all(axis=None)


def test_a_reader_s_words_are_recorded_under_the_ledger_s_names(run, pictures):
    for name in ALLOWED["approach"].split():
        (told,) = in_words(pd.Series([name]))
        assert "_" not in told and record(run, pictures, "R3", rows(row(approach=told)))["approach"].item() == name
    told = in_words(rows(row(approach="color_histogram", metric="map_at_r", protocol="open_set")))
    assert told[["approach", "metric", "protocol"]].loc[0].tolist() == ["color", "MAP@R", "open set"]
    assert told["n"].item() == 100


@pytest.mark.parametrize("fingerprint", ["0123456789012345", "1234e56789012345"])
def test_a_fingerprint_that_looks_like_a_number_stays_text(run, pictures, fingerprint):
    strange = dataclasses.replace(pictures, fingerprint=fingerprint)
    for notebook in ("R1", "R2"):
        record(run, strange, notebook, rows(row()))
    assert read_results(run)["fingerprint"].tolist() == [fingerprint, fingerprint]


def test_recording_again_replaces_and_rows_of_other_pictures_leave_in_print(run, pictures, capsys):
    record(run, dataclasses.replace(pictures, fingerprint="of other pictures"), "R2", rows(row(), row()))
    record(run, pictures, "R3", rows(row(0.7), row(0.8, seed=1)))
    assert f"2 rows measured on other pictures leave {run.directory}" in capsys.readouterr().out
    record(run, pictures, "R1", rows(row(0.6, approach="chance")))
    record(run, pictures, "R3", rows(row(0.9)))
    record(run, pictures, "R3", rows(row(0.9)))
    read = read_results(run)
    assert read[["notebook", "value"]].to_numpy().tolist() == [["R1", 0.6], ["R3", 0.9]]
    assert [path for path in run.directory.iterdir() if path.suffix != ".lock"] == [run.directory / "results.csv"]
    assert not capsys.readouterr().out


def test_rows_recorded_at_one_instant_all_stay(run, pictures):
    with ThreadPoolExecutor(7) as pool:
        given = [(run, pictures, f"R{number}", rows(row(number / 10), row(0.5))) for number in range(1, 8)]
        list(pool.map(lambda arguments: record(*arguments), given))
    assert read_results(run)["notebook"].tolist() == [f"R{number}" for number in range(1, 8) for _ in range(2)]


DAMAGES = {
    "empty": lambda text: "",
    "binary": lambda text: "\x00\x01" * 99,
    "another header": lambda text: text.replace("attack", "attacks"),
    "a column less": lambda text: "\n".join(line.rsplit(",", 1)[0] for line in text.splitlines()),
    "a cut line": lambda text: text[:-40],
    "a longer line": lambda text: text + text.splitlines()[1] + ",1,2\n",
    "not a number": lambda text: text.replace("0.625", "nan"),
    "infinite": lambda text: text.replace("0.625", "inf"),
    "no rate": lambda text: text.replace("0.625", "7.0"),
    "no value": lambda text: text.replace("0.625", "much"),
    "another word": lambda text: text.replace("center_loss", "centre_loss"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_ledger_is_named_and_left_alone(run, pictures, damage):
    record(run, pictures, "R3", rows(row(0.625)))
    path = run.directory / "results.csv"
    path.write_text(damage(path.read_text()))
    kept = path.read_bytes()
    for use in (lambda: read_results(run), lambda: record(run, pictures, "R4", rows(row()))):
        with pytest.raises(ValueError, match=r"results\.csv is damaged .*move it away"):
            use()
    assert path.read_bytes() == kept


def test_an_area_may_pass_1_a_rate_may_not(run, pictures):
    assert len(record(run, pictures, "R7", rows(row(1.07, metric="insertion_area"))))
    with pytest.raises(ValueError, match="no metric's"):
        record(run, pictures, "R7", rows(row(1.07)))


def test_what_the_ledger_does_not_know_is_refused_and_changes_nothing(run, pictures):
    """Nor what a row needs: without these it would silently be missing from every leaderboard."""
    unknown = dict(approach="centre_loss", variant="strong", protocol="both", split="validation", attack="laser",
                   threshold_from="test", color="red")  # fmt: skip
    given = [(rows(row(), row(**{column: word})), f"{column}.*{ALLOWED.get(column, '')}")
             for column, word in unknown.items()]  # fmt: skip
    given += [(rows(row(), row(value=float(value))), "not finite.*'metric': 'roc_auc'") for value in ("nan", "inf")]
    given += [(rows(row(), row(**{column: None})), f"needs {column}") for column in ledger.REQUIRED]
    given += [(rows(row()).drop(columns=column), f"needs {column}") for column in ledger.REQUIRED]
    record(run, pictures, "R3", rows(row(0.5)))
    for wrong, message in given:
        with pytest.raises(ValueError, match=message):
            record(run, pictures, "R3", wrong)
    assert read_results(run)["value"].tolist() == [0.5]
    allowed = [row(**{column: word}) for column, words in ALLOWED.items() for word in words.split()]
    assert len(record(run, pictures, "R3", rows(*allowed))) == len(allowed) == len(read_results(run))


def test_the_leaderboard_worked_by_hand(run, pictures):
    record(run, pictures, "R3", rows(
        row(0.90, low=0.88, high=0.92), row(0.94, low=0.92, high=0.96, seed=1, train_seconds=20.0),
        row(0.7, metric="map_at_r", low=0.6, high=0.8),
        row(0.7, metric="map_at_r", low=0.6, high=0.8, seed=1, train_seconds=20.0),
        row(0.99, approach="siamese"),
        row(0.55, approach="chance", low=0.5, high=0.6, train_seconds=0.0),
        row(0.8, approach="triplet", metric="map_at_r"),  # never judged by ROC-AUC
    ))  # fmt: skip
    board = leaderboard(read_results(run))
    assert [approach for approach, _ in board.index] == ["siamese", "center_loss", "chance", "triplet"]
    spread = np.hypot(0.02, 1.96 * np.std([0.90, 0.94], ddof=1) / np.sqrt(2))
    ours = board.loc["center_loss", "standard"]
    assert ours.roc_auc == f"0.920 [{0.92 - spread:.3f}, {0.92 + spread:.3f}]" == "0.920 [0.876, 0.964]"
    assert ours.map_at_r == "0.700 [0.600, 0.800]"
    assert (ours.train_seconds, ours.seeds) == (15.0, 2)
    assert board.loc["chance", "standard"].map_at_r == "" == board.loc["triplet", "standard"].roc_auc
    assert board.loc["siamese", "standard"].roc_auc == "0.990 [0.970, 1.000]", "an AUC ends at 1"


def test_protocols_and_attacks_are_never_mixed(run, pictures):
    attacked = row(0.0, attack="pgd", eps_255=4.0)
    record(run, pictures, "R3", rows(row(0.9), row(0.1, protocol="open_set"), attacked, row(0.4, variant="robust")))
    closed, opened = (leaderboard(read_results(run), protocol) for protocol in ("closed_set", "open_set"))
    assert closed.index.tolist() == [("center_loss", "standard"), ("center_loss", "robust")]
    assert [text[:5] for text in closed.roc_auc] == ["0.900", "0.400"]
    assert [text[:5] for text in opened.roc_auc] == ["0.100"]


def test_the_command_prints_the_leaderboards_that_have_rows(run, pictures, monkeypatch, capsys):
    record(run, pictures, "R3", rows(row(0.9), row(0.1, protocol="open_set")))
    monkeypatch.setenv("SIMILARITY_CHECKPOINTS", str(run.checkpoints))
    ledger.main()
    printed = capsys.readouterr().out
    places = ["rendered-quick, closed_set, test", "0.900 [0.880, 0.920]", "open_set, test", "0.100 [0.080, 0.120]"]
    assert sorted(places, key=printed.index) == places
    monkeypatch.setenv("SIMILARITY_PROFILE", "full")
    ledger.main()
    assert capsys.readouterr().out.endswith("-full: no rows yet\n")


def test_scoreboard_asks_each_row_its_own_questions(run, pictures):
    attacked = dict(attack="pgd", eps_255=4.0)
    record(run, pictures, "R3", rows(row(0.9), row(0.5, metric="map_at_r"), row(0.7, approach="siamese")))
    given = [row(0.3, **attacked), row(0.1, attack="pgd", eps_255=8.0), row(0.2, attack="pgd_both", eps_255=4.0)]
    record(run, pictures, "R6", rows(*given, row(0.8, variant="robust"), row(0.6, variant="robust", **attacked)))
    odd = dict(metric="intervention_agreement", low=-0.4, high=0.1)
    record(run, pictures, "R7", rows(row(-0.2, **odd), row(0.4, metric="deletion_gain")))
    record(run, pictures, "R5", rows(row(0.99, protocol="open_set")))
    board = scoreboard(read_results(run))
    center, siamese = ("center_loss", "standard"), ("siamese", "standard")
    assert list(board.index) == [center, ("center_loss", "robust"), siamese]
    assert list(board.loc[center]) == ["0.900 [0.880, 0.920]", "0.500 [0.480, 0.520]", "0.300 [0.280, 0.320]",
                                       "0.400 [0.380, 0.420]", "-0.200 [-0.400, 0.100]", ""]  # fmt: skip
    assert board.loc[("center_loss", "robust")].iloc[2] == "0.600 [0.580, 0.620]"
    assert list(board.loc[siamese]) == ["0.700 [0.680, 0.720]", *[""] * 5]
    assert len(scoreboard(read_results(run), "open_set")) == 1


def test_robustness_has_a_column_for_each_radius():
    attacked = [row(0.3, attack="pgd", eps_255=4.0), row(0.5, attack="pgd", eps_255=4.0, seed=1)]
    attacked += [row(0.2, attack="pgd", eps_255=8.0), row(0.7, attack="pgd", eps_255=1.0, variant="robust")]
    attacked += [row(0.1, attack="pgd_both", eps_255=4.0), row(0.9)]
    attacked += [row(0.8, attack="pgd", eps_255=4.0, **odd) for odd in (dict(metric="eer"), dict(protocol="open_set"))]
    table = robustness(rows(*attacked))
    assert list(table) == ["1/255", "4/255", "8/255", "both, 4/255"]
    center = table.loc[("center_loss", "standard")]
    assert center["4/255"].startswith("0.400 [") and center["8/255"] == "0.200 [0.180, 0.220]"
    assert center["both, 4/255"] == "0.100 [0.080, 0.120]" and center["1/255"] == ""
    assert table.loc[("center_loss", "robust"), "1/255"].startswith("0.700")


def test_only_differences_that_were_seen_get_a_number():
    gaps = pd.DataFrame({"metric": ["map_at_r"] * 3, "protocol": ["open_set"] * 3, "approach": ["cross_entropy"] * 3})
    gaps = gaps.assign(value=[0.02, 0.01, -0.02], low=[0.01, 0.0, -0.03], high=[0.03, 0.02, -0.01])
    shown = ledger.readable(gaps, cross_entropy="names")
    assert shown["text"].tolist() == ["+0.020", "", "-0.020"]
    assert shown.loc[0, ["metric", "protocol", "approach"]].tolist() == ["MAP@R", "new species", "names"]
    assert ledger.readable(gaps.assign(approach="pair_cross_entropy"))["approach"][0] == "pair cross-entropy"


def test_stored_differences_are_turned_around(tmp_path):
    gap = dict(protocol="closed_set", metric="roc_auc", value=0.25, low=0.1, high=0.4, seeds=2)
    gap |= dict(dataset="photos", approach="center_loss", against="frozen_backbone")
    pd.DataFrame([gap]).to_csv(tmp_path / "differences.csv")
    (given,) = ledger.differences("photos", "frozen_backbone", tmp_path).to_dict("records")
    assert given["approach"] == "center_loss" and [given["value"], given["low"], given["high"]] == [0.25, 0.1, 0.4]
    (turned,) = ledger.differences("photos", "center_loss", tmp_path).to_dict("records")
    gap = dict(approach="frozen_backbone", value=-0.25, low=-0.4, high=-0.1)
    assert turned == dict(dataset="photos", metric="roc_auc", protocol="closed_set") | gap
    assert ledger.differences("others", "center_loss", tmp_path).empty
