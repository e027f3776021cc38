"""Copies among the pictures: found by perceptual hashes, and all but one of each left out."""

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.datasets.images import SPLITS, ImageSet

BITS = 6  # of 64 in which the hashes of copies may differ
DIFFERENCE = 6.0  # gray levels (0..255) by which their thumbnails may differ on average
ROWS = 512  # pictures compared with all others at a time, which bounds memory
VALUES = 2**24  # of large pictures made small at a time, for the same reason


def find_duplicates(image_set: ImageSet) -> pd.DataFrame:
    """Pairs of equal or nearly equal pictures (re-encoded, rescaled, a little brighter), most alike first.

    In a pair the 64-bit perceptual hashes (low DCT frequencies of a 32 x 32 gray picture against their median; Zauner
    2010, "Implementation and benchmarking of perceptual image hash functions") differ in at most BITS places and the
    32 x 32 color thumbnails by at most DIFFERENCE, as flat pictures have equal hashes. Mirrored or cropped copies are
    not found. Returns the columns `first` < `second` (indices) and `distance` (the thumbnails' mean difference).
    """
    thumbnails, signs = _thumbnails(image_set.images)
    found = []
    for start in range(0, len(signs), ROWS):
        distance = (64 - signs[start:start + ROWS] @ signs[start:].T) / 2  # Hamming distance of +-1 signs
        first, second = np.nonzero(np.triu(distance <= BITS, k=1))
        for a, b in zip(*(np.array_split(side + start, len(side) // 4096 + 1) for side in (first, second))):
            mean = np.abs(thumbnails[a].astype(np.int16) - thumbnails[b]).mean(axis=(1, 2, 3))
            found.append(np.stack([a, b, mean])[:, mean <= DIFFERENCE])
    pairs = pd.DataFrame(np.concatenate(found, axis=1).T, columns=["first", "second", "distance"])
    pairs = pairs.astype({"first": np.int64, "second": np.int64})
    return pairs.sort_values(["distance", "first", "second"], ignore_index=True)


def _thumbnails(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N x 3 x H x W pictures to uint8 N x 3 x 32 x 32 thumbnails and +-1 float32 N x 64 perceptual hashes."""
    rows, columns = (np.asarray(Image.fromarray(np.eye(side, dtype=np.float32)).resize(
        (side, 32), Image.Resampling.BOX)) for side in images.shape[2:])  # averaging as a 32 x side matrix
    thumbnails = np.empty((len(images), 3, 32, 32), np.uint8)
    signs = np.empty((len(images), 64), np.float32)
    step = max(1, min(ROWS, VALUES // images[0].size))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        small = rows @ images[part].astype(np.float32) @ columns.T
        frequencies = dctn(small.mean(axis=1), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
        median = np.median(frequencies[:, 1:], axis=1, keepdims=True)  # without the mean brightness
        signs[part] = np.where(frequencies > median, 1, -1)
        thumbnails[part] = small.round()
    return thumbnails, signs


def keep_one(image_set: ImageSet, duplicates: pd.DataFrame) -> np.ndarray:
    """Decide which pictures stay where several are the same: bool (N,), the `keep` of `make_splits`.

    Of each group that the table of `find_duplicates` links one stays, from test rather than validation rather than
    train, so that an official test stays whole. A group with two labels goes: nobody knows which of them is right.
    """
    links = (np.ones(len(duplicates)), duplicates[["first", "second"]].to_numpy(np.int32).T)  # scipy 1.11 needs 32 bits
    group = connected_components(coo_array(links, (len(image_set), len(image_set))), directed=False)[1]
    rank = np.full(len(image_set), len(SPLITS))
    for place, name in enumerate(reversed(SPLITS)):
        rank[image_set.official.get(name, [])] = place
    order = np.lexsort((rank, group))
    kept = order[np.unique(group[order], return_index=True)[1]]  # one for each group, in order
    labels_borne = np.bincount(np.unique([group, image_set.labels], axis=1)[0])
    return np.isin(np.arange(len(image_set)), kept[labels_borne == 1])
