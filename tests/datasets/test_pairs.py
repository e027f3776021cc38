"""Pair lists: balanced, seeded, without repeats, and refused where they break their rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import all_pairs

from common.datasets import splits as splits_module
from common.datasets.splits import check_pairs, make_pairs, some_pairs

SEEDS = st.integers(0, 2**20)


@settings(deadline=None)
@given(st.data())
def test_pair_lists_obey_their_rules(data):
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=3, max_size=25)))
    indices = np.array(data.draw(st.sets(st.integers(0, len(labels) - 1), min_size=3).map(sorted)))
    most, seed = data.draw(st.integers(2, 60)), data.draw(SEEDS)
    every = all_pairs(labels, indices)
    if every[:, 2].all() or not every[:, 2].any():
        with pytest.raises(ValueError, match="allow no balanced pairs; give two species or more"):
            make_pairs(labels, indices, most, seed)
        return
    np.random.seed(data.draw(st.integers(0, 9)))
    pairs = make_pairs(labels, indices, most, seed)
    assert pairs.dtype == np.int64 and pairs.shape[1] == 3
    first, second, same = pairs.T
    assert (first != second).all() and np.isin(pairs[:, :2], indices).all()
    assert len({frozenset(pair) for pair in pairs[:, :2].tolist()}) == len(pairs), "no pair twice, in either order"
    np.testing.assert_array_equal(same, labels[first] == labels[second])
    assert 2 * same.sum() == len(same) == 2 * min(most // 2, every[:, 2].sum(), (1 - every[:, 2]).sum())
    np.random.seed(99)
    np.testing.assert_array_equal(make_pairs(labels, indices, most, seed), pairs)


def test_pairs_are_drawn_evenly_and_anew_for_each_seed():
    labels = np.repeat(np.arange(3), 4)
    lists = [make_pairs(labels, np.arange(12), 12, seed) for seed in range(400)]
    assert len({array.tobytes() for array in lists}) > 390
    drawn = np.concatenate(lists)
    for same, candidates in ((1, 18), (0, 48)):
        _, counts = np.unique(drawn[drawn[:, 2] == same, :2], axis=0, return_counts=True)
        assert len(counts) == candidates
        np.testing.assert_allclose(counts, 400 * 6 / candidates, rtol=0.5)


def test_beyond_the_most_pictures_a_sample_is_paired(monkeypatch):
    monkeypatch.setattr(splits_module, "MOST_PICTURES", 10)
    labels = np.arange(40) % 2
    pairs = make_pairs(labels, np.arange(40), 1000, 0)
    assert len(np.unique(pairs[:, :2])) == 10
    check = make_pairs(labels, np.arange(40), 1000, 0)
    np.testing.assert_array_equal(pairs, check)


def test_all_faults_of_a_list_are_named_at_once():
    labels = np.array([0, 0, 1, 1])
    check_pairs(np.array([[0, 1, 1], [0, 2, 0]]), np.arange(4), labels, "good pairs")
    with pytest.raises(ValueError) as raised:
        check_pairs(np.array([[0, 1, 1], [1, 0, 1], [3, 3, 0]]), np.arange(3), labels, "bad pairs")
    faults = ("outside its split", "with itself", "wrong label", "unequal number", "same pair twice")
    assert str(raised.value).startswith("bad pairs hold ") and all(fault in str(raised.value) for fault in faults)


def test_some_pairs_are_the_first_of_each_kind():
    pairs = make_pairs(np.repeat(np.arange(4), 5), np.arange(20), 60, 0)
    some = some_pairs(pairs, 10)
    assert some.tolist() == [*pairs[:5].tolist(), *pairs[30:35].tolist()] and some[:, 2].tolist() == [1] * 5 + [0] * 5
    np.testing.assert_array_equal(some_pairs(pairs, 1000), pairs)
    assert some_pairs(pairs[2:33], 20).tolist() == [*pairs[2:5].tolist(), *pairs[30:33].tolist()], "3 of each are left"


@pytest.mark.parametrize("count", [0, 3, -2])
def test_some_pairs_are_half_and_half(count):
    with pytest.raises(ValueError, match="give an even number"):
        some_pairs(np.array([[0, 1, 1], [0, 2, 0]]), count)
