"""The small network: known to timm, of any picture size, and a backbone like any other."""

import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional
from toys import SEED

from common.backbones import EmbeddingNet, SmallCNN, create_backbone, stages


def pixels(count=4, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_timm_knows_it_by_name():
    assert timm.is_model("small_cnn")
    backbone = create_backbone("small_cnn", image_size=48)
    assert isinstance(backbone, SmallCNN) and backbone.pretrained_cfg["architecture"] == "small_cnn"
    assert 80_000 < sum(parameter.numel() for parameter in backbone.parameters()) < 400_000


@settings(deadline=None, max_examples=8)
@given(st.integers(32, 80))
def test_any_size_gives_a_map_that_is_averaged_over_a_grid(size):
    backbone = create_backbone("small_cnn").eval()
    with torch.no_grad():
        features = backbone.forward_features(pixels(2, size))
        assert features.shape == (2, 128, size // 8, size // 8) and features.min() >= 0
        pooled = functional.adaptive_avg_pool2d(features, 4)
        torch.testing.assert_close(backbone(pixels(2, size)), pooled.flatten(1))
        if size % 32 == 0:  # then every cell of the grid is as large, and the average of averages is the average
            torch.testing.assert_close(pooled.mean(dim=(2, 3)), features.mean(dim=(2, 3)))


def test_it_is_what_it_is_said_to_be():
    """Each block written out: convolution, BatchNorm, ReLU, pooling."""
    backbone = create_backbone("small_cnn").eval()
    state, images = backbone.state_dict(), pixels()
    with torch.no_grad():
        expected = images
        for number in range(3):
            convolution, mean, variance, weight, bias = (
                state[f"blocks.{number}.{name}"]
                for name in ("0.weight", "1.running_mean", "1.running_var", "1.weight", "1.bias")
            )
            expected = functional.conv2d(expected, convolution, padding=1)
            expected = functional.batch_norm(expected, mean, variance, weight, bias)
            expected = functional.max_pool2d(expected.relu(), 2)
        torch.testing.assert_close(backbone.forward_features(images), expected)


def test_it_embeds_freezes_and_is_rebuilt_like_any_other():
    net = EmbeddingNet("small_cnn", 8, 3, image_size=32)
    assert net.features == 2048 and net(pixels()).shape == (4, 8) and net.classify(net(pixels())).shape == (4, 3)
    assert net.mean.flatten().tolist() == [0.5] * 3 and net.std.flatten().tolist() == [0.25] * 3
    assert stages(net.backbone) == ["blocks.0", "blocks.1", "blocks.2"]
    assert net.freeze(0.4) == ["blocks.0"]
    net.classify(net(pixels())).square().sum().backward()
    moved = {name for name, parameter in net.backbone.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in net.backbone.named_parameters() if not name.startswith("blocks.0")}
    twin = EmbeddingNet(**net.arguments)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(twin.eval()(pixels()), net.eval()(pixels()))


def test_it_learns_two_kinds_of_pictures():
    torch.manual_seed(SEED)
    net, labels = EmbeddingNet("small_cnn", 8, 2), torch.arange(16) % 2
    images = 0.2 * pixels(16) + 0.5 * (labels[:, None, None, None] * torch.linspace(0, 1, 32))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(15):
        loss = functional.cross_entropy(net.classify(net(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert net.classify(net(images)).argmax(1).tolist() == labels.tolist()


def test_pretrained_it_says_that_it_starts_from_scratch(capsys, tmp_path):
    torch.manual_seed(0)
    plain = create_backbone("small_cnn").state_dict()
    assert capsys.readouterr().out == ""
    torch.manual_seed(0)
    asked = create_backbone("small_cnn", pretrained=True, weights=tmp_path, image_size=32).state_dict()
    assert capsys.readouterr().out == "small_cnn has no ImageNet weights: it is trained from scratch.\n"
    assert all(torch.equal(plain[name], asked[name]) for name in plain)


def test_own_weights_are_taken_from_a_file(capsys, tmp_path):
    backbone = create_backbone("small_cnn")
    save_file(backbone.state_dict(), tmp_path / "small_cnn.safetensors")
    other = create_backbone("small_cnn", pretrained=True, weights=tmp_path).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in backbone.state_dict().items())
    assert capsys.readouterr().out == ""
