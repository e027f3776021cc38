"""Projected gradient ascent: the search for harmful pictures near given ones that all attacks share."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from common.backbones import evaluation_mode


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients inside; afterwards each module is in the mode it was in, whatever happened.

    In evaluation mode BatchNorm statistics stay, and gradients are taken by the pictures alone, so that
    parameters and their `.grad` stay too.
    """
    with evaluation_mode(model, gradients=True):
        yield


def climb(harm: Callable[..., Tensor], pictures: list[Tensor], eps: float, steps: int, restarts: int, seed: int):
    """Ascend from random starts by steps of 2.5 eps / steps and keep the worst (protocol rule 12).

    Args:
        harm, pictures, eps, steps: as in `ascend`.
        restarts: random starts, 1 or more; the first ones do not depend on how many follow.
        seed: of the starts.

    Returns:
        The pictures, row by row those of most harm over all steps of all restarts, and their harm (B,).
    """
    if steps < 0 or restarts < 1:
        raise ValueError(f"{steps} steps and {restarts} restarts: use 0 steps or more and 1 restart or more")
    starts = random_starts(pictures, eps, restarts, seed)
    size = 2.5 * eps / max(steps, 1)
    return worst_of(chain.from_iterable(ascend(harm, pictures, eps, steps, size, start) for start in starts))


def ascend(harm, pictures: list[Tensor], eps: float, steps: int, step_size: float, start: list[Tensor]):
    """Walk along the sign of the gradient of harm, inside the ball.

    Args:
        harm: called with as many batches as `pictures` holds; returns (B,), to be raised.
        pictures: clean batches, float (B, 3, H, W) in [0, 1].
        eps, steps, step_size: radius of the ball, number and size of the steps.
        start: batches to start from, brought into the ball.

    Yields:
        The batches and their harm (B,): at the start, then after each step.
    """
    bounds = [ball(clean, eps) for clean in pictures]
    current = [begun.detach().clamp(low, high) for begun, (low, high) in zip(start, bounds)]
    for _ in range(steps):
        moved, done = step(harm, current, bounds, step_size)
        yield current, done
        current = moved
    with torch.no_grad():
        done = harm(*current)
    yield current, done


def step(harm, current: list[Tensor], bounds: list[tuple[Tensor, Tensor]], size: float) -> tuple[list[Tensor], Tensor]:
    """One step of `size` up the sign of the gradient, kept between `bounds`: where it leads, and the harm before it."""
    leaves = [batch.detach().requires_grad_() for batch in current]
    done = harm(*leaves)
    slopes = input_gradients(done.sum(), leaves)
    moved = (torch.add(batch, slope.sign(), alpha=size) for batch, slope in zip(current, slopes))
    return [batch.clamp_(low, high) for batch, (low, high) in zip(moved, bounds)], done.detach()


def input_gradients(total: Tensor, pictures: list[Tensor]) -> list[Tensor]:
    """Gradient of a scalar by pictures; zeros where it does not depend on them, which the sanity suite reports."""
    found = torch.autograd.grad(total, pictures, allow_unused=True) if total.requires_grad else [None] * len(pictures)
    return [torch.zeros_like(batch) if slope is None else slope for batch, slope in zip(pictures, found)]


def random_starts(pictures: list[Tensor], eps: float, restarts: int, seed: int) -> Iterator[list[Tensor]]:
    """Uniform noise of up to eps added to every batch, as often as there are restarts."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(restarts):
        moves = (torch.empty(clean.shape).uniform_(-eps, eps, generator=generator) for clean in pictures)
        yield [clean + move.to(clean) for clean, move in zip(pictures, moves)]


def worst_of(path: Iterable[tuple[list[Tensor], Tensor]]) -> tuple[list[Tensor], Tensor]:
    """For each row of the batches on a path, the pictures of most harm, and that harm (B,)."""
    path = iter(path)
    kept, most = next(path)
    for found, done in path:
        worse = done > most
        kept = [torch.where(worse[:, None, None, None], new, old) for new, old in zip(found, kept)]
        most = torch.where(worse, done, most)
    return kept, most


def ball(clean: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest pixels within eps and [0, 1], rounded inward so that the bound holds to the last bit."""
    exact = clean.detach().double()
    low, high = (exact - eps).clamp(min=0), (exact + eps).clamp(max=1)
    return _inward(low, clean, eps), _inward(high, clean, eps)


def check_pictures(eps: float, **batches: Tensor) -> None:
    """Raise ValueError for an eps below 0, and for batches, by their names, that are no pictures in [0, 1]."""
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps is {eps}; use 0 or more, in units of [0, 1], such as 4 / 255")
    for name, batch in batches.items():
        if batch.ndim != 4 or not batch.is_floating_point():
            raise ValueError(f"{name} is {batch.dtype} {tuple(batch.shape)}; give floats of shape (B, 3, H, W)")
        if not torch.isfinite(batch).all():
            raise ValueError(f"{name} has pixels that are not finite; check how the pictures were made")
        if batch.numel() and not (batch.min() >= 0 and batch.max() <= 1):
            raise ValueError(
                f"{name} has pixels from {batch.min():.3g} to {batch.max():.3g}; give pictures in [0, 1] "
                "(normalization belongs inside the model)"
            )


def _inward(end, clean, eps) -> Tensor:
    rounded = end.to(clean.dtype)
    outside = (rounded.double() - clean.detach().double()).abs() > eps
    return torch.where(outside, rounded.nextafter(clean.detach()), rounded)
