"""Data sets by name: drawn flowers, published photographs, or a folder of your own pictures."""

from pathlib import Path

import numpy as np

from common.config import Config
from common.datasets.caltech import caltech101
from common.datasets.files import files_below, opened, subfolders
from common.datasets.images import ImageSet, cached
from common.datasets.oxford import flowers102
from common.datasets.people import att_faces, reid
from common.datasets.picture_files import at_least_two, is_picture, read_files
from common.flowers.rendering import VERSION as RENDERED_VERSION
from common.flowers.rendering import rendered_pictures
from common.flowers.species import species_table

NAMED = 10  # so many damaged files are named one by one


def load_images(config: Config) -> ImageSet:
    """The pictures of `config.dataset`, decoded at `config.image_size` and cached below `config.cache`.

    "rendered" draws `config.species` x `config.pictures_per_species` flowers. "flowers102" (Oxford 102 Flowers) and
    "caltech101" (Caltech-101) are read from `config.data`, a folder or archive in their layout with any number of
    classes, or else downloaded. "att_faces" (the AT&T faces) and "reid" (persons seen by several cameras) are read
    from `config.data`. "folder:PATH" takes each sub-folder of a folder or archive as a class. Where
    `config.grayscale`, all become gray. Damaged files are named in print, left out, and kept in `ImageSet.files`.
    Raises ValueError or FileNotFoundError, saying what to do, when the data cannot be used.
    """
    readers = {"rendered": _rendered, "flowers102": flowers102, "caltech101": caltech101, "att_faces": att_faces,
               "reid": reid, "folder": _folder}
    kind = config.dataset.partition(":")[0]
    if kind not in readers:
        raise ValueError(f"dataset {config.dataset!r} is unknown: choose {', '.join(readers)}:PATH")
    image_set = readers[kind](config)
    damaged = image_set.files[image_set.files.problem != ""]
    for file in damaged.head(NAMED).itertuples():
        print(f"Damaged and left out: {file.path} ({file.problem})")
    if len(damaged) > NAMED:
        print(f"... and {len(damaged) - NAMED} more damaged files, {len(damaged)} in all")
    return image_set


def _rendered(config: Config) -> ImageSet:
    drawing = (config.species, config.pictures_per_species, config.image_size, config.seed)
    class_names = [species.name for species in species_table(config.species, config.seed)]
    return cached(config.cache, "rendered", {"version": RENDERED_VERSION, "drawing": drawing}, class_names,
                  lambda: rendered_pictures(*drawing), config.species * config.pictures_per_species, config.grayscale)


def _folder(config: Config) -> ImageSet:
    path = config.dataset.partition(":")[2]
    if not path:
        raise ValueError("The data set 'folder' needs a place: write folder:PATH, or set SIMILARITY_DATA")
    source = Path(path).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: give a folder or archive with a sub-folder per class")
    root = _descend(opened(source, config.cache))
    paths, ignored = [], []
    for path in files_below(root):
        (paths if is_picture(path) and len(path.parts) > 1 else ignored).append(path)
    if ignored:
        more = ", ..." if len(ignored) > NAMED else ""
        print(f"Ignored {len(ignored)} files that are not pictures in a class folder: "
              f"{', '.join(map(str, ignored[:NAMED]))}{more}")
    class_names = sorted({path.parts[0] for path in paths})
    at_least_two(class_names, root)
    entries = [(path.as_posix(), class_names.index(path.parts[0]), None) for path in paths]
    image_set = read_files(config, root, source, class_names, entries)
    for name in sorted(set(class_names) - set(image_set.class_names)):
        print(f"Class {name!r} is left out: none of its pictures can be decoded")
    at_least_two(image_set.class_names, root)
    for name, count in zip(image_set.class_names, np.bincount(image_set.labels)):
        if count == 1:
            print(f"Warning: class {name!r} has one picture, which cannot form a same pair: add pictures")
    return image_set


def _descend(folder: Path) -> Path:
    """Step into a lone sub-folder that holds the class folders, as archives often have one at their top."""
    below = subfolders(folder)
    if len(below) == 1 and subfolders(below[0]) and not any(map(is_picture, folder.iterdir())):
        return _descend(below[0])
    return folder
