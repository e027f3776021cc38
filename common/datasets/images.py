"""Sets of labeled pictures, drawn or photographed: each one `ImageSet`, decoded once to a cache on disk."""

import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from common.config import Config
from common.datasets.decoding import Entry, Picture, in_gray, read_pictures
from common.datasets.files import digest, printable, sweep, whole

CACHE_VERSION = 2  # raise it whenever the same file would give other bytes: caches made before are then left alone
COLUMNS = ["path", "label", "width", "height", "mode", "bytes", "problem"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """N labeled pictures of one size; the arrays are memory-mapped and read-only."""

    name: str
    images: np.ndarray  # uint8, N x 3 x H x W
    labels: np.ndarray  # int64, N, values 0 .. len(class_names) - 1, every one used
    class_names: list[str]
    paths: list[str]
    hashes: np.ndarray  # N hexadecimal strings, equal when the decoded pictures are
    files: pd.DataFrame  # COLUMNS, a row per file met, damaged ones included
    fingerprint: str  # 16 hexadecimal digits over size, labels, class names and hashes
    parts: np.ndarray | None = None  # uint8, N x H x W
    factors: pd.DataFrame | None = None  # N rows
    official: dict[str, np.ndarray] = field(default_factory=dict)  # split name -> int64 indices
    disjoint: bool = False  # whether no class may be in both train and test, as with faces and persons
    cameras: np.ndarray | None = None  # int64, N, the camera that took each picture
    triplets: np.ndarray | None = None  # int64, T x 3: indices of anchor, positive, negative

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.images.shape[2:]))
        return f"ImageSet({self.name}: {len(self)} pictures, {size} pixels, {len(self.class_names)} classes)"


def read_files(config: Config, root: Path, class_names: list[str], entries: list[Entry], squeeze=False) -> ImageSet:
    """Decode files below `root`, or open their cache, which notices every changed file; `squeeze` as `read_picture`."""
    files = [root / entry.path for entry in entries] + [entry.segmentation for entry in entries if entry.segmentation]
    framing = dict(size=config.image_size, squeeze=squeeze)
    key = {"root": str(root.resolve()), **framing, "entries": [entry[:3] for entry in entries],
           "files": [(stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, files)]}
    return cached(config, key, class_names, read_pictures(root, entries, **framing), len(entries))


def cached(config: Config, key: dict, class_names: list[str], pictures: Iterable[Picture], total: int) -> ImageSet:
    """Decode once: open the cache of the data set and `key`, or fill it from `pictures` and open it.

    `key` (JSON types) must hold all that changes the bytes. `pictures`, best a generator, are of one size and not
    gathered in memory; their labels index `class_names`. Damaged ones stay out of the arrays but in `files`; a class
    left without a picture is dropped and the labels close up. Raises ValueError for fewer than two classes, and OSError
    for a file that cannot be read now: a cache without it would stay too small after the fault has passed.
    """
    name = config.dataset_name
    identity = digest([CACHE_VERSION, name, {**key, "grayscale": config.grayscale}, class_names])
    folder = config.cache / (re.sub(r"[^\w.-]+", "_", name) + "-" + identity)
    sweep(config.cache)
    if folder.exists():
        try:
            return _open(folder, name)
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"The cache {folder} is damaged ({error}): it is deleted, and the pictures are decoded again")
            shutil.rmtree(folder)
    with whole(folder) as building:
        pictures = tqdm(pictures, f"decoding {name}", total, leave=False, unit="picture")
        _write(building, name, class_names, pictures, config.grayscale)
    return _open(folder, name)


def _write(folder: Path, name: str, class_names: list[str], pictures: Iterable[Picture], grayscale: bool) -> None:
    """Stream pictures into the new `folder`: raw arrays, tables of files and factors, and last `meta.json`."""
    folder.mkdir()  # with the rights of every new folder, so that a cache can be shared
    rows, hashes, splits, factors, shape, masks = [], [], [], [], None, 0
    with open(folder / "images.bin", "wb") as images, open(folder / "parts.bin", "wb") as parts:
        for picture in pictures:
            if picture.passing:
                raise OSError(f"{printable(picture.path)} cannot be read now ({picture.problem}): nothing is kept; "
                              "make it readable or take it away, and run again")
            rows.append([getattr(picture, column) for column in COLUMNS])
            if picture.image is None:
                continue
            shape = shape or picture.image.shape
            if picture.image.shape != shape or picture.image.dtype != np.uint8:
                raise ValueError(f"{picture.path}: {picture.image.dtype} {picture.image.shape} instead of "
                                 f"uint8 {shape}: all pictures of a set must have one size")
            data = (in_gray(picture.image) if grayscale else picture.image).tobytes()
            images.write(data)
            hashes.append(hashlib.sha256(data).hexdigest()[:16])
            splits.append(picture.split)
            if picture.factors:
                factors.append(picture.factors)
            if picture.parts is not None:
                parts.write(picture.parts.astype(np.uint8).tobytes())
                masks += 1
    files = pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # pyarrow, where it is there, takes UTF-8 only
    used = sorted(set(files.label[files.problem == ""]))
    if len(used) < 2:
        problems = [f"{row.path}: {row.problem}" for row in files[files.problem != ""].head(3).itertuples()]
        raise ValueError("; ".join([f"{name} has {len(used)} classes with pictures that can be read, but two or more "
                                    "are needed: put the pictures of each class into a folder of its own", *problems]))
    for count, what in ((masks, "a part mask"), (len(factors), "factors")):
        if count not in (0, len(hashes)):
            raise ValueError(f"{name}: {count} of {len(hashes)} pictures have {what}; all or none must")
    files["label"] = files.label.map({old: new for new, old in enumerate(used)}).fillna(-1).astype(int)
    files.to_csv(folder / "files.csv", index=False, errors="surrogateescape")
    pd.DataFrame(factors).to_csv(folder / "factors.csv", index=False)
    meta = {"shape": [len(hashes), *shape], "class_names": [class_names[label] for label in used],
            "hashes": hashes, "splits": splits, "masks": masks, "factors": bool(factors),
            "sums": {path.name: _sum(path) for path in folder.iterdir()}}
    (folder / "meta.json").write_text(json.dumps({**meta, "sum": digest(meta)}))


def _sum(path: Path) -> int:
    """A checksum of a file's bytes; reading a gigabyte takes a second."""
    total = 0
    with open(path, "rb") as file:
        while block := file.read(2**18):
            total = zlib.crc32(block, total)
    return total


def _open(folder: Path, name: str) -> ImageSet:
    """Open a finished cache folder; a damaged one raises what its damaged part happens to raise."""
    meta = json.loads((folder / "meta.json").read_text())
    total, sums = meta.pop("sum"), meta["sums"]
    damaged = [file for file in sums if _sum(folder / file) != sums[file]]
    if damaged or digest(meta) != total:
        raise ValueError(f"{(damaged or ['meta.json'])[0]} does not hold the bytes it was written with")
    shape, splits = meta["shape"], np.array(meta["splits"], dtype=object)
    files = pd.read_csv(folder / "files.csv", na_filter=False, encoding_errors="surrogateescape",
                        dtype={column: object for column in ("path", "mode", "problem")})
    good = files[files.problem == ""]
    labels = good.label.to_numpy(np.int64)
    memory_map = partial(np.memmap, dtype=np.uint8, mode="r")
    return ImageSet(
        name, memory_map(folder / "images.bin", shape=tuple(shape)), labels, meta["class_names"], list(good.path),
        np.array(meta["hashes"]), files,
        fingerprint=digest([shape, labels.tolist(), meta["class_names"], meta["hashes"]]),
        parts=memory_map(folder / "parts.bin", shape=(shape[0], *shape[2:])) if meta["masks"] else None,
        factors=pd.read_csv(folder / "factors.csv") if meta["factors"] else None,
        official={split: np.flatnonzero(splits == split) for split in SPLITS if (splits == split).any()})
