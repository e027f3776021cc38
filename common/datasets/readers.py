"""Photographs whose folders or names tell the class: your own, Caltech-101, the AT&T faces, persons as in Market-1501.

Faces and persons are squeezed to the square: cropped, a face would lose its chin, a person the head and the feet.
"""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.config import Config
from common.datasets.decoding import Entry, is_picture
from common.datasets.files import download, files_below, printable, subfolders, unpack
from common.datasets.images import ImageSet, read_files

NAMED = 10  # so many files that are left out are named one by one
CALTECH, BACKGROUND = "101_ObjectCategories", "BACKGROUND_Google"
CALTECH_ORIGIN = "https://data.caltech.edu/records/mzrjq-6wc02/files/"  # link and sum as in torchvision's Caltech101
CALTECH_FILES = {"caltech-101.zip": "3138e1922a9193bfa496528edbbc45d0"}
PERSON = re.compile(r"(-1|\d+)_c(\d+)s\d+_\d+_\d+\.\w+")  # identity, camera, sequence, frame, box
PERSON_EXAMPLE = "0002_c1s1_000451_03.jpg"
NOBODY = ("-1", "0000")  # Market-1501's identities of boxes that hold no person, or a part of one
ROLES = ("Anchor", "Positive", "Negative")


def _class_folders(config: Config, root: Path, classes: dict[Path, str], order=None, squeeze=False) -> ImageSet:
    """Decode `classes`, path below `root` -> name of the class, class by class, by default in the names' order."""
    class_names = sorted(set(classes.values()), key=order)
    entries = [Entry(path.as_posix(), class_names.index(name)) for path, name in classes.items()]
    image_set = read_files(config, root, class_names, sorted(entries, key=lambda entry: entry.label), squeeze)
    for name in class_names:
        if name not in image_set.class_names:
            print(f"Class {name!r} is left out: none of its pictures can be decoded")
    return image_set


def own_folder(config: Config) -> ImageSet:
    """The folder or archive that "folder:PATH" names; each of its sub-folders, two or more, is a class."""
    place = config.dataset.partition(":")[2]
    if not place:
        raise ValueError("The data set 'folder' needs a place: write folder:PATH, or set SIMILARITY_DATA")
    source = Path(place).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: give a folder or archive with a sub-folder per class")
    root = unpack(source, config.cache)
    while len(below := subfolders(root)) == 1 and subfolders(below[0]) and not any(map(is_picture, root.iterdir())):
        root = below[0]  # archives often have one folder at their top
    paths = files_below(root)
    classes = {path: path.parts[0] for path in paths if is_picture(path) and len(path.parts) > 1}
    if classes and all(len(path.parts) > 2 for path in classes):  # train/rose/1.jpg: the class would be "train"
        groups = ", ".join(sorted(set(classes.values()))[:NAMED])
        raise ValueError(f"{source} holds folders of folders ({groups}), not a folder for each class: give the folder "
                         f"whose own sub-folders are the classes, such as {source / min(classes).parts[0]}")
    ignored = [str(path) for path in paths if path not in classes]
    if ignored:
        named = ignored[:NAMED] + ["..."] * (len(ignored) > NAMED)
        print(f"Ignored {len(ignored)} files that are not pictures in a class folder: {printable(', '.join(named))}")
    for folder in subfolders(root):
        if folder.name not in classes.values():
            print(f"Class {folder.name!r} is left out: it holds no pictures")
    image_set = _class_folders(config, root, classes)
    for name, count in zip(image_set.class_names, np.bincount(image_set.labels)):
        if count == 1:
            print(f"Warning: class {name!r} has one picture, which cannot form a same pair: add pictures")
    return image_set


def caltech101(config: Config) -> ImageSet:
    """Photographs of 101 kinds of things (Fei-Fei, Fergus and Perona 2004), without an official split.

    They are read from `config.data`, a folder or archive in the layout of Caltech's download with any number of
    classes, or from that download. Raises FileNotFoundError where there are no class folders.
    """
    source = config.data or download("Caltech-101", 137, CALTECH_ORIGIN, CALTECH_FILES, config.cache / "caltech101")
    root = _categories(source, config.cache)
    found = {path: path.parts[0] for path in files_below(root) if is_picture(path) and len(path.parts) == 2}
    classes = {path: name for path, name in found.items() if name != BACKGROUND}
    if len(classes) < len(found):
        print(f"Left out: {len(found) - len(classes)} pictures of {BACKGROUND}, which have nothing in common")
    return _class_folders(config, root, classes)


def _categories(source: Path, cache: Path) -> Path:
    """The folder of the class folders, however `source` is packed: the download is an archive in an archive."""
    top = unpack(source, cache)
    places = [top, *subfolders(top)]
    for folder in (top, *(place / CALTECH for place in places)):
        if folder.name == CALTECH and folder.is_dir():
            return folder
    for archive in (place / name for place in places for name in (f"{CALTECH}.tar.gz", *CALTECH_FILES)):
        if archive.is_file():
            return _categories(archive, cache)
    raise FileNotFoundError(f"{source} has no folder {CALTECH}: set SIMILARITY_DATA to {', '.join(CALTECH_FILES)}, or "
                            "to a folder or archive that holds that folder")


def att_faces(config: Config) -> ImageSet:
    """The AT&T (ORL) faces of `config.data` (Samaria and Harter 1994): PGM files in folders s1, s2, ..., one a person.

    Raises FileNotFoundError without `config.data`.
    """
    root = _given(config, "The AT&T faces", 'att_faces.zip ("The Database of Faces", AT&T Laboratories Cambridge)')
    # The tutorials' folders training/ and testing/ are not followed: three persons are too few to test on.
    paths = [path for path in files_below(root) if is_picture(path) and re.fullmatch(r"s\d+", path.parent.name)]
    classes = {path: path.parent.name for path in paths}
    image_set = _class_folders(config, root, classes, order=lambda name: (int(name[1:]), name), squeeze=True)
    return replace(image_set, disjoint=True)


def reid(config: Config) -> ImageSet:
    """Crops of persons in `config.data`, named as in Market-1501 (Zheng et al. 2015): train/0002_c1s1_000451_03.jpg.

    The name tells the identity, which is the label, and the camera. Triplets are those of train.csv, beside train/,
    where it is there. Raises FileNotFoundError or ValueError where a picture's name or a row cannot be used.
    """
    top = _given(config, "The persons", f"a folder or archive with crops such as train/{PERSON_EXAMPLE}, and train.csv")
    root = next((place for place in (top, *subfolders(top)) if (place / "train").is_dir()), None)
    if root is None:
        raise FileNotFoundError(f"{config.data} has no folder train: put the crops, such as {PERSON_EXAMPLE}, into one")
    persons, cameras = {}, {}  # of each file
    for path in filter(is_picture, files_below(root / "train")):
        match = PERSON.fullmatch(path.as_posix())
        if match is None:
            raise ValueError(f"{root / 'train' / path} does not say who it shows and which camera saw it: name it as "
                             f"{PERSON_EXAMPLE} (identity, camera and sequence, frame, box), or move it elsewhere")
        persons[path.name], cameras[path.name] = match[1], int(match[2])
    classes = {Path("train", name): person for name, person in persons.items() if person not in NOBODY}
    if left_out := len(persons) - len(classes):
        print(f"Left out: {left_out} pictures of the identities {' and '.join(NOBODY)}, which are nobody")
    image_set = _class_folders(config, root, classes, squeeze=True)
    names, table = [Path(path).name for path in image_set.paths], root / "train.csv"
    return replace(image_set, disjoint=True, cameras=np.array([cameras[name] for name in names], np.int64),
                   triplets=_triplets(table, persons, names) if table.is_file() else None)


def _given(config: Config, title: str, wanted: str) -> Path:
    """The folder that `config.data` stands for."""
    if not config.data:
        raise FileNotFoundError(f"{title} have no public link with a checksum: fetch {wanted}, and set SIMILARITY_DATA "
                                "to where it is, packed or not")
    return unpack(config.data, config.cache)


def _triplets(table: Path, persons: dict[str, str], names: list[str]) -> np.ndarray:
    """The rows of `table` as indices into `names`: int64 (T, 3) of anchor, positive, negative.

    A row with a picture that is not in `names`, being damaged or nobody's, is dropped in print. Raises ValueError, with
    the row, for one that is no triplet of `persons` (file -> identity).
    """
    index, triplets, dropped = {name: number for number, name in enumerate(names)}, [], 0
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if sorted(reader.fieldnames or ()) != sorted(ROLES):
            raise ValueError(f"{table} has the header {reader.fieldnames}: write {','.join(ROLES)} into its first line")
        for row in reader:
            where, files = f"{table}, row {reader.line_num}", [row[role] for role in ROLES]
            for role, name in zip(ROLES, files):
                if name not in persons:
                    raise ValueError(f"{where}: {role} {name!r} is not in {table.parent / 'train'}: add the picture "
                                     "or remove the row")
            anchor, positive, negative = map(persons.get, files)
            if anchor != positive or anchor == negative:
                raise ValueError(f"{where}: {files[0]} with Positive {files[1]} and Negative {files[2]} is no triplet: "
                                 "the positive must show the anchor's person, the negative another; correct the row")
            if index.keys() >= set(files):
                triplets.append([index[name] for name in files])
            else:
                dropped += 1
    if dropped:
        print(f"Left out: {dropped} of {dropped + len(triplets)} triplets, which need a picture that is left out")
    return np.array(triplets, dtype=np.int64).reshape(-1, 3)
