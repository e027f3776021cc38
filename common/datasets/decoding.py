"""One picture file to an array, whatever its format, depth, rotation or damage."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from common.config import cores
from common.datasets.files import reason
from common.flowers.species import BACKGROUND, PETAL

Image.init()
# Left out: formats that Pillow only recognizes, and those that start another program (Ghostscript).
FORMATS = sorted(set(Image.OPEN) - {"EPS", "MPEG", "HDF5", "GRIB", "BUFR", "WMF"})
EXTENSIONS = {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}
NOT_FLOWER = (0, 0, 254)  # RGB of all that is not the flower in a segmentation of Oxford 102 Flowers
# Distance in RGB up to which a pixel counts as that blue: JPEG blends it with the flower along the rim, up to half way.
# Flowers stay clear of it, as even blue ones are pale or dark: of 180 photographs' pixels 4 in 100,000 are as near.
NEAR_BLUE = 112
AHEAD = 64  # pictures in memory at a time
LARGEST = 2**28  # bytes of a file that are read


class DamagedPicture(ValueError):
    """A file that cannot be decoded; the message is its name, a colon and the reason."""


class Entry(NamedTuple):
    """A file to decode: its path below the data set's folder, and what is known of it beforehand."""

    path: str
    label: int
    split: str | None = None  # official split: "train", "validation" or "test"
    segmentation: Path | None = None  # see `read_picture`


@dataclass
class Picture:
    """One picture on its way into an `ImageSet`; `image` is None when `problem` says why it was not read."""

    image: np.ndarray | None  # uint8, 3 x H x W, RGB
    label: int
    path: str
    width: int = 0  # of the file, in pixels, as displayed (after the EXIF rotation)
    height: int = 0
    mode: str = "RGB"  # Pillow's mode of the file
    bytes: int = 0  # size of the file
    problem: str = ""
    passing: bool = False  # whether the problem is the drive's or the memory's, not the file's
    split: str | None = None
    parts: np.ndarray | None = None  # uint8, H x W, values index PARTS
    factors: dict | None = None  # what the picture was generated from


def is_picture(file: Path) -> bool:
    """Whether a file's name ends as a picture's."""
    return file.suffix.lower() in EXTENSIONS


def read_picture(file: Path, size: int, squeeze: bool = False, segmentation: Path | None = None) -> Picture:
    """Decode one picture to RGB, upright, its central square resized (bicubic) to `size` x `size` pixels.

    With `squeeze` all of it is resized, out of proportion, so that nothing is cropped. Transparency is laid over
    white; deeper samples become 8 bits. `segmentation` is a second file of the same picture, NOT_FLOWER but for the
    flower; it becomes `parts`, background and petal. Returns a `Picture` with label -1. Raises `DamagedPicture` with
    the file and the reason, ValueError for a segmentation that is damaged or of another size, and OSError or
    MemoryError where the file cannot be read now, which says nothing about the picture.
    """
    if (length := Path(file).stat().st_size) > LARGEST:
        raise DamagedPicture(f"{file}: the file has {length >> 20} MB, more than a picture's {LARGEST >> 20}")
    data = Path(file).read_bytes()  # what fails here is the drive's fault, what fails below the picture's
    try:
        if not data:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            mode, (width, height) = picture.mode, picture.size
            picture.draft(None, (2 * size, 2 * size))  # a JPEG decodes faster at a fraction of its size
            picture.load()
            orientation = _orientation(picture)
            image = _framed(_to_rgb(picture), orientation, size, squeeze, Image.Resampling.BICUBIC)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise nearly anything, from struct.error to SyntaxError
        raise DamagedPicture(f"{file}: {_reason(error)}") from error
    parts = None
    if segmentation is not None:
        mask = _flower(segmentation, file, (width, height))
        parts = _framed(mask, orientation, size, squeeze, Image.Resampling.NEAREST)
    if orientation >= 5:  # the sideways ones
        width, height = height, width
    return Picture(image.transpose(2, 0, 1).copy(), -1, str(file), width, height, mode, len(data), parts=parts)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where it is absent, out of range or the EXIF block is damaged."""
    try:
        orientation = int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a good picture is not thrown away for its damaged notes
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _framed(picture: Image.Image, orientation: int, size: int, squeeze: bool, resampling) -> np.ndarray:
    """A picture turned upright, its central square, or with `squeeze` all of it, in `size` x `size` pixels."""
    picture.info = {}  # the file's own notes, which may be damaged; a mask has none
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    fit = Image.Image.resize if squeeze else ImageOps.fit
    return np.asarray(fit(ImageOps.exif_transpose(picture), (size, size), resampling))


def _flower(segmentation: Path, file: Path, size: tuple[int, int]) -> Image.Image:
    """The part mask in a segmentation of picture `file`, which has `size` (width, height), before any rotation."""
    try:
        with Image.open(segmentation, formats=FORMATS) as opened:
            pixels = np.asarray(opened.convert("RGB"), np.float32)
    except Exception as error:
        raise ValueError(f"{segmentation} is damaged ({_reason(error)}): fetch the segmentations again") from error
    if pixels.shape[1::-1] != size:
        raise ValueError(f"{segmentation} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but its picture {file} has "
                         f"{size[0]} x {size[1]}: take pictures and segmentations from the same download")
    flower = np.linalg.norm(pixels - NOT_FLOWER, axis=2) > NEAR_BLUE
    return Image.fromarray(np.where(flower, PETAL, BACKGROUND).astype(np.uint8))


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: 16-bit, 32-bit and float samples scaled to 8 bits, transparency over white."""
    if picture.mode[0] in "IF":
        samples = np.nan_to_num(np.asarray(picture, dtype=np.float64)).clip(0)
        white = 65535.0  # Pillow's "I" and "I;16" carry 16-bit files; a float file does not say its white
        if picture.mode == "F":
            white = next((w for w in (1.0, 255.0, 65535.0) if samples.max() <= w), samples.max())
        return Image.fromarray((samples / white * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    unknown = isinstance(error, UnidentifiedImageError)
    return "not a picture in any format that can be read" if unknown else reason(error)


def in_gray(image: np.ndarray) -> np.ndarray:
    """The luminance (Pillow's mode L) of uint8 3 x H x W, in three equal channels."""
    return np.stack([np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))] * 3)


def read_pictures(root: Path, entries: list[Entry], **framing) -> Iterator[Picture]:
    """Decode files below `root` with a few threads, in order, with only a few pictures in memory at a time.

    `framing` is the size and squeeze of `read_picture`. A damaged or unreadable file has a `problem`, no image.
    """
    def read(entry):
        file = root / entry.path
        try:
            picture = read_picture(file, **framing, segmentation=entry.segmentation)
        except DamagedPicture as error:
            size = file.stat().st_size if file.exists() else 0
            picture = Picture(None, -1, "", mode="", bytes=size, problem=str(error).removeprefix(f"{file}: "))
        except (OSError, MemoryError) as error:
            picture = Picture(None, -1, "", mode="", problem=reason(error), passing=True)
        return replace(picture, label=entry.label, path=entry.path, split=entry.split)

    with ThreadPoolExecutor(min(8, cores())) as pool:  # Pillow decodes outside Python's global lock
        for start in range(0, len(entries), AHEAD):
            yield from pool.map(read, entries[start:start + AHEAD])
