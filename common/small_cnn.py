"""The classic small network of a first siamese experiment on faces, registered as timm's model "small_cnn"."""

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["SmallCNN"]  # timm adds the name it registers
default_cfgs = generate_default_cfgs(
    {"small_cnn": dict(input_size=(3, 96, 96), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), num_classes=0)}
)


class SmallCNN(nn.Module):
    """Three blocks of 3 x 3 convolution, BatchNorm, ReLU and 2 x 2 max pooling, then average pooling to a 4 x 4 grid:
    0.1 million parameters, for pictures of 32 pixels a side or more. The grid keeps the places of a face's parts,
    which global pooling would forget.
    """

    GRID = 4  # places along each side that the pooling keeps apart: eyes stay above a mouth

    def __init__(self, **_):
        super().__init__()
        self.blocks = nn.Sequential(_block(3, 32), _block(32, 64), _block(64, 128))
        self.num_features = self.head_hidden_size = 128 * self.GRID**2

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map (B, 128, H / 8, W / 8) of normalized pictures (B, 3, H, W)."""
        return self.blocks(images)

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.forward_features(images), self.GRID).flatten(1)


def _block(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))


@register_model
def small_cnn(pretrained: bool = False, pretrained_cfg_overlay: dict | None = None, **options) -> SmallCNN:
    """Make the network; timm calls this. Weights come from a file in `pretrained_cfg_overlay` or not at all."""
    if pretrained and not pretrained_cfg_overlay:
        print("small_cnn has no ImageNet weights: it is trained from scratch.")
        pretrained = False
    return build_model_with_cfg(
        SmallCNN, "small_cnn", pretrained, pretrained_cfg_overlay=pretrained_cfg_overlay, **options
    )
