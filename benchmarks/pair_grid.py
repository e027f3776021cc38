"""Ask R4's question of photographs: do the best negatives depend on the loss of pairs?

`python -m benchmarks.pair_grid folder`, the folder as of `benchmarks.results`. On Oxford's flowers (profile `standard`)
the backbone stays as it comes and only the head learns, by {cross-entropy, contrastive} x {all, random, hard}, over
three seeds. For each protocol, arm and metric pair_grid.csv has a row: the mean of the test over seeds, which chooses
nothing, and its paired difference to all negatives with the same loss.
"""

import sys
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.results import FILES
from common.backbones import SiameseNet, embed, new_model
from common.config import ROOT, Config, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, species_batches
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import write_whole
from common.datasets.splits import make_splits
from common.evaluation.metrics import roc_auc
from common.evaluation.reports import difference, pair_scores, search_difference
from common.evaluation.retrieval import retrieval
from common.losses import PairJudgment
from common.training import train_head

LOSSES, NEGATIVES, BACKBONE = ("cross_entropy", "contrastive"), ("all", "random", "hard"), "mobilenetv2_100"


def train(config: Config, pictures, start, indices, seed: int, **options):
    """A copy of the network `start` whose head has learned from the pictures `indices`."""
    model, (_, labels) = deepcopy(start), np.unique(pictures.labels[indices], return_inverse=True)
    objective = PairJudgment(model.score_embeddings, labels.max() + 1, config.embedding_size, **options)
    loader = species_batches(Pictures(pictures, indices, labels), config.batch_size // 4, 4, seed)
    train_head(config, model, objective, loader, seed)
    return model.eval()


def main(data: Path) -> None:
    """Train all arms and write their rows."""
    names, settings = FILES["flowers102"]
    place = next(data / name for name in names if (data / name).exists())
    config = setup("standard", "flowers102", place, weights=data / "weights", backbone=BACKBONE, **settings)
    pictures, rows = load_images(config), []
    splits = make_splits(pictures, config, keep_one(pictures, find_duplicates(pictures)))
    features = None
    for protocol in splits.protocols:
        part, pairs = splits.parts[protocol], splits.pairs[protocol]["test"]
        start = new_model(config, BACKBONE, config.seed, SiameseNet, images=pictures.images[part["train"]])
        features = torch.from_numpy(embed(start, pictures.images, pooled=True)) if features is None else features
        for loss in LOSSES:
            scores, hits = {name: [] for name in NEGATIVES}, {name: [] for name in NEGATIVES}
            for negatives, seed in product(NEGATIVES, config.seed_list):
                model = train(config, pictures, start, part["train"], seed, loss=loss, negatives=negatives)
                with torch.inference_mode():
                    embeddings = model.head(features).numpy()
                    gallery, labels = torch.from_numpy(embeddings[part["test"]]), pictures.labels[part["test"]]
                    hits[negatives].append(retrieval(gallery, labels, model.score_embeddings)["map_at_r"])
                scores[negatives].append(pair_scores(model, embeddings, pairs))
                print(protocol, loss, negatives, seed, roc_auc(scores[negatives][-1], pairs[:, 2]), flush=True)
            for name in NEGATIVES:
                areas = [roc_auc(one, pairs[:, 2]) for one in scores[name]]
                gaps = difference(scores[name], scores["all"], pairs), search_difference(hits[name], hits["all"])
                means = np.mean(areas), np.nanmean(hits[name])
                for metric, mean, gap in zip(("roc_auc", "map_at_r"), means, gaps, strict=True):
                    arm = dict(dataset="flowers102", protocol=protocol, loss=loss, negatives=name, metric=metric)
                    gap = {"minus_all": gap["value"], "low": gap["low"], "high": gap["high"]}
                    rows.append(arm | dict(mean=mean) | gap | dict(seeds=config.seeds))
    write_whole(ROOT / "benchmarks" / "pair_grid.csv", partial(pd.DataFrame(rows).to_csv, index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
