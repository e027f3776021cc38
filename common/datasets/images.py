"""Pictures as arrays: sets of labeled pictures, decoded once to a cache on disk, and their duplicates.

Every data set, drawn or photographed, becomes one `ImageSet`: a memory-mapped uint8 array with its labels.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from common.datasets.decoding import PARTS, VERSION, DamagedPicture, Picture, in_gray, read_picture
from common.datasets.files import digest, remove, whole

COLUMNS = ["path", "label", "width", "height", "mode", "bytes", "problem"]
__all__ = ["PARTS", "DamagedPicture", "ImageSet", "Picture", "cached", "read_picture"]
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


def cached(cache: Path, name: str, key: dict, class_names: list[str],
           pictures: Callable[[], Iterable[Picture]], total: int | None = None, grayscale: bool = False) -> ImageSet:
    """Decode once: open the cache of `name` and `key`, or fill it from `pictures()` and open it.

    `key` (JSON types) must hold all that changes the bytes. `pictures` yields `Picture`s of one size, whose
    labels index `class_names`; `total`, their number, only feeds the progress bar; `grayscale` takes the color
    out of them. Damaged ones stay out of the arrays but in `files`; a class left without a picture is dropped
    and the labels close up. Memory use does not grow with the pictures, and an interrupted build leaves nothing
    behind. Raises ValueError when none is good.
    """
    identity = digest([VERSION, name, {**key, "grayscale": True} if grayscale else key, class_names])
    folder = Path(cache) / (re.sub(r"[^\w.-]+", "_", name) + "-" + identity)
    if folder.exists():
        try:
            return _open(folder, name)
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"The cache {folder} is damaged ({error}); decoding the pictures again.")
            remove(folder)
    progress = tqdm(total=total, desc=f"decoding {name}", unit="picture", leave=False)
    with progress, whole(folder) as building:
        _write(building, name, class_names, map(in_gray, pictures()) if grayscale else pictures(), progress)
    return _open(folder, name)


def _write(folder: Path, name: str, class_names: list[str], pictures: Iterable[Picture], progress) -> None:
    """Stream pictures into `folder`: raw arrays, a table of files, and `meta.json`, which is written last."""
    rows, hashes, splits, factors, shape, masks, described = [], [], [], None, None, 0, 0
    with (
        open(folder / "images.bin", "wb") as images,
        open(folder / "parts.bin", "wb") as parts,
        open(folder / "factors.csv", "w", newline="", encoding="utf-8") as table,
    ):
        for picture in pictures:
            progress.update()
            rows.append([getattr(picture, column) for column in COLUMNS])
            if picture.image is None:
                continue
            shape = shape or picture.image.shape
            if picture.image.shape != shape or picture.image.dtype != np.uint8:
                raise ValueError(f"{picture.path}: {picture.image.dtype} {picture.image.shape} instead of "
                                 f"uint8 {shape}: all pictures of a set must have one size")
            data = np.ascontiguousarray(picture.image).tobytes()
            images.write(data)
            hashes.append(hashlib.sha256(data).hexdigest()[:16])
            splits.append(picture.split)
            if picture.factors:  # written as they come: forty numbers a picture would fill the memory
                if factors is None:
                    factors = csv.DictWriter(table, picture.factors)
                    factors.writeheader()
                factors.writerow(picture.factors)
                described += 1
            if picture.parts is not None:
                parts.write(np.ascontiguousarray(picture.parts, dtype=np.uint8).tobytes())
                masks += 1
    files = pd.DataFrame(rows, columns=COLUMNS)
    if not hashes:
        raise ValueError(f"{name}: none of its {len(files)} pictures can be decoded. "
                         + "; ".join(f"{row.path}: {row.problem}" for row in files.head(3).itertuples()))
    for count, what in ((masks, "a part mask"), (described, "factors")):
        if count not in (0, len(hashes)):
            raise ValueError(f"{name}: {count} of {len(hashes)} pictures have {what}; all or none must")
    used = sorted(set(files.label[files.problem == ""]))
    files["label"] = files.label.map({old: new for new, old in enumerate(used)}).fillna(-1).astype(int)
    files.to_csv(folder / "files.csv", index=False, errors="surrogateescape")
    meta = {"shape": [len(hashes), *shape], "class_names": [class_names[label] for label in used],
            "hashes": hashes, "splits": splits, "masks": masks, "factors": bool(described),
            "sizes": {path.name: path.stat().st_size for path in folder.iterdir()}}
    (folder / "meta.json").write_text(json.dumps(meta))


def _open(folder: Path, name: str) -> ImageSet:
    """Open a finished cache folder; a damaged one raises what its damaged part happens to raise."""
    meta = json.loads((folder / "meta.json").read_text())
    for file, size in meta["sizes"].items():
        if (folder / file).stat().st_size != size:
            raise ValueError(f"{file} does not have the {size} bytes it was written with")
    shape, splits = meta["shape"], np.array(meta["splits"], dtype=object)
    files = pd.read_csv(folder / "files.csv", na_filter=False, encoding_errors="surrogateescape",
                        dtype={column: str for column in ("path", "mode", "problem")})
    good = files[files.problem == ""]
    labels = good.label.to_numpy(np.int64)
    return ImageSet(
        name, _memory_map(folder / "images.bin", shape), labels, meta["class_names"], list(good.path),
        np.array(meta["hashes"]), files,
        fingerprint=digest([shape, labels.tolist(), meta["class_names"], meta["hashes"]]),
        parts=_memory_map(folder / "parts.bin", [shape[0], *shape[2:]]) if meta["masks"] else None,
        factors=pd.read_csv(folder / "factors.csv") if meta["factors"] else None,
        official={split: np.flatnonzero(splits == split) for split in SPLITS if (splits == split).any()})


def _memory_map(path: Path, shape: list[int]) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r", shape=tuple(shape))
