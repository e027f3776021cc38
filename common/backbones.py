"""Pixels to embedding: a timm backbone with normalization inside, one linear head, and a score of two embeddings.

A head that is made from scratch forgets most of what a pretrained backbone knows. So there it starts as the principal
directions of the training pictures' own features, and the first embedding compares better than the features do.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.config import Config, known_backbone, seed_everything
from common.datasets.batches import as_float


class EmbeddingNet(nn.Module):
    """A picture's embedding: normalization, timm backbone, pooling, Linear and, from scratch, BatchNorm.

    The head is linear: a ReLU would force every cosine above 0. `classify` adds a linear classifier for training.
    """

    cosine = True  # whether `score_embeddings` is the cosine, which search computes faster by itself

    def __init__(
        self, backbone: str, embedding_size: int = 128, classes: int = 0, pretrained: bool = False,
        weights: Path | None = None, image_size: int | None = None, batch_norm: bool = True,
    ):  # fmt: skip
        """
        Args:
            backbone: any timm model name, such as "resnet50", or "small_cnn".
            embedding_size: length of the embedding; 0 hands out the pooled features themselves.
            classes: species the classifier tells apart; 0 makes none.
            pretrained: start from ImageNet weights: `<backbone>.safetensors` in the folder `weights`, or timm's hub.
            image_size: pixels of a side; only models built for one size (most transformers) need it.
            batch_norm: end the head with BatchNorm, which training from scratch needs and a `principal_head` does not.

        Raises:
            ValueError: timm knows no such model.
            RuntimeError: pretrained weights are neither in `weights` nor to be fetched.
        """
        super().__init__()
        self.arguments = dict(backbone=backbone, embedding_size=embedding_size, classes=classes, image_size=image_size)
        self.arguments["batch_norm"] = batch_norm
        self.backbone = create_backbone(backbone, pretrained, weights, image_size)
        self.backbone.to(memory_format=torch.channels_last)  # a CPU convolves up to a quarter faster that way
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(self.backbone.pretrained_cfg[name])[:, None, None])
        self.features = self.backbone.head_hidden_size  # unlike num_features, counts the head's own hidden layers
        self.head = nn.Identity()
        if embedding_size:
            self.head = nn.Sequential(nn.Linear(self.features, embedding_size, bias=False))
            if batch_norm:
                self.head.append(nn.BatchNorm1d(embedding_size))
        self.classifier = nn.Linear(embedding_size or self.features, classes) if classes else None
        self.frozen: list[str] = []

    def pooled(self, images: Tensor) -> Tensor:
        """The backbone's pooled features of float (B, 3, H, W) in [0, 1], before the head."""
        return self.backbone((images - self.mean) / self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Embed float (B, 3, H, W) in [0, 1] as float (B, D), not scaled to unit length."""
        return self.head(self.pooled(images))

    def classify(self, embeddings: Tensor) -> Tensor:
        """Species logits (B, C) of embeddings (B, D)."""
        return self.classifier(embeddings)

    def score_embeddings(self, first: Tensor, second: Tensor) -> Tensor:
        """Cosine similarity of embeddings (..., D), whose other dimensions broadcast."""
        return F.cosine_similarity(first, second, dim=-1)

    def score(self, first: Tensor, second: Tensor) -> Tensor:
        """How similar two batches of pictures (B, 3, H, W) in [0, 1] are: (B,), higher is more similar."""
        return self.score_embeddings(self(first), self(second))

    def freeze(self, share: float) -> list[str]:
        """Freeze the first `share` (0 to 1) of the backbone's stages, whole modules in order; returns their names.

        Their parameters get no gradient, and their BatchNorm statistics stay, even in training mode.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share of stages to freeze is {share}; give a number from 0 to 1")
        names = stages(self.backbone)
        self.frozen = names[: round(share * len(names))]
        for name in names:
            self.backbone.get_submodule(name).requires_grad_(name not in self.frozen)
        self.train(self.training)  # takes hold at once
        return self.frozen

    def train(self, mode: bool = True):
        super().train(mode)
        for name in getattr(self, "frozen", []):
            self.backbone.get_submodule(name).eval()
        return self


class SiameseNet(EmbeddingNet):
    """An `EmbeddingNet` with a pair head: a linear layer on |a - b| and a * b of unit-length embeddings.

    Both are the same for (a, b) and (b, a), so the score is symmetric. The head starts as a scaled
    cosine, which is the sum of a * b, and learns from there which dimensions count.
    """

    cosine = False
    START = 10.0  # a cosine times this spans what a logit needs

    def __init__(self, backbone: str, embedding_size: int = 128, *arguments, **options):
        """Arguments as of `EmbeddingNet`."""
        super().__init__(backbone, embedding_size, *arguments, **options)
        size = embedding_size or self.features
        self.pair_head = nn.Linear(2 * size, 1)
        with torch.no_grad():
            self.pair_head.weight[:, :size].zero_()
            self.pair_head.weight[:, size:].fill_(self.START)
            self.pair_head.bias.zero_()

    def score_embeddings(self, first: Tensor, second: Tensor) -> Tensor:
        """Logit (...) that two embeddings (..., D) belong to one class; above 0 means more likely than not."""
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
        if first.ndim == 3 and first.shape[1] == 1 and second.shape[0] == 1:
            return self._table(first[:, 0], second[0])
        return self.pair_head(torch.cat([(first - second).abs(), first * second], dim=-1)).squeeze(-1)

    def _table(self, first: Tensor, second: Tensor) -> Tensor:
        """The logits (A, B) of all unit-length (A, D) with all (B, D), without a tensor of A * B * D numbers.

        The products are a matrix product; weighted differences are city block distances of what the weights have
        scaled, those of positive weights less those of negative ones.
        """
        on_difference, on_product = self.pair_head.weight[0].chunk(2)
        apart = [torch.cdist(first * w, second * w, p=1) for w in (F.relu(on_difference), F.relu(-on_difference))]
        return (first * on_product) @ second.T + apart[0] - apart[1] + self.pair_head.bias


def new_model(
    config: Config, backbone: str, seed: int, network=EmbeddingNet, classes: int = 0, images: np.ndarray | None = None
) -> nn.Module:
    """A network to be trained, its first `config.frozen_share` of stages frozen; equal seeds give equal weights.

    `network` is `EmbeddingNet` or `SiameseNet`; the seed is that of every generator from here on. Where the backbone
    is pretrained and `images`, the training pictures, uint8 (N, 3, H, W), are given, it has their `principal_head`.
    """
    seed_everything(seed)
    principal = config.pretrained and images is not None and config.embedding_size > 0
    given = config.pretrained, config.weights, config.image_size
    model = network(backbone, config.embedding_size, classes, *given, batch_norm=not principal)
    model.freeze(config.frozen_share)
    if principal:
        with torch.no_grad():
            features = torch.from_numpy(embed(model.to(config.device), images, pooled=True))
            model.head[0].weight.copy_(principal_head(features, config.embedding_size))
    return model


def principal_head(features: Tensor, size: int) -> Tensor:
    """The linear head that keeps the most of pooled features, float (N, F): its weights (`size`, F).

    Row k is the k-th principal direction (uncentered), divided by the square root of the features' root mean square
    along it. That is half of whitening, which hears faint directions as loudly as strong ones (Jegou and Chum 2012). No
    share of it was best on all pictures: benchmarks/backbone_differences.csv. Embeddings have a root mean square of 1.
    Where there are fewer directions than `size`, the last rows are 0.
    """
    energies, directions = torch.linalg.eigh(features.double().T @ features.double() / len(features))
    energies, directions = energies.flip(0)[:size], directions.T.flip(0)[:size]
    kept = energies > 1e-8 * energies[0]  # below lies rounding
    weight = torch.zeros(size, features.shape[1], dtype=torch.double)
    signs = directions[kept].sum(1, keepdim=True).sign()  # which rounding would decide otherwise
    weight[: kept.sum()] = signs * directions[kept] / energies[kept, None] ** 0.25
    return (weight / (features.double() @ weight.T).square().mean().sqrt()).float()


def create_backbone(name: str, pretrained: bool = False, weights: Path | None = None, image_size: int | None = None):
    """Make a timm model without its classifier, with ImageNet weights if asked; see `EmbeddingNet`."""
    import timm  # here, since it takes two seconds, and looking at pictures needs no model

    import common.small_cnn  # noqa: F401  timm knows it from now on

    known_backbone(name)
    overlay = {}
    if pretrained and weights and (Path(weights) / f"{name}.safetensors").exists():
        overlay = dict(pretrained_cfg_overlay=dict(file=str(Path(weights) / f"{name}.safetensors")))
    fixed = image_size and timm.models.get_pretrained_cfg(name, allow_unregistered=True).fixed_input_size
    sized = dict(img_size=image_size) if fixed else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **overlay, **sized)
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"no ImageNet weights for {name!r}: {weights or 'the folder `weights` (none given)'} holds no "
            f"{name}.safetensors that fits, and timm's hub did not deliver ({type(error).__name__}). Connect to a "
            "network, set SIMILARITY_WEIGHTS to their folder, or SIMILARITY_PROFILE to quick, which trains from scratch"
        ) from error


def stages(backbone: nn.Module) -> list[str]:
    """Names of a backbone's modules from input to output; containers of blocks are opened one level."""
    names = []
    for name, module in backbone.named_children():
        inner = [f"{name}.{child}" for child, _ in module.named_children()]
        opened = isinstance(module, nn.Sequential | nn.ModuleList) and inner
        names += inner if opened else [name]
    return [name for name in names if next(backbone.get_submodule(name).parameters(), None) is not None]


@contextmanager
def evaluation_mode(model: nn.Module, gradients: bool = False) -> Iterator[torch.device]:
    """Evaluation mode inside, with gradients or without; afterwards every module is in its mode again.

    BatchNorm statistics stay, and where gradients are taken by pictures alone, parameters and their `.grad` stay too.
    Gives the model's device.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.set_grad_enabled(gradients):
            yield next(model.parameters(), torch.empty(0)).device
    finally:
        for module, training in modes:
            module.training = training


def folded(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions do what the BatchNorm behind them did: the same scores, sooner."""
    model = copy.deepcopy(model).eval()
    for parent in [*model.modules()]:
        for (name, layer), (behind, norm) in pairwise([*parent.named_children()]):
            if type(layer) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, behind, getattr(norm, "act", nn.Identity()))  # timm's own has its activation inside
    return model


def embed(model: nn.Module, images: np.ndarray, batch_size: int = 64, pooled: bool = False) -> np.ndarray:
    """Embed uint8 pictures (N, 3, H, W) in evaluation mode: float32 (N, D); the model's mode is restored.

    `pooled` gives the backbone's pooled features instead. Under `accelerate launch` each process embeds its share.
    """
    function = model.pooled if pooled else model
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with evaluation_mode(model) as device:
        starts = range(rank * batch_size, len(images), ranks * batch_size)
        chunks = (torch.from_numpy(np.array(images[start : start + batch_size])) for start in starts)
        own = [function(as_float(chunk.to(device))).float().cpu() for chunk in chunks]
    shares = [own] * ranks
    if ranks > 1:
        dist.all_gather_object(shares, own)
    in_order = (chunk for turn in zip_longest(*shares) for chunk in turn if chunk is not None)
    return torch.cat([*in_order]).numpy()
