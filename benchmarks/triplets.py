"""What R5 says of triplets, over seeds: `python -m benchmarks.triplets DATA PART [DATASET ...]`.

DATA is the folder of `benchmarks.results`. The parts:

    miners      four miners on drawn flowers, trained as R5 trains them (minutes)
    collapse    batch-hard and semi-hard without BatchNorm, and controls, on drawn flowers (minutes)
    untrained   semi-hard triplets against what has not learned, on the named data sets or all (an hour)
    batched     cross-entropy on the batches of pairs and triplets, on the named ones of drawn flowers and photographs

`miners` and `untrained` write triplets.csv: an approach's mean over seeds, and its paired difference to another. Miners
are compared on validation, where R5 chooses one, and on the test. What differences.csv holds is not stored again: there
triplets on photographs are held against their start, the principal head. `collapse` writes collapse.csv, a row an
epoch; `batched` a difference to R3's cross-entropy, which learns from shuffled batches, into differences.csv.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results import FILES, classification, comparison, replace_rows, tested
from common.backbones import EmbeddingNet, new_model
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, species_batches
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import write_whole
from common.datasets.splits import make_splits
from common.evaluation.baselines import color_histogram
from common.evaluation.reports import difference, embed_all, search_difference, searched
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
    "batch-hard (not squared)": ("batch_hard", False, True, 1),
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
    """Triplets held against central color, and drawn flowers' also against their start; `kept` says where they end."""
    for name in names or FILES:
        if (there := given(name, data)) is None:
            continue
        config, pictures, splits = there
        side = pictures.images.shape[-1]
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        colors = color_histogram(pictures.images, where=np.hypot(x, y) <= side / 4)
        for protocol, part in splits.parts.items():
            test = part["test"]
            runs = trained(config, pictures, splits, protocol, "semi-hard")
            hits = {"triplet": found([run.model for run in runs], pictures, test)}
            rated = retrieval(colors[test], pictures.labels[test])
            others = {"central color": {metric: np.stack([rated[metric]] * config.seeds) for metric in METRICS}}
            if not config.pretrained:
                start = [new_model(config, config.backbone, seed).eval() for seed in config.seed_list]
                others["before training"] = found(start, pictures, test)
            about = dict(dataset=name, protocol=protocol, split="test", seeds=config.seeds)
            about["kept"] = ", ".join(f"{run.point:g}" for run in runs) if config.pretrained else ""
            for other, its in others.items():
                keep(hits | {other: its}, other, **about)


def batched(data: Path, *names: str) -> None:
    """Cross-entropy on batches of some species with 4 pictures each, held against R3's on shuffled ones."""
    for name in names or ("rendered", "flowers102"):
        if (there := given(name, data)) is None:
            continue
        config, pictures, splits = there
        shuffled = partial(classification, config, config.backbone, pictures, 0.0)

        def by_species(indices, seed, pictures=pictures, config=config, shuffled=shuffled):
            _, labels = np.unique(pictures.labels[indices], return_inverse=True)
            loader = species_batches(Pictures(pictures, indices, labels), config.batch_size // 4, 4, seed)
            return *shuffled(indices, seed)[:2], loader

        for protocol in splits.protocols:
            pairs, runs = splits.pairs[protocol]["test"], []
            for arm in (by_species, shuffled):
                models = [train_arm(config, arm, pictures, splits, protocol, seed).model for seed in config.seed_list]
                runs.append([tested(model, pictures, splits, protocol) for model in models])
                means = [np.mean([hits[metric] for _, hits in runs[-1]]) for metric in METRICS]
                print(name, protocol, arm is shuffled, np.round(means, 4), flush=True)
            gaps = {"roc_auc": difference(*([test.scores["test"] for test, _ in run] for run in runs), pairs)}
            for metric in METRICS:
                gaps[metric] = search_difference(*([hits[metric] for _, hits in run] for run in runs))
            about = dict(dataset=name, protocol=protocol, approach="cross_entropy_by_species", against="cross_entropy")
            rows = pd.DataFrame([dict(**about, metric=metric, **gap) for metric, gap in gaps.items()])
            print(rows.round(4).to_string(), flush=True)
            keys = ["dataset", "approach", "against", "protocol"]
            replace_rows(ROOT / "benchmarks" / "differences.csv", rows.assign(seeds=config.seeds), keys)


if __name__ == "__main__":
    parts = {"miners": miners, "collapse": collapse, "untrained": untrained, "batched": batched}
    parts[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
