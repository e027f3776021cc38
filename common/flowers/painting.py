"""How pictures are painted: patterns colored to textures, and flat textured pieces seen in perspective.

Nothing here knows of species. Colors are RGB in 0..255, hues 0..1, places and lengths are in picture widths.
"""

import colorsys
from functools import lru_cache
from itertools import chain, cycle, repeat
from typing import NamedTuple

import cv2
import numpy as np

from common.flowers.species import LEAF

SCALE = 2  # the canvas is painted at twice the picture's size, then averaged down
DISTANCE = 4.0  # of the viewer from a flower, in the flower's radii
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
OUTLINES = dict(oval=(0.7, 0.45), pointed=(0.75, 0.95), notched=(0.8, 0.3), heart=(0.9, 0.35), strap=(0.3, 0.16),
                ruffled=(0.8, 0.25), blade=(0.3, 0.8))  # exponents of a petal's width, from its base and from its tip


def generator(*key: int) -> np.random.Generator:
    """Return the random numbers of up to five whole numbers below 2^24."""
    return np.random.Generator(np.random.Philox(key=sum(part % 2**24 << 24 * place for place, part in enumerate(key))))


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return RGB in 0..255; the hue wraps around, saturation and value are clipped to 0..1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def smooth(low, high, value):
    """The smoothstep from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=2048)
def pattern(outline, height, ratio, variant=0, along=0.0, across=0.0, veins=0.0, spots=0.0, rim=0.0) -> np.ndarray:
    """Return what a petal or leaf is made of: float32 (height, width, 6), shares of five pigments and the opacity.

    Rows go from base to tip. The pigments are throat, body, edge, rim and marks; their shares sum to the relief, the
    brightness. `ratio` is width over height; `variant` seeds small irregularities, and from 2 on damage.
    """
    rng, width = np.random.default_rng(variant), max(6, int(height * ratio))
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width) + 0.5) / width * 2 - 1
    if outline == "stamen":  # a thread and, at its end, the anther
        half = np.where(y < 0.8, 0.3, np.sqrt(np.clip(1 - ((y - 0.9) / 0.1) ** 2, 0, 1)))
    else:
        a, b = OUTLINES[outline]
        half = y**a * (1 - y) ** b * (a + b) ** (a + b) / (a**a * b**b)  # of the width, at most 1
    half = half * (1 + 0.05 * np.sin(rng.uniform(0, 6, 2)[(x > 0) * 1] + y * rng.uniform(5, 9)))
    top = 1 - dict(notched=0.12, heart=0.2).get(outline, 0) * np.exp(-((x / 0.22) ** 2))
    if outline in ("ruffled", "notched"):
        top -= 0.03 * (1 + np.sin(x * 14 + rng.uniform(0, 6)))
        half *= 1 + 0.05 * np.sin(y * 25 + rng.uniform(0, 6)) * np.sign(x)
    if variant > 1:  # something has eaten of it
        bite = rng.uniform([-1, 0.5], [1, 1])
        top = np.where(np.hypot(x - bite[0], (y - bite[1]) / ratio) < 0.5, 0, top)
    opacity = (np.abs(x) < half) & (y < top)
    side = np.minimum(np.abs(x) / np.maximum(half, 1e-3), 1)
    marks = 0.9 * veins * smooth(0.75, 1, np.cos(x * 17 * max(ratio, 0.2) / (0.35 + 0.65 * y))) * (1 - y)
    for cx, cy in rng.uniform([-0.6, 0.12], [0.6, 0.75], (int(spots * 26), 2)):
        marks = np.maximum(marks, smooth(1, 0.4, np.hypot((x - cx) * ratio / 2, y - cy) / 0.035))
    rims = smooth(1 - rim, 1 - 0.6 * rim, np.maximum(side, y)) if rim else 0.0
    throat = smooth(0.15 + 0.6 * along, 0.05, y)
    edge = 0.8 * across * np.clip(np.maximum(side**2, smooth(0.5, 1.1, y)), 0, 1)
    if outline == "stamen":
        throat, edge = 0 * y, (y > 0.78) * 1.0
    relief = (0.68 + 0.27 * smooth(-0.1, 0.45, y)) * (1.04 - 0.2 * side**3) + 0.03 * np.cos(x * 22 * ratio)
    return _shares(relief, opacity, marks, rims, throat, edge)


def _shares(relief, opacity, marks, rims, throat, edge) -> np.ndarray:
    """Return a pattern: each pigment covers a share of what the one before it left, and the body the rest."""
    shares = np.zeros((*opacity.shape, 6), np.float32)
    for pigment, cover in ((4, marks), (3, rims), (0, throat), (2, edge)):
        shares[..., pigment] = relief * cover
        relief = relief * (1 - cover)
    shares[..., 1], shares[..., 5] = relief, opacity
    return shares


@lru_cache(maxsize=512)
def disc_pattern(seeds: int, height: int) -> np.ndarray:
    """Return a flower's disc from above, as `pattern` does: florets on Vogel's spiral (1979), the youngest inside."""
    x = (np.arange(height) + 0.5) / height * 2 - 1
    y = x[:, None]
    k = np.arange(seeds) + 0.5
    place, turn = 0.95 * np.sqrt(k / seeds), k * GOLDEN_ANGLE
    distance = np.hypot(x[:, None] - place * np.cos(turn), y[..., None] - place * np.sin(turn)).min(2)
    dots, radius = smooth(1.1, 0.2, distance * np.sqrt(seeds)), np.hypot(x, y)
    relief = (0.58 + 0.4 * dots) * (1.02 - 0.35 * radius**2)
    return _shares(relief, radius < 1, 0.3 * dots, 0, smooth(0.7, 0.2, radius), 0)


def texture(shares: np.ndarray, palette) -> np.ndarray:
    """Color a pattern (h, w, 6) with `palette`, five RGB pigments in 0..255: return RGBA uint8 (h, w, 4)."""
    mix = np.zeros((6, 4), np.float32)
    mix[:5, :3], mix[5, 3] = palette, 255
    return cv2.convertScaleAbs(cv2.transform(shares, mix.T))


class Heads(NamedTuple):
    """B places around which pieces grow; in space x goes to the right, y down and z towards the viewer."""

    center: np.ndarray  # (B, 2)
    radius: np.ndarray  # (B,)
    frame: np.ndarray  # (B, 3, 3), rows right, down and axis: unit vectors in space
    depth: np.ndarray  # (B,), higher where nearer

    def cameras(self, pixels: int) -> np.ndarray:
        """Return (B, 3, 4): from points in a head's frame and radii to pixels of a canvas, both homogeneous."""
        camera = np.zeros((len(self.radius), 3, 4))
        camera[:, :2, :3] = (self.radius * pixels)[:, None, None] * self.frame[..., :2].swapaxes(1, 2)
        camera[:, 2, :3], camera[:, 2, 3] = self.frame[..., 2] / -DISTANCE, 1
        camera[:, :2] += (self.center * pixels - 0.5)[..., None] * camera[:, 2:]
        return camera


class Scene:
    """A canvas RGBA uint8 (P, P, 4) on which pieces are painted, lit from `light` (3,), and the `parts` seen on it."""

    def __init__(self, canvas: np.ndarray, light: np.ndarray):
        self.canvas, self.pixels, self.light, self.pieces = canvas, len(canvas), light, []
        self.parts = np.zeros((self.pixels // SCALE, self.pixels // SCALE), np.uint8)

    def add(self, heads: Heads, textures, azimuth, elevation, length, width,
            base=0.0, height=0.0, lift=0.0, part=LEAF, dim=1.0):
        """Place n pieces, each of S flat strips, that grow outwards around every one of B heads.

        textures: RGBA (h, w, 4) of one shape, used in turn. azimuth: (B, n), and elevation: (B, n, S), in radians.
        length: in head radii, as base and height, where pieces begin, outwards and along the axis, and as lift, which
        is added to the depth. width: over length. part: an index of PARTS. dim: brightness. All broadcast to (B, n, S).
        """
        azimuth, elevation = np.broadcast_arrays(azimuth[..., None], elevation)
        (rows, columns), strips = textures[0].shape[:2], elevation.shape[2]
        right, down, cos, sin = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
        count, step, breadth = np.arange(strips), length / strips, length * width
        if strips > 1:  # each begins where the one before it ends
            base, height = base + (cos.cumsum(2) - cos) * step, height + (sin.cumsum(2) - sin) * step
        # A strip is a unit square: its way across, its way along and where it starts, in its head's frame.
        square = np.zeros((4, 3, *elevation.shape))
        square[:2, 0] = -down * breadth, right * breadth
        square[:3, 1] = cos * step * right, cos * step * down, sin * step
        square[:2, 2], square[2, 2], square[3, 2] = (base * right, base * down), height, 1
        square = heads.cameras(self.pixels)[:, None, None] @ square.transpose(2, 3, 4, 0, 1)  # now on the canvas
        nearness = DISTANCE * (1 - square[..., 2, 2] - square[..., 2, 1] / 2)  # of its middle, in head radii
        depth = heads.depth[:, None, None] + lift + nearness * heads.radius[:, None, None]
        # Brightness follows from how its normal stands to the light; what faces away from the viewer is darker.
        x, y, axis = (heads.frame @ np.array([self.light, [0, 0, 1]]).T).transpose(1, 2, 0)[..., None, None]
        light, front = cos * axis - sin * (right * x + down * y)
        shade = (0.70 + 0.36 * np.maximum(light * np.sign(front), 0)) * np.where(front > 0, 1, 0.88)
        shade = dim * shade * (1 + 0.15 * nearness.clip(-1, 1))
        # Rows first to last of a texture lie on a strip; its pixels are counted from their middles.
        first, last = count * rows // strips, np.minimum(rows, (count + 1) * rows // strips + 1)
        texel = np.zeros((strips, 3, 3))
        texel[:, 0, 0], texel[:, 0, 2] = 1 / columns, 0.5 / columns - 0.5
        texel[:, 1, 1], texel[:, 1, 2], texel[:, 2, 2] = strips / rows, (first + 0.5) * strips / rows - count, 1
        matrix = square @ texel
        corners = matrix @ [[[0, columns, 0, columns], [0, 0, tall, tall], [1, 1, 1, 1]] for tall in last - first]
        matrix, corners = matrix.reshape(-1, 3, 3), corners.reshape(-1, 3, 4)
        corners = corners[:, :2] / corners[:, 2:]
        low = np.clip(corners.min(2) - 1, 0, self.pixels).astype(int) // SCALE * SCALE
        high = np.clip(corners.max(2) + 2, 0, self.pixels).astype(int)
        matrix[:, :2] -= low[..., None] * matrix[:, 2:]
        matrix += 1e-9 * np.eye(3)  # seen exactly from the side, a piece has no inverse
        looks = chain.from_iterable(cycle([[one[i:j] for i, j in zip(first, last)] for one in textures]))
        boxes = np.stack([low, high], 1).tolist()
        self.pieces += zip(depth.ravel().tolist(), looks, matrix, boxes, shade.ravel().tolist(), repeat(part))

    def paint(self):
        """Paint the pieces added since the last time, the farthest first."""
        for _, look, matrix, ((x0, y0), (x1, y1)), shade, part in sorted(self.pieces, key=lambda piece: piece[0]):
            if x0 < x1 and y0 < y1:  # else it is outside the picture
                look = cv2.convertScaleAbs(look, alpha=shade)
                patch = cv2.warpPerspective(look, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_NEAREST)
                mask = cv2.extractChannel(patch, 3)
                cv2.copyTo(patch, mask, self.canvas[y0:y1, x0:x1])
                parts = self.parts[y0 // SCALE : -(-y1 // SCALE), x0 // SCALE : -(-x1 // SCALE)]
                parts[mask[::SCALE, ::SCALE].astype(bool)] = part
        self.pieces = []

    def draw_stem(self, points, width, colors):
        """Draw a stem through points (n, 2); `colors` go from its edge to its middle."""
        mask, points = np.zeros_like(self.canvas[..., 0]), [(points * self.pixels * 16).astype(np.int32)]
        for i, color in enumerate(colors):
            thick = max(SCALE, round(width * self.pixels * (1 - i / len(colors))))
            cv2.polylines(self.canvas, points, False, (*color.tolist(), 255), thick, cv2.LINE_8, 4)
            cv2.polylines(mask, points, False, 1, thick, cv2.LINE_8, 4)
        self.parts[mask[::SCALE, ::SCALE] > 0] = LEAF

    def blur(self, sigma: float):
        """Blur what is there so far by `sigma`, in picture widths."""
        self.paint()
        sigma, half = sigma * self.pixels / 2, self.pixels // 2
        if sigma > 0.3:  # at half the resolution, where blurring costs an eighth
            small = cv2.resize(self.canvas, (half, half), interpolation=cv2.INTER_AREA)
            self.canvas = cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma), (self.pixels, self.pixels))
