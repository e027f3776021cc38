"""Faces and persons: sets in which nobody may be in both train and test.

Their pictures are squeezed to the square: cropped, a face would lose its chin, a person the head and the feet.
"""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.config import Config
from common.datasets.files import files_below, opened, subfolders
from common.datasets.images import ImageSet
from common.datasets.picture_files import at_least_two, is_picture, read_files

PERSON = re.compile(r"(-1|\d+)_c(\d+)s\d+_\d+_\d+\.\w+")  # identity, camera, sequence, frame, box
EXAMPLE = "0002_c1s1_000451_03.jpg"
JUNK = ("-1", "0000")  # Market-1501's identities of boxes that hold no person, or a part of one
ROLES = ("Anchor", "Negative", "Positive")


def att_faces(config: Config) -> ImageSet:
    """The AT&T (ORL) faces of `config.data` (Samaria and Harter 1994): PGM files in folders s1, s2, ..., one a person.

    Raises FileNotFoundError without `config.data`, ValueError where fewer than two such folders hold pictures.
    """
    source = _given(config, "The AT&T faces", 'att_faces.zip ("The Database of Faces", AT&T Laboratories Cambridge)')
    root = opened(source, config.cache)
    # The tutorials' folders training/ and testing/ are not followed: three persons are too few to test on.
    paths = [path for path in files_below(root) if is_picture(path) and re.fullmatch(r"s\d+", path.parent.name)]
    paths.sort(key=lambda path: int(path.parent.name[1:]))
    class_names = list(dict.fromkeys(path.parent.name for path in paths))
    at_least_two(class_names, root)
    entries = [(path.as_posix(), class_names.index(path.parent.name), None) for path in paths]
    return replace(read_files(config, root, source, class_names, entries, squeeze=True), disjoint=True)


def reid(config: Config) -> ImageSet:
    """Crops of persons in `config.data`, named as in Market-1501 (Zheng et al. 2015): train/0002_c1s1_000451_03.jpg.

    The name tells the identity, which is the label, and the camera. Triplets are those of train.csv, beside train/,
    where it is there. Raises FileNotFoundError or ValueError where a picture's name or a row cannot be used.
    """
    source = _given(config, "The persons", f"a folder or archive with crops such as train/{EXAMPLE}, beside train.csv")
    top = opened(source, config.cache)
    root = next((place for place in (top, *subfolders(top)) if (place / "train").is_dir()), None)
    if root is None:
        raise FileNotFoundError(f"{source} has no folder train: put the crops, such as {EXAMPLE}, into one")
    persons = _persons(root / "train")
    kept = {name: identity for name, (identity, _) in persons.items() if identity not in JUNK}
    if len(kept) < len(persons):
        print(f"Left out: {len(persons) - len(kept)} pictures of the identities {' and '.join(JUNK)}, which are nobody")
    class_names = sorted(set(kept.values()))
    at_least_two(class_names, root / "train")
    entries = [(f"train/{name}", class_names.index(identity), None) for name, identity in kept.items()]
    image_set = read_files(config, root, source, class_names, entries, squeeze=True)
    names = [Path(path).name for path in image_set.paths]
    cameras = np.array([persons[name][1] for name in names], dtype=np.int64)
    table = root / "train.csv"
    triplets = _indices(_rows(table, persons), names) if table.is_file() else None
    return replace(image_set, disjoint=True, cameras=cameras, triplets=triplets)


def _given(config: Config, title: str, wanted: str) -> Path:
    if not config.data:
        raise FileNotFoundError(f"{title} have no public link with a checksum: fetch {wanted}, and set SIMILARITY_DATA "
                                "to where it is, packed or not")
    return config.data


def _persons(folder: Path) -> dict[str, tuple[str, int]]:
    """File name -> identity, camera; raises ValueError for a name that does not say them."""
    persons = {}
    for path in filter(is_picture, files_below(folder)):
        match = PERSON.fullmatch(path.as_posix())
        if match is None:
            raise ValueError(f"{folder / path} does not say who it shows and which camera saw it: name it as {EXAMPLE} "
                             "(identity, camera and sequence, frame, box), or move it elsewhere")
        persons[path.name] = (match[1], int(match[2]))
    return persons


def _rows(table: Path, persons: dict[str, tuple[str, int]]) -> list[tuple[str, str, str]]:
    """Anchor, positive, negative of each row; raises ValueError, with the row, for one that is no triplet."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if sorted(reader.fieldnames or ()) != list(ROLES):
            raise ValueError(f"{table} has the header {reader.fieldnames}: write {','.join(ROLES)} into its first line")
        rows = []
        for row in reader:
            missing = [role for role in ROLES if row[role] not in persons]
            if missing:
                raise ValueError(f"{table}, row {reader.line_num}: {missing[0]} {row[missing[0]]!r} is not in "
                                 f"{table.parent / 'train'}: add the picture or remove the row")
            anchor, negative, positive = (row[role] for role in ROLES)
            who = {role: persons[row[role]][0] for role in ROLES}
            if who["Anchor"] != who["Positive"] or who["Anchor"] == who["Negative"]:
                raise ValueError(f"{table}, row {reader.line_num}: {anchor} with Positive {positive} and Negative "
                                 f"{negative} is no triplet: the positive must show the anchor's person, the negative "
                                 "another; correct or remove the row")
            rows.append((anchor, positive, negative))
    return rows


def _indices(rows: list[tuple[str, str, str]], names: list[str]) -> np.ndarray:
    """int64 (T, 3); rows with a picture that is not in `names`, being damaged or nobody's, are dropped in print."""
    index = {name: number for number, name in enumerate(names)}
    triplets = [[index[name] for name in row] for row in rows if all(name in index for name in row)]
    if len(triplets) < len(rows):
        print(f"Left out: {len(rows) - len(triplets)} of {len(rows)} triplets, which need a picture that is left out")
    return np.array(triplets, dtype=np.int64).reshape(-1, 3)
