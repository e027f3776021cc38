"""Are rendered flowers fast, flat in memory, as hard as photographs, and of use beyond themselves?

    python -m benchmarks.rendered_flowers [PART ...] [--flowers12 PATH] [--weights DIR]

The parts, all of them where none is named:

    memory       peak memory while 102, 816 and 8,160 pictures are written (minutes)
    speed        CPU seconds and pictures a second, by size and number; the quick profile's data
    difficulty   nearest-neighbor precision of colors, pixels and a frozen network, photographs beside it
    confusions   which species a classifier confuses: those of one genus, or any (a minute)
    fresh        how far do ROC-AUC move with fresh pictures, and with resamples? into fresh_flowers.csv (minutes)
    pretraining  does a network pretrained on rendered flowers see more in photographs than a random one? (minutes)

`--flowers12` names a folder or archive of photographs in the layout of Oxford Flowers-102, which `pretraining` needs;
`--weights` a folder with mobilenetv2_100.safetensors, for the frozen network. Everything but `fresh` runs on one core,
and times are of the processor (`process_time`), so that other programs disturb them little.
"""

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from common.backbones import EmbeddingNet, embed, new_model
from common.config import ROOT, Config, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, as_float, batches
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, make_splits
from common.evaluation.baselines import central_color, color_histogram, raw_pixels
from common.evaluation.metrics import cosine_scores, roc_auc
from common.evaluation.reports import linear_probe, named, search_difference
from common.evaluation.retrieval import retrieval
from common.flowers.painting import disc_pattern, pattern
from common.flowers.rendering import render
from common.flowers.species import species_table
from common.losses import Classification
from common.training import train

BANDS = dict(color_histogram=".25-.60", raw_pixels="<= .45", frozen_mobilenetv2_100=".60-.95")
BACKBONE = "test_resnet"  # what R2 chooses in the quick profile


def drawn(species: int, each: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 3, size, size) and their labels."""
    table = species_table(species)
    images = np.stack([render(one, instance, size).image for one in table for instance in range(each)])
    return images, np.repeat(np.arange(species), each)


def memory(_) -> None:
    """Peak memory of a process of its own that draws pictures and writes them to a cache: some kB for each picture."""
    print("pictures written at 64 px   peak memory of the process")
    for each in (1, 8, 80):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            print(f"{102 * each:24,}   {process.submit(peak, each).result():19,.0f} MB", flush=True)


def peak(each: int) -> float:
    """Decode `each` pictures of 102 species to a cache and return this process's peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        config = setup(dataset="rendered", cache=folder, image_size=64)
        load_images(replace(config, species=102, pictures_per_species=each))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(_) -> None:
    """CPU seconds with an empty pattern cache, and pictures a second once it is full."""
    print("size   pictures   CPU s at first   pictures/s at first   pictures/s again")
    for size, each in ((64, 10), (64, 20), (64, 40), (96, 20), (96, 40), (256, 5)):
        pattern.cache_clear()
        disc_pattern.cache_clear()
        times = [time.process_time()]
        for _ in range(2):
            drawn(24, each, size)
            times.append(time.process_time())
        (first, again), count = np.diff(times), 24 * each
        print(f"{size:4}   {count:8}   {first:14.1f}   {count / first:19.0f}   {count / again:16.0f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        load_images(setup(cache=folder))
        print(f"data of the quick profile: {time.process_time() - started:.1f} CPU s")


def difficulty(arguments, size: int = 96) -> None:
    """Share of pictures whose nearest neighbor among all others is of their species."""
    sets = {f"rendered {species} x {each}": drawn(species, each, size) for species, each in ((24, 40), (12, 60))}
    if arguments.flowers12:
        real = photographs(arguments.flowers12, size)
        sets[f"photographs {len(real.class_names)} x {len(real) // len(real.class_names)}"] = real.images, real.labels
    table = pd.DataFrame({name: precisions(*pictures, arguments.weights) for name, pictures in sets.items()})
    print(f"precision at 1, {size} px\n{table.assign(band=pd.Series(BANDS)).round(3).to_string()}")


def precisions(images, labels, weights: Path | None) -> dict[str, float]:
    """P@1 of each kind of features."""
    features = dict(color_histogram=color_histogram(images), raw_pixels=raw_pixels(images))
    if weights:
        model = EmbeddingNet("mobilenetv2_100", embedding_size=0, pretrained=True, weights=weights)
        features["frozen_mobilenetv2_100"] = embed(model, images)
    return {name: retrieval(one, labels)["precision_at_1"].mean() for name, one in features.items()}


def photographs(path: Path, size: int) -> ImageSet:
    """The photographs at `path`, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        real = load_images(setup("standard", "flowers102", data=path, cache=folder, image_size=size))
        return replace(real, images=np.array(real.images))


def confusions(_) -> None:
    """Errors of a classifier trained as R3's cross-entropy arm is in the quick profile, on the closed set's test."""
    config = setup()
    image_set = load_images(config)
    splits = make_splits(image_set, config)
    test = splits.parts["closed_set"]["test"]
    genus = np.array([one.genus for one in species_table(config.species, config.seed)])
    relatives = (genus[:, None] == genus).sum(1) - 1
    print("seed   test accuracy   errors   share inside the genus   if any other species were as likely")
    for seed in range(3):
        model = classifier(config, image_set, splits, splits.parts["closed_set"]["train"], seed)
        true, said = image_set.labels[test], named(model, embed(model, image_set.images[test]))
        wrong = true != said
        inside, even = (genus[true] == genus[said])[wrong].mean(), (relatives[true] / (len(genus) - 1))[wrong].mean()
        print(f"{seed:4}   {1 - wrong.mean():13.3f}   {wrong.sum():6}   {inside:22.3f}   {even:.3f}", flush=True)


def classifier(config: Config, image_set: ImageSet, splits: Splits, indices, seed: int) -> EmbeddingNet:
    """A network trained with cross-entropy on the pictures `indices`; the best epoch by validation pairs is kept."""
    classes = len(image_set.class_names)
    model = new_model(config, BACKBONE, seed, classes=classes)
    objective = Classification(model.classify, classes, config.embedding_size)
    loader = batches(Pictures(image_set, indices), config.batch_size, shuffle=True, seed=seed)
    train(config, model, objective, loader, image_set, splits, "closed_set", seed)
    return model


def pretraining(arguments, size: int = 64, epochs: int = 12) -> None:
    """Frozen features of photographs, from a network that saw rendered flowers only and from one that learned nothing.

    The random network's BatchNorm statistics come from the rendered pictures too, so that it lacks nothing but
    training. Judged by the nearest neighbor among all photographs and by a linear probe on the official test.
    """
    if not arguments.flowers12:
        return print("skipped: it needs --flowers12, photographs to judge by")
    with tempfile.TemporaryDirectory() as folder:
        config = replace(setup(cache=folder, epochs=epochs), species=102, pictures_per_species=16, image_size=size)
        rendered = load_images(config)
        splits = make_splits(rendered, config)
        indices = np.concatenate([splits.parts["closed_set"][part] for part in ("train", "test")])
        real, hits = photographs(arguments.flowers12, size), {"random": [], "pretrained": []}
        for seed in range(3):
            random = new_model(replace(config, embedding_size=0), BACKBONE, seed).train()
            with torch.no_grad():
                for images, _ in batches(Pictures(rendered, indices), 64, shuffle=True, seed=seed):
                    random(as_float(images))
            hits["random"].append(judge(random, real))
            hits["pretrained"].append(judge(classifier(config, rendered, splits, indices, seed), real))
    for measure in ("nearest neighbor, P@1", "linear probe, accuracy"):
        by_arm = {name: np.stack([run[measure] for run in runs]) for name, runs in hits.items()}  # seeds x pictures
        means = ", ".join(f"{name} {runs.mean():.3f} {np.round(runs.mean(1), 3)}" for name, runs in by_arm.items())
        gap = search_difference(by_arm["pretrained"], by_arm["random"])
        print(f"{measure}: {means}; gap {gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]")


def judge(model: EmbeddingNet, real: ImageSet) -> dict[str, np.ndarray]:
    """Hits, 0 or 1, of the nearest neighbor and of the linear probe on a network's pooled features."""
    model.head = nn.Identity()
    features, test = embed(model, real.images), real.official["test"]
    said = linear_probe(features, real.labels, np.setdiff1d(np.arange(len(real)), test), test)
    return {"nearest neighbor, P@1": retrieval(features, real.labels)["precision_at_1"],
            "linear probe, accuracy": (said == real.labels[test]).astype(float)}  # fmt: skip


def fresh(_, sets: int = 50, rounds: int = 1000) -> None:
    """ROC-AUC of R1's descriptions on validation pairs, where 95 % of them lie: fresh pictures, three bootstraps.

    A fresh set has as many pictures of each species as the validation part, and the same list of pairs. Resampled are
    its pictures, as all stored intervals do; its pictures within each species; or the pairs themselves. The column
    pairs says in how many a picture is, above_0 how many values are.
    """
    config, rows = setup(), []
    image_set = load_images(config)
    splits = make_splits(image_set, config)
    for protocol in splits.protocols:
        indices, pairs = splits.parts[protocol]["validation"], splits.pairs[protocol]["validation"]
        same, places = pairs[:, 2], np.searchsorted(indices, pairs[:, :2])
        labels = image_set.labels[indices]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
            jobs = [(labels, places, same, number) for number in range(1, sets + 1)]
            found = {"fresh pictures": np.array([*processes.map(redrawn, *zip(*jobs, strict=True))])}
        scores = described(image_set.images[indices], places)
        of_pictures, of_each, (first, second) = picked(rounds, len(labels)), np.zeros((rounds, len(labels))), places.T
        for label in np.unique(labels):
            of_each[:, labels == label] = picked(rounds, (labels == label).sum(), label)
        resampled = {"pictures resampled": of_pictures[:, first] * of_pictures[:, second]}
        resampled["pictures resampled, each species apart"] = of_each[:, first] * of_each[:, second]
        resampled["pairs resampled"] = picked(rounds, len(pairs))
        for way, weights in resampled.items():
            found[way] = np.stack([roc_auc(one, same, weights) for one in scores], 1)
        for way, (pixels, color, central) in ((way, areas.T) for way, areas in found.items()):
            measured = {"color": color, "color minus raw pixels": color - pixels}
            for measure, values in {**measured, "central color minus color": central - color}.items():
                low, high = np.quantile(values, [0.025, 0.975])
                if len(values) == sets:  # too few for quantiles so far out
                    low, high = values.mean() + 1.96 * values.std(ddof=1) * np.array([-1, 1])
                about = dict(protocol=protocol, pairs=round(2 * len(pairs) / len(labels)), measure=measure)
                rows.append(dict(**about, way=way, rounds=len(values), value=values.mean(), low=low, high=high,
                                 above_0=(values > 0).sum()))  # fmt: skip
    table = pd.DataFrame(rows).sort_values(["measure", "protocol"], kind="stable")
    table.to_csv(ROOT / "benchmarks" / "fresh_flowers.csv", index=False, float_format="%.4f")
    print(table.assign(width=table["high"] - table["low"]).round(3).to_string(index=False))


def picked(rounds: int, count: int, seed: int = 0) -> np.ndarray:
    """How often each of `count` is picked in each round of a bootstrap: int (rounds, count)."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), rounds)


def described(images, places) -> list[np.ndarray]:
    """Cosines of the pairs `places` by raw pixels, color and central color."""
    return [cosine_scores(features(images), places) for features in (raw_pixels, color_histogram, central_color)]


def redrawn(labels, places, same, number: int) -> list[float]:
    """ROC-AUC of raw pixels, color and central color on one fresh set: a picture of each label, none drawn before."""
    table = species_table(labels.max() + 1)
    images = [render(table[label], 1000 * number + place, 64).image for place, label in enumerate(labels)]
    return [roc_auc(scores, same) for scores in described(np.stack(images), places)]


# Memory comes first, for a process's peak starts at what the process that started it held.
PARTS = dict(memory=memory, speed=speed, difficulty=difficulty, confusions=confusions, fresh=fresh)
PARTS |= dict(pretraining=pretraining)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--flowers12", type=Path)
    parser.add_argument("--weights", type=Path)
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for name in chosen.parts:
        print(f"\n{name}")
        PARTS[name](chosen)
