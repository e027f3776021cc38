"""Data sets by name: drawn flowers, Oxford 102 Flowers, or a folder of your own pictures."""

import socket
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from common.config import Config
from common.decoding import EXTENSIONS, read_pictures
from common.folders import unpack
from common.images import ImageSet, cached
from common.rendered import VERSION as RENDERED_VERSION
from common.rendered import rendered_pictures
from common.species import species_table

NAMED = 10  # so many damaged files are named one by one
OXFORD_FILES = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
OXFORD_SPLITS = {"trnid": "train", "valid": "validation", "tstid": "test"}


def load_images(config: Config) -> ImageSet:
    """The pictures of `config.dataset`, decoded at `config.image_size` and cached below `config.cache`.

    "rendered" draws `config.species` x `config.pictures_per_species` flowers. "flowers102" reads the layout
    of Oxford 102 Flowers (Nilsback and Zisserman 2008; any number of species) from `config.data`, a folder or
    archive, or else downloads it. "folder:PATH" (or "folder" with `config.data`) takes each sub-folder of a
    folder or archive as a class. Damaged files are named in print, left out, and kept in `ImageSet.files`.
    Raises ValueError or FileNotFoundError, saying what to do, when the data cannot be used.
    """
    kind, _, path = config.dataset.partition(":")
    readers = {"rendered": _rendered, "flowers102": _flowers102, "folder": _folder}
    if kind not in readers:
        raise ValueError(f"dataset {config.dataset!r} is unknown: choose rendered, flowers102 or folder:PATH")
    image_set = readers[kind](config, path)
    damaged = image_set.files[image_set.files.problem != ""]
    for file in damaged.head(NAMED).itertuples():
        print(f"Damaged and left out: {file.path} ({file.problem})")
    if len(damaged) > NAMED:
        print(f"... and {len(damaged) - NAMED} more damaged files, {len(damaged)} in all")
    return image_set


def _rendered(config: Config, _) -> ImageSet:
    drawing = (config.species, config.pictures_per_species, config.image_size, config.seed)
    class_names = [species.name for species in species_table(config.species, config.seed)]
    return cached(config.cache, "rendered", {"version": RENDERED_VERSION, "drawing": drawing}, class_names,
                  lambda: rendered_pictures(*drawing), config.species * config.pictures_per_species)


def _files(config: Config, root: Path, source: Path, class_names: list[str], entries: list[tuple]) -> ImageSet:
    """Decode `entries` (path below `root`, label, split); the key notices every file that was changed."""
    stats = [(root / path).stat() for path, _, _ in entries]
    key = {"source": str(source.resolve()), "size": config.image_size, "entries": entries,
           "files": [(stat.st_size, stat.st_mtime_ns) for stat in stats]}
    return cached(config.cache, config.dataset_name, key, class_names,
                  lambda: read_pictures(root, entries, config.image_size), len(entries))


# --- Oxford 102 Flowers ---

def _flowers102(config: Config, _) -> ImageSet:
    source = config.data or _download(config.cache / "flowers102")
    top = unpack(source, config.cache) if source.is_file() else source
    places = [top, *_subfolders(top), source.parent if source.is_file() else source]
    root = next((place for place in places if (place / "jpg").is_dir()), None)
    if root is None:
        root = unpack(_find(OXFORD_FILES[0], places), config.cache)
    places.insert(0, root)
    labels_file, splits_file = (_find(name, places) for name in OXFORD_FILES[1:])
    labels = _labels(labels_file, root / "jpg")
    splits = _splits(splits_file, len(labels))
    paths = [f"jpg/image_{number:05d}.jpg" for number in range(1, len(labels) + 1)]
    entries = [(path, int(label) - 1, split) for path, label, split in zip(paths, labels, splits)]
    return _files(config, root, source, _oxford_names(int(labels.max()), places), entries)


def _labels(file: Path, folder: Path) -> np.ndarray:
    """The 1-based species of image 1, 2, ...; raises ValueError unless each picture has exactly one."""
    labels = _matrix(file, "labels")
    wanted = {f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1)}
    found = {path.name for path in folder.glob("*.jpg")}
    if wanted != found:
        odd = min(wanted ^ found)
        raise ValueError(f"{file} has {len(labels)} labels, but {folder} has {len(found)} pictures; the first "
                         f"that does not match is {odd}: take pictures and labels from the same download")
    if labels.min() < 1:
        raise ValueError(f"{file} has the label {labels.min()}, but species count from 1: fetch it again")
    return labels


def _splits(file: Path, count: int) -> list[str | None]:
    """The split of image 1 .. `count`; raises ValueError for a number out of range or in two splits."""
    splits = [None] * count
    for variable, split in OXFORD_SPLITS.items():
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


def _oxford_names(count: int, places: list[Path]) -> list[str]:
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


def _download(folder: Path) -> Path:
    """Complete `folder` from torchvision's list; each file is checked by its MD5 sum, then renamed."""
    from torchvision.datasets import Flowers102
    from torchvision.datasets.utils import download_url

    unpacked = (folder / "jpg").is_dir()
    missing = [(name, md5) for name, md5 in Flowers102._file_dict.values()
               if not (folder / name).is_file() and not (unpacked and name.endswith(".tgz"))]
    if not missing:
        return folder
    origin = Flowers102._download_url_prefix
    print(f"Downloading Oxford 102 Flowers, about 330 MB, from {origin} to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds: a closed network must not look like a long download
    try:
        for name, md5 in missing:
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                download_url(origin + name, temporary, name, md5)
                (Path(temporary) / name).replace(folder / name)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"Oxford 102 Flowers cannot be downloaded from {origin} ({error}). Without a network, put "
            f"{', '.join(OXFORD_FILES)} into {folder}, or set SIMILARITY_DATA to a folder or archive that holds "
            "them, or choose SIMILARITY_DATASET=rendered.") from error
    finally:
        socket.setdefaulttimeout(patience)
    return folder


# --- a folder of one's own ---

def _folder(config: Config, path: str) -> ImageSet:
    if not path and not config.data:
        raise ValueError("The data set 'folder' needs a place: write folder:PATH, or set SIMILARITY_DATA")
    source = Path(path or config.data).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: give a folder or archive with a sub-folder per class")
    root = _descend(unpack(source, config.cache) if source.is_file() else source)
    paths, ignored = [], []
    for path in _files_below(root):
        (paths if _is_picture(path) and len(path.parts) > 1 else ignored).append(path)
    if ignored:
        more = ", ..." if len(ignored) > NAMED else ""
        print(f"Ignored {len(ignored)} files that are not pictures in a class folder: "
              f"{', '.join(map(str, ignored[:NAMED]))}{more}")
    class_names = sorted({path.parts[0] for path in paths})
    _at_least_two(class_names, root)
    entries = [(path.as_posix(), class_names.index(path.parts[0]), None) for path in paths]
    image_set = _files(config, root, source, class_names, entries)
    for name in sorted(set(class_names) - set(image_set.class_names)):
        print(f"Class {name!r} is left out: none of its pictures can be decoded")
    _at_least_two(image_set.class_names, root)
    for name, count in zip(image_set.class_names, np.bincount(image_set.labels)):
        if count == 1:
            print(f"Warning: class {name!r} has one picture, which cannot form a same pair: add pictures")
    return image_set


def _at_least_two(class_names: list[str], root: Path) -> None:
    if len(class_names) < 2:
        raise ValueError(f"{root} has {len(class_names)} class folders with pictures that can be read, but two or "
                         "more are needed: put the pictures of each class into a sub-folder of its own")


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _files_below(root: Path) -> list[Path]:
    """Paths, relative to `root` and sorted, of all files that are not the operating system's own."""
    paths = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    return sorted(path for path in paths if not any(map(_hidden, path.parts)))


def _descend(folder: Path) -> Path:
    """Step into a lone sub-folder that holds the class folders, as archives often have one at their top."""
    below = _subfolders(folder)
    if len(below) == 1 and _subfolders(below[0]) and not any(map(_is_picture, folder.iterdir())):
        return _descend(below[0])
    return folder
