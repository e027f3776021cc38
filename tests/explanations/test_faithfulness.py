"""Faithfulness on a model whose truth is known, and random weights, under which maps must lose their likeness."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from toys import cosine_model, pair_model, pixels

from common.backbones import EmbeddingNet, stages
from common.explanations.faithfulness import area, blurred, curve, untrained
from common.explanations.maps import pair_cam

SIDE = 16


class Brightness(nn.Module):
    """A model of one picture that looks at the upper left quarter only."""

    def forward(self, images):
        return images[..., : SIDE // 2, : SIDE // 2].mean((2, 3)).sum(1, keepdim=True)


GENERATOR = torch.Generator().manual_seed(0)
IMAGES = 0.3 * torch.rand(4, 3, SIDE, SIDE, generator=GENERATOR)  # dark noise with a bright upper left quarter
IMAGES[..., : SIDE // 2, : SIDE // 2] += 0.6
TRUTH = np.zeros((4, SIDE, SIDE), np.float32)
TRUTH[:, : SIDE // 2, : SIDE // 2] = 1
TRUTH += 1e-3 * np.random.default_rng(0).random(TRUTH.shape).astype(np.float32)  # no ties
NOISE = np.random.default_rng(1).random(TRUTH.shape).astype(np.float32)


def slow_curve(score, image, one, insert):
    """One picture's curve, pixel by pixel."""
    soft, values = blurred(image[None])[0], []
    order = sorted((-one[row, column], row, column) for row in range(SIDE) for column in range(SIDE))
    for step in range(11):
        mixed = (soft if insert else image).clone()
        for _, row, column in order[: -(-step * len(order) // 10)]:
            mixed[:, row, column] = (image if insert else soft)[:, row, column]
        values.append(score(mixed[None]).item())
    return values


@pytest.mark.parametrize("insert", [True, False])
def test_curves_are_those_of_the_loops(insert):
    found = curve(Brightness(), IMAGES, NOISE, insert)
    slow = [slow_curve(Brightness(), *one, insert) for one in zip(IMAGES[:2], NOISE)]
    assert found.shape == (4, 11)
    np.testing.assert_allclose(found[:2], slow, atol=1e-5)


def test_area_worked_by_hand():
    up, down = np.array([[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]]), np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    assert area(up, True) == pytest.approx(((1 + 3) / 2 * 0.5 + (3 + 3) / 2 * 0.5 - 1) / 2)
    assert area(up, True, np.array([[1, 0]])) == pytest.approx(0.5), "a straight line from 0 to 1"
    assert area(down, False, np.array([[1, 0]])) == pytest.approx(0.5)
    assert area(down, False, np.array([[0, 1]])) == pytest.approx(0.25), "all gone after the first half"
    for sign in (1, -1):
        assert area(sign * up, True, np.array([[0, 1]])) == pytest.approx(1.0), "a negative score has the same area"


def test_the_truth_is_inserted_and_deleted_faster_than_noise():
    model = Brightness()
    assert area(curve(model, IMAGES, TRUTH, True), True) > 0.8 > 0.2 > area(curve(model, IMAGES, TRUTH, False), False)
    for insert in (True, False):
        assert abs(area(curve(model, IMAGES, NOISE, insert), insert) - 0.5) < 0.1


def test_blurring_keeps_the_mean_and_takes_the_detail():
    images, soft = pixels(3, 32), blurred(pixels(3, 32))
    assert soft.shape == images.shape and soft.dtype == images.dtype and soft.min() >= 0 and soft.max() <= 1
    torch.testing.assert_close(soft.mean((2, 3)), images.mean((2, 3)), atol=0.05, rtol=0)
    assert (soft.std((2, 3)) < 0.8 * images.std((2, 3))).all()


FIRST, SECOND = pixels(4, 32, 1), pixels(4, 32, 2)
MODELS = {"cosine": cosine_model(size=32, seed=3), "pair head": pair_model(seed=3)}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def different(one, other):
    """Names of the tensors in which two models differ."""
    return {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])}


@both
def test_the_untrained_twin_has_other_weights_by_its_seed(model):
    generator, before, name = torch.get_rng_state(), copy.deepcopy(model), "backbone.layer3.0.conv1.weight"
    twin = untrained(model)
    assert torch.equal(generator, torch.get_rng_state()) and not twin.training
    assert not different(untrained(model), twin) and not different(model, before)
    for other in (model, untrained(model, seed=1)):
        assert any(changed.endswith(name) for changed in different(other, twin))


@pytest.mark.parametrize("name, block", [("test_resnet", "layer1.0"), ("test_convnext", "stages.0.blocks.0")])
def test_random_weights_of_a_residual_block_are_at_work(name, block):
    """As timm makes these networks, their blocks hand on what they get, whatever their weights are."""
    model = EmbeddingNet(name, 8).eval()
    for one, at_work in ((model, False), (untrained(model), True)):
        other, donor = copy.deepcopy(one), untrained(model, seed=1).backbone.get_submodule(block)
        matrices = {key: weight for key, weight in donor.state_dict().items() if weight.squeeze().ndim > 1}
        other.backbone.get_submodule(block).load_state_dict(matrices, strict=False)
        with torch.no_grad():
            before, after = one.pooled(FIRST), other.pooled(FIRST)
        assert matrices and bool((after - before).norm() > 1e-3 * before.norm()) == at_work


def test_maps_that_follow_the_weights_lose_their_likeness():
    """A copy's weights become random from the head to the input, one stage more at a time (Adebayo et al. 2018)."""
    model, weights = MODELS["cosine"], untrained(MODELS["cosine"], seed=1).state_dict()
    changed, before = copy.deepcopy(model), pair_cam(model, FIRST, SECOND, "layer1.0")[0]
    seen, likeness = [set()], []
    for stage in ["", *reversed(stages(model.backbone))]:
        of_it = f"backbone.{stage}."
        added = {key: one for key, one in weights.items() if (of_it in key if stage else "backbone." not in key)}
        changed.load_state_dict(added, strict=False)
        seen.append(different(changed, model))
        after = pair_cam(changed, FIRST, SECOND, "layer1.0")[0]
        likeness.append(np.mean([spearmanr(one.ravel(), other.ravel())[0] for one, other in zip(before, after)]))
    assert all(one < later for one, later in pairwise(seen)) and seen[-1] == different(untrained(model, 1), model)
    assert likeness[-1] < 0.9
