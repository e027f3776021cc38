"""Figures: every one has a title and labeled axes and shows what it was given; nothing to show is refused."""

import inspect
import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from PIL import Image

from common import plotting
from common.evaluation.metrics import Threshold
from common.flowers.species import PARTS
from common.losses import CenterLoss

matplotlib.use("Agg")
RANDOM = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 3], 5)
NAMES = ["iris", "rose", "tulip", "poppy"]
HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "map_at_r": [0.1, 0.2, 0.4]})
POINTS = pd.DataFrame({"cost": [1, 2, 3, 4], "gain": [0.5, 0.9, 0.7, 0.95]}, index=["a", "b", "c", "d"])
RANGES = pd.DataFrame({"value": [0.5, 0.8], "low": [0.3, 0.7], "high": [0.6, 0.85]}, index=["x", "y"])
IMAGES = RANDOM.integers(0, 256, (7, 3, 8, 8), np.uint8)
WIDE = RANDOM.integers(0, 256, (3, 3, 16, 24), np.uint8)
MAPS = np.array([[[1.0, -4.0], [0.0, 2.0]], [[0.1, 0.2], [0.3, 0.4]], [[-1.0, -2.0], [-3.0, 0.0]]])
CONCEPTS = np.zeros((2, 2, 1, 2))  # the first in other places of both pictures, the second, weaker, in one
CONCEPTS[0, 0, 0, 0] = CONCEPTS[1, 0, 0, 1] = 10.0
CONCEPTS[0, 1, 0, 1] = 0.5
TERMS = np.zeros((2, 3, 2, 3))  # what a place of one picture adds with a place of another
TERMS[0, 0, 1, 2], TERMS[1, 1, 0, 0] = 0.4, 0.1
PAIRS = np.array([[0, 1, 1], [2, 6, 0], [5, 3, 0], [4, 4, 1]])
SAME = np.array([0, 0, 1, 0, 1, 1])
SCORES = np.array([-0.5, 0.1, 0.2, 0.6, 0.7, 0.9])
CURVES = {"good": (SCORES, SAME), "bad": (-SCORES, SAME)}
FOUND = RANDOM.integers(0, 256, (2, 3, 3, 8, 8), np.uint8)
RIGHT = np.array([[True, False, True], [False, False, True]])
FOUND_TITLES = [["query", *"abc"], ["query", *"def"]]
GREEN, RED = (matplotlib.colors.to_hex(color) for color in (plotting.RIGHT, plotting.WRONG))
SHARES = pd.DataFrame([[0.1, 0.2], [0.3, 0.4]], ["one", "two"], ["left", "right"])
LINES = pd.DataFrame({"standard": [0.9, 0.5, 0.1], "robust": [0.8, 0.7, 0.6]}, index=[0, 2, 4])
PANELS = {"one": RANDOM.normal(size=(15, 2)), "two": RANDOM.normal(size=(15, 2))}
RUNS = {"plain": HISTORY, "joined": HISTORY.assign(center=1.0)}
TITLE = "A title"
FIGURES = {
    "contact_sheet": lambda: plotting.contact_sheet(IMAGES, list("abcdefg"), columns=4, title=TITLE),
    "pair_gallery": lambda: plotting.pair_gallery(IMAGES, PAIRS, [True, False, None, False], list("abcd"), TITLE),
    "retrieval_gallery": lambda: plotting.retrieval_gallery(IMAGES[:2], FOUND, RIGHT, FOUND_TITLES, TITLE),
    "overlay": lambda: plotting.overlay(WIDE, MAPS, ["a", "b", "c"], TITLE, columns=2),
    "concepts": lambda: plotting.concepts(WIDE[:2], CONCEPTS, ["one", "other"], TITLE),
    "correspondences": lambda: plotting.correspondences(WIDE[0], WIDE[1], TERMS, TITLE, 2),
    "bars": lambda: plotting.bars(pd.Series({"iris": 3, "rose": 5}), TITLE, "pictures", "species"),
    "intervals": lambda: plotting.intervals(RANGES, TITLE, "ROC-AUC", "approach"),
    "histograms": lambda: plotting.histograms(LINES, TITLE, "value", "pictures"),
    "lines": lambda: plotting.lines(LINES, TITLE, "eps (1/255)", "accuracy", LINES - 0.1, LINES + 0.05),
    "heatmap": lambda: plotting.heatmap(SHARES, TITLE, "across", "down"),
    "named_points": lambda: plotting.named_points(POINTS, "cost", "gain", TITLE, "cost (ms)", "gain"),
    "pareto": lambda: plotting.pareto(POINTS, "cost", "gain", TITLE, "cost (ms)", "gain"),
    "scatter": lambda: plotting.scatter(PANELS, LABELS, TITLE, NAMES),
    "histories": lambda: plotting.histories(RUNS, ["loss", "map_at_r", "center"], TITLE),
    "score_histogram": lambda: plotting.score_histogram(np.linspace(-1, 1, 15), LABELS == 1, 0.25, TITLE),
    "confusion": lambda: plotting.confusion(np.arange(9).reshape(3, 3), NAMES[:3], TITLE),
    "roc": lambda: plotting.roc(CURVES, TITLE, Threshold(0.5, "validation")),
    "precision_recall": lambda: plotting.precision_recall(CURVES, TITLE),
    "reliability": lambda: plotting.reliability([0.02, 0.04, 0.31, 0.33, 0.36, 0.97], [0, 0, 1, 0, 0, 1], TITLE),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plotting.plt.close("all")


def words(texts) -> list[str]:
    return [text.get_text() for text in texts]


def shown(axis) -> np.ndarray:
    """The picture an axis shows, as (3, H, W)."""
    return np.moveaxis(axis.images[0].get_array(), -1, 0)


def frames(axis) -> list[str]:
    return [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in axis.patches]


def test_every_figure_is_tested():
    functions = inspect.getmembers(plotting, inspect.isfunction)
    made = {name for name, one in functions if inspect.signature(one).return_annotation is Figure}
    assert made == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_title_and_labeled_axes(name):
    figure = FIGURES[name]()
    assert figure.get_suptitle() == TITLE
    for axis in figure.axes:
        if axis.axison and axis.get_label() != "<colorbar>":
            assert axis.get_xlabel() and axis.get_ylabel()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=30)
    assert np.std(Image.open(content).convert("L")) > 5, "something is drawn"


def test_a_contact_sheet_shows_every_picture_in_order():
    axes = FIGURES["contact_sheet"]().axes
    assert len(axes) == 8 and not axes[7].images and [axis.get_title() for axis in axes[:7]] == list("abcdefg")
    np.testing.assert_array_equal([shown(axis) for axis in axes[:7]], IMAGES)
    maps = plotting.contact_sheet(np.stack([np.zeros((4, 5)), np.ones((4, 5))]), title="Maps")
    assert maps.axes[1].images[0].get_array().shape == (4, 5)


def test_masks_are_painted_in_one_color_a_part():
    parts = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    painted = plotting.paint_parts(parts)
    assert painted.shape == (1, 3, 2, 2) and painted.dtype == np.uint8 and len(plotting.PART_COLORS) == len(PARTS)
    background, leaf, petal, center = painted[0].reshape(3, 4).T.astype(int)
    assert np.ptp(background) == 0 and leaf.argmax() == 1 and petal.argmin() == 1 and center.argmin() == 2
    np.testing.assert_array_equal(plotting.paint_parts(parts[0]), painted[0])


def test_bars_and_intervals_show_their_numbers():
    (axis,) = FIGURES["bars"]().axes
    assert [patch.get_width() for patch in axis.patches] == [3, 5]
    assert words(axis.get_yticklabels()) == ["iris", "rose"] and axis.yaxis_inverted()
    for shift, dashed in ((2, []), (-2, []), (0, [[0, 0]]), (-0.6, [[0, 0]])):  # differences have a line at 0
        (axis,) = plotting.intervals(RANGES + shift, TITLE, "ROC-AUC").axes
        (segments,) = (collection.get_segments() for collection in axis.collections)
        np.testing.assert_allclose(np.array(segments)[:, :, 0].astype(float), RANGES[["low", "high"]] + shift)
        np.testing.assert_allclose(axis.lines[0].get_xdata().astype(float), RANGES["value"] + shift)
        assert [list(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "--"] == dashed


def test_scatters_color_by_label_and_name_it():
    figure = FIGURES["scatter"]()
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert words(figure.axes[1].get_legend().get_texts()) == ["iris", "rose", "poppy"]
    for axis, points in zip(figure.axes, PANELS.values(), strict=True):
        for collection, label in zip(axis.collections, (0, 1, 3), strict=True):
            np.testing.assert_allclose(collection.get_offsets(), points[label == LABELS])
        assert len({tuple(collection.get_facecolor()[0]) for collection in axis.collections}) == 3
    (axis,) = plotting.scatter({"24 of them": np.eye(24, 2)}, range(24), TITLE).axes
    looks = {(*one.get_facecolor()[0], len(one.get_paths()[0].vertices)) for one in axis.collections}
    assert len(looks) == 24 and axis.get_legend() is None
    for alike in (False, True):
        one, other = plotting.scatter({"small": np.eye(2), "large": 9 * np.eye(2)}, [0, 1], TITLE, alike=alike).axes
        assert (one.get_xlim() == other.get_xlim()) == (one.get_ylim() == other.get_ylim()) == alike


def test_histories_leave_out_what_a_run_lacks():
    loss, measure, center = FIGURES["histories"]().axes
    assert [line.get_label() for line in loss.lines] == ["plain", "joined"]
    assert [line.get_label() for line in center.lines] == ["joined"]
    np.testing.assert_array_equal(measure.lines[0].get_xydata(), HISTORY[["epoch", "map_at_r"]])
    assert (measure.get_xlabel(), measure.get_ylabel()) == ("epoch", "map at r")
    watched = plotting.histories({"plain": HISTORY.rename(columns={"loss": "validation"})}, ["validation"], TITLE)
    assert watched.axes[0].get_ylabel() == "validation ROC-AUC"


def test_the_score_histogram_counts_both_kinds_and_marks_the_threshold():
    (axis,) = FIGURES["score_histogram"]().axes
    assert [sum(bar.get_height() for bar in bars) for bars in axis.containers] == [10, 5]
    assert {"different species", "same species"} < {*words(axis.get_legend().get_texts())}
    assert set(axis.lines[0].get_xdata()) == {0.25} and "0.25" in axis.lines[0].get_label()


def test_heatmaps_and_confusions_write_their_numbers_where_they_belong():
    axis = FIGURES["heatmap"]().axes[0]
    assert words(axis.texts) == ["0.10", "0.20", "0.30", "0.40"]
    assert words(axis.get_xticklabels()) == ["left", "right"]
    assert axis.get_xlabel() == "across" and axis.get_ylabel() == "down"
    (axis,) = FIGURES["confusion"]().axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted species", "true species")
    assert words(axis.texts) == ["", *"12345678"] and words(axis.get_yticklabels()) == NAMES[:3], "0 stays blank"
    many = plotting.confusion(np.eye(30, dtype=int), [str(number) for number in range(30)], TITLE)
    assert not many.axes[0].texts and len(many.axes) == 2, "beyond 25 species colors with a scale, no numbers"


def test_named_points_show_intervals_and_the_pareto_front_joins_what_nothing_beats():
    (axis,) = FIGURES["pareto"]().axes
    assert words(axis.texts) == ["a", "b", "c", "d"]
    np.testing.assert_allclose(axis.lines[-1].get_xydata(), POINTS.loc[["a", "b", "d"]])
    twins = pd.DataFrame({"cost": [1, 1, 2], "gain": [0.5, 0.6, 0.6]}, index=["a", "b", "c"])
    (axis,) = plotting.pareto(twins, "cost", "gain", TITLE, "cost (ms)", "gain").axes
    np.testing.assert_allclose(axis.lines[-1].get_xydata(), [[1, 0.6]])
    table = POINTS.assign(low=POINTS["gain"] - 0.1, high=POINTS["gain"] + 0.2)
    (axis,) = plotting.named_points(table, "cost", "gain", TITLE, "cost (ms)", "gain").axes
    np.testing.assert_allclose(axis.lines[0].get_xydata(), POINTS)
    np.testing.assert_allclose([ends[:, 1] for ends in axis.collections[0].get_segments()], table[["low", "high"]])


def test_lines_and_their_bands():
    (axis,) = FIGURES["lines"]().axes
    for line, band, name in zip(axis.lines, axis.collections, LINES, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), LINES[name].reset_index())
        corners = band.get_paths()[0].vertices
        for eps, value in LINES[name].items():
            heights = corners[corners[:, 0] == eps, 1]
            assert (heights.min(), heights.max()) == pytest.approx((value - 0.1, value + 0.05))
    assert words(axis.get_legend().get_texts()) == ["standard", "robust"]
    assert not plotting.lines(LINES, TITLE, "eps", "accuracy").axes[0].collections


def test_roc_marks_equal_errors_and_the_threshold():
    (axis,) = FIGURES["roc"]().axes
    good, good_error, bad, bad_error, _, _, threshold = axis.lines
    # From the highest score down: same, same, different, same, different, different.
    steps = [(0, 0), (0, 2 / 3), (1 / 3, 2 / 3), (1 / 3, 1), (1, 1)]
    assert set(map(tuple, np.round(steps, 9))) <= set(map(tuple, np.round(good.get_xydata(), 9)))
    assert "0.889" in good.get_label() and "0.333" in good.get_label()
    assert "0.111" in bad.get_label() and "0.667" in bad.get_label()
    np.testing.assert_allclose([*good_error.get_xydata(), *bad_error.get_xydata()], [[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    np.testing.assert_allclose(threshold.get_xydata(), [[1 / 3, 2 / 3]])
    assert all(word in threshold.get_label() for word in ("0.50", "good", "validation"))
    assert len({line.get_color() for line in (good, bad)}) == 2 and good.get_color() == good_error.get_color()
    assert len(plotting.roc(CURVES, TITLE).axes[0].lines) == 6, "no threshold, no mark"


def test_precision_recall_is_worked_by_hand():
    (axis,) = FIGURES["precision_recall"]().axes
    good, bad, chance = axis.lines
    corners = [(1 / 3, 1), (2 / 3, 1), (2 / 3, 2 / 3), (1, 3 / 4), (1, 1 / 2)]
    assert set(map(tuple, np.round(corners, 9))) <= set(map(tuple, np.round(good.get_xydata(), 9)))
    assert "0.92" in good.get_label() and "0.41" in bad.get_label()  # (1 + 1 + 3/4) / 3, (1/3 + 2/5 + 3/6) / 3
    assert set(chance.get_ydata()) == {0.5} and "0.500" in chance.get_label()


def test_reliability_shows_shares_and_counts_of_each_bin():
    shares, counts = FIGURES["reliability"]().axes
    np.testing.assert_allclose(shares.lines[1].get_xydata(), [[0.03, 0], [1 / 3, 1 / 3], [0.97, 1]])
    assert [bar.get_height() for bar in counts.patches] == [2, 0, 0, 3, 0, 0, 0, 0, 0, 1]


def test_a_pair_gallery_frames_what_was_judged_rightly_in_green():
    axes = [axis for axis in FIGURES["pair_gallery"]().axes if axis.images]
    assert [axis.get_title() for axis in axes] == ["✓ a", "✗ b", "c", "✗ d"]
    assert [frames(axis) for axis in axes] == [[GREEN], [RED], [], [RED]]
    drawn = np.stack([shown(axis) for axis in axes])
    np.testing.assert_array_equal(drawn[..., :8], IMAGES[PAIRS[:, 0]])
    np.testing.assert_array_equal(drawn[..., -8:], IMAGES[PAIRS[:, 1]])
    assert (drawn[..., 8:-8] == 255).all() and drawn.shape[3] > 16, "a white gap"
    with pytest.raises(ValueError, match="shorter"):
        plotting.pair_gallery(IMAGES, PAIRS, [1, 0, 1, 0], list("abc"), TITLE)


def test_a_retrieval_gallery_has_the_query_first_and_unframed():
    axes = np.reshape(FIGURES["retrieval_gallery"]().axes, (2, 4))
    for row, query, found, right, names in zip(axes, IMAGES, FOUND, RIGHT, ("abc", "def")):
        np.testing.assert_array_equal([shown(axis) for axis in row], [query, *found])
        signs = ["✓ " if good else "✗ " for good in right]
        assert [axis.get_title() for axis in row] == ["query", *map("".join, zip(signs, names))]
        assert [frames(axis) for axis in row] == [[], *([GREEN if good else RED] for good in right)]


def test_overlay_scales_each_map_around_zero_and_covers_its_picture():
    drawn = [axis for axis in FIGURES["overlay"]().axes if axis.get_title()]
    for axis, one, image, largest in zip(drawn, MAPS, WIDE, (4.0, 0.4, 3.0), strict=True):
        shade = axis.images[1]
        gray = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        np.testing.assert_allclose(shown(axis), np.stack([gray] * 3), atol=0.5)
        np.testing.assert_array_equal(shade.get_array(), one)
        assert shade.get_clim() == (-largest, largest) and list(shade.get_extent()) == [-0.5, 23.5, 15.5, -0.5]
    red, blue = drawn[0].images[1].cmap(1.0), drawn[0].images[1].cmap(0.0)
    assert red[0] > red[2] and blue[2] > blue[0], "red speaks for, blue against"
    for value, reason in ((0.0, "zero everywhere"), (np.nan, "not finite"), (np.inf, "not finite")):
        with pytest.raises(ValueError, match=reason):
            plotting.overlay(WIDE, np.where(MAPS[1] == MAPS, value, MAPS), "abc", TITLE)


def test_correspondences_join_the_locations_named():
    figure = FIGURES["correspondences"]()
    one, other = lines = [artist for artist in figure.artists if isinstance(artist, ConnectionPatch)]
    assert [(line.xy1, line.xy2) for line in lines] == [([3.5, 3.5], [19.5, 11.5]), ([11.5, 11.5], [3.5, 3.5])]
    assert one.axesA is figure.axes[0] and one.axesB is figure.axes[1]
    assert one.get_linewidth() > other.get_linewidth() and one.get_edgecolor() != other.get_edgecolor()
    np.testing.assert_array_equal([shown(axis) for axis in figure.axes], WIDE[:2])
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[19.5, 11.5]]


def test_a_concept_has_one_color_in_all_pictures():
    figure = FIGURES["concepts"]()
    one, other = (axis.images[1].get_array() for axis in figure.axes)
    np.testing.assert_allclose(one[0, 0], other[0, 1])
    assert not np.allclose(one[0, 0, :3], one[0, 1, :3])
    assert one[0, 1, 3] == pytest.approx(one[0, 0, 3]), "each concept is as strong as it gets"
    assert other[0, 0, 3] == 0, "no concept, no color"
    assert len(figure.legends[0].get_texts()) == 2


@pytest.fixture
def displayed(monkeypatch) -> list:
    """What is handed to the notebook: things and how."""
    things = []
    monkeypatch.setattr(plotting, "display", lambda thing, **options: things.append((thing, options)))
    return things


def test_show_puts_a_png_with_its_alternative_text_and_caption(displayed):
    plotting.show(FIGURES["bars"](), "Roses outnumber irises.")
    (picture, options), (caption, _) = displayed
    decoded = Image.open(io.BytesIO(picture.data))
    assert decoded.format == "PNG" and min(decoded.size) > 50
    told = options["metadata"]["image/png"]
    assert told["alt"] == "Roses outnumber irises." and told["width"] == pytest.approx(decoded.width / 1.5, abs=1)
    assert isinstance(caption, Markdown) and caption.data == "*Roses outnumber irises.*"
    assert not plotting.plt.get_fignums(), "a shown figure is closed"


def test_show_source_prints_the_very_code(displayed):
    plotting.show_source(CenterLoss)
    assert displayed[0][0].data == inspect.getsource(CenterLoss)
