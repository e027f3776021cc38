"""Features that need no training: what random numbers, pixels and colors achieve before any model does.

Each function takes uint8 pictures (N, 3, H, W) and hands out float32 (N, D), to be compared by cosine.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd

CHUNK = 128  # pictures held as floats at a time, which bounds memory


def chance(images, size: int = 64, seed: int = 0) -> np.ndarray:
    """Random features (N, `size`) that know nothing of the pictures: the floor every other row must beat."""
    return np.random.default_rng(seed).standard_normal((len(images), size)).astype(np.float32)


def raw_pixels(images, side: int = 16) -> np.ndarray:
    """Thumbnails of `side` x `side` pixels, each minus its own mean color: (N, 3 * side * side).

    Without the means every cosine would be near 1, for all pixel values are positive.
    """
    features = np.empty((len(images), 3, side, side), np.float32)
    for part, chunk in _chunks(images):
        for place, picture in enumerate(chunk.transpose(0, 2, 3, 1), part.start):
            features[place] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    features -= features.mean(axis=(2, 3), keepdims=True)
    return features.reshape(len(images), 3 * side * side) / 255


def color_histogram(images, bins: tuple[int, int, int] = (12, 4, 4), where=None) -> np.ndarray:
    """Square roots of the shares of pixels in each cell of hue x saturation x value (HSV).

    Of two such features the cosine is the Bhattacharyya coefficient, sum over cells of sqrt(p q), and 1 minus
    it the squared Hellinger distance: a few large cells do not outweigh all others.

    Args:
        images: uint8 (N, 3, H, W).
        bins: cells along hue, saturation and value.
        where: bool (N, H, W) or (H, W), the pixels that count; default: all.

    Returns:
        float32 (N, product of bins), of length 1; zeros for a picture without a pixel that counts.
    """
    count, cells = len(images), int(np.prod(bins))
    where = None if where is None else np.broadcast_to(where, (count, *np.shape(images)[2:]))
    features = np.empty((count, cells), np.float32)
    for part, chunk in _chunks(images):
        high, wide = chunk.shape[2:]
        stacked = np.ascontiguousarray(chunk.transpose(0, 2, 3, 1)).reshape(-1, wide, 3)
        hsv = cv2.cvtColor(stacked, cv2.COLOR_RGB2HSV).astype(np.int64)
        cell = np.ravel_multi_index(tuple(np.moveaxis(hsv * bins // (180, 256, 256), -1, 0)), bins)
        cell = cell.reshape(len(chunk), high * wide) + cells * np.arange(len(chunk))[:, None]
        weights = None if where is None else where[part].ravel()
        counts = np.bincount(cell.ravel(), weights, cells * len(chunk)).reshape(len(chunk), cells)
        features[part] = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return features


def picture_statistics(images) -> pd.DataFrame:
    """Color and light of each picture, all in [0, 1].

    Returns:
        N rows: `red`, `green`, `blue` and `red_std`, `green_std`, `blue_std`, the mean and the standard deviation
        of each channel over the picture's pixels; `brightness` and `contrast`, the same two of the gray picture
        (0.299 red + 0.587 green + 0.114 blue, ITU-R BT.601).
    """
    rows = []
    for _, chunk in _chunks(images):
        chunk = chunk.astype(np.float32) / 255
        gray = np.tensordot(np.float32([0.299, 0.587, 0.114]), chunk, axes=(0, 1))
        pixels = np.concatenate([chunk, gray[:, None]], axis=1).reshape(len(chunk), 4, -1)
        rows.append(np.concatenate([pixels.mean(axis=2), pixels.std(axis=2)], axis=1))
    names = ["red", "green", "blue", "brightness", "red_std", "green_std", "blue_std", "contrast"]
    return pd.DataFrame(np.concatenate(rows), columns=names)


def _chunks(images) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(images), CHUNK):
        part = slice(start, min(start + CHUNK, len(images)))
        yield part, np.asarray(images[part])
