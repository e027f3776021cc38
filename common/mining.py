"""Which pairs and triplets of a batch are learned from: labels int (B,) and distances float (B, B) in, indices out.

Triplets are anchor, positive and negative, each int (T,): anchor and positive are two pictures of one class, the
negative is of another. An anchor without a positive or a negative is left out.
"""

import torch
from torch import Tensor


def all_pairs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of a batch once: first and second index, both int (P,), P = B (B - 1) / 2, and same, bool (P,)."""
    first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    return first, second, labels.index_select(0, first) == labels.index_select(0, second)


def balanced_pairs(labels: Tensor, scores: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Each anchor with all its positives and with as many of its negatives, the hardest of them or any.

    With scores, float (B, B), each anchor takes the negatives that score highest. Returns as `all_pairs`, each anchor's
    pairs from its own side; an anchor with fewer negatives takes all it has.
    """
    same = _same(labels)
    positives = _positives(same)
    order = torch.rand(same.shape, device=labels.device) if scores is None else scores
    place = order.masked_fill(same, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    anchor, other = (positives | (~same & (place < positives.sum(1, keepdim=True)))).nonzero(as_tuple=True)
    return anchor, other, same[anchor, other]


def all_triplets(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every triplet of a batch."""
    anchor, positive, same = _anchors_and_positives(labels)
    pair, negative = (~same).nonzero(as_tuple=True)
    return anchor[pair], positive[pair], negative


def random_triplets(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each anchor and positive of a batch with one negative at random."""
    anchor, positive, same = _anchors_and_positives(labels)
    return anchor, positive, torch.rand(same.shape, device=labels.device).masked_fill(same, -1).argmax(1)


def batch_hard(labels: Tensor, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each anchor with its farthest positive and its nearest negative (Hermans et al. 2017, equation 5)."""
    same = _same(labels)
    anchor = (_positives(same).any(1) & ~same.all(1)).nonzero().squeeze(1)
    farthest = distances.masked_fill(~_positives(same), -torch.inf)[anchor].argmax(1)
    return anchor, farthest, distances.masked_fill(same, torch.inf)[anchor].argmin(1)


def semi_hard(labels: Tensor, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each anchor and positive with the nearest negative that is farther than the positive (Schroff et al. 2015).

    Where no negative is farther, the farthest one is taken: the least wrong.
    """
    anchor, positive, same = _anchors_and_positives(labels)
    to_anchor = distances[anchor]
    farther = ~same & (to_anchor > distances[anchor, positive][:, None])
    nearest = to_anchor.masked_fill(~farther, torch.inf).argmin(1)
    farthest = to_anchor.masked_fill(same, -torch.inf).argmax(1)
    return anchor, positive, torch.where(farther.any(1), nearest, farthest)


def _same(labels: Tensor) -> Tensor:
    return labels[:, None] == labels


def _positives(same: Tensor) -> Tensor:
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _anchors_and_positives(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ordered pairs of one class whose anchor has a negative, and same[anchor]: bool (A, B)."""
    same = _same(labels)
    anchor, positive = (_positives(same) & ~same.all(1, keepdim=True)).nonzero(as_tuple=True)
    return anchor, positive, same[anchor]
