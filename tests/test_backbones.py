"""The networks: normalization inside, honest scores, stages that stay frozen, weights from files, the small CNN."""

import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toys import SEED, TINY, config, image_set, model, pixels, ready, same_state, state_of

from common import backbones
from common.backbones import (
    EmbeddingNet,
    SiameseNet,
    create_backbone,
    embed,
    folded,
    new_model,
    principal_head,
    stages,
)  # fmt: skip
from common.datasets.batches import as_float
from common.small_cnn import SmallCNN


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv2_050", "small_cnn"])
def test_a_folded_model_embeds_alike_without_its_batch_norms(name):
    net, pictures = EmbeddingNet(name, 8), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        net(pictures)  # in training mode, so that BatchNorm has averages of its own
    twin, count = folded(net), lambda model: sum(isinstance(one, nn.BatchNorm2d) for one in model.modules())
    assert net.training and not twin.training
    assert 3 * count(twin) < count(net) or name == "test_convnext", "but for stems of several convolutions"
    torch.testing.assert_close(twin(pictures), net.eval()(pictures), rtol=1e-4, atol=1e-4)


def test_normalization_happens_inside():
    net = model().eval()
    data = timm.data.resolve_model_data_config(net.backbone)
    mean, std = (torch.tensor(data[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    assert mean.min() > 0 and std.max() < 1
    first, second = pixels(4, 32, 1), pixels(4, 32, 2)
    with torch.no_grad():
        by_hand = [net.head(net.backbone((images - mean) / std)) for images in (first, second)]
        torch.testing.assert_close(net(first), by_hand[0])
        torch.testing.assert_close(net.score(first, second), F.cosine_similarity(*by_hand))
        assert (net.pooled(first) - net.backbone(first)).abs().max() > 1e-3


@pytest.mark.parametrize("network, name, size", [
    *((EmbeddingNet, name, 5) for name in (TINY, "test_efficientnet", "test_vit", "test_byobnet", "test_convnext")),
    (EmbeddingNet, "small_cnn", 5), (EmbeddingNet, TINY, 0), (SiameseNet, TINY, 5), (SiameseNet, TINY, 0),
])  # fmt: skip
def test_any_timm_model_fits_and_is_rebuilt_from_its_arguments(network, name, size):
    net, images, others = network(name, size, 3, image_size=32), pixels(2, 32), pixels(2, 32, 1)
    assert net(images).shape == (2, size or net.features) and net.pooled(images).shape == (2, net.features)
    assert net.classify(net(images)).shape == (2, 3) and net.score(images, others).shape == (2,)
    twin = network(**net.arguments)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(twin.eval()(images), net.eval()(images))
        assert torch.equal(twin.score(images, others), net.score(images, others))
    assert network(name, size, image_size=32).classifier is None


def test_scores_are_cosines_that_may_be_negative():
    net, first, second = model(), random(50, 8), random(50, 8, seed=1)
    for one, other, score in zip(first, second, net.score_embeddings(first, second), strict=True):
        assert score.item() == pytest.approx((one @ other / one.norm() / other.norm()).item(), abs=1e-5)
    embeddings = net(pixels(32, 32))
    assert (embeddings < 0).float().mean() > 0.2, "no ReLU at the end of the head"
    assert net.score_embeddings(embeddings, embeddings.roll(1, 0)).min() < -0.1
    torch.testing.assert_close(net.score_embeddings(embeddings, embeddings), torch.ones(32))


def test_the_head_is_linear():
    """So that a score can be decomposed exactly over locations."""
    net = model().eval()
    first, second = random(2, 3, net.features)
    with torch.no_grad():
        offset = net.head(torch.zeros(3, net.features))
        torch.testing.assert_close(net.head(first + second) + offset, net.head(first) + net.head(second))


@pytest.mark.parametrize("network", [EmbeddingNet, SiameseNet])
def test_the_score_of_pictures_is_symmetric_and_every_weight_and_picture_learns(network):
    torch.manual_seed(0)
    net = network(TINY, 8).eval()
    first, second = (pixels(4, 32, seed).requires_grad_() for seed in (1, 2))
    scores = net.score(first, second)
    torch.testing.assert_close(scores, net.score(second, first))
    torch.testing.assert_close(scores, net.score_embeddings(net(first), net(second)))
    F.softplus(-scores).sum().backward()
    for images in (first, second):
        assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients) and net.head[0].weight.grad.abs().sum() > 0
    if network is SiameseNet:
        assert net.pair_head.weight.grad.ne(0).all() and net.pair_head.bias.grad.ne(0)


def siamese(shaken=True, seed=0):
    """A small network; `shaken` moves its pair head away from where it starts, as training would."""
    torch.manual_seed(seed)
    net = SiameseNet(TINY, 8).eval().requires_grad_(False)
    if shaken:
        for parameter in net.pair_head.parameters():
            nn.init.normal_(parameter)
    return net


@pytest.fixture(scope="module")
def pair_head():
    return siamese()


def slow_score(net, first, second):
    """The logit of one pair, dimension by dimension."""
    a, b = ((vector / vector.norm()).tolist() for vector in (first, second))
    weights, total = net.pair_head.weight[0].tolist(), net.pair_head.bias.item()
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        total += weights[k] * abs(x - y) + weights[len(a) + k] * x * y
    return total


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(1, 5))
def test_the_pair_head_is_a_line_through_differences_and_products(pair_head, seed, count):
    first, second = random(2, count, 8, seed=seed)
    scores = pair_head.score_embeddings(first, second)
    expected = [slow_score(pair_head, one, other) for one, other in zip(first, second, strict=True)]
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert torch.equal(scores, pair_head.score_embeddings(second, first)), "symmetric to the last bit"
    torch.testing.assert_close(pair_head.score_embeddings(7 * first, 0.1 * second), scores)


def test_the_pair_head_starts_as_a_scaled_cosine_whose_sign_tells_same_from_different():
    net, first, second = siamese(shaken=False), random(6, 8), random(6, 8, seed=1)
    expected = SiameseNet.START * F.cosine_similarity(first, second)
    torch.testing.assert_close(net.score_embeddings(first, second), expected)
    torch.testing.assert_close(net.score_embeddings(first, first), torch.full((6,), SiameseNet.START))
    torch.testing.assert_close(net.score_embeddings(first, -first), torch.full((6,), -SiameseNet.START))


@pytest.mark.parametrize("make", [model, siamese])
def test_leading_dimensions_broadcast(make):
    net, queries, gallery = make(), random(3, 8), random(2, 5, 8, seed=1)
    every = net.score_embeddings(queries[:, None, None], gallery)
    assert every.shape == (3, 2, 5) and net.score_embeddings(queries[0], queries[1]).shape == ()
    for i, j, k in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(5)):
        torch.testing.assert_close(every[i, j, k], net.score_embeddings(queries[i], gallery[j, k]))


def test_gradients_of_the_pair_head():
    net = siamese().double()
    first, second = (random(2, 8, seed=seed).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(net.score_embeddings, (first, second))
    (gradient,) = torch.autograd.grad(net.score_embeddings(first, first).sum(), first)
    assert gradient.isfinite().all(), "identical embeddings"


def test_the_pair_head_can_learn_which_dimensions_count():
    """Pairs are the same where the first dimension agrees in sign, which its product tells and a cosine does not."""
    net, (first, second) = siamese(shaken=False, seed=SEED), random(2, 400, 8, seed=SEED)
    same = (first[:, 0] * second[:, 0] > 0).float()

    def accuracy():
        return ((net.score_embeddings(first, second) > 0) == same.bool()).float().mean()

    before, optimizer = accuracy(), torch.optim.Adam(net.pair_head.requires_grad_().parameters(), 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net.score_embeddings(first, second), same).backward()
        optimizer.step()
    assert accuracy() > before + 0.1, "the cosine is right in three of five, the product nearly always"


class Blocks(nn.Module):
    """A backbone of twelve blocks, in which "blocks.1" is a part of the name "blocks.10"."""

    num_features = head_hidden_size = 4

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = dict(mean=(0.5,) * 3, std=(0.2,) * 3)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        blocks = (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(12))
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        return self.pool(self.blocks(self.stem(images)))


@pytest.fixture
def twelve(monkeypatch):
    monkeypatch.setattr(backbones, "create_backbone", lambda *arguments, **options: Blocks())
    return EmbeddingNet("blocks", 3, 2)


def moved_by_training(net, steps=3):
    """Which of the backbone's tensors, statistics included, real steps with weight decay change by a bit or more."""
    before = copy.deepcopy(net.backbone.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        net.classify(net(pixels(8, 32, step))).square().sum().backward()
        optimizer.step()
    return {name for name, tensor in net.backbone.state_dict().items() if not torch.equal(tensor, before[name])}


def test_freezing_is_by_module_and_never_by_substring(twelve):
    assert stages(twelve.backbone) == ["stem.0", "stem.1", *(f"blocks.{number}" for number in range(12))]
    frozen = twelve.freeze(4 / 14)  # stem.0, stem.1, blocks.0 and blocks.1, but not blocks.10 and blocks.11
    assert frozen == ["stem.0", "stem.1", "blocks.0", "blocks.1"]
    moved = moved_by_training(twelve)
    assert not [name for name in moved if name.startswith(("stem.", "blocks.0.", "blocks.1."))]
    for number in range(2, 12):
        assert {f"blocks.{number}.0.weight", f"blocks.{number}.1.running_mean"} <= moved


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "small_cnn"])
def test_frozen_stages_are_bitwise_unchanged_by_training(name):
    net = model(backbone=name)
    frozen = net.freeze(0.4)
    assert 0 < len(frozen) < len(stages(net.backbone))
    names, moved = set(net.backbone.state_dict()), moved_by_training(net)
    inside = {name for name in names if name.startswith(tuple(f"{stage}." for stage in frozen))}
    assert any("running_mean" in name for name in inside) and any(name.endswith("weight") for name in inside)
    assert not moved & inside
    assert {name for name in names if "running_" in name} - inside <= moved, "the rest goes on learning"


def test_freezing_takes_hold_at_once_and_can_be_taken_back(twelve):
    twelve.train()
    twelve.freeze(0.5)
    before = copy.deepcopy(twelve.backbone.state_dict())
    twelve(pixels(8, 32))  # without a call of train() in between
    after = twelve.backbone.state_dict()
    kept = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert "blocks.0.1.running_mean" in kept and "blocks.11.1.running_mean" not in kept
    twelve.freeze(1.0)
    assert not any(parameter.requires_grad for parameter in twelve.backbone.parameters())
    assert all(parameter.requires_grad for parameter in twelve.head.parameters())
    assert twelve.freeze(0.0) == []
    assert {"stem.1.running_mean", "stem.0.weight"} <= moved_by_training(twelve)
    with pytest.raises(ValueError, match=r"1\.5.*from 0 to 1"):
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


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "small_cnn"])
def test_stages_go_from_input_to_output_and_cover_all_weights(name):
    backbone, called = create_backbone(name), []
    names = stages(backbone)
    inside = {id(weight) for stage in names for weight in backbone.get_submodule(stage).parameters()}
    assert inside == {id(weight) for weight in backbone.parameters()}
    for stage in names:
        backbone.get_submodule(stage).register_forward_hook(lambda *_, stage=stage: called.append(stage))
    backbone(pixels(2, 32))
    assert called == names


def test_a_new_model_is_seeded_and_frozen_as_configured(tmp_path):
    run = dataclasses.replace(config(tmp_path), embedding_size=8, frozen_share=0.5)
    net, again, other = (new_model(run, TINY, seed, SiameseNet, 5) for seed in (0, 0, 1))
    assert isinstance(net, SiameseNet) and net.frozen and net.classify(torch.zeros(1, 8)).shape == (1, 5)
    assert not any(weight.requires_grad for weight in net.backbone.get_submodule(net.frozen[0]).parameters())
    assert same_state(state_of(net), state_of(again)) and not same_state(state_of(net), state_of(other))


def test_a_pretrained_model_starts_from_the_principal_directions_of_its_pictures(tmp_path):
    save_file(timm.create_model(TINY).state_dict(), tmp_path / f"{TINY}.safetensors")
    run = dataclasses.replace(config(tmp_path), embedding_size=8, pretrained=True, weights=tmp_path)
    images = image_set(size=32).images
    net, blind = new_model(run, TINY, 0, SiameseNet, 5, images), new_model(run, TINY, 0)
    expected = principal_head(torch.from_numpy(embed(net, images, pooled=True)), 8)
    assert len(net.head) == 1 and torch.equal(net.head[0].weight, expected) and len(blind.head) == 2
    scratch = new_model(dataclasses.replace(run, pretrained=False), TINY, 0, images=images)
    assert same_state(state_of(scratch), state_of(new_model(dataclasses.replace(run, pretrained=False), TINY, 0)))
    again = SiameseNet(**net.arguments)
    again.load_state_dict(net.state_dict())  # as from a checkpoint


@pytest.mark.parametrize("count, size", [(50, 4), (50, 12), (6, 8)])
def test_a_principal_head_is_half_a_whitening(count, size):
    """Its embeddings are uncorrelated, each dimension's energy the root of what it was; never more than there are."""
    torch.manual_seed(SEED)
    features = torch.rand(count, 10) @ torch.randn(10, 10) + 1
    weight = principal_head(features, size)
    found = min(count, size, 10)
    assert weight.shape == (size, 10) and not weight[found:].any()
    embeddings = features @ weight.T
    energies = embeddings.T @ embeddings / count
    strengths = torch.linalg.svdvals(features)[:found] / count**0.5
    expected = torch.zeros(size)
    expected[:found] = strengths * size / strengths.sum()
    torch.testing.assert_close(energies, torch.diag(expected), atol=1e-3, rtol=1e-3)
    assert embeddings.square().mean() == pytest.approx(1, abs=1e-4)
    assert (weight[:found].sum(1) > 0).all(), "directions have no sign of their own; rounding must not choose it"


@pytest.mark.parametrize("name", [TINY, "small_cnn"])
def test_weights_are_taken_from_a_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(5)
    source = timm.create_model(name).state_dict()  # with its classifier, as published files have it
    save_file(source, tmp_path / f"{name}.safetensors")
    torch.manual_seed(6)
    found = EmbeddingNet(name, 8, 3, pretrained=True, weights=tmp_path).backbone.state_dict()
    assert len(found) > 10 and all(torch.equal(tensor, source[name]) for name, tensor in found.items())
    scratch = EmbeddingNet(name, 8, 3, pretrained=False, weights=tmp_path).backbone.state_dict()
    assert not all(torch.equal(tensor, source[name]) for name, tensor in scratch.items())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("folder", [True, False])
def test_without_weights_the_message_says_what_to_do(folder, tmp_path, monkeypatch):
    """With a hub that fails as it does without a network."""
    made = timm.create_model

    def create_model(name, pretrained=False, **options):
        if pretrained and "pretrained_cfg_overlay" not in options:
            raise OSError("no network")
        return made(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(RuntimeError) as raised:
        EmbeddingNet(TINY, pretrained=True, weights=tmp_path if folder else None)
    place = str(tmp_path) if folder else "none given"
    for part in (TINY, place, f"{TINY}.safetensors", "network", "SIMILARITY_WEIGHTS", "SIMILARITY_PROFILE", "OSError"):
        assert part in str(raised.value)
    assert EmbeddingNet(TINY).features > 0, "from scratch no network is needed"


def test_unknown_models_and_weights_of_another_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_file({name: torch.zeros(3) for name in timm.create_model(TINY).state_dict()}, tmp_path / f"{TINY}.safetensors")
    with pytest.raises(RuntimeError, match=rf"{TINY}.*that fits"):
        create_backbone(TINY, pretrained=True, weights=tmp_path)
    with pytest.raises(ValueError, match=r"'resnet51'; similar names: .*resnet"):
        create_backbone("resnet51")


@pytest.mark.parametrize("training", [True, False])
def test_embedding_is_in_evaluation_mode_and_leaves_no_trace(training):
    net, pictures = model(), image_set(3, 3)
    net.freeze(0.3)
    before = state_of(net.train(training))
    embeddings = embed(net, pictures.images, batch_size=4)
    with pytest.raises(RuntimeError):
        embed(net, np.zeros((2, 5, 32, 32), np.uint8))  # five channels
    assert same_state(before, state_of(net)), "after a failure too"
    assert embeddings.dtype == np.float32 and embeddings.shape == (9, 8)
    with torch.no_grad():
        expected = net.eval()(as_float(torch.from_numpy(pictures.images)))
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("gradients", [True, False])
def test_evaluation_mode_takes_gradients_only_if_asked(gradients):
    net = model()
    with backbones.evaluation_mode(net, gradients) as device:
        assert not any(module.training for module in net.modules()) and device.type == "cpu"
        assert net(pixels(2, 32)).requires_grad == gradients
    assert torch.is_grad_enabled() and net.training


def test_timm_knows_the_small_cnn_by_name():
    net = EmbeddingNet("small_cnn", 8, image_size=48)
    assert isinstance(net.backbone, SmallCNN) and net.backbone.pretrained_cfg["architecture"] == "small_cnn"
    assert 80_000 < sum(parameter.numel() for parameter in net.backbone.parameters()) < 400_000
    assert net.features == 2048 and stages(net.backbone) == ["blocks.0", "blocks.1", "blocks.2"]
    assert net.mean.flatten().tolist() == [0.5] * 3 and net.std.flatten().tolist() == [0.25] * 3


@settings(deadline=None, max_examples=8)
@given(st.integers(32, 80))
def test_the_small_cnn_is_what_it_is_said_to_be_at_any_size(size):
    """Each block written out: convolution, BatchNorm, ReLU, pooling; then the average over a grid."""
    backbone, images = ready(create_backbone("small_cnn")), pixels(2, size)
    state, expected = backbone.state_dict(), images
    names = ("0.weight", "1.running_mean", "1.running_var", "1.weight", "1.bias")
    with torch.no_grad():
        for number in range(3):
            convolution, mean, variance, weight, bias = (state[f"blocks.{number}.{name}"] for name in names)
            expected = F.conv2d(expected, convolution, padding=1)
            expected = F.max_pool2d(F.batch_norm(expected, mean, variance, weight, bias).relu(), 2)
        assert expected.shape == (2, 128, size // 8, size // 8)
        torch.testing.assert_close(backbone.forward_features(images), expected)
        torch.testing.assert_close(backbone(images), F.adaptive_avg_pool2d(expected, 4).flatten(1))


def test_the_small_cnn_says_that_it_is_trained_from_scratch(capsys, tmp_path):
    torch.manual_seed(0)
    plain = create_backbone("small_cnn").state_dict()
    assert capsys.readouterr().out == ""
    torch.manual_seed(0)
    asked = create_backbone("small_cnn", pretrained=True, weights=tmp_path, image_size=32).state_dict()
    assert "from scratch" in capsys.readouterr().out
    assert all(torch.equal(plain[name], asked[name]) for name in plain)
