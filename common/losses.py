"""What is minimized: losses of embeddings, of distances and of scores."""

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


def contrastive_loss(distances: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Pull same pairs together, push different pairs apart until the margin (Hadsell et al. 2006, equation 4).

    Their Y is 1 for a different pair; here same is 1, as everywhere in this project.

    Args:
        distances: float (P,), 0 or more.
        same: bool (P,).
        margin: distance from which on a different pair costs nothing.

    Returns:
        float (P,): d^2 / 2 for a same pair, max(0, margin - d)^2 / 2 for a different one.
    """
    return torch.where(same, distances, F.relu(margin - distances)).square() / 2


def triplet_loss(to_positive: Tensor, to_negative: Tensor, margin: float | None = 0.2) -> Tensor:
    """Ask of each triplet that its negative be farther than its positive, by a margin.

    Args:
        to_positive, to_negative: float (T,), the anchor's distances.
        margin: what must lie between (Schroff et al. 2015, equation 1); None: the soft margin
            log(1 + exp(d_ap - d_an)), which never stops asking for more (Hermans et al. 2017, section 2).

    Returns:
        float (T,), max(0, d_ap - d_an + margin) or the soft one.
    """
    violation = to_positive - to_negative
    return F.softplus(violation) if margin is None else F.relu(violation + margin)


def pairwise_distances(embeddings: Tensor, squared: bool = False) -> Tensor:
    """Euclidean distances between unit-length embeddings; equal ones have the distance 0 and no gradient.

    Args:
        embeddings: float (B, D); scaled to unit length here, so that squared distances are 2 - 2 cosine.
        squared: leave out the square root.

    Returns:
        float (B, B), 0 to 2 (squared: 0 to 4), in single precision at least.
    """
    unit = F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
    # From differences: 2 - 2 cosine would leave the rounding of a product, worst near 0 and in bfloat16.
    differences = unit[:, None] - unit
    return differences.square().sum(-1) if squared else differences.norm(dim=-1)
