"""Splits and lists of pairs: stratified, disjoint, balanced, seeded, and refused where they break their rules."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import all_pairs, config, image_set

from common.datasets import splits as splits_module
from common.datasets.images import SPLITS
from common.datasets.splits import (
    check_splits,
    make_pairs,
    make_splits,
    open_set_split,
    read_splits,
    save_splits,
    some_pairs,
    stratified_split,
)

SEEDS = st.integers(0, 2**20)


@pytest.fixture(scope="module")
def pictures():
    return image_set(size=4)


@pytest.fixture
def settled(tmp_path):
    return config(tmp_path)


def as_sets(part):
    return [set(part[name].tolist()) for name in SPLITS]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any), SEEDS)
def test_closed_set_parts_are_stratified(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    part = stratified_split(labels, np.ones(len(labels), bool), seed)
    train, validation, test = as_sets(part)
    assert sorted([*train, *validation, *test]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        in_train, in_validation, in_test = (sum(labels[index] == label for index in one) for one in as_sets(part))
        assert in_train + in_validation + in_test == count
        if count:
            assert in_train >= 1, "every species is learned"
        if count > 1:
            assert in_test >= 1, "every species that has two pictures is tested"
        if count >= 6:
            assert min(in_validation, in_test) >= 2, "six pictures allow same pairs in validation and test"
        assert abs(in_train - 0.5 * count) <= 1 and abs(in_validation - 0.2 * count) <= 1


def test_shares_of_a_round_number():
    labels = np.repeat(np.arange(5), 40)
    part = stratified_split(labels, np.ones(200, bool), 0)
    for name, each in zip(SPLITS, (20, 8, 12), strict=True):
        np.testing.assert_array_equal(np.bincount(labels[part[name]]), [each] * 5)


@given(st.integers(6, 30), SEEDS)
def test_open_set_parts_share_no_species(species, seed):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(species), 3))
    keep = generator.random(len(labels)) < 0.9
    if len(np.unique(labels[keep])) < 6:
        return
    part = open_set_split(labels, keep, seed)
    kinds = [set(labels[part[name]]) for name in SPLITS]
    assert not (kinds[0] & kinds[1] or kinds[0] & kinds[2] or kinds[1] & kinds[2])
    assert min(map(len, kinds)) >= 2, "a different pair needs two species"
    assert set.union(*as_sets(part)) == set(np.flatnonzero(keep))


def test_open_set_shares():
    labels = np.repeat(np.arange(24), 2)
    part = open_set_split(labels, np.ones(48, bool), 0)
    assert [len(np.unique(labels[part[name]])) for name in SPLITS] == [12, 4, 8]
    with pytest.raises(ValueError, match="needs 6 species or more; here are 5"):
        open_set_split(labels[:10], np.ones(10, bool), 0)


@pytest.mark.parametrize("split", [stratified_split, open_set_split])
def test_splits_depend_on_the_seed_alone(split):
    labels, keep = np.repeat(np.arange(8), 6), np.arange(48) % 7 > 0
    np.random.seed(1)
    first = split(labels, keep, 3)
    state = np.random.get_state()[1].copy()
    np.random.seed(2)
    assert as_sets(split(labels, keep, 3)) == as_sets(first)
    assert as_sets(split(labels, keep, 4)) != as_sets(first)
    np.random.seed(1)
    split(labels, keep, 3)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert all(keep[part].all() for part in first.values())


def test_both_protocols_are_made_with_all_their_pairs(pictures, settled):
    splits = make_splits(pictures, settled)
    assert splits.protocols == ["closed_set", "open_set"]
    assert splits.fingerprint == pictures.fingerprint
    for protocol in splits.protocols:
        assert set(splits.parts[protocol]) == set(SPLITS)
        assert list(splits.pairs[protocol]) == ["train", "validation", "test"]
        for name, pairs in splits.pairs[protocol].items():
            expected = make_pairs(pictures.labels, splits.parts[protocol][name], settled.pairs, settled.seed)
            np.testing.assert_array_equal(pairs, expected)
    again = make_splits(pictures, settled)
    np.testing.assert_array_equal(again.pairs["open_set"]["test"], splits.pairs["open_set"]["test"])
    other = make_splits(pictures, dataclasses.replace(settled, seed=1))
    assert as_sets(other.parts["closed_set"]) != as_sets(splits.parts["closed_set"])
    few = make_splits(pictures, dataclasses.replace(settled, pairs=6))
    assert {len(pairs) for lists in few.pairs.values() for pairs in lists.values()} == {6}


def test_few_species_allow_the_closed_set_only(settled):
    assert make_splits(image_set(5, size=4), settled).protocols == ["closed_set"]
    assert make_splits(image_set(6, size=4), settled).protocols == ["closed_set", "open_set"]
    keep = np.arange(60) >= 10  # the sixth species is there, but none of its pictures takes part
    assert make_splits(image_set(6, size=4), settled, keep).protocols == ["closed_set"]


def test_disjoint_classes_allow_the_open_set_only(pictures, settled, tmp_path):
    """Faces and persons: nobody may be in both train and test."""
    people = dataclasses.replace(pictures, disjoint=True)
    splits, free = make_splits(people, settled), make_splits(pictures, settled)
    assert splits.protocols == ["open_set"]
    for name in SPLITS:
        np.testing.assert_array_equal(splits.parts["open_set"][name], free.parts["open_set"][name])
        np.testing.assert_array_equal(splits.pairs["open_set"][name], free.pairs["open_set"][name])
    save_splits(splits, tmp_path / "splits.json")
    assert read_splits(tmp_path / "splits.json", people).protocols == ["open_set"]
    with pytest.raises(ValueError, match="needs 6 species or more; here are 5"):
        make_splits(dataclasses.replace(image_set(5, size=4), disjoint=True), settled)


def official(pictures):
    part = np.arange(len(pictures)) % 6
    return dataclasses.replace(
        pictures,
        official={"train": np.flatnonzero(part == 0), "validation": np.flatnonzero((part == 1) | (part == 2)),
                  "test": np.flatnonzero(part > 2)},
    )  # fmt: skip


def test_an_official_split_is_followed(pictures, settled):
    image_set = official(pictures)
    straight = make_splits(image_set, settled).parts["closed_set"]
    for name in SPLITS:
        np.testing.assert_array_equal(straight[name], image_set.official[name])
    keep = np.arange(len(image_set)) % 5 > 0
    kept = make_splits(image_set, settled, keep).parts["closed_set"]
    for name in SPLITS:
        np.testing.assert_array_equal(kept[name], [index for index in image_set.official[name] if keep[index]])


def test_an_official_split_without_a_part_is_refused(pictures, settled):
    image_set = official(pictures)
    halved = {name: indices for name, indices in image_set.official.items() if name != "validation"}
    with pytest.raises(ValueError, match="official split of 'made-up' has no validation pictures"):
        make_splits(dataclasses.replace(image_set, official=halved), settled)


@pytest.mark.parametrize("one, other", [("train", "validation"), ("train", "test"), ("validation", "test")])
@pytest.mark.parametrize("protocol", ["closed_set", "open_set"])
def test_a_picture_on_two_sides_is_refused(pictures, settled, protocol, one, other):
    splits = make_splits(pictures, settled)
    splits.parts[protocol][one] = np.append(splits.parts[protocol][one], splits.parts[protocol][other][0])
    with pytest.raises(ValueError, match=f"{protocol}: {one} and {other} share 1 times a picture"):
        check_splits(splits, pictures)


def test_a_copy_on_two_sides_is_refused(pictures, settled):
    splits = make_splits(pictures, settled)
    check_splits(splits, pictures)
    hashes = pictures.hashes.copy()
    hashes[splits.parts["closed_set"]["test"][0]] = hashes[splits.parts["closed_set"]["train"][0]]
    with pytest.raises(ValueError, match="closed_set: train and test share 1 times a picture content"):
        check_splits(splits, dataclasses.replace(pictures, hashes=hashes))
    with pytest.raises(ValueError, match="share 1 times a picture content"):
        make_splits(dataclasses.replace(pictures, hashes=hashes), settled)


@pytest.mark.parametrize("one, other", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_a_species_on_two_sides_of_the_open_set_is_refused(pictures, settled, one, other):
    splits = make_splits(pictures, settled)
    part = splits.parts["open_set"]
    moved, part[other] = part[other][:1], part[other][1:]  # no picture is on two sides, only its species
    part[one] = np.append(part[one], moved)
    with pytest.raises(ValueError, match=f"open_set: {one} and {other} share 1 times a species"):
        check_splits(splits, pictures)


@pytest.mark.parametrize("fault, damage", [
    ("a picture from outside its split", lambda pairs, outside: pairs[0].__setitem__(0, outside)),
    ("a picture paired with itself", lambda pairs, outside: pairs[0].__setitem__(0, pairs[0, 1])),
    ("a wrong label", lambda pairs, outside: pairs[0].__setitem__(2, 1 - pairs[0, 2])),
    ("an unequal number", lambda pairs, outside: pairs[0].__setitem__(slice(None), pairs[-1])),
    ("the same pair twice", lambda pairs, outside: pairs[1].__setitem__([1, 0], pairs[0, :2]))])
def test_every_fault_of_a_pair_list_is_refused(pictures, settled, fault, damage):
    splits = make_splits(pictures, settled)
    damage(splits.pairs["closed_set"]["test"], splits.parts["closed_set"]["train"][0])
    with pytest.raises(ValueError, match=f"closed_set test pairs hold .*{fault}"):
        check_splits(splits, pictures)


def test_saved_splits_are_read_again(pictures, settled, tmp_path):
    splits = make_splits(pictures, settled)
    path = tmp_path / "kept" / "splits.json"
    save_splits(splits, path)
    assert json.loads(path.read_text())["pairs"]["open_set"]["test"] == splits.pairs["open_set"]["test"].tolist()
    again = read_splits(path, pictures)
    assert again.fingerprint == splits.fingerprint
    for kind in ("parts", "pairs"):
        for protocol, arrays in getattr(splits, kind).items():
            assert list(getattr(again, kind)[protocol]) == list(arrays)
            for name, array in arrays.items():
                read = getattr(again, kind)[protocol][name]
                assert read.dtype == np.int64
                np.testing.assert_array_equal(read, array)


def test_splits_of_other_pictures_are_refused_with_both_names(pictures, settled, tmp_path):
    path = tmp_path / "splits.json"
    save_splits(make_splits(pictures, settled), path)
    other = dataclasses.replace(pictures, fingerprint="0123456789abcdef", name="others")
    with pytest.raises(ValueError, match=f"{pictures.fingerprint}.*'others'.*0123456789abcdef.*delete"):
        read_splits(path, other)


def test_tampered_splits_are_refused(pictures, settled, tmp_path):
    path = tmp_path / "splits.json"
    save_splits(make_splits(pictures, settled), path)
    content = json.loads(path.read_text())
    content["parts"]["closed_set"]["test"].append(content["parts"]["closed_set"]["train"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train and test share"):
        read_splits(path, pictures)


# --- lists of pairs ---

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
