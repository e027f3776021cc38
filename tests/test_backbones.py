"""The embedding network: normalization inside, an honest cosine, and stages that stay frozen."""

import copy

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toys import TINY, image_set, model

from common import backbones
from common.backbones import EmbeddingNet, create_backbone, embed, stages
from common.datasets.batches import as_float


def pixels(count=4, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_normalization_happens_inside():
    net = model().eval()
    data = timm.data.resolve_model_data_config(net.backbone)
    mean, std = (torch.tensor(data[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    assert mean.min() > 0 and std.max() < 1
    first, second = pixels(seed=1), pixels(seed=2)
    with torch.no_grad():
        by_hand = [net.head(net.backbone((images - mean) / std)) for images in (first, second)]
        torch.testing.assert_close(net(first), by_hand[0])
        expected = torch.nn.functional.cosine_similarity(*by_hand)
        torch.testing.assert_close(net.score(first, second), expected)
        assert (net.pooled(first) - net.backbone(first)).abs().max() > 1e-3


def test_forms():
    net = model(classes=8, embedding_size=5)
    images = pixels()
    assert net.pooled(images).shape == (4, net.features)
    assert net(images).shape == (4, 5)
    assert net.classify(net(images)).shape == (4, 8)
    assert net.score(images, images).shape == (4,)
    plain = EmbeddingNet(TINY, 0)
    assert plain(images).shape == (4, plain.features) and plain.classifier is None


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_byobnet", "test_convnext"])
def test_any_timm_model_fits(name):
    net = EmbeddingNet(name, 4, 3, image_size=32).eval()
    with torch.no_grad():
        assert net(pixels(2)).shape == (2, 4)
        assert net.pooled(pixels(2)).shape == (2, net.features)


def test_the_arguments_rebuild_the_network():
    net = model()
    twin = EmbeddingNet(**net.arguments)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(twin.eval()(pixels()), net.eval()(pixels()))


def test_scores_are_cosines_that_may_be_negative():
    net = model().eval()
    first, second = torch.randn(50, 8), torch.randn(50, 8)
    scores = net.score_embeddings(first, second)
    for one, other, score in zip(first, second, scores, strict=True):
        assert score.item() == pytest.approx((one @ other / one.norm() / other.norm()).item(), abs=1e-5)
    net.train()
    embeddings = net(pixels(32))
    assert (embeddings < 0).float().mean() > 0.2, "no ReLU at the end of the head"
    scores = net.score_embeddings(embeddings, embeddings.roll(1, 0))
    assert scores.min() < -0.1
    same = net.score_embeddings(embeddings, embeddings)
    torch.testing.assert_close(same, torch.ones(32))


def test_the_score_is_symmetric_and_differentiable_by_the_picture():
    net = model().eval()
    first, second = pixels(seed=1).requires_grad_(), pixels(seed=2)
    scores = net.score(first, second)
    torch.testing.assert_close(scores, net.score(second, first))
    (gradient,) = torch.autograd.grad(scores.sum(), first)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_the_head_is_linear():
    """So that a score can be decomposed exactly over locations."""
    net = model().eval()
    first, second = torch.randn(3, net.features), torch.randn(3, net.features)
    with torch.no_grad():
        offset = net.head(torch.zeros(3, net.features))
        torch.testing.assert_close(net.head(first + second) + offset, net.head(first) + net.head(second))


class Blocks(nn.Module):
    """A backbone of twelve blocks, in which "blocks.1" is a part of the name "blocks.10"."""

    num_features = head_hidden_size = 4

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        blocks = (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(12))
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        return self.pool(self.blocks(self.stem(images)))


@pytest.fixture
def twelve(monkeypatch):
    monkeypatch.setattr(backbones, "create_backbone", lambda *arguments, **options: Blocks())
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda _: {"mean": (0.5,) * 3, "std": (0.2,) * 3})
    return EmbeddingNet("blocks", 3, 2)


def train_a_little(net, steps=3):
    """Real steps in training mode over everything that may move, weight decay included."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        net.classify(net(pixels(8, seed=step))).square().sum().backward()
        optimizer.step()


def changed(net, before):
    """Names of the backbone's tensors, statistics included, that are not bitwise what they were."""
    after = net.backbone.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_freezing_is_by_module_and_never_by_substring(twelve):
    names = stages(twelve.backbone)
    assert names == ["stem.0", "stem.1", *(f"blocks.{number}" for number in range(12))]
    frozen = twelve.freeze(4 / 14)  # stem.0, stem.1, blocks.0 and blocks.1, but not blocks.10 and blocks.11
    assert frozen == ["stem.0", "stem.1", "blocks.0", "blocks.1"]
    before = copy.deepcopy(twelve.backbone.state_dict())
    train_a_little(twelve)
    moved = changed(twelve, before)
    assert not [name for name in moved if name.startswith(("stem.", "blocks.0.", "blocks.1."))]
    for number in range(2, 12):
        assert {f"blocks.{number}.0.weight", f"blocks.{number}.1.running_mean"} <= moved


@pytest.mark.parametrize("name", [TINY, "test_efficientnet"])
def test_frozen_stages_are_bitwise_unchanged_by_training(name):
    net = model(backbone=name)
    frozen = net.freeze(0.5)
    assert 0 < len(frozen) < len(stages(net.backbone))
    before = copy.deepcopy(net.backbone.state_dict())
    train_a_little(net)
    inside = {key for key in before if any(key.startswith(f"{stage}.") for stage in frozen)}
    assert any("running_mean" in key for key in inside) and any(key.endswith("weight") for key in inside)
    moved = changed(net, before)
    assert not moved & inside
    assert {key for key in before if "running_" in key} - inside <= moved, "the rest goes on learning"


def test_freezing_takes_hold_at_once_in_training_mode(twelve):
    twelve.train()
    twelve.freeze(0.5)
    before = copy.deepcopy(twelve.backbone.state_dict())
    twelve(pixels(8))  # without a call of train() in between
    assert "blocks.0.1.running_mean" not in changed(twelve, before)
    assert "blocks.11.1.running_mean" in changed(twelve, before)


def test_freezing_can_be_taken_back(twelve):
    twelve.freeze(1.0)
    assert not any(parameter.requires_grad for parameter in twelve.backbone.parameters())
    assert all(parameter.requires_grad for parameter in twelve.head.parameters())
    assert twelve.freeze(0.0) == []
    before = copy.deepcopy(twelve.backbone.state_dict())
    train_a_little(twelve)
    assert "stem.1.running_mean" in changed(twelve, before) and "stem.0.weight" in changed(twelve, before)
    with pytest.raises(ValueError, match=r"share of stages to freeze is 1\.5; give a number from 0 to 1"):
        twelve.freeze(1.5)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1))
def test_more_share_freezes_more_stages_in_order(share):
    net = EmbeddingNet.__new__(EmbeddingNet)
    nn.Module.__init__(net)
    net.backbone = Blocks()
    names = stages(net.backbone)
    frozen = net.freeze(share)
    assert frozen == names[: len(frozen)] and abs(len(frozen) - share * len(names)) <= 0.5


@pytest.mark.parametrize("name", [TINY, "test_efficientnet"])
def test_stages_go_from_input_to_output_and_cover_all_weights(name):
    backbone, called = create_backbone(name), []
    names = stages(backbone)
    inside = {id(weight) for stage in names for weight in backbone.get_submodule(stage).parameters()}
    assert inside == {id(weight) for weight in backbone.parameters()}
    for stage in names:
        backbone.get_submodule(stage).register_forward_hook(lambda *_, stage=stage: called.append(stage))
    backbone(pixels(2))
    assert called == names


def test_weights_are_taken_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(5)
    source = timm.create_model(TINY)  # with its classifier, as published files have it
    save_file(source.state_dict(), tmp_path / f"{TINY}.safetensors")
    torch.manual_seed(6)
    net = EmbeddingNet(TINY, 8, 3, pretrained=True, weights=tmp_path)
    expected, found = source.state_dict(), net.backbone.state_dict()
    assert len(found) > 10
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    scratch = EmbeddingNet(TINY, 8, 3, pretrained=False, weights=tmp_path).backbone.state_dict()
    assert not torch.equal(scratch["conv1.0.weight"], expected["conv1.0.weight"])


def unreachable(monkeypatch):
    """Make timm's hub fail as it does without a network, without trying one."""
    made = timm.create_model

    def create_model(name, pretrained=False, **options):
        if pretrained and "pretrained_cfg_overlay" not in options:
            raise OSError("no network")
        return made(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", create_model)


@pytest.mark.parametrize("folder", [True, False])
def test_without_weights_the_message_says_what_to_do(folder, tmp_path, monkeypatch):
    unreachable(monkeypatch)
    with pytest.raises(RuntimeError) as raised:
        EmbeddingNet(TINY, pretrained=True, weights=tmp_path if folder else None)
    place = str(tmp_path) if folder else "SIMILARITY_WEIGHTS (not set)"
    for part in (TINY, place, f"{TINY}.safetensors", "network", "SIMILARITY_PROFILE=quick", "OSError"):
        assert part in str(raised.value)
    assert EmbeddingNet(TINY).features > 0, "from scratch no network is needed"


def test_weights_of_another_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other = {name: torch.zeros(3) for name in timm.create_model(TINY).state_dict()}
    save_file(other, tmp_path / f"{TINY}.safetensors")
    with pytest.raises(RuntimeError, match=rf"no ImageNet weights for '{TINY}'.*that fits"):
        create_backbone(TINY, pretrained=True, weights=tmp_path)


def test_an_unknown_model_is_named_with_similar_ones():
    with pytest.raises(ValueError, match=r"timm knows no model 'resnet51'; similar names: .*resnet"):
        create_backbone("resnet51")


@pytest.mark.parametrize("training", [True, False])
def test_embedding_is_in_evaluation_mode_and_restores_the_mode(training):
    net, pictures = model(), image_set(3, 3)
    net.freeze(0.3)
    net.train(training)
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    embeddings = embed(net, pictures.images, batch_size=4)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert embeddings.dtype == np.float32 and embeddings.shape == (9, 8)
    net.eval()
    with torch.no_grad():
        expected = net(as_float(torch.from_numpy(pictures.images)))
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)


def test_embedding_restores_the_mode_after_a_failure_too():
    net = model()
    with pytest.raises(RuntimeError):
        embed(net, np.zeros((2, 5, 32, 32), np.uint8))  # five channels
    assert net.training
