"""Drawings of explanations: what lies where, in which color; nothing to show is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import ConnectionPatch

from common.explanations.figures import concepts, correspondences, overlay

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), np.uint8)


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close("all")


def test_overlay_scales_each_map_around_zero_and_covers_its_picture():
    maps = np.array([[[1.0, -4.0], [0.0, 2.0]], [[0.1, 0.2], [0.3, 0.4]], [[-1.0, -2.0], [-3.0, 0.0]]])
    figure = overlay(IMAGES, maps, ["a", "b", "c"], "Maps", columns=2)
    drawn = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in drawn] == ["a", "b", "c"] and figure._suptitle.get_text() == "Maps"
    for axis, one, image, largest in zip(drawn, maps, IMAGES, (4.0, 0.4, 3.0), strict=True):
        picture, shade = axis.images
        gray = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        np.testing.assert_allclose(picture.get_array(), np.stack([gray] * 3, -1), atol=0.5)
        np.testing.assert_array_equal(shade.get_array(), one)
        assert shade.get_clim() == (-largest, largest) and shade.get_extent() == [-0.5, 23.5, 15.5, -0.5]
    red, blue = drawn[0].images[1].cmap(1.0), drawn[0].images[1].cmap(0.0)
    assert red[0] > red[2] and blue[2] > blue[0], "red speaks for, blue against"


@pytest.mark.parametrize("value, reason", [(0.0, "zero everywhere"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_maps_that_show_nothing_are_not_drawn(value, reason):
    maps = np.ones((3, 2, 2))
    maps[1] = value
    with pytest.raises(ValueError, match=f"a map is {reason}"):
        overlay(IMAGES, maps, "abc", "Maps")


def test_correspondences_join_the_locations_named():
    terms = pd.DataFrame(
        [[0, 0, 1, 2, 0.4], [1, 1, 0, 0, 0.1]],
        columns=["first_row", "first_column", "second_row", "second_column", "contribution"],
    )
    figure = correspondences(IMAGES[0], IMAGES[1], terms, (2, 3), "Pairs")
    lines = [artist for artist in figure.artists if isinstance(artist, ConnectionPatch)]
    assert [(line.xy1, line.xy2) for line in lines] == [((3.5, 3.5), (19.5, 11.5)), ((11.5, 11.5), (3.5, 3.5))]
    assert lines[0].axesA is figure.axes[0] and lines[0].axesB is figure.axes[1]
    assert lines[0].get_linewidth() > lines[1].get_linewidth()
    assert lines[0].get_edgecolor() != lines[1].get_edgecolor()
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.moveaxis(IMAGES[0], 0, -1))
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[19.5, 11.5]]


def test_a_concept_has_one_color_in_all_pictures():
    maps = np.zeros((2, 2, 1, 2))
    maps[0, 0, 0, 0] = maps[1, 0, 0, 1] = 10.0
    maps[0, 1, 0, 1] = 0.5
    figure = concepts(IMAGES[:2], maps, ["one", "other"], "Concepts")
    one, other = (axis.images[1].get_array() for axis in figure.axes)
    np.testing.assert_allclose(one[0, 0], other[0, 1])
    assert not np.allclose(one[0, 0, :3], one[0, 1, :3])
    assert one[0, 1, 3] == pytest.approx(one[0, 0, 3]), "each concept is as strong as it gets"
    assert other[0, 0, 3] == 0, "no concept, no color"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["concept 1", "concept 2"]
