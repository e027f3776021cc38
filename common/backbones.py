"""Pixels to embedding: a timm backbone, normalization inside, one linear head."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import small_cnn  # noqa: F401 - makes timm know the model of this name
from common.datasets.batches import as_float


class EmbeddingNet(nn.Module):
    """A picture's embedding: normalization, timm backbone, pooling, Linear, BatchNorm.

    The head has no ReLU (which would force every cosine above 0) and stays linear, so a score can be
    decomposed exactly over locations. `classify` adds a linear classifier for training with labels.
    """

    def __init__(
        self,
        backbone: str,
        embedding_size: int = 128,
        classes: int = 0,
        pretrained: bool = False,
        weights: Path | None = None,
        image_size: int | None = None,
    ):
        """
        Args:
            backbone: any timm model name, such as "resnet50", or "small_cnn".
            embedding_size: length of the embedding; 0 hands out the pooled features themselves.
            classes: species the classifier tells apart; 0 makes none.
            pretrained: start from ImageNet weights, of `weights` or else of timm's hub.
            weights: folder that may hold `<backbone>.safetensors`.
            image_size: pixels of a side; only models built for one size (most transformers) need it.

        Raises:
            ValueError: timm knows no such model.
            RuntimeError: pretrained weights are neither in `weights` nor to be fetched.
        """
        super().__init__()
        self.arguments = dict(backbone=backbone, embedding_size=embedding_size, classes=classes, image_size=image_size)
        self.backbone = create_backbone(backbone, pretrained, weights, image_size)
        self.backbone.to(memory_format=torch.channels_last)  # a CPU convolves up to a quarter faster that way
        data = timm.data.resolve_model_data_config(self.backbone)
        self.register_buffer("mean", torch.tensor(data["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(data["std"])[:, None, None])
        self.features = self.backbone.head_hidden_size  # unlike num_features, counts the head's own hidden layers
        self.head = nn.Identity()
        if embedding_size:
            linear = nn.Linear(self.features, embedding_size, bias=False)
            self.head = nn.Sequential(linear, nn.BatchNorm1d(embedding_size))
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
        """Cosine similarity of embeddings (..., D), whose other dimensions broadcast: (B,) of two batches (B, D)."""
        return F.cosine_similarity(first, second, dim=-1)

    def score(self, first: Tensor, second: Tensor) -> Tensor:
        """How similar two batches of pictures (B, 3, H, W) in [0, 1] are: (B,), higher is more similar."""
        return self.score_embeddings(self(first), self(second))

    def freeze(self, share: float) -> list[str]:
        """Freeze the first `share` (0 to 1) of the backbone's stages, whole modules, in order.

        Their parameters get no gradient, and their BatchNorm statistics stay where they are even in
        training mode.

        Returns:
            The names of the frozen modules.
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


def create_backbone(name: str, pretrained: bool = False, weights: Path | None = None, image_size: int | None = None):
    """Make a timm model without its classifier, with ImageNet weights if asked; see `EmbeddingNet`."""
    if not timm.is_model(name):
        close = timm.list_models(f"*{name[:6]}*")[:8]
        raise ValueError(f"timm knows no model {name!r}; similar names: {', '.join(close) or 'none'}")
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
            f"no ImageNet weights for {name!r}: {weights or 'SIMILARITY_WEIGHTS (not set)'} holds no "
            f"{name}.safetensors that fits, and timm's hub did not deliver ({type(error).__name__}). Connect to a "
            "network, put the file there, or choose SIMILARITY_PROFILE=quick, which trains from scratch"
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
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in, after an error too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Put a model into evaluation mode without gradients, give its device, and restore its modes at the end."""
    with evaluation_mode(model), torch.inference_mode():
        yield next(model.parameters()).device


def embed(model: nn.Module, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Embed uint8 pictures (N, 3, H, W) in evaluation mode: float32 (N, D); the model's mode is restored."""
    with evaluating(model) as device:
        starts = range(0, len(images), batch_size)
        chunks = (torch.from_numpy(np.array(images[start : start + batch_size])) for start in starts)
        return torch.cat([model(as_float(chunk.to(device))).float().cpu() for chunk in chunks]).numpy()
