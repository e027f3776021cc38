"""Rendered flowers: procedural photographs whose part masks, factors and alternatives are known exactly.

A picture is a background and a list of flat textured pieces (petals, leaves, stamens, discs) that stand in space, are
seen in perspective and painted from far to near; the same painting writes the part masks. A picture depends only on
(VERSION, species, instance seed, size). Like FunnyBirds (Hesse et al. 2023), every part can be taken away.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from common.images import Picture
from common.species import COLOURS, Species, class_sizes, disc_pattern, pattern, rgb, smooth, species_table, texture

VERSION = 2  # part of every picture's seed and of the cache key: raise it whenever a byte changes
BACKGROUNDS = ("grass", "soil", "sky", "bokeh", "foliage", "dark")
LEAF, CENTER, PETAL = 1, 3, 4  # values of the id canvas; petals are counted from PETAL upwards
SCALE = 2  # the canvas is painted at twice the picture's size, then averaged down
DISTANCE = 4.0  # of the viewer from a flower, in the flower's radii
MOST = 64  # petals in one layer; random numbers are drawn for so many, so that a changed count moves no other draw


class Scene:
    """A canvas to paint pieces on: `canvas` uint8 (P, P, 4) RGBA and `ids` uint16 (P, P)."""

    def __init__(self, image: np.ndarray, light: np.ndarray):
        self.pixels, self.light, self.batches = len(image), light, []
        self.canvas = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        self.ids = np.zeros(image.shape[:2], np.uint16)

    def add(self, heads, textures, azimuth, elevation, length, width, base=0.0, height=0.0, lift=0.0, value=LEAF, dim=1.0):
        """Place pieces that grow outwards around heads; lengths, `base` and `height` are in head radii, angles in radians.

        heads: centers (B, 2) and radii (B) in picture widths, frames (B, 3, 3) with rows right, down, axis, and depths (B).
        azimuth and length: (B, n). elevation: (B, n, S) for S flat strips along each piece. textures: RGBA of one shape,
        used in turn. base, height: where pieces begin, outwards and along the axis. lift: added to the depth.
        value: written into `ids`; for petals it counts up. dim: brightness, broadcast to (B, n, S).
        """
        center, radius, frame, depth = heads
        right, down, axis = (frame[:, None, i] for i in range(3))
        cos, sin = np.cos(azimuth)[..., None], np.sin(azimuth)[..., None]
        radial, across = cos * right + sin * down, (cos * down - sin * right) * (length * width)[..., None]
        cos, sin = np.cos(elevation)[..., None], np.sin(elevation)[..., None]
        run, normal = cos * radial[:, :, None] + sin * axis[:, :, None], cos * axis[:, :, None] - sin * radial[:, :, None]
        strips = elevation.shape[2]
        run *= (length / strips)[..., None, None]
        origin = (base * radial + height * axis)[:, :, None] + np.cumsum(run, 2) - run
        middle = origin[..., 2] + run[..., 2] / 2
        towards = normal[..., 2] > 0
        light = np.maximum((normal @ self.light) * np.where(towards, 1, -1), 0)
        shade = dim * (0.70 + 0.36 * light) * np.where(towards, 1, 0.88) * (1 + 0.15 * middle.clip(-1, 1))
        h, w = textures[0].shape[:2]
        matrix = np.empty((*run.shape, 3))  # from texture pixels to places, in head radii
        matrix[..., 0] = across[:, :, None] / w
        matrix[..., 1] = run * (strips / h)
        matrix[..., 2] = origin - run * np.arange(strips)[:, None] + matrix[..., 0] * (0.5 - w / 2) + matrix[..., 1] * 0.5
        matrix[..., 2, :] /= -DISTANCE
        matrix[..., 2, 2] += 1
        matrix[..., :2, :] *= (radius * self.pixels)[:, None, None, None, None]
        matrix[..., :2, :] += (center * self.pixels - 0.5)[:, None, None, :, None] * matrix[..., 2:, :]
        number = np.arange(azimuth.size).reshape(azimuth.shape)
        values = number[..., None] + value if value >= PETAL else np.full_like(number, value)[..., None]
        shape = run.shape[:3]
        each = (depth[:, None, None] + middle * radius[:, None, None] + lift, shade, values, np.arange(strips))
        each = [np.broadcast_to(part, shape).ravel() for part in each]
        self.batches.append((matrix.reshape(-1, 3, 3), *each, np.full(len(each[0]), strips), [textures[i % len(textures)] for i in np.repeat(number.ravel(), strips)]))

    def paint(self):
        """Paint the pieces added since the last time, the farthest first."""
        if not self.batches:
            return
        *arrays, textures = zip(*self.batches)
        matrix, key, shade, value, strip, strips = map(np.concatenate, arrays)
        textures, self.batches = [one for batch in textures for one in batch], []
        height, width = np.array([one.shape[:2] for one in textures]).T
        first, last = strip * height // strips, np.minimum(height, (strip + 1) * height // strips + 1)
        zero, one = np.zeros_like(first), np.ones((len(first), 4))
        corners = matrix @ np.stack([np.stack([zero, width, zero, width], 1), np.stack([first, first, last, last], 1), one], 1)
        corners = corners[:, :2] / corners[:, 2:]
        low = np.clip(corners.min(2) - 1, 0, self.pixels).astype(int)
        high = np.clip(corners.max(2) + 2, 0, self.pixels).astype(int)
        matrix[..., 2] += matrix[..., 1] * first[:, None]
        matrix[:, :2] -= low[..., None] * matrix[:, 2:]
        seen = (high > low).all(1)
        pieces = zip(low.tolist(), high.tolist(), matrix, first.tolist(), last.tolist(), shade.tolist(), value.tolist(), textures)
        pieces = list(pieces)
        for i in np.argsort(key, kind="stable").tolist():
            if seen[i]:
                self._paint_piece(*pieces[i])

    def _paint_piece(self, low, high, matrix, first, last, shade, value, texture):
        (x0, y0), (x1, y1) = low, high
        patch = cv2.warpPerspective(texture[first:last], matrix, (x1 - x0, y1 - y0))
        mask = cv2.threshold(cv2.extractChannel(patch, 3), 127, 1, cv2.THRESH_BINARY)[1]
        cv2.copyTo(cv2.convertScaleAbs(patch, alpha=shade), mask, self.canvas[y0:y1, x0:x1])
        np.copyto(self.ids[y0:y1, x0:x1], value, where=mask.view(bool))

    def line(self, points, width, colors):
        """Draw a stem through `points` (n, 2), in picture widths; the first of `colors` is its edge, the last its middle."""
        points = [(points * self.pixels * 16).astype(np.int32)]
        for i, color in enumerate(colors):
            thick = max(1, round(width * self.pixels * (1 - i / len(colors))))
            cv2.polylines(self.canvas, points, False, (*color.tolist(), 255), thick, cv2.LINE_8, 4)
        cv2.polylines(self.ids, points, False, LEAF, max(1, round(width * self.pixels)), cv2.LINE_8, 4)

    def blur(self, sigma: float):
        """Blur what is painted so far by `sigma`, in picture widths."""
        if sigma * self.pixels > 0.3:
            self.canvas = cv2.GaussianBlur(self.canvas, (0, 0), sigma * self.pixels)


def draw_nuisances(species: Species, rng: np.random.Generator) -> dict:
    """Draw everything in which pictures of one species differ; lengths in picture widths, angles in degrees."""
    pick = lambda *choices: choices[rng.integers(len(choices))]
    between = lambda low, high: round(float(rng.uniform(low, high)), 4)
    return dict(
        background=pick(*BACKGROUNDS), color=pick(*species.colours), hue=between(-0.025, 0.025), saturation=between(0.8, 1.15),
        value=between(0.88, 1.05), x=between(0.36, 0.64), y=between(0.36, 0.64), scale=between(0.27, 0.5),
        rotation=between(-180, 180), tilt=between(0, 7.2) ** 2, tilt_direction=between(-180, 180),
        blooms=pick(0, 0, 0, 0, 1, 1, 2, 3), openness=between(-10, 14), jitter=between(0.3, 1.4), wilt=max(0.0, between(-1.5, 1)),
        damage=pick(0, 0, 0, 1), light_direction=between(-180, 180), light_elevation=between(25, 80), exposure=between(0.8, 1.25),
        warmth=between(-0.12, 0.12), contrast=between(0.9, 1.25), shadow=max(0.0, between(-0.5, 0.5)),
        background_blur=between(0, 0.2) ** 2, blur=max(0.0, between(-0.012, 0.006)), leaves=int(rng.integers(0, 6)),
        occluders=pick(0, 0, 0, 0, 1, 2), noise=between(0, 2.6) ** 2, jpeg=int(rng.integers(55, 96)), green=between(0.2, 0.36),
    )  # fmt: skip


def _noise(rng, cells: int, pixels: int) -> np.ndarray:
    """Smooth noise of about `cells` bumps across: float32 (pixels, pixels), about 0..1."""
    return cv2.resize(rng.random((cells, cells), np.float32), (pixels, pixels), interpolation=cv2.INTER_CUBIC)


def _background(kind: str, green: float, pixels: int, rng) -> np.ndarray:
    """Return what lies behind the plant: uint8 (pixels, pixels, 3)."""
    dark, light = rgb(green, 0.6, rng.uniform(0.08, 0.3)), rgb(green - 0.02, 0.5, rng.uniform(0.4, 0.65))
    if kind == "soil":
        dark, light = rgb(0.07, 0.45, rng.uniform(0.08, 0.25)), rgb(0.08, 0.3, rng.uniform(0.45, 0.7))
    if kind == "sky":
        dark, light = rgb(0.58, rng.uniform(0.3, 0.7), 0.75), rgb(0.57, 0.1, 0.95)
    if kind == "dark":
        dark, light = rgb(green, 0.3, 0.03), rgb(green, 0.5, 0.2)
    grain = 0.65 * _noise(rng, 4, pixels) + 0.35 * _noise(rng, 40 if kind == "soil" else 9, pixels)
    image = cv2.convertScaleAbs(dark + (light - dark) * grain[..., None])
    strokes = rng.random((70, 5))
    if kind == "grass":
        for x, y, lean, length, mix in strokes:
            ends = np.array([[x, y], [x + 0.1 * (lean - 0.5), y - 0.2 * length], [x + 0.35 * (lean - 0.5), y - 0.4 * length]])
            color = (dark + (light * 1.25 - dark) * mix).tolist()
            cv2.polylines(image, [(ends * 1.3 * pixels).astype(np.int32)], False, color, max(1, pixels // 70), cv2.LINE_AA)
    if kind in ("bokeh", "foliage", "soil"):
        long, flat = dict(bokeh=(0.12, 1), foliage=(0.2, 0.35), soil=(0.04, 0.7))[kind]
        for x, y, r, mix, odd in strokes[:30]:
            color = rgb(r * 9, 0.6, 0.9) if odd > 0.88 and kind != "soil" else dark + (light * 1.2 - dark) * mix
            axes = [int(pixels * long * (0.2 + r) * stretch) for stretch in (1, flat)]
            cv2.ellipse(image, (int(x * pixels), int(y * pixels)), axes, odd * 400, 0, 360, color.tolist(), -1, cv2.LINE_AA)
    return image


def _frames(nodding: float, tilt: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return (B, 3, 3) rows right, down, axis of flowers that lean by `tilt` toward `direction` (B, radians)."""
    axis = np.stack([np.sin(tilt) * np.cos(direction), np.sin(tilt) * np.sin(direction), np.cos(tilt)], 1)
    cos, sin = np.cos(nodding), np.sin(nodding)
    axis = axis @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    down = np.array([0, 1, 0.3]) - (axis @ [0, 1, 0.3])[:, None] * axis
    down /= np.linalg.norm(down, axis=1, keepdims=True)
    return np.stack([np.cross(down, axis), down, axis], 1)


def _layout(species: Species, rng) -> np.ndarray:
    """Return (n, 4) florets of one inflorescence: x, y, radius, depth, in units of the whole."""
    n = species.florets
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5)) + rng.normal(0, 0.2, n)
    if species.inflorescence == "single":
        return np.array([[0.0, 0.0, 1.0, 0.0]])
    if species.inflorescence == "spike":
        down = np.linspace(-1, 1, n)
        return np.column_stack([(0.5 + 0.1 * down) * np.sin(turn), 1.1 * down, 0.45 + 0.12 * down, 0.3 * np.cos(turn)])
    r = np.sqrt((np.arange(n) + 0.3) / n)
    flat = 0.6 if species.inflorescence == "umbel" else 0.95
    return np.column_stack([0.8 * r * np.cos(turn), 0.8 * r * np.sin(turn) * flat, np.full(n, 0.4), -0.5 * r])


def _heads(species: Species, nuisances: dict, rng):
    """Return the stems (K, 4: x, y, scale, depth; the main one first) and the heads of all flowers on them."""
    blooms = nuisances["blooms"] if species.inflorescence == "single" else min(1, nuisances["blooms"])
    others = np.column_stack([rng.uniform(0, 1, (3, 2)), nuisances["scale"] * rng.uniform(0.45, 0.85, 3), [-1.0, -2.0, -3.0]])
    stems = np.vstack([[nuisances["x"], nuisances["y"], nuisances["scale"], 0.0], others[:blooms]])
    layout = _layout(species, rng)
    size = stems[:, None, 2]
    center = stems[:, None, :2] + layout[None, :, :2] * size[..., None]
    loose = rng.normal(0, 1, (2, 4, len(layout)))[:, : len(stems)]
    tilt, direction = np.radians(nuisances["tilt"]) + 0.0 * loose[0], np.radians(nuisances["tilt_direction"]) + 0.0 * loose[1]
    tilt[1:], direction[1:] = tilt[1:] + 0.3 * loose[0, 1:], direction[1:] + loose[1, 1:]
    if len(layout) > 1:  # florets face outwards from the middle of the inflorescence
        tilt, direction = 0.4 * tilt + 0.7 * np.hypot(*layout[:, :2].T), 0.3 * direction + np.arctan2(layout[:, 1], layout[:, 0])
    frame = _frames(np.radians(species.nodding), tilt.ravel(), direction.ravel())
    return stems, (center.reshape(-1, 2), (size * layout[:, 2]).ravel(), frame, (stems[:, None, 3] + layout[:, 3] * size * 0.5).ravel())


def _palette(species: Species, nuisances: dict, recolour: str | None) -> dict:
    """Return 5 pigments (RGB 0..255: throat, body, edge, rim, marks) for petals, center, stamens and leaves."""
    vary = lambda h, s, v: rgb(h + nuisances["hue"], s * nuisances["saturation"], v * nuisances["value"])
    h, s, v = COLOURS[recolour or nuisances["color"]]
    body, accent, throat, center = vary(h, s, v), *(vary(*COLOURS[name]) for name in (species.accent, species.throat, species.center))
    brown = 0.35 * nuisances["wilt"] * np.array([0.6, 0.45, 0.3])
    edge = vary(h, s * 0.55, min(1, v * 1.1)) * (1 - brown.sum()) + 255 * brown
    green = lambda value: rgb(nuisances["green"], 0.55, value)
    return dict(
        petal=[throat, body, edge, accent, accent * 0.75],
        center=[center * 0.75, center, center, center, center * 1.15],
        stamen=[green(0.7), green(0.7) * 0.6 + 100, center * 0.9, center, center],
        leaf=[green(0.35), green(0.42), green(0.5), green(0.5), green(0.62)],
    )


def _flowers(scene, species, nuisances, palette, heads, without, rng):
    """Add the sepals, petals and center of every head."""
    count, petals, layers, d = len(heads[1]), species.petals, species.layers, species.disc
    tall = int(2 ** np.clip(np.round(np.log2(heads[1].max() * scene.pixels)), 3, 8))
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
        scene.add(heads, [sepal], spin + 2 * np.pi / petals * (np.arange(petals) + 0.5) * one, np.radians(cup - 12) * one[..., None], 0.7 * one, 0.3, lift=-0.01)
    if "center" in without:
        return
    disc = texture(disc_pattern(species.disc_seeds, max(8, int(tall * d))), palette["center"])
    flat = np.zeros((count, 1, 1))
    scene.add(heads, [disc], flat[..., 0], flat, flat[..., 0] + 2 * d, 1, -d, 0.06, 0.02, CENTER)
    if species.stamens:
        n = species.stamens
        loose = rng.normal(0, 0.2, (2, count, MOST))[..., :n]
        stamen = texture(pattern("stamen", 0, 1, 0, 0, 0, 0.22, 0, max(12, tall // 2)), palette["stamen"])
        azimuth = spin + 2 * np.pi / n * (np.arange(n) + loose[0])
        scene.add(heads, [stamen], azimuth, np.radians(max(cup, 30) + 15) + loose[1][..., None], np.full((count, n), species.stamen_length + d), 0.14, 0, 0.03, 0.03, CENTER)


def _leaves(scene, species, nuisances, palette, stems, heads, rng):
    """Draw the stems, with their side branches, and leaves."""
    foot = np.array([0.5, 1.25]) + rng.normal(0, 0.15, 2)
    t = np.linspace(0, 1, 12)[:, None]
    colors, bends = palette["leaf"][::2], rng.normal(0, 0.06, 4)
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
        leaf = [texture(pattern(*look, variant, 2 ** int(np.log2(scene.pixels * 0.6))), palette["leaf"]) for variant in range(2)]
        around = (place, np.full(n, 0.5 * species.leaf_size), _frames(0, *lean.T), np.full(n, -4.0))
        scene.add(around, leaf, azimuth, raised[..., None] + [0.5, 0, -0.5], np.ones((n, 1)), species.leaf_width)


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
    front.add((place, np.full(n, 0.75), _frames(0, zero, zero), zero), [leaf], azimuth, zero[:, None, None], np.ones((n, 1)), 0.16)
    front.paint()
    scene.ids = np.where(front.ids > 0, front.ids, scene.ids)
    front.blur(0.004 + 0.3 * nuisances["background_blur"])
    alpha = front.canvas[..., 3:] / np.float32(255)
    scene.canvas = cv2.convertScaleAbs(scene.canvas * (1 - alpha) + front.canvas)


def _content(species, nuisances, size, seed, without=(), recolour=None, background=None):
    """Paint what stands before the camera: return RGB uint8 (size, size, 3) and ids uint16 (size, size)."""
    stream = lambda number: np.random.default_rng([*seed, number])  # one a concept, so that changing one moves no other
    turn, rise = np.radians([nuisances["light_direction"], nuisances["light_elevation"]])
    light = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
    behind = _background(background or nuisances["background"], nuisances["green"], size, stream(1))
    scene = Scene(cv2.resize(behind, (SCALE * size, SCALE * size)), light)
    scene.blur(nuisances["background_blur"])
    palette = _palette(species, nuisances, recolour)
    stems, heads = _heads(species, nuisances, stream(2))
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
    return image[..., :3], scene.ids[::SCALE, ::SCALE]


def _photograph(content: np.ndarray, nuisances: dict, rng) -> tuple[np.ndarray, int]:
    """Shade, expose, add sensor noise and compress: return RGB uint8 (size, size, 3) and the JPEG's length in bytes."""
    gain = nuisances["exposure"] * np.array([1 + nuisances["warmth"], 1, 1 - nuisances["warmth"]], np.float32)
    dapple = 1 - 1.2 * nuisances["shadow"] * smooth(0.4, 0.55, _noise(rng, 4, len(content)))
    image = content * (gain / 255) * dapple[..., None]
    image = image * (1 + nuisances["contrast"] * 0.45 * image * (1 - image))  # a film's curve: brighter middle tones
    image = 255 * image + nuisances["noise"] * rng.standard_normal(image.shape, np.float32)
    data = cv2.imencode(".jpg", cv2.cvtColor(image.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, nuisances["jpeg"]])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), len(data)


def _render(species, instance_seed, size, without, recolour, petal_count, background):
    """Return the picture (size, size, 3), the ids (size, size), the nuisances and the JPEG's length."""
    seed = [VERSION, species.seed, species.label, instance_seed]
    stream = lambda number: np.random.default_rng([*seed, number])
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
