"""Rendered flowers: procedural photographs whose part masks, factors and alternatives are known exactly."""

import colorsys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from common.images import Picture
from common.species import COLOURS, Species, class_sizes, species_table

VERSION = 1  # part of every picture's seed and of the cache key: raise it whenever a byte changes
BACKGROUNDS = ("grass", "soil", "sky", "bokeh", "foliage", "dark")
LEAF, CENTER, PETAL = 1, 3, 4  # values in the id canvas: petals are counted from PETAL upwards
SCALE = 2  # the canvas is painted at twice the picture's size, then averaged down


def _smooth(low, high, value):
    """The smoothstep from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=4096)
def pattern(outline, along, across, veins, spots, rim, ratio, variant, height):
    """Return what a petal (or leaf) is made of: weights (h, w, 5) of five pigments and relief and opacity (h, w).

    Row 0 is the base, the last row the tip; the pigments are throat, body, edge, rim and marks.
    """
    width = max(6, int(height * ratio))
    rng = np.random.default_rng([variant, height])
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width * 2 - 1, indexing="ij")
    a, b = dict(oval=(0.7, 0.45), pointed=(0.75, 0.95), notched=(0.8, 0.3), heart=(0.9, 0.35), strap=(0.3, 0.16),
                ruffled=(0.8, 0.25), stamen=(0.1, 0.1))[outline]  # fmt: skip
    half = (y / a) ** a * ((1 - y) / b) ** b * (a + b) ** (a + b)
    half *= 1 + 0.05 * np.sin(rng.uniform(0, 6, 2)[(x > 0).astype(int)] + y * rng.uniform(5, 9))
    if outline == "stamen":
        half = np.where(y < 0.8, 0.3, np.sqrt(np.clip(1 - ((y - 0.9) / 0.1) ** 2, 0, 1)))
    if outline == "ruffled":
        half *= 1 + 0.06 * np.sin(y * 25 + rng.uniform(0, 6)) * np.sign(x)
    q = np.abs(x) / np.maximum(half, 1e-3)
    dip = dict(notched=0.12, heart=0.2).get(outline, 0.0)
    top = 1 - dip * np.exp(-((x / 0.22) ** 2))
    if outline in ("ruffled", "notched"):
        top -= 0.03 * (1 + np.sin(x * 14 + rng.uniform(0, 6)))
    opacity = np.clip(np.minimum((half - np.abs(x)) * width / 2, (top - y) * height) + 0.5, 0, 1)
    edge = np.maximum(q, y / top)
    marks = veins * _smooth(0.75, 1, np.cos(x * 17 * max(ratio, 0.2) / (0.35 + 0.65 * y))) * (1 - y) * 0.9
    for cx, cy in rng.uniform([-0.6, 0.12], [0.6, 0.75], (int(spots * 26), 2)):
        marks = np.maximum(marks, _smooth(1, 0.4, np.hypot((x - cx) * ratio / 2, y - cy) / 0.035))
    rims = _smooth(1 - rim, 1 - 0.6 * rim, edge) if rim else np.zeros_like(y)
    throat = _smooth(0.15 + 0.6 * along, 0.05, y)
    sides = 0.8 * across * np.maximum(q * q, _smooth(0.5, 1.1, y)).clip(0, 1)
    left = np.ones_like(y)
    weights = []
    for share in (marks, rims, throat, sides):
        weights.append(left * share)
        left = left * (1 - share)
    marks, rims, throat, sides = weights
    relief = (0.72 + 0.28 * _smooth(-0.1, 0.45, y)) * (1.04 - 0.2 * q.clip(0, 1) ** 3) + 0.03 * np.cos(x * 22 * ratio)
    return np.stack([throat, left, sides, rims, marks], 2).astype(np.float32), relief.astype(np.float32), opacity


@lru_cache(maxsize=512)
def disc_pattern(seeds, variant, height):
    """Return a flower's center seen from above as `pattern` does: seeds on Vogel's spiral, older ones outside."""
    y, x = np.meshgrid(*[(np.arange(height) + 0.5) / height * 2 - 1] * 2, indexing="ij")
    radius = np.hypot(x, y)
    k = np.arange(seeds) + 0.5
    r, angle = 0.95 * np.sqrt(k / seeds), k * np.pi * (3 - np.sqrt(5))
    distance = np.full_like(x, 9.0)
    for cx, cy in zip(r * np.cos(angle), r * np.sin(angle)):
        distance = np.minimum(distance, np.hypot(x - cx, y - cy))
    dots = _smooth(1.1, 0.2, distance * np.sqrt(seeds))
    inner = _smooth(0.7, 0.2, radius)
    zero = np.zeros_like(x)
    weights = np.stack([inner * (1 - 0.3 * dots), (1 - inner) * (1 - 0.3 * dots), zero, zero, 0.3 * dots], 2)
    relief = (0.62 + 0.45 * dots) * (1.08 - 0.35 * radius**2)
    return weights.astype(np.float32), relief.astype(np.float32), np.clip((1 - radius) * height / 2 + 0.5, 0, 1)


def _tint(parts, palette) -> np.ndarray:
    """Mix a pattern's pigments with `palette` (5 x RGB, 0..255) into an RGBA texture (uint8)."""
    weights, relief, opacity = parts
    color = (weights @ np.asarray(palette, np.float32)) * relief[..., None]
    return np.dstack([color, opacity * 255]).clip(0, 255).astype(np.uint8)


def _rgb(h, s, v) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(h % 1, min(max(s, 0), 1), min(max(v, 0), 1)))


def _frames(nodding, tilt, direction):
    """Return B x 3 x 3 rows U, V, N: the plane and axis of flowers leaning `tilt` (B, radians) toward `direction`."""
    axis = np.stack([np.sin(tilt) * np.cos(direction), np.sin(tilt) * np.sin(direction), np.cos(tilt)], 1)
    c, s = np.cos(nodding), np.sin(nodding)
    axis = axis @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    down = np.array([0, 1, 0.3]) - (axis @ [0, 1, 0.3])[:, None] * axis
    down /= np.linalg.norm(down, axis=1, keepdims=True)
    return np.stack([np.cross(down, axis), down, axis], 1)


def _whorl(scene, heads, textures, azimuth, elevation, length, width, base, height, part, lift=0.0):
    """Place petal-like pieces around heads and add them to scene["pieces"].

    azimuth and length are (B, n), elevation (B, n, S) for S flat strips along each piece, angles in radians;
    lengths, `base` and `height` in head radii.
    """
    center, radius, frame, depth = heads
    u, v, axis = (frame[:, None, i] for i in range(3))
    cos, sin = np.cos(azimuth)[..., None], np.sin(azimuth)[..., None]
    radial, across = cos * u + sin * v, cos * v - sin * u
    strips = elevation.shape[2]
    run = np.cos(elevation)[..., None] * radial[:, :, None] + np.sin(elevation)[..., None] * axis[:, :, None]
    run = run * (length / strips)[..., None, None]
    origin = (base * radial + height * axis)[:, :, None] + np.cumsum(run, 2) - run
    normal = np.cross(np.broadcast_to(across[:, :, None], run.shape), run)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    facing = np.sign(normal[..., 2:])
    light = np.clip((normal * facing) @ scene["light"], 0, 1)
    middle = origin + run / 2
    shade = (0.72 + 0.33 * light) * (1 - 0.1 * (facing[..., 0] < 0)) * (1 + 0.12 * middle[..., 2].clip(-1, 1))
    key = depth[:, None, None] + middle[..., 2] * radius[:, None, None] + lift
    across = np.broadcast_to((across * (length * width)[..., None])[:, :, None], run.shape)
    h, w = textures[0].shape[:2]
    basis = np.stack([across / w, run * strips / h, origin - run * np.arange(strips)[:, None]], -1)  # (B, n, S, 3, 3)
    basis[..., 2] += basis[..., 0] * (0.5 - w / 2) + basis[..., 1] * 0.5
    camera = np.zeros((len(center), 1, 1, 3, 3))
    camera[..., 0, 0] = camera[..., 1, 1] = (radius * scene["pixels"])[:, None, None]
    camera[..., :2, 2] = -(center * scene["pixels"] - 0.5)[:, None, None] / 4.0
    camera[..., 2, 2] = -1 / 4.0  # the viewer stands four radii away
    matrix = camera @ basis
    matrix[..., :2, 2] += (center * scene["pixels"] - 0.5)[:, None, None]
    matrix[..., 2, 2] += 1
    for b, i, s in np.ndindex(run.shape[:3]):
        scene["pieces"].append((key[b, i, s], matrix[b, i, s], textures[(i + b) % len(textures)], (s, strips), shade[b, i, s],
                                part + (b * 64 + i if part == PETAL else 0)))  # fmt: skip


def _paint(scene):
    """Paint and empty scene["pieces"], the farthest first."""
    canvas, ids, pixels = scene["canvas"], scene["ids"], scene["pixels"]
    for _, matrix, texture, (s, strips), shade, value in sorted(scene["pieces"], key=lambda piece: piece[0]):
        h, w = texture.shape[:2]
        first, last = s * h // strips, min(h, (s + 1) * h // strips + 1)
        corners = matrix @ np.array([[0, w, 0, w], [first, first, last, last], [1, 1, 1, 1]])
        xs, ys = corners[:2] / corners[2]
        x0, x1 = max(0, int(xs.min()) - 1), min(pixels, int(xs.max()) + 2)
        y0, y1 = max(0, int(ys.min()) - 1), min(pixels, int(ys.max()) + 2)
        if x0 >= x1 or y0 >= y1:
            continue
        move = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ matrix @ np.array([[1, 0, 0], [0, 1, first], [0, 0, 1]])
        patch = cv2.warpPerspective(texture[first:last], move, (x1 - x0, y1 - y0))
        mask = cv2.compare(cv2.extractChannel(patch, 3), 127, cv2.CMP_GT)
        cv2.copyTo(cv2.convertScaleAbs(patch, alpha=shade)[..., :3], mask, canvas[y0:y1, x0:x1])
        ids[y0:y1, x0:x1][mask > 0] = value
    scene["pieces"] = []


def _nuisances(species: Species, rng: np.random.Generator) -> dict:
    """Draw everything in which two pictures of one species differ; lengths in picture widths, angles in degrees."""
    pick = lambda *choices: choices[rng.integers(len(choices))]
    between = lambda low, high: round(float(rng.uniform(low, high)), 4)
    return dict(
        background=pick(*BACKGROUNDS), color=pick(*species.colours), hue=between(-0.025, 0.025), saturation=between(0.75, 1.15),
        value=between(0.85, 1.05), x=between(0.36, 0.64), y=between(0.36, 0.64), scale=between(0.24, 0.46),
        rotation=between(-180, 180), tilt=between(0, 1) ** 2 * 55, tilt_direction=between(-180, 180),
        blooms=pick(0, 0, 0, 1, 1, 2, 3), openness=between(-12, 12), jitter=between(0.3, 1.4), wilt=max(0.0, between(-1, 1)),
        light_direction=between(-180, 180), light_elevation=between(25, 80), exposure=between(0.75, 1.25),
        warmth=between(-0.12, 0.12), contrast=between(0.85, 1.2), shadow=max(0.0, between(-0.5, 0.5)),
        background_blur=between(0, 1) ** 2 * 0.05, blur=max(0.0, between(-0.008, 0.006)), leaves=int(rng.integers(0, 6)),
        occluders=pick(0, 0, 0, 0, 1, 2), noise=between(0, 1) ** 2 * 9, jpeg=int(rng.integers(45, 96)), green=between(0.2, 0.36),
    )  # fmt: skip


def _noise(rng, cells: int, pixels: int) -> np.ndarray:
    """Smooth noise of about `cells` bumps across, 0..1, float32."""
    return cv2.resize(rng.random((cells, cells), np.float32), (pixels, pixels), interpolation=cv2.INTER_CUBIC)


def _background(kind: str, nuisances: dict, pixels: int, rng) -> np.ndarray:
    """Return what lies behind the plant, uint8 (pixels, pixels, 3)."""
    hue = nuisances["green"]
    dark, light = _rgb(hue, 0.6, rng.uniform(0.1, 0.3)), _rgb(hue + 0.02, 0.5, rng.uniform(0.35, 0.6))
    if kind == "soil":
        dark, light = _rgb(0.07, 0.45, rng.uniform(0.1, 0.25)), _rgb(0.08, 0.3, rng.uniform(0.45, 0.65))
    if kind == "sky":
        dark, light = _rgb(0.58, rng.uniform(0.3, 0.7), 0.75), _rgb(0.57, 0.1, 0.95)
    if kind == "dark":
        dark, light = _rgb(hue, 0.3, 0.03), _rgb(hue, 0.5, 0.2)
    grain = 0.6 * _noise(rng, 4, pixels) + 0.4 * _noise(rng, 40 if kind == "soil" else 10, pixels)
    image = (dark + (light - dark) * grain.clip(0, 1)[..., None]).clip(0, 255).astype(np.uint8)
    if kind == "grass":
        for x, y, lean, length, mix in rng.random((70, 5)):
            ends = np.array([[x, y * 1.3], [x + 0.1 * (lean - 0.5), y * 1.3 - 0.2 * length], [x + 0.35 * (lean - 0.5), y * 1.3 - 0.4 * length]])
            cv2.polylines(image, [(ends * pixels).astype(np.int32)], False, (dark + (light * 1.3 - dark) * mix).tolist(),
                          max(1, pixels // 90), cv2.LINE_AA)  # fmt: skip
    if kind in ("bokeh", "foliage"):
        for x, y, r, mix, odd in rng.random((28, 5)):
            color = _rgb(rng.random(), 0.5, 0.9) if odd > 0.9 else dark + (light * 1.3 - dark) * mix
            axes = (int(pixels * (0.02 + 0.1 * r)), int(pixels * (0.02 + 0.1 * r) * (1 if kind == "bokeh" else 0.4)))
            cv2.ellipse(image, (int(x * pixels), int(y * pixels)), axes, odd * 400, 0, 360, color.tolist(), -1, cv2.LINE_AA)
    return image


def _heads(species: Species, nuisances: dict, rng):
    """Return centers (B, 2), radii (B), frames (B, 3, 3) and depths (B) of all flowers, the main one's first, and stem ends."""
    main = np.array([[nuisances["x"], nuisances["y"], nuisances["scale"], 0.0]])
    others = np.column_stack([rng.uniform(0, 1, (3, 2)), nuisances["scale"] * rng.uniform(0.45, 0.85, 3), [-1.0, -2.0, -3.0]])
    heads = np.vstack([main, others[: nuisances["blooms"]]])
    n = species.florets
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5)) + rng.normal(0, 0.2, n)
    if species.inflorescence == "spike":
        along = np.linspace(-1, 1, n)
        layout = np.column_stack([0.45 * np.sin(turn) * (1.1 - 0.1 * along), along * 1.3, 0.42 + 0.1 * along, 0.3 * np.cos(turn)])
    elif species.inflorescence == "single":
        layout = np.array([[0.0, 0.0, 1.0, 0.0]])
    else:
        r = np.sqrt((np.arange(n) + 0.3) / n)
        flat = 0.55 if species.inflorescence == "umbel" else 0.9
        layout = np.column_stack([0.85 * r * np.cos(turn), 0.85 * r * np.sin(turn) * flat, np.full(n, 0.38), -r])
    size = heads[:, None, 2]
    center = heads[:, None, :2] + layout[None, :, :2] * size[..., None]
    radius = size * layout[:, 2]
    depth = heads[:, None, 3] + 0.3 * layout[:, 3] * size
    lean = np.arctan2(layout[:, 1], layout[:, 0])
    b = len(heads)
    tilt = np.radians(nuisances["tilt"] + rng.normal(0, 12, (b, n)) * (np.arange(b * n).reshape(b, n) > 0))
    direction = np.radians(nuisances["tilt_direction"]) + rng.normal(0, 0.3, (b, n))
    if n > 1:
        tilt, direction = tilt * 0.5 + 0.6 * np.hypot(layout[:, 0], layout[:, 1]), direction * 0.3 + lean
    frame = _frames(np.radians(species.nodding), tilt.ravel(), direction.ravel())
    return (center.reshape(-1, 2), radius.ravel(), frame, depth.ravel()), heads


def _palette(species: Species, nuisances: dict, recolour=None) -> dict:
    """Return 5 x 3 RGB pigments for petals, center, stamens and leaves."""
    vary = lambda h, s, v: _rgb(h + nuisances["hue"], s * nuisances["saturation"], v * nuisances["value"])
    h, s, v = COLOURS[recolour or nuisances["color"]]
    body, accent, throat, center = vary(h, s, v), vary(*COLOURS[species.accent]), vary(*COLOURS[species.throat]), vary(*COLOURS[species.center])
    green = lambda value: _rgb(nuisances["green"], 0.55, value)
    return dict(
        petal=[throat, body, vary(h, s * 0.55, min(1, v * 1.1)), accent, accent * 0.75],
        center=[center * 0.75, center, center, center, center * 1.15],
        stamen=[green(0.7), green(0.7) * 0.6 + 100, center * 0.9, center, center],
        leaf=[green(0.35), green(0.42), green(0.5), green(0.5), green(0.62)],
    )


def _scene(species: Species, nuisances: dict, size: int, seed: list, without=(), recolour=None, background=None):
    """Paint one picture's content: float32 RGB (size, size, 3) before the camera, and ids (size, size)."""
    stream = lambda number: np.random.default_rng([*seed, number])
    pixels = SCALE * size
    azimuth, elevation = np.radians([nuisances["light_direction"], nuisances["light_elevation"]])
    light = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    image = _background(background or nuisances["background"], nuisances, size, stream(1))
    image = cv2.GaussianBlur(image, (0, 0), 0.3 + nuisances["background_blur"] * size)
    scene = dict(canvas=cv2.resize(image, (pixels, pixels)), ids=np.zeros((pixels, pixels), np.uint16), pieces=[], light=light, pixels=pixels)
    palette = _palette(species, nuisances, recolour)
    heads, stems = _heads(species, nuisances, stream(2))
    if "leaves" not in without:
        _leaves(scene, species, nuisances, palette, stems, stream(3))
        _paint(scene)
    order = np.flatnonzero(heads[3] < -0.9)
    for chosen in (order, np.flatnonzero(heads[3] >= -0.9)):
        _flowers(scene, species, nuisances, palette, [part[chosen] for part in heads], without, stream(4))
        _paint(scene)
        if len(chosen) and chosen is order:
            scene["canvas"] = cv2.GaussianBlur(scene["canvas"], (0, 0), 0.5 + nuisances["background_blur"] * size * 0.4)
    if "leaves" not in without:
        _occluders(scene, nuisances, palette, stream(5))
    image = cv2.resize(scene["canvas"], (size, size), interpolation=cv2.INTER_AREA)
    if nuisances["blur"]:
        image = cv2.GaussianBlur(image, (0, 0), 0.2 + nuisances["blur"] * size)
    return image, scene["ids"][::SCALE, ::SCALE]


def _flowers(scene, species, nuisances, palette, heads, without, rng):
    """Add the sepals, petals and center of every head."""
    count = len(heads[1])
    if not count:
        return
    pixels = heads[1].max() * scene["pixels"]
    height = int(2 ** np.clip(np.ceil(np.log2(pixels)), 3, 8))
    spin = np.radians(nuisances["rotation"]) * (0.08 if species.bilateral else 1) + np.arange(count)[:, None]*(species.bilateral==0)
    petals = species.petals
    strips = 3 if abs(species.curl) > 15 and count * petals * species.layers < 20 else 1
    turn = 2 * np.pi / petals
    cup, curl = species.cup + nuisances["openness"], species.curl
    textures = [_tint(pattern(species.outline, species.gradient_along, species.gradient_across, species.veins, species.spots,
                              species.rim, species.width, variant, height), palette["petal"]) for variant in range(3)]  # fmt: skip
    for layer in range(species.layers):
        noise = rng.normal(0, nuisances["jitter"], (count, 64, 3))[:, :petals]
        azimuth = spin + turn * (np.arange(petals) + species.layer_offset * layer + 0.12 * noise[..., 0]) + np.pi / 2
        along = (np.arange(strips) + 0.5) / strips - 0.5
        raised = cup + species.cup_step * layer + 5 * noise[..., 1]
        elevation = np.radians(raised[..., None] + curl * along - nuisances["wilt"] * 25 * along)
        length = species.layer_ratio**layer * (1 + 0.05 * noise[..., 2]) * (1 + species.bilateral * np.sin(azimuth))
        if "petals" not in without:
            _whorl(scene, heads, textures, azimuth, elevation, length * 0.92, species.width, species.disc * 0.6, 0, PETAL, 0.004 * layer)
    if species.sepals and "leaves" not in without:
        azimuth = spin + turn * (np.arange(petals) + 0.5)
        sepal = _tint(pattern("pointed", 0.2, 0, 0.3, 0, 0, 0.3, 0, height // 2), palette["leaf"])
        _whorl(scene, heads, [sepal], azimuth, np.radians(np.full((count, petals, 1), cup - 12.0)), np.full((count, petals), 0.7), 0.3, 0, 0, LEAF, -0.01)
    if "center" in without:
        return
    d = species.disc
    disc = _tint(disc_pattern(species.disc_seeds, 0, max(8, int(height * d))), palette["center"])
    flat = np.zeros((count, 1, 1))
    _whorl(scene, heads, [disc], flat[..., 0] - np.pi, flat, flat[..., 0] + 2 * d, 1, -d, 0.06, CENTER, 0.02)
    if species.stamens:
        n = species.stamens
        stamen = _tint(pattern("stamen", 0, 1, 0, 0, 0, 0.22, 0, max(12, height // 2)), palette["stamen"])
        azimuth = spin + 2 * np.pi / n * (np.arange(n) + rng.normal(0, 0.2, (count, 64))[:, :n])
        raised = np.radians(max(cup, 30) + 15 + rng.normal(0, 12, (count, 64))[:, :n, None])
        _whorl(scene, heads, [stamen], azimuth, raised, np.full((count, n), species.stamen_length + d), 0.14, 0, 0.03, CENTER, 0.03)


def _leaves(scene, species, nuisances, palette, stems, rng):
    """Draw the stems and add leaves along them."""
    canvas, pixels = scene["canvas"], scene["pixels"]
    foot = np.array([0.5, 1.2]) + rng.normal(0, 0.15, 2)
    t = np.linspace(0, 1, 12)[:, None]
    for x, y, scale, _ in stems[::-1]:
        top = np.array([x, y])
        bend = (top + foot) / 2 + [rng.normal(0, 0.08), 0]
        points = ((1 - t) ** 2 * top + 2 * t * (1 - t) * bend + t**2 * foot) * pixels * 16
        for width, color in ((0.07, palette["leaf"][0]), (0.035, palette["leaf"][2])):
            thick = max(1, int(width * scale * pixels))
            cv2.polylines(canvas, [points.astype(np.int32)], False, color.tolist(), thick, cv2.LINE_AA, 4)
            cv2.polylines(scene["ids"], [points.astype(np.int32)], False, LEAF, thick, cv2.LINE_8, 4)
    n = nuisances["leaves"]
    if n:
        leaf = _tint(pattern(species.leaf_outline, 0.3, 0.4, 0.6, 0, 0, species.leaf_width, 1, 96), palette["leaf"])
        place = rng.uniform([0.0, 0.5], [1.0, 1.1], (6, 2))[:n]
        heads = (place, np.full(n, 0.45 * species.leaf_size), _frames(0, rng.uniform(0, 0.7, n), rng.uniform(-3, 3, n)), np.full(n, -4.0))
        one = np.ones((n, 1))
        azimuth = rng.uniform(-np.pi, 0, (n, 1))
        _whorl(scene, heads, [leaf], azimuth, np.radians(rng.uniform(20, 50, (n, 1, 1)) + [30, 0, -30]), one, species.leaf_width, 0, 0, LEAF)


def _occluders(scene, nuisances, palette, rng):
    """Put blurred leaves of the foreground over the picture."""
    n = nuisances["occluders"]
    if not n:
        return
    leaf = _tint(pattern("strap", 0, 0.4, 0.4, 0, 0, 0.16, 2, 64), palette["leaf"])
    side = rng.uniform(0, 2 * np.pi, n)
    place = 0.5 + 0.75 * np.column_stack([np.cos(side), np.sin(side)])
    heads = (place, np.full(n, 0.7), _frames(0, np.zeros(n), np.zeros(n)), np.zeros(n))
    _whorl(scene, heads, [leaf], (side + np.pi + rng.normal(0, 0.5, n))[:, None], np.zeros((n, 1, 1)), np.ones((n, 1)), 0.16, 0, 0, LEAF)
    before = scene["canvas"].copy()
    _paint(scene)


def _photograph(scene: np.ndarray, nuisances: dict, rng) -> tuple[np.ndarray, int]:
    """Expose, add sensor noise and compress; return uint8 (size, size, 3) and the JPEG's bytes."""
    size = len(scene)
    gain = nuisances["exposure"] * np.array([1 + nuisances["warmth"], 1, 1 - nuisances["warmth"]], np.float32)
    shade = 1 - 1.2 * nuisances["shadow"] * _smooth(0.35, 0.6, _noise(rng, 4, size))
    image = scene.astype(np.float32) * gain * shade[..., None]
    image = 255 * np.tanh(image / 255 * nuisances["contrast"]) / np.tanh(1.1)
    image += nuisances["noise"] * rng.standard_normal(image.shape, np.float32)
    image = image.clip(0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, nuisances["jpeg"]])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], len(data)


def render(species: Species, instance_seed: int, size: int = 96, without=(), recolour=None, petal_count=None, background=None) -> Picture:
    """Render one picture of `species`."""
    without = (without,) if isinstance(without, str) else tuple(without)
    seed = [VERSION, species.seed, species.label, instance_seed]
    nuisances = _nuisances(species, np.random.default_rng([*seed, 0]))
    content, ids = _scene(species, nuisances, size, seed)
    image, length = _photograph(content, nuisances, np.random.default_rng([*seed, 6]))
    if without or recolour or petal_count or background:
        changed = replace(species, petals=petal_count or species.petals)
        other, ids = _scene(changed, nuisances, size, seed, without, recolour, background)
        altered, length = _photograph(other, nuisances, np.random.default_rng([*seed, 6]))
        image = np.where((other != content).any(2, keepdims=True), altered, image)
    return Picture(
        image=np.ascontiguousarray(image.transpose(2, 0, 1)), label=species.label, path=f"{species.name}/{instance_seed:05d}.jpg",
        width=size, height=size, mode="RGB", bytes=length, parts=np.minimum(ids, PETAL).astype(np.uint8)[...].choose([0, 1, 2, 3, 2]).astype(np.uint8),
        factors={**species.factors(), **nuisances},
    )  # fmt: skip


def rendered_pictures(species: int = 24, per_species: int | None = 40, size: int = 64, seed: int = 0) -> Iterator[Picture]:
    """Yield the pictures of a whole data set, species after species."""
    sizes = class_sizes(species, seed) if per_species is None else [per_species] * species
    for one, count in zip(species_table(species, seed), sizes):
        for instance in range(count):
            yield render(one, instance, size)
