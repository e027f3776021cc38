"""A model's report under attack: scores of attacked pairs and their metrics, behind the gate of protocol rule 13."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from common.attacks.gradient import pgd
from common.backbones import evaluation_mode
from common.datasets.batches import as_float
from common.datasets.images import ImageSet
from common.evaluation.metrics import Threshold, roc_auc
from common.evaluation.reports import verification_report

GATE = 0.80  # a model below this clean AUC has nothing to lose, so its robustness figures would mislead
clean = partial(pgd, eps=0.0, steps=0, restarts=1)


def attacked_scores(model, image_set: ImageSet, pairs, attack: Callable = clean, batch_size: int = 32) -> np.ndarray:
    """Scores of pairs under attack.

    Args:
        model: attacked on the device it is on.
        image_set: the pictures.
        pairs: int (P, 3): first, second, same.
        attack: called as `attack(model, first, second, same, seed=...)`, such as `partial(pgd, eps=4 / 255)`
            or `partial(transfer, source, eps=4 / 255)`; the default leaves the pictures as they are.
        batch_size: pairs attacked at a time; on a CPU larger batches take longer for each pair.

    Returns:
        float32 (P,).
    """
    device, found = next(model.parameters()).device, []
    for start in range(0, len(pairs), batch_size):
        first, second, same = pair_batch(image_set, pairs[start : start + batch_size], device)
        found.append(attack(model, first, second, same, seed=start).scores.float().cpu().numpy())
    return np.concatenate(found)


def pair_batch(image_set: ImageSet, pairs, device="cpu"):
    """Pictures and labels of pairs (B, 3) as attacks take them: two floats (B, 3, H, W) in [0, 1], int (B,)."""
    pairs = np.asarray(pairs)
    pictures = (torch.from_numpy(np.array(image_set.images[pairs[:, side]])) for side in (0, 1))
    first, second = (as_float(batch.to(device)) for batch in pictures)
    return first, second, torch.as_tensor(pairs[:, 2], device=device)


def transfer_table(models: dict, first, second, same, attack: Callable) -> pd.DataFrame:
    """ROC-AUC of each model on what was made to hurt each other one.

    Args:
        models: name -> model.
        first, second, same: of `pgd`.
        attack: called as `attack(model, first, second, same)`, such as `partial(pgd, eps=4 / 255)`.

    Returns:
        One row for each model attacked ("made for"), after one of clean pictures ("none"), and one column for each
        model that judges.
    """
    table = pd.DataFrame(index=["none", *models], columns=[*models], dtype=float)
    for made_for in table.index:
        shown = first, second
        if made_for in models:
            shown = attack(models[made_for], first, second, same)[:2]
        for judge, target in models.items():
            with evaluation_mode(target):
                scores = target.score(*shown).float().cpu().numpy()
            table.loc[made_for, judge] = roc_auc(scores, same.cpu().numpy())
    return table


def robust_report(
    model,
    image_set: ImageSet,
    pairs,
    threshold: Threshold,
    eps: Sequence[float] = (1 / 255, 2 / 255, 4 / 255, 8 / 255),
    steps: int = 20,
    restarts: int = 3,
    which: str = "first",
    rounds: int = 200,
) -> pd.DataFrame:
    """Pair metrics without attack and under PGD, at the model's own frozen threshold (protocol rules 12 and 13).

    Args:
        model, image_set, pairs: as in `attacked_scores`.
        threshold: the model's, fitted on clean validation pairs; there is no way to fit one here.
        eps: radii of the attack, in units of [0, 1].
        steps, restarts, which: of `pgd`.
        rounds: bootstrap draws.

    Returns:
        The rows of `verification_report` for each radius, with the ledger's columns attack ("pgd", "pgd_both" or,
        without attack, none) and eps_255. If the clean AUC is below 0.80, the clean rows alone, and a warning.
    """
    scores = attacked_scores(model, image_set, pairs)
    reports = [verification_report(scores, pairs, threshold, rounds).assign(attack=None, eps_255=0.0)]
    area = roc_auc(scores, pairs[:, 2])
    if area < GATE:
        warnings.warn(
            f"the clean AUC is {area:.3f}, below {GATE:.2f}: no robustness is reported for this model; train it longer",
            stacklevel=2,
        )
        eps = ()
    for radius in eps:
        attack = partial(pgd, eps=radius, steps=steps, restarts=restarts, which=which)
        scores = attacked_scores(model, image_set, pairs, attack)
        report = verification_report(scores, pairs, threshold, rounds)
        name = "pgd" if which == "first" else "pgd_both"
        reports.append(report.assign(attack=name, eps_255=round(radius * 255, 3)))
    return pd.concat(reports, ignore_index=True)
