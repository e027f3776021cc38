"""Rendered flowers: procedural photographs whose part masks, factors and alternatives are known exactly.

A picture is a background and a list of flat textured pieces (petals, leaves, stamens, discs) that stand in space, are
seen in perspective and painted from far to near; the same painting writes the part masks. A picture depends only on
(VERSION, species, instance seed, size). Like FunnyBirds (Hesse et al. 2023), every part can be taken away.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from common.flowers.painting import SCALE, Scene, generator, rgb, smooth
from common.flowers.plants import Heads, add_flowers, add_foliage, add_leaves, heads_of, occlude, palette_of
from common.flowers.species import BACKGROUND, BACKGROUNDS, CENTER, COLORS, LEAF, PETAL, Species, draw_nuisances

VERSION = 7  # part of every picture's seed and of the cache key: raise it whenever a byte changes
REMOVABLE = dict(leaves=LEAF, petals=PETAL, center=CENTER)


class Rendering(NamedTuple):
    """A rendered picture and all that is known of it."""

    image: np.ndarray  # uint8, 3 x size x size, RGB
    parts: np.ndarray  # uint8, size x size, values index PARTS
    factors: dict  # those of its species, the instance and the nuisances
    file: bytes  # the JPEG file that the camera wrote


def render(species: Species, instance_seed: int, size: int = 96, without=(), recolor: str | None = None,
           background: str | None = None) -> Rendering:
    """Render one picture of `species`, `size` pixels wide (even, from 16 on); equal arguments give equal bytes.

    Interventions change what they name, as far as blur reaches: `without` leaves out "petals", "center", "leaves" or
    several, `recolor` gives the petals a color of COLORS, `background` is one of BACKGROUNDS. Other factors are moved
    by `dataclasses.replace(species, factor=value)`. Raises ValueError for a value that does not exist.
    """
    without = (without,) if isinstance(without, str) else tuple(without)
    asked = [("recolor", recolor, COLORS), ("background", background, BACKGROUNDS)]
    for name, value, known in asked + [("without", part, REMOVABLE) for part in without]:
        if value is not None and value not in known:
            raise ValueError(f"{name}={value!r} does not exist: choose from {list(known)}")

    def stream(number):  # of random numbers, one for each concept, so that changing one moves no other
        return generator(number, instance_seed, species.label, species.seed, VERSION)

    nuisances = draw_nuisances(species, stream(0))
    content, parts = _content(species, nuisances, size, stream)
    image, file = _photograph(content, nuisances, stream(7))
    if without or recolor or background:
        changes = dict(color=recolor or nuisances["color"], background=background or nuisances["background"])
        other, after = _content(species, nuisances | changes, size, stream, without)
        altered, file = _photograph(other, nuisances, stream(7))
        # Pixels beyond its reach are the original's: a JPEG block's error would leak out of what changed, and a sliver
        # of a part too thin for the mask is not counted to the part.
        named = [REMOVABLE[part] for part in without] + [PETAL] * bool(recolor) + [BACKGROUND] * bool(background)
        touched = np.isin(parts, named) | np.isin(after, named)
        blur = nuisances["blur"] + nuisances["background_blur"] * (0.55 if nuisances["occluders"] else 0.25) + 0.005
        reach = 2 * int(np.ceil(3 * blur * size) + 1) + 1
        touched = cv2.dilate(touched.astype(np.uint8), np.ones((reach, reach), np.uint8))
        image, parts = np.where(touched[..., None] == 0, image, altered), after
    factors = {**vars(species), "colors": "/".join(species.colors), "instance": instance_seed, **nuisances}
    return Rendering(np.ascontiguousarray(image.transpose(2, 0, 1)), parts, factors, file)


def _content(species, nuisances, size, stream, without=()):
    """Paint what stands before the camera: return RGB uint8 (size, size, 3) and the parts uint8 (size, size)."""
    turn, rise = np.radians([nuisances["light_direction"], nuisances["light_elevation"]])
    light = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
    palette = palette_of(species, nuisances)
    behind = _backdrop(nuisances["background"], nuisances["green"], size, stream(1))
    scene = Scene(cv2.resize(cv2.cvtColor(behind, cv2.COLOR_RGB2RGBA), (SCALE * size, SCALE * size)), light)
    if nuisances["background"] == "foliage":
        add_foliage(scene, palette, stream(8))
    scene.blur(nuisances["background_blur"])
    stems, heads = heads_of(species, nuisances, stream(2))
    if "leaves" not in without:
        add_leaves(scene, species, nuisances, palette, stems, heads, stream(3))
    each = len(heads.radius) // len(stems)
    main, others = (Heads(*(field[where] for field in heads)) for where in (slice(each), slice(each, None)))
    if len(stems) > 1:
        add_flowers(scene, species, nuisances, palette, others, without, stream(4))
    scene.blur(0.25 * nuisances["background_blur"])  # all but the main flower is a little out of focus
    add_flowers(scene, species, nuisances, palette, main, without, stream(5))
    scene.paint()
    if nuisances["occluders"] and "leaves" not in without:
        occlude(scene, nuisances, palette, stream(6))
    image = cv2.resize(scene.canvas, (size, size), interpolation=cv2.INTER_AREA)
    if nuisances["blur"]:
        image = cv2.GaussianBlur(image, (0, 0), 0.25 + nuisances["blur"] * size)
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), scene.parts


def _noise(rng, cells: int, pixels: int) -> np.ndarray:
    """Return smooth noise, float32 (pixels, pixels), through random values in `cells` x `cells` places."""
    return cv2.resize(rng.random((cells, cells), np.float32), (pixels, pixels), interpolation=cv2.INTER_CUBIC)


@lru_cache(maxsize=4)
def _grain(size: int) -> np.ndarray:
    """Return one fixed sheet of normal noise, float32 (2 size, 2 size, 3), to cut pictures' sensor noise from."""
    return generator(size).standard_normal((2 * size, 2 * size, 3), np.float32)


def _backdrop(kind: str, green: float, pixels: int, rng) -> np.ndarray:
    """Return what lies behind the plant: uint8 (pixels, pixels, 3)."""
    dark, light = dict(
        soil=((0.07, 0.45, rng.uniform(0.08, 0.25)), (0.08, 0.3, rng.uniform(0.45, 0.7))),
        sky=((0.58, rng.uniform(0.3, 0.7), 0.75), (0.57, 0.1, 0.95)),
        dark=((green, 0.3, 0.03), (green, 0.5, 0.2)),
    ).get(kind, ((green, 0.6, rng.uniform(0.08, 0.25)), (green - 0.02, 0.5, rng.uniform(0.35, 0.6))))
    dark, light = rgb(*dark).astype(np.float32), rgb(*light).astype(np.float32)
    mix = 0.65 * _noise(rng, 4, pixels) + 0.35 * _noise(rng, 40 if kind == "soil" else 9, pixels)
    image = cv2.merge([cv2.convertScaleAbs(mix, alpha=float(b - a), beta=float(a)) for a, b in zip(dark, light)])
    strokes = rng.random((60, 5))
    colors = dark + (light * 1.25 - dark) * strokes[:, 4:]
    if kind == "grass":
        x, y, lean, length = strokes[:, :4].T
        middle, tip = (x + 0.1 * (lean - 0.5), y - 0.2 * length), (x + 0.35 * (lean - 0.5), y - 0.4 * length)
        blades = np.stack([[x, y], middle, tip]) * 1.3 * pixels
        for blade, color in zip(blades.astype(np.int32).transpose(2, 0, 1), colors.tolist()):
            cv2.polylines(image, [blade], False, color, max(1, pixels // 60), cv2.LINE_AA)
    if kind in ("bokeh", "soil"):
        long, flat = dict(bokeh=(0.12, 1.0), soil=(0.04, 0.7))[kind]
        for (x, y, r, turn, odd), color in zip(strokes[:25], colors.tolist()):
            if odd > 0.85 and kind == "bokeh":  # another plant's flower
                color = (0.6 * rgb(r * 9, 0.5, 0.9) + 0.4 * light).tolist()
            axes = [int(pixels * long * (0.2 + r) * stretch) for stretch in (1, flat)]
            cv2.ellipse(image, (int(x * pixels), int(y * pixels)), axes, turn * 400, 0, 360, color, -1)
    return image


def _photograph(content: np.ndarray, nuisances: dict, rng) -> tuple[np.ndarray, bytes]:
    """Shade, expose, add sensor noise and compress: return RGB uint8 (size, size, 3) and the JPEG file's bytes."""
    size = len(content)
    x, y = rng.integers(0, size, 2)
    gain = nuisances["exposure"] * np.array([1 + nuisances["warmth"], 1, 1 - nuisances["warmth"]])
    tone = np.arange(256)[:, None] / 255 * gain
    tone *= 1 + nuisances["contrast"] * 0.45 * tone * (1 - tone)  # a film's curve: brighter middle tones
    image = cv2.LUT(content, (255 * tone).astype(np.float32)[None])
    if nuisances["shadow"]:  # of a tree, say: it falls on everything
        dapple = smooth(0.4, 0.55, _noise(rng, 4, size))
        image *= cv2.merge([1 - np.float32(1.2 * nuisances["shadow"]) * dapple] * 3)
    image += np.float32(nuisances["noise"]) * _grain(size)[y : y + size, x : x + size]
    image = cv2.cvtColor(image.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, nuisances["jpeg"]])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), data.tobytes()
