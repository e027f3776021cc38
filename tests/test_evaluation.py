"""Reports: every number equals its metric, intervals hold it, and no threshold can be fitted here."""

import inspect

import numpy as np
import pandas as pd
import pytest
from made_up import all_pairs, image_set, model

from common import evaluation
from common.backbones import embed
from common.evaluation import class_report, difference, embed_all, pair_auc, retrieval_report, verification_report
from common.metrics import Threshold, accuracy, accuracy_by_kind, cosine_scores, equal_error_rate, retrieval, roc_auc

COLUMNS = ["metric", "value", "low", "high", "n", "threshold_from"]
THRESHOLD = Threshold(0.4, "validation")


def judged(seed=0, shift=1.0):
    """Noisy scores of all pairs of 24 pictures, whose rows lie far apart in the data set."""
    labels = np.full(1000, -1)
    indices = np.arange(24) * 40
    labels[indices] = np.arange(24) % 4
    pairs = all_pairs(labels, indices)
    return np.random.default_rng(seed).normal(size=len(pairs)) + shift * pairs[:, 2], pairs


def test_verification_report():
    scores, pairs = judged()
    report = verification_report(scores, pairs, THRESHOLD, rounds=40).set_index("metric")
    same = pairs[:, 2]
    by_kind = accuracy_by_kind(scores, same, THRESHOLD)
    expected = dict(
        roc_auc=roc_auc(scores, same), eer=equal_error_rate(scores, same), accuracy=accuracy(scores, same, THRESHOLD),
        accuracy_same=by_kind[0], accuracy_different=by_kind[1],
    )  # fmt: skip
    assert list(report.reset_index()) == COLUMNS and list(report.index) == list(expected)
    for metric, value in expected.items():
        row = report.loc[metric]
        assert row.value == pytest.approx(value)
        assert 0 <= row.low < row.value < row.high <= 1
        assert row.n == len(pairs)
        assert row.threshold_from == ("validation" if metric.startswith("accuracy") else "")


def test_intervals_of_reports_draw_pictures():
    """A few bad pictures spoil many pairs: wider than if all pairs were independent."""
    _, pairs = judged()
    quality = np.random.default_rng(1).normal(size=1000)
    scores = quality[pairs[:, 0]] + quality[pairs[:, 1]] + pairs[:, 2]
    row = verification_report(scores, pairs, THRESHOLD, rounds=60).iloc[0]
    generator = np.random.default_rng(0)
    drawn = [roc_auc(scores[draw], pairs[draw, 2]) for draw in generator.integers(0, len(pairs), (60, len(pairs)))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert row.high - row.low > 1.2 * (high - low)


def test_a_report_of_four_pictures():
    pairs = all_pairs([0, 0, 1, 1])
    report = verification_report(np.array([0.9, 0.4, 0.3, 0.5, 0.2, 0.6]), pairs, THRESHOLD, rounds=40)
    assert np.isfinite(report[["value", "low", "high"]].to_numpy()).all()


def test_the_gap_of_two_approaches():
    scores, pairs = judged()
    better, worse = np.stack([judged(seed, 2.0)[0] for seed in range(3)]), np.stack([scores] * 3)
    found = difference(better, worse, pairs, rounds=20)
    values = [roc_auc(one, pairs[:, 2]) - roc_auc(scores, pairs[:, 2]) for one in better]
    assert found["value"] == pytest.approx(np.mean(values))
    assert 0 < found["low"] < found["value"] < found["high"]
    back = difference(worse, better, pairs, rounds=20)
    assert (back["value"], back["low"], back["high"]) == pytest.approx((-found["value"], -found["high"], -found["low"]))
    none = difference(worse, worse, pairs, rounds=10)
    assert (none["value"], none["low"], none["high"]) == (0, 0, 0), "the same pictures are drawn for both"
    other = difference(better[:1], worse[:1], pairs, measure=lambda *case: -equal_error_rate(*case), rounds=4)
    assert other["value"] == pytest.approx(
        equal_error_rate(scores, pairs[:, 2]) - equal_error_rate(better[0], pairs[:, 2])
    )


def test_the_gap_of_approaches_that_share_their_errors_is_narrow():
    scores, pairs = judged()
    better = scores + 0.05 * pairs[:, 2]
    gap = difference(better[None], scores[None], pairs, rounds=30)
    row = verification_report(scores, pairs, THRESHOLD, rounds=40).iloc[0]
    assert gap["low"] > 0 and gap["high"] - gap["low"] < 0.3 * (row.high - row.low)


def test_seeds_widen_the_gap():
    scores, pairs = judged()
    apart = np.stack([scores - 0.9 * pairs[:, 2], scores + 0.9 * pairs[:, 2], scores])
    one = difference(scores[None] + 0.1 * pairs[:, 2], scores[None], pairs, rounds=30)
    several = difference(apart, np.stack([scores] * 3), pairs, rounds=30)
    assert several["high"] - several["low"] > 2 * (one["high"] - one["low"])
    assert several["low"] < 0 < several["high"]


def test_retrieval_report():
    generator = np.random.default_rng(0)
    labels = np.append(np.arange(30) % 3, 9)  # the last picture is alone in its species
    embeddings = generator.normal(size=(31, 5)) + 1.2 * np.eye(5)[labels % 3]
    report = retrieval_report(embeddings, labels, rounds=100).set_index("metric")
    expected = retrieval(embeddings, labels)
    assert list(report.reset_index()) == COLUMNS and list(report.index) == list(expected)
    for metric, values in expected.items():
        row = report.loc[metric]
        assert row.value == pytest.approx(np.mean(values[:30])) and row.n == 30
        assert 0 <= row.low < row.value < row.high <= 1 and row.threshold_from == ""


def test_class_report():
    predicted, labels = np.array([0, 1, 2, 2, 1, 0, 0, 0]), np.array([0, 1, 2, 0, 1, 0, 1, 0])
    (row,) = class_report(predicted, labels, rounds=100).to_dict("records")
    assert row["metric"] == "class_accuracy" and row["value"] == pytest.approx(6 / 8) and row["n"] == 8
    assert 0.3 < row["low"] < row["value"] < row["high"] <= 1


def test_embed_all_fills_the_rows_asked_for():
    net, pictures = model(), image_set(4, 3)
    indices = np.array([[7, 2], [2, 5]])
    embeddings = embed_all(net, pictures, indices)
    assert embeddings.shape == (12, 8)
    np.testing.assert_allclose(embeddings[[2, 5, 7]], embed(net, pictures.images[[2, 5, 7]]), atol=1e-6)
    assert not embeddings[[0, 1, 3, 4, 6, 8, 9, 10, 11]].any()


def test_pair_auc_is_that_of_the_scores_of_the_model():
    net, pictures = model(), image_set(4, 3)
    pairs = all_pairs(pictures.labels)[::2]
    scores = cosine_scores(embed(net, pictures.images), pairs)
    assert pair_auc(net, pictures, pairs) == pytest.approx(roc_auc(scores, pairs[:, 2]))
    assert pair_auc(net, pictures, pairs[::-1]) == pytest.approx(roc_auc(scores, pairs[:, 2]))


def test_evaluation_has_no_way_to_fit_a_threshold():
    source = inspect.getsource(evaluation)
    assert "fit_threshold" not in source and "roc_curve" not in source and "Threshold(" not in source
    parameter = inspect.signature(verification_report).parameters["threshold"]
    assert parameter.annotation is Threshold and parameter.default is inspect.Parameter.empty
    for name, function in inspect.getmembers(evaluation, inspect.isfunction):
        if function.__module__ == evaluation.__name__ and name != "verification_report":
            assert "threshold" not in inspect.signature(function).parameters
    with pytest.raises(AttributeError):
        verification_report(*judged(), 0.4, rounds=2)  # a bare number bears no source
    assert isinstance(verification_report(*judged(), THRESHOLD, rounds=2), pd.DataFrame)
