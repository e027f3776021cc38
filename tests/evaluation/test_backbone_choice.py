"""Choosing a backbone: costs are counted right, nothing looks where it must not, and the rule is applied."""

import json
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn
from toys import SEED, image_set

from common.backbones import new_model
from common.config import setup
from common.datasets.splits import make_splits
from common.evaluation import backbone_choice as selection
from common.evaluation.metrics import cosine_scores


@pytest.fixture(scope="module")
def quick():
    return replace(setup(device="cpu"), image_size=32, batch_size=16, seed=SEED)


def test_candidates_follow_what_is_at_hand(tmp_path, quick):
    assert selection.candidates(quick) == list(selection.FROM_SCRATCH)
    assert selection.candidates(replace(quick, backbone="test_vit")) == list(selection.FROM_SCRATCH)
    assert selection.candidates(replace(quick, backbone="resnet10t"))[-1] == "resnet10t"
    standard = setup(profile="standard")
    assert selection.candidates(standard) == list(selection.FROM_HUB)
    assert set(selection.candidates(setup(profile="full"))) == {*selection.FROM_HUB, *selection.LARGE}
    with pytest.raises(FileNotFoundError, match="safetensors"):
        selection.candidates(replace(standard, weights=tmp_path))
    for name in ("resnet18", "mobilenetv2_100", "no_such_model"):
        (tmp_path / f"{name}.safetensors").touch()
    assert selection.candidates(replace(standard, weights=tmp_path)) == ["mobilenetv2_100", "resnet18"]


def test_attention_is_counted_alike_whatever_computes_it(quick):
    """A fused kernel is no matrix product, so a counter may miss it, on some devices and not on others."""
    counts, fused = [], timm.layers.use_fused_attn()
    for one_kernel in (True, False):
        timm.layers.set_fused_attn(one_kernel)
        net = new_model(replace(quick, embedding_size=0, image_size=64), "test_vit", SEED)
        counts.append(selection.cost(net, 64)["multiply_adds"])
    timm.layers.set_fused_attn(bool(fused))
    assert counts[0] == counts[1] > 5_000_000


def test_every_name_is_known_to_timm():
    names = {*selection.FROM_SCRATCH, *selection.FROM_HUB, *selection.LARGE}
    assert [name for name in names if not timm.is_model(name)] == []


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_multiply_adds_agree_with_a_count_by_layer(name, quick):
    net, counted = new_model(quick, name, 0), []
    cost = selection.cost(net, 64)

    def count(layer, _, output):
        counted.append(output.numel() * layer.weight[0].numel())

    for layer in net.backbone.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net.eval().pooled(torch.zeros(1, 3, 64, 64))
    assert cost["multiply_adds"] == sum(counted) > 0
    backbone = timm.create_model(name, num_classes=0)
    assert cost["parameters"] == sum(parameter.numel() for parameter in backbone.parameters())


def test_the_rule_takes_the_least_arithmetic_of_those_as_good_as_the_best():
    """No order of the rows and no clock changes it."""
    table = pd.DataFrame({"roc_auc": [0.9, 0.8951, 0.8949]}, ["best", "as good", "worse"])
    for order in permutations(table.index):
        for seconds in (dict(zip(table.index, (1.0, 9.0, 0.1))), dict(zip(table.index, (9.0, 1.0, 0.1)))):
            timed = table.assign(seconds=pd.Series(seconds)).loc[[*order]]
            for best, as_good, chosen in ((3, 2, "as good"), (2, 3, "best"), (2, 2, "as good")):
                counts = pd.Series({"best": best, "as good": as_good, "worse": 1})
                assert selection.choose(timed.assign(multiply_adds=counts)) == chosen


@pytest.fixture(scope="module")
def trained(quick):
    pictures = image_set()
    splits = make_splits(pictures, quick)
    run = partial(selection.train_candidate, quick, "test_byobnet", pictures, splits, 96)
    return pictures, splits, run(), run()


def test_training_a_candidate_keeps_to_its_budget_and_can_be_repeated(trained):
    _, splits, first, second = trained
    train = len(splits.parts["closed_set"]["train"])
    assert abs(first["pictures"] - 96) <= train / 2
    assert first["scores"].shape == (len(splits.pairs["closed_set"]["validation"]),)
    np.testing.assert_allclose(first["scores"], second["scores"], atol=1e-4)
    validation = splits.pairs["closed_set"]["validation"]
    np.testing.assert_array_equal(first["scores"], cosine_scores(first["embeddings"], validation))
    assert first["seconds"] > 0


def test_choice_is_written_for_these_pictures_and_can_be_overruled(tmp_path, quick, trained):
    pictures, table = trained[0], pd.DataFrame({"roc_auc": [0.9], "multiply_adds": [7]}, ["test_byobnet"])
    config = replace(quick, checkpoints=tmp_path)
    assert selection.save_choice(config, pictures, table) == "test_byobnet"
    content = json.loads((config.directory / "backbone.json").read_text())
    assert (content["backbone"], content["rule"]) == ("test_byobnet", selection.RULE)
    assert content["fingerprint"] == pictures.fingerprint
    assert content["table"]["test_byobnet"]["roc_auc"] == 0.9
    overruled = replace(config, backbone="test_vit")  # another run, so another folder
    assert selection.save_choice(overruled, pictures, table) == "test_vit"
    assert json.loads((config.directory / "backbone.json").read_text()) == content
    content = json.loads((overruled.directory / "backbone.json").read_text())
    assert content["backbone"] == "test_vit" and "SIMILARITY_BACKBONE" in content["rule"]
