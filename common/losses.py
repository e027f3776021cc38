"""What is minimized: losses of embeddings, distances and scores, and the objectives that trainings are given.

An objective takes the embeddings (B, D) and labels (B,) of a batch and returns named terms, whose sum is minimized.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common import mining
from common.datasets.batches import exact


class CenterLoss(nn.Module):
    """Pull every embedding to its species' center, and every center to its species' embeddings.

    Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition": equation 2 is the value
    (here the mean over the batch instead of the sum), equation 4 the gradient the centers get, whatever weight the
    loss has beside others. Their own SGD with a learning rate of 0.5 is the paper's rule with alpha = 0.5.
    """

    def __init__(self, classes: int, embedding_size: int):
        """Make one random center for each of `classes` species."""
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, embedding_size))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Half the mean squared distance between embeddings and their centers: a scalar that moves embeddings only."""
        return (embeddings - self.centers[labels].detach()).square().sum(1).mean() / 2

    def center_step(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """A scalar of value 0, its gradient by the centers is equation 4; apart, so that no weight slows them."""
        members = torch.bincount(labels, minlength=len(self.centers))[labels]
        distances = (embeddings.detach() - self.centers[labels]).square().sum(1)
        update = (distances / (1 + members)).sum() / 2
        return update - update.detach()

    def terms(self, embeddings: Tensor, labels: Tensor, weight: float) -> Tensor:
        """The loss times `weight`, and the centers' own step."""
        return weight * self(embeddings, labels) + self.center_step(embeddings, labels)


def contrastive_loss(distances: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Pull same pairs together, push different pairs apart until the margin (Hadsell et al. 2006, equation 4).

    Their Y is 1 for a different pair; here same is 1. Of float distances (P,), 0 or more, and bool same (P,) returns
    d^2 / 2 for a same pair and max(0, margin - d)^2 / 2 for a different one.
    """
    return torch.where(same, distances, F.relu(margin - distances)).square() / 2


def triplet_loss(to_positive: Tensor, to_negative: Tensor, margin: float | None = 0.2) -> Tensor:
    """Ask of each triplet that its negative be farther than its positive, by a margin.

    Of the anchor's distances, float (T,), returns max(0, d_ap - d_an + margin) (Schroff et al. 2015, equation 1); with
    None the soft margin log(1 + exp(d_ap - d_an)), which never stops asking for more (Hermans et al. 2017, section 2).
    """
    violation = to_positive - to_negative
    return F.softplus(violation) if margin is None else F.relu(violation + margin)


def pairwise_distances(embeddings: Tensor, squared: bool = False) -> Tensor:
    """Euclidean distances (B, B) between embeddings scaled to unit length, 0 to 2; squared, they are 2 - 2 cosine.

    Equal ones, nearer than 1e-7, have the distance 0 and no gradient. In single precision at least.
    """
    distances = _Distances.apply(F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))))
    return distances.square() if squared else distances


class _Distances(torch.autograd.Function):
    """Distances (B, B) between rows (B, D): two products of matrices there and back, where autograd takes three."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        wide = exact(rows)
        squares = wide.square().sum(1)
        # A product is faster than B x B differences, but in single precision its rounding would hide what is near 0.
        distances = torch.addmm(squares[:, None] + squares, wide, wide.T, alpha=-2).clamp_(min=0).sqrt_()
        distances = F.threshold_(distances, 1e-7, 0).to(rows)
        ctx.save_for_backward(rows, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx, slopes: Tensor) -> Tensor:
        rows, distances = ctx.saved_tensors
        pulls = ((slopes + slopes.T) / distances).masked_fill_(distances == 0, 0)
        with torch.autocast("cuda" if rows.is_cuda else "cpu", enabled=False):  # for attacks; torch 2.4 refuses "mps"
            return pulls.sum(1, keepdim=True) * rows - pulls @ rows  # sums of pulls[i, j] (rows[i] - rows[j])


class Classification(nn.Module):
    """Cross-entropy on the species, joined with center loss by a weight (Wen et al. 2016, equation 5)."""

    def __init__(self, classify: Callable, classes: int, embedding_size: int, center_weight: float = 0.0):
        """`classify` makes logits (B, C) of embeddings (B, D), such as `model.classify`.

        The weight is the paper's lambda; 0 is plain cross-entropy, whose centers only watch. Raises ValueError below 0.
        """
        super().__init__()
        _check_weight(center_weight)
        self.classify, self.center_weight = classify, center_weight
        self.center_loss = CenterLoss(classes, embedding_size)
        self.stuck_at = {"cross_entropy": math.log(classes)}

    def forward(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms "cross_entropy" and "center"."""
        center = self.center_loss.terms(embeddings, labels, self.center_weight)
        return {"cross_entropy": self.attack_loss(embeddings, labels), "center": center}

    def attack_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """What an attack in adversarial training raises: the cross-entropy alone, since centers follow slowly."""
        return F.cross_entropy(self.classify(embeddings), labels)


class PairJudgment(nn.Module):
    """Judge the pairs of a batch, same and different ones counting half each; joined with center loss by a weight.

    A batch of B pictures gives up to B (B - 1) / 2 pairs for the price of B embeddings. Each kind is averaged over its
    pairs; different ones of the contrastive loss over those inside the margin, or the others would drown them.
    """

    def __init__(
        self, score: Callable, classes: int, embedding_size: int, loss: str = "pair_cross_entropy",
        negatives: str = "all", center_weight: float = 0.0, margin: float = 1.0,
    ):  # fmt: skip
        """
        Args:
            score: two embeddings (..., D) -> scores (...), such as `model.score_embeddings`.
            classes: number of species, each with a center.
            embedding_size: length of an embedding.
            loss: "pair_cross_entropy" of the score, as the logit of "same" (Koch et al. 2015), or "contrastive" on the
                distance between unit-length embeddings (Hadsell et al. 2006).
            negatives: which different pairs: "all"; or of each anchor as many as it has same pairs, "random" ones or
                those that score highest, "hard".
            center_weight: weight of center loss, 0 or more; at 0 there is none.
            margin: of the contrastive loss, between 0 and 2, the distance of opposite embeddings.

        Raises:
            ValueError: an unknown loss or kind of negatives, or a weight or margin out of range.
        """
        super().__init__()
        _check_choice("loss", loss, ("pair_cross_entropy", "contrastive"))
        _check_choice("negatives", negatives, ("all", "random", "hard"))
        _check_weight(center_weight)
        if not 0 < margin <= 2:
            raise ValueError(f"margin is {margin}; unit-length embeddings are 0 to 2 apart")
        self.score, self.loss, self.negatives = score, loss, negatives
        self.center_weight, self.margin = center_weight, margin
        self.center_loss = CenterLoss(classes, embedding_size)
        self.stuck_at = {"pairs": math.log(2)} if loss == "pair_cross_entropy" else {}

    def forward(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The term "pairs" and, at a weight above 0, "center"."""
        terms = {"pairs": self._pairs(embeddings, labels)}
        if self.center_weight:
            terms["center"] = self.center_loss.terms(embeddings, labels, self.center_weight)
        return terms

    def _pairs(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.negatives == "all":
            first, second, same = mining.all_pairs(labels)
        else:
            hard = self.negatives == "hard"
            scores = self.score(embeddings[:, None], embeddings[None]).detach() if hard else None
            first, second, same = mining.balanced_pairs(labels, scores)
        if self.loss == "contrastive":
            losses = contrastive_loss(_entries(pairwise_distances(embeddings), first, second), same, self.margin)
            active = losses.detach() > 0
        else:
            logits = self.score(embeddings[first], embeddings[second])
            losses = F.binary_cross_entropy_with_logits(logits, same.to(logits), reduction="none")
            active = torch.ones_like(same)
        # A batch without one of the kinds has nothing to say about it: 0, not the mean of nothing.
        kinds = (losses[kind].sum() / kind.sum().clamp(min=1) for kind in (same, ~same & active))
        return sum(kinds) / 2


class TripletJudgment(nn.Module):
    """Ask the triplets of a batch to have their negative farther than their positive, by a margin.

    `watched` holds, of the latest batch that had a triplet, how many and which share still violate the margin, and the
    mean distances to positives and negatives.
    """

    MINING = ("random", "batch_all", "batch_hard", "semi_hard", "given")

    def __init__(self, mining: str = "semi_hard", margin: float | None = 0.2, squared: bool = False):
        """
        Args:
            mining: which triplets: "random" (one negative for each anchor and positive), "batch_all" (every one,
                averaged over those that violate the margin), "batch_hard", "semi_hard"; or "given", for batches of
                `triplet_batches`.
            margin: more than 0; None is the soft margin of `triplet_loss`.
            squared: compare squared distances, as Schroff et al. 2015 do.

        Raises:
            ValueError: an unknown mining, or a margin that is not above 0.
        """
        super().__init__()
        _check_choice("mining", mining, self.MINING)
        if margin is not None and margin <= 0:
            raise ValueError(f"margin is {margin}; give more than 0, or None for the soft margin")
        self.mining, self.margin, self.squared = mining, margin, squared
        # The mean over active triplets alone is near the margin while it learns, too.
        self.stuck_at = {} if mining == "batch_all" else {"triplet": math.log(2) if margin is None else margin}
        self.watched: dict[str, Tensor] = {}

    def forward(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The term "triplet"."""
        distances = pairwise_distances(embeddings, self.squared)
        anchor, positive, negative = self._mine(labels, distances.detach())
        to_positive, to_negative = _entries(distances, anchor, positive), _entries(distances, anchor, negative)
        losses = triplet_loss(to_positive, to_negative, self.margin)
        # The soft margin never rests, so there a triplet counts as active while its order is wrong.
        active = (to_positive - to_negative + (self.margin or 0) > 0).sum()
        count = active if self.mining == "batch_all" and self.margin is not None else len(losses)
        if len(losses):
            seen = active, active / len(losses), to_positive.mean(), to_negative.mean()
            names = ("active_triplets", "active_share", "distance_to_positive", "distance_to_negative")
            self.watched = {name: value.detach() for name, value in zip(names, seen, strict=True)}
        return {"triplet": losses.sum() / max(int(count), 1)}

    def _mine(self, labels: Tensor, distances: Tensor) -> tuple[Tensor, ...]:
        if self.mining == "batch_all":
            return mining.all_triplets(labels)
        if self.mining == "random":
            return mining.random_triplets(labels)
        if self.mining == "given":
            if len(labels) % 3:
                raise ValueError(f"{len(labels)} pictures are no triplets; make it with triplet_batches")
            return torch.arange(len(labels), device=labels.device).chunk(3)
        return {"batch_hard": mining.batch_hard, "semi_hard": mining.semi_hard}[self.mining](labels, distances)


def _entries(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """matrix[rows, columns] of a square matrix, in a third of the time where the gradient is counted in."""
    return matrix.flatten().index_select(0, rows * len(matrix) + columns)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; choose {', '.join(known)}")


def _check_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"center_weight is {weight}; use 0 (no center loss) or more")
