"""Maps of a pair's score: the formula, the layer, both directions, and maps that show nothing are refused."""

import copy

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from toys import cosine_model, pair_model, pixels

from common.backbones import EmbeddingNet
from common.explanations.maps import (
    PairScore,
    activations,
    activations_and_gradients,
    by_location,
    cam,
    check_maps,
    embeddings,
    enlarge,
    pair_cam,
    target_layer,
)

FIRST, SECOND = pixels(3, seed=1), pixels(3, seed=2)
MODELS = {"cosine": cosine_model(), "pair head": pair_model()}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def slow_cam(score, layer, images, place):
    """Equations 1 and 2 of Selvaraju et al. 2017 in loops, without the ReLU; `place` is the picture's in its pair."""
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    total = score(images)
    gradient = torch.autograd.grad(total, kept[place])[0][0]
    handle.remove()
    activation = kept[place][0]
    total = torch.zeros(activation.shape[1:])
    for channel, slope in zip(activation, gradient, strict=True):
        total += channel * slope.sum() / slope.numel()
    return total.detach().numpy()


@both
def test_maps_are_those_of_the_formula_in_both_directions(model):
    maps = pair_cam(model, FIRST, SECOND, "layer2.0")
    net = getattr(model, "net", model)
    for place in range(len(FIRST)):
        one, other = FIRST[place : place + 1], SECOND[place : place + 1]
        given_second = slow_cam(lambda images: model.score(images, other)[0], net.backbone.layer2[0], one, 0)  # noqa: B023
        given_first = slow_cam(lambda images: model.score(one, images)[0], net.backbone.layer2[0], other, 1)  # noqa: B023
        for found, expected in zip(maps, (given_second, given_first), strict=True):
            assert np.abs(expected).max() > 1e-5 and expected.shape == (8, 8)
            np.testing.assert_allclose(found[place], expected, atol=1e-3 * np.abs(expected).max())


@both
def test_a_picture_is_explained_alone_as_in_a_batch(model):
    together = pair_cam(model, FIRST, SECOND)
    alone = pair_cam(model, FIRST[1:2], SECOND[1:2])
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0], many[1], atol=1e-4 * np.abs(many[1]).max())


def test_many_pictures_are_explained_chunk_by_chunk(monkeypatch):
    whole = pair_cam(MODELS["cosine"], FIRST, SECOND, "layer2.0")
    monkeypatch.setattr("common.explanations.maps.CHUNK", 2)
    for one, other in zip(pair_cam(MODELS["cosine"], FIRST, SECOND, "layer2.0"), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


@both
def test_different_is_explained_by_the_negative_score(model):
    for plain, mixed in zip(
        pair_cam(model, FIRST, SECOND), pair_cam(model, FIRST, SECOND, same=[1, 0, 1]), strict=True
    ):
        assert plain.min() < 0 < plain.max(), "signed"
        np.testing.assert_allclose(mixed, plain * np.array([1, -1, 1])[:, None, None], rtol=1e-5)


def test_swapping_a_pair_swaps_its_maps():
    one, other = pair_cam(MODELS["cosine"], FIRST, SECOND)
    swapped = pair_cam(MODELS["cosine"], SECOND, FIRST)
    np.testing.assert_allclose(one, swapped[1], atol=1e-8)
    np.testing.assert_allclose(other, swapped[0], atol=1e-8)


def test_the_pair_head_keeps_the_order_of_its_pair():
    model = MODELS["pair head"]
    held = embeddings(model, SECOND)
    with torch.no_grad():
        torch.testing.assert_close(PairScore(model, held)(FIRST)[:, 0], model.score(FIRST, SECOND))
        torch.testing.assert_close(PairScore(model, held, 1)(FIRST)[:, 0], model.score(SECOND, FIRST))
        assert (model.score(FIRST, SECOND) - model.score(SECOND, FIRST)).abs().min() > 1e-4


class OneOutput(nn.Module):
    """One dimension of an embedding as a model with a single output: a single-picture target."""

    def __init__(self, net, dimension):
        super().__init__()
        self.net, self.dimension = net, dimension

    def forward(self, images):
        return self.net(images)[:, [self.dimension]]


@pytest.mark.parametrize("dimension", range(3))
def test_grad_cams_own_class_agrees_on_a_single_picture(dimension):
    """It cuts off below 0 and scales to the picture, so ours is brought to that form."""
    net = cosine_model(seed=3)
    ours = enlarge(np.maximum(cam(OneOutput(net, dimension), FIRST, "layer2.0"), 0), FIRST.shape[2:])
    with GradCAM(net, [net.backbone.layer2[0]]) as peer:
        theirs = peer(FIRST, [ClassifierOutputTarget(dimension)] * len(FIRST))
    assert np.ptp(ours) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


@both
def test_a_pair_fits_grad_cams_classes(model):
    score = PairScore(model, embeddings(model, SECOND))
    layer = getattr(model, "net", model).backbone.layer2[0]
    maps, compared = pair_cam(model, FIRST, SECOND, "layer2.0")[0], 0
    for sign in (1, -1):
        with GradCAM(score, [layer]) as peer:
            theirs = peer(FIRST, [lambda output: sign * output[0]] * len(FIRST))  # noqa: B023
        for one, other in zip(enlarge(np.maximum(sign * maps, 0), FIRST.shape[2:]), theirs, strict=True):
            if np.ptp(one):
                compared += 1
                assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999
    assert compared >= len(FIRST)


@both
def test_frozen_parameters_modes_and_gradients_stay(model):
    model = copy.deepcopy(model)
    expected = pair_cam(model, FIRST, SECOND)
    model.train()
    net = getattr(model, "net", model)
    net.freeze(0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(False)
    modes, state = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    with torch.no_grad():
        found = pair_cam(model, FIRST, SECOND)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert not FIRST.requires_grad


def test_mode_and_hooks_are_restored_after_an_error():
    model = copy.deepcopy(MODELS["cosine"]).train()
    with pytest.raises(RuntimeError):
        activations_and_gradients(model, torch.zeros(2, 5, 64, 64), "layer2.0")
    assert model.training and not any(module._forward_hooks for module in model.modules())


# --- the layer ---


@pytest.mark.parametrize("backbone, size, layer, grid", [
    ("test_resnet", 64, "layer2.0", (8, 8)),
    ("test_resnet", 128, "layer3.0", (8, 8)),
    ("test_resnet", 224, "layer4.0", (7, 7)),
    ("test_convnext", 64, "stages.1", (8, 8)),
    ("test_mambaout", 64, "stages.1", (8, 8)),  # hands out its channels last
    ("test_efficientnet", 64, "blocks.2", (8, 8)),
    ("test_vit", 112, "blocks.4", (7, 7)),  # of six blocks: the class token leaves the last one's map unread
    ("test_vit2", 112, "blocks.7", (7, 7)),  # pools the mean of its tokens
    ("test_vit", 32, "blocks.4", (2, 2)),  # the largest there is
])  # fmt: skip
def test_the_layer_is_the_deepest_with_resolution_enough(backbone, size, layer, grid):
    model = cosine_model(backbone, size)
    images = pixels(2, size)
    assert target_layer(model, images) == layer
    maps = pair_cam(model, images, pixels(2, size, 5))
    assert all(one.shape == (2, *grid) and one.dtype == np.float32 for one in maps)


def test_less_resolution_may_be_asked_for():
    assert target_layer(MODELS["cosine"], FIRST, side=2) == "layer4.0"
    assert target_layer(MODELS["cosine"], FIRST, side=3) == "layer3.0"
    assert target_layer(MODELS["cosine"], FIRST, side=1000) == "bn1", "the largest there is, as deep as it comes"


def test_tokens_are_put_back_on_their_grid():
    class Backbone(nn.Module):
        num_prefix_tokens = 2

    tokens = torch.arange(2 + 6)[None, :, None] * torch.ones(1, 1, 4)
    backbone = Backbone()
    backbone.patch_embed = nn.Identity()
    backbone.patch_embed.grid_size = (2, 3)
    expected = torch.tensor([[2.0, 3, 4], [5, 6, 7]])
    assert torch.equal(by_location(tokens, backbone), expected.expand(1, 4, 2, 3))
    assert by_location(tokens[:, :7], backbone) is None, "five tokens make no grid"
    assert by_location(tokens[:, :6], backbone).shape == (1, 4, 2, 2), "four make a square"
    assert by_location(tokens[:, 0], backbone) is None
    assert by_location(torch.ones(1, 10, 10, 4), backbone) is None, "a transformer's patches have their channels last"


def test_activations_are_those_of_the_stage():
    model, found = MODELS["pair head"], []
    handle = model.net.backbone.layer3.register_forward_hook(lambda *arguments: found.append(arguments[2]))
    with torch.no_grad():
        model(FIRST)
    handle.remove()
    torch.testing.assert_close(activations(model, FIRST, "layer3.0"), found[0])
    torch.testing.assert_close(activations_and_gradients(model, FIRST, "layer3.0")[0], found[0])


# --- what a map shows ---


def test_moving_the_content_moves_the_map():
    """A red square on gray: around it, the map of a shallow stage (4 pixels a location) is the same wherever it is."""
    model, windows = cosine_model(seed=1), []
    for row, column in ((16, 16), (16, 40), (36, 24)):
        picture = torch.full((1, 3, 64, 64), 0.5)
        picture[..., row : row + 8, column : column + 8] = torch.tensor([1.0, 0.1, 0.0])[:, None, None]
        one = pair_cam(model, picture, SECOND[:1], "layer1.0")[0][0]
        windows.append(one[row // 4 - 1 : row // 4 + 3, column // 4 - 1 : column // 4 + 3].ravel())
    assert np.corrcoef(windows).min() > 0.9
    other = pair_cam(model, picture, SECOND[:1], "layer1.0")[0][0]
    elsewhere = [other[:4, :4].ravel(), other[:4, 5:9].ravel(), other[4:8, 10:14].ravel()]
    assert max(np.abs(np.corrcoef(windows[0], one)[0, 1]) for one in elsewhere) < 0.9


def test_enlarging_keeps_sign_scale_and_place():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 1, 2] = -3
    large = enlarge(maps, (16, 32))
    assert large.shape == (1, 16, 32) and large.dtype == np.float32
    assert np.unravel_index(large[0].argmin(), (16, 32)) in {(row, column) for row in (5, 6) for column in (19, 20)}
    assert large.max() == 0 and -3 <= large.min() < -2
    np.testing.assert_allclose(enlarge(np.full((2, 3, 3), 0.25), (9, 9)), 0.25)


# --- maps that show nothing ---


def test_equal_pictures_have_no_map():
    with pytest.raises(ValueError, match=r"picture 0 at 'layer2\.0' is zero everywhere.*two equal pictures"):
        pair_cam(MODELS["cosine"], FIRST, FIRST)


def test_a_class_token_leaves_its_last_blocks_map_unread():
    model = cosine_model("test_vit", 32)
    first, second = pixels(2, 32, 1), pixels(2, 32, 2)
    for layer in ("blocks.5", "norm", "blocks.5.norm2"):
        with pytest.raises(ValueError, match=f"{layer}' is zero everywhere.*class token.*name an earlier stage"):
            pair_cam(model, first, second, layer)
    assert np.abs(pair_cam(model, first, second, "blocks.5.norm1")[0]).max() > 1e-6


def test_broken_weights_have_no_map():
    model = copy.deepcopy(MODELS["cosine"])
    model.head[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"picture 0 at 'layer2\.0' is not finite: look for NaN"):
        pair_cam(model, FIRST, SECOND, "layer2.0")


def test_the_picture_at_fault_is_named():
    maps = np.ones((3, 2, 2))
    check_maps(maps, "x")
    for value, reason in ((0, "zero everywhere"), (np.nan, "not finite"), (np.inf, "not finite"), (1e-9, "zero")):
        broken = maps.copy()
        broken[2] = value
        with pytest.raises(ValueError, match=f"picture 2 at 'x' is {reason}"):
            check_maps(broken, "x")


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(ValueError, match="Linear holds no EmbeddingNet"):
        target_layer(nn.Linear(2, 2), FIRST)
    model = cosine_model("test_convnext")
    with pytest.raises(ValueError, match=r"stage 'head' hands out \(3, 64\), which has no locations"):
        pair_cam(model, FIRST, SECOND, "head")

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(12, 4)

        def forward(self, images):
            return self.inside(images[..., :2, :2].flatten(1))

    flat = copy.deepcopy(MODELS["cosine"])
    flat.backbone, flat.head = Flat(), nn.Identity()
    with pytest.raises(ValueError, match="no stage of Flat has locations that the embedding reads"):
        target_layer(flat, FIRST)


def test_a_model_without_a_head_is_explained_too():
    torch.manual_seed(0)
    plain = EmbeddingNet("test_resnet", 0).eval()
    assert pair_cam(plain, FIRST, SECOND)[0].shape == (3, 8, 8)
