"""Gradient attacks: small changes to pictures in [0, 1] that turn a model's score against it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from common.backbones import evaluation_mode
from common.datasets.batches import exact


class Attacked(NamedTuple):
    """Pictures as an attack leaves them, float (B, 3, H, W), and the model's scores (B,) of these very pictures."""

    first: Tensor
    second: Tensor
    scores: Tensor


def pgd(
    model, first: Tensor, second: Tensor, same: Tensor, eps: float, steps: int = 20, restarts: int = 3,
    which: str = "first", seed: int = 0,
) -> Attacked:  # fmt: skip
    """Projected gradient descent in the L-infinity ball (Madry et al. 2018), protocol rule 12.

    Steps of 2.5 eps / steps along the sign of the score's gradient: down for a same pair, up for a different one. Of
    all steps of all starts each pair keeps its worst. The first start is the clean picture, so that no attack does
    less harm than none; the others are random, and the first ones do not depend on how many follow. `which` is "first"
    (the second pictures stay, and are embedded once) or "both". No pixel ends further than eps from its clean value
    or outside [0, 1], to the last bit. Raises ValueError for shapes that do not fit, pixels that are not finite or not
    in [0, 1], and a negative eps.
    """
    if steps < 0 or restarts < 1:
        raise ValueError(f"{steps} steps and {restarts} restarts: use 0 steps or more and 1 restart or more")
    with evaluation_mode(model, gradients=True):
        harm, images = pair_harm(model, first, second, same, eps, which)
        found = strongest(harm, images, eps, steps, restarts, seed)
    return attacked(*found, second, same)


def fgsm(model, first: Tensor, second: Tensor, same: Tensor, eps: float) -> Attacked:
    """Fast gradient sign method (Goodfellow et al. 2015): `pgd` of one step, clipped to eps, or none where it helps."""
    return pgd(model, first, second, same, eps, steps=1, restarts=1)


def noise(model, first: Tensor, second: Tensor, same: Tensor, eps: float, draws: int = 10, seed: int = 0) -> Attacked:
    """The control: uniform noise of up to eps, of some draws the worst."""
    generator = torch.Generator().manual_seed(seed)
    with evaluation_mode(model):
        harm, images = pair_harm(model, first, second, same, eps)
        starts = (noisy(images, eps, generator) for _ in range(draws))
        found = worst((start, harm(start)) for start in starts)
    return attacked(*found, second, same)


def transfer(source, target, first, second, same, eps: float, **options) -> Attacked:
    """What `pgd` finds against `source`, scored by another model, `target`; options as of `pgd`."""
    found = pgd(source, first, second, same, eps, **options)
    with evaluation_mode(target):
        return found._replace(scores=target.score(found.first, found.second))


def strongest(harm: Callable[[Tensor], Tensor], images: Tensor, eps: float, steps: int, restarts: int, seed: int):
    """Of all steps of `ascend` from the clean and from random starts, each picture's worst, and its harm (B,)."""
    generator = torch.Generator().manual_seed(seed)
    starts = chain([images], (noisy(images, eps, generator) for _ in range(restarts - 1)))
    return worst(chain.from_iterable(ascend(harm, images, eps, steps, start) for start in starts))


def ascend(harm, images: Tensor, eps: float, steps: int, start: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Raise harm(images), (B,), within the ball: yield pictures and their harm at the start, then after each step."""
    bounds, current = ball(images, eps), start.detach()
    for _ in range(steps):
        moved, done = step(harm, current, 2.5 * eps / steps, bounds)
        yield current, done
        current = moved
    with torch.no_grad():
        done = harm(current)
    yield current, done


def step(harm, images: Tensor, size: float, bounds: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """One step of `size` along the sign of the gradient, clipped to `bounds`; and the harm before it."""
    images = images.detach().requires_grad_()
    done = harm(images)
    moved = images + size * input_gradient(done.sum(), images).sign()
    return moved.detach().clamp(*bounds), done.detach()


def input_gradient(total: Tensor, images: Tensor) -> Tensor:
    """Gradient of a scalar by pictures; zeros where it does not depend on them, which the examination reports."""
    return torch.autograd.grad(total + 0 * images.sum(), images)[0]


def worst(path: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of all pictures and their harm (B,) on a path, each picture at its most harmful, and that harm."""
    path = iter(path)
    images, harm = next(path)
    for shown, done in path:
        worse = done > harm
        images, harm = torch.where(worse[:, None, None, None], shown, images), torch.where(worse, done, harm)
    return images, harm


def noisy(images: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """Pictures with uniform noise of up to eps."""
    moves = torch.empty(images.shape).uniform_(-eps, eps, generator=generator)
    return (images + moves.to(images)).clamp(*ball(images, eps))


def ball(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest pixels within eps and [0, 1], rounded inward so that the bound holds to the last bit."""
    true = exact(images.detach())
    clean = images.detach().to(true.device)

    def inward(end):
        rounded = end.to(clean.dtype)
        return torch.where((rounded.double() - true).abs() > eps, rounded.nextafter(clean), rounded).to(images.device)

    return inward((true - eps).clamp(min=0)), inward((true + eps).clamp(max=1))


def pair_harm(model, first: Tensor, second: Tensor, same: Tensor, eps: float, which: str = "first"):
    """The harm of pairs and the pictures an attack may change, all arguments checked; called in evaluation mode.

    Harm is the score where it should be low, minus the score where it should be high. Both sides are one batch of
    twice as many pictures, and each half is told the harm of its pair.
    """
    _check_images(eps, first, second)
    if first.shape != second.shape or same.shape != first.shape[:1]:
        shapes = [tuple(given.shape) for given in (first, second, same)]
        raise ValueError(f"first, second and same are {shapes}; give (B, 3, H, W) twice and (B,)")
    if not ((same == 0) | (same == 1)).all() or which not in ("first", "both"):
        raise ValueError(f"which is {which!r}; use 'first' or 'both', and same of 1 (same) and 0 (different) only")
    direction = 1 - 2 * same.to(second)
    if which == "both":
        both = torch.cat([first, second])
        return lambda images: (direction * model.score_embeddings(*model(images).chunk(2))).repeat(2), both
    with torch.no_grad():
        held = model(second)
    return lambda images: direction * model.score_embeddings(model(images), held), first


def attacked(images: Tensor, harm: Tensor, second: Tensor, same: Tensor) -> Attacked:
    """Pictures and harm of `pair_harm` as `Attacked`: the sides apart, the scores with their own sign."""
    first, *other = images.split(len(same))
    return Attacked(first, *(other or [second]), harm[: len(same)] * (1 - 2 * same.to(harm)))


def _check_images(eps: float, *batches: Tensor) -> None:
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps is {eps}; use 0 or more, in units of [0, 1], such as 4 / 255")
    for images in batches:
        if images.ndim != 4 or not images.is_floating_point() or not ((images >= 0) & (images <= 1)).all():
            found = f"{images.dtype} {tuple(images.shape)} from {images.min():.3g} to {images.max():.3g}"
            raise ValueError(f"pictures are {found}; give floats (B, 3, H, W) in [0, 1], not normalized")
