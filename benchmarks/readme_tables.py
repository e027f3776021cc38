"""Write the result tables of the README from the committed ledger: `python -m benchmarks.readme_tables`."""

from pathlib import Path

import pandas as pd

from common.config import ROOT
from common.datasets.files import write_whole
from common.ledger import leaderboard, robustness

LEDGER = ROOT / "benchmarks" / "results.csv"
START, END = "<!-- results -->", "<!-- end of results -->"


def tables(ledger: Path = LEDGER) -> str:
    """Of every run in a ledger and both protocols: the leaderboard, and ROC-AUC under attack; as Markdown."""
    results = pd.read_csv(ledger)
    parts = []
    for (dataset, profile), rows in results.groupby(["dataset", "profile"], sort=False):
        for protocol in rows["protocol"].unique():
            title = f"{dataset}, {profile}, {protocol.replace('_', ' ')}"
            parts += [f"**{title}**", "", *_lines(leaderboard(rows, protocol)), ""]
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


def fill(readme: str, content: str) -> str:
    """Put `content` between the two markers of the README's text."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text()
    write_whole(ROOT / "README.md", lambda path: path.write_text(fill(text, tables())))
