"""Compare pretrained backbones, frozen, on photographs: `python -m benchmarks.backbones DATA NAME...`.

DATA is the folder of `benchmarks.results`, NAME any timm model; without one, those of `DATA/weights`. Every data set
and protocol gives the test's ROC-AUC, P@1 and MAP@R of the pooled features and of the `principal_head` that a training
starts from, into backbones.csv. Into backbone_differences.csv go paired differences, of validation and of test: of
backbones named together, of a head and the features below it, of each and what learns nothing; for the last of the
names also of heads of other sizes and scalings, among themselves and to the features below them.
"""

import argparse
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.results import FILES, replace_rows
from common.backbones import new_model, principal_head
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.splits import make_splits
from common.evaluation import baselines
from common.evaluation.backbone_choice import cost
from common.evaluation.metrics import cosine_scores, pair_interval, roc_auc
from common.evaluation.reports import embed_all, evaluate, search_difference
from common.evaluation.retrieval import retrieval

POOLED, HEAD = "pooled features", "principal head"
UNTAUGHT = "raw_pixels", "color_histogram", "central_color"
POWERS = {"none": 1, "half": 0, "full": -1}  # of a head's own root mean squares, which half scaling leaves
SIZES = 32, 128, 512
ROUNDS = 1000  # of resampled pictures (protocol rule 8)
# DATA's file of MobileNetV1 is not timm's: the steps of its 8-bit first layer stand to each other as ImageNet's
# deviations do. So it learned from pictures normalized by them, and not by the .5 of timm's own weights.
MEAN_AND_STD = {"mobilenetv1_100": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
KINDS = {"att_faces": "faces", "flowers102": "flowers", "caltech101": "objects", "reid": "persons"}
COLUMNS = ["dataset", "protocol", "split", "pictures", "network", "features", "against"]
COLUMNS += ["metric", "value", "low", "high", "n"]  # and "rival", of `with_rival`


def scaled(head: np.ndarray, features: np.ndarray, power: int) -> np.ndarray:
    """A `principal_head` of full size whose directions are not scaled (1), half (0) or fully whitened (-1)."""
    spread = np.sqrt(np.square(features @ head.T).mean(0))
    kept = spread > 0
    return head[kept] * spread[kept, None] ** power


def measure(data: Path, dataset: str, place: Path, names: list[str], **settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The backbones `names` on one data set: rows of backbones.csv and of backbone_differences.csv."""
    weights = data / "weights"
    config = setup("standard", dataset, place, names[0], weights if weights.exists() else None, **settings)
    image_set, tables, gaps = load_images(config), [], []
    splits = make_splits(image_set, config, keep_one(image_set, find_duplicates(image_set)))
    untaught = {name: getattr(baselines, name)(image_set.images) for name in UNTAUGHT}
    models = {name: new_model(replace(config, embedding_size=0), name, config.seed) for name in names}
    for name in MEAN_AND_STD.keys() & models.keys():
        mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_AND_STD[name])
        models[name].mean, models[name].std = mean.to(config.device), std.to(config.device)
    features = {name: embed_all(model, image_set, np.arange(len(image_set))) for name, model in models.items()}
    for protocol in splits.protocols:
        described, questions = dict(untaught), []
        for name in names:
            pooled, learned = features[name], features[name][splits.parts[protocol]["train"]]
            head = principal_head(torch.from_numpy(learned), config.embedding_size).numpy()
            described |= {f"{name}, {POOLED}": pooled, f"{name}, {HEAD}": pooled @ head.T}
            questions += [(f"{name}, {HEAD}", f"{name}, {POOLED}")]
            questions += product([f"{name}, {POOLED}", f"{name}, {HEAD}"], untaught)
            for embedding in (POOLED, HEAD):
                values = described[f"{name}, {embedding}"]
                report = evaluate(models[name], image_set, splits, protocol, values).report
                report = report[report["metric"].isin(["roc_auc", "precision_at_1", "map_at_r"])]
                about = dict(dataset=config.dataset_name, backbone=name, image_size=config.image_size)
                price = cost(models[name], config.image_size)
                tables.append(report.assign(protocol=protocol, embedding=embedding, **about, **price))
        for first, second in combinations(names, 2):
            questions += [(f"{second}, {embedding}", f"{first}, {embedding}") for embedding in (POOLED, HEAD)]
        full = principal_head(torch.from_numpy(learned), pooled.shape[1]).numpy()
        for (scaling, power), size in product(POWERS.items(), SIZES):
            described[f"{name}, {scaling}, {size}"] = pooled @ scaled(full, learned, power)[:size].T
            questions.append((f"{name}, {scaling}, {size}", f"{name}, {POOLED}"))
        rivals = product(SIZES, ("none", "full"))
        questions += [(f"{name}, half, {size}", f"{name}, {rival}, {size}") for size, rival in rivals]
        asked = described, questions, image_set, splits, protocol
        gaps += [differences(*asked, split) for split in ("validation", "test")]
    table, first = pd.concat(tables).drop(columns="threshold_from"), ["dataset", "backbone"]
    return table[[*first, *table.columns.difference(first, sort=False)]], with_rival(pd.concat(gaps))


def differences(described, questions, image_set, splits, protocol: str, split: str) -> pd.DataFrame:
    """The paired differences in ROC-AUC, P@1 and MAP@R that `questions`, (approach, against), ask for.

    "pictures" says in a reader's words which they are, in brackets how many classes validation and test have.
    """
    part, pairs, names = splits.parts[protocol][split], splits.pairs[protocol][split], [*described]
    first, second = np.array([[names.index(name) for name in question] for question in questions]).T
    scores = [cosine_scores(values, pairs) for values in described.values()]

    def gaps(weights) -> np.ndarray:  # of each round and question; each approach is measured once for all of them
        areas = np.stack([roc_auc(one, pairs[:, 2], weights) for one in scores], -1)
        return areas[..., first] - areas[..., second]

    found = {"roc_auc": pd.DataFrame(pair_interval(gaps, pairs, ROUNDS))}
    searched = [retrieval(values[part], image_set.labels[part]) for values in described.values()]
    for metric in ("precision_at_1", "map_at_r"):
        hits = np.stack([one[metric] for one in searched])
        asked = [search_difference(hits[[one]], hits[[two]], ROUNDS) for one, two in zip(first, second, strict=True)]
        found[metric] = pd.DataFrame(asked).assign(n=len(part))
    asked = pd.DataFrame([(*first.split(", ", 1), second) for first, second in questions])
    asked = asked.set_axis(["network", "features", "against"], axis=1)
    table = pd.concat(asked.assign(metric=metric, **gap) for metric, gap in found.items())
    counts = [len(np.unique(image_set.labels[splits.parts[protocol][one]])) for one in ("validation", "test")]
    word, counts = ("new", counts) if protocol == "open_set" else ("known", counts[:1])
    table["pictures"] = f"{word} {KINDS[image_set.name]} ({' / '.join(map(str, counts))})"
    return table.assign(dataset=image_set.name, protocol=protocol, split=split)[COLUMNS].round(5)


def with_rival(gaps: pd.DataFrame) -> pd.DataFrame:
    """Differences with the column "rival": what learns nothing and is least behind (ROC-AUC) on validation."""
    keys = ["pictures", "network", "features"]
    duels = gaps[gaps["against"].isin(UNTAUGHT)].query("split == 'validation' and metric == 'roc_auc'")
    best = duels.sort_values("value").drop_duplicates(keys).set_index(keys)["against"]
    return gaps.join(best.rename("rival"), on=keys)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    chosen = parser.parse_args()
    for dataset, (files, settings) in FILES.items():
        for place in [chosen.data / file for file in files if (chosen.data / file).exists()][:1]:
            names = chosen.names or sorted(path.stem for path in (chosen.data / "weights").glob("*.safetensors"))
            table, gaps = measure(chosen.data, dataset, place, names, **settings)
            folder = ROOT / "benchmarks"
            replace_rows(folder / "backbones.csv", table, ["dataset", "backbone"])
            replace_rows(folder / "backbone_differences.csv", gaps, ["dataset", "network", "features", "against"])
            print(table.pivot(index=["backbone", "protocol", "embedding"], columns="metric", values="value").round(3))
