"""Splits and lists of pairs: stratified, disjoint, balanced, seeded, and refused where they break their rules."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import all_pairs, config, image_set

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


@pytest.fixture
def splits(pictures, settled):
    return make_splits(pictures, settled)


def as_sets(part):
    return [set(part[name].tolist()) for name in SPLITS]


def same(one, other):
    """Whether two `parts` or `pairs` are equal."""
    return all(one[protocol].keys() == other[protocol].keys() for protocol in one | other) and all(
        np.array_equal(array, other[protocol][name]) and array.dtype == other[protocol][name].dtype == np.int64
        for protocol, arrays in one.items() for name, array in arrays.items())


# --- splits ---

@given(st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any), SEEDS)
def test_closed_set_parts_are_stratified(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    part = stratified_split(labels, np.ones(len(labels), bool), seed)
    assert sorted(np.concatenate([*part.values()])) == list(range(len(labels)))
    for label, count in enumerate(counts):
        train, validation, test = ((labels[part[name]] == label).sum() for name in SPLITS)
        assert count == 0 or train >= 1, "every species is learned"
        assert count < 2 or test >= 1, "every species that has two pictures is tested"
        assert count < 6 or min(validation, test) >= 2, "six pictures allow same pairs in validation and test"
        assert abs(train - 0.5 * count) <= 1 and abs(validation - 0.2 * count) <= 1


@given(st.integers(6, 30), SEEDS)
def test_open_set_parts_share_no_species(species, seed):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(species), 3))
    keep = (generator.random(len(labels)) < 0.9) | (labels < 6)
    parts = open_set_split(labels, keep, seed)
    kinds = [set(labels[parts[name]]) for name in SPLITS]
    assert not any(one & other for one, other in combinations(kinds, 2))
    assert min(map(len, kinds)) >= 2, "a different pair needs two species"
    assert all(abs(len(kind) - species / share) <= 1.5 for kind, share in zip(kinds, (2, 6, 3), strict=True))
    assert set.union(*as_sets(parts)) == set(np.flatnonzero(keep))


@pytest.mark.parametrize("split", [stratified_split, open_set_split])
def test_splits_depend_on_the_seed_alone(split):
    labels, keep = np.repeat(np.arange(8), 6), np.arange(48) % 7 > 0
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first = split(labels, keep, 3)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(2)
    assert as_sets(split(labels, keep, 3)) == as_sets(first) != as_sets(split(labels, keep, 4))
    assert all(keep[part].all() for part in first.values())


def test_both_protocols_are_made_with_all_their_pairs(pictures, settled, splits):
    assert splits.protocols == ["closed_set", "open_set"] and splits.fingerprint == pictures.fingerprint
    for protocol, parts in splits.parts.items():
        assert list(parts) == list(splits.pairs[protocol]) == list(SPLITS)
        for name, pairs in splits.pairs[protocol].items():
            expected = make_pairs(pictures.labels, parts[name], settled.pairs, settled.seed)
            np.testing.assert_array_equal(pairs, expected)
    assert same(make_splits(pictures, settled).pairs, splits.pairs)
    assert not same(make_splits(pictures, replace(settled, seed=1)).parts, splits.parts)
    few = make_splits(pictures, replace(settled, pairs=6))
    assert {len(pairs) for lists in few.pairs.values() for pairs in lists.values()} == {6}


def test_few_species_allow_the_closed_set_only_and_disjoint_ones_the_open_set_only(pictures, settled, splits, tmp_path):
    six = image_set(6, size=4)
    assert make_splits(six, settled).protocols == ["closed_set", "open_set"]
    keep = np.arange(60) >= 10  # the sixth species is there, but none of its pictures takes part
    assert make_splits(six, settled, keep).protocols == ["closed_set"]
    with pytest.raises(ValueError, match="6 species or more; here are 5"):
        make_splits(replace(six, disjoint=True), settled, keep)
    people = replace(pictures, disjoint=True)  # nobody may be in both train and test
    save_splits(make_splits(people, settled), tmp_path / "splits.json")
    found = read_splits(tmp_path / "splits.json", people)
    assert found.protocols == ["open_set"]
    for kind in ("parts", "pairs"):
        assert same(getattr(found, kind), {"open_set": getattr(splits, kind)["open_set"]})


def test_an_official_split_is_followed(pictures, settled):
    turn = np.arange(len(pictures)) % 6
    official = {"train": np.flatnonzero(turn == 0), "validation": np.flatnonzero((turn == 1) | (turn == 2)),
                "test": np.flatnonzero(turn > 2)}
    image_set, keep = replace(pictures, official=official), np.arange(len(pictures)) % 5 > 0
    assert same({"closed_set": make_splits(image_set, settled).parts["closed_set"]}, {"closed_set": official})
    for name, kept in make_splits(image_set, settled, keep).parts["closed_set"].items():
        np.testing.assert_array_equal(kept, [index for index in official[name] if keep[index]])
    del official["validation"]
    with pytest.raises(ValueError, match="'made-up' has no validation"):
        make_splits(image_set, settled)


# --- planted faults ---

@pytest.mark.parametrize("one, other", [*combinations(SPLITS, 2)])
@pytest.mark.parametrize("protocol, kind", [
    ("closed_set", "picture"), ("open_set", "picture"), ("open_set", "species")])
def test_a_picture_or_species_on_two_sides_is_refused(pictures, splits, protocol, kind, one, other):
    part = splits.parts[protocol]
    moved, rest = np.split(part[other], [1])
    part[one] = np.append(part[one], moved)
    if kind == "species":
        part[other] = rest  # no picture is on two sides, only its species
    with pytest.raises(ValueError, match=f"{protocol}: {one} and {other} share 1 times a {kind}:"):
        check_splits(splits, pictures)


@pytest.mark.parametrize("place", ["twice", "before the first", "after the last"])
def test_a_picture_twice_or_of_no_set_is_refused(pictures, splits, place):
    part = splits.parts["closed_set"]
    odd = {"twice": part["train"][0], "before the first": -1, "after the last": len(pictures)}[place]
    part["train"] = np.append(part["train"], odd)
    with pytest.raises(ValueError, match=f"train holds a picture twice, or one that none of {len(pictures)}"):
        check_splits(splits, pictures)


def test_a_copy_on_two_sides_is_refused(pictures, settled, splits):
    check_splits(splits, pictures)
    hashes, part = pictures.hashes.copy(), splits.parts["closed_set"]
    hashes[part["test"][0]] = hashes[part["train"][0]]
    copied = replace(pictures, hashes=hashes)
    for refused in (lambda: check_splits(splits, copied), lambda: make_splits(copied, settled)):
        with pytest.raises(ValueError, match="closed_set: train and test share 1 times a picture content"):
            refused()


@pytest.mark.parametrize("fault, damage", [
    ("from outside", lambda pairs, outside: pairs[0].__setitem__(0, outside)),
    ("with itself", lambda pairs, outside: pairs[0].__setitem__(0, pairs[0, 1])),
    ("wrong label", lambda pairs, outside: pairs[0].__setitem__(2, 1 - pairs[0, 2])),
    ("unequal number", lambda pairs, outside: pairs[0].__setitem__(slice(None), pairs[-1])),
    ("same pair twice", lambda pairs, outside: pairs[1].__setitem__([1, 0], pairs[0, :2]))])
def test_every_fault_of_a_pair_list_is_refused(pictures, splits, fault, damage):
    damage(splits.pairs["closed_set"]["test"], splits.parts["closed_set"]["train"][0])
    with pytest.raises(ValueError, match=f"closed_set test pairs hold .*{fault}"):
        check_splits(splits, pictures)


def test_saved_splits_are_read_again_unless_tampered_with_or_of_other_pictures(pictures, splits, tmp_path):
    path = tmp_path / "kept" / "splits.json"
    save_splits(splits, path)
    again = read_splits(path, pictures)
    assert again.fingerprint == splits.fingerprint
    assert same(again.parts, splits.parts) and same(again.pairs, splits.pairs)
    other = replace(pictures, fingerprint="0123456789abcdef", name="others")
    with pytest.raises(ValueError, match=f"{pictures.fingerprint}.*'others'.*0123456789abcdef.*another folder"):
        read_splits(path, other)
    content = json.loads(path.read_text())
    content["parts"]["closed_set"]["test"].append(content["parts"]["closed_set"]["train"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train and test share"):
        read_splits(path, pictures)


def edited(change):
    """A fault: the content of splits.json changed in place."""
    def fault(text):
        content = json.loads(text)
        change(content, content["parts"]["closed_set"], content["pairs"]["closed_set"])
        return json.dumps(content)

    return fault


FAULTS = {
    "cut": lambda text: text[:len(text) // 2], "empty": lambda text: "", "a list": lambda text: "[]",
    "binary": lambda text: "\x00\udcff",
    "no parts": edited(lambda content, part, pairs: content.pop("parts")),
    "no fingerprint": edited(lambda content, part, pairs: content.pop("fingerprint")),
    "no test": edited(lambda content, part, pairs: part.pop("test")),
    "no pairs of test": edited(lambda content, part, pairs: pairs.pop("test")),
    "no protocol": edited(lambda content, part, pairs: content.update(parts={}, pairs={})),
    "pairs of one protocol": edited(lambda content, part, pairs: content["pairs"].pop("open_set")),
    "an unknown protocol": edited(lambda content, part, pairs: [
        content[kind].update(my_set=content[kind]["closed_set"]) for kind in ("parts", "pairs")]),
    "an index too high": edited(lambda content, part, pairs: part["test"].append(10**6)),
    "an index below 0": edited(lambda content, part, pairs: part["test"].append(-1)),
    "half an index": edited(lambda content, part, pairs: part["test"].append(0.5)),
    "a word": edited(lambda content, part, pairs: part["test"].append("0")),
    "a picture twice": edited(lambda content, part, pairs: part["test"].append(part["test"][0])),
    "a test picture in train": edited(lambda content, part, pairs: part["train"].append(part["test"][0])),
    "a test picture moved to train": edited(lambda content, part, pairs: part["train"].append(part["test"].pop())),
    "pairs of two": edited(lambda content, part, pairs: pairs.update(test=[row[:2] for row in pairs["test"]])),
    "a pair outside": edited(lambda content, part, pairs: pairs["test"][0].__setitem__(0, 10**6)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_damaged_splits_are_named_with_a_remedy(pictures, splits, tmp_path, fault):
    path = tmp_path / "splits.json"
    save_splits(splits, path)
    path.write_text(fault(path.read_text()), errors="surrogateescape")
    with pytest.raises(ValueError, match=r"splits\.json holds no splits of these pictures.*move it away and run R1"):
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
        with pytest.raises(ValueError, match="no balanced pairs; give two species"):
            make_pairs(labels, indices, most, seed)
        return
    pairs = make_pairs(labels, indices, most, seed)
    assert pairs.dtype == np.int64 and pairs.shape[1] == 3
    first, second, same = pairs.T
    assert (first != second).all() and np.isin(pairs[:, :2], indices).all()
    assert len({frozenset(pair) for pair in pairs[:, :2].tolist()}) == len(pairs), "no pair twice, in either order"
    np.testing.assert_array_equal(same, labels[first] == labels[second])
    assert 2 * same.sum() == len(same) == 2 * min(most // 2, every[:, 2].sum(), (1 - every[:, 2]).sum())
    np.random.seed(data.draw(st.integers(0, 9)))
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


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_drawn_as_from_a_list_of_all(seed):
    generator = np.random.default_rng(seed)
    labels, indices = generator.integers(0, 5, 60) - 2, generator.permutation(60)[: generator.integers(10, 60)]
    every, generator = all_pairs(labels, indices), np.random.default_rng(seed)
    kinds = [every[every[:, 2] == same] for same in (1, 0)]
    expected = [generator.choice(kind, min(*map(len, kinds), 100), replace=False) for kind in kinds]
    np.testing.assert_array_equal(make_pairs(labels, indices, 200, seed), np.concatenate(expected))


def test_some_pairs_are_the_first_of_each_kind():
    pairs = make_pairs(np.repeat(np.arange(4), 5), np.arange(20), 60, 0)
    assert some_pairs(pairs, 10).tolist() == [*pairs[:5].tolist(), *pairs[30:35].tolist()]
    np.testing.assert_array_equal(some_pairs(pairs, 1000), pairs)
    assert some_pairs(pairs[2:33], 20).tolist() == [*pairs[2:5].tolist(), *pairs[30:33].tolist()], "3 of each are left"
    assert len(some_pairs(pairs, 2)) == 2
    for count in (0, 3, -2):
        with pytest.raises(ValueError, match="even number"):
            some_pairs(pairs, count)
