"""Every figure: arrays and tables in, a matplotlib Figure out; `show` puts it into the notebook."""

import inspect
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Code, Image, Markdown, display
from matplotlib.figure import Figure
from PIL import Image as Pixels

sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
SAME, DIFFERENT = "tab:green", "tab:red"
MEASURES = {"validation": "validation ROC-AUC", "f1": "validation F1"}  # columns of a history, and what an axis says
PART_COLORS = np.array([[70, 70, 70], [70, 160, 70], [220, 90, 160], [250, 210, 70]], np.uint8)  # by mask value


def show(figure: Figure, caption: str) -> None:
    """Display a figure as PNG with its caption below; the caption is its alternative text too."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=72, bbox_inches="tight")
    Pixels.open(drawn).convert("RGB").save(buffer, "png", optimize=True)  # opacity costs an eighth
    plt.close(figure)
    display(Image(buffer.getvalue()), metadata={"image/png": {"alt": caption}})
    display(Markdown(f"*{caption}*"))


def show_source(thing) -> None:
    """Display the source code of a function or class, the very code that runs."""
    display(Code(inspect.getsource(thing), language="python"))


def contact_sheet(images, titles: Sequence[str] = (), columns: int = 6, title: str = "", cell: float = 1.6) -> Figure:
    """Lay pictures out in rows.

    Args:
        images: uint8 (N, 3, H, W), or (N, H, W) with any values.
        titles: one for each picture, or none.
        columns: pictures in a row.
        title: of the figure.
        cell: size of a picture in inches.
    """
    rows = -(-len(images) // columns)
    lines = max((1 + text.count("\n") for text in titles), default=0)
    size = (cell * columns, (cell + 0.1 * bool(lines) + 0.15 * lines) * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, image in enumerate(images):
        axis = axes.flat[place]
        axis.imshow(np.moveaxis(image, 0, -1) if np.ndim(image) == 3 else image, cmap="viridis")
        if len(titles):
            axis.set_title(titles[place], fontsize=8)
    return finish(figure, title)


def paint_parts(parts) -> np.ndarray:
    """Color part masks uint8 (..., H, W) for the eye: uint8 (..., 3, H, W), in PART_COLORS."""
    return np.moveaxis(PART_COLORS[parts], -1, -3)


def bars(values: pd.Series, title: str, xlabel: str, ylabel: str, errors=None) -> Figure:
    """Horizontal bars, one for each entry; `errors` (2, N) are the distances down and up."""
    figure, axis = plt.subplots(figsize=(7.5, 0.28 * len(values) + 1.4))
    axis.barh([str(name) for name in values.index], values, xerr=errors, color=sns.color_palette()[0])
    axis.invert_yaxis()
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return finish(figure, title)


def histograms(table: pd.DataFrame, title: str, xlabel: str, ylabel: str = "pictures", bins: int = 40) -> Figure:
    """Overlaid histograms of a table's columns."""
    figure, axis = plt.subplots(figsize=(7.5, 3.4))
    sns.histplot(table, bins=bins, element="step", ax=axis)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return finish(figure, title)


def scatter(points, labels, title: str, names: Sequence[str] = (), axes=("dimension 1", "dimension 2")) -> Figure:
    """Points (N, 2) in the color of their label (N,); `names` of the labels make a legend."""
    figure, axis = plt.subplots(figsize=(7.5, 5.5))
    _scatter(axis, points, labels, names)
    axis.set(xlabel=axes[0], ylabel=axes[1])
    return finish(figure, title)


def scatter_side_by_side(panels: dict, labels, title: str, names: Sequence[str] = (), alike: bool = False) -> Figure:
    """Several scatters of the same labels (N,): panel title -> points (N, 2); `alike` gives all the same axes."""
    size = (5.5 * len(panels), 5)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharex=alike, sharey=alike)
    for axis, (panel, points) in zip(axes.flat, panels.items(), strict=True):
        _scatter(axis, points, labels, names if axis is axes.flat[-1] else ())
        axis.set(title=panel, xlabel="dimension 1", ylabel="dimension 2")
    return finish(figure, title)


def histories(runs: dict[str, pd.DataFrame], columns: Sequence[str], title: str) -> Figure:
    """Curves over epochs: one panel a column, one line a run; a column a run lacks is left out of it."""
    wide = min(3, len(columns))
    rows = -(-len(columns) // wide)
    figure, axes = plt.subplots(rows, wide, figsize=(4.2 * wide, 3.2 * rows), squeeze=False)
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
    axes.flat[-1].legend(handles, names, fontsize=8, loc="center left", bbox_to_anchor=(beside, 0.5))
    return finish(figure, title)


def lines(table: pd.DataFrame, title: str, xlabel: str, ylabel: str, low=None, high=None) -> Figure:
    """One line a column over the table's index; `low` and `high`, tables of the same form, make bands around them."""
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    for name, values in table.items():
        (line,) = axis.plot(table.index, values, marker="o", markersize=4, label=name)
        if low is not None:
            axis.fill_between(table.index, low[name], high[name], color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=9)
    return finish(figure, title)


def score_histogram(scores, same, threshold: float, title: str, score: str = "cosine similarity") -> Figure:
    """Histograms of the scores of same and of different pairs (P,), with the threshold marked; `score` names them."""
    figure, axis = plt.subplots(figsize=(7.5, 3.4))
    edges, (blue, orange) = np.histogram_bin_edges(scores, 60), sns.color_palette()[:2]
    for kind, name, color in ((0, "different species", orange), (1, "same species", blue)):
        axis.hist(np.asarray(scores)[np.asarray(same) == kind], bins=edges, alpha=0.55, label=name, color=color)
    axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}, from validation")
    axis.set(xlabel=f"score ({score})", ylabel="pairs")
    axis.legend(fontsize=9, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return finish(figure, title)


def confusion(matrix, names: Sequence[str], title: str) -> Figure:
    """Confusion matrix (C, C) of counts: rows are the true species, columns the predicted ones."""
    size = max(4.5, 0.3 * len(names) + 1.5)
    figure, axis = plt.subplots(figsize=(size, size * 0.85))
    small = len(names) <= 25
    counts = np.where(matrix > 0, matrix.astype(str), "") if small else False
    sns.heatmap(
        matrix, annot=counts, fmt="", cbar=not small, cmap="Blues", ax=axis, annot_kws={"size": 7},
        xticklabels=names if small else False, yticklabels=names if small else False,
    )  # fmt: skip
    axis.tick_params(labelsize=7)
    axis.set(xlabel="predicted species", ylabel="true species")
    return finish(figure, title)


def heatmap(table: pd.DataFrame, title: str, xlabel: str, ylabel: str) -> Figure:
    """A table of shares, 0 to 1, as colored cells with their numbers."""
    figure, axis = plt.subplots(figsize=(0.9 * table.shape[1] + 2.5, 0.5 * table.shape[0] + 2))
    sns.heatmap(table, vmin=0, vmax=1, annot=True, fmt=".2f", cmap="viridis", ax=axis)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return finish(figure, title)


def named_points(table: pd.DataFrame, x: str, y: str, title: str, xlabel: str, ylabel: str) -> Figure:
    """Points with their names, one for each row; columns low and high, if there are any, make intervals of y."""
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    axis.plot(table[x], table[y], "o")
    if {"low", "high"} <= {*table}:
        axis.vlines(table[x], table["low"], table["high"], linewidth=1)
    for name, row in table.iterrows():
        axis.annotate(name, (row[x], row[y]), xytext=(5, -12), textcoords="offset points", fontsize=9)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.margins(0.2)
    return finish(figure, title)


def pareto(table: pd.DataFrame, x: str, y: str, title: str, xlabel: str, ylabel: str) -> Figure:
    """`named_points`, with those no other beats in both (smaller x, larger y) joined."""
    figure = named_points(table, x, y, title, xlabel, ylabel)
    front = table.sort_values([x, y], ascending=[True, False])
    front = front[front[y] > front[y].cummax().shift(fill_value=-np.inf)]
    figure.axes[0].plot(front[x], front[y], linestyle="--", color="gray", label="Pareto front", zorder=0)
    figure.axes[0].legend()
    return figure


def intervals(table: pd.DataFrame, title: str, xlabel: str, ylabel: str = "") -> Figure:
    """Dots with intervals, one for each row of a table with columns value, low, high; where 0 is among them, a line."""
    figure, axis = plt.subplots(figsize=(7.5, 0.4 * len(table) + 1.4))
    errors = np.abs(table[["low", "high"]].to_numpy().T - table["value"].to_numpy())
    axis.errorbar(table["value"], [str(name) for name in table.index], xerr=errors, fmt="o", capsize=4)
    if table["low"].min() < 0 < table["high"].max():
        axis.axvline(0, color="black", linestyle="--", zorder=0)
    axis.invert_yaxis()
    axis.margins(y=0.2)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return finish(figure, title)


def _scatter(axis, points, labels, names) -> None:
    kinds = np.unique(labels)
    markers = "o^s" if len(kinds) > 9 else "o"  # nobody tells 24 colors apart
    palette = sns.husl_palette(-(-len(kinds) // len(markers)))
    for place, kind in enumerate(kinds):
        mine, style = np.asarray(labels) == kind, dict(color=palette[place // len(markers)], s=14)
        style["label"] = names[kind] if len(names) else None
        axis.scatter(*np.asarray(points)[mine].T, marker=markers[place % len(markers)], **style)
    if len(names) and len(kinds) <= 30:
        size, columns = (9, 1) if len(kinds) <= 12 else (7, 2)
        axis.legend(fontsize=size, ncol=columns, loc="center left", bbox_to_anchor=(1, 0.5))


def finish(figure: Figure, title: str) -> Figure:
    """Set the title of a figure and let nothing overlap."""
    figure.suptitle(title)
    figure.tight_layout()
    return figure
