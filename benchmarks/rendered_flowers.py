"""Are rendered flowers fast, flat in memory, as hard as photographs, and of use beyond themselves?

    python -m benchmarks.rendered_flowers [PART ...] [--flowers12 PATH] [--weights DIR]

The parts, all of them where none is named:

    memory       peak memory while 102, 816 and 8,160 pictures are written (minutes)
    speed        CPU seconds and pictures a second, by size and number; the quick profile's data
    difficulty   nearest-neighbor precision of colors, pixels and a frozen network, photographs beside it
    confusions   which species a classifier confuses: those of one genus, or any (a minute)
    pretraining  does a network pretrained on rendered flowers see more in photographs than a random one? (minutes)

`--flowers12` names a folder or archive of photographs in the layout of Oxford Flowers-102, which `pretraining` needs;
`--weights` a folder with mobilenetv2_100.safetensors, for the frozen network. Everything runs on one core, and times
are of the processor (`process_time`), so that other programs disturb them little.
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
from common.config import Config, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, as_float, batches
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, make_splits
from common.evaluation.baselines import color_histogram, raw_pixels
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


# Memory comes first, for a process's peak starts at what the process that started it held.
PARTS = dict(memory=memory, speed=speed, difficulty=difficulty, confusions=confusions, pretraining=pretraining)

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
