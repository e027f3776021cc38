"""What a training asks for: objectives for `fit`, which take a model and a batch and return named terms."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import mining
from common.losses import CenterLoss, contrastive_loss, pairwise_distances, triplet_loss


class Classification(nn.Module):
    """Cross-entropy on the species, joined with center loss by a weight (Wen et al. 2016, equation 5).

    A training objective for `fit`: model and batch in, named terms out; their sum is minimized.
    """

    def __init__(self, classes: int, embedding_size: int, center_weight: float = 0.0):
        """
        Args:
            classes: number of species.
            embedding_size: length of an embedding.
            center_weight: lambda of the paper, 0 or more; 0 is plain cross-entropy, whose centers only watch.

        Raises:
            ValueError: a negative weight.
        """
        super().__init__()
        _check_weight(center_weight)
        self.center_weight = center_weight
        self.center_loss = CenterLoss(classes, embedding_size)
        self.stuck_at = {"cross_entropy": math.log(classes)}

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms to add up, for float images (B, 3, H, W) in [0, 1] and int labels (B,)."""
        embeddings = model(images)
        center = self.center_weight * self.center_loss(embeddings, labels)
        return {
            "cross_entropy": F.cross_entropy(model.classify(embeddings), labels),
            "center": center + self.center_loss.center_step(embeddings, labels),
        }

    def attack_loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """What an attack in adversarial training raises: the cross-entropy alone, since centers follow slowly."""
        return F.cross_entropy(model.classify(model(images)), labels)


class PairJudgment(nn.Module):
    """Judge pairs of a batch, same and different ones counting half each; joined with center loss by a weight.

    Every picture is embedded once and meets all others of its batch, so a batch of B pictures gives up to
    B (B - 1) / 2 pairs for the price of B.
    """

    def __init__(
        self,
        classes: int,
        embedding_size: int,
        loss: str = "cross_entropy",
        negatives: str = "all",
        center_weight: float = 0.0,
        margin: float = 1.0,
    ):
        """
        Args:
            classes: number of species, each with a center.
            embedding_size: length of an embedding.
            loss: "cross_entropy" of the model's score, taken as the logit of "same" (Koch et al. 2015), or
                "contrastive" on the distance between unit-length embeddings (Hadsell et al. 2006).
            negatives: which different pairs: "all"; or as many as there are same pairs, "random" ones or
                those the model scores highest, "hard".
            center_weight: weight of center loss, 0 or more; at 0 its centers only watch.
            margin: of the contrastive loss, between 0 and 2, the distance of opposite embeddings.

        Raises:
            ValueError: an unknown loss or kind of negatives, or a weight or margin out of range.
        """
        super().__init__()
        _check_choice("loss", loss, ("cross_entropy", "contrastive"))
        _check_choice("negatives", negatives, ("all", "random", "hard"))
        _check_weight(center_weight)
        if not 0 < margin <= 2:
            raise ValueError(f"margin is {margin}; unit-length embeddings are 0 to 2 apart")
        self.loss, self.negatives, self.center_weight, self.margin = loss, negatives, center_weight, margin
        self.center_loss = CenterLoss(classes, embedding_size)
        self.stuck_at = {"pairs": math.log(2)} if loss == "cross_entropy" else {}

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms to add up, for float images (B, 3, H, W) in [0, 1] and int labels (B,)."""
        embeddings = model(images)
        center = self.center_weight * self.center_loss(embeddings, labels)
        return {
            "pairs": self._pairs(model, embeddings, labels),
            "center": center + self.center_loss.center_step(embeddings, labels),
        }

    def _pairs(self, model, embeddings, labels) -> Tensor:
        first, second, same = mining.all_pairs(labels)
        if self.negatives == "random":
            first, second, same = mining.balanced_pairs(labels)
        if self.negatives == "hard":
            scores = model.score_embeddings(embeddings[first], embeddings[second])
            first, second, same = mining.balanced_pairs(labels, scores)
        if self.loss == "contrastive":
            losses = contrastive_loss(pairwise_distances(embeddings)[first, second], same, self.margin)
        else:
            logits = model.score_embeddings(embeddings[first], embeddings[second])
            losses = F.binary_cross_entropy_with_logits(logits, same.to(logits), reduction="none")
        # A batch without one of the kinds has nothing to say about it: 0, not the mean of nothing.
        kinds = (losses[kind].sum() / kind.sum().clamp(min=1) for kind in (same, ~same))
        return sum(kinds) / 2


class TripletJudgment(nn.Module):
    """Ask the triplets of a batch to have their negative farther than their positive, by a margin.

    `watched` holds what the loss alone does not tell, and `fit` writes it into the history: the share of
    triplets that still violate the margin, and the mean distances to positives and negatives, all of the
    latest batch that had a triplet.
    """

    MINING = ("random", "batch_all", "batch_hard", "semi_hard", "given")

    def __init__(self, mining: str = "semi_hard", margin: float | None = 0.2, squared: bool = False):
        """
        Args:
            mining: which triplets: "random" (one negative for each anchor and positive), "batch_all" (every
                one, averaged over those that violate the margin), "batch_hard" or "semi_hard"; or "given", for
                batches of `triplet_batches`.
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

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The term to minimize, for float images (B, 3, H, W) in [0, 1] and int labels (B,)."""
        distances = pairwise_distances(model(images), self.squared)
        anchor, positive, negative = self._mine(labels, distances.detach())
        to_positive, to_negative = distances[anchor, positive], distances[anchor, negative]
        losses = triplet_loss(to_positive, to_negative, self.margin)
        # The soft margin never rests, so there a triplet counts as active while its order is wrong.
        active = (to_positive - to_negative + (self.margin or 0) > 0).sum()
        count = active if self.mining == "batch_all" and self.margin is not None else len(losses)
        if len(losses):
            means = active / len(losses), to_positive.mean(), to_negative.mean()
            names = ("active_share", "distance_to_positive", "distance_to_negative")
            self.watched = {name: value.detach() for name, value in zip(names, means, strict=True)}
        return {"triplet": losses.sum() / max(int(count), 1)}

    def _mine(self, labels, distances):
        if self.mining == "batch_all":
            return mining.all_triplets(labels)
        if self.mining == "random":
            return mining.random_triplets(labels)
        if self.mining == "given":
            if len(labels) % 3:
                raise ValueError(f"{len(labels)} pictures are no triplets; make it with triplet_batches")
            return torch.arange(len(labels), device=labels.device).chunk(3)
        return {"batch_hard": mining.batch_hard, "semi_hard": mining.semi_hard}[self.mining](labels, distances)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; choose {', '.join(known)}")


def _check_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"center_weight is {weight}; use 0 (no center loss) or more")
