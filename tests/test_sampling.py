"""Batches and augmentation: every picture once, seeded, in [0, 1], differentiable."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import image_set

from common.sampling import Pictures, as_float, augment, batches, triplet_batches


@pytest.fixture(scope="module")
def pictures():
    return image_set(each=6, size=8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pixels(count=6, size=24, seed=0):
    return torch.rand(count, 3, size, size, generator=seeded(seed))


def test_pictures_come_with_their_labels(pictures):
    chosen = Pictures(pictures, [40, 3, 7])
    images, labels = chosen.__getitems__([2, 0])
    assert len(chosen) == 3
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(images.numpy(), pictures.images[[7, 40]])
    assert labels.tolist() == pictures.labels[[7, 40]].tolist()
    assert Pictures(pictures, [40, 3, 7], labels=[5, 6, 7])[1][1].tolist() == [6]


@settings(deadline=None)
@given(st.integers(2, 48), st.integers(1, 20), st.booleans(), st.integers(0, 99))
def test_an_epoch_shows_every_picture_once(count, batch_size, shuffle, seed):
    pictures = image_set(each=6, size=2)
    indices = np.random.default_rng(seed).permutation(48)[:count]
    loader = batches(Pictures(pictures, indices, labels=indices), batch_size, shuffle, seed)
    shown = [labels.tolist() for _, labels in loader]
    lone = shuffle and count > batch_size > 1 and count % batch_size == 1  # BatchNorm cannot train on one
    assert len(loader) == len(shown)
    assert max(map(len, shown)) <= batch_size
    flat = [index for batch in shown for index in batch]
    assert len(set(flat)) == len(flat) == count - lone and set(flat) <= set(indices.tolist())
    if not shuffle:
        assert flat == indices.tolist()
    for images, labels in loader:
        np.testing.assert_array_equal(images.numpy(), pictures.images[labels.numpy()])


def test_the_order_is_seeded_and_new_in_every_epoch(pictures):
    def orders(seed):
        loader = batches(Pictures(pictures, np.arange(48), labels=np.arange(48)), 8, True, seed)
        return [torch.cat([labels for _, labels in loader]).tolist() for _ in range(2)]

    torch.manual_seed(1)
    first, second = orders(0)
    assert first != second and first != sorted(first)
    torch.manual_seed(2)
    assert orders(0) == [first, second]
    assert orders(1)[0] != first


def test_pixels_become_floats_from_zero_to_one():
    found = as_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([0, 0.2, 1]))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(4, 20), st.integers(4, 20), st.integers(0, 999))
def test_augmented_pictures_keep_their_form_and_range(count, high, wide, seed):
    images = torch.rand(count, 3, high, wide, generator=seeded(seed)).round(decimals=1)
    varied = augment(images, seeded(seed))
    assert varied.shape == images.shape and varied.dtype == images.dtype
    assert varied.min() >= 0 and varied.max() <= 1


def test_augmentation_is_seeded_and_leaves_its_input():
    images = pixels()
    before = images.clone()
    varied = augment(images, seeded(0))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(augment(images, seeded(0)), varied)
    assert torch.equal(torch.get_rng_state(), state), "a generator of its own leaves the global one alone"
    assert not torch.equal(augment(images, seeded(1)), varied)
    assert torch.equal(images, before)


def test_every_picture_of_a_batch_is_varied_in_its_own_way():
    varied = augment(pixels(1).expand(8, -1, -1, -1), seeded(0))
    for one in range(8):
        for other in range(one):
            assert (varied[one] - varied[other]).abs().max() > 0.05


def test_augmentation_flips_half_the_pictures_and_moves_no_picture_far():
    ramp = torch.linspace(0.3, 0.7, 24).expand(400, 3, 24, 24)  # dark on the left, bright on the right
    varied = augment(ramp, seeded(0))
    rises = (varied[..., -6:].mean((1, 2, 3)) > varied[..., :6].mean((1, 2, 3))).float().mean()
    assert 0.4 < rises < 0.6
    upright = augment(ramp.transpose(2, 3), seeded(0))  # the same ramp from top to bottom is never turned over
    assert (upright[..., -6:, :].mean((1, 2, 3)) > upright[..., :6, :].mean((1, 2, 3))).all()
    assert (varied.mean((1, 2, 3)) - 0.5).abs().max() < 0.25


def test_brightness_and_contrast_vary_within_their_bounds():
    flat = torch.full((300, 3, 8, 8), 0.5)
    means = augment(flat, seeded(0)).mean((1, 2, 3))
    assert means.min() >= 0.4 - 1e-6 and means.max() <= 0.6 + 1e-6
    assert means.std() > 0.04
    assert augment(flat, seeded(0)).std((1, 2, 3)).max() < 1e-5, "a flat picture stays flat, without a border"


def test_augmentation_is_differentiable():
    images = (0.3 + 0.4 * pixels(2, 5)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda inputs: augment(inputs, seeded(0)), images)
    (gradient,) = torch.autograd.grad(augment(images, seeded(0)).sum(), images)
    assert gradient.abs().sum() > 1


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 60), st.integers(0, 99))
def test_given_triplets_take_turns(count, size, shown, seed):
    pictures = image_set(each=6, size=2)
    triplets = np.random.default_rng(seed).integers(0, len(pictures), (count, 3))
    loader = triplet_batches(pictures, triplets, size, shown, seed)
    rows = []
    for images, labels in loader:
        assert len(images) == len(labels) == 3 * min(size, count)
        anchors, positives, negatives = (part.numpy() for part in images.chunk(3))
        rows += [np.stack(row) for row in zip(anchors, positives, negatives, strict=True)]
        assert labels.tolist() == [pictures.labels[pictures.images.tolist().index(image.tolist())] for image in images]
    assert abs(3 * len(rows) - shown) <= 1.5 * min(size, count) or len(loader) == 1
    wanted = [pictures.images[triplet].tolist() for triplet in triplets]
    times = np.bincount([wanted.index(row.tolist()) for row in rows], minlength=count)
    repeated = len(np.unique(triplets, axis=0)) < count
    assert repeated or times.max() - times.min() <= 1


def test_given_triplets_are_seeded_and_new_in_every_epoch():
    pictures, triplets = image_set(each=6, size=2), np.arange(30).reshape(10, 3)
    epochs = [[labels.tolist() for _, labels in loader] for loader in [triplet_batches(pictures, triplets, 4, 30)] * 2]
    again = [labels.tolist() for _, labels in triplet_batches(pictures, triplets, 4, 30)]
    assert epochs[0] == again != epochs[1]
    with pytest.raises(ValueError, match="there is no triplet"):
        triplet_batches(pictures, np.zeros((0, 3), int), 4, 30)
