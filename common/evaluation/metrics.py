"""What is measured, as pure functions on arrays, and how sure it is: intervals by resampling pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_fscore_support, roc_curve

CHUNK = 50  # rounds of a bootstrap measured at a time, which bounds memory
RESOLUTION = 0.005  # of ROC-AUC: a smaller gap is no reason for a dearer choice, whatever the pairs resolve


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


def spread(embeddings) -> float:
    """Standard deviation of embeddings (N, D) at unit length, mean over dimensions times their square root.

    0 where all are equal, near 1 where they point everywhere, and hardly less where they fill a few directions only: a
    high spread excludes a point, not a plane.
    """
    unit = normalize(embeddings)
    return float(unit.std(0, ddof=1).mean() * unit.shape[1] ** 0.5)


def roc_auc(scores, same, weights=None) -> float:
    """Probability that a same pair outscores a different pair, ties counted half.

    `same` is (P,) of 1 and 0. `weights`, float (P,), say how often each pair counts; where they leave only one kind
    of pair, the result is NaN. Of a matrix of weights (R, P), here and below, each row gives one result: (R,).

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
    lower = thresholds[best + 1]  # never the last, which accepts all: the first, which accepts none, is as good
    upper = min(thresholds[best], np.max(scores) + 1)  # the first threshold is infinite
    return Threshold(float(upper + lower) / 2, split)


def first_near_best(areas):
    """The name of the first entry of a Series of ROC-AUCs that is at most `RESOLUTION` behind the best.

    So small a gap leaves the choice to the entries' order, simplest or cheapest first, not to the last
    digits, which differ from machine to machine: the same choice for everybody (protocol rule 21).
    """
    return areas.index[areas >= areas.max() - RESOLUTION][0]


def accuracy(scores, same, threshold: Threshold, weights=None) -> float:
    """Balanced share of pairs judged rightly: the mean of the shares on same and on different pairs."""
    return sum(accuracy_by_kind(scores, same, threshold, weights)) / 2


def accuracy_by_kind(scores, same, threshold: Threshold, weights=None) -> tuple[float, float]:
    """Shares of same pairs and of different pairs judged rightly at a threshold fitted elsewhere."""
    _check_pairs(scores, same)
    scores, same = np.asarray(scores, float), np.asarray(same).astype(bool)
    right = (scores >= threshold.value) == same
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    counts = [weights @ kind.astype(float) for kind in (same, ~same)]
    some = (counts[0] > 0) & (counts[1] > 0)  # else nothing can be measured
    found = ((weights @ (right & kind).astype(float)) / np.where(some, n, 1) for kind, n in zip((same, ~same), counts))
    return tuple(np.where(some, share, np.nan)[()] for share in found)


def precision_recall_f1(scores, same, threshold: Threshold) -> dict[str, float]:
    """Precision, recall and F1 of saying "same", at a threshold fitted elsewhere.

    Precision is 0 where no pair is called same. Unlike `accuracy`, precision and F1 depend on the share of same pairs.
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

    Here and below hits is bool (Q, N), whether what is found is of the query's class, the most similar first; R, int
    (Q,), is how many the gallery holds of that class, N at most.
    """
    return hits[:, 0]


def r_precision(hits, R) -> np.ndarray:
    """Share of the query's class among the R closest: (Q,)."""
    return _within(hits, R).sum(1) / R


def map_at_r(hits, R) -> np.ndarray:
    """Mean over the R closest of the precision at each hit (Musgrave et al. 2020, A Metric Learning Reality Check)."""
    return _sum_of_precisions(_within(hits, R)) / R


def average_precision(hits) -> np.ndarray:
    """Mean over all hits of the precision up to each: (Q,)."""
    return _sum_of_precisions(hits) / hits.sum(1)


def _sum_of_precisions(hits) -> np.ndarray:
    return (np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1) * hits).sum(1)


def _within(hits, R) -> np.ndarray:
    depth = np.arange(R.max(initial=0))
    return hits[:, depth] & (depth < R[:, None])


def interval(measure: Callable, pictures: int, rounds: int = 1000, seed: int = 0) -> dict:
    """A measure with its 95 % interval, by resampling pictures with replacement: the bootstrap (protocol rule 8).

    Equal seeds resample equal pictures, which pairs two approaches.

    Args:
        measure: takes float weights (R, N), how often each picture counts in each of R rounds; returns a number, or
            an array of them, for each: (R, ...).
        pictures: N.

    Returns:
        "value", where every picture counts once; "low" and "high", the 2.5 % and 97.5 % quantiles over the resamples,
        without those where the measure is NaN; "n", the pictures. The first three are shaped as one round's measure.
    """
    generator, share = np.random.default_rng(seed), np.full(pictures, 1 / pictures)
    chunks = [min(CHUNK, rounds - start) for start in range(0, rounds, CHUNK)]
    values = [measure(generator.multinomial(pictures, share, size).astype(float)) for size in chunks]
    low, high = np.nanquantile(np.concatenate(values), [0.025, 0.975], axis=0)
    return {"value": measure(np.ones((1, pictures)))[0], "low": low, "high": high, "n": pictures}


def mean_interval(values, rounds: int = 1000, seed: int = 0) -> dict:
    """`interval` of the mean of float (N,) over pictures; those whose value is not finite are left out."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("no value is finite: there is nothing to average")
    return interval(lambda weights: weights @ values / len(values), len(values), rounds, seed)


def told(measured) -> str:
    """A value and its interval, as of `interval`, in words: "0.61 [0.44, 0.74]"."""
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**measured)


def pair_interval(measure: Callable, pairs, rounds: int = 1000, seed: int = 0) -> dict:
    """`interval` of a measure of weights (R, P) of pairs; "n" counts the pairs.

    Pictures are resampled, not pairs, since pairs that share a picture are not independent. A pair counts as often as
    its two pictures meet: the product of their weights.
    """
    pictures, places = np.unique(pairs[:, :2], return_inverse=True)
    first, second = places.reshape(-1, 2).T
    found = interval(lambda weights: measure(weights[:, first] * weights[:, second]), len(pictures), rounds, seed)
    return {**found, "n": len(pairs)}


def pair_mean_interval(values, pairs, rounds: int = 1000, seed: int = 0) -> dict:
    """`pair_interval` of the mean of values (P,), one for each of the pairs."""
    values = np.asarray(values, float)
    return pair_interval(lambda weights: weights @ values / weights.sum(1), pairs, rounds, seed)


def _auc_and_eer(scores, same, weights) -> tuple[float, float]:
    """Both from one ROC curve, by hand: an interval takes hundreds, and scikit-learn's checks most of the time."""
    _check_pairs(scores, same)
    scores, same = np.asarray(scores, float), np.asarray(same, float)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are accepted together
    accepts, hits = (np.cumsum((weights * kind)[..., order], -1)[..., ends] for kind in (1 - same, same))
    some = (accepts[..., -1:] > 0) & (hits[..., -1:] > 0)  # with one kind only nothing can be measured
    start = np.zeros((*weights.shape[:-1], 1))
    accepts, hits = (np.concatenate([start, n / np.where(some, n[..., -1:], 1)], -1) for n in (accepts, hits))
    area = np.sum(np.diff(accepts) * (hits[..., 1:] + hits[..., :-1]), -1) / 2
    behind = accepts - (1 - hits)  # false accepts less false rejects: from -1 up to 1
    crossed = np.argmax(behind >= 0, -1)[..., None]  # from here on false accepts are no rarer than false rejects
    before, after = (np.take_along_axis(behind, crossed - shift, -1) for shift in (1, 0))
    lower, upper = (np.take_along_axis(accepts, crossed - shift, -1) for shift in (1, 0))
    error = lower - before / np.where(some, after - before, 1) * (upper - lower)
    return tuple(np.where(some[..., 0], found, np.nan)[()] for found in (area, error[..., 0]))


def _check_pairs(scores, same) -> None:
    scores, same = np.asarray(scores, dtype=float), np.asarray(same)
    if scores.ndim != 1 or scores.shape != same.shape or set(np.unique(same).tolist()) != {0, 1}:
        raise ValueError(f"scores {scores.shape} and same {same.shape} must be (P,), same of both 1 (same) and 0")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
