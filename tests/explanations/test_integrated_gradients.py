"""Integrated gradients: they add up to the score's change, agree with Captum's, and follow sign and pair."""

import copy

import numpy as np
import pytest
import torch
from toys import cosine_model, pair_model, pixels

from common.explanations import integrated_gradients
from common.explanations.integrated_gradients import pair_integrated_gradients, plain
from common.explanations.maps import PairScore, embeddings

FIRST, SECOND = pixels(3, 32, seed=1), pixels(3, 32, seed=2)
MODELS = {"cosine": cosine_model(size=32), "pair head": pair_model()}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@both
def test_maps_sum_to_what_the_content_adds_to_the_score(model, monkeypatch):
    monkeypatch.setattr(integrated_gradients, "STEPS", 64)
    first, second = FIRST[:1], SECOND[:1]
    maps = pair_integrated_gradients(model, first, second)
    with torch.no_grad():
        whole = model.score(first, second)
        changes = whole - model.score(plain(first), second), whole - model.score(first, plain(second))
    for one, change in zip(maps, changes, strict=True):
        assert one.shape == (1, 8, 8) and one.dtype == np.float32 and change.abs().min() > 1e-3
        np.testing.assert_allclose(one.sum((1, 2)), change, atol=0.25 * change.abs().max().item())


@both
def test_captums_integrated_gradients_agree(model):
    attr = pytest.importorskip("captum.attr", reason="captum is missing: pip install -r requirements-dev.txt")
    held = embeddings(model, SECOND)

    def score(images):  # Captum puts all steps into one batch
        return PairScore(model, held.repeat(len(images) // len(held), 1))(images)

    peer = attr.IntegratedGradients(score)
    found = peer.attribute(FIRST, plain(FIRST), n_steps=16, method="riemann_middle").sum(1).detach()
    ours = pair_integrated_gradients(model, FIRST, SECOND, block=1)[0]
    assert np.abs(ours).max() > 1e-4
    np.testing.assert_allclose(ours, found, atol=1e-3 * np.abs(ours).max())


def test_blocks_are_sums_of_their_pixels():
    fine, coarse = (pair_integrated_gradients(MODELS["cosine"], FIRST, SECOND, block=block)[1] for block in (1, 8))
    by_hand = fine.reshape(3, 4, 8, 4, 8).sum((2, 4))
    np.testing.assert_allclose(coarse, by_hand, atol=1e-5 * np.abs(by_hand).max())
    with pytest.raises(ValueError, match=r"block is 5, which does not divide pictures of \(32, 32\) pixels"):
        pair_integrated_gradients(MODELS["cosine"], FIRST, SECOND, block=5)


@both
def test_different_is_explained_by_the_negative_score(model):
    plain, mixed = (pair_integrated_gradients(model, FIRST, SECOND, same)[1] for same in (None, [0, 1, 0]))
    np.testing.assert_allclose(mixed, plain * np.array([-1, 1, -1])[:, None, None])


def test_modes_gradients_and_frozen_parameters_stay():
    model = copy.deepcopy(MODELS["pair head"]).train()
    model.requires_grad_(False)
    with torch.no_grad():
        found = pair_integrated_gradients(model, FIRST, SECOND)
    np.testing.assert_array_equal(found[0], pair_integrated_gradients(MODELS["pair head"], FIRST, SECOND)[0])
    assert model.training and model.net.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_plain_picture_has_no_map():
    gray = torch.full((1, 3, 32, 32), 0.5)
    with pytest.raises(ValueError, match="picture 0 at 'pixels' is zero everywhere"):
        pair_integrated_gradients(MODELS["cosine"], gray, SECOND[:1])


def test_the_path_starts_at_the_pictures_mean_color():
    start = plain(FIRST)
    assert start.shape == FIRST.shape and not start.std((2, 3)).any()
    torch.testing.assert_close(start.mean((2, 3)), FIRST.mean((2, 3)))
