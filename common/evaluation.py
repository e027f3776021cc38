"""A model's report: the metrics of one split as rows with intervals, ready for the ledger."""

import numpy as np
import pandas as pd

from common.images import ImageSet
from common.metrics import (
    Threshold,
    bootstrap,
    cosine_scores,
    pair_weights,
    retrieval,
    roc_auc,
    verification_rates,
)


def pair_auc(model, image_set: ImageSet, pairs) -> float:
    """ROC-AUC of a model's cosine scores on int pairs (P, 3); what training validates on."""
    return roc_auc(cosine_scores(embed_all(model, image_set, pairs[:, :2]), pairs), pairs[:, 2])


def embed_all(model, image_set: ImageSet, indices) -> np.ndarray:
    """Embed the pictures `indices` name, once each: float32 (N, D), rows of zeros for all others."""
    from common.backbones import embed  # needed here only, and timm takes seconds to load

    indices = np.unique(indices)
    some = embed(model, image_set.images[indices])
    embeddings = np.zeros((len(image_set), some.shape[1]), np.float32)
    embeddings[indices] = some
    return embeddings


def verification_report(scores, pairs, threshold: Threshold, rounds: int = 200) -> pd.DataFrame:
    """ROC-AUC, EER and accuracies of pair scores, with intervals over pictures.

    Args:
        scores: float (P,), higher is more similar.
        pairs: int (P, 3): first, second, same.
        threshold: fitted on another split; there is no way to fit one here.
        rounds: bootstrap draws.

    Returns:
        Rows of metric, value, low, high, n (pairs), threshold_from.
    """
    same = pairs[:, 2]
    _, compact = np.unique(pairs[:, :2], return_inverse=True)
    compact = compact.reshape(-1, 2)
    rates = verification_rates(scores, same, threshold)
    low, high = bootstrap(
        lambda weights: list(verification_rates(scores, same, threshold, pair_weights(weights, compact)).values()),
        compact.max() + 1,
        rounds,
    )
    report = pd.DataFrame({"metric": list(rates), "value": list(rates.values()), "low": low, "high": high})
    judged = report["metric"].str.startswith("accuracy")
    return report.assign(n=len(pairs), threshold_from=np.where(judged, threshold.fitted_on, ""))


def difference(first, second, pairs, measure=roc_auc, rounds: int = 200) -> dict[str, float]:
    """How much more one approach scores than another, paired over pictures and seeds.

    Args:
        first, second: float (S, P), the pair scores of S seeds of each approach.
        pairs: int (P, 3): first, second, same.
        measure: `roc_auc` or another measure of scores, same and weights.
        rounds: bootstrap draws; each draws pictures and seeds, the same ones for both approaches.

    Returns:
        "value", "low", "high" of the mean over seeds of measure(first) - measure(second). An interval
        that holds 0 means: no difference seen (protocol rule 8).
    """
    pictures, compact = np.unique(pairs[:, :2], return_inverse=True)
    compact, generator = compact.reshape(-1, 2), np.random.default_rng(0)

    def gap(seeds, weights):
        gaps = [measure(first[s], pairs[:, 2], weights) - measure(second[s], pairs[:, 2], weights) for s in seeds]
        return float(np.mean(gaps))

    seeds = np.arange(len(first))
    low, high = bootstrap(
        lambda weights: gap(generator.choice(seeds, len(seeds)), pair_weights(weights, compact)), len(pictures), rounds
    )
    return {"value": gap(seeds, None), "low": low, "high": high}


def retrieval_report(embeddings, labels, rounds: int = 1000) -> pd.DataFrame:
    """P@1, R-precision and MAP@R of embeddings (N, D) with labels (N,), with intervals over queries.

    Returns:
        Rows of metric, value, low, high, n (queries), threshold_from (empty).
    """
    return pd.DataFrame([_mean_row(metric, values, rounds) for metric, values in retrieval(embeddings, labels).items()])


def class_report(predicted, labels, rounds: int = 1000) -> pd.DataFrame:
    """Share of pictures given their right species, as one row "class_accuracy" with its interval."""
    return pd.DataFrame([_mean_row("class_accuracy", np.equal(predicted, labels).astype(float), rounds)])


def _mean_row(metric, values, rounds):
    values = values[np.isfinite(values)]
    low, high = bootstrap(lambda weights: np.average(values, weights=weights), len(values), rounds)
    return dict(metric=metric, value=values.mean(), low=low, high=high, n=len(values), threshold_from="")
