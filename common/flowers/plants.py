"""What grows in a rendered picture: from a species and a picture's nuisances to pieces in a scene.

A head is one flower. A stem carries one head, or an inflorescence of several.
"""

import math

import cv2
import numpy as np

from common.flowers.painting import CENTER, PETAL, Heads, Scene, disc_pattern, pattern, rgb, texture
from common.flowers.species import COLORS, Species

BEHIND = -10.0  # depth below that of every flower
MOST = 64  # petals in one layer; random numbers are drawn for so many, so that a changed count moves no other draw


def palette_of(species: Species, nuisances: dict, recolor: str | None = None) -> dict:
    """Return five pigments (RGB 0..255: throat, body, edge, rim, marks) for petals, center, stamens and leaves."""

    def vary(hue, saturation, value):
        saturation, value = saturation * nuisances["saturation"], value * nuisances["value"]
        return rgb(hue + nuisances["hue"], saturation, value)

    def green(value):
        return rgb(nuisances["green"], 0.55, value)

    hue, saturation, value = COLORS[recolor or nuisances["color"]]
    accent, throat, center = (vary(*COLORS[name]) for name in (species.accent, species.throat, species.center))
    brown = 0.35 * nuisances["wilt"] * np.array([0.6, 0.45, 0.3])  # withering starts at the edge
    edge = vary(hue, saturation * 0.55, min(1, value * 1.1)) * (1 - brown.sum()) + 255 * brown
    return dict(
        petal=[throat, vary(hue, saturation, value), edge, accent, accent * 0.75],
        center=[center * 0.75, center, center, center, center * 1.15],
        stamen=[green(0.7), green(0.7) * 0.6 + 100, center * 0.9, center, center],
        leaf=[green(0.35), green(0.42), green(0.5), green(0.5), green(0.62)],
    )


def frames(nodding: float, tilt: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return (B, 3, 3) rows right, down, axis of flowers that lean by `tilt` toward `direction` (B, radians)."""
    cos, sin, y, z = np.cos(nodding), np.sin(nodding), np.sin(tilt) * np.sin(direction), np.cos(tilt)
    axis = np.array([np.sin(tilt) * np.cos(direction), cos * y - sin * z, sin * y + cos * z])
    down = np.array([[0], [1], [0.3]]) - (axis[1] + 0.3 * axis[2]) * axis
    down /= np.sqrt((down**2).sum(0))
    right = down[[1, 2, 0]] * axis[[2, 0, 1]] - down[[2, 0, 1]] * axis[[1, 2, 0]]
    return np.array([right, down, axis]).transpose(2, 0, 1)


def _layout(species: Species, rng) -> np.ndarray:
    """Return (n, 4) florets of one inflorescence: x, y, radius, depth, in units of the whole."""
    n = species.florets
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5)) + rng.normal(0, 0.2, n)
    if species.inflorescence == "single":
        return np.array([[0.0, 0.0, 1.0, 0.0]])
    if species.inflorescence == "spike":
        y = np.linspace(-1, 1, n)
        return np.column_stack([(0.35 + 0.1 * y) * np.sin(turn), 1.05 * y, 0.55 + 0.1 * y, 0.3 * np.cos(turn)])
    r = np.sqrt((np.arange(n) + 0.3) / n)
    flat = 0.6 if species.inflorescence == "umbel" else 0.95
    return np.column_stack([0.8 * r * np.cos(turn), 0.8 * r * np.sin(turn) * flat, np.full(n, 0.4), -0.5 * r])


def heads_of(species: Species, nuisances: dict, rng) -> tuple[np.ndarray, Heads]:
    """Return the stems, (K, 4) of x, y, scale and depth with the main one first, and the heads on them."""
    blooms = nuisances["blooms"] if species.florets == 1 else nuisances["blooms"] // 2
    sizes = nuisances["scale"] * rng.uniform(0.45, 0.85, 3)
    others = np.column_stack([rng.uniform(0, 1, (3, 2)), sizes, [-1.0, -2.0, -3.0]])
    stems = np.vstack([[nuisances["x"], nuisances["y"], nuisances["scale"], 0.0], others[:blooms]])
    layout, size = _layout(species, rng), stems[:, None, 2]
    center = stems[:, None, :2] + layout[None, :, :2] * size[..., None]
    loose = rng.normal(0, 1, (2, 4, len(layout)))[:, : len(stems)]
    loose[:, 0] = 0  # the main one leans as the nuisances say
    tilt = np.radians(nuisances["tilt"]) + 0.3 * loose[0]
    direction = np.radians(nuisances["tilt_direction"]) + loose[1]
    if len(layout) > 1:  # florets face outwards from the middle of the inflorescence
        tilt = 0.4 * tilt + 0.7 * np.hypot(layout[:, 0], layout[:, 1])
        direction = 0.3 * direction + np.arctan2(layout[:, 1], layout[:, 0])
    frame = frames(np.radians(species.nodding), tilt.ravel(), direction.ravel())
    depth = stems[:, None, 3] + 0.5 * layout[:, 3] * size
    return stems, Heads(center.reshape(-1, 2), (size * layout[:, 2]).ravel(), frame, depth.ravel())


def add_flowers(scene: Scene, species: Species, nuisances: dict, palette: dict, heads: Heads, without, rng):
    """Add the petals, sepals and center of every head to the scene; `without` names parts to leave out."""
    cup = species.cup + nuisances["openness"]
    tall = 2 ** min(max(round(math.log2(heads.radius.max() * scene.pixels) - 0.2), 3), 8)
    spin = np.radians(nuisances["rotation"]) * (0.08 if species.bilateral else 1) + np.pi / 2
    spin = spin + (species.bilateral == 0) * np.arange(len(heads.radius))[:, None]
    loose = nuisances["jitter"] * rng.normal(0, 1, (4, len(heads.radius), species.layers, MOST))
    if "petals" not in without:
        _add_petals(scene, species, nuisances, palette, heads, spin, cup, tall, loose[..., : species.petals])
    if species.sepals and "leaves" not in without:
        sepal = texture(pattern("pointed", 0.2, 0, 0.3, 0, 0, 0.3, 0, tall // 2), palette["leaf"])
        one = np.ones((len(heads.radius), species.sepals))
        azimuth = spin + 2 * np.pi / species.sepals * (np.arange(species.sepals) + 0.5)
        elevation = np.radians(cup - 12) * one[..., None]
        scene.add(heads, [sepal], azimuth, elevation, 0.7 * one, 0.3, lift=-0.3)
    if "center" not in without:
        _add_center(scene, species, palette, heads, spin, cup, tall, rng)


def _add_petals(scene, species, nuisances, palette, heads, spin, cup, tall, loose):
    """Add all layers of petals; loose (4, B, layers, petals) is how far each one strays from its ideal."""
    layers, petals = species.layers, species.petals
    layer, loose = np.repeat(np.arange(layers), petals), loose.reshape(4, len(heads.radius), -1)
    place = np.tile(np.arange(petals), layers) + species.layer_offset * layer + 0.12 * loose[0]
    azimuth = spin + 2 * np.pi / petals * place
    strips = 3 if abs(species.curl) > 15 and azimuth.size < 20 else 1
    along = (np.arange(strips) + 0.5) / strips - 0.5
    raised = (cup + species.cup_step * layer + 5 * loose[1])[..., None]
    elevation = np.radians(raised + (species.curl - 25 * nuisances["wilt"]) * along)
    length = species.layer_ratio**layer * (0.92 + 0.05 * loose[2])
    length = length * (1 + species.bilateral * np.sin(azimuth))
    look = (species.outline, species.gradient_along, species.gradient_across, species.veins, species.spots)
    look = (*look, species.rim, species.width)
    kinds = range(2 + nuisances["damage"])
    textures = [texture(pattern(*look, variant, tall), palette["petal"]) for variant in kinds]
    dim, lift = (1 + 0.04 * loose[3])[..., None], 0.004 * layer[:, None]
    scene.add(heads, textures, azimuth, elevation, length, species.width, 0.6 * species.disc, 0, lift, PETAL, dim)


def _add_center(scene, species, palette, heads, spin, cup, tall, rng):
    """Add the disc and the stamens; in a closed flower they stay behind the petals in front."""
    count, size, lift = len(heads.radius), species.disc, 0.02 if cup > 45 else 0.15
    disc = texture(disc_pattern(species.disc_seeds, max(8, int(tall * size))), palette["center"])
    flat = np.zeros((count, 1))
    scene.add(heads, [disc], flat, flat[..., None], flat + 2 * size, 1, -size, 0.06, lift, CENTER)
    if not species.stamens:
        return
    n = species.stamens if species.florets == 1 else min(5, species.stamens)
    loose = rng.normal(0, 0.2, (2, count, MOST))[..., :n]
    stamen = texture(pattern("stamen", 0, 1, 0, 0, 0, 0.22, 0, max(12, tall // 2)), palette["stamen"])
    azimuth = spin + 2 * np.pi / n * (np.arange(n) + loose[0])
    elevation = np.radians(max(cup, 30) + 15) + loose[1][..., None]
    length = np.full((count, n), species.stamen_length + size)
    scene.add(heads, [stamen], azimuth, elevation, length, 0.14, 0, 0.03, lift + 0.01, CENTER)


def add_leaves(scene: Scene, species: Species, nuisances: dict, palette: dict, stems, heads: Heads, rng):
    """Draw the stems with their side branches, and add leaves to the scene."""
    foot = np.array([0.5, 1.25]) + rng.normal(0, 0.15, 2)
    t = np.linspace(0, 1, 9)[:, None]
    colors, bends = palette["leaf"][::4], rng.normal(0, 0.06, 4)
    # The stem's end, seen from the inflorescence's middle, and where side branches leave the stem.
    rise = dict(single=0.0, cluster=0.3, umbel=0.9, spike=-0.9)[species.inflorescence]
    lines = []
    for (x, y, scale, _), bend, ends in list(zip(stems, bends, heads.center.reshape(len(stems), -1, 2)))[::-1]:
        top = np.array([x, y + rise * scale])
        middle = (top + foot) / 2 + [bend, 0]
        lines.append(((1 - t) ** 2 * top + 2 * t * (1 - t) * middle + t**2 * foot, 0.06 * scale))
        for end in ends if len(ends) > 1 else ():
            start = (x, end[1] - 0.1 * scale) if species.inflorescence == "spike" else top
            lines.append((np.array([start, end]), 0.025 * scale))
    scene.draw_stems(lines, colors)
    n = nuisances["leaves"]
    if not n:
        return
    place, lean = rng.uniform([[0.1, 0.6], [0, -np.pi]], [[0.9, 1.15], [0.9, np.pi]], (6, 2, 2))[:n].swapaxes(0, 1)
    azimuth, raised = rng.uniform([-np.pi, 0.3], [0, 0.9], (6, 2))[:n].T[..., None]
    look, tall = (species.leaf_outline, 0.3, 0.4, 0.7, 0, 0, species.leaf_width), int(np.log2(scene.pixels)) - 1
    leaf = [texture(pattern(*look, variant, 2**tall), palette["leaf"]) for variant in range(2)]
    around = Heads(place, np.full(n, 0.5 * species.leaf_size), frames(0, *lean.T), np.zeros(n))
    one = np.ones((n, 1))
    scene.add(around, leaf, azimuth, raised[..., None] + [0.3, -0.3], one, species.leaf_width, lift=BEHIND)


def add_foliage(scene: Scene, palette: dict, rng, n: int = 12):
    """Add leaves of other plants to the background."""
    place, lean = rng.uniform([[0, 0.1], [0, -np.pi]], [[1, 1.2], [0.9, np.pi]], (n, 2, 2)).swapaxes(0, 1)
    azimuth, dim = rng.uniform([-np.pi, 0.4], [0, 1.3], (n, 2)).T[..., None]
    leaf = texture(pattern("oval", 0.3, 0.4, 0.7, 0, 0, 0.45, 1, 64), palette["leaf"])
    around, one = Heads(place, np.full(n, 0.4), frames(0, *lean.T), rng.random(n)), np.ones((n, 1))
    scene.add(around, [leaf], azimuth, 0 * one[..., None], one, 0.45, value=0, dim=dim[..., None])


def occlude(scene: Scene, nuisances: dict, palette: dict, rng):
    """Put leaves that are nearer than the focus, and so blurred, over the picture."""
    n = nuisances["occluders"]
    if not n:
        return
    front = Scene(np.zeros_like(scene.canvas), scene.light)
    side, zero, one = rng.uniform(0, 2 * np.pi, n), np.zeros(n), np.ones((n, 1))
    place = 0.5 + 0.75 * np.column_stack([np.cos(side), np.sin(side)])
    azimuth = (side + np.pi + rng.normal(0, 0.6, n))[:, None]
    leaf = texture(pattern("blade", 0, 0.4, 0.4, 0, 0, 0.16, 0, 64), palette["leaf"])
    around = Heads(place, 0.75 + zero, frames(0, zero, zero), zero)
    front.add(around, [leaf], azimuth, 0 * one[..., None], one, 0.16)
    front.paint()
    np.copyto(scene.ids, front.ids, where=front.ids > 0)
    front.canvas[..., 3] = 255 * (front.canvas[..., 3] > 0).astype(np.uint8)
    front.blur(0.004 + 0.3 * nuisances["background_blur"])
    opacity = cv2.extractChannel(front.canvas, 3)
    x, y, wide, high = cv2.boundingRect(opacity)
    if wide:  # a color is at most its opacity, so the sum is at most 255
        box = np.s_[y : y + high, x : x + wide]
        through = cv2.merge([1 - opacity[box] / np.float32(255)] * 4)
        scene.canvas[box] = scene.canvas[box] * through + front.canvas[box]
