"""What grows in a rendered picture: stems, leaves, and heads, which are one flower each, as pieces in a scene."""

import cv2
import numpy as np

from common.flowers.painting import GOLDEN_ANGLE, Heads, Scene, disc_pattern, pattern, rgb, texture
from common.flowers.species import BACKGROUND, CENTER, COLORS, PETAL, Species

MOST = 64  # petals in one layer; random numbers are drawn for so many, so that a changed count moves no other draw


def palette_of(species: Species, nuisances: dict) -> dict:
    """Return five pigments (RGB 0..255: throat, body, edge, rim, marks) for petals, center, stamens and leaves."""

    def vary(hue, saturation, value):
        return rgb(hue + nuisances["hue"], saturation * nuisances["saturation"], value * nuisances["value"])

    hue, saturation, value = COLORS[nuisances["color"]]
    accent, throat, center = (vary(*COLORS[name]) for name in (species.accent, species.throat, species.center))
    brown = 0.35 * nuisances["wilt"] * np.array([0.6, 0.45, 0.3])  # withering starts at the edge
    edge = vary(hue, saturation * 0.55, min(1, value * 1.1)) * (1 - brown.sum()) + 255 * brown
    dark, body, light, marks, young = (rgb(nuisances["green"], 0.55, value) for value in (0.35, 0.42, 0.5, 0.62, 0.7))
    return dict(
        petal=[throat, vary(hue, saturation, value), edge, accent, accent * 0.75],
        center=[center * 0.75, center, center, center, center * 1.15],
        stamen=[young, young * 0.6 + 100, center * 0.9, center, center],
        leaf=[dark, body, light, light, marks],
    )


def leaning(center, radius, depth, tilt, direction, nodding=0.0) -> Heads:
    """Return heads that nod and then lean by `tilt` toward `direction` (B,), all in radians."""
    cos, sin, y, z = np.cos(nodding), np.sin(nodding), np.sin(tilt) * np.sin(direction), np.cos(tilt)
    axis = np.array([np.sin(tilt) * np.cos(direction), cos * y - sin * z, sin * y + cos * z])
    down = np.array([[0], [1], [0.3]]) - (axis[1] + 0.3 * axis[2]) * axis
    down /= np.sqrt((down**2).sum(0))
    frame = np.array([np.cross(down, axis, axis=0), down, axis]).transpose(2, 0, 1)
    return Heads(center, np.broadcast_to(radius, tilt.shape), frame, np.broadcast_to(depth, tilt.shape))


def _layout(species: Species, rng) -> np.ndarray:
    """Return (n, 4) florets of one inflorescence: x, y, radius, depth, in units of the whole."""
    n = species.florets
    turn = np.arange(n) * GOLDEN_ANGLE + rng.normal(0, 0.2, n)
    if species.inflorescence == "single":
        return np.array([[0.0, 0.0, 1.0, 0.0]])
    if species.inflorescence == "spike":
        y = np.linspace(-1, 1, n)
        return np.column_stack([(0.35 + 0.1 * y) * np.sin(turn), 1.05 * y, 0.55 + 0.1 * y, 0.3 * np.cos(turn)])
    r, flat = np.sqrt((np.arange(n) + 0.3) / n), 0.6 if species.inflorescence == "umbel" else 0.95
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
    each = (size * layout[:, 2], stems[:, None, 3] + 0.5 * layout[:, 3] * size, tilt, direction)
    return stems, leaning(center.reshape(-1, 2), *map(np.ravel, each), np.radians(species.nodding))


def add_flowers(scene: Scene, species: Species, nuisances: dict, palette: dict, heads: Heads, without, rng):
    """Add the petals, sepals and center of every head to the scene; `without` names parts to leave out."""
    cup = species.cup + nuisances["openness"]
    tall = 2 ** min(max(round(np.log2(heads.radius.max() * scene.pixels) - 0.2), 3), 8)  # rows of a petal's texture
    spin = np.radians(nuisances["rotation"]) * (0.08 if species.bilateral else 1) + np.pi / 2
    spin = spin + (species.bilateral == 0) * np.arange(len(heads.radius))[:, None]
    loose = nuisances["jitter"] * rng.normal(0, 1, (4, len(heads.radius), species.layers, MOST))
    if "petals" not in without:
        _add_petals(scene, species, nuisances, palette, heads, spin, cup, tall, loose[..., : species.petals])
    if species.sepals and "leaves" not in without:
        sepal = texture(pattern("pointed", tall // 2, 0.3, along=0.2, veins=0.3), palette["leaf"])
        azimuth = spin + 2 * np.pi / species.sepals * (np.arange(species.sepals) + 0.5)
        scene.add(heads, [sepal], azimuth, np.radians(cup - 12), 0.7, 0.3, lift=-0.3)
    if "center" not in without:
        _add_center(scene, species, palette, heads, spin, cup, tall, rng)


def _add_petals(scene, species, nuisances, palette, heads, spin, cup, tall, loose):
    """Add all layers of petals; loose (4, B, layers, petals) is how far each one strays from its ideal."""
    layer, petal = np.divmod(np.arange(species.layers * species.petals), species.petals)
    loose = loose.reshape(4, len(heads.radius), -1)
    azimuth = spin + 2 * np.pi / species.petals * (petal + species.layer_offset * layer + 0.12 * loose[0])
    strips = 3 if abs(species.curl) > 15 and azimuth.size < 20 else 1
    along = (np.arange(strips) + 0.5) / strips - 0.5
    raised = (cup + species.cup_step * layer + 5 * loose[1])[..., None]
    elevation = np.radians(raised + (species.curl - 25 * nuisances["wilt"]) * along)
    length = species.layer_ratio**layer * (0.92 + 0.05 * loose[2]) * (1 + species.bilateral * np.sin(azimuth))
    look = (species.gradient_along, species.gradient_across, species.veins, species.spots, species.rim)
    shares = [pattern(species.outline, tall, species.width, kind, *look) for kind in range(2 + nuisances["damage"])]
    scene.add(heads, [texture(one, palette["petal"]) for one in shares], azimuth, elevation, length[..., None],
              species.width, 0.6 * species.disc, 0.0, 0.004 * layer[:, None], PETAL, (1 + 0.04 * loose[3])[..., None])


def _add_center(scene, species, palette, heads, spin, cup, tall, rng):
    """Add the disc and the stamens; in a closed flower they stay behind the petals in front."""
    count, size, lift = len(heads.radius), species.disc, 0.02 if cup > 45 else 0.15
    disc = texture(disc_pattern(species.disc_seeds, max(8, int(tall * size))), palette["center"])
    scene.add(heads, [disc], np.zeros((count, 1)), 0.0, 2 * size, 1, -size, 0.06, lift, CENTER)
    if n := species.stamens if species.florets == 1 else min(5, species.stamens):
        loose = rng.normal(0, 0.2, (2, count, MOST))[..., :n]
        stamen = texture(pattern("stamen", max(12, tall // 2), 0.22, across=1), palette["stamen"])
        azimuth = spin + 2 * np.pi / n * (np.arange(n) + loose[0])
        elevation, length = np.radians(max(cup, 30) + 15) + loose[1][..., None], species.stamen_length + size
        scene.add(heads, [stamen], azimuth, elevation, length, 0.14, 0, 0.03, lift + 0.01, CENTER)


def add_leaves(scene: Scene, species: Species, nuisances: dict, palette: dict, stems, heads: Heads, rng):
    """Draw the stems with their side branches, and add leaves to the scene."""
    foot, bends = np.array([0.5, 1.25]) + rng.normal(0, 0.15, 2), rng.normal(0, 0.06, 4)
    t, colors = np.linspace(0, 1, 9)[:, None], palette["leaf"][::4]
    # The stem's end, seen from the inflorescence's middle, and where side branches leave the stem.
    rise = dict(single=0.0, cluster=0.3, umbel=0.9, spike=-0.9)[species.inflorescence]
    for (x, y, scale, _), bend, ends in list(zip(stems, bends, heads.center.reshape(len(stems), -1, 2)))[::-1]:
        top = np.array([x, y + rise * scale])
        middle = (top + foot) / 2 + [bend, 0]
        scene.draw_stem((1 - t) ** 2 * top + 2 * t * (1 - t) * middle + t**2 * foot, 0.06 * scale, colors)
        for end in ends if len(ends) > 1 else ():
            start = (x, end[1] - 0.1 * scale) if species.inflorescence == "spike" else top
            scene.draw_stem(np.array([start, end]), 0.025 * scale, colors)
    x, y, tilt, direction = rng.uniform([0.1, 0.6, 0, -np.pi], [0.9, 1.15, 0.9, np.pi], (6, 4))[: nuisances["leaves"]].T
    azimuth, raised = rng.uniform([-np.pi, 0.3], [0, 0.9], (6, 2))[: nuisances["leaves"]].T[..., None]
    look = (species.leaf_outline, 2 ** (int(np.log2(scene.pixels)) - 1), species.leaf_width)
    leaves = [texture(pattern(*look, kind, along=0.3, across=0.4, veins=0.7), palette["leaf"]) for kind in range(2)]
    around = leaning(np.column_stack([x, y]), 0.5 * species.leaf_size, -10.0, tilt, direction)  # behind every flower
    scene.add(around, leaves, azimuth, raised[..., None] + [0.3, -0.3], 1, species.leaf_width)


def add_foliage(scene: Scene, palette: dict, rng, n: int = 12):
    """Add leaves of other plants to the background."""
    x, y, tilt, direction = rng.uniform([0, 0.1, 0, -np.pi], [1, 1.2, 0.9, np.pi], (n, 4)).T
    azimuth, dim = rng.uniform([-np.pi, 0.4], [0, 1.3], (n, 2)).T[..., None]
    leaf = texture(pattern("oval", 64, 0.45, 1, along=0.3, across=0.4, veins=0.7), palette["leaf"])
    around = leaning(np.column_stack([x, y]), 0.4, rng.random(n), tilt, direction)
    scene.add(around, [leaf], azimuth, 0.0, 1, 0.45, part=BACKGROUND, dim=dim[..., None])


def occlude(scene: Scene, nuisances: dict, palette: dict, rng):
    """Put leaves that are nearer than the focus, and so blurred, over the picture."""
    front = Scene(np.zeros_like(scene.canvas), scene.light)
    side = rng.uniform(0, 2 * np.pi, nuisances["occluders"])
    around = leaning(0.5 + 0.75 * np.column_stack([np.cos(side), np.sin(side)]), 0.75, 0.0, 0 * side, 0 * side)
    azimuth = (side + np.pi + rng.normal(0, 0.6, len(side)))[:, None]
    leaf = texture(pattern("blade", 64, 0.16, across=0.4, veins=0.4), palette["leaf"])
    front.add(around, [leaf], azimuth, 0.0, 1, 0.16)
    front.paint()
    np.copyto(scene.parts, front.parts, where=front.parts > 0)
    front.canvas[..., 3] = 255 * (front.canvas[..., 3] > 0).astype(np.uint8)
    front.blur(0.004 + 0.3 * nuisances["background_blur"])
    through = cv2.merge([1 - cv2.extractChannel(front.canvas, 3) / np.float32(255)] * 4)
    scene.canvas[:] = scene.canvas * through + front.canvas  # a color is at most its opacity, so this is at most 255
