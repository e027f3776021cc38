"""Measure R4's experiment on photographs: two losses for pairs, three kinds of negatives, three seeds.

`python -m benchmarks.pair_grid folder`, the folder as of `benchmarks.results`: the six arms are trained on flowers in
the closed set (profile `standard`), the test is read once and nothing is chosen by it. For each arm and metric
pair_grid.csv gets a row: the mean over seeds, and how far it is from all negatives with the same loss (paired).
"""

import sys
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results import FILES, comparison, tested
from common.backbones import SiameseNet
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import write_whole
from common.datasets.splits import make_splits
from common.evaluation.reports import difference, search_difference
from common.losses import PairJudgment
from common.training import train_arm

PROTOCOL, LOSSES, NEGATIVES = "closed_set", ("cross_entropy", "contrastive"), ("all", "random", "hard")


def judgment(options: dict, model, *sizes) -> PairJudgment:
    """The objective of an arm."""
    return PairJudgment(model.score_embeddings, *sizes, **options)


def main(data: Path) -> None:
    """Train the six arms and write their rows."""
    names, settings = FILES["flowers102"]
    place = next(data / name for name in names if (data / name).exists())
    backbone = "mobilenetv2_100"
    config = setup("standard", "flowers102", place, weights=data / "weights", backbone=backbone, **settings)
    pictures = load_images(config)
    splits = make_splits(pictures, config, keep_one(pictures, find_duplicates(pictures)))
    pairs, rows = splits.pairs[PROTOCOL]["test"], []
    for loss in LOSSES:
        runs = {negatives: [] for negatives in NEGATIVES}
        for negatives, seed in product(NEGATIVES, config.seed_list):
            objective = partial(judgment, dict(loss=loss, negatives=negatives))
            arm = partial(comparison, config, backbone, pictures, SiameseNet, objective)
            trained = train_arm(config, arm, pictures, splits, PROTOCOL, seed)
            found, hits = tested(trained.model, pictures, splits, PROTOCOL)
            values = found.report.set_index("metric")["value"]
            runs[negatives].append((found.scores["test"], hits["map_at_r"], values))
            print(loss, negatives, seed, values.round(3).to_dict(), f"kept {trained.point}", flush=True)
        for negatives, seeds in runs.items():
            scores, hits, _ = zip(*seeds, strict=True)
            plain_scores, plain_hits, _ = zip(*runs["all"], strict=True)
            gaps = {"roc_auc": difference(scores, plain_scores, pairs), "map_at_r": search_difference(hits, plain_hits)}
            for metric, gap in gaps.items():
                mean = np.mean([values[metric] for *_, values in seeds])
                arm = dict(dataset="flowers102", protocol=PROTOCOL, loss=loss, negatives=negatives, metric=metric)
                rows.append(arm | dict(mean=mean) | gap | dict(seeds=len(seeds)))
    table = pd.DataFrame(rows).rename(columns={"value": "minus_all"})
    write_whole(ROOT / "benchmarks" / "pair_grid.csv", partial(table.to_csv, index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
