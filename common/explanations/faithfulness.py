"""Whether a map tells what the score hangs on: pixels are taken away, the weights destroyed."""

import cv2
import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor, nn

from common.backbones import evaluation_mode

STEPS = 10  # of a curve
OFF = 0.01  # gains that start below this all but switch their block off


def blurred(images: Tensor) -> Tensor:
    """Pictures out of focus (a Gaussian of an eighth of the side): what stands for "taken away"."""
    sigma = min(images.shape[2:]) / 8
    soft = [cv2.GaussianBlur(one, (0, 0), sigma) for one in images.detach().cpu().permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(soft)).permute(0, 3, 1, 2).to(images)


def curve(score: nn.Module, images: Tensor, maps, insert: bool) -> np.ndarray:
    """The score while pixels are taken away, the most relevant first, or put back (Petsiuk et al. 2018, RISE).

    `score` is a model with outputs (B, 1), such as a `PairScore`; `maps` are (B, H, W); `insert` puts pixels back into
    the blurred picture, instead of blurring those of the picture. Returns float64 (B, STEPS + 1).
    """
    order = np.argsort(-np.reshape(maps, (len(images), -1)), axis=1, kind="stable")
    rank = torch.from_numpy(np.argsort(order, axis=1)).reshape(len(images), 1, *images.shape[2:]).to(images.device)
    start, end = (blurred(images), images) if insert else (images, blurred(images))
    counts = np.linspace(0, 1, STEPS + 1) * rank[0].numel()
    with evaluation_mode(score):
        scores = [score(torch.where(rank < count, end, start))[:, 0] for count in counts]
    return torch.stack(scores, 1).cpu().double().numpy()


def area(curves, insert: bool, weights=None) -> float:
    """Area under the mean of curves (B, STEPS + 1), scaled: 1 is the whole picture's score, 0 the blurred picture's.

    High is good for insertion, low for deletion. The means are scaled, not each curve: a single picture that
    blurring hardly changes would outweigh all others. `weights` (R, B) say how often each picture counts: an area each.
    """
    means = np.mean(curves, 0) if weights is None else weights @ curves / weights.sum(1, keepdims=True)
    empty, whole = (means[..., 0], means[..., -1]) if insert else (means[..., -1], means[..., 0])
    return (trapezoid(means, dx=1 / (means.shape[-1] - 1)) - empty) / (whole - empty)


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model at random weights: a control that no localization goes without.

    Many networks begin training with every residual block switched off by a gain of 0 (Goyal et al. 2017, section 5.1)
    or nearly 0 (LayerScale, Touvron et al. 2021), so that random weights would destroy nothing. Here those gains are 1.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        fresh = type(model)(**model.arguments)
        for name, gain in fresh.named_parameters():
            one_each = gain.ndim and gain.numel() == len(gain)  # channel
            if one_each and not name.endswith("bias") and gain.abs().max() < OFF:
                gain.fill_(1)
    return fresh.to(next(model.parameters()).device).eval()
