"""One model's explanations graded as functions of drawn pictures, so that two models are compared on the same draws."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor, nn

from common.datasets.images import PARTS
from common.evaluation.metrics import bootstrap
from common.explanations.faithfulness import area, curve
from common.explanations.ground_truth import intervention_effects, part_mass, rank_agreement
from common.explanations.integrated_gradients import along_path
from common.explanations.localization import relevance_mass
from common.explanations.maps import PairScore, embeddings, enlarge

FLOWER = PARTS.index("petal")  # a mask's values from here on are the flower


def graded(model: nn.Module, first: Tensor, second: Tensor, parts=None, flowers: Sequence = ()) -> dict[str, Callable]:
    """Explain first pictures by integrated gradients, and rate the maps by all that is known of the pictures.

    Args:
        model: has `score_embeddings`.
        first, second: float (N, 3, H, W) in [0, 1], pairs of the same species.
        parts: uint8 (N, H, W), part masks of the first pictures; without them two measures are left out.
        flowers: species and instance of each first picture if it was rendered; else its measure is left out.

    Returns:
        Metric -> measure, which takes how often each picture counts, whole numbers (N,): "insertion_area",
        "deletion_area", "relevance_mass" (on the flower) and "intervention_agreement".
    """
    score = PairScore(model, embeddings(model, second))
    maps = enlarge(along_path(score, first), first.shape[2:])
    inserted, deleted = (curve(score, first, maps, insert) for insert in (True, False))
    found = {
        "insertion_area": lambda weights: area(inserted, True, weights),
        "deletion_area": lambda weights: area(deleted, False, weights),
    }
    if parts is not None:
        mass = relevance_mass(maps, np.asarray(parts) >= FLOWER)
        found["relevance_mass"] = lambda weights: float(np.average(mass, weights=weights))
    if len(flowers):
        effects, shares = intervention_effects(model, flowers, second), part_mass(maps, parts)
        found["intervention_agreement"] = lambda weights: rank_agreement(effects, shares, weights)
    return found


def grades(measures: dict[str, Callable], pictures: int, rounds: int = 200) -> pd.DataFrame:
    """Measures of `graded` with their bootstrap intervals over pictures.

    Args:
        measures: metric -> measure of weights (N,).
        pictures: N.
        rounds: bootstrap draws.

    Returns:
        Rows of metric, value, low, high, n.
    """
    rows = []
    for metric, measure in measures.items():
        low, high = bootstrap(measure, pictures, rounds)
        value = float(measure(np.ones(pictures)))
        rows.append({"metric": metric, "value": value, "low": float(low), "high": float(high), "n": pictures})
    return pd.DataFrame(rows)


def differences(one: dict, other: dict, pictures: int, rounds: int = 200) -> pd.DataFrame:
    """How much more one model's measures are than another's of the same pairs: a paired bootstrap (protocol rule 20).

    Arguments and rows as of `grades`; an interval that holds 0 means: no difference seen.
    """
    gaps = {metric: partial(_gap, one[metric], other[metric]) for metric in one}
    return grades(gaps, pictures, rounds)


def _gap(one: Callable, other: Callable, weights) -> float:
    return one(weights) - other(weights)
