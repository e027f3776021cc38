"""Curves of pair scores: what each threshold gives, and whether probabilities mean what they say."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from common.evaluation.metrics import Threshold, accuracy_by_kind, equal_error_rate, roc_auc
from common.plotting import finish


def roc(curves: dict, title: str, threshold: Threshold | None = None) -> Figure:
    """ROC curves with their areas; a dot marks each equal error rate.

    Args:
        curves: name -> scores (P,) and same (P,).
        title: of the figure.
        threshold: marked on the first curve, where it decides.
    """
    figure, axis = plt.subplots(figsize=(6, 5.8))
    for name, (scores, same) in curves.items():
        error = equal_error_rate(scores, same)
        label = f"{name}: AUC {roc_auc(scores, same):.3f}, equal error rate {error:.3f}"
        (line,) = axis.plot(*roc_curve(same, scores)[:2], label=label)
        axis.plot(error, 1 - error, "o", color=line.get_color())
    axis.plot([0, 1], [0, 1], ":", color="gray", label="chance")
    axis.plot([0, 1], [1, 0], "-", color="lightgray", linewidth=1, zorder=0, label="errors of both kinds equal (dots)")
    if threshold:
        on_same, on_different = accuracy_by_kind(*next(iter(curves.values())), threshold)
        label = f"threshold {threshold.value:.2f} of {next(iter(curves))}, from {threshold.fitted_on}"
        axis.plot(1 - on_different, on_same, "x", color="black", markersize=10, label=label)
    axis.set(xlabel="false accept rate (share of different pairs)", ylabel="true accept rate (share of same pairs)")
    axis.legend(fontsize=8, loc="lower right")
    return finish(figure, title)


def precision_recall(curves: dict, title: str) -> Figure:
    """Precision over recall, with average precision; dotted what chance gives, the share of same pairs.

    Args:
        curves: name -> scores (P,) and same (P,).
        title: of the figure.
    """
    figure, axis = plt.subplots(figsize=(6, 5.2))
    for name, (scores, same) in curves.items():
        precision, recall, _ = precision_recall_curve(same, scores)
        label = f"{name}: average precision {average_precision_score(same, scores):.3f}"
        axis.plot(recall[:-1], precision[:-1], drawstyle="steps-post", label=label)  # the last point is a convention
    for share in sorted({float(np.mean(same)) for _, same in curves.values()}):
        axis.axhline(share, color="gray", linestyle=":", label=f"chance: {share:.3f} of the pairs are same")
    axis.set(xlabel="recall (share of same pairs called same)", ylabel="precision (share right of pairs called same)")
    axis.set_ylim(0, 1.03)
    axis.legend(fontsize=8)
    return finish(figure, title)


def reliability(probabilities, same, title: str) -> Figure:
    """Calibration diagram in 10 bins: how often pairs are the same that are said to be so with probability p.

    Args:
        probabilities: float (P,) in [0, 1].
        same: (P,), 1 for same, 0 for different.
        title: of the figure.
    """
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(6, 6.4), height_ratios=(3, 1), sharex=True)
    shares, means = calibration_curve(same, probabilities, n_bins=10)
    upper.plot([0, 1], [0, 1], ":", color="gray", label="perfectly calibrated")
    upper.plot(means, shares, marker="o", label="observed")
    upper.set(xlabel="predicted probability of same", ylabel="share of same pairs", ylim=(-0.03, 1.03))
    upper.legend(fontsize=9)
    lower.hist(probabilities, bins=np.linspace(0, 1, 11))
    lower.set(xlabel="predicted probability of same", ylabel="pairs")
    return finish(figure, title)
