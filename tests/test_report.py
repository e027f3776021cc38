"""The report of a run says what was asked, shows it, names what is missing, and lets no class name act as HTML."""

import re

import pandas as pd
import pytest
import torch
from toys import TINY, class_folder, config, ready

from common.backbones import EmbeddingNet, SiameseNet
from common.checkpoints import save
from common.datasets import load_images
from common.datasets.splits import make_splits
from common.evaluation.metrics import Threshold
from common.ledger import SCOREBOARD
from common.pages import PAGES_HERE
from common.report import ASKED, MODELS, write_report

COLUMNS = [SCOREBOARD[metric] for metric in ("roc_auc", "map_at_r", "attacked roc_auc")]


def board(**rows) -> pd.DataFrame:
    """Approach x variant ("siamese" or "siamese_robust"), three columns; a number has .05 to either side."""
    keys = [(name.removesuffix("_robust"), "robust" if name.endswith("_robust") else "standard") for name in rows]
    texts = [["" if value is None else f"{value:.3f} [{value - 0.05:.3f}, {value + 0.05:.3f}]" for value in row]
             for row in rows.values()]  # fmt: skip
    index = pd.MultiIndex.from_tuples(keys, names=["approach", "variant"])
    return pd.DataFrame(texts, index, pd.Index(COLUMNS, name="column"))


TABLE = board(
    triplet=(0.95, 0.6, 0.3), siamese=(0.9, 0.55, 0.2), center_loss=(0.92, 0.2, 0.3), triplet_robust=(0.94, 0.6, 0.8),
    siamese_robust=(0.7, 0.5, 0.25), frozen_backbone=(0.6, 0.4, None),
)  # fmt: skip


def text(place, *content) -> str:
    """The page of a run without models."""
    return write_report(config(place), None, None, *content).read_text(encoding="utf-8")


def verdicts(page: str) -> dict[str, str]:
    return {claim: verdict for verdict, claim in re.findall(r'verdict">([^<]+)</span>: ([^(]+) \(', page)}


def test_a_page_without_a_run_has_its_tables_and_is_escaped(tmp_path):
    odd = pd.DataFrame({"ROC-AUC <i>": ["0.9 <b>", ""]}, index=["siamese & co", "x"])
    page = text(tmp_path, "A < B", ["One.", "5 > 4"], {"closed set": TABLE, "odd": odd})
    assert page.startswith("<!doctype html>") and "<title>A &lt; B</title>" in page and PAGES_HERE in page
    assert "<p>5 &gt; 4</p>" in page and all(question in page for question in ASKED)
    assert "siamese &amp; co" in page and "0.9 &lt;b&gt;" in page and "<b>" not in page and "<i>" not in page
    assert page.count("<figure>") == 3, "one for each column with numbers"
    assert not re.search(r"<t[dh][^>]*>\s*</t[dh]>", page) and page.count("not measured") == 2
    assert not re.search(r"(?:src|href)=\"(?!data:)|@import|url\(", page)
    assert re.search(r"Made: \d{4}-\d\d-\d\d", page) and "The models" not in page


def test_what_held_is_told_by_the_signs_of_the_run(tmp_path):
    page = text(tmp_path, "T", [], {"closed set": TABLE})
    assert verdicts(page) == {
        "Training tells classes apart better than the frozen backbone": "so it is here",
        "Training finds more of the query's class than the frozen backbone": "mixed",
        "Robust training withstands the attack better": "so it is here",
        "Robust training costs ROC-AUC on clean pictures": "so it is here",
    }
    table = board(triplet=(0.5, 0.4, None), frozen_backbone=(0.8, 0.42, None))
    found = verdicts(text(tmp_path, "T", [], {"open set": table}))
    assert [*found.values()] == ["not so here"] * 2


@pytest.mark.parametrize("own", [False, True])
def test_the_page_of_a_run_shows_pictures_neighbors_and_models(tmp_path, own):
    photos = f"folder:{class_folder(tmp_path / 'photos <b>', each=12)}"
    run = config(tmp_path, image_size=32, **(dict(dataset=photos) if own else dict(species=6)))
    pictures = load_images(run)
    splits = make_splits(pictures, run)
    for name, _ in MODELS.values():
        torch.manual_seed(0)
        network = SiameseNet if name == "siamese_network" else EmbeddingNet
        net, history = ready(network(TINY, 8, image_size=32), 32), pd.DataFrame({"epoch": [1, 2]})
        save(run, pictures, f"best_model_{name}.pth", net, Threshold(0.5, "validation"), history)
    page = write_report(run, pictures, splits, "T", [], {"closed set": TABLE}).read_text()
    assert "The pictures" in page and "What is found" in page and page.count("<figure>") == 5
    assert "queries, each with" in page and "3 of the six were not made in this run" in page
    assert f"Backbone: {TINY}, from scratch" in page and "image size 32" in page
    assert page.count("<td>2</td>") == 3 and "<td>0.950</td>" in page and "<b>" not in page
