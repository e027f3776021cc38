"""Splits: stratified, disjoint, seeded, and refused where they or their pairs break their protocol."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import config, image_set

from common.datasets.splits import (
    NAMES,
    Splits,
    check_splits,
    make_pairs,
    make_splits,
    open_set_split,
    read_splits,
    save_splits,
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
    return [set(part[name].tolist()) for name in NAMES]


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
    for name, each in zip(NAMES, (20, 8, 12), strict=True):
        np.testing.assert_array_equal(np.bincount(labels[part[name]]), [each] * 5)
    part = stratified_split(labels, np.ones(200, bool), 0, shares=(0.7, 0.1))
    assert [len(part[name]) for name in NAMES] == [140, 20, 40]


@given(st.integers(6, 30), SEEDS)
def test_open_set_parts_share_no_species(species, seed):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(species), 3))
    keep = generator.random(len(labels)) < 0.9
    if len(np.unique(labels[keep])) < 6:
        return
    part = open_set_split(labels, keep, seed)
    kinds = [set(labels[part[name]]) for name in NAMES]
    assert not (kinds[0] & kinds[1] or kinds[0] & kinds[2] or kinds[1] & kinds[2])
    assert min(map(len, kinds)) >= 2, "a different pair needs two species"
    assert set.union(*as_sets(part)) == set(np.flatnonzero(keep))


def test_open_set_shares():
    labels = np.repeat(np.arange(24), 2)
    part = open_set_split(labels, np.ones(48, bool), 0)
    assert [len(np.unique(labels[part[name]])) for name in NAMES] == [12, 4, 8]
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
        assert set(splits.parts[protocol]) == set(NAMES)
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
    for name in NAMES:
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


def test_an_official_split_is_followed_and_swapped_only_on_request(pictures, settled):
    image_set = official(pictures)
    straight = make_splits(image_set, settled).parts["closed_set"]
    swapped = make_splits(image_set, settled, split="swapped").parts["closed_set"]
    for name, swapped_name in zip(NAMES, ("test", "validation", "train"), strict=True):
        np.testing.assert_array_equal(straight[name], image_set.official[name])
        np.testing.assert_array_equal(swapped[swapped_name], image_set.official[name])
    keep = np.arange(len(image_set)) % 5 > 0
    kept = make_splits(image_set, settled, keep).parts["closed_set"]
    for name in NAMES:
        np.testing.assert_array_equal(kept[name], [index for index in image_set.official[name] if keep[index]])


def test_a_split_that_is_not_there_is_refused(pictures, settled):
    with pytest.raises(ValueError, match="'made-up' has no official split to swap"):
        make_splits(pictures, settled, split="swapped")
    with pytest.raises(ValueError, match="'best' is unknown; use 'official' or 'swapped'"):
        make_splits(official(pictures), settled, split="best")


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


def test_an_overlap_of_the_official_split_is_refused(pictures, settled):
    image_set = official(pictures)
    image_set.official["test"] = np.append(image_set.official["test"], image_set.official["train"][0])
    with pytest.raises(ValueError, match="closed_set: train and test share 1 times a picture"):
        make_splits(image_set, settled)


@pytest.mark.parametrize("one, other", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_a_species_on_two_sides_of_the_open_set_is_refused(pictures, settled, one, other):
    splits = make_splits(pictures, settled)
    part = splits.parts["open_set"]
    moved, part[other] = part[other][:1], part[other][1:]  # no picture is on two sides, only its species
    part[one] = np.append(part[one], moved)
    with pytest.raises(ValueError, match=f"open_set: {one} and {other} share 1 times a species"):
        check_splits(splits, pictures)


@pytest.mark.parametrize(
    "fault, damage",
    [
        ("a picture from outside its split", lambda pairs, outside: pairs[0].__setitem__(0, outside)),
        ("a picture paired with itself", lambda pairs, outside: pairs[0].__setitem__(0, pairs[0, 1])),
        ("a wrong label", lambda pairs, outside: pairs[0].__setitem__(2, 1 - pairs[0, 2])),
        ("an unequal number", lambda pairs, outside: pairs[0].__setitem__(slice(None), pairs[-1])),
        ("the same pair twice", lambda pairs, outside: pairs[1].__setitem__([1, 0], pairs[0, :2])),
    ],
)
def test_every_fault_of_a_pair_list_is_refused(pictures, settled, fault, damage):
    splits = make_splits(pictures, settled)
    damage(splits.pairs["closed_set"]["test"], splits.parts["closed_set"]["train"][0])
    with pytest.raises(ValueError, match=f"closed_set test pairs hold .*{fault}"):
        check_splits(splits, pictures)


def test_labels_are_one_for_same_and_zero_for_different(pictures, settled):
    """The convention of the whole project, in memory and on disk."""
    splits = make_splits(pictures, settled)
    save_splits(splits, settled.directory / "splits.json")
    stored = json.loads((settled.directory / "splits.json").read_text())
    for protocol in splits.protocols:
        for lists in (splits.pairs[protocol], stored["pairs"][protocol]):
            for first, second, same in np.asarray(lists["test"]):
                assert same == (1 if pictures.labels[first] == pictures.labels[second] else 0)


def test_saved_splits_are_read_again(pictures, settled, tmp_path):
    splits = make_splits(pictures, settled)
    path = tmp_path / "kept" / "splits.json"
    save_splits(splits, path)
    again = read_splits(path, pictures)
    assert isinstance(again, Splits) and again.fingerprint == splits.fingerprint
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
