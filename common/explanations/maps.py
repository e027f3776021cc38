"""Why two pictures look alike, as maps of both: pair CAM and integrated gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import EmbeddingNet, evaluation_mode, stages

SIDE = 7  # locations a map should have along its shorter side to tell parts of a flower apart
STEPS = 16  # of the path of integrated gradients; the sum then misses the score's change by a few percent
CHUNK = 32  # pictures explained at a time, which bounds memory
FLAT = 1e-7  # a map below this, where a score is of the order of 1, is rounding error


class PairScore(nn.Module):
    """The score of pairs whose `others` are held fixed, as a model of the pictures explained: outputs (B, 1).

    So it fits every method written for classifiers. `place` in the pair is 0 or 1, of the pictures explained.
    """

    def __init__(self, model: nn.Module, others: Tensor, place: int = 0):
        super().__init__()
        self.model, self.place = model, place
        with evaluation_mode(model):
            self.held = model(others)

    def forward(self, images: Tensor) -> Tensor:
        pair = [self.model(images), self.held]
        return self.model.score_embeddings(*reversed(pair) if self.place else pair)[:, None]


def pair_cam(model, first: Tensor, second: Tensor, layer: str | None = None):
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2, without the ReLU) of each pair's score, in both directions.

    `layer` is a stage of the backbone, by default `target_layer`. Returns maps of the first pictures given the second,
    and the reverse: two float32 (B, h, w), signed and unscaled, positive where a location raises the score. ValueError
    where a map is zero everywhere or not finite.
    """
    layer = layer or target_layer(model, first)
    return both_directions(lambda score, images: cam(score, images, layer), model, first, second)


def pair_integrated_gradients(model: nn.Module, first: Tensor, second: Tensor):
    """`integrated_gradients` of each pair's score, for both directions; arguments and maps as of `pair_cam`."""
    return both_directions(integrated_gradients, model, first, second)


def both_directions(explain: Callable, model: nn.Module, first: Tensor, second: Tensor):
    """Maps of the first pictures given the second and the reverse; `explain` is (`PairScore`, images) -> (B, h, w)."""
    sides = []
    for place, (images, others) in enumerate(((first, second), (second, first))):
        chunks = zip(images.split(CHUNK), others.split(CHUNK))
        sides.append(np.concatenate([explain(PairScore(model, held, place), part) for part, held in chunks]))
    return tuple(sides)


def cam(score: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    """Signed Grad-CAM (B, h, w), at a stage, of the sum of a model's outputs."""
    activation, gradient = activations_and_gradients(score, images, layer)
    return checked((gradient.mean((2, 3), keepdim=True) * activation).sum(1), layer)


def integrated_gradients(score: nn.Module, images: Tensor, block: int = 4) -> np.ndarray:
    """What each place adds to a model's output (B, 1) on the way from a `plain` picture to the real one.

    Sundararajan et al. 2017, equation 1 as a midpoint sum. A gradient at one point says how the score would change
    next; where a score is saturated that is little. Added up along a path it says what made the score.

    Returns:
        float32 (B, H / block, W / block), signed, each location the sum over `block` x `block` pixels. A map sums to
        the output for the picture minus that for the plain one, but for the error of the sum.
    """
    if images.shape[2] % block or images.shape[3] % block:
        raise ValueError(f"blocks of {block} pixels do not divide pictures of {tuple(images.shape[2:])}")
    start, total = plain(images), torch.zeros_like(images)
    with evaluation_mode(score, gradients=True):
        for step in range(STEPS):
            between = torch.lerp(start, images.detach(), (step + 0.5) / STEPS).requires_grad_()
            total += torch.autograd.grad(score(between).sum(), between)[0] / STEPS
    added = (total * (images - start)).sum(1).detach()
    return checked(block**2 * F.avg_pool2d(added, block), "pixels")


def plain(images: Tensor) -> Tensor:
    """Pictures of one color each, the mean of the picture's: blurring alone would keep colors in place."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def checked(maps: Tensor, layer: str) -> np.ndarray:
    """The maps (B, h, w) as an array; ValueError where one shows nothing, so that none is drawn (protocol rule 17)."""
    for place, largest in enumerate(maps.abs().amax((1, 2)).tolist()):
        if not np.isfinite(largest):
            raise ValueError(f"the map of picture {place} at {layer!r} is not finite: look for NaN in the weights")
        if largest <= FLAT:
            raise ValueError(f"the map of picture {place} at {layer!r} is zero everywhere: the gradient vanishes, as "
                             "for two equal pictures, or the score reads nothing there; name an earlier stage")
    return maps.cpu().numpy()


def enlarge(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (B, h, w) at the pictures' own `size` (H, W), bilinear, sign and scale kept."""
    return F.interpolate(torch.as_tensor(maps)[:, None], tuple(size), mode="bilinear")[:, 0].numpy()


def target_layer(model: nn.Module, images: Tensor, side: int = SIDE) -> str:
    """Choose the stage to explain: the deepest whose map has `side` locations each way, else the largest map there is.

    Depth brings meaning and costs resolution: at 64 pixels a network of stride 32 ends in 2 x 2 locations. Stages
    whose locations the embedding does not read are passed over, such as a transformer's last block under a class token.
    Only the first of `images` is tried.
    """
    backbone = embedding_net(model).backbone
    one = images[:1].detach().clone().requires_grad_()
    with evaluation_mode(model, gradients=True), recording(model, stages(backbone)) as outputs:
        total = model(one).square().sum()
        located = {name: output for name, output in outputs.items() if by_location(output, backbone) is not None}
        gradients = torch.autograd.grad(total, list(located.values()), allow_unused=True, materialize_grads=True)
    grids = {name: by_location(gradient, backbone) for name, gradient in zip(located, gradients, strict=True)}
    sides = {name: min(grid.shape[2:]) for name, grid in grids.items() if grid.any()}
    enough = min(side, max(sides.values()))
    return [name for name, found in sides.items() if found >= enough][-1]


def activations_and_gradients(score: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What a stage of the backbone hands out, and the gradient of the sum of a model's outputs: both (B, C, h, w)."""
    backbone = embedding_net(score).backbone
    images = images.detach().clone().requires_grad_()  # so that there is a gradient though all parameters be frozen
    with evaluation_mode(score, gradients=True), recording(score, [layer]) as outputs:
        (gradient,) = torch.autograd.grad(score(images).sum(), outputs[layer])
    if by_location(gradient, backbone) is None:
        raise ValueError(f"stage {layer!r} hands out {tuple(gradient.shape)}, which has no locations; name another")
    return by_location(outputs[layer].detach(), backbone), by_location(gradient, backbone)


def activations(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What a stage of the backbone hands out for pictures: (N, C, h, w)."""
    backbone, found = embedding_net(model).backbone, []
    with evaluation_mode(model), recording(model, [layer]) as outputs:
        for part in images.split(CHUNK):
            model(part)
            found.append(by_location(outputs[layer], backbone))
    return torch.cat(found)


def by_location(output: Tensor, backbone: nn.Module) -> Tensor | None:
    """A stage's output as channels over locations (B, C, h, w), tokens put back on their grid; None if it has none."""
    prefix = getattr(backbone, "num_prefix_tokens", None)  # only timm's transformers have it
    axes = getattr(output, "ndim", None)  # a list has none
    if axes == 4 and prefix is None:
        return output.movedim(-1, 1) if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else output
    if axes != 3:
        return None
    tokens = output[:, prefix or 0 :].mT
    side = round(tokens.shape[2] ** 0.5)
    return tokens.unflatten(2, (side, side)) if side**2 == tokens.shape[2] else None


def embedding_net(model: nn.Module) -> EmbeddingNet:
    """The `EmbeddingNet` that is, or is part of, a model."""
    return next(part for part in model.modules() if isinstance(part, EmbeddingNet))


@contextmanager
def recording(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what stages of the backbone hand out in a forward pass: a dict by name, which fills inside the block."""
    backbone, outputs = embedding_net(model).backbone, {}
    with ExitStack() as hooks:
        for name in names:
            stage = backbone.get_submodule(name)
            hook = stage.register_forward_hook(lambda *call, name=name: outputs.update({name: call[-1]}))
            hooks.enter_context(hook)
        yield outputs
