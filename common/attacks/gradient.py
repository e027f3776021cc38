"""What an enemy does: small changes to pictures in [0, 1] that turn a model's score against it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.attacks.ascent import ascend, ball, check_pictures, climb, random_starts, worst_of
from common.backbones import evaluation_mode


class Attacked(NamedTuple):
    """Pictures as an attack leaves them, float (B, 3, H, W), and the model's scores (B,) of these very pictures."""

    first: Tensor
    second: Tensor
    scores: Tensor


class AttackedQueries(NamedTuple):
    """Queries as an attack leaves them, float (Q, 3, H, W), and how much harm was done to each, (Q,), 0 at most."""

    queries: Tensor
    harm: Tensor


def fgsm(model, first: Tensor, second: Tensor, same: Tensor, eps: float, which: str = "first") -> Attacked:
    """Fast gradient sign method (Goodfellow et al. 2015): one step of size eps from the clean pictures.

    The one-step case of `pgd` but for its start, which is not random. A pair that the step would help stays clean.
    Arguments, result and errors as in `pgd`.
    """
    pictures = _attacked_pictures(first, second, same, eps, which)
    with evaluation_mode(model, gradients=True):
        harm = _pair_harm(model, second, same, which)
        found = worst_of(ascend(harm, pictures, eps, 1, eps, pictures))
    return _attacked(*found, second, same)


def pgd(
    model,
    first: Tensor,
    second: Tensor,
    same: Tensor,
    eps: float,
    steps: int = 20,
    restarts: int = 3,
    which: str = "first",
    seed: int = 0,
) -> Attacked:
    """Projected gradient descent in the L-infinity ball (Madry et al. 2018), protocol rule 12.

    From a random start, steps of size 2.5 eps / steps along the sign of the score's gradient: down for a
    same pair, up for a different one. Of all steps of all restarts each pair keeps its worst.

    Args:
        model: has `score(x1, x2)`, `model(x)` and `score_embeddings(z1, z2)`, higher is more similar.
        first, second: float (B, 3, H, W) in [0, 1].
        same: (B,), 1 for same, 0 for different.
        eps: largest change of a pixel, 0 or more, in units of [0, 1].
        steps: 0 or more; 0 looks at the random starts only.
        restarts: random starts, 1 or more; the first ones do not depend on how many follow.
        which: "first" changes the first pictures, and embeds the second ones once; "both" changes both.
        seed: of the random starts.

    Returns:
        `Attacked`; no pixel is further than eps from its clean value or outside [0, 1], to the last bit.

    Raises:
        ValueError: shapes that do not fit, pixels that are not finite or not in [0, 1], a negative eps.
    """
    pictures = _attacked_pictures(first, second, same, eps, which)
    with evaluation_mode(model, gradients=True):
        found = climb(_pair_harm(model, second, same, which), pictures, eps, steps, restarts, seed)
    return _attacked(*found, second, same)


def noise(model, first, second, same, eps: float, draws: int = 10, which: str = "first", seed: int = 0) -> Attacked:
    """The control: uniform noise of the same size, the worst of some draws. Arguments as in `pgd`."""
    return pgd(model, first, second, same, eps, 0, draws, which, seed)


def pgd_path(model, first, second, same, eps: float, steps: int = 20, which="first", seed: int = 0) -> list[Attacked]:
    """What `pgd` passes through on its first restart: the random start, then each step; arguments as there."""
    pictures = _attacked_pictures(first, second, same, eps, which)
    start = next(random_starts(pictures, eps, 1, seed))
    with evaluation_mode(model, gradients=True):
        path = list(
            ascend(_pair_harm(model, second, same, which), pictures, eps, steps, 2.5 * eps / max(steps, 1), start)
        )
    return [_attacked(*found, second, same) for found in path]


def transfer(source, target, first, second, same, eps: float, **options) -> Attacked:
    """What `pgd` finds against `source` (its further options included), scored by another model, `target`."""
    found = pgd(source, first, second, same, eps, **options)
    with evaluation_mode(target):
        return found._replace(scores=target.score(found.first, found.second))


def square(model, first, second, same, eps: float, queries: int = 200, seed: int = 0) -> Attacked:
    """Random search by scores alone, so that nothing in a model can hide from it by hiding its gradients.

    Square Attack (Andriushchenko et al. 2020) in short: from stripes of +-eps, each query repaints a random
    square with +-eps per color and keeps it where it does harm; the square's area shrinks from 0.8 to
    0.01 of the picture as queries are spent. Changes the first pictures; other arguments as in `pgd`.
    """
    (clean,), (low, high) = _attacked_pictures(first, second, same, eps, "first"), ball(first, eps)
    count, colors, height, width = clean.shape
    generator = torch.Generator().manual_seed(seed)

    def painted(*shape):
        return clean + eps * (torch.randint(2, shape, generator=generator) * 2 - 1).to(clean)

    with evaluation_mode(model):
        harm = _pair_harm(model, second, same, "first")
        best = painted(count, colors, 1, width).clamp(low, high)
        most = harm(best)
        for query in range(queries):
            side = (0.8 * 0.0125 ** (query / queries)) ** 0.5
            rows, columns = (_windows(count, length, side, generator) for length in (height, width))
            inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(clean.device)
            tried = torch.where(inside, painted(count, colors, 1, 1), best).clamp(low, high)
            (best,), most = worst_of([([best], most), ([tried], harm(tried))])
    return _attacked([best], most, second, same)


def retrieval_attack(
    model,
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    eps: float,
    targets: Tensor | None = None,
    steps: int = 20,
    restarts: int = 3,
    seed: int = 0,
) -> AttackedQueries:
    """Change queries so that a clean gallery ranks the wrong pictures first.

    The query attack of Zhou et al. 2020, "Adversarial Ranking Attack and Defense": pictures that should come
    first are C, those they should overtake are X, and the mean over both of max(0, score of x - score of c)
    is driven to 0, where every one of C outranks every one of X. Harm is minus that mean.

    Args:
        model: embeds the queries and has `score_embeddings`.
        queries, eps, steps, restarts, seed: as `first`, ... in `pgd`.
        labels: int (Q,), the queries' classes.
        gallery: float (G, D), embeddings of clean pictures, the queries' own not among them.
        gallery_labels: int (G,).
        targets: None, untargeted: C are the pictures of all other classes, X those of the query's own.
            int (Q,), targeted: C are the pictures of this class, X all others.

    Raises:
        ValueError: bad pictures as in `pgd`, or a query for which C or X is empty.
    """
    check_pictures(eps, queries=queries)
    wanted = labels[:, None] != gallery_labels if targets is None else targets[:, None] == gallery_labels
    if not (wanted.any(1) & ~wanted.all(1)).all():
        raise ValueError("the gallery needs pictures of each query's class (or target) and of others; check the labels")

    def harm(changed):
        scores = model.score_embeddings(model(changed)[:, None], gallery[None])
        ahead = [row[~raised][:, None] - row[raised] for row, raised in zip(scores, wanted)]
        return torch.stack([-gap.clamp(min=0).mean() for gap in ahead])

    with evaluation_mode(model, gradients=True):
        (changed,), done = climb(harm, [queries], eps, steps, restarts, seed)
    return AttackedQueries(changed, done)


def _pair_harm(model, second, same, which) -> Callable[..., Tensor]:
    """The score where it should be low, minus the score where it should be high."""
    direction = 1 - 2 * same.to(second)
    if which == "both":
        return lambda one, other: direction * model.score(one, other)
    with torch.no_grad():
        held = model(second)
    return lambda one: direction * model.score_embeddings(model(one), held)


def _attacked(found, done, second, same) -> Attacked:
    return Attacked(found[0], found[-1] if len(found) == 2 else second, done * (1 - 2 * same.to(done)))


def _windows(count, length, share, generator) -> Tensor:
    """One random interval of a share of `length` for each of `count` rows: bool (count, length)."""
    size = max(1, round(share * length))
    begin = torch.randint(length - size + 1, (count, 1), generator=generator)
    place = torch.arange(length)
    return (place >= begin) & (place < begin + size)


def _attacked_pictures(first, second, same, eps, which) -> list[Tensor]:
    """The batches an attack may change, once all arguments are checked."""
    check_pictures(eps, first=first, second=second)
    if first.shape != second.shape or same.shape != first.shape[:1]:
        shapes = ", ".join(str(tuple(batch.shape)) for batch in (first, second, same))
        raise ValueError(f"first, second and same are {shapes}; give (B, 3, H, W) twice and (B,)")
    if not ((same == 0) | (same == 1)).all():
        raise ValueError("same must hold 1 (same) and 0 (different) only")
    if which not in ("first", "both"):
        raise ValueError(f"which is {which!r}; use 'first' or 'both'")
    return [first, second] if which == "both" else [first]
