"""Scores of maps against masks: exact on hand-made maps, equal to Quantus', and nothing judged without controls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.explanations.localization import CONTROLS, METRICS, controls, localization_report

pointing_game, relevance_mass, relevance_rank = MEASURES = tuple(METRICS.values())
MAP = np.array([[[4.0, 1.0, -3.0], [2.0, 0.0, 3.0]]])
LEFT = np.array([[[1, 0, 0], [1, 0, 0]]], bool)  # two pixels: 4 and 2
some = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)
SQUARE = np.zeros((40, 8, 8), bool)
SQUARE[:, 2:5, 2:5] = True


def random_case(seed, count=3, side=6):
    generator = np.random.default_rng(seed)
    masks = generator.random((count, side, side)) < 0.4
    masks[:, 0, 0], masks[:, 0, 1] = True, False
    return generator.standard_normal((count, side, side)), masks


def test_worked_by_hand():
    assert pointing_game(MAP, LEFT).tolist() == [1.0], "4 is the largest"
    assert relevance_mass(MAP, LEFT).tolist() == [6 / 10], "4 + 2 of 4 + 1 + 2 + 3; -3 does not count"
    assert relevance_rank(MAP, LEFT).tolist() == [1 / 2], "of the two largest, 4 and 3, one is in the mask"
    assert pointing_game(MAP, ~LEFT).tolist() == relevance_mass(-np.abs(MAP), LEFT).tolist() == [0.0]
    assert relevance_rank(MAP, ~LEFT).tolist() == [2 / 4], "of 4, 3, 2, 1 the mask has 3 and 1"


def test_ties_count_in_part():
    tied = np.array([[[2.0, 2.0], [1.0, 1.0]]])
    column, corner, three = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 0]], [[1, 1], [1, 0]]], bool)[:, None]
    assert pointing_game(tied, column).tolist() == relevance_rank(tied, column).tolist() == [0.5]
    assert relevance_rank(tied, corner).tolist() == [0.5]
    assert relevance_rank(tied, three).tolist() == [pytest.approx((2 + 0.5) / 3)]


def slow_scores(one, mask):
    """The three scores of a map without ties, in loops."""
    pixels = sorted(((value, inside) for value, inside in zip(one.ravel(), mask.ravel(), strict=True)), reverse=True)
    size = sum(inside for _, inside in pixels)
    positive = [(value, inside) for value, inside in pixels if value > 0]
    mass = sum(value for value, inside in positive if inside) / sum(value for value, _ in positive)
    return float(pixels[0][1]), mass, sum(inside for _, inside in pixels[:size]) / size


@some
@given(seeds)
def test_the_scores_are_those_of_the_loops(seed):
    maps, masks = random_case(seed)
    found = np.stack([measure(maps, masks) for measure in MEASURES], 1)
    np.testing.assert_allclose(found, [slow_scores(*one) for one in zip(maps, masks)])


@some
@given(seeds, st.floats(0.1, 10))
def test_invariants(seed, scale):
    maps, masks = random_case(seed)
    for measure in MEASURES:
        value = measure(maps, masks)
        assert value.min() >= 0 and value.max() <= 1
        np.testing.assert_allclose(measure(scale * maps, masks), value)
        np.testing.assert_allclose(measure(maps[:, ::-1], masks[:, ::-1]), value)
        assert (measure(masks.astype(float), masks) == 1).all(), "the mask itself is the best map"
        np.testing.assert_allclose(measure(np.ones(maps.shape), masks), masks.mean((1, 2)))  # a flat map: the area
    np.testing.assert_allclose(relevance_mass(maps, masks) + relevance_mass(maps, ~masks), 1)
    np.testing.assert_allclose(pointing_game(maps, masks) + pointing_game(maps, ~masks), 1)


def test_quantus_agrees():
    quantus = pytest.importorskip("quantus", reason="quantus is missing: pip install -r requirements-dev.txt")
    maps, masks = random_case(1, 8, 12)
    maps = np.abs(maps)  # Quantus refuses negative relevance here
    options = dict(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    inputs = dict(model=None, x_batch=np.zeros((8, 1, 12, 12)), y_batch=np.zeros(8, int))
    for name, measure in zip(("PointingGame", "RelevanceMassAccuracy", "RelevanceRankAccuracy"), MEASURES):
        found = getattr(quantus, name)(**options)(**inputs, a_batch=maps[:, None], s_batch=masks[:, None])
        np.testing.assert_allclose(measure(maps, masks), np.array(found, float), atol=1e-6, err_msg=name)


def test_controls_know_nothing_of_a_model():
    """A red square, off center, on gray: its color stands out, and nothing is known of its place."""
    images, masks = np.full((2, 3, 32, 48), 120, np.uint8), np.zeros((2, 32, 48), bool)
    images[:, :, 4:10, 30:40] = np.array([220, 20, 30], np.uint8)[:, None, None]
    masks[:, 4:10, 30:40] = True
    maps = controls(images)
    assert set(maps) | {"random weights"} == set(CONTROLS)
    assert all(one.shape == (2, 32, 48) and np.isfinite(one).all() for one in maps.values())
    np.testing.assert_allclose(relevance_mass(maps["mask area"], masks), 60 / (32 * 48))
    gaussian = maps["centered Gaussian"][0]
    np.testing.assert_allclose(gaussian, gaussian[::-1, ::-1])
    assert gaussian[15:17, 23:25].min() > 0.99 and gaussian[16, 0] == pytest.approx(np.exp(-2), rel=0.01)
    assert (pointing_game(maps["color saliency"], masks) == 1).all()
    assert (relevance_mass(maps["color saliency"], masks) > 0.3).all()


def test_only_what_beats_all_four_controls_is_called_better():
    generator = np.random.default_rng(0)
    maps = {name: generator.random(SQUARE.shape) for name in (*CONTROLS, "noise", "good", "wrong")}
    maps["good"], maps["wrong"] = SQUARE + 0.1 * maps["good"], ~SQUARE + 0.1 * maps["wrong"]
    table = localization_report(maps, SQUARE, 100)
    assert list(table.columns) == ["map", "metric", "value", "low", "high", "n", "verdict", "unbeaten"]
    assert len(table) == 3 * 7 and (table.n == 40).all() and (table.low <= table.value).all()
    verdicts = table.groupby("map")["verdict"].unique().str.join("")
    assert verdicts["good"] == "beats all controls"
    assert verdicts["noise"] == verdicts["wrong"] == "does not beat all controls"
    assert all(verdicts[name] == "control" for name in CONTROLS)
    with pytest.raises(ValueError, match="missing: centered Gaussian, random weights, color saliency"):
        localization_report({"map": MAP, "mask area": MAP}, LEFT)


def test_one_strong_control_is_enough_to_fail():
    maps = {name: np.ones(SQUARE.shape) for name in CONTROLS}
    maps["centered Gaussian"] = maps["map"] = SQUARE + 0.01
    row = localization_report(maps, SQUARE, 50).set_index(["map", "metric"]).loc["map", "relevance mass"]
    assert row.verdict == "does not beat all controls" and row.unbeaten == "centered Gaussian"


def test_a_control_is_beaten_by_differences_on_the_same_pictures():
    """Masks of many sizes spread every score wide, but the map is a little better than the area on each of them."""
    masks = np.zeros((20, 8, 8), bool)
    for size, mask in enumerate(masks, 1):
        mask.flat[: 3 * size] = True
    maps = {name: np.ones(masks.shape) for name in CONTROLS} | {"map": 1 + 0.1 * masks}
    table = localization_report(maps, masks, 100).set_index(["map", "metric"]).xs("relevance mass", level="metric")
    assert table.low["map"] < table.high["mask area"] and table.verdict["map"] == "beats all controls"


@pytest.mark.parametrize("maps, masks, reason", [
    (MAP[0], LEFT[0], "must be float and bool"),
    (MAP[:, :1], LEFT, r"\(1, 1, 3\)"),
    (MAP, LEFT.astype(int), "int64"),
    (np.where(MAP == 4, np.nan, MAP), LEFT, "map 0 is not finite"),
    (MAP, LEFT & False, "mask 0 is empty or the whole picture"),
    (MAP, LEFT | True, "mask 0 is empty or the whole picture"),
])  # fmt: skip
def test_bad_input_is_refused(maps, masks, reason):
    for measure in MEASURES:
        with pytest.raises(ValueError, match=reason):
            measure(maps, masks)
