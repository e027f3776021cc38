"""Whether a map points where it should: its mass on a mask, and the controls every map has to beat."""

from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
import pandas as pd

from common.evaluation.metrics import interval, pair_mean_interval, told

CONTROLS = ("uniform", "blob", "color saliency", "random weights")  # no map is judged without these
RIVALS = ("wrong partner", "flower's mask")  # and where they can be had not without these


def relevance_mass(maps, masks) -> np.ndarray:
    """Share of the positive relevance that lies in the mask (Arras et al. 2022, CLEVR-XAI, "relevance mass accuracy").

    `maps` are float and `masks` bool (N, H, W); ValueError where a map is not finite, or a mask empty or the whole
    picture. Returns float (N,), 0 for a map without a positive value.
    """
    maps, masks = _checked(maps, masks)
    positive = np.maximum(maps, 0)
    return (positive * masks).sum(1) / np.maximum(positive.sum(1), np.finfo(float).tiny)


def controls(images) -> dict[str, np.ndarray]:
    """Maps that know nothing of a model (protocol rule 16): names in CONTROLS, but random weights -> float32 (N, H, W).

    The same everywhere, whose relevance mass is the mask's area; a blob, a Gaussian around the middle, a quarter of the
    picture wide; and the distance of each pixel's color, smoothed, from the picture's mean color in CIELAB (Achanta et
    al. 2009, "Frequency-tuned Salient Region Detection").
    """
    count, _, high, wide = np.shape(images)
    y, x = (np.linspace(-0.5, 0.5, side) for side in (high, wide))
    gaussian = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.25**2)).astype(np.float32)
    lab = [cv2.cvtColor(np.moveaxis(image, 0, -1).astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in images]
    distances = [np.linalg.norm(cv2.GaussianBlur(one, (5, 5), 0) - one.mean((0, 1)), axis=2) for one in lab]
    return {
        "uniform": np.ones((count, high, wide), np.float32),
        "blob": np.repeat(gaussian[None], count, 0),
        "color saliency": np.stack(distances),
    }


def leads(measures: Mapping, pictures, rounds: int = 1000) -> pd.DataFrame:
    """By how much maps do better than their controls, on the same resampled pictures (protocol rule 16).

    `measures` take weights (R, N), one for each map by its name, CONTROLS (else ValueError) and perhaps RIVALS among
    them; one named "pair CAM, random weights" is the control of that map alone. `pictures` says of how many; or it is
    pairs (P, 2), and all `measures` are values (P,) of these. Returns rows as `plotting.dot_panels` draws them: group
    (the map), row (the control), value, low, high, n, text.
    """
    rows = []
    for name in [name for name in measures if not name.endswith(CONTROLS + RIVALS)]:
        own = {one: measures.get(f"{name}, {one}", measures.get(one)) for one in CONTROLS + RIVALS}
        if missing := [one for one in CONTROLS if own[one] is None]:
            raise ValueError(f"no map is judged without its controls; missing: {', '.join(missing)}")
        for one, control in own.items():
            if control is not None:
                gap = (pair_mean_interval(measures[name] - control, pictures, rounds) if np.ndim(pictures) else
                       interval(partial(difference, measures[name], control), pictures, rounds))  # fmt: skip
                rows.append({"group": name, "row": one, **gap, "text": told(gap)})
    return pd.DataFrame(rows)


def difference(one: Callable, other: Callable, weights) -> np.ndarray:
    """By how much one measure is more than another of the same pictures, resampled alike."""
    return one(weights) - other(weights)


def _checked(maps, masks) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, pixels), or ValueError."""
    maps, masks = np.asarray(maps, float), np.asarray(masks)
    if maps.shape != masks.shape or maps.ndim != 3 or masks.dtype != bool:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape}, {masks.dtype}, must be float and bool (N, H, W)")
    maps, masks = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
    if not np.isfinite(maps).all():
        raise ValueError(f"map {int(np.argmin(np.isfinite(maps).all(1)))} is not finite")
    useless = masks.all(1) | ~masks.any(1)
    if useless.any():
        raise ValueError(f"mask {int(np.argmax(useless))} is empty or the whole picture: leave that picture out")
    return maps, masks
