"""A model's report under attack: scores of attacked pairs and their metrics, behind the gate of protocol rule 13."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from common.attacks.gradient import pgd
from common.backbones import evaluation_mode
from common.datasets.batches import pair_batch
from common.datasets.images import ImageSet
from common.evaluation.metrics import Threshold, roc_auc
from common.evaluation.reports import verification_report

GATE = 0.80  # a model below this clean AUC has nothing to lose, so its robustness figures would mislead
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
BATCH = 32  # pairs attacked at a time; on a CPU larger batches take longer for each pair
clean = partial(pgd, eps=0.0, steps=0, restarts=1)


def attacked_scores(model, image_set: ImageSet, pairs, attack: Callable = clean) -> np.ndarray:
    """Scores of pairs under attack(model, first, second, same), such as `partial(pgd, eps=4 / 255)`; default: none."""
    with evaluation_mode(model) as device:
        chunks = (pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH))
        found = [attack(model, *pair_batch(image_set, chunk, device)).scores.float().cpu() for chunk in chunks]
    return np.concatenate(found)


def transfer_table(models: dict, first, second, same, attack: Callable) -> pd.DataFrame:
    """ROC-AUC of each model, a column, on what `attack` made to hurt each, a row; the first row, "none", is clean.

    `models` maps names to models; `attack` is called as in `attacked_scores`.
    """
    shown = {"none": (first, second)}
    shown |= {name: attack(model, first, second, same)[:2] for name, model in models.items()}
    table = pd.DataFrame(index=[*shown], columns=[*models], dtype=float)
    for judge, model in models.items():
        with evaluation_mode(model):
            scores = [model.score(*pictures).float().cpu().numpy() for pictures in shown.values()]
        table[judge] = [roc_auc(found, same.cpu().numpy()) for found in scores]
    return table


def robust_report(
    model, image_set: ImageSet, pairs, threshold: Threshold, eps: Sequence[float] = RADII, steps: int = 20,
    restarts: int = 3, which: str = "first",
) -> pd.DataFrame:  # fmt: skip
    """Pair metrics without attack and under PGD, at the model's own frozen threshold (protocol rules 12 and 13).

    Returns the rows of `verification_report` for each radius in `eps`, with the ledger's columns attack ("pgd",
    "pgd_both" or, without attack, none) and eps_255. If the clean AUC is below 0.80, the clean rows alone, and a
    warning.
    """
    scores = attacked_scores(model, image_set, pairs)
    reports = [verification_report(scores, pairs, threshold).assign(attack=None, eps_255=0.0)]
    area = roc_auc(scores, pairs[:, 2])
    if area < GATE:
        warnings.warn(
            f"the clean AUC is {area:.3f}, below {GATE:.2f}: no robustness is reported for this model; train it longer",
            stacklevel=2,
        )
        return reports[0]
    for radius in eps:
        attack = partial(pgd, eps=radius, steps=steps, restarts=restarts, which=which)
        report = verification_report(attacked_scores(model, image_set, pairs, attack), pairs, threshold)
        name = "pgd" if which == "first" else "pgd_both"
        reports.append(report.assign(attack=name, eps_255=round(radius * 255, 3)))
    return pd.concat(reports, ignore_index=True)
