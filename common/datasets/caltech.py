"""Caltech-101: photographs of 101 kinds of things (Fei-Fei, Fergus and Perona 2004), without an official split."""

from pathlib import Path

from common.config import Config
from common.datasets.files import download, files_below, opened, subfolders
from common.datasets.images import ImageSet
from common.datasets.picture_files import at_least_two, is_picture, read_files

FOLDER = "101_ObjectCategories"
BACKGROUND = "BACKGROUND_Google"
ORIGIN = "https://data.caltech.edu/records/mzrjq-6wc02/files/"  # link and sum as in torchvision's Caltech101
FILES = {"caltech-101.zip": "3138e1922a9193bfa496528edbbc45d0"}


def caltech101(config: Config) -> ImageSet:
    """The pictures of `config.data`, a folder or archive in the layout of Caltech's download, or of that download.

    Any number of classes; BACKGROUND_Google is left out. Raises FileNotFoundError where there are no class folders.
    """
    source = config.data or download("Caltech-101", 137, ORIGIN, FILES, config.cache / "caltech101")
    root = _categories(source, config.cache)
    paths = [path for path in files_below(root) if is_picture(path) and len(path.parts) == 2]
    kept = [path for path in paths if path.parts[0] != BACKGROUND]
    if len(kept) < len(paths):
        print(f"Left out: {len(paths) - len(kept)} pictures of {BACKGROUND}, which have nothing in common")
    class_names = sorted({path.parts[0] for path in kept})
    at_least_two(class_names, root)
    entries = [(path.as_posix(), class_names.index(path.parts[0]), None) for path in kept]
    return read_files(config, root, source, class_names, entries)


def _categories(source: Path, cache: Path) -> Path:
    """The folder of the class folders, however `source` is packed: the download is an archive in an archive."""
    top = opened(source, cache)
    places = [top, *subfolders(top)]
    found = [folder for place in places for folder in (place, place / FOLDER) if folder.name == FOLDER]
    root = next(filter(Path.is_dir, found), None)
    if root is not None:
        return root
    packed = [place / name for place in places for name in (f"{FOLDER}.tar.gz", *FILES)]
    archive = next(filter(Path.is_file, packed), None)
    if archive is None:
        raise FileNotFoundError(f"{source} has no folder {FOLDER}: set SIMILARITY_DATA to {next(iter(FILES))}, or to "
                                "a folder or archive that holds that folder")
    return _categories(archive, cache)
