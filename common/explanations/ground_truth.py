"""Ground truth by re-rendering: the same flower without a part, with one factor changed, or with a planted shortcut."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.backbones import evaluation_mode
from common.datasets.batches import as_float
from common.datasets.images import PARTS, ImageSet
from common.evaluation.metrics import bootstrap
from common.explanations.maps import embeddings
from common.flowers.painting import rgb
from common.flowers.rendering import render
from common.flowers.species import BACKGROUNDS, COLORS, Species, species_table

REMOVALS = {"petals": "petal", "center": "center", "leaves": "leaf"}  # what `render` leaves out -> part of the mask


def concept_pictures(species: Sequence[Species], size: int, each: int, seed: int = 0, **factors) -> np.ndarray:
    """Pictures of species whose factors are set, all else as it was: two calls differ in those factors only.

    Args:
        species: to draw, one after another.
        size: pixels.
        each: pictures of a species.
        seed: of the first picture; equal seeds give equal circumstances, picture by picture.
        factors: of `Species`, such as petals=5, outline="heart", disc=0.4 or colors=("blue",); or background="sky".

    Returns:
        uint8 (len(species) * each, 3, size, size).
    """
    background = factors.pop("background", None)
    changed = [replace(one, **factors) for one in species]
    pairs = [(one, instance) for one in changed for instance in range(seed, seed + each)]
    return np.stack([render(one, instance, size, background=background).image for one, instance in pairs])


def interventions(species: Species, instance: int, size: int) -> dict[str, tuple[str, np.ndarray]]:
    """One flower again, each time with one thing changed.

    Args:
        species, instance, size: of the picture, as `render` takes them.

    Returns:
        Name -> (the part in PARTS that was touched, the new picture uint8 (3, size, size)): without its petals, its
        center or its leaves, petals in the color farthest round the list, another background. What changes no pixel
        (leaves that are not seen) is left out.
    """
    picture = render(species, instance, size)
    color, background = picture.factors["color"], picture.factors["background"]
    changes = {f"no {what}": (part, dict(without=what)) for what, part in REMOVALS.items()}
    changes["other color"] = ("petal", dict(recolor=_farthest(COLORS, color)))
    changes["other background"] = ("background", dict(background=_farthest(BACKGROUNDS, background)))
    made = {name: (part, render(species, instance, size, **change).image) for name, (part, change) in changes.items()}
    return {name: (part, image) for name, (part, image) in made.items() if (image != picture.image).any()}


def flowers_of(image_set: ImageSet, indices, seed: int = 0) -> list[tuple[Species, int]]:
    """Species and instance of rendered pictures, as `render` takes them; `seed` is that of their table of species."""
    table, instances = species_table(len(image_set.class_names), seed), image_set.factors["instance"].to_numpy()
    return [(table[image_set.labels[index]], int(instances[index])) for index in indices]


def intervention_effects(model, flowers: Sequence[tuple[Species, int]], others: Tensor) -> pd.DataFrame:
    """By how much the score of each pair falls when one thing of its first flower is changed.

    Args:
        model: has `score_embeddings`.
        flowers: species and instance of each first picture, as `render` takes them.
        others: float (N, 3, H, W) in [0, 1], the second pictures; flowers are rendered in their size.

    Returns:
        Rows of picture (0 to N - 1), intervention, part and drop; see `interventions`.
    """
    rows, images, size = [], [], others.shape[-1]
    for picture, (species, instance) in enumerate(flowers):
        for name, (part, image) in _versions(species, instance, size).items():
            rows.append({"picture": picture, "intervention": name, "part": part})
            images.append(image)
    table = pd.DataFrame(rows)
    first = embeddings(model, as_float(torch.from_numpy(np.stack(images))).to(others.device))
    with evaluation_mode(model):
        second = embeddings(model, others)[table["picture"].tolist()]
        table["score"] = model.score_embeddings(first, second).cpu().numpy()
    before = table[table["part"] == ""].set_index("picture")["score"]
    table = table[table["part"] != ""].reset_index(drop=True)
    table["drop"] = table["picture"].map(before) - table.pop("score")
    return table


@lru_cache(maxsize=64)
def _versions(species: Species, instance: int, size: int) -> dict[str, tuple[str, np.ndarray]]:
    """A flower as it is and changed; kept, since drawing takes longer than asking one more model."""
    return {"as it is": ("", render(species, instance, size).image), **interventions(species, instance, size)}


def part_mass(maps, parts) -> np.ndarray:
    """Share of each map's positive relevance on each part.

    Args:
        maps: float (N, H, W).
        parts: uint8 (N, H, W), indices into PARTS.

    Returns:
        float (N, len(PARTS)), rows that sum to 1 (to 0 for a map without a positive value).
    """
    positive = np.maximum(np.asarray(maps, float), 0)
    total = np.maximum(positive.sum((1, 2)), np.finfo(float).tiny)
    return np.stack([(positive * (parts == part)).sum((1, 2)) / total for part in range(len(PARTS))], 1)


def agreement(effects: pd.DataFrame, mass, rounds: int = 500) -> dict[str, float]:
    """Whether the parts a map names are those the score hangs on: rank correlation over pictures and interventions.

    Args:
        effects: rows of picture (0 to N - 1), part (in PARTS) and drop, by how much the intervention lowered the score.
        mass: float (N, len(PARTS)), see `part_mass`.
        rounds: bootstrap draws, of pictures.

    Returns:
        value (Spearman's correlation of drop with the mass on the part), low, high, n (pictures).
    """
    low, high = bootstrap(lambda weights: rank_agreement(effects, mass, weights), len(mass), rounds)
    return {"value": rank_agreement(effects, mass), "low": float(low), "high": float(high), "n": len(mass)}


def rank_agreement(effects: pd.DataFrame, mass, weights=None) -> float:
    """Spearman's correlation of `agreement`, each picture counted as often as whole `weights` (N,) say."""
    parts = effects["part"].map(PARTS.index).to_numpy()
    pictures, drop = effects["picture"].to_numpy(), effects["drop"].to_numpy()
    on_part = np.asarray(mass)[pictures, parts]
    times = np.ones(len(drop), int) if weights is None else weights[pictures].astype(int)
    rows = np.repeat(np.arange(len(drop)), times)
    return pd.Series(drop[rows]).corr(pd.Series(on_part[rows]), "spearman")


def plant_square(
    images, labels, share: float = 0.25, seed: int = 0, colors: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Put a square into a corner of each picture, in a color that gives the label away: a shortcut to be found out.

    Args:
        images: uint8 (N, 3, H, W), left as they are.
        labels: int (N,), 0 or more; each has a color of its own, evenly spread round the color wheel.
        share: side of the square, of the picture's shorter side.
        seed: of the corners, so that place alone gives nothing away.
        colors: on the wheel, if that is more than the labels here show.

    Returns:
        The pictures uint8 (N, 3, H, W), and where the square is, bool (N, H, W).
    """
    planted, labels = np.array(images), np.asarray(labels)
    count, _, high, wide = planted.shape
    side = max(1, round(share * min(high, wide)))
    where = np.zeros((count, high, wide), bool)
    for square, (down, right) in zip(where, np.random.default_rng(seed).integers(0, 2, (count, 2)), strict=True):
        square[down * (high - side) :, right * (wide - side) :][:side, :side] = True
    shown = np.stack([rgb(label / (colors or labels.max() + 1), 1, 1) for label in labels])
    return np.where(where[:, None], shown.astype(np.uint8)[:, :, None, None], planted), where


def _farthest(names: Sequence[str], name: str) -> str:
    names = list(names)
    return names[(names.index(name) + len(names) // 2) % len(names)]
