"""Ground truth by re-rendering: a thing of a flower is changed, or a shortcut planted, and explanations are graded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.backbones import embed, evaluation_mode
from common.datasets.images import ImageSet
from common.evaluation.metrics import interval
from common.explanations.faithfulness import area, curve
from common.explanations.localization import relevance_mass
from common.explanations.maps import PairScore, enlarge, integrated_gradients
from common.flowers.painting import rgb
from common.flowers.rendering import REMOVABLE, render
from common.flowers.species import BACKGROUNDS, COLORS, PARTS, PETAL, Species, species_table

UNCHANGED = "as it is"


def concept_pictures(species: Sequence[Species], size: int, each: int, seed: int = 0, **factors) -> np.ndarray:
    """Pictures of species whose factors are set, all else as it was: two calls differ in those factors only.

    `factors` are those of `Species`, such as petals=5, outline="heart", disc=0.4 or colors=("blue",); or
    background="sky". Equal seeds give equal circumstances, picture by picture. Returns uint8 (N, 3, size, size), `each`
    pictures of every species.
    """
    background = factors.pop("background", None)
    changed = [replace(one, **factors) for one in species]
    pairs = [(one, instance) for one in changed for instance in range(seed, seed + each)]
    return np.stack([render(one, instance, size, background=background).image for one, instance in pairs])


def flowers_of(image_set: ImageSet, indices, seed: int = 0) -> list[tuple[Species, int]]:
    """Species and instance of rendered pictures, as `render` takes them; `seed` is that of their table of species."""
    table, instances = species_table(len(image_set.class_names), seed), image_set.factors["instance"].to_numpy()
    return [(table[image_set.labels[index]], int(instances[index])) for index in indices]


@lru_cache(maxsize=64)  # drawing takes longer than asking one more model
def interventions(species: Species, instance: int, size: int) -> dict[str, tuple[str, np.ndarray]]:
    """One flower as it is, and again, each time with one thing changed.

    Returns:
        Name -> (the part in PARTS that was touched, the picture uint8 (3, size, size)): UNCHANGED (no part); without
        petals, center or leaves; petals in the color farthest round the list; another background. What changes no
        pixel (leaves that are not seen) is left out.
    """
    picture = render(species, instance, size)
    changes = {f"no {what}": (PARTS[part], dict(without=what)) for what, part in REMOVABLE.items()}
    changes["other color"] = ("petal", dict(recolor=_farthest(tuple(COLORS), picture.factors["color"])))
    changes["other background"] = ("background", dict(background=_farthest(BACKGROUNDS, picture.factors["background"])))
    made = {name: (part, render(species, instance, size, **change).image) for name, (part, change) in changes.items()}
    seen = {name: (part, image) for name, (part, image) in made.items() if (image != picture.image).any()}
    return {UNCHANGED: ("", picture.image), **seen}


def intervention_effects(model, flowers: Sequence[tuple[Species, int]], others: Tensor) -> pd.DataFrame:
    """By how much the score of each pair falls when one thing of its first flower is changed; `others` are the second.

    Rows of picture (0 to N - 1), intervention, part and drop; see `flowers_of` and `interventions`.
    """
    versions = [interventions(*flower, others.shape[-1]) for flower in flowers]
    rows = [(picture, name, part) for picture, made in enumerate(versions) for name, (part, _) in made.items()]
    table = pd.DataFrame(rows, columns=["picture", "intervention", "part"])
    first = embed(model, np.stack([image for made in versions for _, image in made.values()]))
    with evaluation_mode(model) as device:
        second = model(others)[table["picture"].tolist()]
        score = model.score_embeddings(torch.from_numpy(first).to(device), second).cpu().numpy()
    unchanged = table["intervention"] == UNCHANGED
    table["drop"] = score[unchanged][table["picture"]] - score
    return table[~unchanged].reset_index(drop=True)


def part_mass(maps, parts) -> np.ndarray:
    """Share of the positive relevance of each map (N, H, W) on each part of its mask (N, H, W): (N, len(PARTS))."""
    positive = np.maximum(np.asarray(maps, float), 0)
    total = np.maximum(positive.sum((1, 2)), np.finfo(float).tiny)
    return np.stack([(positive * (parts == part)).sum((1, 2)) / total for part in range(len(PARTS))], 1)


def rank_agreement(effects: pd.DataFrame, mass, weights=None) -> float:
    """Whether the parts a map names are those the score hangs on: Spearman's correlation of drop with mass on the part.

    Of `intervention_effects` and `part_mass`. The changes of each picture are ranked among themselves, so that easy
    pictures do not vouch for hard ones, and the correlations are averaged over pictures; one whose drops or masses
    are all equal has none. `weights` (R, N) say how often each picture counts, and give a mean each.
    """
    on_part = np.asarray(mass)[effects["picture"], effects["part"].map(PARTS.index)]
    ranks = effects.assign(mass=on_part).groupby("picture")[["drop", "mass"]].rank()
    alike = {picture: one["drop"].corr(one["mass"]) for picture, one in ranks.groupby(effects["picture"])}
    alike = pd.Series(alike).dropna()
    if weights is None:
        return float(alike.mean())
    counted = np.asarray(weights, float)[:, alike.index]
    total = counted.sum(1)  # 0 where all pictures resampled have no correlation
    return np.where(total > 0, counted @ alike.to_numpy() / np.where(total > 0, total, 1), np.nan)


def graded(model: nn.Module, first: Tensor, second: Tensor, parts=None, flowers=(), maps=None) -> dict[str, Callable]:
    """Rate maps (N, H, W) of the first pictures (default: integrated gradients) by all that is known of these.

    Returns:
        Metric -> measure of how often each picture counts, whole numbers (R, N): "insertion_area" and
        "deletion_area"; "relevance_mass" on the flower, if part masks (N, H, W) of the first pictures are given; and
        "intervention_agreement", if also their `flowers` are, as of `flowers_of`.
    """
    score = PairScore(model, second)
    maps = enlarge(integrated_gradients(score, first), first.shape[2:]) if maps is None else maps
    found = {
        "insertion_area": partial(area, curve(score, first, maps, True), True),
        "deletion_area": partial(area, curve(score, first, maps, False), False),
    }
    if parts is not None:
        mass = relevance_mass(maps, np.asarray(parts) >= PETAL)  # from there on a mask's values are the flower
        found["relevance_mass"] = lambda weights: weights @ mass / weights.sum(1)
    if len(flowers):
        effects = intervention_effects(model, flowers, second)
        found["intervention_agreement"] = partial(rank_agreement, effects, part_mass(maps, parts))
    return found


def grades(measures: dict[str, Callable], pictures: int, rounds: int = 200) -> pd.DataFrame:
    """Rows of metric, value, low, high, n: the measures of `graded` over so many pictures."""
    return pd.DataFrame({"metric": name, **interval(one, pictures, rounds)} for name, one in measures.items())


def differences(one: dict, other: dict, pictures: int, rounds: int = 200) -> pd.DataFrame:
    """How much more one model's measures are than another's of the same pairs: a paired bootstrap (protocol rule 20).

    Rows as of `grades`; an interval that holds 0 means: no difference seen.
    """
    gaps = {metric: lambda weights, name=metric: one[name](weights) - other[name](weights) for metric in one}
    return grades(gaps, pictures, rounds)


def plant_square(images, labels, share: float = 0.25, seed: int = 0, colors: int | None = None):
    """Put a square into a corner of each picture, in a color that gives the label away: a shortcut to be found out.

    Each label has a color of its own, evenly spread round a wheel of `colors` (default: as many as labels); `share` is
    the square's side in those of the picture; the corner is random, so that place alone gives nothing away. Returns the
    new pictures, and where the square is, bool (N, H, W).
    """
    labels = np.asarray(labels)
    count, _, high, wide = np.shape(images)
    side = max(1, round(share * min(high, wide)))
    where = np.zeros((count, high, wide), bool)
    for square, (down, right) in zip(where, np.random.default_rng(seed).integers(0, 2, (count, 2)), strict=True):
        square[down * (high - side) :, right * (wide - side) :][:side, :side] = True
    shown = np.stack([rgb(label / (colors or labels.max() + 1), 1, 1) for label in labels])
    return np.where(where[:, None], shown.astype(np.uint8)[:, :, None, None], images), where


def _farthest(names: Sequence[str], name: str) -> str:
    return names[(names.index(name) + len(names) // 2) % len(names)]
