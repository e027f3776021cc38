"""Diagrams are drawn and say their words."""

import numpy as np

from common import diagrams


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.axes[0].texts)


def test_triplet_rings_give_each_negative_the_loss_of_its_place():
    figure = diagrams.triplet_rings(0.6, 0.5)
    assert [ring.radius for ring in figure.axes[0].patches][-2:] == [0.5**0.5, 1.1**0.5]
    for kind, place in (("easy", 2), ("semi-hard", 3), ("hard", 4)):
        (x,), (y,) = figure.axes[0].lines[place].get_data()
        said = f"{kind} negative $d^2$ = {x**2 + y**2:.2f}, loss {max(0, 0.5 - x**2 - y**2 + 0.6):.2f}"
        assert said in words(figure).replace("\n", " ")


def test_triplet_steps_start_at_the_points_and_are_as_long_as_given():
    points = {"anchor": (0.0, 0.0), "positive": (-1.0, 0.0), "negative": (1.0, 0.5)}
    figure = diagrams.triplet_steps(points, np.array([[-0.3, 0.1], [0.2, 0.0], [0.1, 0.1]]))
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) and not text.get_text()]
    assert np.allclose([arrow.xy for arrow in arrows], [[-0.3, 0.1], [-0.8, 0.0], [1.1, 0.6]])
    assert all(name in words(figure) for name in points)


def test_two_towers_show_both_pictures_and_the_numbers_given():
    first, second = np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 255, np.uint8)
    numbers = {"gap": np.ones(2), "product": np.array([0.25, 0.5]), "s": 9.65}
    figure = diagrams.two_towers(first, second, numbers)
    assert [image.get_array().max() for image in figure.axes[0].images] == [0, 255]
    assert all(said in words(figure) for said in ("sum 2.000", "sum 0.750", "9.65"))
    assert "9.65" not in words(diagrams.two_towers(first, second)) and "w_1$ =" not in words(figure)
    assert "$w_2$ = 10" in words(diagrams.two_towers(first, second, {"w1": 0, "w2": 10}))
    frame = figure.axes[0].patches[-1].get_bbox()
    inside = [text.get_text() for text in figure.axes[0].texts if frame.contains(*text.get_position())]
    assert "pair head" in inside and "backbone,\nembedding head" not in inside, "the frame is that of the pair head"


def test_the_margin_circle_has_an_arrow_for_all_but_the_point_outside():
    figure = diagrams.margin_circle(0.5)
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == 5 and "0.5" in words(figure)


def test_the_pull_gathers_what_was_only_separated():
    figure = diagrams.pull_to_centers()
    titles = [axis.get_title() for axis in figure.axes]
    assert "95%" in titles[0] and "100%" in titles[2]
    own, other = (float(text.get_text()) for text in figure.axes[0].texts if text.get_text() != "query")
    assert own > 1.5 * other, "a nearest neighbor that is wrong at a glance"


def test_a_split_map_has_a_row_a_class_and_a_color_a_part():
    parts = {"closed_set": {"train": [0, 3], "validation": [1, 4], "test": [5]}}
    figure = diagrams.split_map(parts, [0, 0, 0, 1, 1, 1], ["rose", "iris"])
    assert figure.axes[0].collections[0].get_array().tolist() == [[0, 1, 3], [0, 1, 2]], "3 is left out"
    assert "train: 2" in words(figure) and "test: 1" in words(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["rose", "iris"]
    assert not len(figure.axes[0].get_xticks()), "a picture's place in its row says nothing"


def test_two_hills_say_what_a_threshold_does_wrong_beside_the_curve_of_all():
    scores, same = np.array([0.1, 0.5, 0.7, 0.8, 0.9]), np.array([0, 0, 1, 1, 1])
    accepts, rejects = np.array([1, 0.5, 0]), np.array([0, 0, 0.75])
    figure = diagrams.two_hills(scores, same, 0.5, accepts, rejects, {"here": 1}, "hills", "cosine")
    upper, lower, roc = figure.axes
    assert [upper.get_title(), lower.get_title()] == ["strong: false rejects, 0%", "strong: false accepts, 50%"]
    assert roc.lines[0].get_xydata().tolist() == [[1, 1], [0.5, 1], [0, 0.25]]
    assert roc.texts[1].get_text() == "here" and roc.texts[1].xy == (0.5, 1)
    figure = diagrams.two_hills(scores, same, 0.9, accepts, rejects, {}, "hills", "cosine")
    assert "rejects, 67%" in figure.axes[0].get_title()


def test_a_staircase_shades_the_squares_below_the_curve():
    figure = diagrams.staircase(np.array([0.2, 0.9, 0.3, 0.4, 0.7, 0.8]), np.array([0, 1, 0, 1, 0, 1]))
    (axis,) = figure.axes
    assert axis.collections[0].get_array().tolist() == [[1, 1, 1], [1, 1, 1], [0, 1, 1]]
    steps = [[0, 0], [0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [3, 3]]
    assert axis.lines[0].get_xydata().tolist() == steps
    assert "8 of 9 squares" in figure.get_suptitle() and "0.889" in figure.get_suptitle()
    assert words(figure).count(">") == 8 and "0.4 < 0.7" in words(figure)


def test_resamples_shade_their_intervals_beside_a_line():
    diagrams.resamples({"alike": [1.0, 1.0 - 1e-16, np.nan]}, 1.0, "title", "ROC-AUC")
    upper, lower = diagrams.resamples({"wide": np.linspace(0, 1, 1001), "narrow": [0.5] * 9}, 0.2, "title", "x").axes
    assert upper.get_title() == "wide: 0.025 to 0.975" and lower.get_title() == "narrow: 0.500 to 0.500"
    assert set(upper.lines[0].get_xdata()) == set(lower.lines[0].get_xdata()) == {0.2}
    assert np.isclose(upper.patches[-1].get_extents().transformed(upper.transData.inverted()).width, 0.95)


def test_arrows_say_the_angles_between_them():
    said = words(diagrams.arrows({"A": (1, 0), "B": (0.5, 0.5), "C": (0, 1)}, "x", "y"))
    assert said.count("45°\ncosine 0.71") == 2 and "B" in said


def test_hues_show_every_picture():
    pictures = np.zeros((3, 3, 8, 8), np.uint8)
    figure = diagrams.hues(pictures, np.full((3, 4), 0.25), "abc")
    assert [len(axis.patches) for axis in figure.axes[3:]] == [4] * 3


def test_a_backbone_is_drawn_with_the_sizes_of_what_flows_through_it():
    maps = [np.random.default_rng(0).random((4, side, side)) for side in (8, 4)]
    said = words(diagrams.backbone(np.zeros((3, 16, 16), np.uint8), maps, np.ones(4), np.ones(2)))
    sizes = "3 colors\n16 x 16", "4 maps\n8 x 8", "4 maps\n4 x 4", "pooled\n4", "embedding\n2", "backbone"
    assert all(size in said for size in sizes)


def test_layers_count_the_lines_they_draw():
    full, apart, transformer = diagrams.layers(np.zeros((3, 8, 8), np.uint8)).axes
    for axis, products in ((full, 144), (apart, 52)):
        widths = [line.get_linewidth() for line in axis.lines if line.get_marker() == "None"]
        assert sum(9 if width > 1 else 1 for width in widths) == products and str(products) in axis.get_title()
    assert len(transformer.lines) == 25 and len(transformer.images) == 8, "four patches and a token, each by each"


def test_the_best_corner_raises_a_linear_score_more_than_the_gradient_does():
    box, zoom = diagrams.eps_box((2, 1)).axes
    assert box.get_title() == "all that the attacker may reach (not to scale)"
    assert zoom.get_legend_handles_labels()[1] == ["along the gradient: +2.5 ε", "along its signs: +3.0 ε"]
    said = " ".join(text.get_text() for text in zoom.texts)
    assert all(gain in said for gain in ("-3 ε", "-1 ε", "+1 ε", "touches the box: +3 ε"))


def test_training_moves_the_boundary_off_the_corners_that_the_attacker_found():
    before, after = diagrams.min_max(0.45).axes
    crossed = [[line.get_color() for line in axis.lines if line.get_marker() == "X"] for axis in (before, after)]
    assert crossed[0].count("tab:red") == 2 and crossed[1] == ["gray"] * 6
    boundary = next(line.get_xydata() for line in after.lines if line.get_linewidth() == 3)
    corners = [line.get_xydata()[0] for line in after.lines if line.get_marker() == "X"]
    sides = [np.sign(x - np.interp(y, boundary[:, 1], boundary[:, 0])) for x, y in corners]
    assert sides == [-1] * 3 + [1] * 3
    assert "max" in before.get_title() and "min" in after.get_title()


def test_rounding_has_its_levels_and_passes_straight_through():
    (axis,) = diagrams.straight_through(16, 4).axes
    rounded, identity, near = (line.get_xydata() for line in axis.lines[:3])
    assert np.allclose(rounded[:, 1] % 17, 0) and np.abs(rounded[:, 1] - identity[:, 1]).max() <= 17 / 2 + 1e-9
    (jump,) = (text for text in axis.texts if getattr(text, "arrow_patch", None))
    assert np.allclose(jump.xy - near[0], [4, 17]) and round(near[0, 0] / 17) < round(jump.xy[0] / 17)
    said = " ".join(text.get_text() for text in axis.texts)
    assert "4 more\njump a level, 17" in said and "slope 0" in said and "slope 1" in said


def test_forces_are_drawn_over_the_distance_beside_a_mark():
    d = np.linspace(0, 2, 201)
    figure = diagrams.forces(d, {"a loss": (-d, np.maximum(0, 1 - d), 1, "the margin")})
    same, different, _, mark = figure.axes[0].lines
    assert np.allclose(same.get_xydata(), np.stack([d, -d], 1)) and different.get_ydata()[100:].max() == 0
    assert [*mark.get_xdata()] == [1, 1] and figure.axes[0].texts[0].get_text() == "the margin"


def test_ranked_hits_bear_the_precision_up_to_their_place():
    figure = diagrams.ranked_hits({"first": [1, 1, 0], "last": np.array([0, 1, 1])})
    assert [axis.get_title() for axis in figure.axes] == ["first", "last"]
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [["1/1", "2/2", "0"], ["0", "1/2", "2/3"]]


def test_a_pair_gets_its_map_from_channels_and_slopes():
    pictures = np.zeros((3, 3, 8, 8), np.uint8)
    pictures[1] = 9
    channels, alpha = np.arange(4.0)[:, None, None] + np.ones((4, 2, 2)), np.array([3, -5, 0, 0.5])[:, None, None]
    figure = diagrams.pair_map(*pictures[:2], channels, alpha, 0.824)
    (axis,) = figure.axes
    assert len(axis.images) == 2 + 2 + 4, "two pictures, two channels, and the terms of the sum with their total"
    takes, adds = axis.images[:2]
    assert (adds.get_array() == 1).all() and (takes.get_array() == 2).all(), "what adds most, and what takes most"
    assert "+3.0 $A^{0}$" in words(figure) and "\N{MINUS SIGN}5.0 $A^{1}$" in words(figure)
    assert "2 channels" in words(figure)
    assert "0.82" in words(figure) and "held fixed" in words(figure)
    (axis,) = diagrams.pair_map(pictures[0], None, channels, alpha, 9.33).axes
    assert len(axis.images) == 1 + 2 + 4 and "9.3" in words(axis.figure) and "held fixed" not in words(axis.figure)
