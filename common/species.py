"""What a rendered species is: a point in a factor space of flower shapes, grouped into genera of look-alikes."""

import colorsys
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

OUTLINES = ("oval", "pointed", "notched", "heart", "strap", "ruffled")  # of petals; leaves may also be a "blade"
INFLORESCENCES = ("single", "cluster", "spike", "umbel")

# Body colours of petals as hue (0..1), saturation, value; real flowers are rarely green.
COLOURS = dict(
    white=(0.14, 0.05, 0.97), cream=(0.14, 0.25, 0.97), yellow=(0.145, 0.85, 0.97), gold=(0.12, 0.92, 0.96),
    orange=(0.07, 0.88, 0.96), salmon=(0.02, 0.50, 0.95), red=(0.99, 0.88, 0.82), crimson=(0.95, 0.85, 0.62),
    pink=(0.93, 0.38, 0.95), magenta=(0.88, 0.68, 0.82), lilac=(0.78, 0.35, 0.90), purple=(0.77, 0.70, 0.62),
    violet=(0.71, 0.65, 0.72), blue=(0.64, 0.60, 0.82),
)  # fmt: skip


@dataclass(frozen=True)
class Species:
    """The factors every picture of one species shares. Lengths are in petal lengths, angles in degrees."""

    name: str
    genus: str
    seed: int  # of the table; with the label and the instance seed, all the randomness of a picture
    label: int  # place in the table
    petals: int  # in one layer
    layers: int
    outline: str  # one of OUTLINES
    width: float  # of a petal, in petal lengths
    layer_ratio: float  # length of a layer over that of the layer outside it
    layer_offset: float  # turn between layers, in petal steps
    cup: float  # elevation of the petals above the flower's plane: -90 reflexed, 0 flat, 90 closed
    cup_step: float  # added elevation from one layer to the next inner one
    curl: float  # change of elevation from a petal's base to its tip
    bilateral: float  # 0: all petals alike; > 0: lower petals larger, < 0: smaller
    gradient_along: float  # 0: one colour; 1: the throat's colour reaches half-way up the petal
    gradient_across: float  # how strongly the edge colour enters from the sides
    veins: float  # strength 0..1
    spots: float  # share of the petal's lower part that is spotted, 0..1
    rim: float  # width of the coloured edge, in half petal widths
    disc: float  # radius of the disc
    disc_seeds: int  # florets in the disc's phyllotaxis
    stamens: int
    stamen_length: float
    sepals: int
    leaf_width: float  # in leaf lengths
    leaf_outline: str
    leaf_size: float
    inflorescence: str  # one of INFLORESCENCES
    florets: int
    nodding: float  # mean tilt of the flower's axis: 0 faces the viewer, 90 points up, -90 hangs down
    colours: tuple  # names in COLOURS that pictures of the species may have
    throat: str
    accent: str  # colour of rims, veins and spots
    center: str

    def factors(self) -> dict:
        """Return the factors as a flat dict of numbers and strings (one row of a table)."""
        return {key: "/".join(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


# A family is what its genera have in common; a (low, high) pair is drawn from, a list is chosen from.
COMMON = dict(
    layers=1, layer_ratio=0.8, layer_offset=0.5, cup=(0, 15), cup_step=8.0, curl=(-20, 5), bilateral=0.0,
    gradient_along=(0.1, 0.5), gradient_across=(0.0, 0.5), veins=(0.0, 0.4), spots=0.0, rim=0.0, disc=(0.1, 0.16),
    disc_seeds=(20, 50), stamens=0, stamen_length=0.3, sepals=0, leaf_width=(0.2, 0.5), leaf_outline=["oval", "pointed"],
    leaf_size=(0.7, 1.3), inflorescence="single", florets=1, nodding=(10, 30),
    colours=list(COLOURS), throat=["white", "yellow", "cream"], accent=list(COLOURS), center=["yellow", "gold", "cream"],
)  # fmt: skip
FAMILIES = dict(
    daisy=dict(petals=(13, 21), outline="strap", width=(0.2, 0.3), disc=(0.3, 0.4), disc_seeds=(80, 140),
               colours=["white", "cream", "pink", "lilac", "yellow"], leaf_outline="blade", leaf_width=(0.15, 0.25)),
    buttercup=dict(petals=(5, 6), outline="oval", width=(0.75, 0.95), cup=(15, 35), stamens=(12, 18), sepals=5,
                   colours=["yellow", "gold", "white", "cream", "orange"], veins=(0.1, 0.3)),
    lily=dict(petals=6, outline="pointed", width=(0.32, 0.42), cup=(25, 45), curl=(-110, -50), spots=(0.3, 0.9), stamens=6,
              stamen_length=(0.6, 0.8), disc=(0.06, 0.1), colours=["orange", "salmon", "pink", "white", "yellow", "red"],
              accent=["crimson", "purple", "red"], leaf_outline="blade", leaf_width=(0.1, 0.18)),
    pansy=dict(petals=5, outline="heart", width=(0.85, 1.05), bilateral=(0.2, 0.4), cup=(-5, 5), gradient_along=(0.4, 0.8),
               veins=(0.5, 1.0), disc=(0.06, 0.09), throat=["yellow", "white", "gold"], accent=["purple", "crimson", "violet"],
               colours=["violet", "purple", "blue", "yellow", "white", "lilac"]),
    bell=dict(petals=(5, 6), outline="pointed", width=(0.5, 0.65), cup=(62, 75), curl=(-80, -30), nodding=(-110, -70),
              inflorescence="spike", florets=(7, 12), colours=["blue", "violet", "lilac", "white", "pink"], disc=0.08),
    rose=dict(petals=(5, 7), layers=(3, 5), outline=["oval", "heart", "ruffled"], width=(0.85, 1.05), cup=(5, 20), cup_step=15,
              layer_ratio=(0.74, 0.82), disc=0.08, colours=["red", "crimson", "pink", "salmon", "white", "yellow"], sepals=5),
    poppy=dict(petals=(4, 5), outline="ruffled", width=(1.1, 1.35), cup=(15, 40), stamens=(14, 20), stamen_length=0.26,
               disc=(0.14, 0.2), center=["purple", "yellow", "crimson"], colours=["red", "orange", "salmon", "yellow", "pink"],
               throat=["crimson", "purple", "white", "yellow"]),
    phlox=dict(petals=5, outline=["notched", "heart", "oval"], width=(0.6, 0.8), inflorescence=["umbel", "cluster"],
               florets=(8, 13), disc=(0.1, 0.16), gradient_along=(0.1, 0.5), rim=(0.0, 0.3)),
    sunflower=dict(petals=(14, 20), layers=2, layer_ratio=0.9, outline="pointed", width=(0.28, 0.36), disc=(0.45, 0.6),
                   disc_seeds=(140, 220), colours=["yellow", "gold", "orange", "red"], center=["crimson", "orange", "purple"],
                   leaf_width=(0.5, 0.7), cup=(-5, 15)),
    tulip=dict(petals=3, layers=2, layer_ratio=0.97, outline=["oval", "pointed"], width=(0.7, 0.85), cup=(62, 74), cup_step=4,
               curl=(-10, 30), nodding=(50, 75), stamens=6, disc=0.1, leaf_outline="blade", leaf_width=(0.18, 0.28), rim=(0.0, 0.4),
               colours=["red", "yellow", "pink", "purple", "white", "orange"]),
    dandelion=dict(petals=(20, 26), layers=3, layer_ratio=0.74, outline="strap", width=(0.12, 0.17), cup=(-5, 15), cup_step=17,
                   disc=(0.1, 0.2), colours=["yellow", "gold", "orange", "lilac", "magenta"], leaf_outline="pointed"),
    iris=dict(petals=3, layers=2, layer_ratio=0.95, outline=["ruffled", "oval"], width=(0.6, 0.8), cup=(-25, -5), cup_step=75,
              curl=(-60, -20), nodding=(45, 65), veins=(0.4, 1.0), gradient_along=(0.3, 0.6), throat=["yellow", "gold", "white"],
              disc=0.06, leaf_outline="blade", leaf_width=(0.1, 0.16), colours=["violet", "purple", "blue", "yellow", "white"]),
    anemone=dict(petals=(6, 9), outline=["oval", "pointed"], width=(0.42, 0.6), stamens=(14, 20), stamen_length=(0.28, 0.4),
                 colours=["white", "blue", "violet", "pink", "red", "yellow"], center=["yellow", "purple", "cream"], cup=(5, 20)),
    pink=dict(petals=5, outline="notched", width=(0.8, 1.0), rim=(0.0, 0.5), accent=["crimson", "magenta", "white", "red"],
              colours=["pink", "magenta", "white", "red", "lilac"], disc=0.07, stamens=5, leaf_outline="blade", leaf_width=0.12),
)  # fmt: skip


def _draw(rng: np.random.Generator, value):
    """Draw from a (low, high) range or a list; anything else stands for itself."""
    if isinstance(value, tuple):
        whole = all(isinstance(bound, int) for bound in value) and value[1] > 1
        return int(rng.integers(value[0], value[1] + 1)) if whole else float(rng.uniform(*value))
    return value[rng.integers(len(value))] if isinstance(value, list) else value


def _genus(family: str, name: str, rng: np.random.Generator) -> Species:
    """Draw the factors that the species of one genus start from."""
    ranges = {**COMMON, **FAMILIES[family]}
    pool = tuple(rng.permutation(ranges.pop("colours"))[:3].tolist())
    factors = {key: _draw(rng, value) for key, value in ranges.items()}
    return Species(name=name, genus=name, seed=0, label=0, colours=pool, **factors)


def _relative(genus: Species, name: str, seed: int, label: int, rng: np.random.Generator) -> Species:
    """Return a species of `genus`: most factors shared, three or four moved a visible step."""
    near = lambda value, spread: float(value * (1 + spread * rng.choice([-1, 1])))
    steps = dict(
        petals=max(3, genus.petals + int(rng.choice([-1, 1, 2])) * max(1, genus.petals // 5)),
        width=near(genus.width, 0.22), disc=near(genus.disc, 0.3), curl=genus.curl + float(rng.choice([-25, 25])),
        cup=genus.cup + float(rng.choice([-14, 14])), veins=1.0 - genus.veins, spots=0.7 if genus.spots < 0.3 else 0.0,
        rim=0.4 if genus.rim < 0.2 else 0.0, gradient_along=0.7 if genus.gradient_along < 0.4 else 0.1,
        stamens=0 if genus.stamens else 10, layers=genus.layers + 1, center=str(rng.choice(["yellow", "cream", "crimson", "orange"])),
        throat=str(rng.choice(["white", "yellow", "crimson", "purple"])), accent=str(rng.choice(list(COLOURS))),
    )  # fmt: skip
    chosen = rng.choice(list(steps), size=int(rng.integers(3, 5)), replace=False)
    colours = tuple(rng.permutation(genus.colours)[: rng.integers(1, 3)].tolist())
    return replace(genus, name=name, seed=seed, label=label, colours=colours, **{key: steps[key] for key in chosen})


def species_table(count: int = 102, seed: int = 0) -> list[Species]:
    """Return `count` species, in genera of two to four look-alikes; a shorter table is a prefix of a longer one.

    `pandas.DataFrame(species_table())` shows it as a table. Genera follow one another through FAMILIES, so even a
    short table is varied. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"a table of {count} species cannot be made: ask for 1 or more")
    species = []
    for number in range(count):  # at most as many genera as species
        rng = np.random.default_rng([seed, number])
        family = list(FAMILIES)[number % len(FAMILIES)]
        genus = _genus(family, f"{family}-{number // len(FAMILIES) + 1}", rng)
        for letter in "abcd"[: rng.integers(2, 5)]:
            rng = np.random.default_rng([seed, number, ord(letter)])
            species.append(_relative(genus, f"{genus.name}{letter}", seed, len(species), rng))
        if len(species) >= count:
            return species[:count]


def class_sizes(species: int, seed: int = 0) -> list[int]:
    """Return pictures per species, 40 to 258 and skewed to the small side, as in Oxford Flowers-102 (mean 80)."""
    share = np.random.default_rng([seed, 102]).beta(0.75, 3.6, size=species)
    return (40 + np.round(218 * share)).astype(int).tolist()


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
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width * 2 - 1, indexing="ij")
    half = _half_width(outline, y) * (1 + 0.05 * np.sin(rng.uniform(0, 6, 2)[(x > 0) * 1] + y * rng.uniform(5, 9)))
    top = 1 - dict(notched=0.12, heart=0.2).get(outline, 0) * np.exp(-((x / 0.22) ** 2))
    if outline in ("ruffled", "notched"):
        top -= 0.03 * (1 + np.sin(x * 14 + rng.uniform(0, 6)))
        half *= 1 + 0.05 * np.sin(y * 25 + rng.uniform(0, 6)) * np.sign(x)
    if variant > 1:  # something has eaten of it
        bite = rng.uniform([-1, 0.5], [1, 1])
        top = np.where(np.hypot(x - bite[0], (y - bite[1]) / ratio) < 0.5, 0, top)
    opacity = np.clip(np.minimum((half - np.abs(x)) * width / 2, (top - y) * height) + 0.5, 0, 1)
    side = np.minimum(np.abs(x) / np.maximum(half, 1e-3), 1)
    marks = 0.9 * veins * smooth(0.75, 1, np.cos(x * 17 * max(ratio, 0.2) / (0.35 + 0.65 * y))) * (1 - y)
    for cx, cy in rng.uniform([-0.6, 0.12], [0.6, 0.75], (int(spots * 26), 2)):
        marks = np.maximum(marks, smooth(1, 0.4, np.hypot((x - cx) * ratio / 2, y - cy) / 0.035))
    rims = smooth(1 - rim, 1 - 0.6 * rim, np.maximum(side, y)) if rim else 0 * y
    throat = smooth(0.15 + 0.6 * along, 0.05, y)
    edge = 0.8 * across * np.clip(np.maximum(side**2, smooth(0.5, 1.1, y)), 0, 1)
    if outline == "stamen":
        throat, edge = 0 * y, (y > 0.78) * 1.0
    left = (0.68 + 0.27 * smooth(-0.1, 0.45, y)) * (1.04 - 0.2 * side**3) + 0.03 * np.cos(x * 22 * ratio)
    shares = {}
    for name, share in (("marks", marks), ("rims", rims), ("throat", throat), ("edge", edge)):
        shares[name] = left * share
        left = left * (1 - share)
    return np.stack([shares["throat"], left, shares["edge"], shares["rims"], shares["marks"], opacity], 2).astype(np.float32)


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
    y, x = np.meshgrid(*[(np.arange(height) + 0.5) / height * 2 - 1] * 2, indexing="ij")
    k = np.arange(seeds) + 0.5
    place, turn = 0.95 * np.sqrt(k / seeds), k * np.pi * (3 - np.sqrt(5))
    distance = np.hypot(x[..., None] - place * np.cos(turn), y[..., None] - place * np.sin(turn)).min(2)
    dots, radius = smooth(1.1, 0.2, distance * np.sqrt(seeds)), np.hypot(x, y)
    inner, relief = smooth(0.7, 0.2, radius), (0.58 + 0.4 * dots) * (1.02 - 0.35 * radius**2)
    body = (1 - 0.3 * dots) * relief
    shares = [inner * body, (1 - inner) * body, 0 * x, 0 * x, 0.3 * dots * relief, np.clip((1 - radius) * height / 2 + 0.5, 0, 1)]
    return np.stack(shares, 2).astype(np.float32)


def texture(shares: np.ndarray, palette) -> np.ndarray:
    """Color a pattern (h, w, 6) with `palette`, five RGB pigments in 0..255: return RGBA uint8 (h, w, 4)."""
    mix = np.zeros((6, 4), np.float32)
    mix[:5, :3], mix[5, 3] = palette, 255
    return cv2.convertScaleAbs(cv2.transform(shares, mix.T))
