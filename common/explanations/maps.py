"""Why two pictures look alike, as maps: the gradient-weighted activation of a pair's score, in both directions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import EmbeddingNet, evaluation_mode, stages

SIDE = 7  # locations a map should have along its shorter side to tell parts of a flower apart
CHUNK = 32  # pictures explained at a time, which bounds memory
FLAT = 1e-7  # a map below this, where a score is of the order of 1, is rounding error


class PairScore(nn.Module):
    """The score of a pair of which one picture's embedding is held fixed, as a model of the other picture alone.

    Its output (B, 1) makes it fit every method written for classifiers, those of the package grad-cam included.
    """

    def __init__(self, model: nn.Module, held: Tensor, place: int = 0):
        """
        Args:
            model: has `score_embeddings`.
            held: embeddings (B, D) of the other pictures.
            place: 0 if the picture explained is the first of its pair, 1 if the second.
        """
        super().__init__()
        self.model, self.held, self.place = model, held, place

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, 1) of float pictures (B, 3, H, W) in [0, 1] with the held ones."""
        pair = [self.model(images), self.held]
        return self.model.score_embeddings(*reversed(pair) if self.place else pair)[:, None]


def pair_cam(model, first: Tensor, second: Tensor, layer: str | None = None, same=None):
    """Where the score of each pair comes from: maps of the first picture given the second, and the reverse.

    Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) without its ReLU: a layer's channels are weighted with
    the score's mean gradient and added up. The package grad-cam cuts off below 0, scales each map to [0, 1] and
    needs trainable parameters, so these few lines are our own; a test holds them against it.

    Args:
        model: has `score_embeddings`; its mode and its parameters' gradients stay as they are, frozen or not.
        first, second: float (B, 3, H, W) in [0, 1].
        layer: a stage of the backbone; default: `target_layer`.
        same: (B,), 1 explains the score and 0 its negative, what makes two pictures different; default: all 1.

    Returns:
        Two float32 arrays (B, h, w), signed and unscaled: positive where a location speaks for the answer.

    Raises:
        ValueError: a map that is zero everywhere or not finite, with the reason.
    """
    layer = layer or target_layer(model, first)
    return both_directions(lambda score, images: cam(score, images, layer), model, first, second, same)


def both_directions(explain: Callable, model: nn.Module, first: Tensor, second: Tensor, same=None):
    """Explain the first pictures with the second held fixed, and the reverse, CHUNK pictures at a time.

    Args:
        explain: (`PairScore`, pictures (B, 3, H, W)) -> maps (B, h, w).
        model, first, second, same: as in `pair_cam`.

    Returns:
        Two float32 arrays (B, h, w), negated where `same` is 0.
    """
    signs = np.ones((len(first), 1, 1)) if same is None else 2 * np.reshape(same, (-1, 1, 1)) - 1
    sides = []
    for place, (images, others) in enumerate(((first, second), (second, first))):
        parts = zip(images.split(CHUNK), embeddings(model, others).split(CHUNK))
        maps = [explain(PairScore(model, held, place), part) for part, held in parts]
        sides.append((signs * np.concatenate(maps)).astype(np.float32))
    return tuple(sides)


def cam(score: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    """Signed Grad-CAM (B, h, w) of the sum of a model's outputs at a stage; errors as in `pair_cam`."""
    activations, gradients = activations_and_gradients(score, images, layer)
    maps = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).cpu().numpy()
    check_maps(maps, layer)
    return maps


def check_maps(maps: np.ndarray, layer: str) -> None:
    """Refuse maps (B, h, w) that show nothing, so that none is ever drawn (protocol rule 17).

    Raises:
        ValueError: the first map that is not finite, or zero everywhere, and what the reason may be.
    """
    for place, one in enumerate(maps):
        if not np.isfinite(one).all():
            raise ValueError(
                f"the map of picture {place} at {layer!r} is not finite: look for NaN in the model's weights, or for "
                "an embedding of zeros, whose cosine has no gradient"
            )
        if np.abs(one).max() <= FLAT:
            raise ValueError(
                f"the map of picture {place} at {layer!r} is zero everywhere: either the score reads nothing there (a "
                "transformer that pools its class token ignores the last block's other tokens: name an earlier "
                "stage), or its gradient vanishes, as for two equal pictures"
            )


def activations_and_gradients(score: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What a stage hands out, and the gradient by it of the sum of a model's outputs.

    Args:
        score: holds an `EmbeddingNet`; a `PairScore`, for instance.
        images: float (B, 3, H, W) in [0, 1].
        layer: a stage of its backbone that has locations.

    Returns:
        Two tensors (B, C, h, w).
    """
    backbone = embedding_net(score).backbone
    images = images.detach().clone().requires_grad_()  # so that there is a gradient though all parameters be frozen
    with evaluation_mode(score, gradients=True), recording(backbone, [layer]) as outputs:
        (gradient,) = torch.autograd.grad(score(images).sum(), outputs[layer])
    found = [by_location(tensor.detach(), backbone) for tensor in (outputs[layer], gradient)]
    if found[0] is None:
        raise ValueError(f"stage {layer!r} hands out {tuple(gradient.shape)}, which has no locations; name another")
    return tuple(found)


@torch.no_grad()
def activations(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What a stage of the backbone hands out, (B, C, h, w), for float pictures (B, 3, H, W) in [0, 1]."""
    backbone, found = embedding_net(model).backbone, []
    with evaluation_mode(model), recording(backbone, [layer]) as outputs:
        for part in images.split(CHUNK):
            model(part)
            found.append(by_location(outputs[layer], backbone))
    return torch.cat(found)


def target_layer(model: nn.Module, images: Tensor, side: int = SIDE) -> str:
    """Choose the stage to explain: the deepest whose map has `side` locations each way, else the largest map there is.

    Depth brings meaning and costs resolution: at 64 pixels a network of stride 32 ends in 2 x 2 locations. Stages
    whose locations the embedding does not read are passed over, such as a transformer's last block under a class token.

    Args:
        model: holds an `EmbeddingNet`.
        images: float (B, 3, H, W) in [0, 1], of the size in question; the first is tried.
        side: locations wanted along the shorter side.

    Raises:
        ValueError: no stage has locations.
    """
    backbone, sizes = embedding_net(model).backbone, {}
    one = images[:1].detach().clone().requires_grad_()
    with evaluation_mode(model, gradients=True), recording(backbone, stages(backbone)) as outputs:
        total = model(one).square().sum()
        found = {name: output for name, output in outputs.items() if by_location(output, backbone) is not None}
        gradients = torch.autograd.grad(total, list(found.values()), allow_unused=True) if found else ()
    for name, gradient in zip(found, gradients, strict=True):
        located = None if gradient is None else by_location(gradient, backbone)
        if located is not None and located.any():
            sizes[name] = min(located.shape[2:])
    if not sizes:
        raise ValueError(f"no stage of {type(backbone).__name__} has locations that the embedding reads")
    enough = min(side, max(sizes.values()))
    return [name for name, size in sizes.items() if size >= enough][-1]


def by_location(output: Tensor, backbone: nn.Module) -> Tensor | None:
    """A stage's output as channels over locations (B, C, h, w), tokens put back on their grid; None if it has none."""
    prefix = getattr(backbone, "num_prefix_tokens", None)  # only timm's transformers have it
    if output.ndim == 4 and prefix is None:
        return output.movedim(-1, 1) if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else output
    if output.ndim != 3:
        return None
    tokens = output[:, prefix or 0 :].transpose(1, 2)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None) or (0, 0)
    if grid[0] * grid[1] != tokens.shape[2]:
        grid = (round(tokens.shape[2] ** 0.5),) * 2
    return tokens.unflatten(2, grid) if grid[0] * grid[1] == tokens.shape[2] else None


def enlarge(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (B, h, w) at the pictures' own `size` (H, W), bilinear, sign and scale kept."""
    return F.interpolate(torch.as_tensor(maps)[:, None], tuple(size), mode="bilinear")[:, 0].numpy()


@torch.no_grad()
def embeddings(model: nn.Module, images: Tensor) -> Tensor:
    """Embeddings (B, D) of float pictures (B, 3, H, W) in evaluation mode; the model's mode is restored."""
    with evaluation_mode(model):
        return torch.cat([model(part) for part in images.split(CHUNK)])


def embedding_net(model: nn.Module) -> EmbeddingNet:
    """The `EmbeddingNet` that is, or is part of, a model."""
    found = next((part for part in model.modules() if isinstance(part, EmbeddingNet)), None)
    if found is None:
        raise ValueError(f"{type(model).__name__} holds no EmbeddingNet, whose stages could be explained")
    return found


@contextmanager
def recording(backbone: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what modules hand out in a forward pass: a dict by their names, which fills inside the block."""
    outputs, handles = {}, []
    for name in names:

        def keep(module, inputs, output, name=name):
            if isinstance(output, Tensor):
                outputs[name] = output

        handles.append(backbone.get_submodule(name).register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
