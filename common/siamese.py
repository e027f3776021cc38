"""A network that judges pairs: two embeddings in, one logit out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import EmbeddingNet

START = 10.0  # a cosine times this spans what a logit needs


class SiameseNet(EmbeddingNet):
    """An `EmbeddingNet` with a pair head: a linear layer on |a - b| and a * b of unit-length embeddings.

    Both are the same for (a, b) and (b, a), so the score is symmetric. The head starts as a scaled
    cosine, which is the sum of a * b, and learns from there which dimensions count.
    """

    def __init__(self, backbone: str, embedding_size: int = 128, *arguments, **options):
        """Arguments as of `EmbeddingNet`."""
        super().__init__(backbone, embedding_size, *arguments, **options)
        size = embedding_size or self.features
        self.pair_head = nn.Linear(2 * size, 1)
        with torch.no_grad():
            self.pair_head.weight[:, :size].zero_()
            self.pair_head.weight[:, size:].fill_(START)
            self.pair_head.bias.zero_()

    def score_embeddings(self, first: Tensor, second: Tensor) -> Tensor:
        """Logit (...) that two embeddings (..., D) belong to one class; above 0 means more likely than not."""
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
        return self.pair_head(torch.cat([(first - second).abs(), first * second], dim=-1)).squeeze(-1)
