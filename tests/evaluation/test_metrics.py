"""Metrics against slow definitions, peers, worked cases and planted faults."""

import dataclasses
import inspect
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from toys import all_pairs

from common.evaluation import metrics, reports
from common.evaluation.metrics import Threshold, accuracy, equal_error_rate, fit_threshold, interval, roc_auc

slow = settings(deadline=None, max_examples=25)
# Few different values make many ties; the rest are any floats a network may give.
SCORE = st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50, width=32).map(lambda value: round(value, 3)))


@st.composite
def judged(draw, most=25):
    """Scores and same with both kinds present."""
    rows = draw(st.lists(st.tuples(SCORE, st.integers(0, 1)), min_size=2, max_size=most))
    scores, same = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < same.sum() < len(same))
    return scores, same


def slow_auc(scores, same, weights=None):
    weights = np.ones(len(scores)) if weights is None else weights
    won = total = 0.0
    for one in np.flatnonzero(same == 1):
        for other in np.flatnonzero(same == 0):
            weight = weights[one] * weights[other]
            won += weight * ((scores[one] > scores[other]) + 0.5 * (scores[one] == scores[other]))
            total += weight
    return won / total


def shares(scores, same, threshold):
    """Shares of same and of different pairs judged rightly, counted one by one."""
    right = [0, 0]
    for score, kind in zip(scores, same, strict=True):
        right[kind] += (score >= threshold) == bool(kind)
    return right[1] / np.sum(same == 1), right[0] / np.sum(same == 0)


def candidates(scores):
    """A threshold for every way to part the scores."""
    values = np.unique(scores)
    return [values[0] - 1, *((values[1:] + values[:-1]) / 2), values[-1] + 1]


def slow_eer(scores, same):
    """Walk the false accept and false reject rates over all thresholds to where they cross on a line."""
    points = [shares(scores, same, threshold) for threshold in candidates(scores)]
    points = [(1 - right_different, 1 - right_same) for right_same, right_different in points]  # accepts, rejects
    for (accepts, rejects), (next_accepts, next_rejects) in pairwise(points):
        if accepts >= rejects and next_accepts <= next_rejects:
            gap, next_gap = accepts - rejects, next_accepts - next_rejects
            along = gap / (gap - next_gap) if gap != next_gap else 0.0
            return accepts + along * (next_accepts - accepts)
    raise AssertionError("the rates always cross")


@slow
@given(judged())
def test_auc_and_eer_are_those_of_the_loops_and_auc_depends_on_the_order_alone(case):
    scores, same = case
    assert roc_auc(scores, same) == pytest.approx(slow_auc(scores, same))
    assert equal_error_rate(scores, same) == pytest.approx(slow_eer(scores, same), abs=1e-9)
    _, ranks = np.unique(scores, return_inverse=True)
    assert roc_auc(np.exp(ranks / 9.0), same) == pytest.approx(roc_auc(scores, same))
    assert roc_auc(3 * scores + 7, same) == pytest.approx(roc_auc(scores, same))
    assert roc_auc(-scores, same) == pytest.approx(1 - roc_auc(scores, same))


@slow
@given(judged(12), st.data())
def test_weights_count_as_repetitions(case, data):
    scores, same = case
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores))))
    assume(weights[same == 1].any() and weights[same == 0].any())
    threshold = Threshold(data.draw(SCORE), "validation")
    for measure in (roc_auc, equal_error_rate, lambda *case: accuracy(*case[:2], threshold, *case[2:])):
        repeated = measure(np.repeat(scores, weights), np.repeat(same, weights))
        assert measure(scores, same, weights.astype(float)) == pytest.approx(repeated, abs=1e-9)
    assert roc_auc(scores, same, weights) == pytest.approx(slow_auc(scores, same, weights))
    assert roc_auc(scores, same, weights) == pytest.approx(roc_auc_score(same, scores, sample_weight=weights))


def test_spread_is_0_where_all_are_equal_and_1_where_they_point_everywhere():
    assert metrics.spread(np.outer([1.0, 2, 3], [1, 2])) == pytest.approx(0, abs=1e-7)
    assert metrics.spread(np.random.default_rng(0).normal(size=(2000, 50))) == pytest.approx(1, abs=0.02)
    assert metrics.spread([[1, 0], [0, 1]]) == pytest.approx(2**0.5 * 0.5**0.5)


@slow
@given(judged(), st.data())
def test_all_rates_at_once_are_those_measured_apart(case, data):
    scores, same = case
    threshold = Threshold(data.draw(SCORE), "validation")
    some = data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)))
    for weights in (None, np.array(some, float)):
        expected = dict(
            roc_auc=roc_auc(scores, same, weights), eer=equal_error_rate(scores, same, weights),
            accuracy=accuracy(scores, same, threshold, weights),
        )  # fmt: skip
        by_kind = metrics.accuracy_by_kind(scores, same, threshold, weights)
        expected |= dict(zip(("accuracy_same", "accuracy_different"), by_kind, strict=True))
        assert metrics.verification_rates(scores, same, threshold, weights) == pytest.approx(expected, nan_ok=True)


@given(judged(), st.data())
def test_a_matrix_of_weights_gives_what_its_rows_give(case, data):
    scores, same = case
    row = st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores))
    weights = np.array(data.draw(st.lists(row, min_size=1, max_size=4)), float)
    threshold = Threshold(data.draw(SCORE), "validation")
    for name, values in metrics.verification_rates(scores, same, threshold, weights).items():
        rows = [metrics.verification_rates(scores, same, threshold, one)[name] for one in weights]
        assert values.shape == (len(weights),)
        np.testing.assert_allclose(values, rows, rtol=0, atol=1e-12)


def test_worked_verification_cases():
    scores, same = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), np.array([1, 1, 0, 1, 0, 0])
    assert roc_auc(scores, same) == pytest.approx(8 / 9)
    assert equal_error_rate(scores, same) == pytest.approx(1 / 3)
    threshold = fit_threshold(scores, same, "validation")
    assert threshold == Threshold(pytest.approx(0.25), "validation")  # 3/3 and 2/3; at .75 it is 2/3 and 3/3
    assert metrics.accuracy_by_kind(scores, same, threshold) == (1, pytest.approx(2 / 3))
    assert accuracy(scores, same, threshold) == pytest.approx(5 / 6)
    scores, same = np.array([1.0] * 2 + [0.0] * 98), np.array([1] * 2 + [0] * 98)
    assert accuracy(scores, same, Threshold(2.0, "validation")) == 0.5, "both kinds count alike"
    assert accuracy(scores, same, Threshold(1.0, "validation")) == 1.0, "same is said at the threshold itself"


def test_extremes():
    scores, same = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1])
    assert (roc_auc(scores, same), roc_auc(-scores, same)) == (1, 0)
    assert equal_error_rate(scores, same) == pytest.approx(0, abs=1e-9)
    assert equal_error_rate(-scores, same) == pytest.approx(1, abs=1e-9)
    assert roc_auc(np.zeros(6), same) == equal_error_rate(np.zeros(6), same) == pytest.approx(0.5)
    assert fit_threshold(scores, same, "validation").value == 2.5


@slow
@given(judged())
def test_the_fitted_threshold_is_the_best_of_all(case):
    scores, same = case
    threshold = fit_threshold(scores, same, "validation")
    best = max(np.mean(shares(scores, same, candidate)) for candidate in candidates(scores))
    assert best >= 0.5
    assert np.mean(shares(scores, same, threshold.value)) == pytest.approx(best)
    assert accuracy(scores, same, threshold) == pytest.approx(best)
    inside = scores.min() < threshold.value < scores.max()
    if inside:
        below, above = scores[scores < threshold.value].max(), scores[scores >= threshold.value].min()
        assert threshold.value == pytest.approx((below + above) / 2), "halfway between the neighbors"


def test_a_threshold_between_neighboring_floats_still_parts_them():
    low = np.float32(0.5)
    for _ in range(2):
        high = np.nextafter(low, np.float32(1))
        scores, same = np.array([low, low, high, high], np.float32), np.array([0, 0, 1, 1])
        assert accuracy(scores, same, fit_threshold(scores, same, "validation")) == 1
        low = high


def test_a_threshold_cannot_be_fitted_on_test():
    scores, same = np.arange(4.0), np.array([0, 0, 1, 1])
    for split in ("validation", "train"):
        assert fit_threshold(scores, same, split).fitted_on == split
    for split in ("test", "", None):
        with pytest.raises(ValueError, match="never on"):
            fit_threshold(scores, same, split)
    assert inspect.signature(fit_threshold).parameters["split"].default is inspect.Parameter.empty
    with pytest.raises(dataclasses.FrozenInstanceError):
        Threshold(0.5, "validation").value = 0.9


@pytest.mark.parametrize("threshold, precision, recall, f1", [
    (0.5, 2 / 3, 2 / 3, 2 / 3),  # called same: 1 0 1
    (0.6, 1 / 2, 1 / 3, 2 / 5),  # called same: 1 0
    (2.0, 0, 0, 0),  # nothing called same, nothing rightly
    (-1.0, 1 / 2, 1, 2 / 3),
])  # fmt: skip
def test_precision_and_recall_worked_by_hand(threshold, precision, recall, f1):
    scores, same = np.array([0.9, 0.8, 0.5, 0.3, 0.2, 0.1]), np.array([1, 0, 1, 1, 0, 0])
    found = metrics.precision_recall_f1(scores, same, Threshold(threshold, "validation"))
    assert found == pytest.approx(dict(precision=precision, recall=recall, f1=f1))


@pytest.mark.parametrize("measure", [
    roc_auc, equal_error_rate, lambda *case: fit_threshold(*case, "validation"),
    lambda *case: accuracy(*case, Threshold(0, "validation")),
    lambda *case: metrics.precision_recall_f1(*case, Threshold(0, "validation")),
])  # fmt: skip
@pytest.mark.parametrize("scores, same, message", [
    ([0.1, math.nan], [0, 1], "1 of 2 .* not finite"), ([0.1, -math.inf], [0, 1], "1 of 2 .* not finite"),
    ([0.1, 0.2], [1, 1], "both"), ([0.1, 0.2], [0, 2], "both"),
    ([0.1, 0.2, 0.3], [0, 1], r"\(3,\) and same \(2,\)"), ([[0.1], [0.2]], [[0], [1]], r"\(2, 1\)"),
])  # fmt: skip
def test_bad_pairs_are_refused(measure, scores, same, message):
    with pytest.raises(ValueError, match=message):
        measure(np.array(scores), np.array(same))


def test_cosine_scores_in_loops():
    embeddings = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    embeddings[5] = 0
    pairs = all_pairs([0, 0, 1, 1, 2, 2])
    scores = metrics.cosine_scores(embeddings, pairs)
    for (first, second, _), score in zip(pairs, scores, strict=True):
        one, other = embeddings[first].tolist(), embeddings[second].tolist()
        length = math.dist(one, [0] * 3) * math.dist(other, [0] * 3)
        product = sum(a * b for a, b in zip(one, other, strict=True))
        assert score == pytest.approx(product / length if length else 0.0, abs=1e-6)
    assert scores.min() < -0.1 and scores.max() > 0.1, "nothing forces a score to be positive"
    np.testing.assert_allclose(np.linalg.norm(metrics.normalize(embeddings), axis=1), [1, 1, 1, 1, 1, 0], atol=1e-12)


def test_the_interval_of_a_mean_is_as_wide_as_statistics_say():
    values = np.random.default_rng(0).normal(size=200)
    found = metrics.mean_interval(values, rounds=2000)
    error = 1.96 * values.std() / np.sqrt(200)
    assert found["value"] == pytest.approx(values.mean()) and found["n"] == 200
    assert found["low"] == pytest.approx(values.mean() - error, abs=0.25 * error)
    assert found["high"] == pytest.approx(values.mean() + error, abs=0.25 * error)
    assert metrics.mean_interval([*values, np.nan, np.inf], rounds=2000) == found, "what is not finite is left out"
    with pytest.raises(ValueError, match="finite"):
        metrics.mean_interval([np.nan])
    assert metrics.told({"value": 0.614, "low": -0.4, "high": 1, "n": 3}) == "0.61 [-0.40, 1.00]"


def test_an_interval_is_seeded_and_resamples_as_many_as_there_are():
    seen = []
    first = interval(lambda weights: seen.extend(weights) or weights[:, 0], 9, rounds=120, seed=1)
    resampled = [weights for weights in seen if (weights != 1).any()]
    assert len(seen) == 121 and len(resampled) >= 119, "once with every picture, the other times resampled"
    assert all(weights.sum() == 9 and (weights == weights.round()).all() for weights in seen)
    assert len({weights.tobytes() for weights in seen}) > 100
    np.random.seed(5)
    assert interval(lambda weights: weights[:, 0], 9, rounds=120, seed=1) == first
    again = []
    interval(lambda weights: again.extend(weights) or weights[:, 0], 9, rounds=120, seed=2)
    assert not np.array_equal(seen, again)
    assert first["value"] == 1 and list(first) == ["value", "low", "high", "n"]


def test_several_measures_share_their_resamples():
    values = np.random.default_rng(0).normal(size=(2, 30))
    apart = [metrics.mean_interval(row, rounds=50) for row in values]
    joined = interval(lambda weights: weights @ values.T / 30, 30, rounds=50)
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(joined[name], [one[name] for one in apart])
    lame = interval(lambda weights: np.array([[np.nan if w[0] else 1.0, w[0]] for w in weights]), 30, rounds=50)
    assert lame["low"][0] == lame["high"][0] == 1.0 and lame["high"][1] > 1, "NaN is left out of that measure only"


def test_pictures_are_resampled_not_pairs():
    """One bad picture in many pairs: resampling pairs would call the result far surer than it is."""
    generator = np.random.default_rng(0)
    quality = generator.normal(size=20)  # what a picture adds to each of its pairs
    pairs = all_pairs(np.repeat(np.arange(2), 10))
    scores, same = quality[pairs[:, 0]] + quality[pairs[:, 1]] + 0.5 * pairs[:, 2], pairs[:, 2]
    measure = lambda weights: roc_auc(scores, same, weights)  # noqa: E731
    found, by_pairs = metrics.pair_interval(measure, 7 * pairs, 80), interval(measure, len(pairs), 80)
    assert found["high"] - found["low"] > 1.3 * (by_pairs["high"] - by_pairs["low"])
    assert found["value"] == by_pairs["value"] == roc_auc(scores, same) and found["n"] == len(pairs)


def test_a_pair_counts_as_often_as_its_pictures_meet():
    seen, pictures, pairs = [], [], np.array([[40, 10, 1], [40, 70, 0], [10, 70, 0]])
    metrics.pair_interval(lambda weights: seen.extend(weights) or weights[:, 0], pairs, 30, seed=3)
    interval(lambda weights: pictures.extend(weights) or weights[:, 0], 3, 30, seed=3)  # in order: 10, 40, 70
    np.testing.assert_array_equal(seen, [[b * a, b * c, a * c] for a, b, c in pictures])


def test_the_mean_of_pairs_lies_in_its_interval():
    pairs, values = all_pairs(np.repeat(np.arange(3), 4)), np.random.default_rng(1).random(66)
    found = metrics.pair_mean_interval(values, pairs, 300)
    assert found["value"] == pytest.approx(values.mean()) and found["n"] == 66
    assert values.mean() - 0.2 < found["low"] < values.mean() < found["high"] < values.mean() + 0.2


def test_few_pictures_allow_an_interval_too():
    """Some resamples of so few pictures hold no same pair; they say nothing and are left out."""
    pairs = all_pairs([0, 0, 1, 1])
    scores, same, threshold = np.array([0.9, 0.4, 0.3, 0.5, 0.2, 0.6]), pairs[:, 2], Threshold(0.45, "validation")
    for measure in (roc_auc, equal_error_rate, lambda *case: accuracy(*case[:2], threshold, case[2])):
        found = metrics.pair_interval(lambda weights, m=measure: m(scores, same, weights), pairs, 50)
        assert 0 <= found["low"] <= found["high"] <= 1
        for weights in (np.zeros(6), same.astype(float), 1.0 - same):  # none are left, or of one kind only
            assert math.isnan(measure(scores, same, weights))


def test_no_metric_can_read_a_threshold_off_what_it_judges():
    judges = [accuracy, metrics.accuracy_by_kind, metrics.verification_rates, metrics.precision_recall_f1]
    for judge in (*judges, reports.verification_report, reports.decision_report):
        parameter = inspect.signature(judge).parameters["threshold"]
        assert parameter.annotation is Threshold and parameter.default is inspect.Parameter.empty


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(-2e-3, 2e-3))
def test_first_near_best_is_the_first_that_the_pairs_cannot_tell_from_the_best(areas, shift):
    areas = pd.Series(areas, index=[f"arm {place}" for place in range(len(areas))])
    chosen = metrics.first_near_best(areas)
    place = areas.index.get_loc(chosen)
    assert areas[chosen] >= areas.max() - 0.005 and (areas[:place] < areas.max() - 0.005).all()
    assert metrics.first_near_best(pd.Series([0.9, 0.903 + shift, 0.8], ["simple", "other", "bad"])) == "simple"
    assert metrics.first_near_best(pd.Series([0.9, 0.91 + shift, 0.8], ["simple", "other", "bad"])) == "other"
