"""Rendered flowers: procedural photographs whose part masks, factors and alternatives are known exactly.

A picture is a background and a list of flat textured pieces (petals, leaves, stamens, discs) that stand in space, are
seen in perspective and painted from far to near; the same painting writes the part masks. A picture depends only on
(VERSION, species, instance seed, size). Like FunnyBirds (Hesse et al. 2023), every part can be taken away.
"""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from common.images import Picture
from common.painting import BACKGROUNDS, CENTER, LEAF, PETAL, SCALE, Scene, backdrop, disc_pattern, generator, grain, noise, pattern, smooth, texture
from common.species import COLOURS, Species, class_sizes, draw_nuisances, frames, heads_of, palette_of, species_table

VERSION = 3  # part of every picture's seed and of the cache key: raise it whenever a byte changes
MOST = 64  # petals in one layer; random numbers are drawn for so many, so that a changed count moves no other draw


def _flowers(scene, species, nuisances, palette, heads, without, rng):
    """Add the sepals, petals and center of every head."""
    count, petals, layers, d = len(heads[1]), species.petals, species.layers, species.disc
    tall = int(2 ** np.clip(np.round(np.log2(heads[1].max() * scene.pixels) - 0.2), 3, 8))
    spin = np.radians(nuisances["rotation"]) * (0.08 if species.bilateral else 1) + np.pi / 2
    spin = spin + (species.bilateral == 0) * np.arange(count)[:, None]
    cup = species.cup + nuisances["openness"]
    layer = np.repeat(np.arange(layers), petals)
    loose = nuisances["jitter"] * rng.normal(0, 1, (4, count, layers, MOST))[..., :petals].reshape(4, count, -1)
    azimuth = spin + 2 * np.pi / petals * (np.tile(np.arange(petals), layers) + species.layer_offset * layer + 0.12 * loose[0])
    strips = 3 if abs(species.curl) > 15 and count * petals * layers < 20 else 1
    along = (np.arange(strips) + 0.5) / strips - 0.5
    raised = cup + species.cup_step * layer + 5 * loose[1]
    elevation = np.radians(raised[..., None] + (species.curl - 25 * nuisances["wilt"]) * along)
    length = species.layer_ratio**layer * (0.92 + 0.05 * loose[2]) * (1 + species.bilateral * np.sin(azimuth))
    if "petals" not in without:
        look = (species.outline, species.gradient_along, species.gradient_across, species.veins, species.spots, species.rim, species.width)
        textures = [texture(pattern(*look, variant, tall), palette["petal"]) for variant in range(2 + nuisances["damage"])]
        scene.add(heads, textures, azimuth, elevation, length, species.width, 0.6 * d, 0, 0.004 * layer[:, None], PETAL, (1 + 0.04 * loose[3])[..., None])
    one = np.ones((count, petals))
    if species.sepals and "leaves" not in without:
        sepal = texture(pattern("pointed", 0.2, 0, 0.3, 0, 0, 0.3, 0, tall // 2), palette["leaf"])
        scene.add(heads, [sepal], spin + 2 * np.pi / petals * (np.arange(petals) + 0.5) * one, np.radians(cup - 12) * one[..., None], 0.7 * one, 0.3, lift=-0.3)
    if "center" in without:
        return
    disc = texture(disc_pattern(species.disc_seeds, max(8, int(tall * d))), palette["center"])
    flat = np.zeros((count, 1, 1))
    scene.add(heads, [disc], flat[..., 0], flat, flat[..., 0] + 2 * d, 1, -d, 0.06, 0.02 if cup > 45 else 0.15, CENTER)
    if species.stamens:
        n = species.stamens if species.florets == 1 else min(5, species.stamens)
        loose = rng.normal(0, 0.2, (2, count, MOST))[..., :n]
        stamen = texture(pattern("stamen", 0, 1, 0, 0, 0, 0.22, 0, max(12, tall // 2)), palette["stamen"])
        azimuth = spin + 2 * np.pi / n * (np.arange(n) + loose[0])
        scene.add(heads, [stamen], azimuth, np.radians(max(cup, 30) + 15) + loose[1][..., None], np.full((count, n), species.stamen_length + d), 0.14, 0, 0.03, 0.03 if cup > 45 else 0.16, CENTER)


def _leaves(scene, species, nuisances, palette, stems, heads, rng):
    """Draw the stems, with their side branches, and leaves."""
    foot = np.array([0.5, 1.25]) + rng.normal(0, 0.15, 2)
    t = np.linspace(0, 1, 9)[:, None]
    colors, bends = palette["leaf"][::4], rng.normal(0, 0.06, 4)
    florets = np.split(heads[0], len(stems))
    for (x, y, scale, _), bend, ends in reversed(list(zip(stems, bends, florets))):
        top = np.array([x, y + (scale if species.inflorescence == "umbel" else 0)])
        if species.inflorescence == "spike":
            top[1] -= 0.9 * scale
        middle = (top + foot) / 2 + [bend, 0]
        scene.line((1 - t) ** 2 * top + 2 * t * (1 - t) * middle + t**2 * foot, 0.06 * scale, colors)
        for end in ends if len(ends) > 1 else ():
            start = np.array([x, y + scale * 0.9]) if species.inflorescence != "spike" else np.array([x, end[1] - 0.1 * scale])
            scene.line(np.array([start, end]), 0.025 * scale, colors)
    n = nuisances["leaves"]
    if n:
        place, lean = rng.uniform([0.1, 0.6], [0.9, 1.15], (6, 2))[:n], rng.uniform([0, -np.pi], [0.9, np.pi], (6, 2))[:n]
        azimuth, raised = rng.uniform([-np.pi, 0.3], [0, 0.9], (6, 2))[:n, :, None].transpose(1, 0, 2)
        look = (species.leaf_outline, 0.3, 0.4, 0.7, 0, 0, species.leaf_width)
        leaf = [texture(pattern(*look, variant, 2 ** int(np.log2(scene.pixels * 0.5))), palette["leaf"]) for variant in range(2)]
        around = (place, np.full(n, 0.5 * species.leaf_size), frames(0, *lean.T), np.full(n, -4.0))
        scene.add(around, leaf, azimuth, raised[..., None] + [0.3, -0.3], np.ones((n, 1)), species.leaf_width)


def _foliage(scene, species, palette, rng):
    """Fill the background with leaves of other plants."""
    n = 12
    place, lean = rng.uniform([0, 0.1], [1, 1.2], (n, 2)), rng.uniform([0, -np.pi], [0.9, np.pi], (n, 2))
    azimuth, dim = rng.uniform([-np.pi, 0.4], [0, 1.3], (n, 2)).T[..., None]
    leaf = texture(pattern("oval", 0.3, 0.4, 0.7, 0, 0, 0.45, 3, 64), palette["leaf"])
    around = (place, np.full(n, 0.4), frames(0, *lean.T), rng.random(n))
    scene.add(around, [leaf], azimuth, np.zeros((n, 1, 1)), np.ones((n, 1)), 0.45, value=0, dim=dim[..., None])
    scene.paint()


def _occlude(scene, nuisances, palette, rng):
    """Put leaves that are nearer than the focus, and so blurred, over the picture."""
    n = nuisances["occluders"]
    if not n:
        return
    front = Scene(np.zeros((scene.pixels, scene.pixels, 3), np.uint8), scene.light)
    front.canvas[..., 3] = 0
    side = rng.uniform(0, 2 * np.pi, n)
    place = 0.5 + 0.75 * np.column_stack([np.cos(side), np.sin(side)])
    azimuth = (side + np.pi + rng.normal(0, 0.6, n))[:, None]
    leaf = texture(pattern("blade", 0, 0.4, 0.4, 0, 0, 0.16, 2, 64), palette["leaf"])
    zero = np.zeros(n)
    front.add((place, np.full(n, 0.75), frames(0, zero, zero), zero), [leaf], azimuth, zero[:, None, None], np.ones((n, 1)), 0.16)
    front.paint()
    scene.ids = np.where(front.ids > 0, front.ids, scene.ids)
    front.canvas[..., 3] = np.where(front.canvas[..., 3] > 0, 255, 0)
    front.blur(0.004 + 0.3 * nuisances["background_blur"])
    alpha = front.canvas[..., 3:] / np.float32(255)
    scene.canvas = cv2.convertScaleAbs(scene.canvas * (1 - alpha) + front.canvas)


def _content(species, nuisances, size, seed, without=(), recolour=None, background=None):
    """Paint what stands before the camera: return RGB uint8 (size, size, 3) and ids uint16 (size, size)."""
    stream = lambda number: generator(number, *seed)  # one a concept, so that changing one moves no other
    turn, rise = np.radians([nuisances["light_direction"], nuisances["light_elevation"]])
    light = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
    palette = palette_of(species, nuisances, recolour)
    kind = background or nuisances["background"]
    behind = backdrop(kind, nuisances["green"], size, stream(1))
    scene = Scene(cv2.resize(behind, (SCALE * size, SCALE * size)), light)
    if kind == "foliage":
        _foliage(scene, species, palette, stream(8))
    scene.blur(nuisances["background_blur"])
    stems, heads = heads_of(species, nuisances, stream(2))
    if "leaves" not in without:
        _leaves(scene, species, nuisances, palette, stems, heads, stream(3))
        scene.paint()
    main = np.repeat(np.arange(len(stems)) == 0, len(heads[1]) // len(stems))
    for number, chosen in enumerate((~main, main)):
        if chosen.any():
            scene.blur(0.25 * nuisances["background_blur"] * number)
            _flowers(scene, species, nuisances, palette, [part[chosen] for part in heads], without, stream(4 + number))
            scene.paint()
    if "leaves" not in without:
        _occlude(scene, nuisances, palette, stream(6))
    image = cv2.resize(scene.canvas, (size, size), interpolation=cv2.INTER_AREA)
    if nuisances["blur"]:
        image = cv2.GaussianBlur(image, (0, 0), 0.25 + nuisances["blur"] * size)
    return image[..., :3], scene.ids


def _photograph(content: np.ndarray, nuisances: dict, rng) -> tuple[np.ndarray, int]:
    """Shade, expose, add sensor noise and compress: return RGB uint8 (size, size, 3) and the JPEG's length in bytes."""
    size = len(content)
    x, y = rng.integers(0, size, 2)
    gain = nuisances["exposure"] * np.array([1 + nuisances["warmth"], 1, 1 - nuisances["warmth"]])
    tone = np.arange(256)[:, None] / 255 * gain
    tone = 255 * tone * (1 + nuisances["contrast"] * 0.45 * tone * (1 - tone))  # a film's curve: brighter middle tones
    image = cv2.LUT(content, tone.astype(np.float32)[None])
    if nuisances["shadow"]:  # of a tree, say: it falls on everything
        dapple = smooth(0.4, 0.55, noise(rng.random((4, 4), np.float32), size))
        image *= cv2.merge([1 - np.float32(1.2 * nuisances["shadow"]) * dapple] * 3)
    image += np.float32(nuisances["noise"]) * grain(size)[y : y + size, x : x + size]
    image = cv2.cvtColor(image.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, nuisances["jpeg"]])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), len(data)


def _render(species, instance_seed, size, without, recolour, petal_count, background):
    """Return the picture (size, size, 3), the ids (size, size), the nuisances and the JPEG's length."""
    seed = [instance_seed, species.label, species.seed, VERSION]
    stream = lambda number: generator(number, *seed)
    nuisances = draw_nuisances(species, stream(0))
    content, ids = _content(species, nuisances, size, seed)
    image, length = _photograph(content, nuisances, stream(7))
    if not (without or recolour or petal_count or background):
        return image, ids, nuisances, length
    changed = replace(species, petals=petal_count or species.petals)
    other, ids = _content(changed, nuisances, size, seed, without, recolour, background)
    altered, length = _photograph(other, nuisances, stream(7))
    # A JPEG block's error would leak out of what changed, so all other pixels are taken from the original picture.
    same = (other == content).all(2, keepdims=True)
    return np.where(same, image, altered), ids, nuisances, length


def render(species: Species, instance_seed: int, size: int = 96, without=(), recolour: str | None = None,
           petal_count: int | None = None, background: str | None = None) -> Picture:
    """Render one picture of `species`; the same arguments give the same bytes, always.

    The interventions change only what they name, every other pixel stays as it is: `without` leaves out "petals",
    "center" or "leaves" (or several of them), `recolour` gives the petals' body a color named in COLOURS,
    `petal_count` changes the petals in a layer (1 to 64), `background` is one of BACKGROUNDS. Any other factor is moved
    with `dataclasses.replace(species, factor=value)`. Returns a Picture with image uint8 3 x size x size, part mask
    `parts` uint8 size x size (values index PARTS) and `factors`, the species' factors and the nuisances of this picture.
    Raises ValueError for a value that does not exist.
    """
    without = (without,) if isinstance(without, str) else tuple(without)
    _check("without", without, ("petals", "center", "leaves"))
    _check("recolour", [recolour] if recolour else [], COLOURS)
    _check("background", [background] if background else [], BACKGROUNDS)
    _check("petal_count", [petal_count] if petal_count is not None else [], range(1, MOST + 1))
    image, ids, nuisances, length = _render(species, instance_seed, size, without, recolour, petal_count, background)
    return Picture(
        image=np.ascontiguousarray(image.transpose(2, 0, 1)), label=species.label, path=f"{species.name}/{instance_seed:05d}.jpg",
        width=size, height=size, mode="RGB", bytes=length, parts=np.where(ids >= PETAL, 2, ids).astype(np.uint8),
        factors={**species.factors(), "instance": instance_seed, **nuisances},
    )  # fmt: skip


def petal_ids(species: Species, instance_seed: int, size: int = 96) -> np.ndarray:
    """Return uint16 size x size: 0 off the petals, else a number of its own for each petal of the picture."""
    ids = _render(species, instance_seed, size, (), None, None, None)[1]
    return np.where(ids >= PETAL, ids - PETAL + 1, 0).astype(np.uint16)


def _check(name, values, known):
    for value in values:
        if value not in known:
            raise ValueError(f"{name}={value!r} does not exist: choose from {list(known)}")


def rendered_pictures(species: int = 24, per_species: int | None = 40, size: int = 64, seed: int = 0) -> Iterator[Picture]:
    """Yield a data set's pictures, species after species; per_species None gives class sizes as Oxford Flowers-102 has."""
    sizes = class_sizes(species, seed) if per_species is None else [per_species] * species
    for one, count in zip(species_table(species, seed), sizes):
        for instance in range(count):
            yield render(one, instance, size)
