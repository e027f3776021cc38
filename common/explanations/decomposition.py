"""A cosine taken apart exactly: how much each location of one picture adds with each location of the other."""

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import EmbeddingNet, evaluation_mode
from common.explanations.maps import by_location, embedding_net

TOLERANCE = 1e-5  # of a score; what float32 leaves of it is a hundredth of that


@dataclass(frozen=True, eq=False)
class Decomposition:
    """B scores as sums: `matrix` over both pictures' locations, and what the head's offset adds to it.

    The embedding is a sum over locations, z = u_1 + ... + u_n + c, where c is the head's output for features of
    zero (BatchNorm's shift). So the cosine is a sum of products, each divided by both embeddings' lengths: of u with
    u (`matrix`), of u with c (`first_offset`, `second_offset`) and of c with c (`offset`). Together: the score.
    """

    matrix: np.ndarray  # float64 (B, n, n): location of the first picture with location of the second
    first_offset: np.ndarray  # float64 (B, n): location of the first picture with the second's offset
    second_offset: np.ndarray  # float64 (B, n): the first's offset with location of the second picture
    offset: np.ndarray  # float64 (B,)
    grid: tuple[int, int]  # h, w; n = h * w, row after row

    def scores(self) -> np.ndarray:
        """The sum of all terms: (B,)."""
        return self.matrix.sum((1, 2)) + self.first_offset.sum(1) + self.second_offset.sum(1) + self.offset

    def shared(self) -> np.ndarray:
        """The matrix (B, n, n) with the offset dealt out evenly to the locations, so that it sums to the score.

        That is the same as to pass each location through the whole head. Even shares are a choice; they move all
        locations alike, so that which of them adds more than another does not depend on it.
        """
        n = self.matrix.shape[1]
        sides = self.first_offset[:, :, None] + self.second_offset[:, None]
        return self.matrix + sides / n + self.offset[:, None, None] / n**2

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """What each location of the first and of the second picture adds: float64 (B, h, w); each sums to the score."""
        matrix = self.shared()
        return tuple(matrix.sum(axis).reshape(-1, *self.grid) for axis in (2, 1))

    def correspondences(self, pair: int = 0, count: int = 5) -> pd.DataFrame:
        """The `count` terms of `shared()` that add most to the score of one pair, largest first.

        Returns:
            Columns first_row, first_column, second_row, second_column (locations on the grid), contribution.
        """
        terms = self.shared()[pair]
        most = np.argsort(-terms, axis=None, kind="stable")[:count]
        first, second = np.unravel_index(most, terms.shape)
        places = [*np.unravel_index(first, self.grid), *np.unravel_index(second, self.grid)]
        names = ["first_row", "first_column", "second_row", "second_column"]
        return pd.DataFrame(dict(zip(names, places, strict=True)) | {"contribution": terms.flat[most]})


@torch.no_grad()
def decompose(model: nn.Module, first: Tensor, second: Tensor) -> Decomposition:
    """Take the cosine of each pair apart into what pairs of locations add (Zhu et al. 2019, arXiv 1909.12977).

    It is exact where the embedding is an affine function of the mean over locations, which is verified on the very
    pictures. In float64 from the backbone's last features on.

    Args:
        model: an `EmbeddingNet`, or a model that holds one and scores by cosine.
        first, second: float (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: the model is none for which this is exact; the message says which step is to blame.
    """
    net, count = embedding_net(model), len(first)
    images = torch.cat([first, second])
    with evaluation_mode(model):
        features = _features(net, images)
        score = model.score(first, second)
        _verify(model, net, images, features, score)
        head = copy.deepcopy(net.head).double()
        offset = head(torch.zeros(1, net.features, dtype=torch.float64, device=images.device))
        located = features.double().flatten(2).mT / (features.shape[2] * features.shape[3])
        added = (head(located.flatten(0, 1)) - offset).unflatten(0, located.shape[:2])  # (2 B, h * w, D)
    lengths = (added.sum(1) + offset).norm(dim=1)
    added, offset = added / lengths[:, None, None], offset / lengths[:, None]
    u, v, c, d = added[:count], added[count:], offset[:count], offset[count:]
    terms = (u @ v.mT, torch.einsum("bnd,bd->bn", u, d), torch.einsum("bd,bnd->bn", c, v), (c * d).sum(1))
    result = Decomposition(*(term.cpu().numpy() for term in terms), tuple(features.shape[2:]))
    gap = np.abs(result.scores() - score.double().cpu().numpy()).max()
    if not gap < TOLERANCE:
        raise ValueError(f"the terms miss the score by {gap:.1e}, more than {TOLERANCE}; look for NaN in the weights")
    return result


def _features(net: EmbeddingNet, images: Tensor) -> Tensor:
    """The backbone's last features over locations: float (B, C, h, w)."""
    name = net.arguments["backbone"]
    if not hasattr(net.backbone, "forward_features"):
        raise ValueError(f"{name} does not hand out its features before it pools them: no exact decomposition")
    features = by_location(net.backbone.forward_features((images - net.mean) / net.std), net.backbone)
    if features is None:
        raise ValueError(f"the features of {name} have no locations: no exact decomposition")
    return features


def _verify(model, net, images, features, score) -> None:
    """Raise ValueError naming the first step between features and score that is not what exactness needs."""
    means, embeddings = features.mean((2, 3)), model(images)
    wide = means.shape[1] == net.features
    some = torch.randn(2, 8, net.features, generator=torch.Generator().manual_seed(0)).to(images)
    zero = torch.zeros_like(some[0])
    steps = (
        (means, net.pooled(images), "does not pool by the mean over locations alone"),
        (net.head(some.sum(0)) + net.head(zero), net.head(some[0]) + net.head(some[1]), "has a nonlinear head"),
        (net.head(means) if wide else means, embeddings, "changes the embedding behind the head"),
        (score, F.cosine_similarity(*embeddings.chunk(2)), "compares embeddings otherwise than by their cosine"),
    )
    for found, needed, reason in steps:
        close = found.shape == needed.shape and torch.allclose(found, needed, 1e-4, 1e-4 * needed.abs().max().item())
        if not close:
            raise ValueError(f"{type(model).__name__} ({net.arguments['backbone']}) {reason}: no exact decomposition")
