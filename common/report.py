"""The report of a run: one page for a lesson's end, of what was asked, measured, shown, and what held."""

import base64
import html
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common import plotting
from common.backbones import embed
from common.checkpoints import load
from common.config import Config
from common.datasets import images_to_show
from common.datasets.files import write_text
from common.datasets.images import ImageSet
from common.datasets.splits import Splits
from common.evaluation.reports import similarity_of
from common.evaluation.retrieval import nearest, queries_and_gallery
from common.ledger import SCOREBOARD
from common.pages import PAGES_HERE, page, picture

MODELS = {  # approach in the ledger -> the end of its files' names, and what it learns from
    "center_loss": ("center_loss", "names of classes; each class is gathered around its center"),
    "siamese": ("siamese_network", "pairs: same or different"),
    "triplet": ("triplet_loss", "triplets: nearer to its own class than to another"),
}
ASKED = (
    "What is in the pictures, and who may be tested on what?",
    "Which backbone, and how would I know?",
    "Does gathering each class around a center help?",
    "Same or different: what does judging pairs teach?",
    "Is order alone enough to learn from, and does the search work?",
    "How easily are the models fooled, and what withstands?",
    "Why do two pictures look alike, and is the answer true?",
)
TRAINED = ("center_loss", "siamese", "triplet")
CLAIMS = (  # what it says, metric, and of each approach the row that shall be higher and the one it is held against
    ("Training tells classes apart better than the frozen backbone", "roc_auc", "standard", "frozen_backbone"),
    ("Training finds more of the query's class than the frozen backbone", "map_at_r", "standard", "frozen_backbone"),
    ("Robust training withstands the attack better", "attacked roc_auc", "robust", "standard"),
    ("Robust training costs ROC-AUC on clean pictures", "roc_auc", "standard", "robust"),
    ("Maps of robust models agree better with what parts do", "intervention_agreement", "robust", "standard"),
)
INTERVAL = r"^(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]$"
MISSING = '<span class="note">not measured</span>'
CLASSES, QUERIES, NEIGHBORS = 16, 4, 5


def write_report(
    config: Config, image_set: ImageSet, splits: Splits, title: str, notes: Sequence[str],
    tables: dict[str, pd.DataFrame],
) -> Path:  # fmt: skip
    """Write report.html into the folder of a run; models and measures that are not there are left out, and said.

    `notes` are its first lines; `tables` are `ledger.scoreboard`'s by protocol, of words "mean [low, high]".
    """
    models = _models(config.directory)
    content = next((one for _, _, one in models.values()), None)
    parts = [f"<h1>{html.escape(title)}</h1>", PAGES_HERE, *(f"<p>{html.escape(note)}</p>" for note in notes)]
    parts += [_settings(content), "<h2>What was asked</h2>", _list(ASKED, "ol")]
    parts += _pictures(image_set, splits, models)
    parts += [part for name, table in tables.items() for part in _leaderboard(name, table)]
    if models:
        parts += ["<h2>The models</h2>", _model_table(models, next(iter(tables.values()), pd.DataFrame()))]
    held = [_verdicts(name, table) for name, table in tables.items()]
    parts += ["<h2>What held, and what did not</h2>", *held] if any(held) else []
    return write_text(config.directory / "report.html", page(title, "\n".join(filter(None, parts))))


def _models(folder: Path) -> dict:
    """(approach, variant) -> what `load` gives, of those of the six that are there."""
    found = {}
    for variant, stem in (("standard", "best"), ("robust", "robust")):
        for approach, (name, _) in MODELS.items():
            file = folder / f"{stem}_model_{name}.pth"
            if file.exists():
                found[approach, variant] = load(file)
    return found


def _settings(content: dict | None) -> str:
    """The date, and the settings of the run, in one line each."""
    told = {"Made": time.strftime("%Y-%m-%d")}
    if content:
        config = content["config"]
        names = ("profile", "image_size", "embedding_size", "epochs", "seeds", "seed", "device")
        told["Data"] = content["dataset"]
        told["Backbone"] = content["arguments"]["backbone"] + (
            ", pretrained" if config["pretrained"] else ", from scratch"
        )
        told["Settings"] = ", ".join(f"{name.replace('_', ' ')} {config[name]}" for name in names)
        told["Versions"] = ", ".join(" ".join(one) for one in content["versions"].items())
    return _list([f"{name}: {text}" for name, text in told.items()])


def _list(texts: Sequence[str], kind: str = "ul") -> str:
    return f"<{kind}>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</{kind}>"


def _figure(figure) -> str:
    content, kind, width = plotting.encode(figure)
    return picture(base64.b64encode(content).decode(), f"image/{kind}", plotting.describe(figure), width)


def _pictures(pictures: ImageSet, splits: Splits, models: dict) -> list[str]:
    """One picture of each class, and a strip of neighbors by the first model that finds best."""
    if not models:
        return []
    name = ("triplet", "standard") if ("triplet", "standard") in models else next(iter(models))
    first = np.unique(pictures.labels, return_index=True)[1][:CLASSES]
    names = [pictures.class_names[label] for label in pictures.labels[first]]
    shown = "each class" if len(names) == len(pictures.class_names) else f"{len(names)} of the classes"
    small = images_to_show(pictures, first)
    sheet = plotting.contact_sheet(small, [*map(_short, names)], 8, f"One picture of {shown}")
    test = next(iter(splits.parts.values()))["test"]
    found = _neighbors(pictures, test, models[name][0], name[0])
    return ["<h2>The pictures</h2>", _figure(sheet), "<h2>What is found</h2>", found]


def _neighbors(pictures: ImageSet, test: np.ndarray, model, approach: str) -> str:
    """Queries of different classes, each with what the model finds for it among the other test pictures."""
    queries, gallery = queries_and_gallery(pictures.labels, test, len(test) // 2)
    one_of_each = np.unique(pictures.labels[queries], return_index=True)[1]
    queries = queries[one_of_each][:: max(1, len(queries) // 40)][:QUERIES]
    sides = [torch.from_numpy(embed(model, pictures.images[rows])) for rows in (queries, gallery)]
    with torch.no_grad():
        found, scores = nearest(*sides, min(NEIGHBORS, len(gallery)), similarity_of(model))
    rows, right = gallery[found], pictures.labels[gallery[found]] == pictures.labels[queries][:, None]
    show = images_to_show(pictures, np.concatenate([queries, rows.ravel()]))
    titles = [[f"query: {_short(pictures.class_names[pictures.labels[query]])}", *map("{:.2f}".format, line)]
              for query, line in zip(queries, scores, strict=True)]  # fmt: skip
    strip = show[len(queries) :].reshape(*found.shape, *show.shape[1:])
    title = f"Test pictures and what {approach.replace('_', ' ')} finds most like them"
    return _figure(plotting.retrieval_gallery(show[: len(queries)], strip, right, titles, title))


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def numbers(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """value, low and high of the rows of a table that have them in a column."""
    if column not in table:
        return pd.DataFrame(columns=["value", "low", "high"], dtype=float)
    found = table[column].astype(str).str.extract(INTERVAL).astype(float).set_axis(["value", "low", "high"], axis=1)
    return found.dropna()


def _named(rows: pd.DataFrame) -> list[str]:
    """Approach and variant of each row as one name; of the standard models the approach alone."""
    names = [", ".join(name) if isinstance(name, tuple) else str(name) for name in rows.index]
    return [name.removesuffix(", standard").replace("_", " ") for name in names]


def _leaderboard(name: str, table: pd.DataFrame) -> list[str]:
    """A figure for each column, and the numbers behind them to open."""
    parts = [f"<h2>{html.escape(name[:1].upper() + name[1:])}: who is best at what?</h2>", '<div class="cards">']
    for column in table:
        rows = numbers(table, column)
        if len(rows):
            rows = rows.sort_values("value", ascending=False, kind="stable")
            chance = 0.5 if "ROC-AUC" in column else 0.0
            figure = plotting.intervals(rows.set_axis(_named(rows)), column, "test, 95 % intervals", chance=chance)
            parts.append(_figure(figure))
    shown = table[[column for column in table if table[column].astype(bool).any()]]
    cells = shown.astype(str).set_axis(map(html.escape, _named(shown)))
    cells = cells.map(lambda text: html.escape(text) or MISSING).rename(columns=html.escape)
    lines = cells.rename_axis(columns="model").to_html(border=0, escape=False)
    return [*parts, "</div>", f"<details><summary>The numbers</summary>{lines}</details>"]


def _model_table(models: dict, table: pd.DataFrame) -> str:
    """The models that are there: what each learned from, how long, where it says "same", and what it scored."""
    rows = {}
    for (approach, variant), (_, threshold, content) in models.items():
        row = {
            "learns from": MODELS[approach][1],
            "epochs": len(content["history"]),
            "same from": f"{threshold.value:.3f}",
        }
        for word, metric in (("ROC-AUC", "roc_auc"), ("MAP@R", "map_at_r"), ("ROC-AUC attacked", "attacked roc_auc")):
            found = numbers(table, SCOREBOARD[metric])
            there = (approach, variant) in found.index
            row[word] = f"{found.loc[(approach, variant), 'value']:.3f}" if there else MISSING
        rows[f"{approach.replace('_', ' ')}, {variant}"] = row
    missing = 2 * len(MODELS) - len(models)
    note = f'<p class="note">{missing} of the six were not made in this run.</p>' if missing else ""
    return pd.DataFrame(rows).T.rename_axis(columns="model").to_html(border=0, escape=False, classes="words") + note


def _verdicts(name: str, table: pd.DataFrame) -> str:
    """Each claim and whether the figures of this run say so, by their signs alone."""
    lines = []
    for claim, metric, higher, lower in CLAIMS:
        rows, told, gaps = numbers(table, SCOREBOARD[metric]), [], []
        for approach in TRAINED:
            one = (approach, higher)
            other = (lower, "standard") if lower not in ("standard", "robust") else (approach, lower)
            if one in rows.index and other in rows.index:
                a, b = rows.loc[one, "value"], rows.loc[other, "value"]
                gaps.append(a - b)
                told.append(f"{approach.replace('_', ' ')} {a:.3f} against {b:.3f}")
        if told:
            verdict = "so it is here" if min(gaps) > 0 else "not so here" if max(gaps) <= 0 else "mixed"
            lines.append(f'<li><span class="verdict">{verdict}</span>: {claim} ({"; ".join(told)}).</li>')
    if not lines:
        return ""
    note = "Signs of one run. Whether a difference is more than luck is told by its paired interval, in R3 to R7."
    return f'<h3>{html.escape(name[:1].upper() + name[1:])}</h3><ul>{"".join(lines)}</ul><p class="note">{note}</p>'
