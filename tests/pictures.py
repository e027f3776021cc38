"""Makers of pictures and folders, good and damaged, for the tests."""

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CORNERS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def quadrants(width: int = 32, height: int = 32) -> np.ndarray:
    """uint8 H x W x 3: red and green above blue and white, so every rotation and mirroring looks different."""
    pixels = np.empty((height, width, 3), np.uint8)
    upper, left = slice(height // 2), slice(width // 2)
    lower, right = slice(height // 2, None), slice(width // 2, None)
    for (rows, columns), color in zip(((upper, left), (upper, right), (lower, left), (lower, right)),
                                      CORNERS.values()):
        pixels[rows, columns] = color
    return pixels


def smooth(seed: int, size: int = 48, detail: int = 6) -> np.ndarray:
    """uint8 H x W x 3: a random picture with large soft blobs, as different from another seed's as photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (detail, detail, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, form: str = "JPEG", **options) -> bytes:
    """`pixels` as the bytes of a file."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A few bytes whose header promises billions of pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def class_folder(root: Path, classes=("iris", "rose"), each: int = 3) -> Path:
    """A clean folder with one sub-folder per class, `each` JPEGs in it."""
    for label, name in enumerate(classes):
        for number in range(each):
            write(root / name / f"{number}.jpg", encoded(smooth(100 * label + number)))
    return root


def pack(archive: Path, root: Path, prefix: str = "") -> Path:
    """All files below `root` as a .zip or .tgz."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in files:
                opened.write(path, prefix + path.relative_to(root).as_posix())
    else:
        with tarfile.open(archive, "w:gz") as opened:
            for path in files:
                opened.add(path, prefix + path.relative_to(root).as_posix())
    return archive
