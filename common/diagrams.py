"""Diagrams that explain an idea before it is defined: nothing is measured here, everything is drawn."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle


def triplet_rings(margin: float, to_positive: float = 0.5) -> Figure:
    """An anchor, a ring through its positive, a ring a margin farther out, and three negatives with their losses.

    Distances are squared ones, `to_positive` the positive's, so that the rings' radii are their roots. Arrows point
    where a training step moves the points.
    """
    figure, axis = plt.subplots(figsize=(9, 5.6), layout="constrained")
    inner, outer = to_positive**0.5, (to_positive + margin) ** 0.5
    axis.add_patch(Circle((0, 0), outer, facecolor="tab:orange", alpha=0.25))
    axis.add_patch(Circle((0, 0), inner, facecolor="white"))
    for radius, style, name in ((inner, "-", "ring through the positive"), (outer, "--", "ring of the margin")):
        axis.add_patch(Circle((0, 0), radius, fill=False, linestyle=style, linewidth=2))
        axis.text(0, -radius - 0.03, name, ha="center", va="top", fontsize=12)
    green, red = dict(color="tab:green", markersize=15), dict(color="tab:red", markersize=14)
    for name, marker, x in (("positive", "^", -inner), ("anchor", "o", 0)):
        axis.plot([x], [0], marker, **green)
        axis.text(x + 0.03, 0.08, name, va="bottom", fontsize=13, color="tab:green", weight="bold")
    axis.annotate("", (-inner + 0.4, 0), (-inner + 0.1, 0), arrowprops=dict(color="tab:green", width=3))
    # A kind of negative, its squared distance, the direction it lies in, and the height of its label.
    middle = to_positive + margin / 2
    kinds = ("easy", 1.7 * outer**2, 38, 0.8), ("semi-hard", middle, 14, 0.05), ("hard", 0.16, -45, -0.55)
    for kind, squared, angle, height in kinds:
        away = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        point, loss = squared**0.5 * away, max(0.0, to_positive - squared + margin)
        axis.plot(*point[:, None], "s", **red)
        label = dict(ha="left", va="center", fontsize=13, color="tab:red", weight="bold")
        label |= dict(arrowprops=dict(arrowstyle="-", color="gray", shrinkB=10))
        axis.annotate(f"{kind} negative\nloss {loss:.2f}", point, (1.35, height), **label)
        if loss:
            axis.annotate("", point + 0.3 * away, point + 0.1 * away, arrowprops=dict(color="tab:red", width=3))
    axis.set(xlim=(-1.15, 2.2), ylim=(-1.25, 1.1), aspect="equal")
    axis.axis("off")
    return figure


def two_towers(first, second, numbers: Mapping[str, str] | None = None) -> Figure:
    """A siamese network: two pictures uint8 (3, H, W), one network, a pair head, a probability.

    `numbers`, of any of "z1", "z2", "distance", "product", "s" and "P", are words that stand below the symbols.
    """
    figure, axis = plt.subplots(figsize=(12.5, 4.6), layout="constrained")
    for picture, y in ((first, 3.5), (second, 1.1)):
        axis.imshow(np.moveaxis(picture, 0, -1), extent=(0.1, 2.1, y - 1, y + 1))
        axis.annotate("", (2.8, y), (2.15, y), arrowprops=dict(arrowstyle="-|>", linewidth=2, color="dimgray"))
    boxes = {
        "f1": (3.1, 3.5, "$f$"), "f2": (3.1, 1.1, "$f$"), "z1": (4.9, 3.5, "$z_1$"), "z2": (4.9, 1.1, "$z_2$"),
        "distance": (7.7, 3.5, "$|a - b|$"), "product": (7.7, 1.1, r"$a \odot b$"), "s": (10, 2.3, "$s$"),
        "P": (11.7, 2.3, r"$P = \sigma(s)$"),
    }  # fmt: skip
    drawn, look = {}, dict(boxstyle="round,pad=0.4", facecolor="moccasin", edgecolor="gray")
    for name, (x, y, symbol) in boxes.items():
        words = f"{symbol}\n{numbers[name]}" if numbers and name in numbers else symbol
        size = 16 if words == symbol else 13
        drawn[name] = axis.text(x, y, words, fontsize=size, ha="center", va="center", zorder=3, bbox=look)
    ends = "f1 z1, f2 z2, z1 distance, z1 product, z2 distance, z2 product, distance s, product s, s P"
    for start, end in map(str.split, ends.split(",")):
        arrow = dict(arrowstyle="-|>", linewidth=2, color="dimgray", shrinkA=3, shrinkB=3)
        arrow |= dict(patchA=drawn[start].get_bbox_patch(), patchB=drawn[end].get_bbox_patch())
        axis.annotate("", boxes[end][:2], boxes[start][:2], arrowprops=arrow)
    axis.plot([3.1, 3.1], [1.6, 3], linestyle=":", linewidth=2, color="dimgray")
    labels = [(3.65, 2.3, "one set\nof weights"), (6.1, 3.95, "$a$, of length 1"), (6.1, 0.65, "$b$, of length 1")]
    for x, y, words in (*labels, (9.1, 3.15, "$w_1$"), (9.1, 1.45, "$w_2$")):
        axis.text(x + 0.1, y, words, fontsize=14, ha="center", va="center")
    axis.set(xlim=(0, 12.6), ylim=(0, 4.6), aspect="equal")
    axis.axis("off")
    return figure


def margin_circle(margin: float = 1.0) -> Figure:
    """What the contrastive loss asks around one embedding: pull what is the same, push what is different and near.

    An arrow is as long as the force: d on what is the same, margin - d on what is different and inside.
    """
    figure, axis = plt.subplots(figsize=(9.5, 5), layout="constrained")
    axis.add_patch(Circle((0, 0), margin, fill=False, edgecolor="black", linestyle="--", linewidth=2))
    axis.plot(0, 0, "*", markersize=24, color="black")
    blue, orange = "#0173b2", "#de8f05"
    points = [("o", blue, 0.3, 125), ("o", blue, 0.75, 200), ("o", blue, 1.35, 172)]
    points += [("s", orange, 0.3, 40), ("s", orange, 0.75, -25), ("s", orange, 1.35, 10)]
    for marker, color, share, angle in points:
        d, away = share * margin, np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        axis.plot(*(d * away), marker, markersize=13, color=color)
        if force := -d if color == blue else max(0.0, margin - d):
            arrow = dict(arrowstyle="-|>", linewidth=3, color=color, shrinkA=0, shrinkB=0, mutation_scale=20)
            axis.annotate("", (d + 0.7 * force) * away, d * away, arrowprops=arrow)
    notes = [(0, 1.12, f"circle of the margin, $d = {margin:g}$", "black"), (0, -0.18, "one picture", "black")]
    notes += [(-1.6, 0.6, "same: pulled in,\nthe harder the farther", blue)]
    notes += [(1.65, 0.75, "different, inside:\npushed out", orange)]
    for x, y, words, color in (*notes, (1.85, 0, "different, outside:\nleft alone", orange)):
        axis.text(x * margin, y * margin, words, fontsize=14, ha="center", va="center", color=color)
    axis.set(xlim=(-2.3 * margin, 2.4 * margin), ylim=(-1.1 * margin, 1.25 * margin), aspect="equal")
    axis.axis("off")
    return figure
