"""Whether a map tells what the score hangs on: pixels are taken away or put back, the picture is moved a little."""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from sklearn.metrics import auc
from torch import Tensor, nn

from common.backbones import evaluation_mode
from common.evaluation.metrics import bootstrap
from common.explanations.localization import mean_with_interval
from common.explanations.maps import PairScore, embeddings

STEPS = 10  # of a curve


def blurred(images: Tensor) -> Tensor:
    """Float pictures (B, 3, H, W) out of focus (a Gaussian of an eighth of the side): what stands for "taken away"."""
    sigma = min(images.shape[2:]) / 8
    soft = [cv2.GaussianBlur(one, (0, 0), sigma) for one in images.detach().cpu().permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(soft)).permute(0, 3, 1, 2).to(images)


@torch.no_grad()
def curve(score: nn.Module, images: Tensor, maps, insert: bool, steps: int = STEPS) -> np.ndarray:
    """The score while pixels are taken away, the most relevant first, or put back (Petsiuk et al. 2018, RISE).

    Args:
        score: model of pictures (B, 3, H, W) with output (B, 1), such as a `PairScore`.
        images: float (B, 3, H, W) in [0, 1].
        maps: float (B, H, W).
        insert: put pixels back into the blurred picture, instead of blurring those of the picture.
        steps: of equally many pixels.

    Returns:
        float64 (B, steps + 1).
    """
    order = np.argsort(-np.reshape(maps, (len(images), -1)), axis=1, kind="stable")
    rank = torch.from_numpy(np.argsort(order, axis=1)).reshape(len(images), 1, *images.shape[2:]).to(images.device)
    start, end = (blurred(images), images) if insert else (images, blurred(images))
    shares = np.linspace(0, 1, steps + 1) * rank[0].numel()
    with evaluation_mode(score):
        return np.stack([_scores(score, torch.where(rank < share, end, start)) for share in shares], 1)


def area(curves, insert: bool, weights=None) -> float:
    """Area under the mean curve, scaled so that 1 is the whole picture's score and 0 the blurred picture's.

    High is good for insertion, low for deletion. The means are scaled, not each curve: a single picture that
    blurring hardly changes would outweigh all others.

    Args:
        curves: float (B, steps + 1), see `curve`.
        insert: as there.
        weights: float (B,), how often each picture counts.
    """
    mean = np.average(curves, axis=0, weights=weights)
    empty, whole = (mean[0], mean[-1]) if insert else (mean[-1], mean[0])
    return float((auc(np.linspace(0, 1, len(mean)), mean) - empty) / (whole - empty))


def road(score: nn.Module, images: Tensor, maps, seed: int = 0) -> np.ndarray:
    """Remove and debias (Rong et al. 2022): how much more the score falls with relevant pixels gone than with others.

    Pixels are filled in from their neighbors, so that the hole's shape gives nothing away. The package grad-cam's
    `ROADCombined` over 10 to 90 % of the pixels.

    Args:
        score, images, maps: as in `curve`.
        seed: of the noise in the filling.

    Returns:
        float (B,): half the mean difference of the score; positive is good, 0 is a map that says nothing.
    """
    maps = np.asarray(maps, np.float32)
    with evaluation_mode(score), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ROADCombined()(images, maps, [torch.squeeze] * len(images), score)


def max_sensitivity(explain: Callable, images: Tensor, radius=0.02, draws: int = 10, seed: int = 0) -> np.ndarray:
    """How far a map moves when its picture hardly does (Yeh et al. 2019, definition 2): small is good.

    Args:
        explain: pictures (B, 3, H, W) -> maps (B, h, w).
        images: float (B, 3, H, W) in [0, 1].
        radius: largest change of a pixel.
        draws: random changes tried, of which the worst counts.
        seed: of these changes.

    Returns:
        float (B,): largest distance of a map to the unchanged picture's, relative to that one's length.
    """
    maps, generator = explain(images), torch.Generator().manual_seed(seed)
    length = np.linalg.norm(maps, axis=(1, 2))
    distances = []
    for _ in range(draws):
        noise = (2 * torch.rand(images.shape, generator=generator) - 1) * radius
        moved = explain((images + noise.to(images)).clamp(0, 1))
        distances.append(np.linalg.norm(moved - maps, axis=(1, 2)) / length)
    return np.max(distances, 0)


def faithfulness_report(model: nn.Module, first: Tensor, second: Tensor, maps: dict, rounds: int = 500) -> pd.DataFrame:
    """Insertion, deletion and ROAD of named maps of the first pictures, given the second.

    Args:
        model: has `score_embeddings`.
        first, second: float (B, 3, H, W) in [0, 1].
        maps: name -> float (B, H, W) of the first pictures.
        rounds: bootstrap draws, of pictures.

    Returns:
        Rows of map, metric ("insertion", "deletion", "ROAD"), value, low, high, n.
    """
    score, rows = PairScore(model, embeddings(model, second)), []
    for name, one in maps.items():
        for metric, insert in (("insertion", True), ("deletion", False)):
            curves = curve(score, first, one, insert)
            low, high = bootstrap(lambda weights: area(curves, insert, weights), len(first), rounds)  # noqa: B023
            found = dict(value=area(curves, insert), low=float(low), high=float(high), n=len(first))
            rows.append({"map": name, "metric": metric, **found})
        rows.append({"map": name, "metric": "ROAD", **mean_with_interval(road(score, first, one), rounds)})
    return pd.DataFrame(rows)


def _scores(score: nn.Module, images: Tensor) -> np.ndarray:
    return score(images)[:, 0].double().cpu().numpy()
