"""Every figure: arrays and tables in, a matplotlib Figure out; `show` puts it into the notebook.

First pictures and what lies over them, then tables, then what a training and a model give. Letters are 11 points or
more at the size shown, no figure is wider than a page. In names of pictures, classes and rows a `$` is a dollar; titles
of figures, words at axes and names of lines may hold formulas.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, LogLocator
from PIL import Image as Pixels
from sklearn.calibration import CalibrationDisplay

from common.evaluation.metrics import roc_auc

sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
DOTS, SHOWN = 144, 96  # dots of an inch of a figure, and the pixels it takes on a screen
WIDEST, LETTERS = 10.0, 11  # inches of the widest figure, points of the smallest letters
RIGHT, WRONG = "#1a7f37", "#c62828"
FOR, AGAINST = np.array([178, 24, 43]), np.array([33, 102, 172])  # what a map colors red and blue
COLORS, MARKERS = sns.color_palette("colorblind", 8), "osD^vPX*"
LOOKS = {  # what a name looks like in every figure; other names have the color and the marker of their place
    "central color": ("#e7298a", "*"), "frozen backbone": ("#949494", "s"), "raw pixels": ("#ca9161", "d"),
    "more epochs": ("#de8f05", "v"), "robust": ("#7b3294", "s"), "chance": ("black", "x"), "color": ("#7b3294", "p"),
    "no hold term": ("#0173b2", "^"), "hold term alone": ("#117733", "P"),
    "untrained head": ("#56b4e9", "P"), "before training": ("#56b4e9", "P"), "principal head": ("#56b4e9", "P"),
    "cross entropy": ("#0173b2", "o"), "center loss": ("#de8f05", "D"), "siamese": ("#029e73", "^"),
    "pair cross entropy": ("#029e73", "^"), "contrastive": ("#cc78bc", "v"), "triplet": ("#d55e00", "X"),
    "cosine softmax": ("#117733", "h"), "label smoothing": ("#8c613c", "p"), "standard": ("#5f6b76", "o"),
    "semi hard": (COLORS[0], "o"), "semi hard, no BatchNorm": ("#001f4d", "P"), "random numbers": ("black", "x"),
    "batch hard": (COLORS[1], "s"), "batch hard, no BatchNorm": ("#7f3b08", "X"), "test byobnet": (COLORS[0], "o"),
    "test efficientnet": (COLORS[1], "s"), "test resnet": (COLORS[2], "D"), "test vit": (COLORS[3], "^"),
}  # fmt: skip
MEASURES = {  # columns of a history, and what an axis says
    "validation": "validation ROC-AUC", "f1": "validation F1", "map_at_r": "MAP@R", "cross_entropy": "cross-entropy",
}  # fmt: skip
GRAY, PALE = np.array([0.299, 0.587, 0.114]), 160  # how bright a color is, and black where a map lies over


def show(figure: Figure, caption: str, alt: str | None = None, lossless: bool = False) -> None:
    """Display a figure and its caption below; `alt` is its alternative text, made by `describe` if not given.

    It is drawn sharp enough for a projector, and shown at the width that lets its smallest letters be read. Pictures
    are compressed a little, unless `lossless`, for changes that compression, or a smooth enlargement, would hide.
    """
    content, kind, width = encode(figure, lossless)
    told = {"alt": alt or describe(figure), "width": width}
    display(Image(content, format=kind), metadata={f"image/{kind}": told})
    display(Markdown(f"*{caption}*"))


def encode(figure: Figure, lossless: bool = False) -> tuple[bytes, str, int]:
    """Close a figure and give it as a file's content, that file's kind, and the width in pixels to show it at."""
    pictures = [image for axis in figure.axes for image in axis.images]
    for image in pictures if lossless else ():
        image.set_interpolation("nearest")
    kind = "jpeg" if pictures and not lossless else "png"  # of pictures a third of the bytes
    drawn, looks = io.BytesIO(), {"quality": 80, "subsampling": 2, "optimize": True} if kind == "jpeg" else {}
    figure.savefig(drawn, format=kind, dpi=DOTS, bbox_inches="tight", pil_kwargs=looks)
    plt.close(figure)
    width = Pixels.open(drawn).width * SHOWN // DOTS
    if kind == "png":  # lines and letters need few colors, in half the bytes
        image, drawn = Pixels.open(drawn).convert("RGB"), io.BytesIO()
        few = image if pictures else image.quantize(256, dither=Pixels.Dither.NONE)
        few.save(drawn, "png", optimize=not pictures)  # of pictures a fiftieth, in ten times as long
    return drawn.getvalue(), kind, width


def describe(figure: Figure, most: int = 8) -> str:
    """What a figure shows, in its own words: its title, its panels, axes and names, and how many pictures it holds."""
    panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axis in panels:
        texts = [text.get_text() for text in axis.texts]
        if isinstance(axis.yaxis.get_major_locator(), FixedLocator) and axis.axison:  # rows with names
            rows = [label.get_text() for label in axis.get_yticklabels()]
            names += map(" ".join, zip(rows, texts, strict=True)) if len(rows) == len(texts) else rows
        legend = axis.get_legend()
        names += texts if axis.images else axis.get_legend_handles_labels()[1]
        names += [text.get_text() for text in legend.get_texts()] if legend else []

    def few(words) -> str:
        words = [*dict.fromkeys(" ".join(word.replace(r"\$", "$").split()) for word in words if word.strip())]
        return ", ".join(words[:most]) + f" and {len(words) - most} more" * (len(words) > most)

    up, across = few(axis.get_ylabel() for axis in panels), few(axis.get_xlabel() for axis in panels)
    shown = few(re.sub(r"^_\w+$", "", image.get_label()) for axis in panels for image in axis.images)
    said = [figure.get_suptitle(), shown, few(axis.get_title() for axis in panels)]
    said += [f"{up} against {across}" if up and across else up or across]
    return (". ".join(one for one in [*said, few(names)] if one) + ".").replace("?.", "?")


def contact_sheet(
    images, titles: Sequence[str] = (), columns: int = 6, title: str = "", cell: float = 2.4, right: Sequence = (),
) -> Figure:  # fmt: skip
    """Lay pictures out in rows, `cell` inches high each if they fit, as large as the first; one may be a map (H, W).

    `right` has True, False or None for each picture: a frame and a sign in green, in red, or none. All is one montage
    in one axes, which is many times faster than an axes for each picture; the axes' patches are the pictures' frames.
    """
    columns, (height, width) = min(columns, len(images)), np.shape(images[0])[-2:]
    rows, times = -(-len(images) // columns), -(-128 // height)  # small ones are enlarged, so that gaps can be thin
    cell = min(cell, (WIDEST / columns - 0.2) * height / width)
    height, width, inch = height * times, width * times, cell / height / times  # of one dot of the montage
    titles, right = [*titles] or [""] * len(images), [*right] or [None] * len(images)
    letters, texts = max(8, int(width * inch / 0.09)), []  # so many stand beside each other
    for text, good in zip(titles, right, strict=True):
        text = text if good is None else f"{'✓' if good else '✗'} {text}"
        texts.append("\n".join(textwrap.fill(line, letters) for line in text.split("\n")))
    gap, head = round(0.1 / inch), round((0.08 + 0.19 * max(text.count("\n") + bool(text) for text in texts)) / inch)
    montage = np.full((rows * (head + height + gap), columns * (width + 2 * gap), 3), 255, np.uint8)
    high, wide = (np.array(montage.shape[:2]) * inch).tolist()
    figure = plt.figure(figsize=(max(wide, 0.11 * len(title)), high + 0.5 * bool(title)))
    figure.suptitle(title, y=1 - 0.1 / figure.get_figheight(), va="top")
    axis = figure.add_axes((0, 0, 1, high / figure.get_figheight()))
    for place, (image, text, good) in enumerate(zip(images, texts, right, strict=True)):
        x, y = (place % columns) * (width + 2 * gap) + gap, place // columns * (head + height + gap) + head
        montage[y : y + height, x : x + width] = Pixels.fromarray(_pixels(image)).resize((width, height), 0)  # sharp
        color = "black" if good is None else RIGHT if good else WRONG
        where = (x + width / 2 - 0.5, y - 0.06 / inch)
        axis.text(*where, _plain(text), fontsize=LETTERS, ha="center", va="bottom", color=color)
        edge = "none" if good is None else color
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=edge, linewidth=4))
    axis.imshow(montage, label=f"{len(images)} pictures")
    axis.axis("off")
    return figure


def _pixels(image) -> np.ndarray:
    """A picture (3, H, W) in bytes or in 0 to 1, or a map (H, W), as uint8 (H, W, 3)."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = plt.get_cmap("viridis")(Normalize()(image.astype(float)))[..., :3].transpose(2, 0, 1)
    image = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return image.transpose(1, 2, 0)


def pair_gallery(images, pairs, right: Sequence, titles: Sequence[str], title: str, cell: float = 2.4) -> Figure:
    """A `contact_sheet` of pairs, side by side: the first two columns of `pairs` are rows of `images`."""
    pixels = {row: _pixels(images[row]).transpose(2, 0, 1) for pair in pairs for row in map(int, pair[:2])}
    height, width = np.shape(images)[-2:]
    gap = np.full((3, height, max(1, width // 24)), 255, np.uint8)
    both = [np.concatenate([pixels[int(first)], gap, pixels[int(second)]], axis=2) for first, second, *_ in pairs]
    figure = contact_sheet(both, titles, 3, title, cell, right)
    figure.axes[0].images[0].set_label(f"{len(both)} pairs of pictures")
    return figure


def retrieval_gallery(queries, found, right, titles: Sequence[Sequence[str]], title: str) -> Figure:
    """A `contact_sheet` of queries (Q, 3, H, W), each with what was found for it (Q, k, 3, H, W) in its row.

    `right` (Q, k) says whether that is of the query's class; `titles` are Q rows of k + 1, the query's first.
    """
    images = np.concatenate([np.asarray(queries)[:, None], found], axis=1)
    judged = np.concatenate([np.full((len(images), 1), None), right], axis=1).ravel()
    figure = contact_sheet(np.concatenate(images), np.ravel(titles), images.shape[1], title, right=judged)
    figure.axes[0].images[0].set_label(f"{len(images)} queries, each with {images.shape[1] - 1} pictures found for it")
    return figure


def overlay(images, maps, titles: Sequence[str], title: str, columns: int = 6) -> Figure:
    """Signed maps (N, h, w) over their pictures (N, 3, H, W): red raises the score that is explained, blue lowers it.

    A map is the more opaque the stronger it is, over its picture in pale gray, so that no color of a flower is taken
    for one of the map; the pictures themselves stand above, once where rows of maps share them. The maps of a row share
    one scale, the same on both sides of 0, that the strongest 1 % of its places exceed. ValueError for a map of zeros.
    """
    maps, columns = np.asarray(maps, float), min(columns, len(images))
    for largest in np.abs(maps).max((1, 2)):
        if not (np.isfinite(largest) and largest > 0):
            raise ValueError(f"a map is {'zero everywhere' if largest == 0 else 'not finite'}: nothing to draw")
    sheet, texts, above, (height, width) = [], [], None, np.shape(images[0])[-2:]
    for start in range(0, len(maps), columns):
        mine, row = images[start : start + columns], maps[start : start + columns]
        strongest = np.quantile(np.abs(row), 0.99) or np.abs(row).max()
        fill = [np.full((3, height, width), 255, np.uint8)] * (columns - len(row))
        if above is None or not np.array_equal(above, mine):
            sheet, texts, above = [*sheet, *mine, *fill], [*texts, "original", *[""] * (columns - 1)], mine
        sheet = [*sheet, *(tint(*both, strongest) for both in zip(mine, row, strict=True)), *fill]
        texts = [*texts, *titles[start : start + columns], *[""] * len(fill)]
    figure = contact_sheet(sheet, texts, columns, title, 1.5)
    figure.axes[0].images[0].set_label(f"{len(maps)} maps, each over its picture, and the pictures")
    return with_key(figure)


def with_key(figure: Figure) -> Figure:
    """A `contact_sheet` of maps, and below it what their colors say."""
    (axis,), (wide, high) = figure.axes, figure.get_size_inches() + np.array([0, 0.5])
    axis.set_position((0, 0.5 / high, 1, axis.get_position(original=True).height * (1 - 0.5 / high)))
    figure.set_size_inches(wide, high)
    strip = tint(np.full((3, 1, 255), 0.5), np.linspace(-1, 1, 255)[None], 1)  # over a gray picture
    colors = ListedColormap(strip[:, 0].T / 255)
    place = figure.add_axes((0.5 - 1.8 / wide, 0.3 / high, 3.6 / wide, 0.15 / high), label="<colorbar>")
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), colors), place, orientation="horizontal", ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["claims: lowers the score", "claims nothing", "claims: raises the score"], fontsize=LETTERS)
    return figure


def overlays(images, maps: Mapping, title: str) -> Figure:
    """`overlay` of several maps (N, h, w) of the same pictures (N, 3, H, W): a row for each entry, its name -> maps.

    Maps may also be those of pairs, (P, 2, h, w), with a line between pairs.
    """
    stacked = np.concatenate([np.asarray(one, float).reshape(-1, *np.shape(one)[-2:]) for one in maps.values()])
    names = [name if place == 0 else "" for name in maps for place in range(len(images))]
    figure = overlay(np.tile(images, (len(maps), 1, 1, 1)), stacked, names, title, len(images))
    for place in range(2, len(images), 2) if np.ndim(next(iter(maps.values()))) == 4 else ():  # between pairs
        figure.axes[0].axvline(place / len(images) * np.ptp(figure.axes[0].get_xlim()) - 0.5, color="gray")
    return figure


def beside(tiles: Mapping, title: str, columns: int, cell: float) -> Figure:
    """A `contact_sheet` of pictures (3, H, W) by their words, and of maps (h, w) over the first of them, with a key."""
    first = next(iter(tiles.values()))
    shown = [one if np.ndim(one) == 3 else tint(first, one) for one in tiles.values()]
    return with_key(contact_sheet(shown, [*tiles], columns, title, cell))


def tint(image, one, strongest: float | None = None) -> np.ndarray:
    """A picture in pale gray with a signed map (h, w) over it, the more opaque the stronger: uint8 (3, H, W).

    The map is drawn as strong as it gets, or as strong as one that has the `strongest` value.
    """
    one = np.asarray(one)
    strength = np.clip(one / (strongest or np.quantile(np.abs(one), 0.99) or np.abs(one).max()), -1, 1)
    pixels = PALE + (255 - PALE) * (_pixels(image) @ GRAY / 255)[..., None].repeat(3, axis=2)
    strength = Pixels.fromarray(strength.astype(np.float32)).resize(pixels.shape[1::-1], Pixels.Resampling.BILINEAR)
    strength = np.asarray(strength)[..., None]
    opacity, color = 0.9 * np.abs(strength) ** 0.6, np.where(strength > 0, FOR, AGAINST)
    return ((1 - opacity) * pixels + opacity * color).astype(np.uint8).transpose(2, 0, 1)


def _plain(name) -> str:
    """A name in which a `$` is a dollar and begins no formula; timm's networks for tests are called tiny."""
    return re.sub(r"\btest_(?=byobnet|efficientnet|resnet|vit)", "tiny ", str(name)).replace("$", r"\$")


def intervals(
    table: pd.DataFrame, title: str, xlabel: str, ylabel: str = "", groups: Sequence = (), chance: float = 0.0,
) -> Figure:  # fmt: skip
    """Dots with intervals, one for each row of a table with columns value, low, high, and at the right their numbers.

    Rows stay in their order; `groups` (one for each row) have a color and a marker each. A line at `chance`, if near.
    """
    figure, axis = _axis(title, xlabel, ylabel, 9, 0.4 * len(table) + 1.6)
    groups = np.asarray(groups if len(groups) else [""] * len(table))
    for place, name in enumerate(dict.fromkeys(groups.tolist())):
        (mine,) = np.nonzero(groups == name)
        value, low, high = table[["value", "low", "high"]].to_numpy(float)[mine].T
        looks = dict(linestyle="", markersize=8, capsize=4, **_looks(name, place))
        axis.errorbar(value, mine, xerr=np.abs([low - value, high - value]), label=name, **looks)
    low, high = table["low"].min(), table["high"].max()
    if 2 * low - high < chance < 2 * high - low:  # among them, or no farther away than they spread
        axis.axvline(chance, color="black", linestyle="--", zorder=0.6)
    spread = (table["high"] - table["low"]).median()
    digits = int(np.clip(1 - np.floor(np.log10(spread)), 0, 4)) if spread > 0 else 3
    ends = table[["low", "high"]].to_numpy(float)
    digits += bool(digits < 4 and ((ends != 0) & (np.abs(ends) < 0.5 / 10**digits)).any())  # none is printed as 0
    for row, (value, low, high) in enumerate(table[["value", "low", "high"]].to_numpy(float).round(digits) + 0.0):
        text = f"{value:.{digits}f}" + f" [{low:.{digits}f}, {high:.{digits}f}]" * bool(np.isfinite(high - low))
        axis.annotate(text, (1, row), (8, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=LETTERS)
    axis.locator_params(axis="x", nbins=6)  # small differences have long numbers
    _rows(axis, table.index)
    if len({*groups}) > 1:
        figure.legend(loc="outside lower center", ncol=min(4, len({*groups})), fontsize=LETTERS)
    return figure


def strips(
    panels: dict[str, Mapping], title: str, xlabel: str, ylabel: str, starts: Sequence = (), zero=False
) -> Figure:
    """Dots in rows, one panel with its own scale for each entry: its title -> row -> value or values.

    All panels have the same rows. With `zero` a dashed line stands at 0. With `starts`, one for each panel, bars lead
    from there to the means of the rows, whose numbers stand beside them.
    """
    across, rows = min(3, len(panels)), max(map(len, panels.values()))
    down = -(-len(panels) // across)
    figure, axes = _figure(title, (WIDEST, (0.36 * rows + 1.1) * down + 0.4), down, across)
    for number, (axis, (panel, values)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        start = starts[number] if len(starts) else None
        for place, (name, row) in enumerate(values.items()):
            looks, row = _looks(name, place), np.atleast_1d(row)
            axis.plot(row, [place] * len(row), linestyle="", markersize=9, alpha=0.6, **looks)
            if start is not None:
                axis.barh(place, np.mean(row) - start, 0.5, start, color=looks["color"], alpha=0.5)
                looks = dict(textcoords="offset points", va="center", bbox=dict(fc="white", ec="none", pad=1))
                axis.annotate(f"{np.mean(row):.2f}", (np.max(row), place), (9, 0), **looks)
        _rows(axis, values.keys())
        axis.set(title=panel, xlabel=xlabel, ylabel=ylabel)
        axis.tick_params(labelleft=number % across == 0)
        axis.yaxis.label.set_visible(number % across == 0)  # the first of the line says it
        axis.margins(x=0.1 if start is None else 0.3)
        if zero:
            axis.axvline(0, color="black", linestyle="--", linewidth=2, zorder=0.6)
        axis.set_xlim(left=start)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    return figure


def dot_panels(
    table: pd.DataFrame, title: str, xlabel: str, ylabel: str, columns: int = 2, join=True, zero=False
) -> Figure:  # fmt: skip
    """Dots in rows, one scale in all panels; `join` draws a line from dot to dot of a row.

    `table` has the columns panel, row, group (a color and a marker each), or in their place the ledger's protocol,
    metric and approach, and value; text, if not the value; low and high make intervals. Panels that share no row have
    rows of their own. The text of a dot alone in its row is above it, else at the right. With `zero` a dashed line is
    at 0, texts beside dots are on their side of it, and marks whose interval holds 0 are hollow: no difference seen.
    """
    for name, instead in (("panel", "protocol"), ("row", "metric"), ("group", "approach")):
        table = table if name in table else table.assign(**{name: table.get(instead, "")})
    words = "{:+.2f}" if zero else "{:.2f}"
    table = table if "text" in table else table.assign(text=(table["value"].round(2) + 0.0).map(words.format))
    panels, groups = ([*dict.fromkeys(table[name])] for name in ("panel", "group"))
    down, table = -(-len(panels) // columns), table.reset_index(drop=True).assign(place=0.0)
    own = table.groupby("row")["panel"].nunique().max() == 1
    named = {name: [*dict.fromkeys((one if own else table)["row"])] for name, one in table.groupby("panel")}
    most = table.groupby(["panel", "row"]).size().max()  # dots in a row
    for (panel, row), mine in table.groupby(["panel", "row"]):
        rows, half = named[panel], min(0.17 * len(mine) - 0.17, 0.38)  # many stand closer together
        table.loc[mine.index, "place"] = np.linspace(rows.index(row) - half, rows.index(row) + half, len(mine))
    deep = [max(len(named[name]) for name in panels[line * columns :][:columns]) for line in range(down)]
    size = (WIDEST, (0.62 if most < 4 else 0.83) * sum(deep) + 1.1 * down + 1)
    figure, axes = _figure(title, size, down, columns, sharex=True, sharey=not own, height_ratios=deep)
    for axis, (panel, mine) in zip(axes.flat, table.groupby("panel", sort=False), strict=False):
        for _, joined in mine.groupby("row") if join else ():
            axis.plot(joined["value"], joined["place"], color="lightgray", zorder=0)
        for place, name in enumerate(groups):
            some = mine[mine["group"] == name]
            looks = dict(linestyle="", markersize=8, capsize=3, label=name, **_looks(name, place))
            ends = np.abs([some[end] - some["value"] for end in ("low", "high")]) if "low" in table else None
            axis.errorbar(some["value"], some["place"], xerr=ends, **looks)
            if zero and "low" in table:
                none = some[(some["low"] <= 0) & (some["high"] >= 0)]
                hollow = dict(linestyle="", markersize=8, markeredgewidth=2, markerfacecolor="white", zorder=3)
                axis.plot(none["value"], none["place"], **hollow, **_looks(name, place))
        for _, dot in mine.iterrows():
            at, by, looks = dot["value"], (0, 7), dict(textcoords="offset points", fontsize=LETTERS, in_layout=False)
            looks |= dict(ha="center", bbox=dict(fc="white", ec="none", pad=0))
            if (mine["row"] == dot["row"]).sum() > 1:
                left = zero and at < 0  # beyond the interval, on the side of 0 where the dot lies
                at = np.nanmin([at, dot.get("low", at)]) if left else np.nanmax([at, dot.get("high", at)])
                side, by = ("right", (-7, 0)) if left else ("left", (7, 0))
                looks |= dict(ha=side, va="center")
            axis.annotate(_plain(dot["text"]), (at, dot["place"]), by, **looks)
        for place in range(1, len(named[panel]), 2):  # what stands on one ground is one row
            axis.axhspan(place - 0.5, place + 0.5, color="0.96", zorder=-1)
        axis.set(title=panel, xlabel=xlabel, ylabel=ylabel)
        axis.margins(x=0.12)
        axis.locator_params(axis="x", nbins=6)
        axis.tick_params(labelbottom=True)
        if zero:
            axis.axvline(0, color="black", linestyle="--", linewidth=2, zorder=0.6)
        _rows(axis, named[panel])
    plt.setp([axis.yaxis.label for axis in axes[:, 1:].flat], visible=False)  # the first of the line has said it
    for empty in axes.flat[len(panels) :]:
        empty.axis("off")
    if len(groups) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=LETTERS)
    figure.draw_without_rendering()  # before that, nobody knows how far the texts reach
    texts, ends = [text for axis in axes.flat for text in axis.texts], np.array(own := axis.get_xlim())
    at = np.array([[text.xy[0]] for text in texts])
    boxes = [text.axes.transAxes.inverted().transform(text.get_window_extent())[:, 0] for text in texts]
    reach = boxes - (at - own[0]) / np.ptp(own) + (-0.01, 0.01)  # to both sides of the dot, as shares of a panel
    for _ in range(20):  # the wider the scale, the more of it a text covers
        wide = at + reach * np.ptp(ends)
        ends = np.array([min(own[0], wide.min()), max(own[1], wide.max())])
    axis.set_xlim(*ends)  # one scale in all panels
    return figure


def compared(table: pd.DataFrame, title: str, xlabel: str, ylabel: str, columns: int = 2, xlim=None) -> Figure:
    """Values in rows; around each the interval of its paired difference to a reference, which is a dashed line.

    `table` has the columns row, value, low and high, the ends of the difference; panel, or else protocol and metric,
    which make one; and group, if a row does not look as its name does. A row without ends is the reference of those
    below it. A mark is hollow where the interval holds 0: no difference seen. `xlim` gives all panels one scale.
    """
    words = {"closed_set": "known species", "open_set": "new species", "roc_auc": "ROC-AUC", "map_at_r": "MAP@R"}
    if "panel" not in table:
        table = table.assign(panel=table["protocol"].map(words) + ", " + table["metric"].map(words))
    table = table if "group" in table else table.assign(group=table["row"])
    panels, rows = [*dict.fromkeys(table["panel"])], [*dict.fromkeys(table["row"])]
    down = -(-len(panels) // columns)
    figure, axes = _figure(title, (WIDEST, (0.45 * len(rows) + 1.1) * down + 0.4), down, columns, sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        start = above = np.nan
        for _, one in table[table["panel"] == panel].iterrows():
            place, text = rows.index(one["row"]), f"{one['value']:.3f}"
            looks = _looks(one["group"], [*dict.fromkeys(table["group"])].index(one["group"]))
            if np.isfinite(one["low"]):
                axis.plot([start, start], [above, place + 0.45], "--", color="black", linewidth=1.5, zorder=0)
                above = place + 0.45
                axis.plot([start + one["low"], start + one["high"]], [place] * 2, linewidth=4, color=looks["color"])
                text += f" ({one['value'] - start:+.3f})"
            else:
                start, above = one["value"], place
            fill = "white" if one["low"] <= 0 <= one["high"] else looks["color"]
            axis.plot(one["value"], place, markersize=9, markeredgewidth=2, markerfacecolor=fill, **looks)
            looks = dict(ha="center", fontsize=LETTERS, bbox=dict(fc="white", ec="none", pad=0), zorder=1.5)
            axis.annotate(text, (one["value"], place), (0, 8), textcoords="offset points", **looks)
        axis.set(title=panel, xlabel=xlabel, ylabel=ylabel)
        axis.margins(x=0.25)
        axis.set_xlim(xlim or (None, min(1, axis.get_xlim()[1])))  # no share is larger
        axis.locator_params(axis="x", nbins=14 if columns == 1 else 5)
        _rows(axis, rows)
    plt.setp([axis.yaxis.label for axis in axes[:, 1:].flat], visible=False)  # the first of the line has said it
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    return figure


def _looks(name, place: int) -> dict:
    """Color and marker of a name, from `LOOKS`; or of its place."""
    color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
    known = re.sub("[_-]", " ", str(name)).split(" (")[0].removeprefix("names: ")
    return dict(zip(("color", "marker"), LOOKS.get(known, (color, marker)), strict=True))


def _rows(axis: Axes, names) -> None:
    """Name the rows 0, 1, 2, ... from the top."""
    axis.set_yticks(range(len(names)), map(_plain, names))
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(False, axis="y")


def lines(table: pd.DataFrame, title: str, xlabel: str, ylabel: str) -> Figure:
    """One line a column over the table's index, named at its end or in a legend."""
    figure, axis = _axis(title, xlabel, ylabel, 8.5)
    for place, (name, values) in enumerate(table.items()):
        _line(axis, table.index, values, name, place)
    if pd.api.types.is_integer_dtype(table.index):
        axis.xaxis.get_major_locator().set_params(integer=True)
    _name_lines(axis)
    return figure


def line_panels(table: pd.DataFrame, title: str, xlabel: str, ylabel: str, chance=np.nan, alike=True) -> Figure:
    """Lines with bands, a panel each, three beside each other; a dotted one at `chance`, one scale if `alike`.

    `table` has the columns panel, group (a color and a marker each), x, value, low and high.
    """
    panels, groups = ([*dict.fromkeys(table[name])] for name in ("panel", "group"))
    down = -(-len(panels) // 3)
    figure, axes = _figure(title, (WIDEST, 2.5 * down + 1.4), down, min(3, len(panels)), sharex=True, sharey=alike)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for place, name in enumerate(groups):
            mine = table[(table["panel"] == panel) & (table["group"] == name)].sort_values("x")
            (line,) = _line(axis, mine["x"], mine["value"], name, place)
            axis.fill_between(mine["x"], mine["low"], mine["high"], color=line.get_color(), alpha=0.2, linewidth=0)
        if np.isfinite(chance):
            axis.axhline(chance, color="black", linestyle=":", label="chance")
        axis.set(title=panel, xlabel=xlabel, ylabel=ylabel)
        axis.yaxis.label.set_visible(axis.get_subplotspec().is_first_col())  # the first has said it
        axis.xaxis.label.set_visible(axis.get_subplotspec().is_last_row())
    if len(axes[0, 0].lines) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=LETTERS)
    return figure


def _line(axis: Axes, x, y, name: str, place: int):
    """A line in the color and with the marker of its name or place; a level one has one marker."""
    looks = dict(label=name, markevery=[-1] if len({*y}) == 1 else max(1, len(x) // 12), markersize=6)
    return axis.plot(x, y, **looks, **_looks(name, place))


def _name_lines(axis: Axes) -> None:
    """Write each line's name beside its end; more than six, or three that end in one point, get a legend."""
    drawn = [line for line in axis.get_legend_handles_labels()[0] if np.isfinite(line.get_ydata()).any()]
    ends = [np.asarray(line.get_ydata(), float)[np.isfinite(line.get_ydata())][-1] for line in drawn]
    if not 0 < len(drawn) <= 6 or (len(drawn) > 2 and np.ptp(ends) < 1e-9):
        axis.legend(fontsize=LETTERS, loc="center left", bbox_to_anchor=(1, 0.5))
        return
    axis.autoscale_view()  # the transforms below do not wait for it
    to_fraction = axis.get_yaxis_transform() - axis.transAxes  # of the axis, on any scale
    tall = 72 * (axis.get_figure().get_figheight() / axis.get_gridspec().nrows - 1.1)  # points of the axis, about
    at = to_fraction.transform([(1, end) for end in ends])[:, 1] * tall
    order, wanted = np.argsort(at, kind="stable"), np.sort(at)
    for place in range(1, len(drawn)):
        wanted[place] = max(wanted[place], wanted[place - 1] + 1.4 * LETTERS)
    wanted[-1:] = np.minimum(wanted[-1:], tall)
    for place in range(len(drawn) - 2, -1, -1):
        wanted[place] = min(wanted[place], wanted[place + 1] - 1.4 * LETTERS)
    for place, want in zip(order, wanted, strict=True):
        looks = dict(color=drawn[place].get_color(), fontsize=LETTERS, va="center", textcoords="offset points")
        beside = dict(text=drawn[place].get_label(), xy=(1, ends[place]), xytext=(6, want - at[place]))
        axis.annotate(**beside, xycoords=("axes fraction", "data"), annotation_clip=False, **looks)


def pareto(table: pd.DataFrame, x: str, y: str, title: str, xlabel: str, ylabel: str, band: float = 0.0) -> Figure:
    """Points with their names, those no other beats in both (smaller x, larger y) joined by stairs.

    What is at most `band` below the highest lies in a stripe that says so.
    """
    figure, axis = _axis(title, xlabel, ylabel)
    front = table.sort_values([x, y], ascending=[True, False])
    front = front[front[y] > front[y].cummax().shift(fill_value=-np.inf)]
    axis.plot(front[x], front[y], "--", drawstyle="steps-post", color="gray", label="Pareto front", zorder=0)
    middle, top = (table[x].min() + table[x].max()) / 2, table[y].max()
    looks = dict(fontsize=LETTERS, textcoords="offset points")
    if band:
        axis.axhspan(top - band, top, color="tab:orange", alpha=0.35)
        axis.annotate(f"at most {band:g} behind", (0, top), (4, 4), **looks)
    for name, row in table.iterrows():  # above its point in the stripe, else below
        axis.plot(row[x], row[y], markersize=10, **_looks(str(name).split("\n")[0], 0))
        right, above = row[x] > middle, row[y] >= top - band
        looks |= dict(ha="right" if right else "left", va="bottom" if above else "top")
        axis.annotate(_plain(name), (row[x], row[y]), (8 - 16 * right, 16 * above - 8), **looks)
    axis.margins(0.2, 0.35)
    axis.set_xlim(left=0)
    return figure


def scatter(
    panels: dict, labels, title: str, names: Sequence = (), alike=False, words=(), equal=False, rays=False
) -> Figure:
    """Points in the color and with the marker of their label, one panel for each entry: its title -> points (N, 2).

    One label may be that of all points. `names` of the labels make a legend below; `alike` gives all panels the same
    axes, named by two `words`; a dashed line where both are `equal`, a dotted one at the second's mean. `rays` go from
    the origin to the points.
    """
    kinds = np.unique(labels)
    legend = len(names) and len(kinds) <= 30
    across = min(2 if legend else 3, len(panels))
    down, side = -(-len(panels) // across), min(5.5, WIDEST / across)
    size = (side * across, 0.9 * side * down + 0.4 + 0.06 * bool(legend) * len(kinds))
    figure, axes = _figure(title, size, down, across, sharex=alike, sharey=alike)
    for axis, (panel, points) in zip(axes.flat, panels.items(), strict=False):
        axis.set(title=panel, **dict(zip(("xlabel", "ylabel"), words or ("dimension 1", "dimension 2"), strict=True)))
        for place, kind in enumerate(kinds):
            mine, label = np.asarray(labels) == kind, _plain(names[kind]) if len(names) else None
            turn, color = divmod(place, len(COLORS))  # after a turn of the colors their marks move on by one
            looks = dict(color=COLORS[color], marker=MARKERS[(color + turn) % len(MARKERS)])
            axis.scatter(*np.asarray(points)[mine].T, s=70 if equal else 40, linewidth=0, label=label, **looks)
        if rays:
            axis.plot(*np.stack([np.zeros_like(points), points]).transpose(2, 0, 1), color="silver", zorder=0)
        if equal:
            axis.axline((0, 0), slope=1, color="black", linestyle="--")
            axis.axhline(np.nanmean(points, axis=0)[1], color=COLORS[1], linestyle=":", linewidth=2.5)
            ends = np.nanquantile(np.concatenate([*panels.values()]), [0, 1]) + np.array([-0.08, 0.08])
            axis.set(xlim=ends, ylim=ends, aspect="equal")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    if legend:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncol=6, fontsize=LETTERS)
    return figure


def histories(runs: dict[str, pd.DataFrame], columns: Sequence[str], title: str, log: bool = False) -> Figure:
    """Curves over epochs: one panel a column, one line a run; a column a run lacks is left out of it.

    The last panel that has the most runs names them at their ends. Heights are on a scale of powers with `log`.
    """
    wide = min(3 if len(columns) in (3, 5, 6) else 2, len(columns))
    rows = -(-len(columns) // wide)
    figure, axes = _figure(title, (min(WIDEST, 5 * wide + 1), 3.4 * rows + 0.4), rows, wide)
    fullest = axes.flat[0]
    for axis, column in zip(axes.flat, columns, strict=False):
        for place, (name, history) in enumerate(runs.items()):
            if column in history:
                _line(axis, history["epoch"], history[column], name, place)
        axis.set(xlabel="epoch", ylabel=MEASURES.get(column, column.replace("_", " ")))
        axis.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axis.set_yscale("log")
            axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:,g}")
        fullest = axis if len(axis.lines) >= len(fullest.lines) else fullest
    for axis in axes.flat[len(columns) :]:
        axis.axis("off")
    _name_lines(fullest)
    return figure


def score_histograms(
    stages: Mapping, same, title: str, score: str = "cosine similarity", threshold: float = np.nan,
    kinds: Sequence[str] = ("different pairs", "same pairs"), xlabel: str = "", side_by_side: bool = False,
) -> Figure:  # fmt: skip
    """Scores of the same and of the different pairs (P,), a panel for each entry: its name -> scores (P,).

    Panels share both axes; their titles say the ROC-AUC, a dotted line the threshold, if given. They stand above each
    other; or, with `side_by_side`, in a row, from four on in two, with heights as shares of a kind's pairs.
    """
    rows = 1 + (len(stages) > 3) if side_by_side else len(stages)
    size = (WIDEST, 2.3 * rows + 1.3) if side_by_side else (8.5, 2.1 * rows + 1.4)
    form = rows, -(-len(stages) // rows)
    figure, axes = _figure(title, size, *form, sharex=True, sharey=True)
    edges = np.histogram_bin_edges(np.concatenate([*stages.values()]), 20 if len(same) < 200 else 60)
    for axis, (name, scores) in zip(axes.flat, stages.items(), strict=False):
        for kind, label, color in ((0, kinds[0], COLORS[1]), (1, kinds[1], COLORS[0])):
            mine = np.asarray(scores)[np.asarray(same) == kind]
            looks = dict(facecolor=(*color, 0.5), edgecolor=color, linewidth=1.5)
            looks |= dict(weights=np.full(len(mine), 1 / len(mine))) if side_by_side else {}
            axis.hist(mine, bins=edges, histtype="stepfilled", label=label, **looks)
        ylabel = "share of " * side_by_side + kinds[0].split()[-1]
        axis.set(ylabel=ylabel, ymargin=0.2, title=f"{name}: ROC-AUC {roc_auc(scores, same):.3f}".removeprefix(": "))
        axis.yaxis.label.set_visible(axis in axes[:, 0])
        axis.axvline(threshold, color="black", linestyle=":")
    plt.setp([*axes[-1]], xlabel=xlabel or f"score ({score})")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncol=2, fontsize=LETTERS)
    return figure


def reliability(probabilities, same, title: str) -> Figure:
    """Calibration diagram in 10 bins: how often pairs (P,) are the same that are said to be so with probability p."""
    figure, ((upper,), (lower,)) = _figure(title, (6, 6.4), 2, 1, height_ratios=(3, 1))
    CalibrationDisplay.from_predictions(same, probabilities, n_bins=10, ax=upper, name="observed")
    lower.hist(probabilities, bins=10, range=(0, 1))
    for axis, ylabel in ((upper, "share of same pairs"), (lower, "pairs")):
        axis.set(xlabel="predicted probability of same", ylabel=ylabel, xlim=(-0.03, 1.03))
    return figure


def examination(tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Tables of `sanity_suite` side by side: a row for each check, a green, red or gray cell for each table.

    Rows that ask about the same stand together, named at the right; a cell holds the verdict and what decided it.
    """
    first, looks_of = next(iter(tables.values())), {"FAIL": WRONG, "NO HARM": "gray", "PASS": RIGHT}
    passed = np.stack([table["passed"].map([*looks_of].index) for table in tables.values()], 1)
    worst = np.stack([table["worst"] for table in tables.values()], 1)
    figure, axis = _axis(title, "attacked model", "check", WIDEST, 0.42 * len(passed) + 1.5)
    letters = LETTERS + 1
    axis.pcolormesh(passed, cmap=ListedColormap([*looks_of.values()]), vmin=0, vmax=2, edgecolors="white", linewidth=3)
    for (row, column), verdict in np.ndenumerate(passed):
        word, looks = [*looks_of][verdict], dict(ha="center", va="center", color="white", fontsize=letters)
        axis.text(column + 0.5, row + 0.5, word + f": {worst[row, column]}" * (word != "NO HARM"), **looks)
    for name, rows in first.reset_index().groupby("about", sort=False).groups.items():
        axis.axhline(rows[-1] + 1, color="black", linewidth=1.5, clip_on=False)
        looks = dict(textcoords="offset points", xycoords=("axes fraction", "data"), va="center", fontsize=letters)
        axis.annotate(textwrap.fill(name, 16), (1, rows.to_numpy().mean() + 0.5), (6, 0), **looks)
    axis.set_xticks(np.arange(len(tables)) + 0.5, [*tables], fontsize=letters)
    axis.set_yticks(np.arange(len(passed)) + 0.5, first["check"], fontsize=letters)
    axis.invert_yaxis()
    axis.xaxis.set(ticks_position="top", label_position="top")
    axis.grid(False)
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
