"""Reports of attacks: metrics of attacked pairs, behind the gate of protocol rule 13."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import torch

from common.attacks.gradient import pgd
from common.backbones import evaluation_mode, folded
from common.config import cores
from common.datasets.batches import pair_batch
from common.datasets.images import ImageSet
from common.evaluation.metrics import Threshold, roc_auc
from common.evaluation.reports import verification_report

GATE = 0.80  # a model below this clean AUC has nothing to lose, so its robustness figures would mislead
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
BATCH = 40  # pairs attacked at a time, at most; on a CPU larger batches take longer for each pair
clean = partial(pgd, eps=0.0, steps=0, restarts=1)


def attacked_scores(model, image_set: ImageSet, pairs, attack: Callable = clean) -> np.ndarray:
    """Scores of pairs under attack(model, first, second, same), such as `partial(pgd, eps=4 / 255)`; default: none."""
    model = folded(model)

    def scores(chunk):
        return attack(model, *pair_batch(image_set, chunk, device)).scores.float().cpu()

    with evaluation_mode(model) as device, idle_cores(device) as pool:
        return np.concatenate([*pool.map(scores, np.array_split(pairs, -(-len(pairs) // BATCH)))])


def idle_cores(device) -> ThreadPoolExecutor:
    """A thread for each core that torch's own threads leave idle, of those it may use; one beside a GPU."""
    return ThreadPoolExecutor(max(1, cores() // torch.get_num_threads()) if device.type == "cpu" else 1)


def scores_under_pgd(
    model, image_set: ImageSet, pairs, eps: Sequence[float] = RADII, steps: int = 20, restarts: int = 3
) -> dict[float, np.ndarray]:
    """Scores of pairs by radius, 0 without attack and each of `eps` under PGD (protocol rules 12 and 13).

    If the clean AUC is below 0.80, the clean ones alone, and a warning.
    """
    found = {0.0: attacked_scores(model, image_set, pairs)}
    area = roc_auc(found[0.0], pairs[:, 2])
    if area < GATE:
        warnings.warn(
            f"the clean AUC is {area:.3f}, below {GATE:.2f}: no robustness is reported for this model; train it longer",
            stacklevel=2,
        )
        return found
    for radius in eps:
        attack = partial(pgd, eps=radius, steps=steps, restarts=restarts)
        found[radius] = attacked_scores(model, image_set, pairs, attack)
    return found


def robust_report(scores: dict, pairs, thresholds: dict[str, Threshold]) -> pd.DataFrame:
    """The rows of `verification_report` for each approach and radius, at each model's own frozen threshold.

    `scores` are approach -> those of `scores_under_pgd`. With the ledger's columns approach, attack and eps_255.
    """
    reports = []
    for approach, by_radius in scores.items():
        for radius, found in by_radius.items():
            about = dict(approach=approach, attack="pgd" if radius else None, eps_255=round(radius * 255, 3))
            reports.append(verification_report(found, pairs, thresholds[approach]).assign(**about))
    return pd.concat(reports, ignore_index=True)
