"""Toys of the tests: tiny picture sets, models, pairs and picture files, so that a test takes a second."""

import dataclasses
import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.io import savemat
from torch import nn

from common.attacks import gradient
from common.backbones import EmbeddingNet, evaluation_mode
from common.config import setup
from common.datasets.images import ImageSet
from common.flowers.rendering import render
from common.flowers.species import PETAL, species_table

torch.set_num_threads(1)  # pictures of 32 pixels gain nothing from more, and the machine may be shared
SEED = int(os.environ.get("TOY_SEED", "0"))  # of toy trainings, so that a sweep can vary it
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"  # photographs that not every machine has
TINY = "test_resnet"  # timm's smallest with BatchNorm; its stages end in layer1.0 .. layer4.0


def image_set(species: int = 8, each: int = 10, size: int = 32, seed: int = 0, **changes) -> ImageSet:
    """Species that differ in color and stripes, each picture with noise of its own."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(species), each)
    colors = generator.integers(40, 216, (species, 3))
    stripes = 40 * np.sign(np.sin(np.outer(np.arange(species) + 1, np.arange(size)) * 0.4))
    pictures = colors[labels][:, :, None, None] + stripes[labels][:, None, None, :]
    pictures = pictures + generator.integers(-30, 31, (len(labels), 3, size, size))
    made = ImageSet(
        name="made-up",
        images=pictures.clip(0, 255).astype(np.uint8),
        labels=labels,
        class_names=[f"species {label}" for label in range(species)],
        paths=[f"{label}/{number}.png" for number, label in enumerate(labels)],
        hashes=np.array([f"{number:016x}" for number in range(len(labels))]),
        files=pd.DataFrame({"path": [], "problem": []}),
        fingerprint=f"{species:04x}{each:04x}{size:04x}{seed:04x}",
    )
    return dataclasses.replace(made, **changes)


def config(folder, **changes):
    """A configuration whose files all lie in `folder`; `changes` replace any of its fields."""
    return dataclasses.replace(setup(checkpoints=folder / "checkpoints", cache=folder / "cache"), **changes)


def model(classes: int = 8, embedding_size: int = 8, seed: int = 0, backbone: str = TINY) -> EmbeddingNet:
    """A small `EmbeddingNet` whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    return EmbeddingNet(backbone, embedding_size, classes)


def all_pairs(labels, indices=None) -> np.ndarray:
    """Every pair of different pictures: int (P, 3) of first, second, same."""
    labels = np.asarray(labels)
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)
    rows, columns = np.triu_indices(len(indices), 1)
    return np.stack([indices[rows], indices[columns], labels[indices[rows]] == labels[indices[columns]]], 1)


UNDRAWN = """
import inspect
from unittest.mock import MagicMock
from common import plotting
for name, function in inspect.getmembers(plotting, inspect.isfunction):
    setattr(plotting, name, MagicMock())
"""  # start of a kernel whose figures are left out: they take most of a notebook's time and decide nothing

SIZE = 6


class Bilinear(nn.Module):
    """Linear embeddings compared by their dot product: the score's gradient by one picture ignores that picture."""

    def __init__(self, seed=0, dtype=torch.float32, dimensions=3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * SIZE * SIZE, dimensions, generator=generator).to(dtype))

    def forward(self, images):
        return images.flatten(1) @ self.weight

    def score_embeddings(self, first, second):
        return (first * second).sum(-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


class Network(nn.Module):
    """Convolutions, BatchNorm and a cosine; counts the pictures it embeds."""

    def __init__(self, seed=0, channels=8, dimensions=4):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.Softplus(),
            nn.Conv2d(channels, channels, 3, 2, 1), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(4 * channels, dimensions), nn.BatchNorm1d(dimensions),
        )  # fmt: skip
        self.classifier = nn.Linear(dimensions, 8)
        self.embedded = 0

    def forward(self, images):
        self.embedded += len(images)
        return self.layers(images)

    def classify(self, embeddings):
        return self.classifier(embeddings)

    def score_embeddings(self, first, second):
        return nn.functional.cosine_similarity(first, second, dim=-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


class Colors(nn.Module):
    """Embeds a picture by its mean color, or nearly all alike if `collapsed`; compared by a cosine."""

    def __init__(self, collapsed=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.collapsed = collapsed

    def forward(self, images):
        colors = images.mean((2, 3)) * self.weight
        return colors * (1e-3 if self.collapsed else 1) + (1 if self.collapsed else -colors.mean(1, keepdim=True))

    def score_embeddings(self, first, second):
        return nn.functional.cosine_similarity(first, second, dim=-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


def pairs_of_pictures(count=6, seed=0, margin=0.0, size=SIZE, dtype=torch.float32):
    """Random pictures, first and second, no pixel nearer to 0 or 1 than `margin`, and labels 1, 0, 1, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, count, 3, size, size, generator=generator).to(dtype) * (1 - 2 * margin) + margin
    return first, second, 1 - torch.arange(count) % 2


def pgd_path(model, first, second, same, eps, steps):
    """What `pgd` passes through from its first start: the clean pictures, then each step."""
    with evaluation_mode(model, gradients=True):
        harm, images = gradient.pair_harm(model, first, second, same, eps)
        path = list(gradient.ascend(harm, images, eps, steps, images))
    return [gradient.attacked(*found, second, same) for found in path]


def state_of(model):
    """Everything an attack must leave alone: modes, parameters, statistics, gradients and whether they are wanted."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    wanted = [one.requires_grad for one in model.parameters()]
    return [module.training for module in model.modules()], tensors, gradients, wanted


def same_state(one, other):
    """Whether two results of `state_of` are equal to the bit."""
    tensors = all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())
    gradients = all((a is None and b is None) or torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    return one[0] == other[0] and tensors and gradients and one[3] == other[3]


def awkward(model):
    """Bring a model into a state that is easily lost: mixed modes, gradients, a frozen parameter."""
    model.train()
    first, second, _ = pairs_of_pictures()
    model.score(first, second).sum().backward()
    modules = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in modules:
        module.eval()
    next(model.parameters()).requires_grad_(False)
    return model


class PairHead(nn.Module):
    """A siamese model whose score is no cosine: a linear layer over |a - b|, a * b and, to be lopsided, a."""

    def __init__(self, backbone: str = TINY, embedding_size: int = 8):
        super().__init__()
        self.arguments = dict(backbone=backbone, embedding_size=embedding_size)
        self.net = EmbeddingNet(backbone, embedding_size)
        self.compare = nn.Linear(3 * embedding_size, 1)

    def forward(self, images):
        return self.net(images)

    def score_embeddings(self, first, second):
        return self.compare(torch.cat([(first - second).abs(), first * second, first], -1))[..., 0]

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


def pixels(count: int = 3, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, float (count, 3, size, size) in [0, 1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def ready(model: nn.Module, size: int = 64) -> nn.Module:
    """The model with BatchNorm statistics of random pictures, in evaluation mode; else its signals fade or explode."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # one batch is enough
    with torch.no_grad():
        model(pixels(8, size, 100))
    return model.eval()


def cosine_model(backbone: str = TINY, size: int = 64, seed: int = 0, **options) -> EmbeddingNet:
    """A small `EmbeddingNet`, ready to be explained."""
    torch.manual_seed(seed)
    return ready(EmbeddingNet(backbone, 8, image_size=size, **options), size)


def pair_model(backbone: str = TINY, seed: int = 0) -> PairHead:
    """A small `PairHead`, ready to be explained."""
    torch.manual_seed(seed)
    return ready(PairHead(backbone))


CORNERS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def quadrants(width: int = 32, height: int = 32) -> np.ndarray:
    """uint8 H x W x 3: red and green above blue and white, so every rotation and mirroring looks different."""
    pixels = np.empty((height, width, 3), np.uint8)
    upper, left = slice(height // 2), slice(width // 2)
    lower, right = slice(height // 2, None), slice(width // 2, None)
    for (rows, columns), color in zip(((upper, left), (upper, right), (lower, left), (lower, right)),
                                      CORNERS.values()):
        pixels[rows, columns] = color
    return pixels


def smooth(seed: int, size: int = 48, detail: int = 6) -> np.ndarray:
    """uint8 H x W x 3: a random picture with large soft blobs, as different from another seed's as photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (detail, detail, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, form: str = "JPEG", **options) -> bytes:
    """`pixels` as the bytes of a file."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A few bytes whose header promises billions of pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def kin(label: int, number: int, kinship: float = 0.8) -> np.ndarray:
    """A random picture with large soft blobs, of which it shares `kinship` with all of its class."""
    return (kinship * smooth(label) + (1 - kinship) * smooth(100 * label + number)).astype(np.uint8)


def class_folder(root: Path, classes=("iris", "rose"), each: int = 3, kinship: float = 0.0) -> Path:
    """A clean folder with one sub-folder per class, `each` JPEGs in it."""
    for label, name in enumerate(classes):
        for number in range(each):
            write(root / name / f"{number}.jpg", encoded(kin(label, number, kinship)))
    return root


def framed(label: int, number: int, size: tuple[int, int]) -> np.ndarray:
    """A dark picture of this width and height with a white rim above and below, which cropping would take away."""
    pixels = np.array(Image.fromarray(kin(label, number) // 3).resize(size))
    pixels[:8] = pixels[-8:] = 255
    return pixels


def faces(root: Path, people=(1, 2, 10), each: int = 2, folders=("",)) -> Path:
    """Gray PGM pictures in the layout of the ORL faces; people take turns over `folders`."""
    for place, person in enumerate(people):
        for number in range(1, each + 1):
            pixels = framed(person, number, (92, 112))[..., 0]
            write(root / folders[place % len(folders)] / f"s{person}" / f"{number}.pgm", encoded(pixels, "PPM"))
    write(root / "README", b"The ORL face database")
    return root


def persons(root: Path, names, rows, header: str = "Anchor,Negative,Positive") -> Path:
    """Crops of these names, which start with who it is, and `rows` of names in train.csv."""
    for number, name in enumerate(dict.fromkeys(names)):
        write(root / "train" / name, encoded(framed(zlib.crc32(name[:4].encode()), number, (64, 128))))
    write(root / "train.csv", "\n".join([header, *(",".join(row) for row in rows)]).encode())
    return root


def pack(archive: Path, root: Path, prefix: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    """All files below `root` as a .zip or .tgz."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", compression) as opened:
            for path in files:
                opened.write(path, prefix + path.relative_to(root).as_posix())
    else:
        with tarfile.open(archive, "w:gz") as opened:
            for path in files:
                opened.add(path, prefix + path.relative_to(root).as_posix())
    return archive


def rendered_oxford(root: Path, species: int, each: int, size: int) -> Path:
    """Rendered flowers in the layout of Oxford 102 Flowers: 10 training, 10 validation and the rest test pictures."""
    drawn = [(one, instance) for one in species_table(species) for instance in range(each)]
    for number, flower in enumerate(drawn, 1):
        picture = render(*flower, size)
        write(root / f"jpg/image_{number:05d}.jpg", picture.file)
        segmented = np.where(picture.parts >= PETAL, picture.image, np.uint8([0, 0, 254])[:, None, None])
        write(root / f"segmim/segmim_{number:05d}.jpg", encoded(segmented.transpose(1, 2, 0), quality=95))
    numbers, instances = np.arange(1, len(drawn) + 1, dtype=np.uint16), np.array([instance for _, instance in drawn])
    splits = dict(trnid=instances < 10, valid=(instances >= 10) & (instances < 20), tstid=instances >= 20)
    savemat(root / "imagelabels.mat", {"labels": np.uint8([[one.label + 1 for one, _ in drawn]])})
    savemat(root / "setid.mat", {name: numbers[chosen] for name, chosen in splits.items()})
    return root
