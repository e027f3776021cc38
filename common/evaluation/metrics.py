"""What is measured, as pure functions on arrays, and how sure it is: intervals by resampling pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_fscore_support, roc_curve

RESOLUTION = 0.005  # of ROC-AUC: what the lists of pairs are made to resolve (protocol rule 3)


@dataclass(frozen=True)
class Threshold:
    """A decision threshold and the split it was fitted on: "same" is said at a score of `value` or more."""

    value: float
    fitted_on: str


def normalize(embeddings) -> np.ndarray:
    """Scale each row to length 1, as float64; a row of zeros stays."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def cosine_scores(embeddings, pairs) -> np.ndarray:
    """Cosine similarity of each pair of rows; 0 where an embedding is all zeros."""
    unit = normalize(embeddings)
    return np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]])


def roc_auc(scores, same, weights=None) -> float:
    """Probability that a same pair outscores a different pair, ties counted half.

    `same` is (P,) of 1 and 0. `weights`, float (P,), say how often each pair counts; where they leave only one kind
    of pair, the result is NaN.

    Raises:
        ValueError: scores that are not finite, or only one kind of pair.
    """
    return _auc_and_eer(scores, same, weights)[0]


def equal_error_rate(scores, same, weights=None) -> float:
    """Error rate where false accepts are as frequent as false rejects; the ROC curve is a line between thresholds."""
    return _auc_and_eer(scores, same, weights)[1]


def fit_threshold(scores, same, split: str) -> Threshold:
    """Find the threshold of the highest balanced accuracy, halfway between two neighboring scores.

    The scores come from the `split` "train" or "validation"; any other is a ValueError (protocol rule 5).
    """
    if split not in ("train", "validation"):
        raise ValueError(f"a threshold is fitted on 'validation' (or 'train'), never on {split!r}")
    _check_pairs(scores, same)
    scores = np.asarray(scores, float)  # float32 has no number halfway between two neighbors
    accepts, hits, thresholds = roc_curve(same, scores, drop_intermediate=False)
    best = int(np.argmax(hits - accepts))
    lower = thresholds[best + 1] if best + 1 < len(thresholds) else thresholds[best] - 1
    upper = min(thresholds[best], np.max(scores) + 1)  # the first threshold is infinite
    return Threshold(float(upper + lower) / 2, split)


def first_near_best(areas):
    """The name of the first entry of a Series of ROC-AUCs that is at most `RESOLUTION` behind the best.

    What the pairs cannot tell apart is decided by the entries' order, simplest or cheapest first, not by the last
    digits, which differ from machine to machine: the same choice for everybody (protocol rule 21).
    """
    return areas.index[areas >= areas.max() - RESOLUTION][0]


def accuracy(scores, same, threshold: Threshold, weights=None) -> float:
    """Balanced share of pairs judged rightly: the mean of the shares on same and on different pairs."""
    return float(np.mean(accuracy_by_kind(scores, same, threshold, weights)))


def accuracy_by_kind(scores, same, threshold: Threshold, weights=None) -> tuple[float, float]:
    """Shares of same pairs and of different pairs judged rightly at a threshold fitted elsewhere."""
    _check_pairs(scores, same)
    scores, same = np.asarray(scores, float), np.asarray(same).astype(bool)
    if _one_sided(same, weights):
        return float("nan"), float("nan")
    right = (scores >= threshold.value) == same
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    by_kind = (np.average(right[kind], weights=weights[kind]) for kind in (same, ~same))
    return tuple(map(float, by_kind))


def precision_recall_f1(scores, same, threshold: Threshold) -> dict[str, float]:
    """Precision, recall and F1 of saying "same", at a threshold fitted elsewhere.

    Precision is 0 where no pair is called same. Unlike `accuracy`, precision and F1 depend on how many of the pairs
    are same.
    """
    _check_pairs(scores, same)
    called = np.asarray(scores, float) >= threshold.value
    found = precision_recall_fscore_support(same, called, average="binary", zero_division=0)
    return dict(zip(("precision", "recall", "f1"), map(float, found)))


def verification_rates(scores, same, threshold: Threshold, weights=None) -> dict[str, float]:
    """All pair metrics at once: roc_auc, eer, accuracy, accuracy_same, accuracy_different."""
    area, error = _auc_and_eer(scores, same, weights)
    on_same, on_different = accuracy_by_kind(scores, same, threshold, weights)
    rates = {"roc_auc": area, "eer": error, "accuracy": (on_same + on_different) / 2}
    return {**rates, "accuracy_same": on_same, "accuracy_different": on_different}


def precision_at_1(hits) -> np.ndarray:
    """Whether the closest picture is of the query's class (Recall@1 in most papers).

    Here and below hits is bool (Q, N), from the most similar picture of the whole gallery on, one or more in each row.
    """
    return hits[:, 0]


def r_precision(hits) -> np.ndarray:
    """Share of the query's class among the R closest, where R is the number of its class in the gallery: (Q,)."""
    return _within_r(hits).sum(1) / hits.sum(1)


def map_at_r(hits) -> np.ndarray:
    """Mean over the R closest of the precision at each hit (Musgrave et al. 2020, A Metric Learning Reality Check)."""
    return _sum_of_precisions(_within_r(hits)) / hits.sum(1)


def average_precision(hits) -> np.ndarray:
    """Mean over all hits of the precision up to each: (Q,)."""
    return _sum_of_precisions(hits) / hits.sum(1)


def _sum_of_precisions(hits) -> np.ndarray:
    return (np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1) * hits).sum(1)


def _within_r(hits) -> np.ndarray:
    depth = np.arange(hits.sum(1).max(initial=0))
    return hits[:, depth] & (depth < hits.sum(1, keepdims=True))


def interval(measure: Callable, pictures: int, rounds: int = 200, seed: int = 0) -> dict:
    """A measure with its 95 % interval, by resampling pictures with replacement: the bootstrap (protocol rule 8).

    Equal seeds resample equal pictures, which pairs two approaches.

    Args:
        measure: takes float weights (N,), how often each picture counts; returns a number, or an array of them.
        pictures: N.

    Returns:
        "value", where every picture counts once; "low" and "high", the 2.5 % and 97.5 % quantiles over the resamples,
        without those where the measure is NaN; "n", the pictures. The first three are shaped as the measure is.
    """
    generator, share = np.random.default_rng(seed), np.full(pictures, 1 / pictures)
    values = [measure(generator.multinomial(pictures, share).astype(float)) for _ in range(rounds)]
    low, high = np.nanquantile(values, [0.025, 0.975], axis=0)
    return {"value": measure(np.ones(pictures)), "low": low, "high": high, "n": pictures}


def mean_interval(values, rounds: int = 200, seed: int = 0) -> dict:
    """`interval` of the mean of float (N,) over pictures; those whose value is not finite are left out."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("no value is finite: there is nothing to average")
    return interval(lambda weights: float(np.average(values, weights=weights)), len(values), rounds, seed)


def pair_interval(measure: Callable, pairs, rounds: int = 200, seed: int = 0) -> dict:
    """`interval` of a measure of weights (P,) of pairs; "n" counts the pairs.

    Pictures are resampled, not pairs, since pairs that share a picture are not independent. A pair counts as often as
    its two pictures meet: the product of their weights.
    """
    pictures, places = np.unique(pairs[:, :2], return_inverse=True)
    first, second = places.reshape(-1, 2).T
    found = interval(lambda weights: measure(weights[first] * weights[second]), len(pictures), rounds, seed)
    return {**found, "n": len(pairs)}


def _one_sided(same, weights) -> bool:
    """Whether the weights leave same pairs only or different pairs only, so that nothing can be measured."""
    return weights is not None and not all(np.asarray(weights)[np.equal(same, kind)].any() for kind in (0, 1))


def _auc_and_eer(scores, same, weights) -> tuple[float, float]:
    """Both from one ROC curve, by hand: an interval takes hundreds, and scikit-learn's checks most of the time."""
    _check_pairs(scores, same)
    if _one_sided(same, weights):
        return float("nan"), float("nan")
    scores, same = np.asarray(scores, float), np.asarray(same, float)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are accepted together
    accepts, hits = (np.cumsum((weights * kind)[order])[ends] for kind in (1 - same, same))
    accepts, hits = (np.concatenate([[0.0], counts / counts[-1]]) for counts in (accepts, hits))
    area = float(np.sum(np.diff(accepts) * (hits[1:] + hits[:-1])) / 2)
    rejects = 1 - hits
    crossed = int(np.argmax(accepts >= rejects))  # from here on false accepts are no rarer than false rejects
    before, after = (rejects - accepts)[crossed - 1], (accepts - rejects)[crossed]
    error = accepts[crossed - 1] + before / (before + after) * (accepts[crossed] - accepts[crossed - 1])
    return area, float(error)


def _check_pairs(scores, same) -> None:
    scores, same = np.asarray(scores, dtype=float), np.asarray(same)
    if scores.ndim != 1 or scores.shape != same.shape or set(np.unique(same).tolist()) != {0, 1}:
        raise ValueError(f"scores {scores.shape} and same {same.shape} must be (P,), same of both 1 (same) and 0")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
