"""Integrated gradients of a pair's score: maps whose sum is what a picture's content adds to it."""

import numpy as np
import torch
from torch import Tensor, nn

from common.backbones import evaluation_mode
from common.explanations.maps import both_directions, check_maps

STEPS = 16  # of the path; the sum then misses the score's change by a few percent


def plain(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) of one color each, the mean of the picture's: blurring alone would keep colors in place."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def pair_integrated_gradients(model: nn.Module, first: Tensor, second: Tensor, same=None, block: int = 4):
    """Maps of the first picture given the second, and the reverse, each on the way from plain color to picture.

    Sundararajan et al. 2017, equation 1 as a midpoint sum over STEPS steps. A gradient at one point says how the score
    would change next; where a score is saturated that is little. Added up along a path it says what made the score.

    Args:
        model: has `score_embeddings`; its mode and its parameters' gradients stay as they are, frozen or not.
        first, second: float (B, 3, H, W) in [0, 1].
        same: (B,), 1 explains the score and 0 its negative; default: all 1.
        block: side of the square of pixels that is summed to one location, which must divide H and W.

    Returns:
        Two float32 arrays (B, H / block, W / block), signed and unscaled; each map sums to the score of the picture
        minus that of `plain`, but for the error of the sum.

    Raises:
        ValueError: a map that is zero everywhere or not finite, or a `block` that does not divide the sides.
    """
    if first.shape[2] % block or first.shape[3] % block:
        raise ValueError(f"block is {block}, which does not divide pictures of {tuple(first.shape[2:])} pixels")
    return both_directions(lambda score, images: along_path(score, images, block), model, first, second, same)


def along_path(score: nn.Module, images: Tensor, block: int = 4) -> np.ndarray:
    """What each block of pixels adds to a model's output (B, 1) on the way from plain color to the picture.

    For one direction of a pair, `score` is a `PairScore`; the rest is as in `pair_integrated_gradients`.
    """
    start, total = plain(images), torch.zeros_like(images)
    with evaluation_mode(score, gradients=True):
        for step in range(STEPS):
            between = torch.lerp(start, images.detach(), (step + 0.5) / STEPS).requires_grad_()
            total += torch.autograd.grad(score(between).sum(), between)[0] / STEPS
    added = (total * (images - start)).sum(1).detach()
    maps = block**2 * nn.functional.avg_pool2d(added, block).cpu().numpy()
    check_maps(maps, "pixels")
    return maps
