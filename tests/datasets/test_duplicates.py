"""Copies are found, and of each group the right one stays: planted copies and slow references."""

import io
import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import encoded, smooth

from common.config import setup
from common.datasets import duplicates
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.images import SPLITS, ImageSet
from common.datasets.splits import make_splits


def pictures(labels, official=None, images=None):
    """An `ImageSet` of these labels, its pictures (N, 3, H, W) all different where none are given."""
    labels = np.asarray(labels)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] if images is None else images
    hashes = np.array([image.tobytes().hex()[:200] for image in images])
    return ImageSet("planted", images, labels, [], [], hashes, pd.DataFrame(), "f" * 16, official=official or {})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_of_each_group_stays_as_a_slow_reference_says(data):
    """The first of test, else of validation, else of train; none where two labels leave open which is right."""
    count = data.draw(st.integers(2, 12))
    labels = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    where = data.draw(st.lists(st.sampled_from(SPLITS), min_size=count, max_size=count))
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=8))
    groups = [{place} for place in range(count)]
    for first, second in pairs:
        joined = next(g for g in groups if first in g) | next(g for g in groups if second in g)
        groups = [g for g in groups if not g & joined] + [joined]
    wanted = {min(group, key=lambda place: (-SPLITS.index(where[place]), place)) for group in groups
              if len({labels[place] for place in group}) == 1}
    official = {name: np.flatnonzero(np.array(where) == name) for name in SPLITS}
    table = pd.DataFrame(pairs, columns=["first", "second"]).astype(int)
    assert set(np.flatnonzero(keep_one(pictures(labels, official), table))) == wanted


def test_planted_copies_never_cross_a_split():
    coarse = np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8))
    images = coarse.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)
    images[40:50] = images[:10]  # exact copies in the other half, the official test
    images[50:55] = np.clip(images[10:15] * 0.99 + 1, 0, 255)  # nearly exact ones
    labels = np.arange(80) % 4
    labels[40:55] = labels[:15]
    labels[40] = (labels[0] + 1) % 4  # the same picture, another label
    official = {"train": np.arange(0, 20), "validation": np.arange(20, 40), "test": np.arange(40, 80)}
    planted = pictures(labels, official, images)
    keep = keep_one(planted, find_duplicates(planted))
    assert np.flatnonzero(~keep).tolist() == [*range(15), 40]
    assert len(make_splits(planted, setup(), keep).parts["closed_set"]["test"]) == 39


def found_in(arrays):
    """The table of duplicates among H x W x 3 arrays, and its pairs."""
    images = np.stack(arrays).transpose(0, 3, 1, 2)
    table = find_duplicates(pictures(np.zeros(len(arrays), int), images=images))
    return table, list(zip(table["first"].tolist(), table["second"].tolist()))


def test_copies_are_found_and_nothing_else(monkeypatch):
    originals = [smooth(seed, 64) for seed in range(60)]
    recoded = np.asarray(Image.open(io.BytesIO(encoded(originals[5], quality=60))))
    rescaled = np.asarray(Image.fromarray(originals[9]).resize((90, 90)).resize((64, 64)))
    brighter = (originals[20].astype(int) + 4).clip(0, 255).astype(np.uint8)
    flat = [np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)]
    arrays = [*originals, originals[0], recoded, rescaled, brighter, *flat]
    table, pairs = found_in(arrays)
    assert set(pairs) == {(0, 60), (5, 61), (9, 62), (20, 63)} and pairs[0] == (0, 60)
    assert table.distance.is_monotonic_increasing and table.distance[0] == 0
    monkeypatch.setattr(duplicates, "ROWS", 7)
    assert found_in(arrays)[1] == pairs


def test_no_duplicates_gives_an_empty_table_and_equal_pictures_all_their_pairs():
    table, _ = found_in([smooth(1), smooth(2)])
    assert len(table) == 0 and list(table) == ["first", "second", "distance"]
    assert found_in([smooth(4)] * 100)[1] == list(itertools.combinations(range(100), 2))


def slow_hash(array):
    """The perceptual hash in plain sums: 2 x 2 averages, then sums of cosines, then bits against the median."""
    small = np.array([[array[r:r + 2, c:c + 2].mean() for c in range(0, 64, 2)] for r in range(0, 64, 2)])
    angles = (np.arange(32) + 0.5) * np.pi / 32
    table = [(small * np.outer(np.cos(v * angles), np.cos(u * angles))).sum() for v in range(8) for u in range(8)]
    return np.array(table) > np.median(table[1:])


@pytest.mark.parametrize("bits", [2, 6, 12])
def test_hashes_agree_with_a_slow_reference(monkeypatch, bits):
    rng = np.random.default_rng(0)
    arrays = [(smooth(seed, 64) + rng.normal(0, 6 * step, (64, 64, 3))).clip(0, 255).astype(np.uint8)
              for seed in range(4) for step in range(6)]
    hashes = [slow_hash(array) for array in arrays]
    expected = {(a, b) for a, b in itertools.combinations(range(24), 2) if (hashes[a] != hashes[b]).sum() <= bits}
    monkeypatch.setattr(duplicates, "BITS", bits)
    monkeypatch.setattr(duplicates, "DIFFERENCE", 255)
    assert set(found_in(arrays)[1]) == expected and expected


def test_large_pictures_are_made_small_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(duplicates, "VALUES", 2**19)
    image_set = toys.image_set(2, 20, 256)
    tracemalloc.start()
    find_duplicates(image_set)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**19 < 4 * image_set.images.size, "in bytes: far less than all pictures as numbers"
