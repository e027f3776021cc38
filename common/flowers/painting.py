"""How pictures are painted: patterns colored to textures, and flat textured pieces seen in perspective.

Nothing here knows of species. Colors are RGB in 0..255, hues 0..1, places and lengths are in picture widths.
"""

import colorsys
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

LEAF, CENTER, PETAL = 1, 3, 4  # values of the id canvas; petals are counted from PETAL upwards
SCALE = 2  # the canvas is painted at twice the picture's size, then averaged down
DISTANCE = 4.0  # of the viewer from a flower, in the flower's radii
CORNERS = np.array([[0.0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])  # of the unit square, homogeneous, in columns


def generator(*key: int) -> np.random.Generator:
    """Return the random numbers of up to five whole numbers below 2^24; much faster to make than default_rng's."""
    number = sum(part % 2**24 << 24 * place for place, part in enumerate(key))
    return np.random.Generator(np.random.Philox(_Key(number)))


class _Key(np.random.bit_generator.ISeedSequence):
    """A Philox key as its seed: Philox(key=number) gives the same, but asks the system for randomness first."""

    def __init__(self, number):
        self.words = np.array([number % 2**64, number >> 64], np.uint64)

    def generate_state(self, n_words, dtype=np.uint32):
        return self.words


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return RGB in 0..255; the hue wraps around, saturation and value are clipped to 0..1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def smooth(low, high, value):
    """The smoothstep from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=2048)
def pattern(outline, along, across, veins, spots, rim, ratio, variant, height) -> np.ndarray:
    """Return what a petal or leaf is made of: float32 (height, width, 6), shares of five pigments and the opacity.

    Row 0 is the base, the last row the tip. The pigments are throat, body, edge, rim and marks; their shares sum to the
    relief, the brightness. `ratio` is width over height; `variant` seeds small irregularities, and from 2 on damage.
    """
    rng = np.random.default_rng(variant)
    width = max(6, int(height * ratio))
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width) + 0.5) / width * 2 - 1
    half = _half_width(outline, y) * (1 + 0.05 * np.sin(rng.uniform(0, 6, 2)[(x > 0) * 1] + y * rng.uniform(5, 9)))
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
    left = (0.68 + 0.27 * smooth(-0.1, 0.45, y)) * (1.04 - 0.2 * side**3) + 0.03 * np.cos(x * 22 * ratio)
    shares = np.zeros((height, width, 6), np.float32)
    for pigment, share in ((4, marks), (3, rims), (0, throat), (2, edge)):  # each covers a share of what is left
        shares[..., pigment] = left * share
        left = left * (1 - share)
    shares[..., 1], shares[..., 5] = left, opacity
    return shares


def _half_width(outline: str, y: np.ndarray) -> np.ndarray:
    """Half the width of a petal at height y (0 base, 1 tip), at most 1."""
    if outline == "stamen":  # a thread and, at its end, the anther
        return np.where(y < 0.8, 0.3, np.sqrt(np.clip(1 - ((y - 0.9) / 0.1) ** 2, 0, 1)))
    a, b = dict(oval=(0.7, 0.45), pointed=(0.75, 0.95), notched=(0.8, 0.3), heart=(0.9, 0.35), strap=(0.3, 0.16),
                ruffled=(0.8, 0.25), blade=(0.3, 0.8))[outline]  # fmt: skip
    return y**a * (1 - y) ** b * (a + b) ** (a + b) / (a**a * b**b)


@lru_cache(maxsize=512)
def disc_pattern(seeds: int, height: int) -> np.ndarray:
    """Return a flower's disc from above, as `pattern` does: florets on Vogel's spiral (1979), the youngest inside."""
    x = (np.arange(height) + 0.5) / height * 2 - 1
    y = x[:, None]
    k = np.arange(seeds) + 0.5
    place, turn = 0.95 * np.sqrt(k / seeds), k * np.pi * (3 - np.sqrt(5))
    distance = np.hypot(x[:, None] - place * np.cos(turn), y[..., None] - place * np.sin(turn)).min(2)
    dots, radius = smooth(1.1, 0.2, distance * np.sqrt(seeds)), np.hypot(x, y)
    inner, relief = smooth(0.7, 0.2, radius), (0.58 + 0.4 * dots) * (1.02 - 0.35 * radius**2)
    body = (1 - 0.3 * dots) * relief
    none = np.zeros_like(body)
    shares = [inner * body, (1 - inner) * body, none, none, 0.3 * dots * relief, radius < 1]
    return np.stack(shares, 2).astype(np.float32)


def texture(shares: np.ndarray, palette) -> np.ndarray:
    """Color a pattern (h, w, 6) with `palette`, five RGB pigments in 0..255: return RGBA uint8 (h, w, 4)."""
    mix = np.zeros((6, 4), np.float32)
    mix[:5, :3], mix[5, 3] = palette, 255
    return cv2.convertScaleAbs(cv2.transform(shares, mix.T))


class Heads(NamedTuple):
    """Places around which pieces grow: centers (B, 2) and radii (B) in picture widths, and depths (B).

    frame: (B, 3, 3), rows right, down and axis: unit vectors in space (x right, y down, z towards the viewer).
    """

    center: np.ndarray
    radius: np.ndarray
    frame: np.ndarray
    depth: np.ndarray


class Scene:
    """A canvas to paint pieces on, and what is seen there.

    canvas: uint8 (P, P, 4), RGBA. ids: uint16 (P / SCALE, P / SCALE): 0, LEAF, CENTER, or from PETAL on a number for
    each petal. light: (3,) unit vector towards the light.
    """

    def __init__(self, canvas: np.ndarray, light: np.ndarray):
        self.canvas, self.pixels, self.light, self.batches, self.petals = canvas, len(canvas), light, [], 0
        self.ids = np.zeros((self.pixels // SCALE, self.pixels // SCALE), np.uint16)

    def add(self, heads: Heads, textures, azimuth, elevation, length, width,
            base=0.0, height=0.0, lift=0.0, value=LEAF, dim=1.0):
        """Place pieces that grow outwards around heads; lengths are in head radii, angles in radians.

        textures: RGBA (h, w, 4) of one shape, used in turn. azimuth and length: (B, n), for n pieces on each head.
        elevation: (B, n, S), for S flat strips along each piece. width: of a piece, over its length. base, height:
        where pieces begin, outwards and along the axis. lift: added to the depth. value: written into `ids`, counting
        up for petals. dim: brightness, broadcast to (B, n, S).
        """
        (rows, columns), strips = textures[0].shape[:2], elevation.shape[2]
        count, cos, sin, step = np.arange(strips), np.cos(elevation), np.sin(elevation), (length / strips)[..., None]
        first, last = count * rows // strips, np.minimum(rows, (count + 1) * rows // strips + 1)
        if strips > 1:  # each begins where the one before it ends
            base, height = base + (cos.cumsum(2) - cos) * step, height + (sin.cumsum(2) - sin) * step
        if value >= PETAL:
            value = value + self.petals + np.arange(azimuth.size).reshape(*azimuth.shape, 1)
            self.petals += azimuth.size
        share, begin = (last - first) * strips / rows, (first + 0.5) * strips / rows - count
        head = np.arange(len(heads.depth)) + sum(len(other.depth) for other, *_ in self.batches)
        each = (columns, last - first, azimuth[..., None], (length * width)[..., None], step, cos, sin, base, height)
        each += (share, begin, heads.depth[:, None, None] + lift, dim, head[:, None, None], value)
        table = np.empty((len(each), *elevation.shape))
        for row, one in zip(table, each):
            row[...] = one
        cut = [[one[i:j] for i, j in zip(first, last)] for one in textures]
        looks = [look for i in range(azimuth.size) for look in cut[i % len(cut)]]
        self.batches.append((heads, table.reshape(len(each), -1), looks))

    def _place(self, heads, columns, _, azimuth, breadth, step, cos, sin, base, height, share, begin, depth, dim, head):
        """Return matrices from the unit square to canvas pixels (N, 3, 3), depths (N) and brightness (N) of pieces."""
        # Each strip's way across, its way along and where it starts, in the directions of its head's frame
        strip, right, down = np.zeros((len(azimuth), 3, 3)), np.cos(azimuth), np.sin(azimuth)
        across, run, start = strip[..., 0], strip[..., 1], strip[..., 2]
        across[:, 0], across[:, 1] = -down * breadth, right * breadth
        run[:, 0], run[:, 1], run[:, 2] = cos * step * right, cos * step * down, sin * step
        start[:, 0], start[:, 1], start[:, 2] = base * right, base * down, height
        # seen in perspective, in homogeneous pixels; the texture's pixels are counted from their middles.
        head, spot = head.astype(int), np.ones((len(heads.radius), 3, 1))
        spot[:, :2, 0] = heads.center * self.pixels - 0.5
        view = spot * (heads.frame[:, None, :, 2] / -DISTANCE)
        view[:, :2] += (heads.radius * self.pixels)[:, None, None] * heads.frame[..., :2].swapaxes(1, 2)
        matrix = view[head] @ strip
        middle = -DISTANCE * (matrix[:, 2, 2] + matrix[:, 2, 1] / 2)
        matrix[..., 2:] += spot[head] + matrix[..., :2] @ np.array([0.5 / columns - 0.5, begin]).T[..., None]
        matrix[..., 1] *= share[:, None]
        # A piece's normal, towards the light and towards the viewer.
        x, y, axis = (heads.frame @ np.array([self.light, [0, 0, 1]]).T)[head].transpose(1, 2, 0)
        light, front = cos * axis - sin * (right * x + down * y)
        shade = (0.70 + 0.36 * np.maximum(light * np.sign(front), 0)) * np.where(front > 0, 1, 0.88)
        return matrix, depth + middle * heads.radius[head], dim * shade * (1 + 0.15 * middle.clip(-1, 1))

    def paint(self):
        """Paint the pieces added since the last time, the farthest first."""
        if not self.batches:
            return
        heads, table, looks = zip(*self.batches)
        heads, table = Heads(*map(np.concatenate, zip(*heads))), np.concatenate(table, 1)
        looks, self.batches = [one for batch in looks for one in batch], []
        matrix, depth, shade = self._place(heads, *table[:-1])
        corners = matrix @ CORNERS
        corners = corners[:, :2] / corners[:, 2:]
        low = np.clip(corners.min(2) - 1, 0, self.pixels).astype(int) // SCALE * SCALE
        high = np.clip(corners.max(2) + 2, 0, self.pixels).astype(int)
        matrix[:, :2] -= low[..., None] * matrix[:, 2:]
        matrix[..., :2] /= table[:2].T[:, None]  # from the texture's pixels
        matrix += 1e-9 * np.eye(3)  # seen exactly from the side, a piece has no inverse
        low, high, shade, value = low.tolist(), high.tolist(), shade.tolist(), table[-1].astype(int).tolist()
        for i in np.argsort(depth, kind="stable").tolist():
            if low[i][0] < high[i][0] and low[i][1] < high[i][1]:
                self._paint_piece(looks[i], matrix[i], *low[i], *high[i], shade[i], value[i])

    def _paint_piece(self, look, matrix, x0, y0, x1, y1, shade, value):
        look = cv2.convertScaleAbs(look, alpha=shade)
        patch = cv2.warpPerspective(look, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_NEAREST)
        mask = cv2.extractChannel(patch, 3)
        cv2.copyTo(patch, mask, self.canvas[y0:y1, x0:x1])
        ids = self.ids[y0 // SCALE : -(-y1 // SCALE), x0 // SCALE : -(-x1 // SCALE)]
        ids[mask[::SCALE, ::SCALE].astype(bool)] = value

    def draw_stems(self, lines, colors):
        """Draw stems: lines are pairs of points (n, 2) and width; `colors` go from a stem's edge to its middle."""
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        for points, width in lines:
            points = [(points * self.pixels * 16).astype(np.int32)]
            for i, color in enumerate(colors):
                thick = max(SCALE, round(width * self.pixels * (1 - i / len(colors))))
                cv2.polylines(self.canvas, points, False, (*color.tolist(), 255), thick, cv2.LINE_8, 4)
                cv2.polylines(mask, points, False, 1, thick, cv2.LINE_8, 4)
        self.ids[mask[::SCALE, ::SCALE] > 0] = LEAF

    def blur(self, sigma: float):
        """Blur what is there so far by `sigma`, in picture widths."""
        self.paint()
        sigma, half = sigma * self.pixels / 2, self.pixels // 2
        if sigma > 0.3:  # at half the resolution, where blurring costs an eighth
            small = cv2.resize(self.canvas, (half, half), interpolation=cv2.INTER_AREA)
            self.canvas = cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma), (self.pixels, self.pixels))
