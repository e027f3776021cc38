"""Whether a map points where it should: its mass on a mask, and the controls every map has to beat."""

from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
import pandas as pd

from common.evaluation.metrics import interval

CONTROLS = ("mask area", "centered Gaussian", "random weights", "color saliency")


def relevance_mass(maps, masks) -> np.ndarray:
    """Share of the positive relevance that lies in the mask (Arras et al. 2022, CLEVR-XAI, "relevance mass accuracy").

    `maps` are float and `masks` bool (N, H, W); ValueError where a map is not finite, or a mask empty or the whole
    picture. Returns float (N,), 0 for a map without a positive value.
    """
    maps, masks = _checked(maps, masks)
    positive = np.maximum(maps, 0)
    return (positive * masks).sum(1) / np.maximum(positive.sum(1), np.finfo(float).tiny)


def controls(images) -> dict[str, np.ndarray]:
    """Maps that know nothing of a model (protocol rule 16); the fourth control is the model's map at random weights.

    Returns:
        Names in CONTROLS -> float32 (N, H, W): the same everywhere, whose relevance mass is the mask's area; a Gaussian
        around the middle, a quarter of the picture wide; and the distance of each pixel's color, smoothed, from the
        picture's mean color in CIELAB (Achanta et al. 2009, "Frequency-tuned Salient Region Detection").
    """
    count, _, high, wide = np.shape(images)
    y, x = (np.linspace(-0.5, 0.5, side) for side in (high, wide))
    gaussian = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.25**2)).astype(np.float32)
    lab = [cv2.cvtColor(np.moveaxis(image, 0, -1).astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in images]
    distances = [np.linalg.norm(cv2.GaussianBlur(one, (5, 5), 0) - one.mean((0, 1)), axis=2) for one in lab]
    return {
        "mask area": np.ones((count, high, wide), np.float32),
        "centered Gaussian": np.repeat(gaussian[None], count, 0),
        "color saliency": np.stack(distances),
    }


def against_controls(measures: Mapping[str, Callable], pictures: int, rounds: int = 1000) -> pd.DataFrame:
    """Rate maps beside their controls, on the same resampled pictures (protocol rule 16).

    `measures` are those of `ground_truth.graded`, one for each map by its name, all CONTROLS among them; one named
    "pair CAM, random weights" is the control of that map alone. `pictures` says of how many.

    Returns:
        Rows by name: value, low, high, n, and verdict: "control", or "beats all controls" where the paired interval of
        the difference to each of the four lies above 0, else "not shown to beat" and those.
    """
    judged, rows = [name for name in measures if not name.endswith(CONTROLS)], {}
    own = {name: {one: measures.get(f"{name}, {one}", measures.get(one)) for one in CONTROLS} for name in judged}
    if missing := [one for one in CONTROLS if any(controls[one] is None for controls in own.values())]:
        raise ValueError(f"no map is judged without its controls; missing: {', '.join(missing)}")
    for name, measure in measures.items():
        gaps = {one: partial(difference, measure, control) for one, control in own.get(name, {}).items()}
        unbeaten = [one for one, gap in gaps.items() if interval(gap, pictures, rounds)["low"] <= 0]
        verdict = f"not shown to beat {', '.join(unbeaten)}" if unbeaten else "beats all controls"
        rows[name] = interval(measure, pictures, rounds) | {"verdict": verdict if gaps else "control"}
    return pd.DataFrame.from_dict(rows, orient="index")


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
