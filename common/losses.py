"""What is minimized: each loss a module that maps embeddings and labels to a number."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CenterLoss(nn.Module):
    """Pull every embedding to its species' center, and every center to its species' embeddings.

    Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition":
    equation 2 is the value (here the mean over the batch instead of the sum), equation 4 the
    gradient the centers get, whatever weight the loss has beside others. Give the centers an
    optimizer of their own: SGD with a learning rate of 0.5 is the paper's rule with alpha = 0.5.
    """

    def __init__(self, classes: int, embedding_size: int):
        """
        Args:
            classes: number of species, each with one center.
            embedding_size: length of an embedding and of a center.
        """
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, embedding_size))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Half the mean squared distance between embeddings and their centers.

        Args:
            embeddings: float (B, D).
            labels: int (B,), the species, 0 to classes - 1.

        Returns:
            A scalar; its gradient moves the embeddings.
        """
        return (embeddings - self.centers[labels].detach()).square().sum(1).mean() / 2

    def center_step(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """A scalar whose value is 0 and whose gradient by the centers is equation 4 of the paper.

        Args: as in `forward`. Kept apart so that the weight of the loss never slows the centers.
        """
        members = torch.bincount(labels, minlength=len(self.centers))[labels]
        distances = (embeddings.detach() - self.centers[labels]).square().sum(1)
        update = (distances / (1 + members)).sum() / 2
        return update - update.detach()


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
        if center_weight < 0:
            raise ValueError(f"center_weight is {center_weight}; use 0 (no center loss) or more")
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
