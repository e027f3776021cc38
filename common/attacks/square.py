"""An attack without gradients, for models that may hide theirs."""

import torch
from torch import Tensor

from common.attacks.gradient import Attacked, attacked, ball, pair_harm, worst
from common.backbones import evaluation_mode


def square(model, first: Tensor, second: Tensor, same: Tensor, eps: float, queries: int = 200) -> Attacked:
    """Random search by scores alone, so that nothing in a model can hide from it by hiding its gradients.

    Square Attack (Andriushchenko et al. 2020) in short: from stripes of +-eps, each query repaints a random square
    with +-eps per color and keeps it where it does harm; the square's area shrinks from 0.8 to 0.01 of the picture as
    queries are spent. Changes the first pictures; other arguments as in `pgd`.
    """
    generator = torch.Generator().manual_seed(0)

    def painted(*shape):
        signs = torch.randint(2, shape, generator=generator) * 2 - 1
        return first + eps * signs.to(first)

    with evaluation_mode(model):
        harm, _ = pair_harm(model, first, second, same, eps)
        count, colors, height, width = first.shape
        bounds = ball(first, eps)
        best = painted(count, colors, 1, width).clamp(*bounds)
        most = harm(best)
        for query in range(queries):
            side = (0.8 * 0.0125 ** (query / queries)) ** 0.5
            rows, columns = (_windows(count, length, side, generator) for length in (height, width))
            inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(first.device)
            tried = torch.where(inside, painted(count, colors, 1, 1), best).clamp(*bounds)
            best, most = worst([(best, most), (tried, harm(tried))])
    return attacked(best, most, second, same)


def _windows(count: int, length: int, share: float, generator) -> Tensor:
    """One random interval of a share of `length` for each of `count` rows: bool (count, length)."""
    size = max(1, round(share * length))
    begin = torch.randint(length - size + 1, (count, 1), generator=generator)
    place = torch.arange(length)
    return (place >= begin) & (place < begin + size)
