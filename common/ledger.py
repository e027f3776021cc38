"""The ledger: every measured row of a run in one CSV, and the leaderboard read from it."""

import argparse

import numpy as np
import pandas as pd

from common.config import Config, setup
from common.datasets.files import write_whole
from common.datasets.images import ImageSet

COLUMNS = [
    *("dataset", "profile", "notebook", "approach", "variant", "protocol", "split", "attack", "eps_255"),
    *("metric", "value", "low", "high", "n", "seed", "threshold_from", "train_seconds", "fingerprint"),
]
ALLOWED = {
    "approach": "chance color_histogram raw_pixels frozen_backbone cross_entropy center_loss "
    "siamese contrastive triplet given_triplets",
    "variant": "standard robust",
    "protocol": "closed_set open_set",
    "split": "train validation test",
    "threshold_from": "validation",
    "attack": "fgsm pgd pgd_both noise transfer square",
}
HEADLINE = 4  # radius of the attack in the scoreboard, in 255ths (protocol rule 11)
SCOREBOARD = {  # column -> metric
    "verification: ROC-AUC": "roc_auc",
    "retrieval: MAP@R": "map_at_r",
    f"robustness: ROC-AUC under PGD, {HEADLINE}/255": "roc_auc",
    "faithfulness: deletion area": "deletion_area",
    "faithfulness: agreement with interventions": "intervention_agreement",
    "localization: relevance mass": "relevance_mass",
}
REQUIRED = ("approach", "variant", "protocol", "split", "metric")


def record(config: Config, image_set: ImageSet, notebook: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Put a notebook's measured rows into the ledger, in place of those it put there before.

    Rows of other pictures than these go, too: nobody could compare with them.

    Args:
        config: gives the ledger's place, its dataset and profile columns.
        image_set: gives the fingerprint.
        notebook: "R1" to "R7".
        rows: columns of `COLUMNS`; those of the run itself are filled in, missing ones stay empty.

    Returns:
        The notebook's rows as they stand in the ledger.

    Raises:
        ValueError: a column or a word the ledger does not know, a row that does not say what it is, or a
            value that is not finite.
    """
    rows = rows.assign(
        dataset=config.dataset_name, profile=config.profile, notebook=notebook, fingerprint=image_set.fingerprint
    )
    _check_rows(rows)
    rows = rows.reindex(columns=COLUMNS)
    others = read_results(config).query("notebook != @notebook and fingerprint == @image_set.fingerprint")
    ledger = pd.concat([part for part in (others, rows) if len(part)])
    ledger = ledger.sort_values("notebook", kind="stable")
    write_whole(config.directory / "results.csv", lambda temporary: ledger.to_csv(temporary, index=False))
    return rows


def read_results(config: Config) -> pd.DataFrame:
    """The run's ledger; empty, with its columns, before anything was measured."""
    path = config.directory / "results.csv"
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(path, dtype={"fingerprint": str})


def leaderboard(results: pd.DataFrame, protocol: str = "closed_set", split: str = "test") -> pd.DataFrame:
    """One row an approach, one column a metric: "mean [low, high]" over seeds, best ROC-AUC first.

    The interval joins the pictures' uncertainty (the mean bootstrap interval) and the seeds' (1.96
    standard errors) as independent errors. Clean rows only; chance and feature baselines included.
    """
    clean = results[results["attack"].isna() & (results["protocol"] == protocol) & (results["split"] == split)]
    shown = ["roc_auc", "eer", "accuracy", "precision_at_1", "map_at_r", "cmc_at_1", "map", "class_accuracy"]
    groups = clean[clean["metric"].isin(shown)].groupby(["approach", "variant", "metric"], sort=False)
    cells = [{**dict(zip(groups.keys, key, strict=True)), **_summary(rows)} for key, rows in groups]
    if not cells:
        return pd.DataFrame()
    table = pd.DataFrame(cells)
    order = table[table.metric == "roc_auc"].set_index(["approach", "variant"])["mean"]
    wide = table.pivot(index=["approach", "variant"], columns="metric", values="text")
    wide["train_seconds"] = clean.groupby(["approach", "variant"])["train_seconds"].mean().round(1)
    wide["seeds"] = clean.groupby(["approach", "variant"])["seed"].nunique()
    ranked = wide.loc[order.reindex(wide.index).sort_values(ascending=False).index]
    return ranked.reindex(columns=[*(m for m in shown if m in wide), "train_seconds", "seeds"]).fillna("")


def scoreboard(results: pd.DataFrame, protocol: str = "closed_set") -> pd.DataFrame:
    """The whole curriculum in one table: approach x variant, one column a question, best clean ROC-AUC first.

    Test rows only, "mean [low, high]" as in `leaderboard`; what was not measured stays empty.
    """
    test = results[(results["protocol"] == protocol) & (results["split"] == "test")]
    clean, attacked = test["attack"].isna(), (test["attack"] == "pgd") & (test["eps_255"] == HEADLINE)
    columns = {}
    for column, metric in SCOREBOARD.items():
        chosen = test[(attacked if column.startswith("robustness") else clean) & (test["metric"] == metric)]
        groups = chosen.groupby(["approach", "variant"])
        columns[column] = pd.Series({key: _summary(rows)["text"] for key, rows in groups}, dtype=object)
    order = test[clean & (test["metric"] == "roc_auc")].groupby(["approach", "variant"])["value"].mean()
    return pd.DataFrame(columns).reindex(order.sort_values(ascending=False).index).fillna("")


def robustness(results: pd.DataFrame, protocol: str = "closed_set") -> pd.DataFrame:
    """ROC-AUC under PGD: approach x variant, one column a radius of 255, "mean [low, high]" as in `leaderboard`.

    Test rows only; the columns "both, ..." change both pictures. Empty where no attack was measured.
    """
    chosen = (results["protocol"] == protocol) & (results["split"] == "test") & (results["metric"] == "roc_auc")
    attacked = results[chosen & results["attack"].isin(["pgd", "pgd_both"])].sort_values(["attack", "eps_255"])
    kinds = attacked["attack"].map({"pgd": "", "pgd_both": "both, "})
    names = [f"{kind}{eps:g}/255" for kind, eps in zip(kinds, attacked["eps_255"], strict=True)]
    groups = attacked.assign(radius=names).groupby(["approach", "variant", "radius"], sort=False)
    cells = [(*key, _summary(rows)["text"]) for key, rows in groups]
    table = pd.DataFrame(cells, columns=["approach", "variant", "radius", "text"])
    wide = table.pivot(index=["approach", "variant"], columns="radius", values="text")
    return wide.reindex(columns=list(dict.fromkeys(names))).rename_axis(columns=None)


def _summary(rows: pd.DataFrame) -> dict:
    mean, count = rows["value"].mean(), len(rows)
    spread = 1.96 * rows["value"].std() / np.sqrt(count) if count > 1 else 0.0
    least = -1.0 if (rows["low"] < 0).any() else 0.0  # a correlation may fall below 0, a rate may not
    low = max(least, mean - np.hypot((rows["value"] - rows["low"]).mean(), spread))
    high = min(1.0, mean + np.hypot((rows["high"] - rows["value"]).mean(), spread))
    return {"mean": mean, "text": f"{mean:.3f} [{low:.3f}, {high:.3f}]"}


def _check_rows(rows: pd.DataFrame) -> None:
    unknown = set(rows) - set(COLUMNS)
    if unknown:
        raise ValueError(f"the ledger has no column {', '.join(sorted(unknown))}; it has {', '.join(COLUMNS)}")
    for column in REQUIRED:
        if column not in rows or rows[column].isna().any():
            raise ValueError(f"every row of the ledger needs {column}; some or all have none")
    for column, words in ALLOWED.items():
        wrong = set(rows.get(column, pd.Series(dtype=str)).dropna()) - {*words.split(), ""}
        if wrong:
            raise ValueError(f"{column} {sorted(wrong)} is unknown to the ledger; use one of: {words}")
    if not np.isfinite(rows["value"].astype(float)).all():
        raise ValueError(f"a value is not finite: {rows[~np.isfinite(rows['value'].astype(float))].to_dict('records')}")


if __name__ == "__main__":
    argparse.ArgumentParser(description="Print the leaderboard of the run that SIMILARITY_* names.").parse_args()
    run = setup()
    for protocol in ("closed_set", "open_set"):
        table = leaderboard(read_results(run), protocol)
        print(f"\n{run.name}, {protocol}, test\n{table.to_string() if len(table) else 'no rows yet'}")
