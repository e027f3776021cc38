"""The ledger: every measured row of a run in one CSV, and the tables read from it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from common.config import ROOT, Config, setup
from common.datasets.files import lock, reason, write_whole
from common.datasets.images import ImageSet

COLUMNS = [
    *("dataset", "profile", "notebook", "approach", "variant", "protocol", "split", "attack", "eps_255"),
    *("metric", "value", "low", "high", "n", "seed", "threshold_from", "train_seconds", "fingerprint"),
]
MEASURED = ("dataset", "profile", "notebook", "fingerprint")  # `record` fills them in
NUMBERS = ["eps_255", "value", "low", "high", "n", "seed", "train_seconds"]
REQUIRED = ("approach", "variant", "protocol", "split", "metric")
ALLOWED = {
    "approach": "chance color_histogram central_color raw_pixels frozen_backbone principal_head "
    "cross_entropy center_loss siamese contrastive triplet given_triplets",
    "variant": "standard robust",
    "protocol": "closed_set open_set",
    "split": "test",
    "threshold_from": "validation",
    "attack": "pgd pgd_both",
}
LEADERBOARD = ["roc_auc", "eer", "accuracy", "precision_at_1", "map_at_r", "cmc_at_1", "map", "class_accuracy"]
WORDS = {"chance": "random numbers", "color_histogram": "color", "cross_entropy": "cross-entropy"}  # for a reader
WORDS |= {"roc_auc": "ROC-AUC", "precision_at_1": "P@1", "map_at_r": "MAP@R"}
WORDS["pair_cross_entropy"] = "pair cross-entropy"
READABLE = WORDS | {"closed_set": "known species", "open_set": "new species"}
READABLE |= {"rendered": "drawn flowers", "flowers102": "photographs", "caltech101": "objects"}
READABLE |= {"att_faces": "faces", "reid": "persons"}
HEADLINE = 4  # radius of the attack in the scoreboard, in 255ths (protocol rule 11)
SCOREBOARD = {  # metric -> column
    "roc_auc": "verification: ROC-AUC",
    "map_at_r": "retrieval: MAP@R",
    "attacked roc_auc": f"robustness: ROC-AUC under PGD, {HEADLINE}/255",
    "deletion_gain": "faithfulness: deletion, gain over a blob",
    "intervention_agreement": "faithfulness: agreement with interventions",
    "relevance_mass": "localization: relevance mass",
}


def record(config: Config, image_set: ImageSet, notebook: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Put a notebook's measured rows into the ledger, in place of those that it ("R1" to "R7") put there before.

    Rows have columns of `COLUMNS`, approaches may be `in_words`; those of the run itself are filled in, missing ones
    stay empty. Rows of other pictures than these leave the ledger, in print: nobody could compare with them. Returns
    the rows as they stand there. A column or a word the ledger does not know, a row that does not say what it is, or a
    value that is none raises ValueError, and nothing is changed.
    """
    path = config.directory / "results.csv"
    run = dict(dataset=config.dataset_name, profile=config.profile, fingerprint=image_set.fingerprint)
    names = pd.Series(ALLOWED["approach"].split())
    rows = rows.assign(notebook=notebook, **run).replace({"approach": dict(zip(in_words(names), names, strict=True))})
    _check_rows(rows)
    rows = rows.reindex(columns=COLUMNS)
    with lock(path, f"{path} is held by another process for a minute: see what runs there, and try again", 60):
        before = read_results(config)
        if foreign := int((before["fingerprint"] != image_set.fingerprint).sum()):
            print(f"{foreign} rows measured on other pictures leave {path}")
        others = before.query("notebook != @notebook and fingerprint == @image_set.fingerprint")
        ledger = pd.concat([part for part in (others, rows) if len(part)]).sort_values("notebook", kind="stable")
        write_whole(path, lambda temporary: ledger.to_csv(temporary, index=False))
    return rows


def read_results(config: Config) -> pd.DataFrame:
    """The run's ledger; empty, with its columns, before anything was measured. ValueError where it is damaged."""
    path = config.directory / "results.csv"
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        results = pd.read_csv(path, dtype={name: str for name in COLUMNS if name not in NUMBERS})
        if list(results) != COLUMNS:
            odd = {*map(str, results)} ^ {*COLUMNS}
            raise ValueError(f"its columns are not a ledger's: {', '.join(sorted(odd)[:4]) or 'another order'}")
        results[NUMBERS].apply(pd.to_numeric)
        _check_rows(results)
    except ValueError as error:  # pandas' own errors are among them
        told = f"{path} is damaged ({reason(error)})"
        raise ValueError(f"{told}: move it away, and what runs again fills another") from error
    return results


def in_words(rows):
    """Rows, or a column, with a reader's words for the ledger's names: "color" for "color_histogram" (see `WORDS`)."""
    return rows.replace(WORDS).replace("_", " ", regex=True)


def differences(dataset: str, against: str, folder: Path = ROOT / "benchmarks") -> pd.DataFrame:
    """The paired differences of approaches to one of them that `benchmarks` holds, over seeds: value, low and high.

    Columns dataset, metric, protocol, approach, value, low, high; a difference stored the other way around is turned.
    """
    gaps = pd.read_csv(folder / "differences.csv")
    turned = gaps.assign(approach=gaps["against"], against=gaps["approach"])
    turned = turned.assign(value=-gaps["value"], low=-gaps["high"], high=-gaps["low"])
    gaps = pd.concat([gaps, turned]).query("dataset == @dataset and against == @against")
    return gaps[["dataset", "metric", "protocol", "approach", "value", "low", "high"]].reset_index(drop=True)


def readable(gaps: pd.DataFrame, **words: str) -> pd.DataFrame:
    """Differences for a figure, in `READABLE` and other words; `text` is the number, of those that were seen."""
    text = gaps["value"].map("{:+.3f}".format).where((gaps["low"] > 0) | (gaps["high"] < 0), "")
    return gaps.replace(READABLE | words).assign(text=text)


def leaderboard(results: pd.DataFrame, protocol: str = "closed_set") -> pd.DataFrame:
    """Approach x variant, one column a metric: "mean [low, high]" over seeds, best ROC-AUC first.

    The interval joins the pictures' uncertainty (the mean bootstrap interval) and the seeds' (1.96 standard errors)
    as independent errors. Clean rows only; chance and feature baselines included.
    """
    clean = results[results["attack"].isna() & (results["protocol"] == protocol)]
    table = _summary(clean, clean["metric"], [metric for metric in LEADERBOARD if metric in set(clean["metric"])])
    groups = clean.groupby(["approach", "variant"])
    seconds = groups["train_seconds"].mean().astype(float).round(1)  # of no rows pandas 2 makes objects
    table = table.assign(train_seconds=seconds, seeds=groups["seed"].nunique())
    return _best_first(table, clean)


def scoreboard(results: pd.DataFrame, protocol: str = "closed_set") -> pd.DataFrame:
    """The whole curriculum: approach x variant, one column a question, "mean [low, high]" as in `leaderboard`."""
    rows = results[results["protocol"] == protocol]
    clean, attacked = rows["attack"].isna(), (rows["attack"] == "pgd") & (rows["eps_255"] == HEADLINE)
    questions = rows["metric"].mask(attacked, "attacked " + rows["metric"]).where(clean | attacked)
    return _best_first(_summary(rows, questions.map(SCOREBOARD), SCOREBOARD.values()), rows[clean])


def robustness(results: pd.DataFrame, protocol: str = "closed_set") -> pd.DataFrame:
    """ROC-AUC under PGD: approach x variant, one column a radius of 255, "mean [low, high]" as in `leaderboard`.

    The columns "both, ..." change both pictures. Empty where no attack was measured.
    """
    chosen = results["attack"].notna() & (results["protocol"] == protocol) & (results["metric"] == "roc_auc")
    attacked = results[chosen].sort_values(["attack", "eps_255"])
    sides, radii = attacked["attack"].map({"pgd": "", "pgd_both": "both, "}), attacked["eps_255"]
    words = pd.Series([f"{side}{radius:g}/255" for side, radius in zip(sides, radii)], attacked.index, dtype=object)
    return _summary(attacked, words, words.unique())


def _summary(rows: pd.DataFrame, columns: pd.Series, order: Iterable[str]) -> pd.DataFrame:
    """Approach x variant, one column for each word of `columns` (one for each row): "mean [low, high]", or nothing."""
    means = over_seeds(rows, ["approach", "variant", columns.rename("column")])
    texts = ["{:.3f} [{:.3f}, {:.3f}]".format(*numbers) for numbers in means.to_numpy()]
    table = pd.Series(texts, means.index, dtype=object).unstack(fill_value="")
    return table.reindex(columns=pd.Index(order), fill_value="")


def over_seeds(rows: pd.DataFrame, keys: list) -> pd.DataFrame:
    """Value, low and high of the mean over seeds, by `keys`, with intervals as in `leaderboard`."""
    groups = rows.groupby(keys)
    mean, spread = groups[["value", "low", "high"]].mean(), 1.96 * groups["value"].sem().fillna(0)
    least = -(groups["low"].min() < 0).astype(float)  # a correlation may fall below 0, a rate may not
    low = (mean["value"] - np.hypot(mean["value"] - mean["low"], spread)).clip(lower=least)
    high = (mean["value"] + np.hypot(mean["high"] - mean["value"], spread)).clip(upper=1)
    return mean.assign(low=low, high=high)


def _best_first(table: pd.DataFrame, clean: pd.DataFrame) -> pd.DataFrame:
    areas = clean[clean["metric"] == "roc_auc"].groupby(["approach", "variant"])["value"].mean()
    return table.loc[areas.reindex(table.index).sort_values(ascending=False).index]


def _check_rows(rows: pd.DataFrame) -> None:
    unknown = set(rows) - set(COLUMNS)
    if unknown:
        raise ValueError(f"the ledger has no column {', '.join(sorted(unknown))}; it has {', '.join(COLUMNS)}")
    for column in (*REQUIRED, *MEASURED):
        if column not in rows or rows[column].isna().any():
            raise ValueError(f"every row of the ledger needs {column}; some or all have none")
    for column, words in ALLOWED.items():
        wrong = set(rows.get(column, pd.Series(dtype=str)).dropna()) - {*words.split(), ""}
        if wrong:
            raise ValueError(f"{column} {sorted(wrong)} is unknown to the ledger; use one of: {words}")
    values = rows["value"].astype(float)
    areas = rows["metric"].astype(str).str.endswith("_area")  # under curves that may rise above 1; all else are rates
    wrong = ~np.isfinite(values) | (values.abs() > 1) & ~areas
    if wrong.any():
        first = rows.loc[wrong, ["approach", "metric", "value"]].head(3).to_dict("records")
        raise ValueError(f"a value is not finite, or no metric's: {first}")


def main() -> None:
    """Print the leaderboards of the run that the `SIMILARITY_*` variables name."""
    config = setup()
    boards = {protocol: leaderboard(rows, protocol) for protocol, rows in read_results(config).groupby("protocol")}
    texts = [f"\n{config.name}, {protocol}, test\n{board.to_string()}" for protocol, board in boards.items()]
    print("\n".join(texts) or f"{config.name}: no rows yet")


if __name__ == "__main__":
    main()
