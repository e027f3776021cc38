"""Maps of a pair's score: right by their formulas and by peers, complete where they should be, refused where empty."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toys import cosine_model, pair_model, pixels

from common.backbones import EmbeddingNet
from common.explanations import maps as module
from common.explanations.maps import PairScore, pair_cam, pair_integrated_gradients, plain, target_layer

FIRST, SECOND = pixels(3, seed=1), pixels(3, seed=2)
SMALL, SMALL_TOO = pixels(3, 32, seed=1), pixels(3, 32, seed=2)
DEV = "a peer is missing: pip install -r requirements-dev.txt"
MODELS = {"cosine": cosine_model(), "pair head": pair_model()}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
kinds = pytest.mark.parametrize("explain", [pair_cam, pair_integrated_gradients])


def slow_cam(score, layer, images, place):
    """Equations 1 and 2 of Selvaraju et al. 2017 in loops, without the ReLU; `place` is the picture's in its pair."""
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    gradient = torch.autograd.grad(score(images), kept[place])[0][0]
    handle.remove()
    channels = zip(kept[place][0].detach(), gradient, strict=True)
    return sum(channel * slope.sum() / slope.numel() for channel, slope in channels).numpy()


@both
@kinds
def test_maps_of_both_pictures_are_signed(model, explain):
    for one in explain(model, SMALL, SMALL_TOO):
        assert one.min() < 0 < one.max() and one.dtype == np.float32


@both
@kinds
def test_a_picture_is_explained_alone_as_in_a_batch_or_in_chunks(model, explain, monkeypatch):
    together, alone = explain(model, SMALL, SMALL_TOO), explain(model, SMALL[1:2], SMALL_TOO[1:2])
    monkeypatch.setattr(module, "CHUNK", 2)
    chunks = explain(model, SMALL, SMALL_TOO)
    for many, one, parts in zip(together, alone, chunks, strict=True):
        np.testing.assert_allclose(one[0], many[1], atol=1e-4 * np.abs(many[1]).max())
        np.testing.assert_allclose(parts, many, atol=1e-4 * np.abs(many).max())


@both
@kinds
def test_frozen_parameters_modes_and_gradients_stay(model, explain):
    model = copy.deepcopy(model)
    expected = explain(model, SMALL, SMALL_TOO)
    getattr(model.train(), "net", model).freeze(0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(False)
    modes, state = [part.training for part in model.modules()], copy.deepcopy(model.state_dict())
    with torch.no_grad():
        found = explain(model, SMALL, SMALL_TOO)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [part.training for part in model.modules()] == modes and True in modes and False in modes
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())
    assert not SMALL.requires_grad


def test_mode_and_hooks_are_restored_after_an_error():
    model = copy.deepcopy(MODELS["cosine"]).train()
    with pytest.raises(RuntimeError):
        module.activations_and_gradients(model, torch.zeros(2, 5, 64, 64), "layer2.0")
    assert model.training and not any(part._forward_hooks for part in model.modules())


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
def test_grad_cams_own_class_agrees(model):
    """It cuts off below 0 and scales to the picture, so ours is brought to that form."""
    package, score = pytest.importorskip("pytorch_grad_cam", reason=DEV), PairScore(model, SECOND)
    layer = getattr(model, "net", model).backbone.layer2[0]
    maps, compared = pair_cam(model, FIRST, SECOND, "layer2.0")[0], 0
    for sign in (1, -1):
        with package.GradCAM(score, [layer]) as peer:
            theirs = peer(FIRST, [lambda output: sign * output[0]] * len(FIRST))  # noqa: B023
        for one, other in zip(module.enlarge(np.maximum(sign * maps, 0), FIRST.shape[2:]), theirs, strict=True):
            if np.ptp(one):
                compared += 1
                assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999
    assert compared >= len(FIRST)


def test_moving_the_content_moves_the_map():
    """A red square on gray: around it, the map of a shallow stage (4 pixels a location) is the same wherever it is."""
    model, windows = cosine_model(seed=1), []
    for row, column in ((16, 16), (16, 40), (36, 24)):
        picture = torch.full((1, 3, 64, 64), 0.5)
        picture[..., row : row + 8, column : column + 8] = torch.tensor([1.0, 0.1, 0.0])[:, None, None]
        one = pair_cam(model, picture, SECOND[:1], "layer1.0")[0][0]
        windows.append(one[row // 4 - 1 : row // 4 + 3, column // 4 - 1 : column // 4 + 3].ravel())
    assert np.corrcoef(windows).min() > 0.9
    beside = one[row // 4 + 1 : row // 4 + 5, column // 4 - 2 : column // 4 + 2]
    assert np.corrcoef(windows[0], beside.ravel())[0, 1] < 0.9


def test_a_model_without_a_head_is_explained_too():
    torch.manual_seed(0)
    assert pair_cam(EmbeddingNet("test_resnet", 0).eval(), FIRST, SECOND)[0].shape == (3, 8, 8)


@both
def test_maps_sum_to_what_the_content_adds_to_the_score(model, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 64)
    first, second = SMALL[:1], SMALL_TOO[:1]
    maps = pair_integrated_gradients(model, first, second)
    with torch.no_grad():
        whole = model.score(first, second)
        changes = whole - model.score(plain(first), second), whole - model.score(first, plain(second))
    for one, change in zip(maps, changes, strict=True):
        assert one.shape == (1, 8, 8) and one.dtype == np.float32 and change.abs().min() > 1e-3
        np.testing.assert_allclose(one.sum((1, 2)), change, atol=0.25 * change.abs().max().item())


@both
def test_captums_integrated_gradients_agree(model):
    attr = pytest.importorskip("captum.attr", reason=DEV)
    peer = attr.IntegratedGradients(PairScore(model, SMALL_TOO.repeat(16, 1, 1, 1)))  # all steps in one batch
    found = peer.attribute(SMALL, plain(SMALL), n_steps=16, method="riemann_middle").sum(1).detach()
    ours = module.integrated_gradients(PairScore(model, SMALL_TOO), SMALL, block=1)
    assert np.abs(ours).max() > 1e-4
    np.testing.assert_allclose(ours, found, atol=1e-3 * np.abs(ours).max())


def test_blocks_are_sums_of_their_pixels():
    score = PairScore(MODELS["cosine"], SMALL_TOO)
    fine, coarse = (module.integrated_gradients(score, SMALL, block) for block in (1, 8))
    by_hand = fine.reshape(3, 4, 8, 4, 8).sum((2, 4))
    np.testing.assert_allclose(coarse, by_hand, atol=1e-5 * np.abs(by_hand).max())
    with pytest.raises(ValueError, match="blocks of 5 pixels"):
        module.integrated_gradients(score, SMALL, 5)


def test_the_path_starts_at_the_pictures_mean_color():
    start = plain(SMALL)
    assert start.shape == SMALL.shape and not start.std((2, 3)).any()
    torch.testing.assert_close(start.mean((2, 3)), SMALL.mean((2, 3)))
    gray = torch.full((1, 3, 32, 32), 0.5)
    with pytest.raises(ValueError, match="zero everywhere"):
        pair_integrated_gradients(MODELS["cosine"], gray, SMALL_TOO[:1])


@pytest.mark.parametrize("backbone, size, layer, grid", [
    ("test_resnet", 64, "layer2.0", (8, 8)),
    ("test_resnet", 128, "layer3.0", (8, 8)),
    ("test_resnet", 224, "layer4.0", (7, 7)),
    ("test_mambaout", 64, "stages.1", (8, 8)),  # hands out its channels last
    ("test_vit", 112, "blocks.4", (7, 7)),  # of six blocks: the class token leaves the last one's map unread
    ("test_vit2", 112, "blocks.7", (7, 7)),  # pools the mean of its tokens
    ("test_vit", 32, "blocks.4", (2, 2)),  # the largest there is
])  # fmt: skip
def test_the_layer_is_the_deepest_with_resolution_enough(backbone, size, layer, grid):
    model = cosine_model(backbone, size)
    images = pixels(2, size)
    assert target_layer(model, images) == layer
    assert all(one.shape == (2, *grid) for one in pair_cam(model, images, pixels(2, size, 5)))


@pytest.mark.parametrize("side, layer", [(2, "layer4.0"), (3, "layer3.0"), (1000, "bn1")])
def test_less_resolution_may_be_asked_for(side, layer):
    assert target_layer(MODELS["cosine"], FIRST, side) == layer, "at most the largest there is, as deep as it comes"


def test_tokens_are_put_back_on_their_grid():
    transformer = nn.Identity()
    transformer.num_prefix_tokens = 2
    tokens = torch.arange(2 + 4)[None, :, None] * torch.ones(1, 1, 4)
    expected = torch.tensor([[2.0, 3], [4, 5]])
    assert torch.equal(module.by_location(tokens, transformer), expected.expand(1, 4, 2, 2))
    assert module.by_location(tokens[:, :5], transformer) is None, "three tokens make no square"
    assert module.by_location(tokens[:, 0], transformer) is module.by_location([tokens], transformer) is None
    assert module.by_location(torch.ones(1, 10, 10, 4), transformer) is None, "before they become tokens: channels last"
    assert module.by_location(tokens[:, :4], nn.Identity()).shape == (1, 4, 2, 2), "no prefix"


def test_activations_are_those_of_the_stage():
    model, found = MODELS["pair head"], []
    handle = model.net.backbone.layer3.register_forward_hook(lambda *arguments: found.append(arguments[2]))
    with torch.no_grad():
        model(FIRST)
    handle.remove()
    torch.testing.assert_close(module.activations(model, FIRST, "layer3.0"), found[0])
    torch.testing.assert_close(module.activations_and_gradients(model, FIRST, "layer3.0")[0], found[0])
    with pytest.raises(ValueError, match=r"'head' .* no locations"):
        pair_cam(cosine_model("test_convnext"), FIRST, SECOND, "head")


def test_enlarging_keeps_sign_scale_and_place():
    small = np.zeros((1, 4, 4), np.float32)
    small[0, 1, 2] = -3
    large = module.enlarge(small, (16, 32))
    assert large.shape == (1, 16, 32) and large.dtype == np.float32
    row, column = np.unravel_index(large[0].argmin(), (16, 32))
    assert row in (5, 6) and column in (19, 20) and large.max() == 0 and -3 <= large.min() < -2
    np.testing.assert_allclose(module.enlarge(np.full((2, 3, 3), 0.25), (9, 9)), 0.25)


def test_a_class_token_leaves_its_last_blocks_map_unread():
    model = cosine_model("test_vit", 32)
    for layer in ("blocks.5", "norm", "blocks.5.norm2"):
        with pytest.raises(ValueError, match=f"{layer}' is zero everywhere.*name an earlier stage"):
            pair_cam(model, SMALL, SMALL_TOO, layer)
    assert np.abs(pair_cam(model, SMALL, SMALL_TOO, "blocks.5.norm1")[0]).max() > 1e-6


@pytest.mark.parametrize("value, reason", [(0, "zero"), (1e-9, "zero"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_the_picture_at_fault_is_named(value, reason):
    found = torch.ones(3, 2, 2)
    np.testing.assert_array_equal(module.checked(found, "x"), found)
    found[2] = value
    with pytest.raises(ValueError, match=f"picture 2 at 'x' is {reason}"):
        module.checked(found, "x")
