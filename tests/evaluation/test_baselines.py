"""Features without training: against slow references, on damage and on planted answers."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.evaluation.baselines import central_color, chance, color_histogram, raw_pixels
from common.evaluation.metrics import cosine_scores, roc_auc


def noise(count=6, high=20, wide=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, high, wide), dtype=np.uint8)


def flat(*colors):
    return np.array(colors, np.uint8)[:, :, None, None] * np.ones((8, 8), np.uint8)


@pytest.mark.parametrize("features", [chance, raw_pixels, color_histogram, central_color])
def test_features_have_their_form_and_equal_pictures_equal_ones(features):
    whole = features(noise(7, 18, 24)[[0, 1, 2, 3, 4, 5, 0]])
    assert whole.dtype == np.float32 and whole.shape[0] == 7 and np.isfinite(whole).all()
    assert len(features(noise(0))) == 0
    assert np.abs(whole[0] - whole[1]).max() > 0.01
    assert np.array_equal(whole[0], whole[6]) == (features != chance)


def test_chance_is_seeded_and_knows_nothing_of_the_pictures():
    images, others = noise(400), noise(400, seed=1)
    np.testing.assert_array_equal(chance(images, seed=3), chance(others, seed=3))
    assert np.abs(chance(images, seed=3) - chance(images, seed=4)).max() > 0.1
    labels = np.arange(400) % 2
    rows, columns = np.triu_indices(400, 1)
    pairs = np.stack([rows, columns, labels[rows] == labels[columns]], 1)
    assert roc_auc(cosine_scores(chance(images), pairs), pairs[:, 2]) == pytest.approx(0.5, abs=0.02)


def test_thumbnails_are_block_means_without_the_mean_color():
    images = noise(2, 64, 64) // 2
    blocks = images.reshape(2, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    expected = (blocks - blocks.mean(axis=(2, 3), keepdims=True)) / 255
    found = raw_pixels(images).reshape(2, 3, 16, 16)
    np.testing.assert_allclose(found, expected, atol=1 / 255)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(raw_pixels(images + np.uint8(40)), raw_pixels(images), atol=1e-6)


def test_histogram_agrees_with_the_standard_librarys_hsv():
    # OpenCV keeps hue in steps of 2 degrees and saturation in 255ths: colors away from the cells' walls agree.
    colors = [(230, 40, 40), (40, 200, 60), (50, 60, 210), (120, 30, 90), (200, 190, 60), (90, 90, 90), (0, 0, 0)]
    bins, counts = (12, 4, 4), np.zeros((12, 4, 4))
    for color in np.array(colors) / 255:
        counts[tuple(min(int(value * size), size - 1) for value, size in zip(colorsys.rgb_to_hsv(*color), bins))] += 1
    images = np.array(colors, np.uint8).T[None, :, :, None]
    np.testing.assert_allclose(color_histogram(images, bins)[0], np.sqrt(counts / 7).ravel(), atol=1e-6)
    assert (counts > 0).sum() >= 6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 12), st.integers(3, 12))
def test_cosine_of_histograms_is_the_bhattacharyya_coefficient(seed, high, wide):
    images = noise(2, high, wide, seed) // 32 * 32
    features = color_histogram(images)
    shares = features.astype(float) ** 2
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    hellinger = np.sqrt(0.5 * ((np.sqrt(shares[0]) - np.sqrt(shares[1])) ** 2).sum())
    score = cosine_scores(features, np.array([[0, 1]]))[0]
    assert score == pytest.approx(1 - hellinger**2, abs=1e-5)
    shuffled = images.reshape(2, 3, -1)[:, :, np.random.default_rng(seed).permutation(high * wide)]
    np.testing.assert_allclose(color_histogram(shuffled.reshape(images.shape)), features, atol=1e-6)


def test_histogram_counts_only_the_pixels_asked_for():
    images = np.concatenate([flat((250, 20, 20)), flat((20, 20, 250))], axis=3)  # red beside blue
    left = np.zeros((8, 16), bool)
    left[:, :8] = True
    red, blue = color_histogram(flat((250, 20, 20), (20, 20, 250)))
    assert red @ blue == 0
    np.testing.assert_allclose(color_histogram(images, where=left)[0], red, atol=1e-6)
    np.testing.assert_allclose(color_histogram(images, where=~left[None])[0], blue, atol=1e-6)
    np.testing.assert_array_equal(color_histogram(images, where=np.zeros((1, 8, 16), bool)), 0)


def test_central_color_counts_a_disc_and_nothing_else():
    images, (y, x) = noise(3, 21, 21), np.mgrid[:21, :21] - 10
    changed = np.where(np.hypot(x, y) > 21 / 4, 255 - images, images)
    np.testing.assert_array_equal(central_color(images), central_color(changed))
    np.testing.assert_array_equal(central_color(images), color_histogram(images, where=np.hypot(x, y) <= 21 / 4))
