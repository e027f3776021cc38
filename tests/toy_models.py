"""Models small enough to attack by hand: a bilinear one, whose worst pictures are known, and a tiny network."""

import torch
from torch import nn

torch.set_num_threads(1)  # pictures of 6 pixels gain nothing from more, and the machine may be shared

SIZE = 6


class Bilinear(nn.Module):
    """Linear embeddings compared by their dot product: the score's gradient by one picture ignores that picture."""

    def __init__(self, seed=0, dtype=torch.float32, dimensions=3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * SIZE * SIZE, dimensions, generator=generator).to(dtype))

    def forward(self, images):
        return images.flatten(1) @ self.weight

    def score_embeddings(self, first, second):
        return (first * second).sum(-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


class Network(nn.Module):
    """Convolutions, BatchNorm and a cosine; counts the pictures it embeds."""

    def __init__(self, seed=0, channels=8, dimensions=4):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.Softplus(),
            nn.Conv2d(channels, channels, 3, 2, 1), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(4 * channels, dimensions), nn.BatchNorm1d(dimensions),
        )  # fmt: skip
        self.classifier = nn.Linear(dimensions, 8)
        self.embedded = 0

    def forward(self, images):
        self.embedded += len(images)
        return self.layers(images)

    def classify(self, embeddings):
        return self.classifier(embeddings)

    def score_embeddings(self, first, second):
        return nn.functional.cosine_similarity(first, second, dim=-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


def pairs_of_pictures(count=6, seed=0, margin=0.0, size=SIZE, dtype=torch.float32):
    """Random pictures, first and second, no pixel nearer to 0 or 1 than `margin`, and labels 1, 0, 1, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, count, 3, size, size, generator=generator).to(dtype) * (1 - 2 * margin) + margin
    return first, second, 1 - torch.arange(count) % 2


def state_of(model):
    """Everything an attack must leave alone: modes, parameters, statistics, gradients and whether they are wanted."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    wanted = [one.requires_grad for one in model.parameters()]
    return [module.training for module in model.modules()], tensors, gradients, wanted


def same_state(one, other):
    """Whether two results of `state_of` are equal to the bit."""
    tensors = all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())
    gradients = all((a is None and b is None) or torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    return one[0] == other[0] and tensors and gradients and one[3] == other[3]


def awkward(model):
    """Bring a model into a state that is easily lost: mixed modes, gradients, a frozen parameter."""
    model.train()
    first, second, _ = pairs_of_pictures()
    model.score(first, second).sum().backward()
    modules = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in modules:
        module.eval()
    next(model.parameters()).requires_grad_(False)
    return model
