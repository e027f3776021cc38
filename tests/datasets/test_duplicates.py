"""Which picture of a group of duplicates stays: rules checked on planted groups and against a slow reference."""

import dataclasses

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import setup
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.splits import NAMES, check_splits, make_splits


@dataclasses.dataclass
class Pictures:
    """As much of an `ImageSet` as the splits look at."""

    images: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray
    official: dict = dataclasses.field(default_factory=dict)
    fingerprint: str = "f" * 16
    name: str = "planted"
    disjoint: bool = False

    def __len__(self):
        return len(self.labels)


def pictures(labels, official=None):
    labels = np.asarray(labels)
    return Pictures(
        np.zeros((len(labels), 3, 1, 1), np.uint8), labels, np.arange(len(labels)).astype(str), official or {}
    )


def links(*pairs):
    return pd.DataFrame(list(pairs), columns=["first", "second"]).astype(int)


def test_without_duplicates_all_stay():
    assert keep_one(pictures([0, 0, 1]), links()).tolist() == [True] * 3


def test_the_first_stays_and_chains_are_one_group():
    keep = keep_one(pictures([0] * 6), links((4, 2), (1, 4), (3, 5)))
    assert keep.tolist() == [True, True, False, True, False, False]


def test_test_stays_rather_than_validation_rather_than_train():
    official = {"train": np.array([0, 1, 2]), "validation": np.array([3, 4]), "test": np.array([5])}
    keep = keep_one(pictures([0] * 7, official), links((0, 5), (1, 4), (2, 6)))
    assert keep.tolist() == [False, False, True, True, True, True, False]


def test_a_picture_under_two_labels_goes_entirely():
    official = {"train": np.array([0, 1]), "test": np.array([2, 3])}
    keep = keep_one(pictures([0, 1, 1, 0], official), links((0, 2)))
    assert keep.tolist() == [False, True, False, True]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_a_slow_reference(data):
    count = data.draw(st.integers(2, 12))
    labels = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    where = data.draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count))
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=8))
    groups = [{place} for place in range(count)]
    for first, second in pairs:
        joined = next(g for g in groups if first in g) | next(g for g in groups if second in g)
        groups = [g for g in groups if not g & joined] + [joined]
    wanted = set()
    for group in groups:
        if len({labels[place] for place in group}) == 1:
            wanted.add(min(group, key=lambda place: (-NAMES.index(where[place]), place)))
    official = {name: np.flatnonzero(np.array(where) == name) for name in NAMES}
    keep = keep_one(pictures(labels, official), links(*pairs))
    assert set(np.flatnonzero(keep)) == wanted


def test_planted_copies_never_cross_a_split():
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (80, 3, 8, 8))
    images = coarse.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)
    images[40:50] = images[:10]  # exact copies in the other half, the official test
    images[50:55] = np.clip(images[10:15] * 0.99 + 1, 0, 255)  # nearly exact ones
    labels = np.arange(80) % 4
    labels[40:55] = labels[:15]
    labels[40] = (labels[0] + 1) % 4  # the same picture, another label
    official = {"train": np.arange(0, 20), "validation": np.arange(20, 40), "test": np.arange(40, 80)}
    hashes = np.array([image.tobytes().hex()[:200] for image in images])
    planted = Pictures(images, labels, hashes, official)
    keep = keep_one(planted, find_duplicates(planted))
    assert np.flatnonzero(~keep).tolist() == [*range(15), 40]
    splits = make_splits(planted, setup(), keep)
    check_splits(splits, planted)
    assert len(splits.parts["closed_set"]["test"]) == 39
