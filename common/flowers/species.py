"""What a rendered species is: a point in a factor space of flower shapes, grouped into genera of look-alikes."""

from dataclasses import dataclass, replace

import numpy as np

PARTS = ("background", "leaf", "petal", "center")  # what the values of a part mask stand for
BACKGROUND, LEAF, PETAL, CENTER = range(4)
BACKGROUNDS = ("grass", "soil", "sky", "bokeh", "foliage", "dark")
# Body colors of petals as hue (0..1), saturation, value; real flowers are rarely green.
COLORS = dict(
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
    petals: int  # in one layer, 1 to 64
    layers: int
    outline: str  # oval, pointed, notched, heart, strap or ruffled; of leaves also blade
    width: float  # of a petal, in petal lengths
    layer_ratio: float  # length of a layer over that of the layer outside it
    layer_offset: float  # turn between layers, in petal steps
    cup: float  # elevation of the petals above the flower's plane: -90 reflexed, 0 flat, 90 closed
    cup_step: float  # added elevation from one layer to the next inner one
    curl: float  # change of elevation from a petal's base to its tip
    bilateral: float  # 0: all petals alike; > 0: lower petals larger, < 0: smaller
    gradient_along: float  # 0: one color; 1: the throat's color reaches half-way up the petal
    gradient_across: float  # how strongly the edge color enters from the sides
    veins: float  # strength 0..1
    spots: float  # share of the petal's lower part that is spotted, 0..1
    rim: float  # width of the colored edge, in half petal widths
    disc: float  # radius of the disc
    disc_seeds: int  # florets in the disc's phyllotaxis
    stamens: int
    stamen_length: float
    sepals: int
    leaf_width: float  # in leaf lengths
    leaf_outline: str
    leaf_size: float
    inflorescence: str  # single, cluster, spike or umbel
    florets: int
    nodding: float  # mean tilt of the flower's axis: 0 faces the viewer, 90 points up, -90 hangs down
    colors: tuple  # names in COLORS that pictures of the species may have
    throat: str
    accent: str  # color of rims, veins and spots
    center: str


# A family is what its genera have in common; a number is drawn from (low, high), one word is chosen of several.
COMMON = dict(
    layers=1, layer_ratio=0.8, layer_offset=0.5, cup=(0, 15), cup_step=8.0, curl=(-20, 5), bilateral=0.0,
    gradient_along=(0.1, 0.5), gradient_across=(0.0, 0.5), veins=(0.0, 0.4), spots=0.0, rim=0.0, disc=(0.1, 0.16),
    disc_seeds=(20, 50), stamens=0, stamen_length=0.3, sepals=0, leaf_width=(0.2, 0.5), leaf_outline="oval pointed",
    leaf_size=(0.7, 1.3), inflorescence="single", florets=1, nodding=(10, 30), colors=" ".join(COLORS),
    throat="white yellow cream", accent=" ".join(COLORS), center="yellow gold cream",
)  # fmt: skip
FAMILIES = dict(
    daisy=dict(petals=(13, 21), outline="strap", width=(0.2, 0.3), disc=(0.3, 0.4), disc_seeds=(80, 140),
        colors="white cream pink lilac yellow", leaf_outline="blade", leaf_width=(0.15, 0.25)),
    tulip=dict(petals=3, layers=2, layer_ratio=0.97, outline="oval pointed", width=(0.7, 0.85), cup=(62, 74),
        cup_step=4, curl=(-10, 30), nodding=(50, 75), stamens=6, disc=0.1, leaf_outline="blade",
        leaf_width=(0.18, 0.28), rim=(0.0, 0.4), colors="red yellow pink purple white orange"),
    lily=dict(petals=6, outline="pointed", width=(0.32, 0.42), cup=(25, 45), curl=(-110, -50), spots=(0.3, 0.9),
        stamens=6, stamen_length=(0.6, 0.8), disc=(0.06, 0.1), colors="orange salmon pink white yellow red",
        accent="crimson purple red", leaf_outline="blade", leaf_width=(0.1, 0.18)),
    pansy=dict(petals=5, outline="heart", width=(0.85, 1.05), bilateral=(0.2, 0.4), cup=(-5, 5),
        gradient_along=(0.4, 0.8), veins=(0.5, 1.0), disc=(0.06, 0.09), throat="yellow white gold",
        accent="purple crimson violet", colors="violet purple blue yellow white lilac"),
    phlox=dict(petals=5, outline="notched heart oval", width=(0.6, 0.8), inflorescence="umbel cluster", florets=(8, 13),
        disc=(0.1, 0.16), gradient_along=(0.1, 0.5), rim=(0.0, 0.3)),
    rose=dict(petals=(5, 7), layers=(3, 5), outline="oval heart ruffled", width=(0.85, 1.05), cup=(5, 20), cup_step=15,
        layer_ratio=(0.74, 0.82), disc=0.08, colors="red crimson pink salmon white yellow", sepals=5),
    bell=dict(petals=(5, 6), outline="pointed", width=(0.5, 0.65), cup=(62, 75), curl=(-80, -30), nodding=(-110, -70),
        inflorescence="spike", florets=(7, 12), colors="blue violet lilac white pink", disc=0.08),
    sunflower=dict(petals=(14, 20), layers=2, layer_ratio=0.9, outline="pointed", width=(0.28, 0.36), disc=(0.45, 0.6),
        disc_seeds=(140, 220), colors="yellow gold orange red", center="crimson orange purple", leaf_width=(0.5, 0.7),
        cup=(-5, 15)),
    buttercup=dict(petals=(5, 6), outline="oval", width=(0.75, 0.95), cup=(15, 35), stamens=(12, 18), sepals=5,
        colors="yellow gold white cream orange", veins=(0.1, 0.3)),
    iris=dict(petals=3, layers=2, layer_ratio=0.95, outline="ruffled oval", width=(0.6, 0.8), cup=(-25, -5),
        cup_step=75, curl=(-60, -20), nodding=(45, 65), veins=(0.4, 1.0), gradient_along=(0.3, 0.6),
        throat="yellow gold white", disc=0.06, leaf_outline="blade", leaf_width=(0.1, 0.16),
        colors="violet purple blue yellow white"),
    poppy=dict(petals=(4, 5), outline="ruffled", width=(1.1, 1.35), cup=(15, 40), stamens=(14, 20), stamen_length=0.26,
        disc=(0.14, 0.2), center="purple yellow crimson", colors="red orange salmon yellow pink",
        throat="crimson purple white yellow"),
    dandelion=dict(petals=(20, 26), layers=3, layer_ratio=0.74, outline="strap", width=(0.12, 0.17), cup=(-5, 15),
        cup_step=17, disc=(0.1, 0.2), colors="yellow gold orange lilac magenta", leaf_outline="pointed"),
    anemone=dict(petals=(6, 9), outline="oval pointed", width=(0.42, 0.6), stamens=(14, 20), stamen_length=(0.28, 0.4),
        colors="white blue violet pink red yellow", center="yellow purple cream", cup=(5, 20)),
    pink=dict(petals=5, outline="notched", width=(0.8, 1.0), rim=(0.0, 0.5), accent="crimson magenta white red",
        colors="pink magenta white red lilac", disc=0.07, stamens=5, leaf_outline="blade", leaf_width=0.12),
)  # fmt: skip
# Of one picture: a number from (low, high), or one of a list.
NUISANCES = dict(
    background=list(BACKGROUNDS), color=[], hue=(-0.018, 0.018), saturation=(0.85, 1.12), value=(0.88, 1.05),
    x=(0.38, 0.62), y=(0.38, 0.62), scale=(0.32, 0.52), rotation=(-180, 180), tilt=(0, 6.5),
    tilt_direction=(-180, 180), blooms=[0, 0, 0, 0, 0, 1, 2, 3], openness=(-10, 14), jitter=(0.3, 1.4), wilt=(-1.5, 1),
    damage=[0, 0, 0, 1], light_direction=(-180, 180), light_elevation=(25, 80), exposure=(0.85, 1.25),
    warmth=(-0.1, 0.1), contrast=(0.9, 1.25), shadow=(-0.5, 0.35), green=(0.2, 0.36), background_blur=(0, 0.2),
    blur=(-0.015, 0.005), leaves=[0, 1, 2, 3, 4, 5], occluders=[0, 0, 0, 0, 0, 1, 1, 2], noise=(0, 2.6), jpeg=(55, 96),
)  # fmt: skip


def _draw(rng: np.random.Generator, value):
    """Draw a number from a (low, high) range, or one of several words; anything else stands for itself."""
    if isinstance(value, tuple):
        whole = all(isinstance(bound, int) for bound in value) and value[1] > 1
        return int(rng.integers(value[0], value[1] + 1)) if whole else float(rng.uniform(*value))
    return rng.choice(value.split()).item() if isinstance(value, str) and " " in value else value


def _relative(genus: Species, name: str, label: int, rng: np.random.Generator) -> Species:
    """Return a species of `genus`: most factors shared, four or five moved a visible step."""
    steps = dict(
        petals=max(3, genus.petals + int(rng.choice([-1, 1, 2])) * max(1, genus.petals // 5)),
        width=genus.width * float(rng.choice([0.7, 1.3])), disc=genus.disc * float(rng.choice([0.6, 1.4])),
        curl=genus.curl + float(rng.choice([-25, 25])), cup=genus.cup + float(rng.choice([-18, 18])),
        veins=1.0 - genus.veins, spots=0.7 if genus.spots < 0.3 else 0.0, rim=0.4 if genus.rim < 0.2 else 0.0,
        gradient_along=0.7 if genus.gradient_along < 0.4 else 0.1, stamens=0 if genus.stamens else 10,
        layers=genus.layers + 1, center=_draw(rng, "yellow cream crimson orange"),
        throat=_draw(rng, "white yellow crimson purple"), accent=_draw(rng, " ".join(COLORS)),
    )  # fmt: skip
    chosen = rng.choice(list(steps), size=int(rng.integers(4, 6)), replace=False)
    return replace(genus, name=name, label=label, **{key: steps[key] for key in chosen})


def species_table(count: int = 102, seed: int = 0) -> list[Species]:
    """Return `count` species, in genera of two or three look-alikes; a shorter table is a prefix of a longer one.

    Families take turns, so even a short table is varied. A genus has one or two colors, so relatives are hard to tell
    apart. `pandas.DataFrame(species_table())` shows the factors.
    """
    species, number = [], 0
    while len(species) < count:
        rng = np.random.default_rng([seed, number])
        family = list(FAMILIES)[number % len(FAMILIES)]
        name, ranges = f"{family}-{number // len(FAMILIES) + 1}", {**COMMON, **FAMILIES[family]}
        colors = tuple(rng.permutation(ranges.pop("colors").split())[: 1 + (rng.random() < 0.4)].tolist())
        genus = Species(name, name, seed, 0, colors=colors, **{key: _draw(rng, value) for key, value in ranges.items()})
        for letter in "abc"[: rng.integers(2, 4)]:
            rng = np.random.default_rng([seed, number, ord(letter)])
            species.append(_relative(genus, name + letter, len(species), rng))
        number += 1
    return species[:count]


def draw_nuisances(species: Species, rng: np.random.Generator) -> dict:
    """Draw everything in which pictures of one species differ; lengths in picture widths, angles in degrees."""
    drawn, table = {}, NUISANCES | {"color": list(species.colors)}
    for (name, values), chance in zip(table.items(), rng.random(40).tolist()):
        place = chance * (len(values) if isinstance(values, list) else values[1] - values[0])
        drawn[name] = values[int(place)] if isinstance(values, list) else round(values[0] + place, 4)
    for name in ("tilt", "background_blur", "noise"):  # mostly small
        drawn[name] **= 2
    for name in ("wilt", "shadow", "blur"):  # mostly none
        drawn[name] = max(0.0, drawn[name])
    return drawn | {"jpeg": int(drawn["jpeg"])}
