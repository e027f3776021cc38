"""Mass of maps on masks: exact on hand-made maps, equal to Quantus', and nothing judged without controls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.explanations.localization import CONTROLS, RIVALS, controls, leads, relevance_mass

MAP = np.array([[[4.0, 1.0, -3.0], [2.0, 0.0, 3.0]]])
LEFT = np.array([[[1, 0, 0], [1, 0, 0]]], bool)  # two pixels: 4 and 2
some = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)


def random_case(seed, count=3, side=6):
    generator = np.random.default_rng(seed)
    masks = generator.random((count, side, side)) < 0.4
    masks[:, 0, 0], masks[:, 0, 1] = True, False
    return generator.standard_normal((count, side, side)), masks


def test_worked_by_hand():
    assert relevance_mass(MAP, LEFT).tolist() == [6 / 10], "4 + 2 of 4 + 1 + 2 + 3; -3 does not count"
    assert relevance_mass(-np.abs(MAP), LEFT).tolist() == [0.0]


def slow_mass(one, mask):
    """The mass of a map, in loops."""
    positive = [(value, inside) for value, inside in zip(one.ravel(), mask.ravel(), strict=True) if value > 0]
    return sum(value for value, inside in positive if inside) / sum(value for value, _ in positive)


@some
@given(seeds)
def test_the_mass_is_that_of_the_loops(seed):
    maps, masks = random_case(seed)
    np.testing.assert_allclose(relevance_mass(maps, masks), [slow_mass(*one) for one in zip(maps, masks)])


@some
@given(seeds, st.floats(0.1, 10))
def test_invariants(seed, scale):
    maps, masks = random_case(seed)
    value = relevance_mass(maps, masks)
    assert value.min() >= 0 and value.max() <= 1
    np.testing.assert_allclose(relevance_mass(scale * maps, masks), value)
    np.testing.assert_allclose(relevance_mass(maps[:, ::-1], masks[:, ::-1]), value)
    assert (relevance_mass(masks.astype(float), masks) == 1).all(), "the mask itself is the best map"
    np.testing.assert_allclose(relevance_mass(np.ones(maps.shape), masks), masks.mean((1, 2)))  # a flat map: the area
    np.testing.assert_allclose(value + relevance_mass(maps, ~masks), 1)


def test_quantus_agrees():
    quantus = pytest.importorskip("quantus", reason="quantus is missing: pip install -r requirements-dev.txt")
    maps, masks = random_case(1, 8, 12)
    maps = np.abs(maps)  # Quantus refuses negative relevance here
    options = dict(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    inputs = dict(model=None, x_batch=np.zeros((8, 1, 12, 12)), y_batch=np.zeros(8, int))
    found = quantus.RelevanceMassAccuracy(**options)(**inputs, a_batch=maps[:, None], s_batch=masks[:, None])
    np.testing.assert_allclose(relevance_mass(maps, masks), np.array(found, float), atol=1e-6)


def test_controls_know_nothing_of_a_model():
    """A red square, off center, on gray: its color stands out, and nothing is known of its place."""
    images, masks = np.full((2, 3, 32, 48), 120, np.uint8), np.zeros((2, 32, 48), bool)
    images[:, :, 4:10, 30:40] = np.array([220, 20, 30], np.uint8)[:, None, None]
    masks[:, 4:10, 30:40] = True
    maps = controls(images)
    assert set(maps) | {"random weights"} == set(CONTROLS)
    assert all(one.shape == (2, 32, 48) and np.isfinite(one).all() for one in maps.values())
    np.testing.assert_allclose(relevance_mass(maps["uniform"], masks), 60 / (32 * 48))
    gaussian = maps["blob"][0]
    np.testing.assert_allclose(gaussian, gaussian[::-1, ::-1])
    assert gaussian[15:17, 23:25].min() > 0.99 and gaussian[16, 0] == pytest.approx(np.exp(-2), rel=0.01)
    assert masks[0].flat[maps["color saliency"][0].argmax()]
    assert (relevance_mass(maps["color saliency"], masks) > 0.3).all()


def mean_of(values):
    """The measure of how often each picture counts that `graded` would make of one value each."""
    return lambda weights: weights @ values / weights.sum(1)


def unbeaten(table, name):
    """The controls that a map is not shown to beat."""
    return [*table[(table["group"] == name) & (table["low"] <= 0)]["row"]]


def test_only_what_beats_all_four_controls_is_called_better():
    generator = np.random.default_rng(0)
    values = {name: generator.random(40) for name in (*CONTROLS, "noise", "good", "wrong")}
    values["good"], values["wrong"] = 0.8 + 0.5 * values["good"], 0.5 * values["wrong"] - 0.5
    table = leads({name: mean_of(one) for name, one in values.items()}, 40, 100)
    assert list(table.columns) == ["group", "row", "value", "low", "high", "n", "text"]
    assert [*table["group"]] == 4 * ["noise"] + 4 * ["good"] + 4 * ["wrong"] and [*table["row"]] == 3 * [*CONTROLS]
    assert (table.n == 40).all() and (table.low <= table.value).all()
    expected = [values[row.group].mean() - values[row.row].mean() for row in table.itertuples()]
    np.testing.assert_allclose(table.value, expected)
    assert unbeaten(table, "good") == [] and unbeaten(table, "wrong") == [*CONTROLS] and unbeaten(table, "noise")
    with pytest.raises(ValueError, match="missing: blob, color saliency, random weights"):
        leads({name: mean_of(np.ones(3)) for name in ("map", "uniform")}, 3)


def test_a_map_may_have_a_control_of_its_own():
    values = {name: np.zeros(40) for name in CONTROLS} | {"one": np.ones(40), "other": np.ones(40)}
    values["other, random weights"] = np.full(40, 2.0)
    table = leads({name: mean_of(one) for name, one in values.items()}, 40, 50)
    assert unbeaten(table, "other") == ["random weights"] and unbeaten(table, "one") == []
    assert set(table["group"]) == {"one", "other"}
    del values["random weights"]
    with pytest.raises(ValueError, match="missing: random weights"):
        leads({name: mean_of(one) for name, one in values.items()}, 40, 50)


def test_rivals_are_asked_where_they_are_known():
    values = {name: np.zeros(40) for name in CONTROLS} | {"map": np.ones(40), "flower's mask": np.ones(40)}
    values["map, wrong partner"] = np.full(40, 0.5)
    table = leads({name: mean_of(one) for name, one in values.items()}, 40, 50)
    assert [*table["row"]] == [*CONTROLS, *RIVALS] and unbeaten(table, "map") == ["flower's mask"]


def test_one_strong_control_is_enough_to_fail():
    values = {name: np.zeros(40) for name in CONTROLS}
    values["blob"] = values["map"] = np.ones(40)
    table = leads({name: mean_of(one) for name, one in values.items()}, 40, 50)
    assert unbeaten(table, "map") == ["blob"]


def test_a_control_is_beaten_by_differences_on_the_same_pictures():
    """The pictures spread every value wide, but the map is a little better than the controls on each of them."""
    spread = np.linspace(0, 1, 20)
    measures = {name: mean_of(spread) for name in CONTROLS} | {"map": mean_of(spread + 0.01)}
    np.testing.assert_allclose(leads(measures, 20, 100)[["value", "low", "high"]], 0.01)
    values = {name: spread for name in CONTROLS} | {"map": spread + 0.01}
    pairs = np.column_stack([np.arange(20), np.arange(1, 21) % 20])
    np.testing.assert_allclose(leads(values, pairs, 100)[["value", "low", "high"]], 0.01)


@pytest.mark.parametrize("maps, masks, reason", [
    (MAP[0], LEFT[0], "must be float and bool"),
    (MAP[:, :1], LEFT, r"\(1, 1, 3\)"),
    (MAP, LEFT.astype(int), "int64"),
    (np.where(MAP == 4, np.nan, MAP), LEFT, "map 0 is not finite"),
    (MAP, LEFT & False, "mask 0 is empty or the whole picture"),
    (MAP, LEFT | True, "mask 0 is empty or the whole picture"),
])  # fmt: skip
def test_bad_input_is_refused(maps, masks, reason):
    with pytest.raises(ValueError, match=reason):
        relevance_mass(maps, masks)
