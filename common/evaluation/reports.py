"""A model's report: the metrics of one split as rows with intervals, ready for the ledger.

Where nothing else is said, a report has the columns metric, value, low, high, n (what was counted), threshold_from.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.backbones import embed, evaluation_mode, new_model
from common.config import Config
from common.datasets.images import ImageSet
from common.datasets.splits import Splits
from common.evaluation import metrics
from common.evaluation.retrieval import cmc, retrieval


def embed_all(model, image_set: ImageSet, indices) -> np.ndarray:
    """Embed the pictures `indices` name, once each: a row for each picture of the set, zeros for all others."""
    indices = np.unique(indices)
    some = embed(model, image_set.images[indices])
    embeddings = np.zeros((len(image_set), some.shape[1]), np.float32)
    embeddings[indices] = some
    return embeddings


def pair_scores(model, embeddings, pairs) -> np.ndarray:
    """How similar a model finds each pair, by its `score_embeddings` in evaluation mode: float32 (P,)."""
    with evaluation_mode(model) as device:
        vectors, parts = torch.from_numpy(embeddings).to(device), torch.tensor(np.array(pairs)).split(4096)
        scores = [model.score_embeddings(vectors[part[:, 0]], vectors[part[:, 1]]).float().cpu() for part in parts]
    return torch.cat(scores).numpy()


def pair_auc(model, image_set: ImageSet, pairs) -> float:
    """ROC-AUC of a model's own scores."""
    return metrics.roc_auc(pair_scores(model, embed_all(model, image_set, pairs[:, :2]), pairs), pairs[:, 2])


def validation_report(model, image_set: ImageSet, pairs) -> dict[str, float]:
    """What a training is watched by: ROC-AUC as "validation", and precision, recall, f1 at the pairs' own threshold.

    "spread" is that of the pairs' embeddings.
    """
    embeddings, same = embed_all(model, image_set, pairs[:, :2]), pairs[:, 2]
    scores = pair_scores(model, embeddings, pairs)
    threshold = metrics.fit_threshold(scores, same, "validation")
    rates = metrics.precision_recall_f1(scores, same, threshold)
    spread = metrics.spread(embeddings[np.unique(pairs[:, :2])])
    return {"validation": metrics.roc_auc(scores, same), **rates, "spread": spread}


def verification_report(scores, pairs, threshold: metrics.Threshold, rounds: int = 1000) -> pd.DataFrame:
    """ROC-AUC, EER and accuracies of pair scores, by a threshold fitted on another split; n counts pairs."""
    same = pairs[:, 2]
    names = list(metrics.verification_rates(scores, same, threshold))
    rates = lambda weights: np.stack([*metrics.verification_rates(scores, same, threshold, weights).values()], -1)  # noqa: E731
    report = pd.DataFrame({"metric": names, **metrics.pair_interval(rates, pairs, rounds)})
    judged = report["metric"].str.startswith("accuracy")
    return report.assign(threshold_from=np.where(judged, threshold.fitted_on, ""))


def decision_report(scores_by_split: dict, pairs_by_split: dict, threshold: metrics.Threshold) -> pd.DataFrame:
    """How well one threshold decides on each split: where train is far better than test, the model has overfitted.

    From split name -> scores and split name -> pairs come rows of split, accuracy (balanced), precision, recall, f1,
    pairs (their number), threshold_from.
    """
    rows = []
    for split, scores in scores_by_split.items():
        same = pairs_by_split[split][:, 2]
        rates = {"accuracy": metrics.accuracy(scores, same, threshold)}
        rates |= metrics.precision_recall_f1(scores, same, threshold)
        rows.append(dict(split=split, **rates, pairs=len(same), threshold_from=threshold.fitted_on))
    return pd.DataFrame(rows)


def difference(first, second, pairs, measure=metrics.roc_auc, rounds: int = 1000) -> dict[str, float]:
    """How much more one approach scores than another: value, low, high of the mean over seeds of the measure's gap.

    `first` and `second` are the scores (S, P) of S seeds each; `measure` takes scores, same and weights. Pictures and
    seeds are resampled, the same ones for both. An interval that holds 0 means: no difference seen (protocol rule 8).
    """
    same, generator = pairs[:, 2], np.random.default_rng(0)

    def gaps(weights) -> np.ndarray:  # of each round and seed
        both = zip(first, second, strict=True)
        return np.stack([measure(one, same, weights) - measure(two, same, weights) for one, two in both], -1)

    def resampled(weights) -> np.ndarray:
        seeds = generator.choice(len(first), (len(weights), len(first)))
        return np.take_along_axis(gaps(weights), seeds, 1).mean(1)

    found = metrics.pair_interval(resampled, pairs, rounds)
    return {"value": float(gaps(None).mean()), "low": found["low"], "high": found["high"]}


def search_difference(first, second, rounds: int = 1000) -> dict[str, float]:
    """As `difference`, for what a search measures of each query, such as MAP@R: `first` and `second` are (S, Q)."""
    gaps, generator = np.subtract(first, second), np.random.default_rng(0)
    gaps = gaps[:, np.isfinite(gaps).all(0)]

    def resampled(weights) -> np.ndarray:
        seeds = generator.choice(len(gaps), (len(weights), len(gaps)))
        return np.take_along_axis(weights @ gaps.T, seeds, 1).mean(1) / gaps.shape[1]

    found = metrics.interval(resampled, gaps.shape[1], rounds)
    return {"value": float(gaps.mean()), "low": found["low"], "high": found["high"]}


def comparison(
    models: dict, reference: str, image_set: ImageSet, splits: Splits, protocol: str, part: str
) -> pd.DataFrame:
    """ROC-AUC and MAP@R on one part of each entry of `models`, its name -> a model a seed, beside those of one of them.

    Columns protocol, metric, name, value (the mean over seeds), low and high (of the paired difference to the
    reference, whose own are NaN); of each metric the reference comes first.
    """
    indices, pairs, found = splits.parts[protocol][part], splits.pairs[protocol][part], {}
    for name, seeds in models.items():
        scores, hits = [], []
        for model in seeds:
            embeddings = embed_all(model, image_set, np.union1d(indices, pairs[:, :2]))
            scores.append(pair_scores(model, embeddings, pairs))
            hits.append(searched(model, embeddings[indices], image_set.labels[indices])["map_at_r"])
        found[name] = scores, hits
    rows = []
    for name in [reference, *(name for name in found if name != reference)]:
        (scores, hits), (others, misses) = found[name], found[reference]
        values = np.mean([metrics.roc_auc(one, pairs[:, 2]) for one in scores]), np.nanmean(hits)
        gaps = [{"low": np.nan, "high": np.nan}] * 2
        if name != reference:
            gaps = [difference(scores, others, pairs), search_difference(hits, misses)]
        for metric, value, gap in zip(("roc_auc", "map_at_r"), values, gaps, strict=True):
            rows.append({"protocol": protocol, "metric": metric, "name": name, **gap, "value": value})
    return pd.DataFrame(rows).sort_values("metric", ascending=False, kind="stable", ignore_index=True)


def feature_comparison(features: dict[str, np.ndarray], pairs) -> pd.DataFrame:
    """ROC-AUC by cosine of each entry of `features`, its name -> (N, D), beside that of the first.

    Columns row (the name), value, low and high (of the paired difference to the first, whose own are NaN).
    """
    scores, rows = {name: metrics.cosine_scores(one, pairs)[None] for name, one in features.items()}, []
    for name, own in scores.items():
        gap = difference(own, scores[rows[0]["row"]], pairs) if rows else {"low": np.nan, "high": np.nan}
        rows.append({"row": name, **gap, "value": metrics.roc_auc(own[0], pairs[:, 2])})
    return pd.DataFrame(rows)


def retrieval_report(embeddings, labels, similarity=None) -> pd.DataFrame:
    """P@1, R-precision and MAP@R, arguments as in `retrieval`; n counts queries with another picture of their class."""
    return _means(retrieval(embeddings, labels, similarity))


def reid_report(embeddings, labels, cameras=None, similarity=None) -> pd.DataFrame:
    """CMC@1, CMC@5, CMC@10 and mean average precision ("map"), as of `cmc`; n counts queries with a valid match."""
    found = cmc(embeddings, labels, cameras, similarity)
    found["map"] = found.pop("average_precision")
    return _means(found)


def class_report(predicted, labels) -> pd.DataFrame:
    """Share of pictures given their right species, as one row "class_accuracy"."""
    return _means({"class_accuracy": np.equal(predicted, labels)})


def _means(measured: dict[str, np.ndarray]) -> pd.DataFrame:
    for metric, values in measured.items():
        if not np.isfinite(values).any():
            raise ValueError(f"{metric} cannot be measured: no picture has another of its class to be found")
    rows = [dict(metric=metric, **metrics.mean_interval(values)) for metric, values in measured.items()]
    return pd.DataFrame(rows).assign(threshold_from="")


def named(model, embeddings) -> np.ndarray:
    """The classes that a model's classifier gives to embeddings: int (N,)."""
    with evaluation_mode(model) as device:
        return model.classify(torch.from_numpy(embeddings).to(device)).argmax(1).cpu().numpy()


def linear_probe(features, labels, train, test) -> np.ndarray:
    """Species of the pictures `test` by logistic regression on the features of `train`, standardized by `train`.

    Of the labels (N,) only those of `train` are looked at.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return probe.fit(features[train], labels[train]).predict(features[test])


def searched(model, embeddings, labels) -> dict[str, np.ndarray]:
    """What `retrieval` measures of each query among embeddings (N, D), as similar as the model finds them."""
    with evaluation_mode(model) as device:
        return retrieval(torch.from_numpy(embeddings).to(device), labels, similarity_of(model))


def similarity_of(model):
    """A model's similarity for `nearest` and `retrieval`: None, their fast cosine, or its own `score_embeddings`."""
    return None if getattr(model, "cosine", False) else model.score_embeddings


class Evaluation(NamedTuple):
    """What `evaluate` found: embeddings (N, D) of the pictures, scores of each pair list, and the test report."""

    embeddings: np.ndarray
    scores: dict[str, np.ndarray]
    threshold: metrics.Threshold
    report: pd.DataFrame


def evaluate(model, image_set: ImageSet, splits: Splits, protocol: str, embeddings=None) -> Evaluation:
    """Measure a trained model as the protocol says: the threshold from validation, then the test, once.

    The report joins `verification_report`, `retrieval_report` and, for pictures by several cameras, `reid_report`.
    Embeddings at hand, a row for each picture of the set, need not be made again.
    """
    parts, pairs = splits.parts[protocol], splits.pairs[protocol]
    if embeddings is None:
        embeddings = embed_all(model, image_set, np.concatenate([*parts.values()]))
    scores = {name: pair_scores(model, embeddings, listed) for name, listed in pairs.items()}
    threshold = metrics.fit_threshold(scores["validation"], pairs["validation"][:, 2], "validation")
    reports, test = [verification_report(scores["test"], pairs["test"], threshold)], parts["test"]
    with evaluation_mode(model) as device:  # a similarity of its own asks the model, where it is
        gallery, labels = torch.from_numpy(embeddings[test]).to(device), image_set.labels[test]
        reports.append(retrieval_report(gallery, labels, similarity_of(model)))
        if image_set.cameras is not None:
            reports.append(reid_report(gallery, labels, image_set.cameras[test], similarity_of(model)))
    return Evaluation(embeddings, scores, threshold, pd.concat(reports, ignore_index=True))


def evaluate_all(trained: dict, seeds, image_set: ImageSet, splits: Splits) -> tuple[dict, pd.DataFrame]:
    """`evaluate` all of protocol -> approach -> one a seed: results nested alike, the ledger's rows (of names, too)."""
    tested, rows = {}, []
    for protocol, approaches in trained.items():
        tested[protocol] = {name: [] for name in approaches}
        for approach, runs in approaches.items():
            for seed, run in zip(seeds, runs, strict=True):
                tested[protocol][approach].append(found := evaluate(run.model, image_set, splits, protocol))
                about = dict(approach=approach, protocol=protocol, seed=seed, variant="standard", split="test")
                report, test = [found.report], splits.parts[protocol]["test"]
                if protocol == "closed_set" and getattr(run.model, "classifier", None):
                    report.append(class_report(named(run.model, found.embeddings[test]), image_set.labels[test]))
                rows.append(pd.concat(report).assign(**about, train_seconds=run.history["seconds"].iloc[-1]))
    return tested, pd.concat(rows, ignore_index=True)


def feature_report(features: dict[str, np.ndarray], labels, splits: Splits, seed: int) -> pd.DataFrame:
    """The ledger's rows of features that need no training, name -> (N, D), by cosine: the reports of each test.

    As in `evaluate`, the threshold is fitted on validation.
    """
    rows = []
    for protocol, pairs in splits.pairs.items():
        test = splits.parts[protocol]["test"]
        for name, vectors in features.items():
            scores = {part: metrics.cosine_scores(vectors, pairs[part]) for part in ("validation", "test")}
            threshold = metrics.fit_threshold(scores["validation"], pairs["validation"][:, 2], "validation")
            decided = verification_report(scores["test"], pairs["test"], threshold)
            both = [decided, retrieval_report(vectors[test], labels[test])]
            rows.append(pd.concat(both).assign(protocol=protocol, approach=name))
    return pd.concat(rows, ignore_index=True).assign(variant="standard", split="test", seed=seed, train_seconds=0.0)


def frozen_report(config: Config, backbone: str, image_set: ImageSet, splits: Splits) -> pd.DataFrame:
    """The backbone as it comes, untrained on these pictures: the rows every training has to beat.

    They are the reports of `evaluate` on its pooled features for each protocol, and in the closed set the
    `class_report` of a linear probe.
    """
    model = new_model(replace(config, embedding_size=0), backbone, config.seed).to(config.device)
    features, labels, reports = embed_all(model, image_set, np.arange(len(image_set))), image_set.labels, []
    for protocol in splits.protocols:
        reports.append(evaluate(model, image_set, splits, protocol, features).report.assign(protocol=protocol))
    if "closed_set" in splits.protocols:
        train, test = (splits.parts["closed_set"][part] for part in ("train", "test"))
        probed = class_report(linear_probe(features, labels, train, test), labels[test])
        reports.append(probed.assign(protocol="closed_set"))
    named_so = dict(approach="frozen_backbone", variant="standard", split="test", seed=config.seed, train_seconds=0.0)
    return pd.concat(reports, ignore_index=True).assign(**named_so)
