"""Oxford 102 Flowers: photographs with their species and their official split (Nilsback and Zisserman 2008)."""

import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from common.config import Config
from common.datasets.decoding import Entry
from common.datasets.files import download, reason, subfolders, unpack
from common.datasets.images import ImageSet, read_files

SEGMENTATIONS = "102segmentations.tgz"  # or the folder segmim that is in it; used where at hand, not downloaded
MATLAB_TYPES, MATRIX, COMPRESSED = {*range(1, 8), 9, *range(12, 19)}, 14, 15  # of elements of a .mat file
MATLAB_NUMBERS = range(6, 16)  # classes of its matrices: from double to uint64
SPLIT_VARIABLES = {"trnid": "train", "valid": "validation", "tstid": "test"}


def flowers102(config: Config) -> ImageSet:
    """The pictures of `config.data`, a folder or archive in the layout of Oxford's download, or of that download.

    Where segmentations are at hand, `parts` is "petal" on the flower, which is not told apart further.
    Raises ValueError where pictures, labels, splits and segmentations do not belong together, FileNotFoundError where
    one is missing.
    """
    source = config.data or _downloaded(config.cache / "flowers102")
    top = unpack(source, config.cache)
    places = [top, *subfolders(top), source.parent if source.is_file() else source]
    jpg = _find("jpg", places)
    root = jpg.parent if jpg else unpack(_find("102flowers.tgz", places, needed=True), config.cache)
    places.insert(0, root)
    labels_file = _find("imagelabels.mat", places, needed=True)
    labels = _matrix(labels_file, "labels")
    if labels.min() < 1:
        raise ValueError(f"{labels_file} has the label {labels.min()}, but species count from 1: fetch it again")
    if missing := set(range(1, min(labels.max(), len(labels)) + 1)) - set(labels.tolist()):
        raise ValueError(f"{labels_file} has the label {labels.max()}, but no picture of species {min(missing)}: fetch "
                         "it again, or count the species from 1 without a gap")
    splits = _splits(_find("setid.mat", places, needed=True), len(labels))
    paths = _numbered(root / "jpg", "image", "pictures", labels_file, len(labels))
    segmentations, packed = _find("segmim", places), _find(SEGMENTATIONS, places)
    if packed and not segmentations:
        segmentations = unpack(packed, config.cache) / "segmim"
    masks = [None] * len(labels)
    if segmentations:
        masks = _numbered(segmentations, "segmim", "segmentations", labels_file, len(labels))
    entries = [Entry(f"jpg/{path.name}", label - 1, split, mask)
               for path, label, split, mask in zip(paths, labels.tolist(), splits, masks)]
    return read_files(config, root, _names(int(labels.max()), places), entries)


def _find(name: str, places: list[Path], needed: bool = False) -> Path | None:
    found = next((place / name for place in places if (place / name).exists()), None)
    if needed and not found:
        raise FileNotFoundError(f"{name} is missing: put it beside the jpg folder or the archive "
                                f"(looked in {', '.join(dict.fromkeys(map(str, places)))})")
    return found


def _numbered(folder: Path, stem: str, what: str, labels_file: Path, count: int) -> list[Path]:
    """The files of `folder`; raises ValueError unless there is exactly one for each of `count` labels."""
    wanted = [f"{stem}_{number:05d}.jpg" for number in range(1, count + 1)]
    found = {path.name for path in folder.glob("*.jpg") if not path.name.startswith(".")}
    if found != set(wanted):
        odd = min(found ^ set(wanted))
        raise ValueError(f"{labels_file} has {count} labels, but {folder} has {len(found)} {what}; the first "
                         f"that does not match is {odd}: take {what} and labels from the same download")
    return [folder / name for name in wanted]


def _splits(file: Path, count: int) -> list[str | None]:
    """The split of image 1 .. `count`; raises ValueError for a number out of range or in two splits."""
    splits = {}
    for variable, split in SPLIT_VARIABLES.items():
        for number in _matrix(file, variable).tolist():
            if not 1 <= number <= count or number in splits:
                raise ValueError(f"{file}: {variable} names picture {number}, which is named before or not one of the "
                                 f"{count} pictures: take pictures and setid.mat from the same download")
            splits[number] = split
    return [splits.get(number) for number in range(1, count + 1)]


def _matrix(file: Path, variable: str) -> np.ndarray:
    try:
        content = file.read_bytes()
        if 0 not in content[:4] and 1 in content[124:126]:  # format 5, the one in which damage can crash loadmat
            _check_elements(content[128:], "<" if content[126:128] == b"IM" else ">")
        values = np.asarray(loadmat(file)[variable]).ravel()
        if values.dtype.kind not in "iuf" or not len(values) or (values % 1 != 0).any():
            raise ValueError("it holds no whole numbers")
        return values.astype(np.int64)
    except Exception as error:  # a damaged .mat file raises nearly anything
        told = f"{file} is damaged or lacks the variable {variable!r} ({reason(error)})"
        raise ValueError(f"{told}: fetch it again") from error


def _check_elements(content: bytes, order: str) -> None:
    """Raise ValueError for what is no sound matrix of numbers: on some of it loadmat would crash the whole process."""
    while content:
        kind, size = struct.unpack(order + "II", content[:8])
        kind, small = (kind & 0xFFFF, True) if kind >> 16 else (kind, False)
        if kind not in MATLAB_TYPES:
            raise ValueError(f"it has an element of the unknown type {kind}")
        if not small and size > len(content) - 8:
            raise ValueError(f"it has an element of {size} bytes, and only {len(content) - 8} are left")
        if kind in (MATRIX, COMPRESSED) and not small:
            inside = content[8 : 8 + size]
            flags, bytes_of_flags, word = struct.unpack(order + "III", inside[:12]) if kind == MATRIX else (6, 8, 6)
            if (flags, bytes_of_flags) != (6, 8) or word & 0xFF not in MATLAB_NUMBERS:
                raise ValueError("it holds no whole numbers")
            _check_elements(zlib.decompress(inside) if kind == COMPRESSED else inside, order)
        content = content[8 if small else 8 + size + (0 if kind == COMPRESSED else -size % 8) :]


def _names(count: int, places: list[Path]) -> list[str]:
    """names.txt where there is one, the published names of all 102 species, else "species 1", ..."""
    if file := _find("names.txt", places):
        try:
            names = [name.strip() for name in file.read_text(encoding="utf-8-sig").split("\n") if name.strip()][:count]
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not written in UTF-8 ({error}): save it again as UTF-8") from error
        if len(set(names)) < count:
            raise ValueError(f"{file} has {len(set(names))} names for {count} species: give each a line of its own")
        return names
    if count == 102:
        from torchvision.datasets import Flowers102

        if hasattr(Flowers102, "classes"):  # torchvision knows the names since 0.22
            return list(Flowers102.classes)
    return [f"species {number}" for number in range(1, count + 1)]


def _downloaded(folder: Path) -> Path:
    """Complete `folder` from torchvision's list of files and MD5 sums."""
    from torchvision.datasets import Flowers102

    unpacked = (folder / "jpg").is_dir()
    files = {name: md5 for name, md5 in Flowers102._file_dict.values() if not (unpacked and name.endswith(".tgz"))}
    return download("Oxford 102 Flowers", 330, Flowers102._download_url_prefix, files, folder)
