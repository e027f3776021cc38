"""Pictures for the eye: drawn flowers are drawn again, larger; all others are left as they are."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from toys import config

from common.datasets import images_to_show, load_images


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return config(tmp_path_factory.mktemp("shown"), species=4, pictures_per_species=3, image_size=64, seed=5)


@pytest.fixture(scope="module")
def flowers(settings):
    return load_images(settings)


def test_flowers_drawn_again_are_the_stored_ones(flowers, settings):
    half = replace(flowers, images=flowers.images[:, :, ::2, ::2])  # not what was drawn at 32 pixels
    assert images_to_show(half, [1, 5], 64).shape == (2, 3, 32, 32)
    larger = load_images(replace(settings, image_size=96))
    np.testing.assert_array_equal(images_to_show(flowers, [1, 5, 5], 96), larger.images[[1, 5, 5]])
    np.testing.assert_array_equal(images_to_show(larger, [1, 5], 64), larger.images[[1, 5]])  # large enough


def test_drawn_larger_they_are_the_same_pictures(flowers):
    chosen = [7, 0, 11]
    large = images_to_show(flowers, chosen)
    assert large.shape == (3, 3, 192, 192) and large.dtype == np.uint8
    small = [cv2.resize(one.transpose(1, 2, 0), (64, 64), interpolation=cv2.INTER_AREA) for one in large]
    apart = np.abs(np.array(small, float).transpose(0, 3, 1, 2) - flowers.images[chosen]).mean((1, 2, 3))
    assert (apart < 12).all(), apart
    strangers = np.abs(np.array(small, float).transpose(0, 3, 1, 2) - flowers.images[[0, 11, 7]]).mean((1, 2, 3))
    assert (strangers > 2 * apart).all(), "of 255, on average"


def test_other_pictures_are_left_as_they_are(flowers):
    photographs = replace(flowers, name="folder", factors=None)
    np.testing.assert_array_equal(images_to_show(photographs, [3, 1]), flowers.images[[3, 1]])
    changed = replace(flowers, images=255 - flowers.images)
    np.testing.assert_array_equal(images_to_show(changed, [3, 1]), changed.images[[3, 1]])
