"""Explanations as pictures: maps laid over flowers, correspondences between two, concepts in colors."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

SPEAKS_FOR, COLORS = "RdBu_r", "colorblind"  # red speaks for the answer, blue against it


def overlay(images, maps, titles: Sequence[str], title: str, columns: int = 6) -> Figure:
    """Pictures in gray with their signed maps laid over: red speaks for the answer, blue against it.

    A map is scaled here, and only here: by its own largest absolute value, so that 0 stays colorless.

    Args:
        images: uint8 (N, 3, H, W).
        maps: float (N, h, w), of any resolution.
        titles: one for each picture.
        title: of the figure.
        columns: pictures in a row.

    Raises:
        ValueError: a map that is zero everywhere or not finite; it would be drawn as an empty picture.
    """
    figure, axes = _pictures(_gray(images), titles, columns)
    for axis, image, one in zip(axes, images, np.asarray(maps, float), strict=True):
        largest = np.abs(one).max()
        if not (np.isfinite(largest) and largest > 0):
            raise ValueError(f"a map is {'zero everywhere' if largest == 0 else 'not finite'}: nothing to draw")
        shades = dict(cmap=SPEAKS_FOR, vmin=-largest, vmax=largest, alpha=0.55, interpolation="bilinear")
        drawn = axis.imshow(one, extent=_extent(image), **shades)
    bar = figure.colorbar(drawn, ax=list(axes), ticks=[-largest, 0, largest], shrink=0.8)
    bar.ax.set_yticklabels(["against", "0", "for"], fontsize=8)
    figure.suptitle(title)
    return figure


def correspondences(first, second, terms: pd.DataFrame, grid: tuple[int, int], title: str) -> Figure:
    """Two pictures side by side, with lines between the locations that add most to their score.

    Args:
        first, second: uint8 (3, H, W).
        terms: as `Decomposition.correspondences` returns them; the thicker a line, the more it adds.
        grid: h, w, of the locations.
        title: of the figure.
    """
    figure, axes = _pictures([first, second], ["first picture", "second picture"], 2, 3.2)
    step = np.array(np.shape(first)[1:]) / grid
    least, most = terms["contribution"].agg(["min", "max"])
    widths = 1 + 4 * (terms["contribution"] - least) / max(most - least, np.finfo(float).tiny)
    colors = sns.color_palette(COLORS, len(terms))
    for place, (color, width, (_, term)) in enumerate(zip(colors, widths, terms.iterrows(), strict=True)):
        ends = [(term[[f"{side}_row", f"{side}_column"]].to_numpy() + 0.5) * step for side in ("first", "second")]
        points = [(end[1] - 0.5, end[0] - 0.5) for end in ends]
        line = ConnectionPatch(*points, "data", "data", axesA=axes[0], axesB=axes[1], color=color, linewidth=width)
        line.set_connectionstyle("arc3", rad=0.08 * (place + 1) * (-1) ** place)  # so that lines in a row stay apart
        figure.add_artist(line)
        for axis, (x, y) in zip(axes, points, strict=True):
            axis.plot(x, y, "o", color=color, markersize=7, markeredgecolor="white")
    figure.suptitle(title)
    return figure


def concepts(images, maps, titles: Sequence[str], title: str) -> Figure:
    """Pictures in gray, tinted by each location's strongest concept, in the same color in every picture.

    Args:
        images: uint8 (N, 3, H, W).
        maps: float (N, K, h, w), 0 or more, as `factorize` returns them.
        titles: one for each picture.
        title: of the figure.
    """
    maps = np.asarray(maps, float)
    count = maps.shape[1]
    figure, axes = _pictures(_gray(images), titles, len(images), 2.6)
    strength = maps / np.maximum(maps.max((0, 2, 3), keepdims=True), np.finfo(float).tiny)
    palette = np.array(sns.color_palette(COLORS, count))
    for axis, image, one in zip(axes, images, strength, strict=True):
        tint = np.dstack([palette[one.argmax(0)], 0.75 * one.max(0)])
        axis.imshow(tint, extent=_extent(image), interpolation="nearest")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in palette]
    figure.legend(handles, [f"concept {place + 1}" for place in range(count)], loc="outside lower center", ncol=count)
    figure.suptitle(title)
    return figure


def _pictures(images, titles, columns: int, cell: float = 2.0) -> tuple[Figure, np.ndarray]:
    """A figure with one axis for each picture, and those axes (N,)."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (cell * columns + 1, (cell + 0.3) * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, name in zip(axes.flat, images, titles, strict=False):
        axis.imshow(np.moveaxis(image, 0, -1))
        axis.set_title(name, fontsize=9)
    return figure, axes.flat[: len(images)]


def _gray(images) -> np.ndarray:
    """uint8 (N, 3, H, W) without their colors, which would mix with those of a map."""
    gray = np.tensordot([0.299, 0.587, 0.114], np.asarray(images, float), (0, 1))
    return np.repeat(gray.round().astype(np.uint8)[:, None], 3, 1)


def _extent(image) -> tuple[float, float, float, float]:
    """Where a map of any resolution has to lie to cover its picture (3, H, W)."""
    return -0.5, image.shape[2] - 0.5, image.shape[1] - 0.5, -0.5
