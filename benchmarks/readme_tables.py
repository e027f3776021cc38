"""Write the result tables of the README from the committed ledger: `python -m benchmarks.readme_tables`."""

from pathlib import Path

import pandas as pd

from common.config import ROOT
from common.datasets.files import write_whole
from common.ledger import leaderboard, robustness

LEDGER, GAPS = (ROOT / "benchmarks" / name for name in ("results.csv", "differences.csv"))
START, END = "<!-- results -->", "<!-- end of results -->"


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


def fill(readme: str, content: str) -> str:
    """Put `content` between the two markers of the README's text."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text()
    write_whole(ROOT / "README.md", lambda path: path.write_text(fill(text, tables())))
