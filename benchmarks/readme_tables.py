"""Write what the README shows of the committed ledger: `python -m benchmarks.readme_tables`.

Two figures and a sentence each in the README, all tables in docs/results.md; no number of it is typed by hand.
"""

import hashlib
from pathlib import Path

import pandas as pd
from PIL import Image

from common import plotting
from common.config import ROOT
from common.datasets.files import write_whole
from common.ledger import SCOREBOARD, leaderboard, robustness, scoreboard
from common.report import numbers

LEDGER, GAPS = (ROOT / "benchmarks" / name for name in ("results.csv", "differences.csv"))
README, TABLES = ROOT / "README.md", ROOT / "docs" / "results.md"
START, END = "<!-- results -->", "<!-- end of results -->"
TRAINED = ("cross_entropy", "center_loss", "siamese", "contrastive", "triplet")
SIDES = {"closed_set": "classes it knows", "open_set": "classes never shown"}


def tables(ledger: Path = LEDGER, gaps: Path = GAPS) -> str:
    """Of every run and protocol: the leaderboard, paired differences, and ROC-AUC under attack; as Markdown."""
    results, differences = pd.read_csv(ledger), pd.read_csv(gaps)
    parts = []
    for (dataset, profile), rows in results.groupby(["dataset", "profile"], sort=False):
        for protocol in rows["protocol"].unique():
            title = f"{dataset}, {profile}, {protocol.replace('_', ' ')}"
            parts += [f"**{title}**", "", *_lines(leaderboard(rows, protocol)), ""]
            measured = differences.query("dataset == @dataset and protocol == @protocol")
            if len(measured) and profile == "standard":
                parts += [f"**{title}: paired differences**", "", *gap_lines(measured), ""]
            attacked = robustness(rows, protocol)
            if len(attacked):
                parts += [f"**{title}: ROC-AUC under PGD**", "", *_lines(attacked), ""]
    return "\n".join(parts)


def _lines(table: pd.DataFrame) -> list[str]:
    """A table by approach and variant as the lines of a Markdown table; "robust" joins the approach's name."""
    names = [name if variant == "standard" else f"{name}, {variant}" for name, variant in table.index]
    table = table.reset_index(drop=True).astype(str)
    table.insert(0, "approach", names)
    header = [column.replace("_", " ") for column in table]
    return ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *table.to_numpy().tolist())]


def gap_lines(gaps: pd.DataFrame) -> list[str]:
    """Rows of differences.csv as the lines of a Markdown table: each approach, what it is held against, two metrics."""
    texts = [f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" for gap in gaps.itertuples()]
    table = gaps.assign(text=texts).pivot(index=["approach", "against"], columns="metric", values="text")
    names = [f"{approach} - {against}" for approach, against in table.index]
    lines = [f"| {name} | {row['roc_auc']} | {row['map_at_r']} |" for name, (_, row) in zip(names, table.iterrows())]
    return ["| difference | roc auc | map at r |", "| --- | --- | --- |", *lines]


def found(results: pd.DataFrame) -> pd.DataFrame:
    """MAP@R on photographs of flowers: value, low, high by (approach, which classes), best known ones first."""
    rows = results.query("dataset == 'flowers102' and profile == 'standard'")
    sides = {word: numbers(leaderboard(rows, side), "map_at_r").xs("standard", level=1) for side, word in SIDES.items()}
    order = next(iter(sides.values())).sort_values("value", ascending=False).index.drop("chance")
    both = pd.concat(sides).swaplevel()
    return both.loc[[(name, word) for name in order for word in sides if (name, word) in both.index]]


def fooled(results: pd.DataFrame) -> pd.DataFrame:
    """ROC-AUC of the quick run's models on drawn flowers: value, low, high by (approach, which model and pictures)."""
    board = scoreboard(results.query("dataset == 'rendered' and profile == 'quick'"))
    columns = {"clean": SCOREBOARD["roc_auc"], "attacked": SCOREBOARD["attacked roc_auc"]}
    parts = {word: numbers(board, column) for word, column in columns.items()}
    robust = [name for name in TRAINED if (name, "robust") in parts["attacked"].index]
    keys = [(name, variant, word) for name in robust for variant in ("standard", "robust") for word in columns]
    rows = [parts[word].loc[(name, variant)] for name, variant, word in keys]
    index = pd.MultiIndex.from_tuples([(name, f"{variant}, {word}") for name, variant, word in keys])
    return pd.DataFrame(rows).set_axis(index)


FIGURES = {  # file -> what is drawn, its title, and what its axis says
    "results-found.png": (found, "Photographs of flowers: how much of the query's class is found", "MAP@R"),
    "results-fooled.png": (fooled, "Drawn flowers: a change nobody sees, and models trained against it", "ROC-AUC"),
}


def stamp(table: pd.DataFrame) -> str:
    """Digits that stand for what a figure is drawn from; they are kept in its file."""
    return hashlib.sha256(table.round(4).to_csv().encode()).hexdigest()[:16]


def draw(table: pd.DataFrame, title: str, xlabel: str, path: Path) -> None:
    """Draw a table of `found` or `fooled` as dots with intervals."""
    names = [f"{name.replace('_', ' ')}: {word}" for name, word in table.index]
    figure = plotting.intervals(
        table.set_axis(names), title, f"{xlabel}, test, 95 % intervals", groups=[*table.index.get_level_values(1)]
    )
    figure.savefig(path, dpi=plotting.DOTS, bbox_inches="tight", metadata={"Description": stamp(table)})


def stale(folder: Path, results: pd.DataFrame) -> list[str]:
    """Those of the figures in a folder that were drawn from other numbers than these."""
    old = []
    for name, (pick, _, _) in FIGURES.items():
        with Image.open(folder / name) as picture:
            if picture.text.get("Description") != stamp(pick(results)):
                old.append(name)
    return old


def summary(results: pd.DataFrame) -> str:
    """The README's results: each figure and the sentence it bears."""

    def span(values: pd.Series) -> str:
        return f"{values.min():.2f}–{values.max():.2f}"

    map_at_r, attacked = found(results)["value"], fooled(results)["value"]
    trained = {word: map_at_r.reindex([(name, word) for name in TRAINED]).dropna() for word in SIDES.values()}
    frozen = {word: map_at_r.get(("frozen_backbone", word), float("nan")) for word in SIDES.values()}
    known, new = SIDES.values()
    seeds = results.query("dataset == 'flowers102' and approach in @TRAINED and variant == 'standard'")[
        "seed"
    ].nunique()
    said = {word: span(attacked.xs(word, level=1)) for word in dict.fromkeys(attacked.index.get_level_values(1))}
    some = results.query("dataset == 'rendered' and attack == 'pgd' and eps_255 == 4")["n"].max()
    texts = (
        f"On photographs, MAP@R of the trained approaches is {span(trained[known])} for classes they know, that of the "
        f"frozen backbone {frozen[known]:.2f}; for classes nobody showed them {span(trained[new])} against "
        f"{frozen[new]:.2f} (12 species, {seeds} seeds).",
        f"On drawn flowers, ROC-AUC of the standard models falls from {said['standard, clean']} on all "
        f"pairs to {said['standard, attacked']} on {some} of them when no value of a picture moves by more than 4 of "
        f"255; models trained against that keep {said['robust, attacked']} (one seed).",
    )
    lines = [f"![{title}](docs/{name})\n\n{text}" for (name, (_, title, _)), text in zip(FIGURES.items(), texts)]
    return "\n\n".join(lines)


def fill(text: str, content: str) -> str:
    """Put `content` between the two markers of a text."""
    before, rest = text.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the README's part, docs/results.md and the figures."""
    results = pd.read_csv(LEDGER)
    for name, (pick, title, xlabel) in FIGURES.items():
        draw(pick(results), title, xlabel, ROOT / "docs" / name)
    for path, content in ((README, summary(results)), (TABLES, tables())):
        text = fill(path.read_text(encoding="utf-8"), content)
        write_whole(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
