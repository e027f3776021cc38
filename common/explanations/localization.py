"""Whether a map points where it should: scores of maps against masks, and the controls every map has to beat."""

import cv2
import numpy as np
import pandas as pd

from common.evaluation.metrics import mean_interval

CONTROLS = ("mask area", "centered Gaussian", "random weights", "color saliency")


def pointing_game(maps, masks) -> np.ndarray:
    """Whether each map's largest value lies in the mask (Zhang et al. 2016, "Top-down Neural Attention").

    `maps` are float and `masks` bool (N, H, W); ValueError where a map is not finite, or a mask empty or the whole
    picture. Returns float (N,), 1 or 0; of several pixels that share the largest value, the share in the mask.
    """
    maps, masks = _checked(maps, masks)
    largest = maps == maps.max(1, keepdims=True)
    return (largest & masks).sum(1) / largest.sum(1)


def relevance_mass(maps, masks) -> np.ndarray:
    """Share of the positive relevance that lies in the mask (Arras et al. 2022, CLEVR-XAI, "relevance mass accuracy").

    As `pointing_game`; 0 for a map without a positive value.
    """
    maps, masks = _checked(maps, masks)
    positive = np.maximum(maps, 0)
    return (positive * masks).sum(1) / np.maximum(positive.sum(1), np.finfo(float).tiny)


def relevance_rank(maps, masks) -> np.ndarray:
    """Share of the K most relevant pixels that lie in a mask of K (Arras et al. 2022, "relevance rank accuracy").

    As `pointing_game`; pixels of equal relevance, of which some but not all are among the K, count in part.
    """
    maps, masks = _checked(maps, masks)
    size = masks.sum(1, keepdims=True)
    last = np.take_along_axis(np.sort(maps, 1), maps.shape[1] - size, 1)
    above, equal = maps > last, maps == last
    counted = above + equal * (size - above.sum(1, keepdims=True)) / equal.sum(1, keepdims=True)
    return (counted * masks).sum(1) / size[:, 0]


METRICS = {"pointing game": pointing_game, "relevance mass": relevance_mass, "relevance rank": relevance_rank}


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


def localization_report(maps: dict[str, np.ndarray], masks, rounds: int = 1000) -> pd.DataFrame:
    """Rate named maps (N, H, W), those in CONTROLS among them, against bool masks (N, H, W).

    Returns:
        Rows of map, metric, value, low, high, n, verdict and unbeaten. The verdict is "beats all controls" where the
        paired interval of the difference to each of the four lies above 0; else `unbeaten` names those it fails.
    """
    if missing := [name for name in CONTROLS if name not in maps]:
        raise ValueError(f"no map is judged without its controls; missing: {', '.join(missing)}")
    rows = []
    for metric, measure in METRICS.items():
        scores = {name: measure(one, masks) for name, one in maps.items()}
        for name, score in scores.items():
            row = {"map": name, "metric": metric, **mean_interval(score, rounds), "verdict": "control", "unbeaten": ""}
            if name not in CONTROLS:
                unbeaten = [one for one in CONTROLS if mean_interval(score - scores[one], rounds)["low"] <= 0]
                row["verdict"] = "does not beat all controls" if unbeaten else "beats all controls"
                row["unbeaten"] = ", ".join(unbeaten)
            rows.append(row)
    return pd.DataFrame(rows)


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
