"""How fast are we beside well-known libraries? `make bench` prints the ratios and writes them to benchmarks/speed.csv.

Each ratio is ours / theirs in CPU seconds of one thread: both do the same work in turns, and the median of the ratios
of these turns counts, so that a busy machine slows both. Above 1 we are slower. With `--run` the seconds of the quick
run are measured too, notebook by notebook, which takes as long as the run.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from io import BytesIO, StringIO
from pathlib import Path

import faiss
import foolbox
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_metric_learning import losses as their_losses
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.attacks import TwoLogits
from common import plotting
from common.attacks.gradient import pgd
from common.attacks.reports import attacked_scores
from common.backbones import EmbeddingNet, embed
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, as_float, augment, batches
from common.datasets.duplicates import find_duplicates
from common.datasets.images import ImageSet
from common.datasets.splits import make_pairs, make_splits
from common.evaluation.metrics import Threshold, roc_auc
from common.evaluation.reports import validation_report, verification_report
from common.evaluation.retrieval import nearest, retrieval
from common.losses import Classification, PairJudgment, TripletJudgment
from common.notebooks import run
from common.training import fit

TABLE = ROOT / "benchmarks" / "speed.csv"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "faiss-cpu", "pytorch-metric-learning", "foolbox")


def ratio(ours: Callable, theirs: Callable, turns: int = 9) -> float:
    """The median over turns of ours / theirs, in CPU seconds; the first turn warms up and does not count."""
    found = []
    for _ in range(turns + 1):
        started = time.process_time()
        ours()
        between = time.process_time()
        theirs()
        found.append((between - started) / (time.process_time() - between))
    return float(np.median(found[1:]))


class Files(Dataset):
    """What most people write: PIL opens a file, torchvision varies it."""

    def __init__(self, files: list[Path], transform: Callable):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int):
        return self.transform(Image.open(self.files[place]).convert("RGB")), 0


def input_rows(pictures: ImageSet, size: int):
    """An epoch of training pictures, against decoding files each time and against torchvision on the decoded array."""
    generator = torch.Generator().manual_seed(0)
    count = min(len(pictures), 240)

    def ours():
        for images, _ in batches(Pictures(pictures, np.arange(count)), 48):
            augment(as_float(images), generator)

    one = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.1, 0.2)])

    def each_by_v2():
        for images, _ in batches(Pictures(pictures, np.arange(count)), 48):
            torch.stack([one(image) for image in as_float(images)])

    yield f"an epoch at {size} pixels", "torchvision v2, picture by picture", ratio(ours, each_by_v2, 5)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{place}.jpg" for place in range(count)]
        for file, image in zip(files, pictures.images):
            Image.fromarray(image.transpose(1, 2, 0)).resize((500, 500)).save(file, quality=90)
        steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        steps += [transforms.ColorJitter(0.1, 0.2), transforms.ToTensor()]
        loader = DataLoader(Files(files, transforms.Compose(steps)), 48)
        yield f"an epoch at {size} pixels", "PIL and torchvision, from files", ratio(ours, lambda: [*loader], 3)


def fit_rows(pictures: ImageSet):
    """Three epochs of `fit`, against the loop that anybody would write, with validation and without."""
    labels, some = pictures.labels, np.arange(480)
    pairs = make_pairs(labels, some, 400, 0)
    classes = labels.max() + 1

    def parts():
        model = EmbeddingNet("test_resnet", 128, classes)
        loader = batches(Pictures(pictures, some), 48)
        return model, Classification(model.classify, classes, 128), loader, torch.optim.AdamW(model.parameters())

    def ours(validate):
        model, objective, loader, optimizer = parts()
        with redirect_stderr(StringIO()):
            fit(model, objective, loader, [optimizer], 3, validate, augmentation=1.0)

    def bare(validate):
        model, objective, loader, optimizer = parts()
        model.to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            model.train()
            for images, target in loader:
                loss = sum(objective(model(augment(as_float(images), generator)), target).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()
            validate(model)

    def nothing(_):
        return {"validation": 0.0, "spread": 1.0}

    measured = partial(validation_report, image_set=pictures, pairs=pairs)
    for name, validate in (("without validation", nothing), ("with validation", measured)):
        yield f"fit {name}", "a bare loop", ratio(partial(ours, validate), partial(bare, validate), 5)


def loss_rows():
    """A loss and its gradient of a P x 4 batch."""
    for size in (48, 256):
        embeddings, labels = torch.randn(size, 128, requires_grad=True), torch.arange(size) // 4
        margin = their_losses.TripletMarginLoss(0.2)

        def mined(miner, margin=margin):
            return lambda z, y: margin(z, y, miner(z, y))

        triplets = {name: TripletJudgment(name, 0.2) for name in ("batch_hard", "semi_hard", "batch_all")}
        pairs = PairJudgment(None, int(labels.max()) + 1, 128, loss="contrastive")
        cases = {
            "batch-hard triplets": (triplets["batch_hard"], mined(miners.BatchHardMiner())),
            "semi-hard triplets": (triplets["semi_hard"], mined(miners.TripletMarginMiner(0.2, "semihard"))),
            "all triplets": (triplets["batch_all"], margin),
            "contrastive, all pairs": (pairs, their_losses.ContrastiveLoss(0, 1)),
        }
        for name, (mine, theirs) in cases.items():

            def ours(mine=mine, z=embeddings, y=labels):
                next(iter(mine(z, y).values())).backward()  # without the centers of pairs, which theirs have not

            def other(theirs=theirs, z=embeddings, y=labels):
                theirs(z, y).backward()

            yield f"{name}, batch of {size}", "pytorch-metric-learning", ratio(ours, other, 15)


def search_rows():
    """Search and what is measured on it."""
    generator = np.random.default_rng(0)
    for queries, gallery in ((8189, 8189), (1000, 100_000)):
        stored = generator.normal(size=(gallery, 128)).astype(np.float32)
        asked = stored[:queries]

        def by_faiss(stored=stored, asked=asked):
            index = faiss.IndexFlatIP(128)
            index.add(stored / np.linalg.norm(stored, axis=1, keepdims=True))
            index.search(asked / np.linalg.norm(asked, axis=1, keepdims=True), 11)

        ours = partial(nearest, asked, stored, 11)
        yield f"nearest, {queries} x {gallery}", "faiss IndexFlatIP", ratio(ours, by_faiss, 5)
    embeddings, labels = generator.normal(size=(8189, 128)).astype(np.float32), generator.integers(0, 102, 8189)
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=names, knn_func=CustomKNN(CosineSimilarity()), k="max_bin_count")
    theirs = partial(calculator.get_accuracy, torch.tensor(embeddings), torch.tensor(labels))
    yield "retrieval, 8189", "AccuracyCalculator", ratio(partial(retrieval, embeddings, labels), theirs, 5)
    pairs = np.array([(one, two, one % 8 == two % 8) for one in range(32) for two in range(one)])[:64]
    scores = generator.normal(size=64) + pairs[:, 2]

    def round_by_round():
        for _ in range(1000):  # as many as the report takes
            weights = generator.multinomial(32, np.full(32, 1 / 32)).astype(float)
            roc_auc(scores, pairs[:, 2], weights[pairs[:, 0]] * weights[pairs[:, 1]])

    report = partial(verification_report, scores, pairs, Threshold(0.0, "validation"))
    yield "report of 64 pairs with intervals", "ROC-AUC round by round", ratio(report, round_by_round)


def attack_rows(pictures: ImageSet):
    """PGD of ten steps on 32 pairs."""
    model, pairs = EmbeddingNet("test_resnet", 128).eval(), make_pairs(pictures.labels, np.arange(960), 32, 0)
    first, second = (as_float(torch.from_numpy(np.array(pictures.images[pairs[:, side]]))) for side in (0, 1))
    same, eps = torch.from_numpy(pairs[:, 2]), 4 / 255
    ours = partial(attacked_scores, model, pictures, pairs, partial(pgd, eps=eps, steps=10, restarts=1))

    def bare():
        with torch.no_grad():
            held = model(second)
        images = first.clone()
        for _ in range(10):
            images.requires_grad_()
            harm = (1 - 2 * same) * F.cosine_similarity(model(images), held)
            (slope,) = torch.autograd.grad(harm.sum(), images)
            images = (images.detach() + eps / 4 * slope.sign()).clamp(first - eps, first + eps).clamp(0, 1)
        with torch.no_grad():
            model.score_embeddings(model(images), held)

    peer = foolbox.PyTorchModel(TwoLogits(model, second, 0.0), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=10, abs_stepsize=eps / 4, random_start=False)
    yield "PGD of 10 steps, 32 pairs", "a bare loop", ratio(ours, bare, 5)
    yield "PGD of 10 steps, 32 pairs", "foolbox", ratio(ours, lambda: attack(peer, first, same, epsilons=eps), 5)


def drawing_rows(pictures: ImageSet):
    """A sheet of 24 pictures as PNG."""
    images = np.array(pictures.images[:24])
    titles = [f"picture {place}" for place in range(24)]

    def saved(figure):
        figure.savefig(BytesIO(), dpi=plotting.DOTS)
        plt.close(figure)

    drawn = plotting.contact_sheet(images, titles, 6, "Sheet")  # as large and as fine, or the PNG takes other time
    montage, size = drawn.axes[0].images[0].get_array(), drawn.get_size_inches()

    def one_image():
        figure = plt.figure(figsize=size)
        figure.add_axes((0, 0, 1, 1)).imshow(montage)
        saved(figure)

    sheet = lambda: saved(plotting.contact_sheet(images, titles, 6, "Sheet"))  # noqa: E731
    yield "contact sheet of 24", "imshow of the montage", ratio(sheet, one_image, 5)


def growth_rows(folder: Path):
    """CPU seconds of each step from 1,020 to 8,160 drawn pictures of 102 species, and the exponent of their growth."""
    counts, spent = (10, 20, 40, 80), {}
    for each in counts:
        config = replace(setup("quick", cache=folder), species=102, pictures_per_species=each)
        steps = {}

        def timed(name, work, steps=steps):
            started = time.process_time()
            found = work()
            steps[name] = time.process_time() - started
            return found

        with redirect_stderr(StringIO()):
            pictures = timed("drawing", lambda: load_images(config))  # noqa: B023
        model = EmbeddingNet("test_resnet", 128).eval()
        timed("duplicates", lambda: find_duplicates(pictures))  # noqa: B023
        timed("splits", lambda: make_splits(pictures, config, np.ones(len(pictures), bool)))  # noqa: B023
        embeddings = timed("embedding", lambda: embed(model, pictures.images))  # noqa: B023
        timed("retrieval (exact search)", lambda: retrieval(embeddings, pictures.labels))  # noqa: B023
        spent[len(pictures)] = steps
    table = pd.DataFrame(spent).clip(lower=1e-3)
    for name, seconds in table.iterrows():
        exponent = np.polyfit(np.log(seconds.index.to_numpy(float)), np.log(seconds.to_numpy(float)), 1)[0]
        yield f"{name}: exponent of growth, 1,020 to 8,160 pictures", f"{seconds.iloc[-1]:.2f} s at the end", exponent


def run_rows(folder: Path):
    """Wall-clock seconds of the quick run, from an empty folder."""
    started = time.perf_counter()
    config = setup("quick", checkpoints=folder / "checkpoints", cache=folder / "cache")
    for names in (["R1"], ["R2"], ["R3", "R4", "R5"], ["R6"], ["R7"]):
        begun = time.perf_counter()
        run(names, config, output=folder / "runs")
        yield f"quick run: {', '.join(names)}", "seconds", time.perf_counter() - begun
    yield "quick run: whole", "seconds", time.perf_counter() - started


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure the quick run, too")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = setup("quick", cache=Path(folder))
        drawn, large = load_images(config), load_images(replace(config, image_size=160, pictures_per_species=10))
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        tables = [input_rows(drawn, 64), input_rows(large, 160), fit_rows(drawn), loss_rows(), search_rows()]
        tables += [attack_rows(drawn), drawing_rows(drawn), growth_rows(Path(folder))]
        for table in [*tables, *([run_rows(Path(folder))] if chosen.run else [])]:
            for what, peer, value in table:
                rows.append({"what": what, "beside": peer, "value": round(value, 2)})
                print(f"{value:8.2f}  {what}  ({peer})", flush=True)
    versions = " ".join(f"{name}={version(name)}" for name in PACKAGES)
    pd.DataFrame(rows).assign(threads=1, python=platform.python_version(), versions=versions).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
