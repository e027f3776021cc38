"""Write the result tables of the README from the committed ledger: `python -m benchmarks.readme_tables`."""

from pathlib import Path

import pandas as pd

from common.config import ROOT
from common.files import write_whole
from common.ledger import leaderboard

LEDGER = ROOT / "benchmarks" / "results.csv"
START, END = "<!-- results -->", "<!-- end of results -->"


def tables(ledger: Path = LEDGER) -> str:
    """The leaderboards of every run in a ledger, both protocols, as Markdown."""
    results = pd.read_csv(ledger)
    parts = []
    for (dataset, profile), rows in results.groupby(["dataset", "profile"], sort=False):
        for protocol in rows["protocol"].unique():
            board = leaderboard(rows, protocol).reset_index().drop(columns="variant")
            header = [column.replace("_", " ") for column in board]
            lines = [header, ["---"] * len(header), *board.astype(str).to_numpy().tolist()]
            parts += [f"**{dataset}, {profile}, {protocol.replace('_', ' ')}**", ""]
            parts += ["| " + " | ".join(line) + " |" for line in lines] + [""]
    return "\n".join(parts)


def fill(readme: str, content: str) -> str:
    """Put `content` between the two markers of the README's text."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text()
    write_whole(ROOT / "README.md", lambda path: path.write_text(fill(text, tables())))
