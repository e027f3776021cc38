"""Oxford 102 Flowers: photographs with their species and their official split (Nilsback and Zisserman 2008)."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from common.config import Config
from common.datasets.files import download, opened, subfolders, unpack
from common.datasets.images import ImageSet
from common.datasets.picture_files import read_files

FILES = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
SEGMENTATIONS = "102segmentations.tgz"  # or the folder segmim that is in it; used where at hand, not downloaded
SPLITS = {"trnid": "train", "valid": "validation", "tstid": "test"}


def flowers102(config: Config) -> ImageSet:
    """The pictures of `config.data`, a folder or archive in the layout of Oxford's download, or of that download.

    Where segmentations are at hand, `parts` is "petal" on the flower, which is not told apart further.
    Raises ValueError where pictures, labels, splits and segmentations do not belong together, FileNotFoundError where
    one is missing.
    """
    source = config.data or _downloaded(config.cache / "flowers102")
    top = opened(source, config.cache)
    places = [top, *subfolders(top), source.parent if source.is_file() else source]
    root = next((place for place in places if (place / "jpg").is_dir()), None)
    if root is None:
        root = unpack(_find(FILES[0], places), config.cache)
    places.insert(0, root)
    labels_file, splits_file = (_find(name, places) for name in FILES[1:])
    labels = _labels(labels_file, root / "jpg")
    splits = _splits(splits_file, len(labels))
    paths = [f"jpg/image_{number:05d}.jpg" for number in range(1, len(labels) + 1)]
    entries = [(path, int(label) - 1, split) for path, label, split in zip(paths, labels, splits)]
    segmentations = _segmentations(places, labels_file, len(labels), config.cache)
    return read_files(config, root, source, _names(int(labels.max()), places), entries, segmentations=segmentations)


def _labels(file: Path, folder: Path) -> np.ndarray:
    """The 1-based species of image 1, 2, ...; raises ValueError unless each picture has exactly one."""
    labels = _matrix(file, "labels")
    _numbered(folder, "image", "pictures", file, len(labels))
    if labels.min() < 1:
        raise ValueError(f"{file} has the label {labels.min()}, but species count from 1: fetch it again")
    return labels


def _numbered(folder: Path, stem: str, what: str, labels_file: Path, count: int) -> list[Path]:
    """The files of `folder`; raises ValueError unless there is exactly one for each of `count` labels."""
    wanted = [f"{stem}_{number:05d}.jpg" for number in range(1, count + 1)]
    found = {path.name for path in folder.glob("*.jpg")}
    if found != set(wanted):
        odd = min(found ^ set(wanted))
        raise ValueError(f"{labels_file} has {count} labels, but {folder} has {len(found)} {what}; the first "
                         f"that does not match is {odd}: take {what} and labels from the same download")
    return [folder / name for name in wanted]


def _segmentations(places: list[Path], labels_file: Path, count: int, cache: Path) -> list[Path] | None:
    """The segmentation of picture 1 .. `count`, or None where there are none at all."""
    folder = next((place / "segmim" for place in places if (place / "segmim").is_dir()), None)
    archive = next((place / SEGMENTATIONS for place in places if (place / SEGMENTATIONS).is_file()), None)
    if folder is None and archive is not None:
        folder = unpack(archive, cache) / "segmim"
    return folder and _numbered(folder, "segmim", "segmentations", labels_file, count)


def _splits(file: Path, count: int) -> list[str | None]:
    """The split of image 1 .. `count`; raises ValueError for a number out of range or in two splits."""
    splits = [None] * count
    for variable, split in SPLITS.items():
        for number in _matrix(file, variable).tolist():
            if not 1 <= number <= count:
                raise ValueError(f"{file}: {variable} names picture {number}, but there are only {count} "
                                 "pictures: take pictures and setid.mat from the same download")
            if splits[number - 1]:
                raise ValueError(f"{file}: picture {number} is in {splits[number - 1]} and again in {split}: "
                                 "fetch the file again")
            splits[number - 1] = split
    return splits


def _matrix(file: Path, variable: str) -> np.ndarray:
    try:
        return loadmat(file)[variable].ravel().astype(np.int64)
    except Exception as error:  # a damaged .mat file raises nearly anything
        raise ValueError(f"{file} is damaged or lacks the variable {variable!r}: fetch it again") from error


def _names(count: int, places: list[Path]) -> list[str]:
    """names.txt where there is one, the published names of all 102 species, else "species 1", ..."""
    file = next((place / "names.txt" for place in places if (place / "names.txt").is_file()), None)
    if file is not None:
        names = file.read_text(encoding="utf-8").split("\n")
        names = [name.strip() for name in names if name.strip()]
        if len(names) < count:
            raise ValueError(f"{file} has {len(names)} names for {count} species: add the missing lines")
        return names[:count]
    if count == 102:
        from torchvision.datasets import Flowers102

        return list(getattr(Flowers102, "classes", [])) or [f"species {number}" for number in range(1, 103)]
    return [f"species {number}" for number in range(1, count + 1)]


def _find(name: str, places: list[Path]) -> Path:
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f"{name} is missing: put it beside the jpg folder or the archive "
                            f"(looked in {', '.join(dict.fromkeys(map(str, places)))})")


def _downloaded(folder: Path) -> Path:
    """Complete `folder` from torchvision's list of files and MD5 sums."""
    from torchvision.datasets import Flowers102

    unpacked = (folder / "jpg").is_dir()
    files = {name: md5 for name, md5 in Flowers102._file_dict.values() if not (unpacked and name.endswith(".tgz"))}
    return download("Oxford 102 Flowers", 330, Flowers102._download_url_prefix, files, folder)
