"""Picture files in folders and archives: found, listed, and decoded to an `ImageSet`."""

from collections.abc import Iterable
from pathlib import Path

from common.config import Config
from common.datasets.decoding import EXTENSIONS, read_pictures
from common.datasets.images import ImageSet, cached


def read_files(config: Config, root: Path, source: Path, class_names: list[str], entries: list[tuple],
               squeeze: bool = False, segmentations: list[Path] | None = None) -> ImageSet:
    """Decode `entries` (path below `root`, label, split), or open their cache, which notices every changed file.

    `source` is the folder or archive the user named; `squeeze` shrinks pictures to the square instead of cropping;
    `segmentations`, a file for each entry, become part masks.
    """
    key = {"source": str(source.resolve()), "size": config.image_size, "squeeze": squeeze, "entries": entries,
           "files": _stamps(root / path for path, _, _ in entries)}
    if segmentations:
        key["segmentations"] = _stamps(segmentations)
    return cached(config.cache, config.dataset_name, key, class_names,
                  lambda: read_pictures(root, entries, config.image_size, squeeze, segmentations), len(entries),
                  config.grayscale)


def _stamps(files: Iterable[Path]) -> list[tuple[int, int]]:
    """Size and time of each file, which change with it."""
    return [(stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files)]




def at_least_two(class_names: list[str], root: Path) -> None:
    """Raise ValueError where fewer than two classes were found below `root`."""
    if len(class_names) < 2:
        raise ValueError(f"{root} has {len(class_names)} class folders with pictures that can be read, but two or "
                         "more are needed: put the pictures of each class into a sub-folder of its own")


def is_picture(file: Path) -> bool:
    """Whether a file's name ends as a picture's."""
    return file.suffix.lower() in EXTENSIONS
