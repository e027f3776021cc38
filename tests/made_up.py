"""Makers of tiny picture sets and models, so that a test trains in a second."""

import dataclasses

import numpy as np
import pandas as pd
import torch

from common.backbones import EmbeddingNet
from common.config import setup
from common.datasets.images import ImageSet

torch.set_num_threads(1)  # pictures of 32 pixels gain nothing from more, and the machine may be shared
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
