"""Measure what the README and the notebooks say of photographs: `make results DATA=folder`, over three seeds each.

The folder holds archives or folders of the data sets, named as in `FILES`, and perhaps `weights`. Every approach is
trained as its notebook trains it (profile `standard`), then the test is read once. Rows go into results.csv, the
quality along every training's path into paths.csv, and the paired differences to what `AGAINST` names into
differences.csv, in place of what stood there of the same data set. Of drawn flowers (profile `quick`, R2's backbone)
only the differences among trainings are kept: the rest is in the ledger of a run.
Several GPUs share the work under `accelerate launch -m benchmarks.results DATA`.
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState

from common.backbones import EmbeddingNet, SiameseNet, new_model
from common.checkpoints import STEMS, save
from common.config import ROOT, Config, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, batches, species_batches
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import write_whole
from common.datasets.splits import make_splits, save_splits
from common.evaluation.reports import (
    class_report,
    difference,
    evaluate,
    frozen_report,
    named,
    search_difference,
    searched,
)  # fmt: skip
from common.ledger import COLUMNS
from common.losses import Classification, PairJudgment, TripletJudgment
from common.training import train_arm

# Of each data set the names its file may have, and what differs from the profile: a pass over 7,000 pictures is long.
FILES = {
    "flowers102": (("flowers102", "flowers12.zip"), {}),
    "att_faces": (("att_faces.zip", "at&t.zip"), {}),
    "reid": (("reid.zip", "reid120.zip"), dict(image_size=128)),
    "caltech101": (("caltech101.zip", "caltech71.zip"), dict(epochs=1)),
    "rendered": ((), dict(profile="quick", backbone="test_resnet", weights=None)),
}
NOTEBOOKS = {
    "frozen_backbone": "R2", "principal_head": "R2", "cross_entropy": "R3", "center_loss": "R3", "siamese": "R4",
    "contrastive": "R4", "triplet": "R5",
}  # fmt: skip
AGAINST = ("frozen_backbone", "principal_head", "cross_entropy", "center_loss", "siamese")


def classification(config: Config, backbone: str, image_set, weight: float, indices, seed: int):
    """An arm of R3, as `train_arm` takes it."""
    known, labels = np.unique(image_set.labels[indices], return_inverse=True)
    model = new_model(config, backbone, seed, EmbeddingNet, len(known), image_set.images[indices])
    objective = Classification(model.classify, len(known), config.embedding_size, weight)
    return model, objective, batches(Pictures(image_set, indices, labels), config.batch_size, shuffle=True, seed=seed)


def comparison(config: Config, backbone: str, image_set, network, objective_of, indices, seed: int):
    """An arm of R4 or R5."""
    model = new_model(config, backbone, seed, network, images=image_set.images[indices])
    _, labels = np.unique(image_set.labels[indices], return_inverse=True)
    loader = species_batches(Pictures(image_set, indices, labels), config.batch_size // 4, 4, seed)
    return model, objective_of(model, labels.max() + 1, config.embedding_size), loader


def arms(config: Config, backbone: str, image_set) -> dict:
    """Approach -> arm, those that the notebooks choose."""
    pairs = lambda model, *sizes, **options: PairJudgment(model.score_embeddings, *sizes, **options)  # noqa: E731
    contrastive = partial(pairs, loss="contrastive", negatives="hard")
    triplets = lambda *_: TripletJudgment("semi_hard", margin=0.6, squared=True)  # noqa: E731
    given = config, backbone, image_set
    return {
        "cross_entropy": partial(classification, *given, 0.0),
        "center_loss": partial(classification, *given, 0.01),
        "siamese": partial(comparison, *given, SiameseNet, pairs),
        "contrastive": partial(comparison, *given, SiameseNet, contrastive),
        "triplet": partial(comparison, *given, EmbeddingNet, triplets),
    }


def measure(config: Config, backbone: str, approaches) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train and test `approaches` on one data set: rows of the ledger, of paths, and of differences.

    The first seed's models of the first protocol are saved as their notebooks save them.
    """
    image_set = load_images(config)
    splits = make_splits(image_set, config, keep_one(image_set, find_duplicates(image_set)))
    save_splits(splits, config.directory / "splits.json")
    rows, paths, gaps = [frozen_report(config, backbone, image_set, splits).assign(notebook="R2")], [], []
    untrained = new_model(replace(config, embedding_size=0), backbone, config.seed)
    for protocol in splits.protocols:
        test, found = splits.parts[protocol]["test"], {}
        found["frozen_backbone"] = [tested(untrained, image_set, splits, protocol)] * config.seeds
        pictures = image_set.images[splits.parts[protocol]["train"]]
        start = tested(new_model(config, backbone, config.seed, images=pictures), image_set, splits, protocol)
        found["principal_head"] = [start] * config.seeds
        about = dict(notebook="R2", approach="principal_head", variant="standard", protocol=protocol, seed=config.seed)
        rows.append(start[0].report.assign(**about, train_seconds=0.0))
        chosen = [(name, arm) for name, arm in arms(config, backbone, image_set).items() if name in approaches]
        for (approach, arm), seed in product(chosen, config.seed_list):
            names_species = NOTEBOOKS[approach] == "R3"
            if names_species and "closed_set" not in splits.protocols:
                continue
            trained = train_arm(config, arm, image_set, splits, protocol, seed)
            evaluation, hits = tested(trained.model, image_set, splits, protocol)
            found.setdefault(approach, []).append((evaluation, hits))
            about = dict(approach=approach, protocol=protocol, seed=seed)
            report = [evaluation.report]
            if names_species and protocol == "closed_set":
                said = named(trained.model, evaluation.embeddings[test])
                report.append(class_report(said, image_set.labels[test]))
            seconds = trained.history["seconds"].iloc[-1]
            run = dict(notebook=NOTEBOOKS[approach], variant="standard", train_seconds=seconds)
            rows.append(pd.concat(report).assign(**about, **run))
            paths.append(trained.path.reset_index().assign(**about, kept=trained.path.index == trained.point))
            if seed == config.seed and protocol == splits.protocols[0] and approach in STEMS:
                more = {"center_weight": 0.01} if approach == "center_loss" else {}
                name = f"best_model_{STEMS[approach]}.pth"
                save(config, image_set, name, trained.model, evaluation.threshold, trained.history, **more)
            values = evaluation.report.set_index("metric")["value"].round(3)
            print(protocol, *about.values(), f"kept {trained.point}", values.to_dict(), flush=True)
        gaps.append(differences(found, splits.pairs[protocol]["test"]).assign(protocol=protocol))
    run = dict(dataset=config.dataset_name, profile=config.profile, fingerprint=image_set.fingerprint, split="test")
    paths = pd.concat([pd.DataFrame(columns=["approach", "protocol"]), *paths])  # of no training there is none
    tables = pd.concat(rows).assign(**run).reindex(columns=COLUMNS), paths, pd.concat(gaps)
    return tables[0], *(table.assign(dataset=config.dataset_name) for table in tables[1:])


def tested(model, image_set, splits, protocol: str):
    """The `Evaluation` of a model on a protocol, and what each query of its test found."""
    evaluation, test = evaluate(model, image_set, splits, protocol), splits.parts[protocol]["test"]
    return evaluation, searched(model, evaluation.embeddings[test], image_set.labels[test])


def differences(found: dict, pairs) -> pd.DataFrame:
    """Of approaches to those that `AGAINST` names, in three metrics, with intervals."""
    rows = []
    for against, approach in combinations([name for name in NOTEBOOKS if name in found], 2):
        if against in AGAINST:
            both, seeds = (found[approach], found[against]), len(found[approach])
            gaps = {"roc_auc": difference(*([test.scores["test"] for test, _ in runs] for runs in both), pairs)}
            for metric in ("precision_at_1", "map_at_r"):
                gaps[metric] = search_difference(*([hits[metric] for _, hits in runs] for runs in both))
            named_so = dict(approach=approach, against=against, seeds=seeds)
            rows += [{**named_so, "metric": metric, **gap} for metric, gap in gaps.items()]
    return pd.DataFrame(rows)


def replace_rows(path: Path, rows: pd.DataFrame, keys: list[str]) -> None:
    """Put rows into a CSV file in place of those that agree with any of them in all `keys`."""
    if path.exists():
        old = pd.read_csv(path, dtype={"fingerprint": str})
        stale = old[keys].apply(tuple, axis=1).isin(set(rows[keys].apply(tuple, axis=1)))
        rows = pd.concat([old[~stale], rows.reindex(columns=old.columns)])
    write_whole(path, lambda temporary: rows.to_csv(temporary, index=False))


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("datasets", nargs="*", default=list(FILES), help=f"of {', '.join(FILES)}; default all")
    parser.add_argument("--backbone", default="mobilenetv2_100", help="any timm name")
    parser.add_argument("--approaches", nargs="*", default=list(NOTEBOOKS), help="default all")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    weights = chosen.data / "weights"
    for name in chosen.datasets:
        names, settings = FILES[name]
        place = next((chosen.data / file for file in names if (chosen.data / file).exists()), None)
        if place is None and names:
            print(f"{name} is left out: {chosen.data} holds none of {', '.join(names)}")
            continue
        given = dict(profile="standard", backbone=chosen.backbone, weights=weights if weights.exists() else None)
        config = setup(dataset=name, data=place, seeds=chosen.seeds, **given | settings)
        rows, paths, gaps = measure(config, config.backbone, chosen.approaches)
        if not PartialState().is_main_process:
            continue
        folder = ROOT / "benchmarks"
        if not config.pretrained:
            gaps = gaps[~gaps["against"].isin(["frozen_backbone", "principal_head"])]
            replace_rows(folder / "differences.csv", gaps, ["dataset", "approach", "against", "protocol"])
            continue
        keys = ["dataset", "profile", "notebook", "approach", "variant", "protocol"]
        replace_rows(folder / "results.csv", rows, keys)
        replace_rows(folder / "paths.csv", paths, ["dataset", "approach", "protocol"])
        replace_rows(folder / "differences.csv", gaps, ["dataset", "approach", "against", "protocol"])


if __name__ == "__main__":
    main()
