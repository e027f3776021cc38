"""Figures: every one has a title and labeled axes and shows what it was given; nothing to show is refused."""

import inspect
import io
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from common import plotting

matplotlib.use("Agg")
RANDOM = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 3], 5)
NAMES = ["iris", "rose", "tulip", "poppy"]
HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "map_at_r": [0.1, 0.2, 0.4]})
POINTS = pd.DataFrame({"cost": [1, 2, 3, 4], "gain": [0.5, 0.9, 0.7, 0.95]}, index=["a", "b", "c", "d"])
DOTS = pd.DataFrame(
    [("drawn", "x", "standard", 0.2, "0.2", 0.1, 0.4), ("drawn", "x", "robust", 0.9, "0.9", 0.85, 0.95),
     ("drawn", "y", "standard", 0.8, "0.8", 0.7, 0.9), ("photographs", "y", "robust", 0.7, "0.7", 0.6, 0.8)],
    columns=["panel", "row", "group", "value", "text", "low", "high"])  # fmt: skip
CURVE_PANELS = pd.DataFrame(
    [("x", "standard", 4, 0.1, 0.0, 0.2), ("x", "standard", 0, 0.9, 0.8, 1.0), ("x", "robust", 0, 0.8, 0.7, 0.9),
     ("y", "robust", 0, 0.7, 0.6, 0.8), ("y", "robust", 4, 0.6, 0.5, 0.7)],
    columns=["panel", "group", "x", "value", "low", "high"])  # fmt: skip
RANGES = pd.DataFrame({"value": [0.5, 0.8], "low": [0.3, 0.7], "high": [0.6, 0.85]}, index=["x", "y"])
IMAGES = RANDOM.integers(0, 256, (7, 3, 8, 8), np.uint8)
WIDE = RANDOM.integers(0, 256, (3, 3, 16, 24), np.uint8)
MAPS = np.array([[[1.0, -4.0], [0.0, 2.0]], [[0.1, 0.2], [0.3, 0.4]], [[-1.0, -2.0], [-3.0, 0.0]]])
PAIRS = np.array([[0, 1, 1], [2, 6, 0], [5, 3, 0], [4, 4, 1]])
SAME = np.array([0, 0, 1, 0, 1, 1])
SCORES = np.array([-0.5, 0.1, 0.2, 0.6, 0.7, 0.9])
CURVES = {"good": (SCORES, SAME), "bad": (-SCORES, SAME)}
EXAMS = {"honest": pd.DataFrame({"about": ["rules", "rivals"], "check": ["a", "b"], "passed": ["PASS", "PASS"],
                                 "worst": ["0 of 9", "104 % at 8/255"]})}  # fmt: skip
EXAMS["masked"] = EXAMS["honest"].assign(passed=["PASS", "FAIL"])
STAGES = {"before": -SCORES, "after": SCORES}
FOUND = RANDOM.integers(0, 256, (2, 3, 3, 8, 8), np.uint8)
RIGHT = np.array([[True, False, True], [False, False, True]])
FOUND_TITLES = [["query", *"abc"], ["query", *"def"]]
GREEN, RED = (matplotlib.colors.to_hex(color) for color in (plotting.RIGHT, plotting.WRONG))
LINES = pd.DataFrame({"standard": [0.9, 0.5, 0.1], "robust": [0.8, 0.7, 0.6]}, index=[0, 2, 4])
PANELS = {"one": RANDOM.normal(size=(15, 2)), "two": RANDOM.normal(size=(15, 2))}
RUNS = {"plain": HISTORY, "joined": HISTORY.assign(center=1.0)}
TITLE = "A title"
STRIPS = {f"panel {place}": {"one": [0.1, 0.2], "other": [0.6], "none": []} for place in range(4)}
COMPARED = pd.DataFrame(
    [("open_set", "map_at_r", "all", 0.8, np.nan, np.nan), ("open_set", "map_at_r", "siamese (R4)", 0.9, 0.05, 0.15)],
    columns=["protocol", "metric", "row", "value", "low", "high"],
)
FIGURES = {
    "contact_sheet": lambda: plotting.contact_sheet(IMAGES, list("abcdefg"), columns=4, title=TITLE),
    "pair_gallery": lambda: plotting.pair_gallery(IMAGES, PAIRS, [True, False, None, False], list("abcd"), TITLE),
    "retrieval_gallery": lambda: plotting.retrieval_gallery(IMAGES[:2], FOUND, RIGHT, FOUND_TITLES, TITLE),
    "overlay": lambda: plotting.overlay(WIDE, MAPS, ["a", "b", "c"], TITLE, columns=2),
    "overlays": lambda: plotting.overlays(WIDE[:2], {"one": MAPS[:2], "other": -MAPS[:2]}, TITLE),
    "with_key": lambda: plotting.with_key(plotting.contact_sheet(WIDE, list("abc"), title=TITLE)),
    "beside": lambda: plotting.beside({"it": WIDE[0], "other": WIDE[1], "map": MAPS[1]}, TITLE, 3, 2.0),
    "intervals": lambda: plotting.intervals(RANGES, TITLE, "ROC-AUC", "approach"),
    "strips": lambda: plotting.strips(STRIPS, TITLE, "MAP@R", "loss"),
    "lines": lambda: plotting.lines(LINES, TITLE, "eps (1/255)", "accuracy"),
    "dot_panels": lambda: plotting.dot_panels(DOTS.set_axis([7] * 4), TITLE, "ROC-AUC", "approach"),
    "compared": lambda: plotting.compared(COMPARED, TITLE, "ROC-AUC", "negatives"),
    "examination": lambda: plotting.examination(EXAMS, TITLE),
    "line_panels": lambda: plotting.line_panels(CURVE_PANELS, TITLE, "radius", "ROC-AUC", 0.5),
    "pareto": lambda: plotting.pareto(POINTS, "cost", "gain", TITLE, "cost (ms)", "gain", 0.05),
    "scatter": lambda: plotting.scatter(PANELS, LABELS, TITLE, NAMES),
    "histories": lambda: plotting.histories(RUNS, ["loss", "map_at_r", "center"], TITLE),
    "score_histograms": lambda: plotting.score_histograms(STAGES, SAME, TITLE, "logit"),
    "reliability": lambda: plotting.reliability([0.02, 0.04, 0.31, 0.33, 0.36, 0.97], [0, 0, 1, 0, 0, 1], TITLE),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plotting.plt.close("all")


@pytest.fixture
def displayed(monkeypatch) -> list:
    """What is handed to the notebook: things and how."""
    things = []
    monkeypatch.setattr(plotting, "display", lambda thing, **options: things.append((thing, options)))
    return things


def one_picture(displayed) -> tuple:
    """The picture that was shown and its metadata."""
    (picture, options), _ = displayed
    ((kind, told),) = options["metadata"].items()
    decoded = Image.open(io.BytesIO(picture.data))
    assert kind == f"image/{decoded.format.lower()}"
    return decoded, told


def words(texts) -> list[str]:
    return [text.get_text() for text in texts]


def pictures(figure) -> list[np.ndarray]:
    """The pictures of a sheet as it shows them, each (3, H, W), made as small again as they were."""
    (axis, *_) = figure.axes
    montage, cut = np.asarray(axis.images[0].get_array()), []
    for frame in axis.patches:
        if isinstance(frame, Rectangle):
            (left, top), (right, bottom) = (np.array(frame.get_bbox()) + 0.5).astype(int)
            cut.append(np.moveaxis(montage[top:bottom, left:right], -1, 0))
    return cut


def smaller(picture, height: int) -> np.ndarray:
    """A picture that was enlarged by repeating its pixels, as it was."""
    times = picture.shape[1] // height
    return picture[:, ::times, ::times]


def frames(figure) -> list[str | None]:
    """Colors of the pictures' frames, None without."""
    drawn = [patch.get_edgecolor() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [matplotlib.colors.to_hex(color) if color[3] else None for color in drawn]


def test_every_figure_is_tested():
    functions = inspect.getmembers(plotting, inspect.isfunction)
    made = {name for name, one in functions if inspect.signature(one).return_annotation is Figure and name[0] != "_"}
    assert made == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_title_and_labeled_axes(name):
    figure = FIGURES[name]()
    assert figure.get_suptitle() == TITLE
    for axis in figure.axes:
        if axis.axison and axis.get_label() != "<colorbar>":
            below = axis.get_shared_x_axes().get_siblings(axis)
            assert any(one.get_xlabel() for one in below) and axis.get_ylabel()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=30)
    assert np.std(Image.open(content).convert("L")) > 5, "something is drawn"


@pytest.mark.parametrize("name", FIGURES)
def test_letters_can_be_read_and_no_figure_is_wider_than_a_page(name, displayed):
    figure = FIGURES[name]()
    letters = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert letters and min(text.get_fontsize() for text in letters) >= 11
    plotting.show(figure, "A caption.")
    assert one_picture(displayed)[1]["width"] <= 1000


@pytest.mark.parametrize("wrong", ["pay$day$", r"$\broken$"])
def test_a_dollar_in_a_name_is_a_dollar(wrong):
    for figure in (
        plotting.contact_sheet(IMAGES[:1], [wrong], title=TITLE),
        plotting.intervals(RANGES.rename({"x": wrong}), TITLE, "ROC-AUC"),
        plotting.pareto(POINTS.rename({"a": wrong}), "cost", "gain", TITLE, "cost", "gain"),
        plotting.scatter(PANELS, LABELS, TITLE, [wrong] * 4),
    ):
        assert wrong in plotting.describe(figure) or figure.axes[0].texts[0].get_text() == wrong.replace("$", r"\$")
        figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_a_contact_sheet_enlarges_a_smaller_picture_to_the_first_one_without_a_blur():
    coarse = np.eye(16, dtype=np.uint8) * 255
    _, shown = pictures(plotting.contact_sheet([np.zeros((3, 64, 64), np.uint8), np.stack([coarse] * 3)]))
    times = shown.shape[1] // 16
    np.testing.assert_array_equal(shown[0], coarse.repeat(times, 0).repeat(times, 1))


def test_a_contact_sheet_shows_every_picture_in_order():
    figure = FIGURES["contact_sheet"]()
    (axis,) = figure.axes
    assert words(axis.texts) == list("abcdefg") and len(axis.images) == 1, "one montage"
    np.testing.assert_array_equal([smaller(one, 8) for one in pictures(figure)], IMAGES)
    assert frames(figure) == [None] * 7
    left, above, *_ = (frame.get_bbox() for frame in axis.patches)
    assert left.x1 < above.x0 and axis.patches[4].get_bbox().y0 > left.y1, "four in a row"
    dark, light = pictures(plotting.contact_sheet(np.stack([np.eye(4, 5), 3 * np.eye(4, 5)]), title="Maps"))
    np.testing.assert_array_equal(dark, light)  # a map has a scale of its own
    unit = pictures(plotting.contact_sheet(IMAGES / 255.0))
    np.testing.assert_array_equal([smaller(one, 8) for one in unit], IMAGES)


def test_long_titles_are_broken_before_they_meet():
    figure = plotting.contact_sheet(WIDE, ["taken for a very much longer name"] * 3, 3, title=TITLE)
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes[0].x1 < boxes[1].x0 and boxes[1].x1 < boxes[2].x0


def test_intervals_show_their_numbers():
    for shift, dashed in ((2, []), (-2, []), (0, [[0, 0]]), (-0.6, [[0, 0]])):  # differences have a line at 0
        (axis,) = plotting.intervals(RANGES + shift, TITLE, "ROC-AUC").axes
        assert words(axis.get_yticklabels()) == ["x", "y"] and axis.yaxis_inverted()
        (segments,) = (collection.get_segments() for collection in axis.collections)
        np.testing.assert_allclose(np.array(segments)[:, :, 0].astype(float), RANGES[["low", "high"]] + shift)
        np.testing.assert_allclose(axis.lines[0].get_xdata().astype(float), RANGES["value"] + shift)
        assert [list(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "--"] == dashed
    halfway = plotting.intervals(RANGES, TITLE, "ROC-AUC", chance=0.5).axes[0].lines
    assert [list(line.get_xdata()) for line in halfway if line.get_linestyle() == "--"] == [[0.5, 0.5]]
    (axis,) = FIGURES["intervals"]().axes
    assert words(axis.texts) == ["0.50 [0.30, 0.60]", "0.80 [0.70, 0.85]"]
    bare = plotting.intervals(RANGES.assign(low=[0.3, np.nan]), TITLE, "ROC-AUC").axes[0]
    assert words(bare.texts) == ["0.50 [0.30, 0.60]", "0.80"]
    none = plotting.intervals(RANGES.assign(low=np.nan), TITLE, "ROC-AUC").axes[0]
    assert words(none.texts) == ["0.500", "0.800"], "values without intervals"
    grouped = plotting.intervals(RANGES, TITLE, "ROC-AUC", groups=["trained", "frozen"])
    one, other = (container.lines[0] for container in grouped.axes[0].containers)
    assert one.get_color() != other.get_color() and one.get_marker() != other.get_marker()
    assert words(grouped.legends[0].get_texts()) == ["trained", "frozen"]


def test_strips_show_every_value_in_its_row_and_panel():
    axes = FIGURES["strips"]().axes
    assert [axis.get_title() for axis in axes[:4]] == [*STRIPS] and not axes[4].axison
    for axis in axes[:4]:
        one, other, none = axis.lines
        assert one.get_xydata().tolist() == [[0.1, 0], [0.2, 0]] and other.get_xydata().tolist() == [[0.6, 1]]
        assert not len(none.get_xydata())
    left, right = plotting.strips(STRIPS, TITLE, "x", "y", zero=True).axes[0].get_xlim()
    assert left < 0 < right, "0 is in sight"
    shown = [axis.yaxis.get_tick_params()["labelleft"] for axis in axes[:4]]
    assert shown == [True, False, False, True] and words(axes[0].get_yticklabels()) == ["one", "other", "none"]
    panels = {"time": pd.Series({"one": 2, "other": 4}), "area": {"one": [0.6, 0.8]}}
    bars = plotting.strips(panels, TITLE, "", "", starts=(0, 0.5))
    assert words(bars.axes[0].get_yticklabels()) == ["one", "other"]
    for axis, start, ends in zip(bars.axes, (0, 0.5), ([2, 4], [0.7])):
        assert words(axis.texts) == [f"{end:.2f}" for end in ends] and axis.get_xlim()[0] == start
        assert [bar.get_x() + bar.get_width() for bar in axis.patches] == pytest.approx(ends)


def hollow(axis):
    return [x for line in axis.lines if line.get_markerfacecolor() == "white" for x in line.get_xdata()]


def test_dot_panels_join_the_dots_of_a_row_and_write_their_numbers():
    figure = FIGURES["dot_panels"]()
    left, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["drawn", "photographs"]
    assert words(left.texts) == ["0.2", "0.9", "0.8"] and words(right.texts) == ["0.7"]
    joined, alone = left.lines[0], left.lines[1]
    assert list(joined.get_xdata()) == [0.2, 0.9] and np.mean(joined.get_ydata()) == pytest.approx(0)
    assert list(alone.get_xdata()) == [0.8] and list(alone.get_ydata()) == [1.0]
    assert list(right.lines[0].get_ydata()) == [1.0], "a row has one place in all panels"
    ends = [segment[:, 0] for container in left.collections for segment in container.get_segments()]
    np.testing.assert_allclose(ends, [[0.1, 0.4], [0.7, 0.9], [0.85, 0.95]])
    assert words(figure.legends[0].get_texts()) == ["standard", "robust"]
    assert [axis.yaxis.label.get_visible() for axis in figure.axes] == [True, False]
    below = plotting.dot_panels(DOTS, TITLE, "x", "y", 1).axes[0]
    assert below.xaxis.get_major_ticks()[0].label1.get_visible(), "every panel says its scale"
    apart = plotting.dot_panels(DOTS, TITLE, "x", "y", 1, join=False).axes[0]
    assert len(apart.lines) < len(below.lines)
    at_zero = plotting.dot_panels(DOTS, TITLE, "x", "y", 1, join=False, zero=True).axes[0]
    assert set(at_zero.lines[-1].get_xdata()) == {0} and not hollow(at_zero) and not hollow(apart)
    unsure = DOTS.assign(low=[-0.1, 0.85, 0.7, 0.6])
    at_zero = plotting.dot_panels(unsure, TITLE, "x", "y", 1, join=False, zero=True).axes[0]
    assert hollow(at_zero) == [0.2] and 0.5 < at_zero.lines[-1].get_zorder() < 1, "whose interval holds 0"
    below = unsure.assign(value=unsure["value"] - 1, low=unsure["low"] - 1, high=unsure["high"] - 1)
    figure = plotting.dot_panels(below, TITLE, "x", "y", 1, join=False, zero=True)
    assert sorted(text.get_ha() for text in figure.axes[0].texts) == ["center", "right", "right"], "on their side of 0"
    long = plotting.dot_panels(below.assign(text="-0.17 [-0.26, -0.09]"), TITLE, "x", "y", zero=True)
    long.draw_without_rendering()
    for text in (text for axis in long.axes for text in axis.texts):
        assert text.axes.bbox.x0 <= text.get_window_extent().x0 and text.get_window_extent().x1 <= text.axes.bbox.x1
    bare = plotting.dot_panels(DOTS.drop(columns=["low", "high", "text"]), TITLE, "x", "y", 1).axes[0]
    assert not bare.collections and words(bare.texts) == ["0.20", "0.90", "0.80"], "no text of their own: their values"
    rows = DOTS.rename(columns={"panel": "protocol", "row": "metric", "group": "approach"})
    as_they_are = plotting.dot_panels(rows, TITLE, "x", "y")
    assert [axis.get_title() for axis in as_they_are.axes] == ["drawn", "photographs"], "the ledger's columns will do"
    assert words(as_they_are.axes[0].get_yticklabels()) == ["x", "y"]
    assert words(as_they_are.legends[0].get_texts()) == ["standard", "robust"]
    apart = plotting.dot_panels(DOTS.assign(row=["a", "a", "b", "c"]), TITLE, "x", "y")
    assert [words(axis.get_yticklabels()) for axis in apart.axes] == [["a", "b"], ["c"]], "panels that share no row"
    many = pd.concat([DOTS[:1].assign(group=group) for group in "abcdef"])
    joined = plotting.dot_panels(many, TITLE, "x", "y", 1).axes[0].lines[0]
    assert np.ptp(joined.get_ydata()) < 0.8, "dots of one row stay away from the next"
    few = plotting.dot_panels(many[:3], TITLE, "x", "y", 1)
    assert few.get_figheight() < joined.get_figure().get_figheight(), "and get more room"


def test_a_compared_row_has_the_interval_of_its_difference_around_it():
    (axis, _) = FIGURES["compared"]().axes
    reference, line, bar, value = axis.lines
    assert [*reference.get_xdata()] == [0.8] and [*line.get_xdata()] == [0.8, 0.8] and [*value.get_xdata()] == [0.9]
    assert np.allclose(bar.get_xdata(), [0.85, 0.95]) and words(axis.texts) == ["0.800", "0.900 (+0.100)"]
    assert axis.get_title() == "new species, MAP@R" and value.get_color() == plotting.LOOKS["siamese"][0]
    assert axis.get_xlim()[1] < 1 and axis.get_xlim() != (0.5, 1), "a scale of its own"
    assert plotting.compared(COMPARED, TITLE, "ROC-AUC", "negatives", xlim=(0.5, 1)).axes[0].get_xlim() == (0.5, 1)


def test_an_approach_looks_the_same_in_every_figure():
    color = plotting.LOOKS["center loss"][0]
    drawn = plotting.intervals(RANGES, TITLE, "ROC-AUC", groups=["a", "center_loss"]).axes[0].containers[1][0]
    named = LINES.iloc[:, :1].set_axis(["names: center-loss (R3)"], axis=1)
    named = plotting.lines(named, TITLE, "x", "y").axes[0].lines[0]
    assert drawn.get_color() == named.get_color() == color


def test_a_level_line_has_one_marker():
    level, falling = plotting.lines(LINES.assign(standard=0.5), TITLE, "x", "y").axes[0].lines
    assert level.get_markevery() == [-1] and falling.get_markevery() == 1


def test_scatters_color_by_label_and_name_it():
    figure = FIGURES["scatter"]()
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert words(figure.legends[0].get_texts()) == ["iris", "rose", "poppy"]
    for axis, points in zip(figure.axes, PANELS.values(), strict=True):
        for collection, label in zip(axis.collections, (0, 1, 3), strict=True):
            np.testing.assert_allclose(collection.get_offsets(), points[label == LABELS])
        assert len({tuple(collection.get_facecolor()[0]) for collection in axis.collections}) == 3
    (axis,) = plotting.scatter({"24 of them": np.eye(24, 2)}, range(24), TITLE).axes
    looks = {(*one.get_facecolor()[0], one.get_paths()[0].vertices.tobytes()) for one in axis.collections}
    assert len(looks) == 24 and not axis.figure.legends
    for alike in (False, True):
        one, other = plotting.scatter({"small": np.eye(2), "large": 9 * np.eye(2)}, [0, 1], TITLE, alike=alike).axes
        assert (one.get_xlim() == other.get_xlim()) == (one.get_ylim() == other.get_ylim()) == alike
    (axis,) = plotting.scatter({"claims": np.eye(3, 2)}, 0, TITLE, words=("claim", "fall"), equal=True).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("claim", "fall") and len(axis.lines) == 2
    assert axis.get_xlim() == axis.get_ylim() and axis.lines[1].get_ydata()[0] == 1 / 3
    np.testing.assert_allclose(axis.collections[0].get_offsets(), np.eye(3, 2))
    (axis,) = plotting.scatter({"points": np.eye(3, 2) + 1}, 0, TITLE, rays=True).axes
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[0, 0], [2, 1]], [[0, 0], [1, 2]], [[0, 0], [1, 1]]]


def test_histories_leave_out_what_a_run_lacks():
    loss, measure, center = FIGURES["histories"]().axes
    assert [line.get_label() for line in loss.lines] == ["plain", "joined"]
    assert [line.get_label() for line in center.lines] == ["joined"]
    np.testing.assert_array_equal(measure.lines[0].get_xydata(), HISTORY[["epoch", "map_at_r"]])
    assert (measure.get_xlabel(), measure.get_ylabel()) == ("epoch", "MAP@R")
    assert words(measure.texts) == ["plain", "joined"] and not loss.texts, "the last panel of all runs names them"
    watched = plotting.histories({"plain": HISTORY.rename(columns={"loss": "validation"})}, ["validation"], TITLE)
    assert watched.axes[0].get_ylabel() == "validation ROC-AUC"


def test_score_histograms_count_both_kinds():
    before, after = FIGURES["score_histograms"]().axes
    assert [axis.get_title() for axis in (before, after)] == ["before: ROC-AUC 0.111", "after: ROC-AUC 0.889"]
    assert before.get_xlim() == after.get_xlim() and after.get_xlabel() == "score (logit)"
    assert not before.get_xlabel()
    named = plotting.score_histograms(STAGES, SAME, TITLE, kinds=("bad roses", "good roses"), xlabel="smell")
    four = {f"{name}, {when}": scores for when in ("first", "last") for name, scores in STAGES.items()}
    square = plotting.score_histograms(four, SAME, TITLE, side_by_side=True).axes
    assert [axis.get_subplotspec().rowspan.start for axis in square] == [0, 0, 1, 1], "from four on in two rows"
    assert named.axes[1].get_xlabel() == "smell" and named.axes[0].get_ylabel() == "roses"
    assert [text.get_text() for text in named.legends[0].get_texts()] == ["bad roses", "good roses"]
    before, after = plotting.score_histograms(STAGES, SAME, TITLE, side_by_side=True).axes
    assert before.get_position().x1 < after.get_position().x0 and before.get_xlabel() == after.get_xlabel() != ""
    heights = [np.diff(shape.get_xy()[:, 1]).clip(0).sum() for shape in before.patches]
    assert before.get_ylabel() == "share of pairs" and max(heights) <= 1, "each kind adds up to 1"
    assert [axis.yaxis.label.get_visible() for axis in (before, after)] == [True, False]


def test_an_examination_has_a_row_a_check_and_a_color_a_verdict():
    axis = plotting.examination(EXAMS, TITLE).axes[0]
    assert axis.collections[0].get_array().reshape(2, 2).tolist() == [[2, 2], [2, 0]]
    assert words(axis.texts) == [
        *("PASS: 0 of 9", "PASS: 0 of 9", "PASS: 104 % at 8/255", "FAIL: 104 % at 8/255", "rules", "rivals")
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    idle = {"idle": EXAMS["honest"].assign(passed=["PASS", "NO HARM"])}
    axis = plotting.examination(idle, TITLE).axes[0]
    assert axis.collections[0].get_array().ravel().tolist() == [2, 1]
    assert words(axis.texts)[:2] == ["PASS: 0 of 9", "NO HARM"]


def test_the_pareto_front_joins_what_nothing_beats():
    (axis,) = FIGURES["pareto"]().axes
    assert words(axis.texts) == ["at most 0.05 behind", "a", "b", "c", "d"]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), POINTS.loc[["a", "b", "d"]])
    np.testing.assert_allclose([*np.concatenate([line.get_xydata() for line in axis.lines[1:]])], POINTS)
    top, stripe = POINTS["gain"].max(), axis.patches[0].get_extents().transformed(axis.transData.inverted())
    assert (stripe.y0, stripe.y1) == pytest.approx((top - 0.05, top)) and axis.get_xlim()[0] == 0
    above = {text.get_text() for text in axis.texts[1:] if text.get_va() == "bottom"}
    assert above == {*POINTS.index[POINTS["gain"] >= top - 0.05]}
    twins = pd.DataFrame({"cost": [1, 1, 2], "gain": [0.5, 0.6, 0.6]}, index=["a", "b", "c"])
    (axis,) = plotting.pareto(twins, "cost", "gain", TITLE, "cost (ms)", "gain").axes
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[1, 0.6]])
    assert words(axis.texts) == ["a", "b", "c"] and not axis.patches, "no stripe, no word for it"


def test_panels_of_lines_share_colors_and_scales():
    one, other = FIGURES["line_panels"]().axes
    assert [axis.get_title() for axis in (one, other)] == ["x", "y"] and one.get_ylim() == other.get_ylim()
    np.testing.assert_allclose(one.lines[0].get_xydata(), [[0, 0.9], [4, 0.1]])
    assert one.lines[1].get_color() == other.lines[1].get_color() != one.lines[0].get_color()
    assert not len(other.lines[0].get_xdata()) and set(one.lines[2].get_ydata()) == {0.5}
    assert words(one.figure.legends[0].get_texts()) == ["standard", "robust", "chance"]
    four = pd.concat([CURVE_PANELS, CURVE_PANELS.replace({"panel": {"x": "v", "y": "w"}})])
    axes = plotting.line_panels(four, TITLE, "radius", "ROC-AUC", 0.5).axes[:4]
    assert [axis.get_subplotspec().rowspan.start for axis in axes] == [0, 0, 0, 1], "three beside each other"
    assert [axis.yaxis.label.get_visible() for axis in axes] == [True, False, False, True]


def test_panels_of_lines_may_have_their_own_scales_and_no_chance():
    table = CURVE_PANELS.assign(value=CURVE_PANELS["value"] * np.where(CURVE_PANELS["panel"] == "x", 1, 5))
    figure = plotting.line_panels(table[table["group"] == "robust"], TITLE, "radius", "ROC-AUC", alike=False)
    one, other = figure.axes
    assert one.get_ylim() != other.get_ylim() and len(one.lines) == 1 and not figure.legends


def test_lines_are_named_at_their_ends():
    (axis,) = FIGURES["lines"]().axes
    for line, name in zip(axis.lines, LINES, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), LINES[name].reset_index())
    assert words(axis.texts) == ["standard", "robust"]
    assert [text.get_color() for text in axis.texts] == [line.get_color() for line in axis.lines]
    assert len({line.get_marker() for line in axis.lines}) == 2
    apart = plotting.lines(pd.DataFrame({"one": [9, 8], "other": [9, 5]}), TITLE, "eps", "accuracy").axes[0]
    assert [text.xyann[1] for text in apart.texts] == pytest.approx([0, 0]), "each name is beside its line's end"
    close = pd.DataFrame({name: [place, 1 + 0.001 * place] for place, name in enumerate("abcdef")})
    figure = plotting.lines(close, TITLE, "eps", "accuracy")
    figure.savefig(io.BytesIO(), format="png")
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes)), "names do not overlap"
    part = plotting.lines(close.assign(b=[1, np.nan], c=np.nan), TITLE, "eps", "accuracy").axes[0]
    assert sorted(words(part.texts)) == list("abdef"), "a line of nothing has no name"
    many = plotting.lines(close.assign(g=0), TITLE, "eps", "accuracy").axes[0]
    assert words(many.get_legend().get_texts()) == list("abcdefg") and not many.texts
    joined = plotting.lines(close - close.iloc[1], TITLE, "eps", "accuracy").axes[0]
    assert words(joined.get_legend().get_texts()) == list("abcdef") and not joined.texts, "one end"


def test_reliability_shows_shares_and_counts_of_each_bin():
    shares, counts = FIGURES["reliability"]().axes
    np.testing.assert_allclose(shares.lines[1].get_xydata(), [[0.03, 0], [1 / 3, 1 / 3], [0.97, 1]])
    assert [bar.get_height() for bar in counts.patches] == [2, 0, 0, 3, 0, 0, 0, 0, 0, 1]


def test_a_pair_gallery_frames_what_was_judged_rightly_in_green():
    figure = FIGURES["pair_gallery"]()
    assert words(figure.axes[0].texts) == ["✓ a", "✗ b", "c", "✗ d"] and frames(figure) == [GREEN, RED, None, RED]
    drawn = np.stack([smaller(one, 8) for one in pictures(figure)])
    np.testing.assert_array_equal(drawn[..., :8], IMAGES[PAIRS[:, 0]])
    np.testing.assert_array_equal(drawn[..., -8:], IMAGES[PAIRS[:, 1]])
    assert (drawn[..., 8:-8] == 255).all() and drawn.shape[3] > 16, "a white gap"
    small = plotting.pair_gallery(IMAGES, PAIRS, [True] * 4, list("abcd"), TITLE, 0.7)
    assert small.get_figheight() < figure.get_figheight(), "the cells are as high as asked"
    with pytest.raises(ValueError, match="zip"):
        plotting.pair_gallery(IMAGES, PAIRS, [1, 0, 1, 0], list("abc"), TITLE)


def test_a_retrieval_gallery_has_the_query_first_and_unframed():
    figure = FIGURES["retrieval_gallery"]()
    shown = np.stack([smaller(one, 8) for one in pictures(figure)]).reshape(2, 4, 3, 8, 8)
    np.testing.assert_array_equal(shown[:, 0], IMAGES[:2])
    np.testing.assert_array_equal(shown[:, 1:], FOUND)
    assert words(figure.axes[0].texts) == ["query", "✓ a", "✗ b", "✓ c", "query", "✗ d", "✗ e", "✓ f"]
    assert frames(figure) == [None, GREEN, RED, GREEN, None, RED, RED, GREEN]


def test_overlay_is_opaque_where_the_map_is_strong_and_stands_below_its_picture():
    colored = np.full((2, 3, 16, 16), 20, np.uint8)
    colored[:, 0] = 200  # as red as a map
    maps = np.zeros((2, 16, 16))
    maps[0, :, :8], maps[0, :, 8:], maps[1, :, :8] = 4, -2, -4
    figure = plotting.overlay(colored, maps, ["one", "other"], TITLE)
    *originals, one, other = [smaller(picture, 16).astype(int) for picture in pictures(figure)]
    np.testing.assert_array_equal(originals, colored)
    for place, stronger, weaker in ((one[:, 5, 2], 0, 2), (one[:, 5, 12], 2, 0), (other[:, 5, 2], 2, 0)):
        assert place[stronger] > place[weaker] + 20, "red for, blue against"
    assert np.ptp(one[:, 5, 2]) > np.ptp(one[:, 5, 12]) + 20, "half as strong, more of the picture"
    bare = other[:, :, 8:]
    assert np.ptp(bare) == 0 and bare.min() > plotting.PALE, "where a map says nothing its picture is pale gray"
    assert words(figure.axes[0].texts) == ["original", "", "one", "other"]
    claims = ["claims: lowers the score", "claims nothing", "claims: raises the score"]
    assert words(figure.axes[1].get_xticklabels()) == claims
    twice = plotting.overlay(np.tile(WIDE, (2, 1, 1, 1)), np.tile(MAPS, (2, 1, 1)), ["x"] * 6, TITLE, columns=3)
    assert len(pictures(twice)) == 9, "pictures that rows share are shown once"
    assert len(pictures(FIGURES["overlay"]())) == 8, "a short row is filled up with white"
    for value, reason in ((0.0, "zero everywhere"), (np.nan, "not finite"), (np.inf, "not finite")):
        with pytest.raises(ValueError, match=reason):
            plotting.overlay(WIDE, np.where(MAPS[1] == MAPS, value, MAPS), "abc", TITLE)


def test_rows_of_maps_share_their_pictures():
    pair, flat = (plotting.overlays(WIDE[:2], {"both": one}, TITLE) for one in (MAPS[None, :2], MAPS[:2]))
    np.testing.assert_array_equal(pictures(pair), pictures(flat))
    two = plotting.overlays(WIDE[[0, 1, 0, 1]], {"both": MAPS[[[0, 1], [1, 0]]]}, TITLE)
    assert [len(figure.axes[0].lines) for figure in (pair, flat, two)] == [0, 0, 1], "a line between pairs"
    named = plotting.overlays(WIDE[:1], {"strong": MAPS[:1], "weak": 0.1 * MAPS[:1]}, TITLE)
    assert len(pictures(named)) == 3 and {"strong", "weak"} < {text.get_text() for text in named.axes[0].texts}


def test_a_key_stands_below_pictures_that_keep_their_size():
    plain, keyed = plotting.contact_sheet(WIDE, list("abc"), title=TITLE), FIGURES["with_key"]()
    before, after = (figure.axes[0].get_window_extent().size / figure.dpi for figure in (plain, keyed))
    np.testing.assert_allclose(after, before)
    assert keyed.axes[1].get_position().y1 < keyed.axes[0].get_position().y0


def test_maps_stand_beside_the_picture_that_they_lie_over():
    figure = FIGURES["beside"]()
    *shown, shaded = [smaller(picture, 16) for picture in pictures(figure)]
    np.testing.assert_array_equal(shown, WIDE[:2])
    np.testing.assert_array_equal(shaded, plotting.tint(WIDE[0], MAPS[1]))
    assert words(figure.axes[0].texts) == ["it", "other", "map"]
    np.testing.assert_array_equal(shaded, plotting.tint(WIDE[0], 9 * MAPS[1]), "as strong as it gets")
    paler = plotting.tint(WIDE[0], MAPS[1], 10 * np.abs(MAPS[1]).max())
    assert np.ptp(paler.astype(int), axis=0).mean() < np.ptp(shaded.astype(int), axis=0).mean()


@pytest.mark.parametrize("name, kind", [("lines", "PNG"), ("contact_sheet", "JPEG")])
def test_show_puts_a_picture_with_its_alternative_text_and_its_caption(name, kind, displayed):
    plotting.show(FIGURES[name](), "Roses outnumber irises.")
    picture, told = one_picture(displayed)
    assert picture.format == kind and min(picture.size) > 50
    assert told["width"] == pytest.approx(picture.width / 1.5, abs=1)
    caption, _ = displayed[1]
    assert isinstance(caption, Markdown) and caption.data == "*Roses outnumber irises.*"
    assert not plotting.plt.get_fignums(), "a shown figure is closed"
    assert told["alt"] == plotting.describe(FIGURES[name]()) != "Roses outnumber irises."
    displayed.clear()
    plotting.show(FIGURES[name](), "A caption.", "Said otherwise.")
    assert one_picture(displayed)[1]["alt"] == "Said otherwise."
    displayed.clear()
    plotting.show(FIGURES[name](), "A caption.", lossless=True)
    assert one_picture(displayed)[0].format == "PNG"


def test_a_figure_describes_itself():
    told = {}
    for name, make in FIGURES.items():
        told[name] = plotting.describe(figure := make())
        plotting.plt.close(figure)
    assert all(text.startswith("A title. ") and 20 < len(text) < 420 for text in told.values())
    assert told["contact_sheet"] == "A title. 7 pictures. a, b, c, d, e, f, g."
    assert told["pair_gallery"] == "A title. 4 pairs of pictures. ✓ a, ✗ b, c, ✗ d."
    assert told["lines"] == "A title. accuracy against eps (1/255). standard, robust."
    assert told["histories"] == "A title. loss, MAP@R, center against epoch. plain, joined."
    assert "before: ROC-AUC 0.111, after: ROC-AUC 0.889" in told["score_histograms"]
    assert plotting.describe(plotting.contact_sheet(IMAGES[:1].repeat(30, 0), [*map(str, range(30))])) == (
        "30 pictures. 0, 1, 2, 3, 4, 5, 6, 7 and 22 more."
    )
