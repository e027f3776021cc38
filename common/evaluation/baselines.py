"""Features that need no training: what random numbers, pixels and colors achieve before any model does.

Each takes uint8 pictures (N, 3, H, W) and hands out float32 (N, D), to be compared by cosine.
"""

import cv2
import numpy as np

SIZE = 64  # random numbers of a picture
SIDE = 16  # pixels of a thumbnail's side


def chance(images, seed: int = 0) -> np.ndarray:
    """Random features that know nothing of the pictures: the floor every other row must beat."""
    return np.random.default_rng(seed).standard_normal((len(images), SIZE)).astype(np.float32)


def raw_pixels(images) -> np.ndarray:
    """Thumbnails of 16 x 16 pixels, each minus its own mean color.

    Without the means no cosine would be negative, for no pixel value is.
    """
    features = np.empty((len(images), 3, SIDE, SIDE), np.float32)
    for place, picture in enumerate(images):
        thumbnail = cv2.resize(picture.transpose(1, 2, 0), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        features[place] = thumbnail.transpose(2, 0, 1)
    features -= features.mean(axis=(2, 3), keepdims=True)
    return features.reshape(len(images), 3 * SIDE * SIDE) / 255


def color_histogram(images, bins: tuple[int, int, int] = (12, 4, 4), where=None) -> np.ndarray:
    """Square roots of the shares of pixels in each cell of hue x saturation x value (HSV).

    Of two such features the cosine is the Bhattacharyya coefficient, sum over cells of sqrt(p q), and 1 minus
    it the squared Hellinger distance: a few large cells do not outweigh all others.

    Args:
        bins: cells along hue, saturation and value.
        where: bool (N, H, W) or (H, W), the pixels that count; default: all.

    Returns:
        Rows of length 1; zeros for a picture without a pixel that counts.
    """
    masks = None if where is None else np.broadcast_to(where, (len(images), *images.shape[2:])).astype(np.uint8)
    features = np.empty((len(images), int(np.prod(bins))), np.float32)
    for place, picture in enumerate(images):
        hsv = cv2.cvtColor(np.ascontiguousarray(picture.transpose(1, 2, 0)), cv2.COLOR_RGB2HSV)
        mask = None if masks is None else masks[place]
        counts = cv2.calcHist([hsv], [0, 1, 2], mask, bins, [0, 180, 0, 256, 0, 256]).ravel().astype(float)
        features[place] = np.sqrt(counts / max(counts.sum(), 1))
    return features


def central_color(images) -> np.ndarray:
    """The `color_histogram` of a disc in the middle, whose radius is a quarter of a picture's shorter side."""
    y, x = (np.arange(side) - (side - 1) / 2 for side in images.shape[2:])
    return color_histogram(images, where=np.hypot(y[:, None], x) <= min(images.shape[2:]) / 4)
