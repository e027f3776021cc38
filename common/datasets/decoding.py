"""One picture file to an array, whatever its format, depth, rotation or damage."""

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

VERSION = 1  # raise it whenever the same file would give other bytes: caches made before are then left alone
Image.init()
# Left out: formats that Pillow only recognizes, and those that start another program (Ghostscript).
FORMATS = sorted(set(Image.OPEN) - {"EPS", "MPEG", "HDF5", "GRIB", "BUFR", "WMF"})
EXTENSIONS = {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}
PARTS = ("background", "leaf", "petal", "center")  # the values 0..3 of a part mask
NOT_FLOWER = (0, 0, 254)  # RGB of all that is not the flower in a segmentation of Oxford 102 Flowers
# Distance in RGB up to which a pixel counts as that blue: JPEG blends it with the flower along the rim, up to half way.
# Flowers stay clear of it, as even blue ones are pale or dark: of 180 photographs' pixels 4 in 100,000 are as near.
TOLERANCE = 112


class DamagedPicture(ValueError):
    """A file that cannot be decoded; the message names the file and the `reason`."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.reason = reason


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
    split: str | None = None  # official split: "train", "validation" or "test"
    parts: np.ndarray | None = None  # uint8, H x W, values index PARTS
    factors: dict | None = None  # what the picture was generated from


def read_picture(source, size: int, squeeze: bool = False, segmentation: Path | None = None) -> Picture:
    """Decode one picture to RGB, upright, its central square resized (bicubic) to `size` x `size` pixels.

    With `squeeze` all of it is resized, out of proportion, so that nothing is cropped. `source` is a path or a
    binary file object. Transparency is laid over white; deeper samples become 8 bits. `segmentation` is a second file
    of the same picture, NOT_FLOWER but for the flower; it becomes `parts`, background and petal.
    Returns a `Picture` with label -1. Raises `DamagedPicture` with the file's name and the reason, and ValueError for
    a segmentation that is damaged or of another size.
    """
    is_path = isinstance(source, (str, Path))
    name = str(source) if is_path else str(getattr(source, "name", "picture"))
    try:
        data = Path(source).read_bytes() if is_path else source.read()
        if not data:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            mode, (width, height) = picture.mode, picture.size
            picture.draft(None, (2 * size, 2 * size))  # a JPEG decodes faster at a fraction of its size
            picture.load()
            orientation = _orientation(picture)
            image = _framed(_to_rgb(picture), orientation, size, squeeze, Image.Resampling.BICUBIC)
    except Exception as error:  # damaged files raise nearly anything, from struct.error to SyntaxError
        raise DamagedPicture(name, _reason(error)) from error
    parts = None
    if segmentation is not None:
        mask = _flower(segmentation, name, (width, height))
        parts = _framed(mask, orientation, size, squeeze, Image.Resampling.NEAREST)
    if orientation >= 5:  # the sideways ones
        width, height = height, width
    return Picture(image.transpose(2, 0, 1).copy(), -1, name, width, height, mode, len(data), parts=parts)


_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}  # EXIF orientation -> what undoes it


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where it is absent, out of range or the EXIF block is damaged."""
    try:
        orientation = int(picture.getexif().get(0x0112, 1))
    except Exception:  # a good picture is not thrown away for its damaged notes
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _framed(picture: Image.Image, orientation: int, size: int, squeeze: bool, resampling) -> np.ndarray:
    """A picture turned upright, its central square, or with `squeeze` all of it, in `size` x `size` pixels."""
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    fit = Image.Image.resize if squeeze else ImageOps.fit
    return np.asarray(fit(picture, (size, size), resampling))


def _flower(segmentation: Path, name: str, size: tuple[int, int]) -> Image.Image:
    """The part mask in a segmentation of picture `name`, whose file has `size` (width, height), before any rotation."""
    try:
        with Image.open(segmentation, formats=FORMATS) as opened:
            pixels = np.asarray(opened.convert("RGB"), np.float32)
    except Exception as error:
        raise ValueError(f"{segmentation} is damaged ({_reason(error)}): fetch the segmentations again") from error
    if pixels.shape[1::-1] != size:
        ours, theirs = ("{} x {}".format(*both) for both in (pixels.shape[1::-1], size))
        raise ValueError(f"{segmentation} has {ours} pixels, but its picture {name} has {theirs}: take pictures and "
                         "segmentations from the same download")
    flower = np.linalg.norm(pixels - NOT_FLOWER, axis=2) > TOLERANCE
    return Image.fromarray(np.where(flower, PARTS.index("petal"), 0).astype(np.uint8))


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
    """One line for people out of a decoder's error."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in any format that can be read"
    return " ".join(str(error).split()) or type(error).__name__


def in_gray(picture: Picture) -> Picture:
    """The same picture as luminance (Pillow's mode L) in three equal channels."""
    if picture.image is None:
        return picture
    luminance = np.asarray(Image.fromarray(picture.image.transpose(1, 2, 0)).convert("L"))
    return replace(picture, image=np.stack([luminance] * 3))


def read_pictures(
    root: Path, entries: Iterable[tuple[str, int, str | None]], size: int, squeeze: bool = False,
    segmentations: Iterable[Path] | None = None,
) -> Iterator[Picture]:
    """Decode many files with a few threads, in order and with only a few pictures in memory at a time.

    `entries` are (path relative to `root`, label, split or None). A damaged file comes as a `Picture` without
    an image, whose `problem` is the reason. `segmentations`, one for each entry, and `squeeze` as in `read_picture`.
    """
    def read(entry, segmentation):
        path, label, split = entry
        try:
            picture = read_picture(root / path, size, squeeze, segmentation)
        except DamagedPicture as error:
            bytes_ = (root / path).stat().st_size if (root / path).exists() else 0
            return Picture(None, label, path, mode="", bytes=bytes_, problem=error.reason, split=split)
        return replace(picture, label=label, path=path, split=split)

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # Pillow decodes outside Python's global lock
        waiting = deque()
        try:
            for both in zip(entries, segmentations or repeat(None)):
                waiting.append(pool.submit(read, *both))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # an abandoned loop does not decode the rest
            for future in waiting:
                future.cancel()
