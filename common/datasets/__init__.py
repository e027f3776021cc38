"""Data sets by name: drawn flowers, published photographs, or a folder of your own pictures."""

import numpy as np

from common.config import Config
from common.datasets.decoding import Picture
from common.datasets.files import printable
from common.datasets.images import ImageSet, cached
from common.datasets.oxford import flowers102
from common.datasets.readers import NAMED, att_faces, caltech101, own_folder, reid
from common.flowers.rendering import VERSION, render
from common.flowers.species import species_table


def load_images(config: Config) -> ImageSet:
    """The pictures of `config.dataset`, decoded at `config.image_size` and cached below `config.cache`.

    "rendered" draws `config.species` x `config.pictures_per_species` flowers. "flowers102" (Oxford 102 Flowers) and
    "caltech101" (Caltech-101) are read from `config.data`, a folder or archive in their layout with any number of
    classes, or else downloaded. "att_faces" (the AT&T faces) and "reid" (persons seen by several cameras) are read
    from `config.data`. "folder:PATH" takes each sub-folder of a folder or archive as a class. Where
    `config.grayscale`, all become gray. Damaged files are named in print, left out, and kept in `ImageSet.files`.
    Raises ValueError or FileNotFoundError, saying what to do, when the data cannot be used.
    """
    readers = dict(rendered=rendered, flowers102=flowers102, caltech101=caltech101, att_faces=att_faces, reid=reid,
                   folder=own_folder)
    kind = config.dataset.partition(":")[0]
    if kind not in readers:
        raise ValueError(f"dataset {config.dataset!r} is unknown: choose {', '.join(readers)}:PATH")
    image_set = readers[kind](config)
    damaged = image_set.files[image_set.files.problem != ""]
    for file in damaged.head(NAMED).itertuples():
        print(f"Damaged and left out: {printable(file.path)} ({file.problem})")
    if len(damaged) > NAMED:
        print(f"... and {len(damaged) - NAMED} more damaged files, {len(damaged)} in all")
    return image_set


def rendered(config: Config) -> ImageSet:
    """The drawn flowers, with their part masks and factors."""
    table, each, size = species_table(config.species, config.seed), config.pictures_per_species, config.image_size

    def draw(species, instance):
        image, parts, factors, file = render(species, instance, size)
        path = f"{species.name}/{instance:05d}.jpg"
        return Picture(image, species.label, path, size, size, bytes=len(file), parts=parts, factors=factors)

    pictures = (draw(species, instance) for species in table for instance in range(each))
    key = {"version": VERSION, "drawing": (config.species, each, size, config.seed)}
    return cached(config, key, [species.name for species in table], pictures, len(table) * each)


def images_to_show(image_set: ImageSet, indices, size: int = 192) -> np.ndarray:
    """Pictures uint8 (n, 3, H, W) for the eye: drawn flowers are drawn again from their factors, `size` pixels wide.

    Other pictures, drawn ones changed since (their bytes are not the drawing's) and those no smaller stay as they are.
    """
    stored = image_set.images[indices]
    if image_set.name != "rendered" or stored.shape[-1] >= size:
        return stored
    rows = image_set.factors.iloc[indices]
    table = {seed: species_table(int(rows["label"].max()) + 1, int(seed)) for seed in rows["seed"].unique()}
    plants = [(table[row.seed][row.label], int(row.instance)) for row in rows.itertuples()]
    small, large = (np.stack([render(*plant, wide).image for plant in plants]) for wide in (stored.shape[-1], size))
    return large if np.array_equal(small, stored) else stored
