"""Galleries: pairs and search results as pictures, framed green where right and red where wrong."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.plotting import DIFFERENT, SAME, finish

CELL = 1.5  # size of a picture in inches


def pair_gallery(images, pairs, right, titles: Sequence[str], title: str, columns: int = 3) -> Figure:
    """Pairs side by side; frame and sign say whether they were judged rightly.

    Args:
        images: uint8 (N, 3, H, W).
        pairs: int (P, 2 or more), whose first two columns are row numbers.
        right: bool (P,), judged rightly.
        titles: one for each pair.
        title: of the figure.
        columns: pairs in a row.
    """
    rows = -(-len(pairs) // columns)
    lines = 1 + max(text.count("\n") for text in titles)
    size = (2.3 * CELL * columns, (CELL + 0.25 + 0.2 * lines) * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    gap = np.full((3, images.shape[2], max(1, images.shape[3] // 24)), 255, np.uint8)
    for place, ((first, second, *_), good, text) in enumerate(zip(pairs, right, titles, strict=True)):
        both = np.concatenate([images[first], gap, images[second]], axis=2)
        _framed(axes.flat[place], both, good, text)
    return finish(figure, title)


def retrieval_gallery(queries, found, right, titles: Sequence[Sequence[str]], title: str) -> Figure:
    """Each row a query, then its k nearest; frame and sign say whether they are of its class.

    Args:
        queries: uint8 (Q, 3, H, W).
        found: uint8 (Q, k, 3, H, W), the most similar first.
        right: bool (Q, k).
        titles: Q rows of k + 1, the query's first.
        title: of the figure.
    """
    rows, k = np.shape(right)
    figure, axes = plt.subplots(rows, k + 1, figsize=(CELL * (k + 1), (CELL + 0.45) * rows + 0.5), squeeze=False)
    for row, (query, *neighbors) in enumerate(axes):
        _framed(query, queries[row], None, titles[row][0])
        for place, axis in enumerate(neighbors):
            _framed(axis, found[row][place], right[row][place], titles[row][place + 1])
    return finish(figure, title)


def _framed(axis, image, right: bool | None, text: str) -> None:
    """Draw uint8 (3, H, W) with its title; `right` None, as for a query, makes no frame."""
    axis.imshow(np.moveaxis(image, 0, -1))
    axis.axis("off")
    if right is not None:
        text, color = f"{'✓' if right else '✗'} {text}", SAME if right else DIFFERENT
        frame = Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, edgecolor=color, linewidth=4)
        axis.add_patch(frame).set_clip_on(False)
    axis.set_title(text, fontsize=9, pad=7)
