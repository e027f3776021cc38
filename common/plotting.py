"""Every figure: arrays and tables in, a matplotlib Figure out; `show` puts it into the notebook.

First pictures and what lies over them, then tables, then what a training and a model give.
"""

import inspect
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Code, Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Patch, Rectangle
from PIL import Image as Pixels
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import PrecisionRecallDisplay, roc_curve

from common.evaluation.metrics import Threshold, accuracy_by_kind, equal_error_rate, roc_auc

sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
DOTS, SHOWN = 144, 96  # dots of an inch of a figure, and the pixels it takes on a screen
RIGHT, WRONG = "tab:green", "tab:red"
MEASURES = {"validation": "validation ROC-AUC", "f1": "validation F1"}  # columns of a history, and what an axis says
PART_COLORS = np.array([[70, 70, 70], [70, 160, 70], [220, 90, 160], [250, 210, 70]], np.uint8)  # by mask value


def show(figure: Figure, caption: str) -> None:
    """Display a figure as PNG with its caption below; the caption is its alternative text too.

    It is drawn sharp enough for a projector, and shown at the width that lets its smallest letters be read.
    """
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS, bbox_inches="tight")
    picture = Pixels.open(drawn).convert("RGB")
    picture.quantize(256, dither=Pixels.Dither.NONE).save(buffer, "png", optimize=True)  # a third of the bytes
    plt.close(figure)
    width = picture.width * SHOWN // DOTS
    display(Image(buffer.getvalue()), metadata={"image/png": {"alt": caption, "width": width}})
    display(Markdown(f"*{caption}*"))


def show_source(thing) -> None:
    """Display the source code of a function or class, the very code that runs."""
    display(Code(inspect.getsource(thing), language="python"))


def contact_sheet(images, titles=(), columns: int = 6, title: str = "", cell: float = 1.6, right=()) -> Figure:
    """Lay pictures out in rows, `cell` inches high each; a picture may also be (H, W), with any values.

    `right` has True, False or None for each picture: a frame and a sign in green, in red, or none.
    """
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    height, width = np.shape(images[0])[-2:]
    below = max((text.count("\n") + 1 for text in titles), default=0)
    size = (cell * columns * width / height, (cell + 0.1 * (below > 0) + 0.15 * below) * rows + 0.4)
    figure, axes = _figure(title, size, rows, columns, layout="compressed")
    for axis in axes.flat:
        axis.axis("off")
    titles = titles if len(titles) else [""] * len(images)
    right = right if len(right) else [None] * len(images)
    for axis, (image, text, good) in zip(axes.flat, zip(images, titles, right, strict=True)):
        axis.imshow(np.moveaxis(image, 0, -1) if np.ndim(image) == 3 else image, cmap="viridis")
        if good is not None:
            text, color = f"{'✓' if good else '✗'} {text}", RIGHT if good else WRONG
            frame = Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, edgecolor=color, linewidth=4)
            axis.add_patch(frame).set_clip_on(False)
        axis.set_title(text, fontsize=9)
    return figure


def pair_gallery(images, pairs, right: Sequence, titles: Sequence[str], title: str) -> Figure:
    """A `contact_sheet` of pairs, side by side: the first two columns of `pairs` are rows of `images`."""
    gap = np.full((3, images.shape[2], max(1, images.shape[3] // 24)), 255, np.uint8)
    both = [np.concatenate([images[first], gap, images[second]], axis=2) for first, second, *_ in pairs]
    return contact_sheet(both, titles, 3, title, right=right)


def retrieval_gallery(queries, found, right, titles: Sequence[Sequence[str]], title: str) -> Figure:
    """A `contact_sheet` of queries (Q, 3, H, W), each with what was found for it (Q, k, 3, H, W) in its row.

    `right` (Q, k) says whether that is of the query's class; `titles` are Q rows of k + 1, the query's first.
    """
    images = np.concatenate([np.asarray(queries)[:, None], found], axis=1)
    judged = np.concatenate([np.full((len(images), 1), None), right], axis=1).ravel()
    return contact_sheet(np.concatenate(images), np.ravel(titles), images.shape[1], title, cell=1.4, right=judged)


def paint_parts(parts) -> np.ndarray:
    """Color part masks uint8 (..., H, W) for the eye: uint8 (..., 3, H, W), in PART_COLORS."""
    return np.moveaxis(PART_COLORS[parts], -1, -3)


def overlay(images, maps, titles: Sequence[str], title: str, columns: int = 6) -> Figure:
    """Pictures in gray with their signed maps (N, h, w) laid over: red speaks for the answer, blue against it.

    A map is scaled here, and only here: by its own largest absolute value, so that 0 stays colorless. One that is
    zero everywhere or not finite would be drawn as an empty picture, so it raises ValueError.
    """
    figure = contact_sheet(_gray(images), titles, columns, title, cell=2)
    axes = figure.axes[: len(images)]
    for axis, one in zip(axes, np.asarray(maps, float), strict=True):
        largest = np.abs(one).max()
        if not (np.isfinite(largest) and largest > 0):
            raise ValueError(f"a map is {'zero everywhere' if largest == 0 else 'not finite'}: nothing to draw")
        shades = dict(cmap="RdBu_r", vmin=-largest, vmax=largest, alpha=0.55, interpolation="bilinear")
        drawn = axis.imshow(one, extent=axis.images[0].get_extent(), **shades)
    bar = figure.colorbar(drawn, ax=axes, ticks=[-largest, 0, largest], shrink=0.8)
    bar.ax.set_yticklabels(["against", "0", "for"], fontsize=9)
    return figure


def concepts(images, maps, titles: Sequence[str], title: str) -> Figure:
    """Pictures in gray, tinted by each location's strongest concept, in the same color in every picture.

    Maps (N, K, h, w) are 0 or more, as `factorize` returns them.
    """
    maps = np.asarray(maps, float)
    figure = contact_sheet(_gray(images), titles, len(images), title, cell=2.6)
    strength = maps / np.maximum(maps.max((0, 2, 3), keepdims=True), np.finfo(float).tiny)
    palette = np.array(sns.color_palette("colorblind", maps.shape[1]))
    for axis, one in zip(figure.axes, strength, strict=True):
        tint = np.dstack([palette[one.argmax(0)], 0.75 * one.max(0)])
        axis.imshow(tint, extent=axis.images[0].get_extent(), interpolation="nearest")
    handles = [Patch(color=color, label=f"concept {place}") for place, color in enumerate(palette, 1)]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(handles))
    return figure


def correspondences(first, second, terms: np.ndarray, title: str, count: int = 5) -> Figure:
    """Two pictures (3, H, W) side by side, with lines between the `count` pairs of places that add most to their score.

    `terms` (h, w, h, w) are what a place of the first adds with one of the second; the thicker a line, the more.
    """
    figure = contact_sheet([first, second], ["first picture", "second picture"], 2, title, cell=3.2)
    most = np.argsort(-terms, axis=None, kind="stable")[:count]
    ends = np.stack(np.unravel_index(most, terms.shape), 1).reshape(-1, 2, 2)  # of lines: picture, then row and column
    ends = (ends + 0.5) * np.array(np.shape(first)[1:]) / terms.shape[:2] - 0.5
    added = terms.flat[most] - terms.flat[most].min()
    widths = 1 + 4 * added / max(added.max(), np.finfo(float).tiny)
    colors = sns.color_palette("colorblind", len(most))
    for place, (color, width, points) in enumerate(zip(colors, widths, ends[:, :, ::-1].tolist(), strict=True)):
        both = dict(zip(("axesA", "axesB"), figure.axes, strict=True))
        line = ConnectionPatch(*points, "data", "data", color=color, linewidth=width, **both)
        line.set_connectionstyle("arc3", rad=0.08 * (place + 1) * (-1) ** place)  # so that lines in a row stay apart
        figure.add_artist(line)
        for axis, (x, y) in zip(figure.axes, points, strict=True):
            axis.plot(x, y, "o", color=color, markersize=7, markeredgecolor="white")
    return figure


def _gray(images) -> np.ndarray:
    """Pictures without their colors, which would mix with those of a map."""
    gray = np.tensordot([0.299, 0.587, 0.114], np.asarray(images, float), (0, 1))
    return np.repeat(gray.round().astype(np.uint8)[:, None], 3, 1)


def bars(values: pd.Series, title: str, xlabel: str, ylabel: str) -> Figure:
    """Horizontal bars, one for each entry."""
    figure, axis = _axis(title, xlabel, ylabel, height=0.28 * len(values) + 1.4)
    axis.barh(values.index.astype(str), values)
    axis.invert_yaxis()
    return figure


def intervals(table: pd.DataFrame, title: str, xlabel: str, ylabel: str = "") -> Figure:
    """Dots with intervals, one for each row of a table with columns value, low, high; a line at 0 where 0 is near."""
    figure, axis = _axis(title, xlabel, ylabel, height=0.4 * len(table) + 1.4)
    errors = np.abs(table[["low", "high"]].to_numpy().T - table["value"].to_numpy())
    axis.errorbar(table["value"], table.index.astype(str), xerr=errors, fmt="o", capsize=4)
    low, high = table["low"].min(), table["high"].max()
    if 2 * low - high < 0 < 2 * high - low:  # among them, or no farther away than they spread
        axis.axvline(0, color="black", linestyle="--", zorder=0)
    axis.invert_yaxis()
    axis.margins(y=0.2)
    return figure


def histograms(table: pd.DataFrame, title: str, xlabel: str, ylabel: str) -> Figure:
    """Overlaid histograms of a table's columns."""
    figure, axis = _axis(title, xlabel, ylabel, height=3.4)
    sns.histplot(table, bins=40, element="step", ax=axis)
    return figure


def lines(table: pd.DataFrame, title: str, xlabel: str, ylabel: str, low=None, high=None) -> Figure:
    """One line a column over the table's index; `low` and `high`, tables of the same form, make bands around them."""
    figure, axis = _axis(title, xlabel, ylabel)
    for name, values in table.items():
        (line,) = axis.plot(table.index, values, marker="o", markersize=4, label=name)
        if low is not None:
            axis.fill_between(table.index, low[name], high[name], color=line.get_color(), alpha=0.2, linewidth=0)
    axis.legend(fontsize=9)
    return figure


def heatmap(table: pd.DataFrame, title: str, xlabel: str, ylabel: str) -> Figure:
    """A table of shares, 0 to 1, as colored cells with their numbers."""
    figure, axis = _axis(title, "", "", 0.9 * table.shape[1] + 2.5, 0.5 * table.shape[0] + 2)
    table = table.rename_axis(index=ylabel, columns=xlabel)
    sns.heatmap(table, vmin=0, vmax=1, annot=True, fmt=".2f", cmap="viridis", ax=axis)
    return figure


def named_points(table: pd.DataFrame, x: str, y: str, title: str, xlabel: str, ylabel: str) -> Figure:
    """Points with their names, one for each row; columns low and high, if there are any, make intervals of y."""
    figure, axis = _axis(title, xlabel, ylabel)
    axis.plot(table[x], table[y], "o")
    if {"low", "high"} <= {*table}:
        axis.vlines(table[x], table["low"], table["high"], linewidth=1)
    for name, row in table.iterrows():
        axis.annotate(name, (row[x], row[y]), xytext=(5, -12), textcoords="offset points", fontsize=9)
    axis.margins(0.2)
    return figure


def pareto(table: pd.DataFrame, x: str, y: str, title: str, xlabel: str, ylabel: str) -> Figure:
    """`named_points`, with those no other beats in both (smaller x, larger y) joined."""
    figure = named_points(table, x, y, title, xlabel, ylabel)
    front = table.sort_values([x, y], ascending=[True, False])
    front = front[front[y] > front[y].cummax().shift(fill_value=-np.inf)]
    figure.axes[0].plot(front[x], front[y], linestyle="--", color="gray", label="Pareto front", zorder=0)
    figure.axes[0].legend()
    return figure


def scatter(panels: dict, labels, title: str, names: Sequence[str] = (), alike: bool = False) -> Figure:
    """Points in the color of their label, one panel for each entry: its title -> points (N, 2).

    `names` of the labels make a legend; `alike` gives all panels the same axes.
    """
    figure, axes = _figure(title, (5.5 * len(panels) + 2, 5), 1, len(panels), sharex=alike, sharey=alike)
    kinds = np.unique(labels)
    markers = "o^s" if len(kinds) > 9 else "o"  # nobody tells 24 colors apart
    palette = sns.husl_palette(-(-len(kinds) // len(markers)))
    for axis, (panel, points) in zip(axes.flat, panels.items(), strict=True):
        axis.set(title=panel, xlabel="dimension 1", ylabel="dimension 2")
        for place, kind in enumerate(kinds):
            color, marker = palette[place // len(markers)], markers[place % len(markers)]
            mine, label = np.asarray(labels) == kind, names[kind] if len(names) else None
            axis.scatter(*np.asarray(points)[mine].T, color=color, marker=marker, s=14, label=label)
    if len(names) and len(kinds) <= 30:
        axis.legend(fontsize=9, ncol=1 if len(kinds) <= 12 else 2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def histories(runs: dict[str, pd.DataFrame], columns: Sequence[str], title: str) -> Figure:
    """Curves over epochs: one panel a column, one line a run; a column a run lacks is left out of it."""
    wide = min(3, len(columns))
    rows = -(-len(columns) // wide)
    figure, axes = _figure(title, (4.2 * wide, 3.2 * rows), rows, wide)
    for axis, column in zip(axes.flat, columns, strict=False):
        for name, history in runs.items():
            if column in history:
                axis.plot(history["epoch"], history[column], marker="o", markersize=3, label=name)
        axis.set(xlabel="epoch", ylabel=MEASURES.get(column, column.replace("_", " ")))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes.flat[len(columns) :]:
        axis.axis("off")
    handles, names = axes.flat[0].get_legend_handles_labels()
    beside = 1.02 if len(columns) == axes.size else 0  # in the last panel, if that is empty
    axes.flat[-1].legend(handles, names, fontsize=9, loc="center left", bbox_to_anchor=(beside, 0.5))
    return figure


def score_histogram(scores, same, threshold: float, title: str, score: str = "cosine similarity") -> Figure:
    """Histograms of the scores of same and of different pairs (P,), with the threshold marked; `score` names them."""
    figure, axis = _axis(title, f"score ({score})", "pairs", height=3.4)
    edges, (blue, orange) = np.histogram_bin_edges(scores, 60), sns.color_palette()[:2]
    for kind, name, color in ((0, "different species", orange), (1, "same species", blue)):
        axis.hist(np.asarray(scores)[np.asarray(same) == kind], bins=edges, alpha=0.55, label=name, color=color)
    axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}, from validation")
    axis.legend(fontsize=9, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def confusion(matrix, names: Sequence[str], title: str) -> Figure:
    """Confusion matrix (C, C) of counts; beyond 25 species colors with a scale take the place of numbers."""
    size, few = max(4.5, 0.3 * len(names) + 1.5), len(names) <= 25
    figure, axis = _axis(title, "", "", size, 0.85 * size)
    table = pd.DataFrame(matrix, pd.Index(names, name="true species"), pd.Index(names, name="predicted species"))
    counts = table.astype(str).where(table > 0, "") if few else False
    looks = dict(fmt="", cbar=not few, cmap="Blues", annot_kws={"size": 7}, xticklabels=few, yticklabels=few)
    sns.heatmap(table, annot=counts, ax=axis, **looks)
    axis.tick_params(labelsize=7)
    return figure


def roc(curves: dict, title: str, threshold: Threshold | None = None) -> Figure:
    """ROC curves of name -> scores and same (P,), with their areas; a dot marks each equal error rate.

    The threshold is marked on the first curve, where it decides.
    """
    x, y = "false accept rate (share of different pairs)", "true accept rate (share of same pairs)"
    figure, axis = _axis(title, x, y, 6, 5.8)
    for name, (scores, same) in curves.items():
        error = equal_error_rate(scores, same)
        label = f"{name}: AUC {roc_auc(scores, same):.3f}, equal error rate {error:.3f}"
        (line,) = axis.plot(*roc_curve(same, scores)[:2], label=label)
        axis.plot(error, 1 - error, "o", color=line.get_color())
    axis.plot([0, 1], [0, 1], ":", color="gray", label="chance")
    axis.plot([0, 1], [1, 0], "-", color="lightgray", linewidth=1, zorder=0, label="errors of both kinds equal (dots)")
    if threshold:
        on_same, on_different = accuracy_by_kind(*next(iter(curves.values())), threshold)
        label = f"threshold {threshold.value:.2f} of {next(iter(curves))}, from {threshold.fitted_on}"
        axis.plot(1 - on_different, on_same, "x", color="black", markersize=10, label=label)
    axis.legend(fontsize=9, loc="lower right")
    return figure


def precision_recall(curves: dict, title: str) -> Figure:
    """Precision over recall of name -> scores and same (P,); dotted what chance gives, the share of same pairs."""
    figure, axis = _axis(title, "", "", 6, 5.2)
    for name, (scores, same) in curves.items():
        PrecisionRecallDisplay.from_predictions(same, scores, name=name, ax=axis)
    for share in sorted({float(np.mean(same)) for _, same in curves.values()}):
        axis.axhline(share, color="gray", linestyle=":", label=f"chance: {share:.3f} of the pairs are same")
    axis.set(xlabel="recall (share of same pairs called same)", ylabel="precision (share right of pairs called same)")
    axis.legend(fontsize=9)
    return figure


def reliability(probabilities, same, title: str) -> Figure:
    """Calibration diagram in 10 bins: how often pairs (P,) are the same that are said to be so with probability p."""
    figure, ((upper,), (lower,)) = _figure(title, (6, 6.4), 2, 1, height_ratios=(3, 1))
    CalibrationDisplay.from_predictions(same, probabilities, n_bins=10, ax=upper, name="observed")
    lower.hist(probabilities, bins=10, range=(0, 1))
    for axis, ylabel in ((upper, "share of same pairs"), (lower, "pairs")):
        axis.set(xlabel="predicted probability of same", ylabel=ylabel, xlim=(-0.03, 1.03))
    return figure


def _axis(title: str, xlabel: str, ylabel: str, width: float = 7.5, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure of one axis with its words."""
    figure, ((axis,),) = _figure(title, (width, height))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axis


def _figure(title: str, size, rows: int = 1, columns: int = 1, layout: str = "constrained", **options):
    """A figure of a size in inches with its title and its axes (rows, columns)."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **options)
    figure.suptitle(title)
    return figure, axes
