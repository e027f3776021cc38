"""Compare pretrained backbones, frozen, on photographs: `python -m benchmarks.backbones DATA NAME...`.

DATA is the folder of `benchmarks.results`, NAME any timm model; without one, those of `DATA/weights`. Every data set
and protocol gives the test's ROC-AUC, P@1 and MAP@R of the pooled features and of the `principal_head` that a training
starts from, into backbones.csv.
"""

import argparse
from dataclasses import replace
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
from common.evaluation.backbone_choice import cost
from common.evaluation.reports import embed_all, evaluate


def measure(data: Path, dataset: str, place: Path, backbone: str, **settings) -> pd.DataFrame:
    """One backbone on one data set: a row for each protocol, kind of embedding and metric."""
    weights = data / "weights"
    config = setup("standard", dataset, place, backbone, weights if weights.exists() else None, **settings)
    image_set = load_images(config)
    splits = make_splits(image_set, config, keep_one(image_set, find_duplicates(image_set)))
    model, rows = new_model(replace(config, embedding_size=0), backbone, config.seed), []
    features = embed_all(model, image_set, np.arange(len(image_set)))
    for protocol in splits.protocols:
        learned = torch.from_numpy(features[splits.parts[protocol]["train"]])
        head = principal_head(learned, config.embedding_size).numpy()
        for embedding, values in {"pooled features": features, "principal head": features @ head.T}.items():
            report = evaluate(model, image_set, splits, protocol, values).report
            report = report[report["metric"].isin(["roc_auc", "precision_at_1", "map_at_r"])]
            rows.append(report.assign(protocol=protocol, embedding=embedding))
    about = dict(dataset=config.dataset_name, backbone=backbone, image_size=config.image_size)
    table = pd.concat(rows).drop(columns="threshold_from").assign(**about, **cost(model, config.image_size))
    return table[["dataset", "backbone", *table.columns.difference(["dataset", "backbone"], sort=False)]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    chosen = parser.parse_args()
    for dataset, (files, settings) in FILES.items():
        for place in [chosen.data / file for file in files if (chosen.data / file).exists()][:1]:
            for name in chosen.names or sorted(path.stem for path in (chosen.data / "weights").glob("*.safetensors")):
                table = measure(chosen.data, dataset, place, name, **settings)
                replace_rows(ROOT / "benchmarks" / "backbones.csv", table, ["dataset", "backbone"])
                print(table.pivot(index=["protocol", "embedding"], columns="metric", values="value").round(3))
