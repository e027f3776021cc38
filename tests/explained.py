"""Models and pictures to be explained: tiny, untrained, one that scores by cosine and one by a head over pairs."""

import torch
from made_up import TINY
from torch import nn

from common.backbones import EmbeddingNet


class PairHead(nn.Module):
    """A siamese model whose score is no cosine: a linear layer over |a - b|, a * b and, to be lopsided, a."""

    def __init__(self, backbone: str = TINY, embedding_size: int = 8):
        super().__init__()
        self.arguments = dict(backbone=backbone, embedding_size=embedding_size)
        self.net = EmbeddingNet(backbone, embedding_size)
        self.compare = nn.Linear(3 * embedding_size, 1)

    def forward(self, images):
        return self.net(images)

    def score_embeddings(self, first, second):
        return self.compare(torch.cat([(first - second).abs(), first * second, first], -1))[..., 0]

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


def pixels(count: int = 3, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, float (count, 3, size, size) in [0, 1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def ready(model: nn.Module, size: int = 64) -> nn.Module:
    """The model with BatchNorm statistics of random pictures, in evaluation mode; else its signals fade or explode."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # one batch is enough
    with torch.no_grad():
        model(pixels(8, size, 100))
    return model.eval()


def cosine_model(backbone: str = TINY, size: int = 64, seed: int = 0, **options) -> EmbeddingNet:
    """A small `EmbeddingNet`, ready to be explained."""
    torch.manual_seed(seed)
    return ready(EmbeddingNet(backbone, 8, image_size=size, **options), size)


def pair_model(backbone: str = TINY, seed: int = 0) -> PairHead:
    """A small `PairHead`, ready to be explained."""
    torch.manual_seed(seed)
    return ready(PairHead(backbone))
