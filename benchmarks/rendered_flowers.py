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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from common.backbones import EmbeddingNet, embed
from common.config import Config, seed_everything, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, as_float, batches
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, make_splits
from common.evaluation.baselines import color_histogram, raw_pixels
from common.evaluation.metrics import interval
from common.evaluation.reports import linear_probe, pair_auc
from common.evaluation.retrieval import retrieval
from common.flowers.painting import disc_pattern, pattern
from common.flowers.rendering import rendered_pictures
from common.flowers.species import species_table
from common.losses import Classification
from common.training import fit, one_cycle

BANDS = dict(color_histogram=".25-.60", raw_pixels="<= .45", frozen_mobilenetv2_100=".60-.95")
BACKBONE = "test_resnet"  # what R2 chooses in the quick profile
SEEDS = (0, 1, 2)


# --- memory ---

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


# --- speed ---

def speed(_) -> None:
    """CPU seconds with an empty pattern cache, and pictures a second once it is full."""
    print("size   pictures   CPU s at first   pictures/s at first   pictures/s again")
    for size, species, each in ((64, 24, 10), (64, 24, 20), (64, 24, 40), (96, 24, 20), (96, 24, 40), (256, 24, 5)):
        pattern.cache_clear()
        disc_pattern.cache_clear()
        draw = partial(lambda *drawing: sum(1 for _ in rendered_pictures(*drawing)), species, each, size)
        first, again = cpu_seconds(draw), cpu_seconds(draw)
        count = species * each
        print(f"{size:4}   {count:8}   {first:14.1f}   {count / first:19.0f}   {count / again:16.0f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        config = setup(cache=folder)
        seconds = cpu_seconds(lambda: load_images(config))
        print(f"data of the quick profile: {seconds:.1f} CPU s, {time.perf_counter() - started:.1f} s on the clock")


def cpu_seconds(work: Callable) -> float:
    """Processor time of `work()`."""
    started = time.process_time()
    work()
    return time.process_time() - started


# --- difficulty ---

def difficulty(arguments, size: int = 96) -> None:
    """Share of pictures whose nearest neighbor among all others is of their species."""
    columns = {}
    for species, each in ((24, 40), (12, 60)):
        pictures = list(rendered_pictures(species, each, size))
        images, labels = np.stack([picture.image for picture in pictures]), [picture.label for picture in pictures]
        columns[f"rendered {species} x {each}"] = precisions(images, labels, arguments.weights)
    if arguments.flowers12:
        real = photographs(arguments.flowers12, size)
        name = f"photographs {len(real.class_names)} x {len(real) // len(real.class_names)}"
        columns[name] = precisions(real.images, real.labels, arguments.weights)
    print(f"{f'precision at 1, {size} px':24}   {'band':>7}   " + "   ".join(columns))
    for row in next(iter(columns.values())):
        cells = "   ".join(f"{column[row]:{len(name)}.3f}" for name, column in columns.items())
        print(f"{row:24}   {BANDS[row]:>7}   {cells}")
    print(f"(the 24 rendered species are of {len({one.genus for one in species_table(24)})} genera of look-alikes)")


def precisions(images, labels, weights: Path | None) -> dict[str, float]:
    """P@1 of each kind of features."""
    features = dict(color_histogram=color_histogram(images), raw_pixels=raw_pixels(images))
    if weights:
        model = EmbeddingNet("mobilenetv2_100", embedding_size=0, pretrained=True, weights=weights)
        features["frozen_mobilenetv2_100"] = embed(model, images)
    return {name: float(nearest(one, labels).mean()) for name, one in features.items()}


def nearest(features, labels) -> np.ndarray:
    """Whether each picture's nearest neighbor is of its species: float (N,)."""
    return retrieval(features, labels)["precision_at_1"]


def photographs(path: Path, size: int) -> ImageSet:
    """The photographs at `path`, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        config = setup(profile="standard", dataset="flowers102", data=path, cache=folder)
        real = load_images(replace(config, image_size=size))
        return replace(real, images=np.array(real.images))


# --- confusions ---

def confusions(_) -> None:
    """Errors of a classifier trained as R3's cross-entropy arm is in the quick profile, on the closed set's test."""
    config = setup()
    image_set = load_images(config)
    splits = make_splits(image_set, config)
    test = splits.parts["closed_set"]["test"]
    genus = np.array([one.genus for one in species_table(config.species, config.seed)])
    relatives = (genus[:, None] == genus).sum(1) - 1
    print("seed   test accuracy   errors   share inside the genus   if any other species were as likely")
    for seed in SEEDS:
        model = train(config, image_set, splits, splits.parts["closed_set"]["train"], config.epochs, seed)
        logits = model.classify(torch.from_numpy(embed(model, image_set.images[test])))
        true, said = image_set.labels[test], logits.argmax(1).numpy()
        wrong = true != said
        inside, even = (genus[true] == genus[said])[wrong].mean(), (relatives[true] / (len(genus) - 1))[wrong].mean()
        print(f"{seed:4}   {1 - wrong.mean():13.3f}   {wrong.sum():6}   {inside:22.3f}   {even:.3f}", flush=True)


def train(config: Config, image_set: ImageSet, splits: Splits, indices, epochs: int, seed: int) -> EmbeddingNet:
    """Train with cross-entropy on the pictures `indices`; the best epoch by validation pairs is kept."""
    seed_everything(seed)
    classes = len(image_set.class_names)
    model = EmbeddingNet(BACKBONE, config.embedding_size, classes)
    loader = batches(Pictures(image_set, indices), config.batch_size, shuffle=True, seed=seed)
    optimizer, scheduler = one_cycle(model, config.learning_rate, epochs * len(loader))
    validate = partial(pair_auc, image_set=image_set, pairs=splits.pairs["closed_set"]["validation"])
    objective = Classification(classes, config.embedding_size)
    fit(model, objective, loader, [optimizer], epochs, validate, [scheduler], epochs // 2, seed)
    return model


# --- pretraining ---

def pretraining(arguments, size: int = 64, epochs: int = 12) -> None:
    """Frozen features of photographs, from a network that saw rendered flowers only and from one that learned nothing.

    The random network's BatchNorm statistics come from the rendered pictures too, so that it lacks nothing but
    training. Judged by the nearest neighbor among all photographs and by a linear probe on the official test.
    """
    if not arguments.flowers12:
        print("skipped: it needs --flowers12, photographs to judge by")
        return
    with tempfile.TemporaryDirectory() as folder:
        config = replace(setup(cache=folder), species=102, pictures_per_species=16, image_size=size)
        rendered = load_images(config)
        splits = make_splits(rendered, config)
        indices = np.concatenate([splits.parts["closed_set"][part] for part in ("train", "test")])
        real, hits = photographs(arguments.flowers12, size), {"random": [], "pretrained": []}
        for seed in SEEDS:
            started = time.process_time()
            models = untrained(rendered, indices, seed), train(config, rendered, splits, indices, epochs, seed)
            for name, model in zip(hits, models):
                hits[name].append(judge(model, real))
            print(f"seed {seed}: {time.process_time() - started:.0f} CPU s", flush=True)
    for place, measure in enumerate(("nearest neighbor, P@1", "linear probe, accuracy")):
        by_arm = {name: np.stack([run[place] for run in runs]) for name, runs in hits.items()}
        means = ", ".join(f"{name} {runs.mean():.3f} {np.round(runs.mean(1), 3)}" for name, runs in by_arm.items())
        low, high = gap_interval(by_arm["pretrained"] - by_arm["random"])
        print(f"{measure}: {means}; gap {(by_arm['pretrained'] - by_arm['random']).mean():.3f} [{low:.3f}, {high:.3f}]")


@torch.no_grad()
def untrained(image_set: ImageSet, indices, seed: int) -> EmbeddingNet:
    """Random weights, with BatchNorm statistics of the pictures `indices`."""
    seed_everything(seed)
    model = EmbeddingNet(BACKBONE, embedding_size=0)
    model.train()
    for images, _ in batches(Pictures(image_set, indices), 64, shuffle=True, seed=seed):
        model(as_float(images))
    return model


def judge(model: EmbeddingNet, real: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Hits (N,) of the nearest neighbor and (M,) of the linear probe on a network's pooled features."""
    model.head = nn.Identity()
    features = embed(model, real.images)
    learned = np.concatenate([real.official["train"], real.official["validation"]])
    said = linear_probe(features, real.labels, learned, real.official["test"])
    return nearest(features, real.labels), (said == real.labels[real.official["test"]]).astype(float)


def gap_interval(gaps) -> tuple[float, float]:
    """95 % interval of the mean of (seeds, pictures), drawing both anew."""
    generator = np.random.default_rng(0)
    found = interval(lambda weights: np.average(generator.choice(gaps, len(gaps)).mean(0), weights=weights),
                     gaps.shape[1], rounds=1000)  # fmt: skip
    return found["low"], found["high"]


# Memory comes first, for a process's peak starts at what the process that started it held.
PARTS = dict(memory=memory, speed=speed, difficulty=difficulty, confusions=confusions, pretraining=pretraining)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--flowers12", type=Path)
    parser.add_argument("--weights", type=Path)
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for name in chosen.parts or PARTS:
        print(f"\n{name}")
        PARTS[name](chosen)
