"""What R5 says of triplets, over seeds: `python -m benchmarks.triplets DATA PART [DATASET ...]`.

DATA is the folder of `benchmarks.results`. The parts:

    miners      four miners on drawn flowers, trained as R5 trains them (minutes)
    collapse    batch-hard and semi-hard without BatchNorm, and controls, on drawn flowers (minutes)
    untrained   semi-hard triplets against what has not learned, on the named data sets or all (an hour)

`miners` and `untrained` write triplets.csv: an approach's mean over seeds, and its paired difference to another. Miners
are compared on validation, where R5 chooses one, and on the test. `collapse` writes collapse.csv, a row an epoch.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results import FILES, comparison, replace_rows
from common.backbones import EmbeddingNet, new_model
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, species_batches
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import write_whole
from common.datasets.splits import make_splits
from common.evaluation.baselines import color_histogram
from common.evaluation.reports import embed_all, search_difference, searched
from common.evaluation.retrieval import retrieval
from common.losses import TripletJudgment
from common.training import train_arm

MARGIN, METRICS = 0.6, ("precision_at_1", "map_at_r")
MINERS = ("semi-hard", "batch-hard", "random", "batch-all")
ARMS = {  # of the collapse: miner, squared distances, BatchNorm, and the learning rate's factor
    "batch-hard, no BatchNorm": ("batch_hard", True, False, 1),
    "batch-hard, no BatchNorm (not squared)": ("batch_hard", False, False, 1),
    "batch-hard, no BatchNorm (twice the rate)": ("batch_hard", True, False, 2),
    "semi-hard, no BatchNorm": ("semi_hard", True, False, 1),
    "semi-hard, no BatchNorm (twice the rate)": ("semi_hard", True, False, 2),
    "batch-hard": ("batch_hard", True, True, 1),
    "semi-hard": ("semi_hard", True, True, 1),
}


def given(name: str, data: Path):
    """Configuration, pictures and splits of a data set, as of `benchmarks.results`; None where it is not there."""
    files, settings = FILES[name]
    place = next((data / file for file in files if (data / file).exists()), None)
    if files and place is None:
        return None
    seeds = 1 if name == "caltech101" else 3  # a pass over 7,000 pictures is long
    settings = dict(profile="standard", backbone="mobilenetv2_100", weights=data / "weights", seeds=seeds) | settings
    config = setup(dataset=name, data=place, **settings)
    pictures = load_images(config)
    return config, pictures, make_splits(pictures, config, keep_one(pictures, find_duplicates(pictures)))


def trained(config, pictures, splits, protocol: str, miner: str) -> list:
    """Trainings of R5 with a miner, one a seed."""
    objective = TripletJudgment(miner.replace("-", "_"), MARGIN, squared=True)
    arm = partial(comparison, config, config.backbone, pictures, EmbeddingNet, lambda *_: objective)
    return [train_arm(config, arm, pictures, splits, protocol, seed) for seed in config.seed_list]


def found(models, pictures, indices) -> dict[str, np.ndarray]:
    """What each query of `indices` finds: metric -> (S, Q), a row for each of the models."""
    hits = [searched(one, embed_all(one, pictures, indices)[indices], pictures.labels[indices]) for one in models]
    return {metric: np.stack([one[metric] for one in hits]) for metric in METRICS}


def keep(approaches: dict, against: str, **about) -> None:
    """Write each entry of `approaches`, name -> `found`, and its difference to one of them into triplets.csv.

    Rows that stood there of the same comparison are replaced.
    """
    rows = []
    for name, hits in approaches.items():
        for metric in METRICS:
            gap = {"value": np.nan, "low": np.nan, "high": np.nan}
            gap = gap if name == against else search_difference(hits[metric], approaches[against][metric])
            rows.append(dict(**about, approach=name, against=against, metric=metric, mean=np.nanmean(hits[metric])))
            rows[-1] |= {"minus": gap["value"], "low": gap["low"], "high": gap["high"]}
    print(pd.DataFrame(rows).round(3).to_string(), flush=True)
    keys = ["dataset", "protocol", "split", "approach", "against"]
    replace_rows(ROOT / "benchmarks" / "triplets.csv", pd.DataFrame(rows), keys)


def miners(data: Path, *_) -> None:
    """Four miners on drawn flowers, held against semi-hard."""
    config, pictures, splits = given("rendered", data)
    for protocol, part in splits.parts.items():
        models = {name: [run.model for run in trained(config, pictures, splits, protocol, name)] for name in MINERS}
        for split in ("validation", "test"):
            hits = {name: found(some, pictures, part[split]) for name, some in models.items()}
            about = dict(dataset="rendered", protocol=protocol, split=split, kept="", seeds=config.seeds)
            keep(hits, "semi-hard", **about)


def collapse(data: Path, *_) -> None:
    """Loss, spread and ROC-AUC of the `ARMS` after every epoch, on known species of drawn flowers."""
    config, pictures, splits = given("rendered", data)
    rows = []
    for name, (miner, squared, batch_norm, factor) in ARMS.items():
        settings = replace(config, learning_rate=factor * config.learning_rate)
        objective = TripletJudgment(miner, MARGIN, squared)
        objective.stuck_at = {}  # or the training would be stopped

        def arm(indices, seed, batch_norm=batch_norm, objective=objective):
            model = new_model(config, config.backbone, seed)
            model.head = model.head if batch_norm else model.head[:1]  # the Linear layer alone
            return model, objective, species_batches(Pictures(pictures, indices), config.batch_size // 4, 4, seed)

        for seed in config.seed_list:
            history = train_arm(settings, arm, pictures, splits, "closed_set", seed).history
            history = history.rename(columns={"validation": "ROC-AUC"})[["epoch", "loss", "spread", "ROC-AUC"]]
            print(name, seed, history.iloc[-1].round(3).to_dict(), flush=True)
            rows.append(history.assign(arm=name, seed=seed))
    write_whole(ROOT / "benchmarks" / "collapse.csv", partial(pd.concat(rows).to_csv, index=False))


def untrained(data: Path, *names: str) -> None:
    """Triplets held against central color, and against the network that they start from; `kept` says where they end."""
    for name in names or FILES:
        if (there := given(name, data)) is None:
            continue
        config, pictures, splits = there
        side = pictures.images.shape[-1]
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        colors = color_histogram(pictures.images, where=np.hypot(x, y) <= side / 4)
        for protocol, part in splits.parts.items():
            test, images = part["test"], pictures.images[part["train"]]
            start = [new_model(config, config.backbone, seed, images=images).eval() for seed in config.seed_list]
            runs = trained(config, pictures, splits, protocol, "semi-hard")
            hits = {"triplet": found([run.model for run in runs], pictures, test)}
            rated = retrieval(colors[test], pictures.labels[test])
            others = {"before training": found(start, pictures, test)}
            others["central color"] = {metric: np.stack([rated[metric]] * config.seeds) for metric in METRICS}
            about = dict(dataset=name, protocol=protocol, split="test", seeds=config.seeds)
            about["kept"] = ", ".join(f"{run.point:g}" for run in runs) if config.pretrained else ""
            for other, its in others.items():
                keep(hits | {other: its}, other, **about)


if __name__ == "__main__":
    {"miners": miners, "collapse": collapse, "untrained": untrained}[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
