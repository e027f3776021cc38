"""Rendered flowers: procedural photographs whose part masks, factors and alternatives are known exactly.

A picture is a background and a list of flat textured pieces (petals, leaves, stamens, discs) that stand in space, are
seen in perspective and painted from far to near; the same painting writes the part masks. A picture depends only on
(VERSION, species, instance seed, size). Like FunnyBirds (Hesse et al. 2023), every part can be taken away.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from common.datasets.files import whole
from common.datasets.images import Picture
from common.flowers.painting import CENTER, PETAL, SCALE, Scene, generator, rgb, smooth
from common.flowers.plants import MOST, Heads, add_flowers, add_foliage, add_leaves, heads_of, occlude, palette_of
from common.flowers.species import BACKGROUNDS, COLORS, Species, class_sizes, draw_nuisances, species_table

VERSION = 7  # part of every picture's seed and of the cache key: raise it whenever a byte changes


def _noise(values: np.ndarray, pixels: int) -> np.ndarray:
    """Return smooth noise through random `values` float32 (n, n): float32 (pixels, pixels)."""
    return cv2.resize(values, (pixels, pixels), interpolation=cv2.INTER_CUBIC)


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
    cells = 40 if kind == "soil" else 9
    coarse, fine = rng.random((4, 4), np.float32), rng.random((cells, cells), np.float32)
    mix = 0.65 * _noise(coarse, pixels) + 0.35 * _noise(fine, pixels)
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


def _content(species, nuisances, size, seed, without=(), recolor=None, background=None):
    """Paint what stands before the camera: return RGB uint8 (size, size, 3) and ids uint16 (size, size)."""

    def stream(number):  # of random numbers, one for each concept, so that changing one moves no other
        return generator(number, *seed)

    turn, rise = np.radians([nuisances["light_direction"], nuisances["light_elevation"]])
    light = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
    palette = palette_of(species, nuisances, recolor)
    kind = background or nuisances["background"]
    behind = _backdrop(kind, nuisances["green"], size, stream(1))
    scene = Scene(cv2.resize(cv2.cvtColor(behind, cv2.COLOR_RGB2RGBA), (SCALE * size, SCALE * size)), light)
    if kind == "foliage":
        add_foliage(scene, palette, stream(8))
    scene.blur(nuisances["background_blur"])
    stems, heads = heads_of(species, nuisances, stream(2))
    if "leaves" not in without:
        add_leaves(scene, species, nuisances, palette, stems, heads, stream(3))
    each = len(heads.radius) // len(stems)
    main, others = Heads(*(part[:each] for part in heads)), Heads(*(part[each:] for part in heads))
    if len(stems) > 1:
        add_flowers(scene, species, nuisances, palette, others, without, stream(4))
    scene.blur(0.25 * nuisances["background_blur"])  # all but the main flower is a little out of focus
    add_flowers(scene, species, nuisances, palette, main, without, stream(5))
    scene.paint()
    if "leaves" not in without:
        occlude(scene, nuisances, palette, stream(6))
    image = cv2.resize(scene.canvas, (size, size), interpolation=cv2.INTER_AREA)
    if nuisances["blur"]:
        image = cv2.GaussianBlur(image, (0, 0), 0.25 + nuisances["blur"] * size)
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), scene.ids


def _photograph(content: np.ndarray, nuisances: dict, rng) -> tuple[np.ndarray, bytes]:
    """Shade, expose, add sensor noise and compress: return RGB uint8 (size, size, 3) and the JPEG file's bytes."""
    size = len(content)
    x, y = rng.integers(0, size, 2)
    gain = nuisances["exposure"] * np.array([1 + nuisances["warmth"], 1, 1 - nuisances["warmth"]])
    tone = np.arange(256)[:, None] / 255 * gain
    tone *= 1 + nuisances["contrast"] * 0.45 * tone * (1 - tone)  # a film's curve: brighter middle tones
    image = cv2.LUT(content, (255 * tone).astype(np.float32)[None])
    if nuisances["shadow"]:  # of a tree, say: it falls on everything
        dapple = smooth(0.4, 0.55, _noise(rng.random((4, 4), np.float32), size))
        image *= cv2.merge([1 - np.float32(1.2 * nuisances["shadow"]) * dapple] * 3)
    image += np.float32(nuisances["noise"]) * _grain(size)[y : y + size, x : x + size]
    image = cv2.cvtColor(image.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, nuisances["jpeg"]])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), data.tobytes()


def _render(species, instance_seed, size, without=(), recolor=None, petal_count=None, background=None):
    """Return the picture (size, size, 3), the ids (size, size), the nuisances and the JPEG file."""
    seed = [instance_seed, species.label, species.seed, VERSION]
    nuisances = draw_nuisances(species, generator(0, *seed))
    content, ids = _content(species, nuisances, size, seed)
    image, file = _photograph(content, nuisances, generator(7, *seed))
    if not (without or recolor or petal_count or background):
        return image, ids, nuisances, file
    changed = replace(species, petals=petal_count or species.petals)
    other, after = _content(changed, nuisances, size, seed, without, recolor, background)
    altered, file = _photograph(other, nuisances, generator(7, *seed))
    # All other pixels are the original's: a JPEG block's error would leak out of what changed, and a sliver of a part
    # too thin for the mask is not counted to the part.
    named = [dict(leaves=1, petals=2, center=3)[part] for part in without]
    named += [2] * bool(recolor or petal_count) + [0] * bool(background)
    touched = np.isin(_parts(ids), named) | np.isin(_parts(after), named)
    blur = nuisances["blur"] + nuisances["background_blur"] * (0.55 if nuisances["occluders"] else 0.25) + 0.005
    reach = 2 * int(np.ceil(3 * blur * size) + 1) + 1
    touched = cv2.dilate(touched.astype(np.uint8), np.ones((reach, reach), np.uint8))
    keep = (touched == 0) | (other == content).all(2)
    return np.where(keep[..., None], image, altered), after, nuisances, file


def _parts(ids: np.ndarray) -> np.ndarray:
    return np.where(ids >= PETAL, 2, ids).astype(np.uint8)


def render(species: Species, instance_seed: int, size: int = 96, without=(), recolor: str | None = None,
           petal_count: int | None = None, background: str | None = None) -> Picture:
    """Render one picture of `species`; the same arguments give the same bytes, always.

    The interventions change only what they name, every other pixel stays as it is: `without` leaves out "petals",
    "center" or "leaves" (or several of them), `recolor` gives the petals' body a color named in COLORS,
    `petal_count` changes the petals in a layer (1 to 64), `background` is one of BACKGROUNDS. Any other factor is
    moved with `dataclasses.replace(species, factor=value)`. Shadows of trees, noise and light stay.

    Returns a Picture with image uint8 3 x size x size, part mask `parts` uint8 size x size (values index PARTS) and
    `factors`, the species' factors and the nuisances of this picture. `size` is in pixels, even, from 16 on.
    Raises ValueError for a value that does not exist.
    """
    without = (without,) if isinstance(without, str) else tuple(without)
    _check("without", without, ("petals", "center", "leaves"))
    _check("recolor", [recolor] if recolor else [], COLORS)
    _check("background", [background] if background else [], BACKGROUNDS)
    _check("petal_count", [petal_count] if petal_count is not None else [], range(1, MOST + 1))
    image, ids, nuisances, file = _render(species, instance_seed, size, without, recolor, petal_count, background)
    factors = {**species.factors(), "instance": instance_seed, **nuisances}
    image, path = np.ascontiguousarray(image.transpose(2, 0, 1)), f"{species.name}/{instance_seed:05d}.jpg"
    return Picture(image, species.label, path, size, size, "RGB", len(file), parts=_parts(ids), factors=factors)


def petal_ids(species: Species, instance_seed: int, size: int = 96) -> np.ndarray:
    """Return uint16 size x size: 0 off the petals, else a number of its own for each petal of the picture."""
    ids = _render(species, instance_seed, size)[1]
    return np.where(ids >= PETAL, ids - PETAL + 1, 0).astype(np.uint16)


def _check(name, values, known):
    for value in values:
        if value not in known:
            raise ValueError(f"{name}={value!r} does not exist: choose from {list(known)}")


def rendered_pictures(species: int = 24, per_species: int | None = 40, size: int = 64,
                      seed: int = 0) -> Iterator[Picture]:
    """Yield a data set's pictures, species after species; per_species None: class sizes as Oxford Flowers-102 has."""
    for one, instance in _instances(species, per_species, seed):
        yield render(one, instance, size)


def _instances(species, per_species, seed) -> list[tuple[Species, int]]:
    sizes = class_sizes(species, seed) if per_species is None else [per_species] * species
    return [
        (one, instance)
        for one, count in zip(species_table(species, seed), sizes)
        for instance in range(count)
    ]


def write_oxford(
    out: Path, species: int = 102, per_species: int | None = None, size: int = 256, seed: int = 0
) -> None:
    """Write the layout of Oxford Flowers-102 to the new folder `out`.

    jpg/image_00001.jpg and so on; imagelabels.mat (`labels`, 1-based); setid.mat (`trnid`, `valid`, `tstid`: 10, 10
    and the rest of each species); segmim/segmim_00001.jpg, where all but the flower is blue, as 102segmentations.tgz
    has it.
    Raises FileExistsError if `out` exists, ValueError if a species has fewer than 21 pictures.
    """
    from scipy.io import savemat  # needed here only
    if Path(out).exists():
        raise FileExistsError(f"{out} exists already: remove it or name a new folder")
    if per_species is not None and per_species < 21:
        raise ValueError(
            f"per_species={per_species} leaves no test pictures: 10 train, 10 validate, so ask for 21 or more"
        )
    instances = _instances(species, per_species, seed)
    with whole(Path(out)) as building:
        for name in ("jpg", "segmim"):
            (building / name).mkdir()
        for number, (one, instance) in enumerate(tqdm(instances, "rendered", unit="picture"), 1):
            image, ids, _, file = _render(one, instance, size)
            (building / f"jpg/image_{number:05d}.jpg").write_bytes(file)
            flower = np.where((ids >= CENTER)[..., None], image, np.uint8([0, 0, 254]))
            cv2.imwrite(str(building / f"segmim/segmim_{number:05d}.jpg"), flower[..., ::-1])
        instance = np.array([instance for _, instance in instances])
        ids = np.arange(1, len(instance) + 1, dtype=np.uint16)
        savemat(building / "imagelabels.mat", dict(labels=np.uint8([[one.label + 1 for one, _ in instances]])))
        split = dict(trnid=instance < 10, valid=(instance >= 10) & (instance < 20), tstid=instance >= 20)
        savemat(building / "setid.mat", {name: ids[chosen] for name, chosen in split.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Write rendered flowers in the layout of Oxford Flowers-102."
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--species", type=int, default=102)
    parser.add_argument(
        "--per-species", type=int, help="pictures of each (default: 40 to 258, as the original)"
    )
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    write_oxford(**vars(parser.parse_args()))
