"""Batches and augmentation: every picture once or in turn, seeded, in [0, 1], differentiable."""

import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import image_set, pixels

from common.config import ROOT
from common.datasets.batches import (
    Pictures,
    as_float,
    augment,
    batches,
    exact,
    pair_batch,
    species_batches,
    triplet_batches,
)  # fmt: skip

PICTURES = image_set(each=6, size=2)
SEEDS = st.integers(0, 999)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def places(images):
    """Where in PICTURES these images are."""
    return [PICTURES.images.tolist().index(image) for image in images.tolist()]


def test_pictures_come_with_their_labels():
    images, labels = Pictures(PICTURES, [40, 3, 7])[[2, 0]]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert places(images) == [7, 40] and labels.tolist() == PICTURES.labels[[7, 40]].tolist()
    assert Pictures(PICTURES, [40, 3, 7], labels=[5, 6, 7])[[1]][1].tolist() == [6]


def test_pixels_become_floats_from_zero_to_one():
    torch.testing.assert_close(as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0, 0.2, 1]))
    first, second, same = pair_batch(PICTURES, [[3, 40, 0], [7, 8, 1]])
    assert places((255 * first).round().int()) == [3, 7] and places((255 * second).round().int()) == [40, 8]
    assert same.tolist() == [0, 1]


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 48), st.integers(1, 20), st.booleans(), SEEDS)
def test_an_epoch_shows_every_picture_once(count, batch_size, shuffle, seed):
    indices = np.random.default_rng(seed).permutation(48)[:count]
    loader = batches(Pictures(PICTURES, indices, labels=indices), batch_size, shuffle, seed)
    shown = []
    for images, labels in loader:
        assert len(images) <= batch_size and places(images) == labels.tolist()
        shown.append(labels.tolist())
    assert len(loader) == len(shown)
    lone = shuffle and count > batch_size > 1 and count % batch_size == 1  # BatchNorm cannot train on one
    flat = [index for batch in shown for index in batch]
    assert len(set(flat)) == len(flat) == count - lone and set(flat) <= set(indices.tolist())
    assert shuffle or flat == indices.tolist()


@pytest.mark.parametrize("make", [
    lambda seed: batches(Pictures(PICTURES, np.arange(48)), 8, True, seed),
    lambda seed: species_batches(Pictures(PICTURES, np.arange(48)), 3, 2, seed),
    lambda seed: triplet_batches(replace(PICTURES, triplets=np.arange(30).reshape(10, 3)), 4, np.arange(30), seed)])
def test_the_order_is_seeded_and_new_in_every_epoch(make):
    def orders(seed):
        shown = [[(places(images), labels.tolist()) for images, labels in loader] for loader in [make(seed)] * 2]
        assert all(PICTURES.labels[where].tolist() == labels for epoch in shown for where, labels in epoch)
        return shown

    torch.manual_seed(1)
    first, second = orders(0)
    assert first != second
    torch.manual_seed(2)
    np.random.seed(2)
    assert orders(0) == [first, second] and orders(1)[0] != first


# --- species take turns ---

def epochs(labels, species, pictures, seed=0, count=1):
    """The positions in each batch of `count` epochs."""
    of_labels = Pictures(image_set(1, len(labels), 1), np.arange(len(labels)), labels)
    loader = species_batches(of_labels, species, pictures, seed)
    shown = [list(loader.batch_sampler) for _ in range(count)]
    assert {len(epoch) for epoch in shown} == {len(loader)}
    return [batch for epoch in shown for batch in epoch]


def uneven(counts, seed=0):
    """Labels of species with these numbers of pictures, shuffled and not consecutive."""
    return np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(counts)) - 5, counts))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), max_size=9), st.integers(2, 30), st.integers(2, 6), st.integers(2, 5), SEEDS)
def test_species_and_their_pictures_take_turns(counts, largest, species, pictures, seed):
    labels = uneven([*counts, 1, largest], seed)
    sizes, turns, times, shown = Counter(labels.tolist()), Counter(), Counter(), epochs(labels, species, pictures, seed)
    for batch in shown:
        drawn = Counter(labels[batch].tolist())
        assert len(set(batch)) == len(batch), "no picture twice"
        assert len(drawn) == min(species, len(sizes))
        assert all(number == min(pictures, sizes[label]) for label, number in drawn.items())
        turns.update(drawn.keys())
        times.update(batch)
        assert max(turns.values()) - min(turns[label] for label in sizes) <= 1, "whatever their size"
        for label in sizes:
            assert np.ptp([times[index] for index in np.flatnonzero(labels == label)]) <= 1
    batch_size = min(species, len(sizes)) * np.mean([min(pictures, size) for size in sizes.values()])
    assert abs(len(shown) * batch_size - len(labels)) <= batch_size / 2 + 1e-9 or len(shown) == 1


def test_species_come_in_a_random_order():
    labels = np.repeat(np.arange(6), 4)
    shown = epochs(labels, 3, 2, count=300)
    met = Counter((one, other) for batch in shown for one in labels[batch] for other in labels[batch] if one != other)
    assert len(met) == 30 and min(met.values()) > 0.5 * max(met.values()), "every species meets every other"


@pytest.mark.parametrize("labels, species, pictures, message", [
    ([0, 0, 1, 1], 1, 2, "1 species x 2 pictures"), ([0, 0, 1, 1], 2, 1, "give 2 x 2 or more"),
    ([4, 4, 4], 2, 2, "1 species hold no triplet"), ([0, 1, 2], 2, 2, "3 species.* add pictures")])
def test_what_holds_no_triplet_is_refused(labels, species, pictures, message):
    with pytest.raises(ValueError, match=message):
        epochs(labels, species, pictures)
    assert [sorted(batch) for batch in epochs([0, 0, 1], 2, 2)] == [[0, 1, 2]], "the least that does"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(36, 47), SEEDS)
def test_given_triplets_take_turns(count, size, shown, seed):
    triplets = np.random.default_rng(seed).permutation(shown)[:3 * count].reshape(count, 3)
    pictures = replace(PICTURES, triplets=np.concatenate([[[0, 1, 47]], triplets]))  # 47 is not to be seen
    loader, rows = triplet_batches(pictures, size, np.arange(shown), seed), []
    for images, labels in loader:
        assert len(images) == 3 * min(size, count) and labels.tolist() == PICTURES.labels[places(images)].tolist()
        rows += np.reshape(places(images), (3, -1)).T.tolist()  # anchors, then positives, then negatives
    assert abs(3 * len(rows) - shown) <= 1.5 * min(size, count) or len(loader) == 1
    times = np.bincount([triplets.tolist().index(row) for row in rows], minlength=count)
    assert np.ptp(times) <= 1
    with pytest.raises(ValueError, match="no triplet"):
        triplet_batches(pictures, size, [47])


# --- augmentation ---

@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(4, 20), st.integers(4, 20), SEEDS)
def test_augmented_pictures_keep_their_form_and_range_and_are_seeded(count, high, wide, seed):
    images = torch.rand(count, 3, high, wide, generator=seeded(seed)).round(decimals=1)
    before, state = images.clone(), torch.get_rng_state()
    varied = augment(images, seeded(seed))
    assert varied.shape == images.shape and varied.dtype == images.dtype
    assert varied.min() >= 0 and varied.max() <= 1
    assert torch.equal(augment(images, seeded(seed)), varied) and not torch.equal(augment(images, seeded(-1)), varied)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state), "a generator of its own leaves the global one alone"


def test_augmentation_flips_half_the_pictures_and_moves_no_picture_far():
    ramp = torch.linspace(0.3, 0.7, 24).expand(400, 3, 24, 24)  # dark on the left, bright on the right
    varied = augment(ramp, seeded(0))
    assert 0.4 < (varied[..., -6:].mean((1, 2, 3)) > varied[..., :6].mean((1, 2, 3))).float().mean() < 0.6
    assert (varied.mean((1, 2, 3)) - 0.5).abs().max() < 0.25
    upright = augment(ramp.transpose(2, 3), seeded(0))  # the same ramp from top to bottom is never turned over
    assert (upright[..., -6:, :].mean((1, 2, 3)) > upright[..., :6, :].mean((1, 2, 3))).all()


def test_brightness_and_contrast_vary_within_their_bounds_and_nothing_without_strength():
    flat = torch.full((300, 3, 8, 8), 0.5)
    varied = augment(flat, seeded(0))
    means = varied.mean((1, 2, 3))
    assert means.min() >= 0.4 - 1e-6 and means.max() <= 0.6 + 1e-6 and means.std() > 0.04
    assert varied.std((1, 2, 3)).max() < 1e-5, "a flat picture stays flat, without a border"
    torch.testing.assert_close(augment(flat, seeded(0), 0.5).mean((1, 2, 3)) - 0.5, (means - 0.5) / 2)
    images = pixels(6, 24)
    for before, after in zip(images, augment(images, seeded(0), 0.0), strict=True):
        assert min((after - shown).abs().max() for shown in (before, before.flip(2))) < 1e-5, "flipped at most"


def test_augmentation_is_differentiable():
    images = (0.3 + 0.4 * pixels(2, 5)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda inputs: augment(inputs, seeded(0)), images)
    (gradient,) = torch.autograd.grad(augment(images, seeded(0)).sum(), images)
    assert gradient.abs().sum() > 1


def test_exact_numbers_are_of_the_cpu_where_their_device_has_none(monkeypatch):
    """Apple's GPU knows no float64; a stand-in for its tensors must be moved before it is widened."""
    class Apple:
        device = SimpleNamespace(type="mps")
        double = None

        def cpu(self):
            return torch.ones(2)

    assert exact(Apple()).dtype == torch.float64 and exact(torch.ones(2)).dtype == torch.float64
    code = {path: path.read_text() for path in (ROOT / "common").rglob("*.py")}
    widened = {path.name for path, text in code.items() if re.search(r"(?<!cpu\(\))\.double\(\)|torch\.float64", text)}
    assert widened <= {"batches.py", "backbones.py", "gradient.py"}, "there on tensors that lie on the CPU"
