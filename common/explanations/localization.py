"""Whether a map points where it should: scores of maps against masks, and the controls every map has to beat."""

import cv2
import numpy as np
import pandas as pd

from common.evaluation.metrics import bootstrap

CONTROLS = ("mask area", "centered Gaussian", "random weights", "color saliency")


def pointing_game(maps, masks) -> np.ndarray:
    """Whether each map's largest value lies in the mask (Zhang et al. 2016, "Top-down Neural Attention").

    Args:
        maps: float (N, H, W), larger where more relevant, finite.
        masks: bool (N, H, W), each with pixels in and out of it.

    Returns:
        float (N,), 1 or 0; where several pixels share the largest value, the share of them that lie in the mask.

    Raises:
        ValueError: shapes that differ, a map that is not finite, or a mask that is empty or the whole picture.
    """
    maps, masks = _checked(maps, masks)
    largest = maps == maps.max(1, keepdims=True)
    return (largest & masks).sum(1) / largest.sum(1)


def relevance_mass(maps, masks) -> np.ndarray:
    """Share of the positive relevance that lies in the mask (Arras et al. 2022, CLEVR-XAI, "relevance mass accuracy").

    Arguments and errors as in `pointing_game`. Returns float (N,), 0 to 1; 0 for a map without a positive value.
    """
    maps, masks = _checked(maps, masks)
    positive = np.maximum(maps, 0)
    return (positive * masks).sum(1) / np.maximum(positive.sum(1), np.finfo(float).tiny)


def relevance_rank(maps, masks) -> np.ndarray:
    """Share of the K most relevant pixels that lie in a mask of K (Arras et al. 2022, "relevance rank accuracy").

    Arguments and errors as in `pointing_game`. Returns float (N,), 0 to 1; pixels of equal relevance, of which some
    but not all are among the K, count in part.
    """
    maps, masks = _checked(maps, masks)
    found = np.empty(len(maps))
    for place, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        size = mask.sum()
        last = np.sort(one)[-size]
        above, equal = one > last, one == last
        found[place] = ((above & mask).sum() + (size - above.sum()) * mask[equal].mean()) / size
    return found


METRICS = {"pointing game": pointing_game, "relevance mass": relevance_mass, "relevance rank": relevance_rank}


def controls(images) -> dict[str, np.ndarray]:
    """Maps that know nothing of a model (protocol rule 16); the fourth control is the model's map at random weights.

    Args:
        images: uint8 (N, 3, H, W).

    Returns:
        Names in CONTROLS -> float32 (N, H, W): the same everywhere, whose relevance mass is the mask's area; a Gaussian
        around the middle, a quarter of the picture wide; and the distance of each pixel's color, smoothed, from the
        picture's mean color in CIELAB (Achanta et al. 2009, "Frequency-tuned Salient Region Detection").
    """
    count, _, high, wide = np.shape(images)
    y, x = (np.linspace(-0.5, 0.5, side) for side in (high, wide))
    gaussian = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.25**2)).astype(np.float32)
    return {
        "mask area": np.ones((count, high, wide), np.float32),
        "centered Gaussian": np.repeat(gaussian[None], count, 0),
        "color saliency": np.stack([_color_saliency(np.moveaxis(image, 0, -1)) for image in images]),
    }


def localization_report(maps: dict[str, np.ndarray], masks, rounds: int = 1000) -> pd.DataFrame:
    """Rate named maps, controls among them, against masks.

    Args:
        maps: name -> float (N, H, W); names in CONTROLS are taken for controls.
        masks: bool (N, H, W).
        rounds: bootstrap draws, of pictures.

    Returns:
        Rows of map, metric, value, low, high, n and `verdict`: "better than all controls" where the interval lies
        above those of all four, else "no better than chance" (rule 16); "control" for a control.

    Raises:
        ValueError: a control is missing, or as in `pointing_game`.
    """
    if missing := [name for name in CONTROLS if name not in maps]:
        raise ValueError(f"no map is judged without its controls; missing: {', '.join(missing)}")
    rows = []
    for metric, measure in METRICS.items():
        for name, one in maps.items():
            rows.append({"map": name, "metric": metric, **mean_with_interval(measure(one, masks), rounds)})
    report = pd.DataFrame(rows)
    highest = report[report["map"].isin(CONTROLS)].groupby("metric")["high"].max()
    better = report["low"] > report["metric"].map(highest)
    verdict = np.where(better, "better than all controls", "no better than chance")
    return report.assign(verdict=np.where(report["map"].isin(CONTROLS), "control", verdict))


def mean_with_interval(values, rounds: int = 1000) -> dict[str, float]:
    """Mean of float (N,) with its bootstrap interval over pictures: value, low, high, n."""
    low, high = bootstrap(lambda weights: np.average(values, weights=weights), len(values), rounds)
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high), "n": len(values)}


def _color_saliency(image: np.ndarray) -> np.ndarray:
    """Saliency float32 (H, W) of a uint8 picture (H, W, 3)."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.linalg.norm(cv2.GaussianBlur(lab, (5, 5), 0) - lab.mean((0, 1)), axis=2)


def _checked(maps, masks) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, pixels), or ValueError."""
    maps, masks = np.asarray(maps, float), np.asarray(masks)
    if maps.shape != masks.shape or maps.ndim != 3 or masks.dtype != bool:
        raise ValueError(
            f"maps {maps.shape} and masks {masks.dtype} {masks.shape} must be float and bool of one shape (N, H, W); "
            "`enlarge` brings maps to the pictures' size"
        )
    maps, masks = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
    if not np.isfinite(maps).all():
        raise ValueError(f"map {int(np.argmin(np.isfinite(maps).all(1)))} is not finite")
    useless = masks.all(1) | ~masks.any(1)
    if useless.any():
        raise ValueError(f"mask {int(np.argmax(useless))} is empty or the whole picture: leave that picture out")
    return maps, masks
