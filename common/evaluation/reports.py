"""A model's report: the metrics of one split as rows with intervals, ready for the ledger."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from common.backbones import embed, evaluation_mode, new_model
from common.config import Config
from common.datasets.images import ImageSet
from common.datasets.splits import Splits
from common.evaluation.metrics import (
    Threshold,
    accuracy,
    bootstrap,
    fit_threshold,
    pair_weights,
    precision_recall_f1,
    roc_auc,
    verification_rates,
)
from common.evaluation.retrieval import cmc, retrieval


def pair_auc(model, image_set: ImageSet, pairs) -> float:
    """ROC-AUC of a model's own scores on int pairs (P, 3); what training validates on."""
    return roc_auc(pair_scores(model, embed_all(model, image_set, pairs[:, :2]), pairs), pairs[:, 2])


def pair_scores(model, embeddings, pairs, chunk: int = 4096) -> np.ndarray:
    """How similar a model finds each pair, by its `score_embeddings` in evaluation mode.

    Args:
        model: what made the embeddings.
        embeddings: float32 array (N, D), one row a picture of the data set.
        pairs: int (P, 2 or more), whose first two columns are row numbers.
        chunk: pairs compared at a time.

    Returns:
        float32 (P,), higher is more similar; cosines for an `EmbeddingNet`.
    """
    with evaluation_mode(model) as device:
        parts = [pairs[start : start + chunk] for start in range(0, len(pairs), chunk)]
        sides = ((torch.from_numpy(embeddings[part[:, side]]).to(device) for side in (0, 1)) for part in parts)
        return torch.cat([model.score_embeddings(*two).float().cpu() for two in sides]).numpy()


def embed_all(model, image_set: ImageSet, indices) -> np.ndarray:
    """Embed the pictures `indices` name, once each: float32 (N, D), rows of zeros for all others."""
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


def decision_report(scores_by_split: dict, pairs_by_split: dict, threshold: Threshold) -> pd.DataFrame:
    """How well one threshold decides on each split: where train is far better than test, the model has overfitted.

    Args:
        scores_by_split: split name -> float (P,), higher is more similar.
        pairs_by_split: split name -> int (P, 3): first, second, same; may name more splits.
        threshold: the same for all splits.

    Returns:
        Rows of split, accuracy (balanced), precision, recall, f1, pairs (their number), threshold_from.
    """
    rows = []
    for split, scores in scores_by_split.items():
        same = pairs_by_split[split][:, 2]
        rates = dict(accuracy=accuracy(scores, same, threshold), **precision_recall_f1(scores, same, threshold))
        rows.append(dict(split=split, **rates, pairs=len(same), threshold_from=threshold.fitted_on))
    return pd.DataFrame(rows)


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


def retrieval_report(embeddings, labels, similarity=None, rounds: int = 1000) -> pd.DataFrame:
    """P@1, R-precision and MAP@R of embeddings (N, D) with labels (N,), with intervals over queries.

    Args:
        embeddings, labels, similarity: as in `retrieval`; a model that is no cosine is asked by its `score_embeddings`.
        rounds: bootstrap draws.

    Returns:
        Rows of metric, value, low, high, n (queries), threshold_from (empty).
    """
    found = retrieval(embeddings, labels, similarity)
    return pd.DataFrame([_mean_row(metric, values, rounds) for metric, values in found.items()])


def reid_report(embeddings, labels, cameras=None, similarity=None, rounds: int = 1000) -> pd.DataFrame:
    """CMC@1, CMC@5, CMC@10 and mean average precision of person re-identification, with intervals over queries.

    Args:
        embeddings, labels, cameras, similarity: as in `cmc`.
        rounds: bootstrap draws.

    Returns:
        Rows "cmc_at_1", "cmc_at_5", "cmc_at_10", "map" of metric, value, low, high, n (queries with a valid match),
        threshold_from (empty).
    """
    found = cmc(embeddings, labels, cameras, similarity=similarity)
    found["map"] = found.pop("average_precision")
    return pd.DataFrame([_mean_row(metric, values, rounds) for metric, values in found.items()])


def named(model, embeddings) -> np.ndarray:
    """The classes that a model's classifier gives to float32 embeddings (N, D): int (N,)."""
    with evaluation_mode(model) as device:
        return model.classify(torch.from_numpy(embeddings).to(device)).argmax(1).cpu().numpy()


def class_report(predicted, labels, rounds: int = 1000) -> pd.DataFrame:
    """Share of pictures given their right species, as one row "class_accuracy" with its interval."""
    return pd.DataFrame([_mean_row("class_accuracy", np.equal(predicted, labels).astype(float), rounds)])


def _mean_row(metric, values, rounds):
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError(f"{metric} cannot be measured: no picture has another of its class to be found")
    low, high = bootstrap(lambda weights: np.average(values, weights=weights), len(values), rounds)
    return dict(metric=metric, value=values.mean(), low=low, high=high, n=len(values), threshold_from="")


class Evaluation(NamedTuple):
    """What `evaluate` found: embeddings (N, D) of the pictures, scores of each pair list (P,), and the test report."""

    embeddings: np.ndarray
    scores: dict[str, np.ndarray]
    threshold: Threshold
    report: pd.DataFrame


def evaluate(model, image_set: ImageSet, splits: Splits, protocol: str) -> Evaluation:
    """Measure a trained model as the protocol says: the threshold from validation, then the test, once.

    Args:
        model: an `EmbeddingNet`, or anything with its `score_embeddings`.
        image_set, splits: the pictures and who is tested on what.
        protocol: "closed_set" or "open_set".

    Returns:
        The `Evaluation`; its report has the rows of `verification_report` and `retrieval_report` of the
        test and, for pictures by several cameras, of `reid_report`.
    """
    embeddings = embed_all(model, image_set, np.concatenate([*splits.parts[protocol].values()]))
    return _judge(model, embeddings, image_set, splits, protocol)


def _judge(model, embeddings, image_set: ImageSet, splits: Splits, protocol: str) -> Evaluation:
    part, pairs = splits.parts[protocol], splits.pairs[protocol]
    scores = {name: pair_scores(model, embeddings, listed) for name, listed in pairs.items()}
    threshold = fit_threshold(scores["validation"], pairs["validation"][:, 2], "validation")
    reports = [verification_report(scores["test"], pairs["test"], threshold)]
    test, labels, similarity = embeddings[part["test"]], image_set.labels[part["test"]], similarity_of(model)
    reports.append(retrieval_report(test, labels, similarity))
    if image_set.cameras is not None:
        reports.append(reid_report(test, labels, image_set.cameras[part["test"]], similarity))
    return Evaluation(embeddings, scores, threshold, pd.concat(reports, ignore_index=True))


def frozen_report(config: Config, backbone: str, image_set: ImageSet, splits: Splits) -> pd.DataFrame:
    """The backbone as it comes, untrained on these pictures: the rows every training has to beat.

    Returns:
        The reports of `evaluate` on its pooled features for each protocol, ready for the ledger.
    """
    untrained = new_model(replace(config, embedding_size=0), backbone, config.seed).to(config.device)
    embeddings = embed_all(untrained, image_set, np.arange(len(image_set)))
    reports = [
        _judge(untrained, embeddings, image_set, splits, protocol).report.assign(protocol=protocol)
        for protocol in splits.protocols
    ]
    return pd.concat(reports).assign(approach="frozen_backbone", seed=config.seed, train_seconds=0.0)


def similarity_of(model):
    """A model's similarity for `nearest` and `retrieval`: None, their fast cosine, or its own `score_embeddings`."""
    return None if getattr(model, "cosine", False) else model.score_embeddings


def validation_report(model, image_set: ImageSet, pairs) -> dict[str, float]:
    """What a training is watched by, on int validation pairs (P, 3).

    Returns:
        "validation", the ROC-AUC; "precision", "recall" and "f1" at the best threshold of these same pairs.
    """
    scores, same = pair_scores(model, embed_all(model, image_set, pairs[:, :2]), pairs), pairs[:, 2]
    threshold = fit_threshold(scores, same, "validation")
    return {"validation": roc_auc(scores, same), **precision_recall_f1(scores, same, threshold)}
