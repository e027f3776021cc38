"""Diagrams that explain an idea before it is defined: nothing is measured here, everything is drawn."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, Rectangle

from common.plotting import tint

BLUE, ORANGE = "#0173b2", "#de8f05"
WHITE = dict(facecolor="white", edgecolor="none", alpha=0.85, pad=1)  # behind words that lie on lines


def triplet_rings(margin: float, to_positive: float = 0.5) -> Figure:
    """An anchor, a ring through its positive, a ring a margin farther out, and three negatives with their losses.

    Distances, d², are squared, the rings' radii their roots. Arrows are a training step's moves, all by one scale.
    """
    figure, axis = plt.subplots(figsize=(9, 5.6), layout="constrained")
    inner, outer = to_positive**0.5, (to_positive + margin) ** 0.5
    axis.add_patch(Circle((0, 0), outer, facecolor="tab:orange", alpha=0.25))
    axis.add_patch(Circle((0, 0), inner, facecolor="white"))
    for radius, style, name in ((inner, "-", "ring through the positive"), (outer, "--", "ring of the margin")):
        axis.add_patch(Circle((0, 0), radius, fill=False, edgecolor="black", linestyle=style, linewidth=2))
        axis.text(0, -radius - 0.03, name, ha="center", va="top", fontsize=12)
    for name, marker, x in (("positive", "^", -inner), ("anchor", "o", 0)):
        axis.plot([x], [0], marker, color="tab:green", markersize=15)
        words = name if x == 0 else f"{name}\n$d^2$ = {to_positive:g}"
        axis.text(x + 0.03, 0.08, words, va="bottom", fontsize=13, color="tab:green", weight="bold")
    axis.annotate("", (-0.55 * inner + 0.1, 0), (-inner + 0.1, 0), arrowprops=dict(color="tab:green", width=3))
    # A kind of negative, its squared distance, the direction it lies in, and the height of its label.
    kinds = ("easy", 1.7 * outer**2, 38, 0.8), ("semi-hard", outer**2 - margin / 2, 14, 0), ("hard", 0.16, -45, -0.55)
    for kind, squared, angle, height in kinds:
        away = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        point, loss = squared**0.5 * away, max(0.0, to_positive - squared + margin)
        axis.plot(*point[:, None], "s", color="tab:red", markersize=14)
        label = dict(ha="left", va="center", fontsize=13, color="tab:red", weight="bold")
        label |= dict(arrowprops=dict(arrowstyle="-", color="gray", shrinkB=10))
        axis.annotate(f"{kind} negative\n$d^2$ = {squared:.2f}, loss {loss:.2f}", point, (1.35, height), **label)
        if loss:
            axis.annotate("", 1.45 * point + 0.1 * away, point + 0.1 * away, arrowprops=dict(color="tab:red", width=3))
    axis.set(xlim=(-1.15, 2.2), ylim=(-1.25, 1.1), aspect="equal", title="Which negatives cost something?")
    axis.axis("off")
    return figure


def triplet_steps(points: Mapping[str, Sequence[float]], steps: Sequence) -> Figure:
    """Anchor, positive and negative, by name, and an arrow from each of them: its step."""
    figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
    looks = zip("o^s", ("tab:green", "tab:green", "tab:red"), strict=True)
    for (name, point), step, (marker, color) in zip(points.items(), np.asarray(steps), looks, strict=True):
        axis.plot(*point, marker, color=color, markersize=14)
        axis.annotate("", point + step, point, arrowprops=dict(color=color, width=3, headwidth=11, shrink=0.04))
        axis.annotate(name, point, (0, -30), textcoords="offset points", fontsize=14, ha="center", color=color)
    axis.set(aspect="equal", xticks=[], yticks=[], title="Which way does each picture move?")
    axis.margins(x=0.3, y=0.8)
    return figure


def two_towers(first, second, numbers: Mapping | None = None) -> Figure:
    """A siamese network: two pictures uint8 (3, H, W), one network, a pair head, a probability.

    `numbers` may give "gap" and "product", whose sums stand below their symbols, "s" and "P", and "w1" and "w2", which
    stand beside their arrows.
    """
    figure, axis = plt.subplots(figsize=(10.3, 3.8), layout="constrained")
    for name, picture, y in (("first picture", first, 3.5), ("second picture", second, 1.1)):
        axis.imshow(np.moveaxis(picture, 0, -1), extent=(0.1, 2.1, y - 1, y + 1), label=name)
        axis.annotate("", (2.9, y), (2.15, y), arrowprops=dict(arrowstyle="-|>", linewidth=2, color="dimgray"))
    boxes = {
        "f1": (3.1, 3.5, "$f$"), "f2": (3.1, 1.1, "$f$"), "z1": (4.9, 3.5, "$z_1$"), "z2": (4.9, 1.1, "$z_2$"),
        "gap": (7.7, 3.5, "$|a - b|$"), "product": (7.7, 1.1, r"$a \odot b$"), "s": (10, 2.3, "$s$"),
        "P": (11.7, 2.3, r"$P = \sigma(s)$"),
    }  # fmt: skip
    drawn, size = {}, 13 if numbers else 16
    look = dict(boxstyle="round,pad=0.4", facecolor="moccasin", edgecolor="gray")
    for name, (x, y, words) in boxes.items():
        if numbers and name in numbers:
            value = np.asarray(numbers[name])
            words += "\n" + (f"sum {value.sum():.3f}" if value.ndim else f"{value:.4g}")
        drawn[name] = axis.text(x, y, words, fontsize=size, ha="center", va="center", zorder=3, bbox=look)
    ends = "f1 z1, f2 z2, z1 gap, z1 product, z2 gap, z2 product, gap s, product s, s P"
    for start, end in map(str.split, ends.split(",")):
        arrow = dict(arrowstyle="-|>", linewidth=2, color="dimgray", shrinkA=3, shrinkB=3)
        arrow |= dict(patchA=drawn[start].get_bbox_patch(), patchB=drawn[end].get_bbox_patch())
        axis.annotate("", boxes[end][:2], boxes[start][:2], arrowprops=arrow)
    axis.plot([3.1, 3.1], [1.6, 3], linestyle=":", linewidth=2, color="dimgray")
    labels = [(3.85, 2.3, "one set\nof weights"), (5.75, 4.0, "$a$, of length 1"), (5.75, 0.6, "$b$, of length 1")]
    labels += [(3.3, 0.25, "backbone,\nembedding head"), (9.9, 0.55, "pair head")]
    weights = [f"$w_{n}$" + (f" = {numbers[f'w{n}']:g}" if numbers and f"w{n}" in numbers else "") for n in (1, 2)]
    labels += [(9.5, 3.2, weights[0]), (9.5, 1.4, weights[1])]
    for x, y, words in labels:
        axis.text(x + 0.1, y, words, fontsize=14, ha="center", va="center")
    axis.add_patch(Rectangle((6.85, 0.3), 3.85, 4, fill=False, edgecolor="dimgray", linestyle="--"))
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
    points = [("o", BLUE, 0.3, 125), ("o", BLUE, 0.75, 200), ("o", BLUE, 1.35, 172)]
    points += [("s", ORANGE, 0.3, 40), ("s", ORANGE, 0.75, -25), ("s", ORANGE, 1.35, 10)]
    for marker, color, share, angle in points:
        d, away = share * margin, np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        axis.plot(*(d * away), marker, markersize=13, color=color)
        if force := -d if color == BLUE else max(0.0, margin - d):
            arrow = dict(arrowstyle="-|>", linewidth=3, color=color, shrinkA=0, shrinkB=0, mutation_scale=20)
            axis.annotate("", (d + 0.7 * force) * away, d * away, arrowprops=arrow)
    notes = [(0, 1.12, f"circle of the margin, $d = {margin:g}$", "black"), (0, -0.18, "one picture", "black")]
    notes += [(-1.6, 0.6, "same: pulled in,\nthe harder the farther", BLUE)]
    notes += [(0.22, -0.6, "different,\ninside:\npushed out", ORANGE)]
    for x, y, words, color in (*notes, (1.85, 0, "different, outside:\nleft alone", ORANGE)):
        axis.text(x * margin, y * margin, words, fontsize=14, ha="center", va="center", color=color)
    axis.set(xlim=(-2.3 * margin, 2.4 * margin), ylim=(-1.1 * margin, 1.25 * margin), aspect="equal")
    axis.axis("off")
    return figure


def pull_to_centers() -> Figure:
    """Two species of points: separated, then pulled to their centers, then there; one query and its nearest neighbor.

    No point lies on the wrong side of the boundary. The titles say what share of the points has a nearest neighbor of
    its own species. Lines with their lengths go from the query to the nearest point of each species.
    """
    generator, species = np.random.default_rng(480), np.repeat([0, 1], 10)
    across = 0.2 + 0.5 * generator.uniform(0, 1, 20)  # two long clouds with a gap between them
    wide = np.column_stack([(2 * species - 1) * across, generator.uniform(-1.7, 1.7, 20)])
    centers = np.array([wide[species == j].mean(0) for j in (0, 1)])
    tight = wide + 0.7 * (centers[species] - wide)
    query = None
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained", sharex=True, sharey=True)
    figure.suptitle("No point on the wrong side, and yet a wrong neighbor")
    panels = (wide, "separated"), (wide, "the pull"), (tight, "gathered")
    for axis, (points, title) in zip(axes, panels, strict=True):
        axis.axvline(0, color="black", linestyle="--")
        for j, (marker, color) in enumerate((("o", BLUE), ("s", ORANGE))):
            axis.plot(*points[species == j].T, marker, ms=8, color=color, mec="white")
        if title == "the pull":
            for start, way in zip(points, tight - points, strict=True):
                axis.annotate("", start + way, start, arrowprops=dict(arrowstyle="->", color="dimgray"))
        else:
            distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(len(points), np.inf))
            nearest = distances.argmin(1)
            right = species[nearest] == species
            title += f"\nnearest neighbor right: {right.mean():.0%}"
            query = np.flatnonzero(~right)[0] if query is None else query
            color = "tab:green" if right[query] else "tab:red"
            for other in (np.where(species == j, distances[query], np.inf).argmin() for j in (0, 1)):
                line = dict(color=color, ls="-") if other == nearest[query] else dict(color="dimgray", ls="--")
                axis.plot(*points[[query, other]].T, zorder=0, **line)
                if not right[query]:
                    place = points[[query, other]].mean(0) - ((0.45, 0.4) if line["ls"] == "-" else (0.55, 0))
                    axis.text(*place, f"{distances[query, other]:.1f}", fontsize=15, color=line["color"])
            ring = dict(linestyle="", markerfacecolor="none", markeredgecolor=color, markeredgewidth=2)
            axis.plot(*points[[query, nearest[query]]].T, "o", markersize=17, **ring)
            axis.annotate("query", points[query], (-1.9, points[query, 1]), fontsize=15, color=color, weight="bold",
                          va="center", arrowprops=dict(arrowstyle="-", color=color, linewidth=2, shrinkB=14))
        if axis is not axes[0]:
            axis.plot(*centers.T, "X", color="black", markersize=11, markeredgecolor="white")
        if title == "the pull":
            for j, place in enumerate(centers):
                axis.text(place[0] + 1.2 * j - 0.6, place[1], f"$c_{j + 1}$", fontsize=18, ha="center", va="center")
        axis.set_title(title, fontsize=12)
        axis.set(xlim=(-2, 2), ylim=(-2, 1.9), xticks=[], yticks=[], aspect="equal")
    return figure


def split_map(parts: Mapping[str, Mapping], labels, names: Sequence[str]) -> Figure:
    """Which picture is in which part: each class a row, each picture a cell, one panel a protocol.

    `parts` is protocol -> part -> indices, as `Splits` holds it; the cells of pictures that are left out stay white.
    Rows have names where there is room for them.
    """
    size = (5 * len(parts), 6)
    figure, axes = plt.subplots(1, len(parts), figsize=size, squeeze=False, sharey=True, layout="constrained")
    figure.suptitle("What is for training, and what for the test?")
    labels, colors = np.asarray(labels), [BLUE, ORANGE, "#029e73", "white"]
    for axis, (protocol, members) in zip(axes.flat, parts.items(), strict=True):
        part = np.full(len(labels), 3)
        for number, (name, indices) in enumerate(members.items()):
            part[indices] = number
            looks = dict(color="white", fontsize=12, ha="center", bbox=dict(boxstyle="round", color=colors[number]))
            axis.text(0.17 + 0.33 * number, 1.05, f"{name}: {len(indices)}", transform=axis.transAxes, **looks)
        cells = np.full((labels.max() + 1, np.bincount(labels).max()), 3)
        for label, row in enumerate(cells):
            row[: (labels == label).sum()] = np.sort(part[labels == label])
        shades = dict(cmap=ListedColormap(colors), vmin=0, vmax=3, linewidth=0.5 if cells.size < 4000 else 0)
        axis.pcolormesh(cells, edgecolors="white", **shades)
        axis.set(xlabel="the class's pictures, sorted by part", xticks=[])
        axis.set_title(protocol.replace("_", " "), pad=38)
    if len(names) <= 30:
        axes[0, 0].set_yticks(np.arange(len(names)) + 0.5, names, fontsize=11, parse_math=False)
    axes[0, 0].set(ylabel="class", ylim=(len(cells), 0))
    return figure


def hues(pictures, shares, titles: Sequence[str]) -> Figure:
    """Pictures uint8 (N, 3, H, W), and below each the shares (N, K) of its pixels by hue, in bars of that hue."""
    size = dict(figsize=(2.3 * len(pictures), 3.7), height_ratios=(2, 1))
    figure, axes = plt.subplots(2, len(pictures), squeeze=False, sharey="row", layout="constrained", **size)
    figure.suptitle("How much of each hue does a picture hold?")
    for (above, below), picture, share, title in zip(axes.T, pictures, shares, titles, strict=True):
        above.imshow(np.moveaxis(picture, 0, -1), label=f"picture of {title}")
        above.set_title(title, fontsize=13)
        above.axis("off")
        middles = (np.arange(len(share)) + 0.5) / len(share)  # of the circle of hues
        below.bar(middles, share, width=1 / len(share), color=plt.cm.hsv(middles))
        below.set(xlabel="hue", xlim=(0, 1))
        below.set_xticks([0, 1 / 6, 1 / 3, 2 / 3], ["red", "\nyellow", "green", "blue"], fontsize=11)
    axes[1, 0].set_ylabel("share of pixels")
    return figure


def two_hills(scores, same, threshold: float, accepts, rejects, marks: Mapping, title: str, xlabel: str) -> Figure:
    """Scores (P,) of same pairs, and below of different pairs, cut by a threshold: what it gets wrong is strong.

    Beside them the ROC curve of all thresholds' false `accepts` and `rejects`, and on it `marks`: words -> place.
    """
    left, right = (figure := plt.figure(figsize=(10, 5), layout="constrained")).subfigures(1, 2, width_ratios=(1.2, 1))
    axes, roc = left.subplots(2, 1, sharex=True, sharey=True), right.subplots()
    figure.suptitle(title)
    for axis, kind, name, color in zip(axes, (1, 0), ("same pairs", "different pairs"), (BLUE, ORANGE), strict=True):
        mine, span = scores[same == kind], (scores.min(), scores.max())
        wrong, what = (mine < threshold, "rejects") if kind else (mine >= threshold, "accepts")
        axis.hist([mine[wrong], mine[~wrong]], 25, span, stacked=True, color=[color, (color, 0.3)], ec="white")
        axis.set_ylabel(f"number of\n{name}", color=color, fontsize=13, weight="bold")
        axis.axvline(threshold, color="black", linestyle="--", linewidth=2)
        axis.set_title(f"strong: false {what}, {wrong.mean():.0%}", fontsize=13)
    axes[1].set_xlabel(xlabel, fontsize=13)
    roc.plot(accepts, 1 - rejects, "black", [0, 1], [0, 1], "k:", [0, 1], [1, 0], "k--")
    roc.text(0.86, 0.86, "chance", fontsize=13, ha="center", va="center", bbox=WHITE)
    for words, at in marks.items():
        roc.plot(x := accepts[at], y := 1 - rejects[at], "o", color="tab:red", markersize=11)
        roc.annotate(words, (x, y), (12, -3), textcoords="offset points", va="top", color="tab:red", bbox=WHITE)
    roc.set(title="ROC curve: all thresholds", xlabel="false accepts", ylabel="1 - false rejects", aspect="equal")
    return figure


def staircase(scores, same) -> Figure:
    """A ROC curve over squares, a same and a different pair each, no score twice: shaded where the same pair wins."""
    s, d = (np.sort(scores[same == kind])[::-1] for kind in (1, 0))
    won, walk = s[:, None] > d, same[np.argsort(-scores)]
    figure, axis = plt.subplots(figsize=(5.6, 5), layout="constrained")
    figure.suptitle(f"{won.sum()} of {won.size} squares lie below: ROC-AUC {won.mean():.3f}")
    axis.pcolormesh(won, cmap=ListedColormap(["white", "#a6cee3"]), vmin=0, vmax=1, edgecolors="gray")
    for (row, column), ahead in np.ndenumerate(won):
        words = f"{s[row]:g} {'>' if ahead else '<'} {d[column]:g}"
        axis.text(column + 0.5, row + 0.5, words, fontsize=14, ha="center", va="center")
    axis.plot([0, *np.cumsum(walk == 0)], [0, *np.cumsum(walk == 1)], linewidth=5, color=ORANGE, clip_on=False)
    axis.set(xlabel="different pairs, highest score first", ylabel="same pairs, highest below", xticks=[], yticks=[])
    return figure


def resamples(values: Mapping, at: float, title: str, xlabel: str) -> Figure:
    """What resamples gave, name -> numbers, a panel each: a histogram, the 95 % interval shaded, and a line `at`."""
    size = dict(figsize=(9, 2 * len(values) + 1), squeeze=False, layout="constrained")
    figure, axes = plt.subplots(len(values), 1, sharex=True, sharey=True, **size)
    figure.suptitle(title)
    ends = np.nanquantile(np.concatenate([*values.values()]), [0, 1]) + np.array([0, 1e-6])  # all may be alike
    for axis, (name, found), color in zip(axes.flat, values.items(), (BLUE, ORANGE), strict=False):
        low, high = np.nanquantile(found, [0.025, 0.975])
        axis.hist(found, bins=50, range=ends, color=color, alpha=0.7)
        axis.axvspan(low, high, color=color, alpha=0.15)
        axis.axvline(at, color="black", linestyle="--", linewidth=2)
        axis.set(title=f"{name}: {low:.3f} to {high:.3f}", ylabel="resamples")
    axis.set_xlabel(xlabel)
    return figure


def arrows(vectors: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """Vectors of two numbers, 0 to 1, as arrows with their names, and an arc between neighbors."""
    figure, axis = plt.subplots(figsize=(5.5, 5.2), layout="constrained")
    figure.suptitle(f"{', '.join(vectors)} and the angles between them")
    for name, end in vectors.items():
        axis.annotate("", end, (0, 0), arrowprops=dict(arrowstyle="-|>", linewidth=3, color=BLUE, shrinkB=0))
        axis.text(*(np.asarray(end) * 1.06), name, fontsize=16, ha="center", va="center")
    angles = sorted(np.degrees(np.arctan2(y, x)) for x, y in vectors.values())
    for radius, (low, high) in zip((0.45, 0.55, 0.65), pairwise(angles)):
        axis.add_patch(Arc((0, 0), 2 * radius, 2 * radius, theta1=low, theta2=high, linewidth=2, color=ORANGE))
        middle = np.radians((low + high) / 2)
        words = f"{high - low:.0f}°\ncosine {np.cos(np.radians(high - low)):.2f}"
        place = 0.86 * np.array([np.cos(middle), np.sin(middle)])
        axis.text(*place, words, fontsize=12, color="#a86500", ha="center", va="center")
    axis.set(xlim=(0, 1.15), ylim=(0, 1.15), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    return figure


def backbone(picture, maps: Sequence, pooled, embedding) -> Figure:
    """From pixels to embedding: a picture uint8 (3, H, W), three channels of each stage's maps (C, h, w), two vectors.

    The channels are those that vary most over places. Vectors are drawn as strips, a cell a number.
    """
    figure, axis = plt.subplots(figsize=(10.2, 3.3), layout="constrained")
    figure.suptitle("From pixels to an embedding")
    axis.imshow(np.moveaxis(picture, 0, -1), extent=(0, 2.6, -1.3, 1.3), label="a picture")
    said, x = "{}\n{} {}\n{} x {}".format, 3.1
    axis.text(1.3, -1.45, said("pixels", 3, "colors", *picture.shape[1:]), ha="center", va="top", fontsize=11)
    for number, values in enumerate(maps, 1):
        side, shift = 1.9 * 0.8**number, 0.4 * 0.8**number  # so that each of the three is seen
        for step, channel in enumerate(np.argsort(-np.std(values, axis=(1, 2)))[2::-1]):
            left, bottom = x + shift * (2 - step), -side / 2 + shift * (1 - step)
            place = dict(extent=(left, left + side, bottom, bottom + side), zorder=step + 1)
            axis.imshow(values[channel], cmap="viridis", label=f"maps of stage {number}", **place)
        words = said(f"stage {number}", len(values), "maps", *values.shape[1:])
        axis.text(x + side / 2 + shift, -1.45, words, ha="center", va="top", fontsize=11)
        x += side + 2 * shift + 0.4
    axis.annotate("", (x + 1.6, 1.5), (3, 1.5), arrowprops=dict(arrowstyle="|-|", linewidth=2, color="dimgray"))
    axis.text(x / 2 + 2.3, 1.6, "backbone", fontsize=11, ha="center", va="bottom")
    for name, vector, above in (("pooled", pooled, "mean"), ("embedding", embedding, "head")):
        axis.text(x + 0.45, 0.2, above, fontsize=11, ha="center", va="bottom")
        axis.annotate("", (x + 0.9, 0), (x, 0), arrowprops=dict(arrowstyle="-|>", linewidth=2, color="dimgray"))
        strip = dict(extent=(x + 1.1, x + 1.5, -1.3, 1.3), aspect="auto", cmap="viridis", label=name)
        axis.imshow(np.asarray(vector)[:, None], **strip)
        axis.text(x + 1.3, -1.45, f"{name}\n{len(vector)} numbers", ha="center", va="top", fontsize=11)
        x += 1.9
    axis.set(xlim=(-0.1, x + 0.2), ylim=(-2.6, 2.05), aspect="equal")
    axis.axis("off")
    return figure


def layers(picture) -> Figure:
    """One layer of three kinds of networks, a line from what is read to what is written: what does each cost?

    Four maps by a full convolution, or each map by itself and then across maps; and patches of a picture uint8
    (3, H, W) that look at each other. A thick line is a filter of 3 x 3, a thin one a single product at each place.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.9), layout="constrained", width_ratios=(1.2, 1.5, 1.7))
    figure.suptitle("Who reads what in one layer?")
    rows, titles = np.arange(4), ("full: 16 x 9 = 144 products", "each by itself: 4 x 9 + 16 = 52")
    every, own = [*product(rows, rows)], [*zip(rows, rows)]
    for axis, title, steps in zip(axes, titles, ([(every, 4)], [(own, 4), (every, 1)])):
        for x, (pairs, width) in enumerate(steps):
            for start, end in pairs:
                axis.plot([x, x + 1], [start, end], color="dimgray", linewidth=width, zorder=0)
            axis.text(x + 0.5, -0.75, "3 x 3" if width > 1 else "1 x 1", fontsize=13, ha="center", va="center")
        for x in range(len(steps) + 1):
            axis.plot(np.full(4, x), rows, "s", markersize=24, color=(BLUE, *["gray"] * (len(steps) - 1), ORANGE)[x])
        axis.set(xlim=(-0.4, len(steps) + 0.4), ylim=(-1, 3.5))
        axis.set_title(title, fontsize=13)
    axis, half = axes[2], picture.shape[-1] // 2
    for x, (row, (i, j)) in product((0, 2), enumerate(product((1, 0), (0, 1)))):
        patch = np.moveaxis(picture[:, i * half : (i + 1) * half, j * half : (j + 1) * half], 0, -1)
        axis.imshow(patch, extent=(x - 0.3, x + 0.3, row + 0.1, row + 0.9), zorder=1, label="a patch")
    for start, end in product(range(-1, 4), repeat=2):
        axis.plot([0.3, 1.7], [start + 0.5, end + 0.5], color="dimgray", linewidth=1, zorder=0)
    for x in (0, 2):
        axis.text(x, -0.5, "token", fontsize=12, ha="center", va="center", bbox=dict(fc="white", ec=ORANGE, lw=2))
    axis.text(2.4, -0.5, "\N{RIGHTWARDS ARROW} features", fontsize=14, va="center")
    axis.set(xlim=(-0.5, 3.9), ylim=(-1, 4), aspect="auto")
    axis.set_title("transformer: all patches, and a token", fontsize=13)
    for axis in axes:
        axis.axis("off")
    return figure


def eps_box(g: tuple[float, float]) -> Figure:
    """A picture of two pixels as a point, the box around it that an attacker may reach, and the box from inside.

    There a linear score with gradient `g` > 0 has its level lines, and two arrows raise it: along the gradient as far
    as the box allows, and along the gradient's signs, to the corner. What is gained stands at the ends of both, at the
    other corners, and on the last level line that still touches the box.
    """
    figure, (axis, zoom) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained", width_ratios=(0.8, 1))
    figure.suptitle("Where does the worst step end?", fontsize=15)
    x, eps, box, g = np.array([0.45, 0.52]), 0.22, dict(fill=False, edgecolor="black", linewidth=2.5), np.array(g)
    axis.add_patch(Rectangle(x - eps, 2 * eps, 2 * eps, **box))
    axis.plot(*x, "o", color="black", markersize=10)
    axis.text(*(x + 0.02), "$x$", fontsize=17)
    low = x[1] - 0.06
    axis.annotate("", (x[0] + eps, low), (x[0], low), arrowprops=dict(arrowstyle="<->", color="black", linewidth=1.5))
    axis.text(x[0] + eps / 2, low - 0.01, r"$\varepsilon$", fontsize=17, ha="center", va="top")
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 1], yticks=[0, 1], aspect="equal")
    axis.set_title("all that the attacker may reach (not to scale)", fontsize=13)
    across, up = np.meshgrid(*2 * [np.linspace(-1.9, 1.9, 200)])
    gain, best = g[0] * across + g[1] * up, g.sum()
    zoom.contourf(across, up, gain, np.arange(-2 * best, 2 * best + 0.1, 0.5), cmap="Blues", alpha=0.6)
    zoom.contour(across, up, gain, [best], colors="tab:red", linestyles="--", linewidths=2)
    zoom.add_patch(Rectangle((-1, -1), 2, 2, **box))
    zoom.plot(0, 0, "o", color="black", markersize=10)
    zoom.text(-0.2, 0.05, "$x$", fontsize=17)
    ways = ("along the gradient", g / g.max(), "dimgray"), ("along its signs", np.sign(g), "tab:red")
    for name, end, color in ways:
        zoom.annotate("", end, (0, 0), arrowprops=dict(color=color, width=3, headwidth=11, shrink=0.03))
        zoom.plot(*end, "o", color=color, markersize=11, label=f"{name}: {g @ end:+.1f} ε")
    for corner in ((-1, -1), (-1, 1), (1, -1)):
        looks = dict(fontsize=13, ha="center", va="center", bbox=WHITE)
        zoom.text(1.15 * corner[0], 1.12 * corner[1], f"{g @ corner:+.0f} ε", **looks)
    words = f"the last level line that\ntouches the box: {best:+.0f} ε"
    zoom.text(0.55, 1.47, words, fontsize=12, color="tab:red", ha="right", va="center", bbox=WHITE)
    zoom.set_title("the same box from inside, with a linear score", fontsize=13)
    zoom.set(xlim=(-1.75, 1.75), ylim=(-1.9, 1.75), aspect="equal")
    for one, what in ((axis, "brightness"), (zoom, "change")):
        one.set_xlabel(f"{what} of pixel 1", fontsize=13)
        one.set_ylabel(f"{what} of pixel 2", fontsize=13)
        one.grid(False)
    zoom.set_xticks([-1, 0, 1], ["-ε", "0", "+ε"], fontsize=13)
    zoom.set_yticks([-1, 0, 1], ["-ε", "0", "+ε"], fontsize=13)
    zoom.legend(fontsize=12, loc="lower center", framealpha=1)
    return figure


def min_max(eps: float = 0.45) -> Figure:
    """Adversarial training with points for pictures: the attacker moves the points, then the weights the boundary.

    Around each point of two species lies the box of half a side `eps`, an X in its worst corner, red where that is
    wrong: the first boundary separates the points but cuts boxes, the second leaves all corners right.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.2), layout="constrained", sharex=True, sharey=True)
    points = np.array([(-0.78, -1.1), (-0.85, 0), (-0.7, 1.1), (0.78, 1.1), (0.85, 0), (0.7, -1.1)])
    titles, ends = ("inside, max: each point goes\nto the worst corner of its box",
                    "outside, min: the boundary goes\nclear of these corners"), np.array([-1.75, 1.75])  # fmt: skip
    for axis, tilt, title in zip(axes, (0.55, 0.05), titles, strict=True):
        for point, side in zip(points, (-1, -1, -1, 1, 1, 1), strict=True):
            corner, color = point - eps * side * np.array([1, -1]), BLUE if side < 0 else ORANGE
            hit = "tab:red" if side * (corner @ (1, -tilt)) < 0 else "gray"
            axis.add_patch(Rectangle(point - eps, 2 * eps, 2 * eps, facecolor=color, alpha=0.25))
            axis.annotate("", corner, point, arrowprops=dict(color=hit, width=2.5, headwidth=10, shrink=0.08))
            axis.plot(*point, "o" if side < 0 else "s", color=color, markersize=12)
            axis.plot(*corner, "X", color=hit, markersize=12, markeredgecolor="white")
        axis.plot(tilt * ends, ends, color="black", linewidth=3)
        axis.set(xlim=(-1.5, 1.5), ylim=ends, xticks=[], yticks=[], aspect="equal")
        axis.set_title(title, fontsize=14)
    axes[0].text(-0.11, 0.05, "boundary", fontsize=13, ha="center", va="center", rotation=61)
    axes[1].plot(0.55 * ends, ends, "--", color="gray", linewidth=2)
    curve = dict(arrowstyle="-|>", linewidth=3, color="black", mutation_scale=22, connectionstyle="arc3,rad=0.25")
    axes[1].annotate("", (0.12, 1.6), (0.8, 1.55), arrowprops=curve)
    return figure


def straight_through(levels: int, change: int) -> Figure:
    """Rounding of a color to so many levels, seen close, and what BPDA takes it for: the identity. In steps of 255.

    Shaded is where a `change` carries a color over an edge, by a whole level: one color does that, another stays.
    """
    figure, axis = plt.subplots(figsize=(9, 4.8), layout="constrained")
    level = 255 / (levels - 1)
    stay, color = levels // 2 * level, np.linspace(levels // 2 - 2.2, levels // 2 + 0.9, 2000) * level
    axis.plot(color, np.round(color / level) * level, linewidth=3.5, color=BLUE)
    axis.plot(color, color, "--", linewidth=2.5, color=ORANGE)
    for edge in stay + level * np.array([-1.5, -0.5, 0.5]):
        axis.axvspan(edge - change, edge + change, color="tab:red", alpha=0.12, linewidth=0)
    near, arrow = (stay - 1.5 * level - 0.4 * change, stay - 2 * level), dict(color="tab:red", width=3, headwidth=11)
    axis.plot(*near, "o", markersize=12, color="tab:red", zorder=5)
    axis.annotate("", np.add(near, (change, level)), near, arrowprops=arrow, zorder=4)
    axis.errorbar(stay, stay, xerr=change, fmt="o", markersize=12, color="tab:green", elinewidth=3, capsize=6, zorder=5)
    notes = [(-1.3, -1.65, f"near an edge, {change} more\njump a level, {level:.0f}", "tab:red")]
    notes += [(-1, 0.6, f"mid-level, {change} more change nothing", "tab:green"), (-1, -1.15, "rounded: slope 0", BLUE)]
    for x, y, words, hue in (*notes, (-0.3, -0.5, "what BPDA takes it for: slope 1", ORANGE)):
        axis.text(stay + x * level, stay + y * level, words, color=hue, fontsize=13, va="center", bbox=WHITE)
    axis.set(xlim=(color[0], color[-1]), xlabel="color that comes in (of 255)", ylabel="color that goes on")
    axis.set_title("What does rounding hide?", fontsize=15)
    return figure


def forces(d, curves: Mapping) -> Figure:
    """What pulls (below 0) or pushes (above) a same and a different pair, over their distance d (N,).

    Each entry of `curves` is a panel: its title -> both forces (N,), a distance to mark, and the words for it.
    """
    figure, axes = plt.subplots(1, len(curves), figsize=(10, 4.4), squeeze=False, layout="constrained")
    for axis, (title, (*pulls, mark, words)) in zip(axes.flat, curves.items(), strict=True):
        for force, kind, color in zip(pulls, ("same pair", "different pair"), (BLUE, ORANGE), strict=True):
            axis.plot(d, force, color=color, linewidth=3, label=kind)
        axis.axhline(0, color="black", linewidth=1)
        axis.axvline(mark, color="black", linestyle="--")
        looks = dict(textcoords="offset points", xycoords=("data", "axes fraction"), fontsize=12, va="top")
        axis.annotate(words, (mark, 0.97), (6, 0), **looks)
        axis.set(title=title, xlabel="distance d", ylabel="force (above 0: apart)")
        axis.legend(fontsize=13, loc="lower left", labelcolor="linecolor")
    return figure


def ranked_hits(rankings: Mapping) -> Figure:
    """Rankings, one a row: its title -> hit or miss at each place (R,). A hit bears the precision up to its place."""
    figure, axes = plt.subplots(len(rankings), 1, figsize=(9, 1.5 * len(rankings)), squeeze=False, layout="constrained")
    for axis, (title, hits) in zip(axes.flat, rankings.items(), strict=True):
        for place, hit in enumerate(hits, 1):
            text, color = (f"{sum(hits[:place])}/{place}", "tab:green") if hit else ("0", "lightgray")
            axis.add_patch(Rectangle((place - 0.95, 0), 0.9, 1, facecolor=color, alpha=0.8))
            axis.text(place - 0.5, 0.5, text, ha="center", va="center", fontsize=15)
        axis.set_title(title, fontsize=14)
        axis.set(xlim=(0, len(hits)), ylim=(-0.05, 1.05))
        axis.axis("off")
    return figure


def pair_map(first, second, channels, alpha, score: float) -> Figure:
    """How a pair, or a name if there is no `second`, gets a map: to the score, slopes back to channels, weighted sum.

    Pictures are uint8 (3, H, W). Of `channels` (K, h, w), weighted by `alpha` (K, 1, 1), the two that add and take most
    are drawn; below, on one scale, what they contribute, all others together, and the sum, which is the map.
    """
    pair, added = second is not None, np.asarray(alpha * channels)
    least, *_, most = added.sum((1, 2)).argsort().tolist()
    rest = added.sum(0) - added[most] - added[least]
    strongest = np.abs([added[most], added[least], rest, added.sum(0)]).max()
    figure, axis = plt.subplots(figsize=(8.4, 4.7), layout="constrained")
    figure.suptitle(f"How a {'pair' if pair else 'name'} gets its map", fontsize=15)
    images, notes = [(first, 0, 4.2), (second, 11.1, 4.2)][: 1 + pair], [(1, 3.9, "$x$", "black")]
    terms = [(rest, f"the other\n{len(added) - 2} channels"), (added.sum(0), "the map\n$M = \\sum_k \\alpha_k A^k$")]
    for k, does, x in ((least, "takes", 4.4), (most, "adds", 2.75)):
        terms.insert(0, (added[k], f"{does} most:\n{alpha[k].item():+#.2g} $A^{{{k}}}$".replace("-", "\N{MINUS SIGN}")))
        axis.imshow(channels[k], extent=(x, x + 1.5, 4.45, 5.95), cmap="viridis")
        notes.append((x + 0.75, 6.3, f"$A^{{{k}}}$", "black"))
    for place, (term, words) in enumerate(terms):
        x = 3.35 * place + 0.3 * (place == 3)
        images.append((tint(first, term, strongest), x, 0))
        notes += [(x + 1, 2.65, words, "black"), (x - 0.68, 1, " ++="[place], "black")]
    for image, x, low in images:
        axis.imshow(np.moveaxis(image, 0, -1), extent=(x, x + 2, low, low + 2))
    words = f"$s = \\cos(z, z')$\n{score:.2f}" if pair else f"score $s$\n{score:.1f}"
    notes += [(6.7, 5.2, "$z$", "black"), (8.7, 5.2, words, "black")]
    box = dict(boxstyle="round,pad=0.4", facecolor="moccasin", edgecolor="gray")
    arrows = [((2.1, 5.2), (2.7, 5.2)), ((5.95, 5.2), (6.4, 5.2)), ((7, 5.2), (7.6, 5.2)), ((4.3, 4.3), (4.3, 3.3))]
    for start, end in [*arrows, ((11, 5.2), (9.8, 5.2))][: 4 + pair]:
        axis.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", linewidth=2, color="dimgray"))
    back = dict(arrowstyle="-|>", linewidth=2.5, color="tab:red", connectionstyle="arc3,rad=0.25")
    axis.annotate("", (5.7, 6.5), (8.7, 5.9), arrowprops=back)
    notes += [(4.3, 7, "channels $A^k$", "black"), (5.4, 3.75, r"times $\alpha_k$", "black")]
    notes += [(6.8, -0.5, "below: red adds to the map, blue takes from it, gray is nothing", "dimgray")]
    notes += [(9, 7.1, r"back: slopes $\partial s / \partial A^k$, averaged to $\alpha_k$", "tab:red")]
    for x, y, words, color in [*notes, (12.1, 3.9, "$x'$: $z'$ is held fixed", "dimgray")][: len(notes) + pair]:
        axis.text(x, y, words, fontsize=12, ha="center", va="center", color=color, bbox=box if y == 5.2 else None)
    axis.set(xlim=(-0.1, 13.6), ylim=(-0.8, 7.4), aspect="equal")
    axis.axis("off")
    return figure
