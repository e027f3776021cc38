"""Diagrams that explain an idea before it is defined: nothing is measured here, everything is drawn."""

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
