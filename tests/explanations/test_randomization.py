"""Random weights: an untrained twin, and maps that lose their likeness from the head down."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from toys import cosine_model, pair_model, pixels

from common.backbones import EmbeddingNet, stages
from common.explanations.maps import pair_cam
from common.explanations.randomization import randomization_report, untrained

FIRST, SECOND = pixels(4, 32, 1), pixels(4, 32, 2)
MODELS = {"cosine": cosine_model(size=32, seed=3), "pair head": pair_model(seed=3)}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def different(one, other):
    """Names of the tensors in which two models differ."""
    return {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])}


@both
def test_the_untrained_twin_has_other_weights_by_its_seed(model):
    generator, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    twin, same, other = untrained(model), untrained(model), untrained(model, seed=1)
    assert torch.equal(generator, torch.get_rng_state()) and not twin.training
    name = next(name for name in before if name.endswith("layer3.0.conv1.weight"))
    assert torch.equal(twin.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(twin.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(twin.state_dict()[name], before[name])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


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


@both
def test_stages_are_randomized_one_more_at_a_time(model):
    seen, fresh = [], untrained(model)

    def explain(one):
        seen.append(different(one, model))
        return np.random.default_rng(0).random((4, 3, 3))

    before = copy.deepcopy(model.state_dict())
    table = randomization_report(model, explain, rounds=5)
    net = getattr(model, "net", model)
    assert table.randomized.tolist() == ["head", *reversed(stages(net.backbone))]
    assert table.share.iloc[0] == 0 and table.share.iloc[-1] == 1 and table.share.is_monotonic_increasing
    assert len(seen) == len(table) + 1 and seen[0] == set()
    assert seen[1] and not any("backbone" in name for name in seen[1]), "first all that is not the backbone"
    for earlier, later in pairwise(seen):
        assert earlier <= later
    assert any("layer4" in name for name in seen[2]) and not any("layer3" in name for name in seen[2])
    assert seen[-1] == different(fresh, model), "at the end everything is random"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (table.value == 1).all(), "maps that never change, as edge detectors' do, are found out"


def test_maps_that_follow_the_weights_lose_their_likeness():
    model = MODELS["cosine"]
    table = randomization_report(model, lambda one: pair_cam(one, FIRST, SECOND, "layer1.0")[0], seed=1, rounds=20)
    assert table.value.iloc[-1] < 0.9 and (table.n == 4).all()
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_likeness_is_spearmans_correlation():
    maps = iter([np.array([[[1.0, 2], [3, 4]]] * 2)] + [np.array([[[1.0, 20], [300, 4000]], [[4.0, 3], [2, 1]]])] * 99)
    table = randomization_report(MODELS["cosine"], lambda one: next(maps), rounds=20)
    assert (table.value.abs() < 1e-9).all(), "the mean of 1 and -1"
    assert (table.low >= -1).all() and (table.high <= 1).all()
