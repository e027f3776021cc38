"""Batches and augmentation: every picture once or in turn, seeded, in [0, 1], differentiable."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import image_set

from common.datasets.batches import Pictures, as_float, augment, batches, species_batches, triplet_batches


@pytest.fixture(scope="module")
def pictures():
    return image_set(each=6, size=8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pixels(count=6, size=24, seed=0):
    return torch.rand(count, 3, size, size, generator=seeded(seed))


def test_pictures_come_with_their_labels(pictures):
    chosen = Pictures(pictures, [40, 3, 7])
    images, labels = chosen[[2, 0]]
    assert len(chosen) == 3
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(images.numpy(), pictures.images[[7, 40]])
    assert labels.tolist() == pictures.labels[[7, 40]].tolist()
    assert Pictures(pictures, [40, 3, 7], labels=[5, 6, 7])[[1]][1].tolist() == [6]


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


def epochs(labels, species, pictures, seed=0, count=1):
    """The positions in each batch of each epoch."""
    of_labels = Pictures(image_set(1, len(labels), 1), np.arange(len(labels)), labels)
    loader = species_batches(of_labels, species, pictures, seed)
    shown = [list(loader.batch_sampler) for _ in range(count)]
    assert {len(epoch) for epoch in shown} == {len(loader)}
    return shown if count > 1 else shown[0]


def uneven(counts, seed=0):
    """Labels of species with these numbers of pictures, shuffled and not consecutive."""
    return np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(counts)) - 5, counts))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.integers(2, 6), st.integers(2, 5), st.integers(0, 999))
def test_a_batch_has_p_species_with_k_pictures_or_all_they_have(counts, species, pictures, seed):
    counts[0] += 1  # at least one species has two
    labels = uneven(counts, seed)
    sizes = Counter(labels.tolist())
    for batch in epochs(labels, species, pictures, seed):
        drawn = Counter(labels[batch].tolist())
        assert len(set(batch)) == len(batch), "no picture twice"
        assert len(drawn) == min(species, len(counts))
        assert all(number == min(pictures, sizes[label]) for label, number in drawn.items())


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 9), st.integers(2, 12), st.integers(2, 9), st.integers(2, 6), st.integers(0, 999))
def test_an_epoch_of_equal_species_shows_as_many_pictures_as_there_are_in_turns(there, each, species, pictures, seed):
    labels = uneven([each] * there, seed)
    epoch = epochs(labels, species, pictures, seed)
    batch_size = min(species, there) * min(pictures, each)
    assert abs(sum(map(len, epoch)) - len(labels)) <= batch_size / 2
    for number in range(1, len(epoch) + 1):
        shown = [index for batch in epoch[:number] for index in batch]
        for label in np.unique(labels):
            times = [shown.count(index) for index in np.flatnonzero(labels == label)]
            assert max(times) - min(times) <= 1, "pictures of a species take turns"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=9), st.integers(2, 4), st.integers(0, 999))
def test_species_take_turns_whatever_their_size(counts, species, seed):
    """After every batch, each has been in as many batches as any other, give or take one."""
    labels = uneven([*counts, 60], seed)
    drawn = Counter()
    for batch in epochs(labels, species, 2, seed):
        drawn.update(set(labels[batch].tolist()))
        assert max(drawn.values()) - min(drawn[label] for label in np.unique(labels)) <= 1


def test_small_species_count_with_what_they_have():
    epoch = epochs(uneven([2] * 10), 5, 4)
    assert [len(batch) for batch in epoch] == [10, 10], "20 pictures, though 5 x 4 would be one batch"
    assert sorted(index for batch in epoch for index in batch) == list(range(20))


def test_species_batches_are_seeded_and_new_in_every_epoch():
    labels = uneven([6] * 5)
    torch.manual_seed(1)
    first, second = epochs(labels, 3, 2, count=2)
    assert first != second and first[0] != sorted(first[0])
    torch.manual_seed(2)
    np.random.seed(2)
    assert epochs(labels, 3, 2, count=2) == [first, second]
    assert epochs(labels, 3, 2, seed=1) != first
    assert epochs(labels, 3, 2) == epochs(labels.tolist(), 3, 2)


def test_species_come_in_a_random_order():
    labels = np.repeat(np.arange(6), 4)
    batches_shown = [batch for epoch in epochs(labels, 3, 2, count=30) for batch in epoch]
    met = {(one, other) for batch in batches_shown for one in labels[batch] for other in labels[batch]}
    assert len(met) == 36, "every species meets every other"
    opened = Counter(int(labels[epoch[0][0]]) for epoch in epochs(labels, 3, 2, count=300))
    assert len(opened) == 6 and min(opened.values()) > 25 and max(opened.values()) < 80


@pytest.mark.parametrize("labels, species, pictures, message", [
    ([0, 0, 1, 1], 1, 2, "1 species x 2 pictures hold no triplet; give 2 x 2 or more"),
    ([0, 0, 1, 1], 2, 1, "2 species x 1 pictures"),
    ([4, 4, 4], 2, 2, "3 pictures of 1 species hold no triplet; add pictures"),
    ([0, 1, 2], 2, 2, "3 pictures of 3 species")])
def test_what_holds_no_triplet_is_refused(labels, species, pictures, message):
    with pytest.raises(ValueError, match=message):
        epochs(labels, species, pictures)
    assert [sorted(batch) for batch in epochs([0, 0, 1], 2, 2)] == [[0, 1, 2]], "the least that does"


def test_species_batches_hold_the_pictures_themselves(pictures):
    chosen = np.random.default_rng(0).permutation(np.arange(6, 48))  # 7 of the 8 species

    def shown(seed):
        loader = species_batches(Pictures(pictures, chosen), 3, 2, seed)
        found = list(loader)
        assert len(loader) == len(found) == 7
        return found

    for images, labels in shown(0):
        assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (6, 3, 8, 8), torch.int64)
        assert sorted(Counter(labels.tolist()).values()) == [2, 2, 2] and 0 not in labels
        for image, label in zip(images.numpy(), labels.tolist(), strict=True):
            (where,) = np.flatnonzero((pictures.images == image).all((1, 2, 3)))
            assert pictures.labels[where] == label and where in chosen
    assert all(torch.equal(one[0], other[0]) for one, other in zip(shown(0), shown(0), strict=True))
    assert not torch.equal(shown(0)[0][0], shown(1)[0][0])


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
    weaker = augment(flat, seeded(0), 0.5).mean((1, 2, 3))
    torch.testing.assert_close(weaker - 0.5, (means - 0.5) / 2)


def test_without_strength_pictures_are_flipped_at_most():
    images = pixels()
    varied = augment(images, seeded(0), 0.0)
    for before, after in zip(images, varied, strict=True):
        assert min((after - shown).abs().max() for shown in (before, before.flip(2))) < 1e-5


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
