"""Adversarial training inside `fit`: batches stay what they are, the objective is attacked, the rule selects."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from references import slow_triplets
from torch import nn
from toys import SEED, Colors, Network, all_pairs, image_set, same_state, state_of

from common.attacks.adversarial_training import (
    adversarial_terms,
    attack_loss,
    attacked_batch,
    robust_auc,
    robust_task,
    semi_hard_loss,
    train_robust,
)
from common.attacks.gradient import pgd
from common.attacks.reports import attacked_scores
from common.backbones import EmbeddingNet, SiameseNet, new_model
from common.config import setup
from common.datasets.batches import Pictures, batches
from common.datasets.splits import make_splits
from common.evaluation.metrics import roc_auc
from common.evaluation.reports import pair_auc
from common.losses import Classification, PairJudgment, TripletJudgment
from common.training import Collapse, fit, one_cycle

EPS = 8 / 255


@pytest.fixture(scope="module")
def pictures():
    return image_set(species=8, each=6, size=12)


def batch(count=10):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 12, 12, generator=generator), torch.arange(count) % 5


class Brightness(nn.Module):
    """An objective that grows with every number of an embedding; remembers what it was shown."""

    def __init__(self, sign=1):
        super().__init__()
        self.sign, self.seen = sign, []

    def forward(self, embeddings, labels):
        self.seen.append((embeddings.detach().clone(), labels))
        return {"one": self.sign * embeddings.mean(), "two": self.sign * embeddings.mean()}


def test_each_approach_trains_on_its_own_task(pictures):
    config, train = setup(embedding_size=16), np.arange(0, len(pictures), 2)
    model = EmbeddingNet("test_resnet", 16, 8)
    for approach, kind, terms in (
        ("center_loss", Classification, {"cross_entropy", "center"}),
        ("siamese", PairJudgment, {"pairs"}),
        ("triplet", TripletJudgment, {"triplet"}),
    ):
        objective, loader = robust_task(approach, model, pictures, train, config, 0.01)
        images, labels = next(iter(loader))
        assert isinstance(objective, kind) and {*objective(torch.randn(len(labels), 16), labels)} == terms
        assert {*loader.dataset.indices} == {*train} and images.dtype == torch.uint8
    assert robust_task("center_loss", model, pictures, train, config, 0.01)[0].center_weight == 0.01


def test_the_radius_grows_over_the_ramp():
    """And every picture keeps its place and its label: the predecessor rotated one side of its pairs."""
    images, labels = batch()
    objective, model, clean = Brightness(), nn.Flatten(), images.flatten(1)
    terms = adversarial_terms(model, EPS, ramp_batches=4, hold_weight=0, steps=3)
    for radius in (0, 0.25, 0.5, 0.75, 1, 1):
        terms(model, objective, images, labels)
        shown, theirs = objective.seen[-1]
        assert (shown - clean).abs().max().item() == pytest.approx(radius * EPS, abs=1e-5)
        assert theirs is labels and shown.min() >= 0 and shown.max() <= 1
        assert torch.cdist(shown, clean).argmin(1).tolist() == list(range(10)), "each beside its own"
    noise = (attacked_batch(model, objective, images, labels, EPS, steps=0) - images).abs()
    assert EPS * 0.9 < noise.max() <= EPS + 1e-6 and noise.mean() < 0.6 * EPS, "without steps, noise"


def test_the_terms_are_those_of_the_protocol():
    images, labels = batch()
    standard, objective = Network().train(), Classification(Network().classify, 8, 4, 0.1)
    model = copy.deepcopy(standard)
    terms = adversarial_terms(standard, EPS, 1, 0.1, 3)
    terms(model, objective, images, labels)  # spends the ramp
    assert model.embedded == (3 + 1) * 10, "three steps and the attacked pictures: embeddings are made once"
    with torch.no_grad():
        for parameter in model.layers[-2].parameters():
            parameter.add_(0.1)
    frozen, twin = copy.deepcopy(standard).eval(), copy.deepcopy(model)
    with torch.no_grad():
        next(standard.parameters()).zero_()  # the terms have a copy of their own
    torch.manual_seed(3)
    attacked = attacked_batch(model, objective, images, labels, EPS, 3)
    torch.manual_seed(3)
    found = terms(model, objective, images, labels)
    assert list(found) == ["attacked_cross_entropy", "attacked_center", "hold"]
    assert not set(found) & set(objective.stuck_at), "an attacked loss may rest where a clean one may not"
    embeddings = twin(attacked)
    for name, value in objective(embeddings, labels).items():
        torch.testing.assert_close(found[f"attacked_{name}"], value)
    distance = (embeddings - frozen(images)).square().sum(1).mean()
    assert distance > 0
    torch.testing.assert_close(found["hold"], 0.1 * distance)
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in model.layers.parameters())
    assert model.training


def test_the_inner_attack_raises_the_loss_and_leaves_no_trace():
    images, labels = batch()
    model = Network().train()
    model.layers[1].eval()
    objective, before = Classification(model.classify, 8, 4, 0.1), state_of(model)
    torch.manual_seed(0)
    attacked = attacked_batch(model, objective, images, labels, EPS, 3)
    assert same_state(before, state_of(model)) and not attacked.requires_grad

    def loss(shown):
        twin = copy.deepcopy(model).eval()
        return objective.attack_loss(twin(shown), labels).item()

    generator = torch.Generator().manual_seed(1)
    noisy = (images + EPS * (2 * torch.rand(images.shape, generator=generator) - 1)).clamp(0, 1)
    assert loss(attacked) > loss(images) + 5 * abs(loss(noisy) - loss(images))


def test_what_the_attack_raises():
    """For triplets the capped loss, else the objective's own, else the sum of its terms."""
    embeddings, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 5
    model = Network()
    triplets, pairs = TripletJudgment("semi_hard"), PairJudgment(model.score_embeddings, 8, 4)
    names = Classification(model.classify, 8, 4, 10.0)
    for objective, expected in [
        (triplets, semi_hard_loss(embeddings, labels)), (pairs, sum(pairs(embeddings, labels).values())),
        (names, nn.functional.cross_entropy(model.classify(embeddings), labels)),
        (Brightness(), 2 * embeddings.mean())]:
        torch.testing.assert_close(attack_loss(objective, embeddings, labels), expected)
    images, _ = batch()
    for sign in (1, -1):
        attacked = attacked_batch(nn.Flatten(), Brightness(sign), images, labels, EPS, 3)
        torch.testing.assert_close(attacked, (images + sign * EPS).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [dict(eps=-0.1), dict(hold_weight=-1.0), dict(ramp_batches=0), dict(steps=-1)])
def test_senseless_training_is_refused(options):
    with pytest.raises(ValueError, match="or more"):
        adversarial_terms(nn.Flatten(), **dict(eps=EPS, ramp_batches=1, hold_weight=0.1, steps=3) | options)


def slow_semi_hard(embeddings, labels):
    """The capped hardness of every triplet, one at a time."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    hardness = [(unit[a] @ unit[n] - unit[a] @ unit[p]).item() for a, p, n in slow_triplets(labels)]
    assert min(hardness) < 0 < max(hardness)
    return np.mean([min(0.0, value) for value in hardness])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_semi_hard_loss_is_its_loop(seed):
    embeddings = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    assert semi_hard_loss(embeddings, labels).item() == pytest.approx(slow_semi_hard(embeddings, labels))


def test_triplets_are_made_semi_hard_and_no_harder():
    """Anchor and positive at a right angle, the negative beyond: only until it is as near does the loss rise."""
    angles = torch.tensor([0.0, 60.0, 30.0, 200.0], requires_grad=True)
    radians = angles.deg2rad()
    loss = semi_hard_loss(torch.stack([radians.cos(), radians.sin()], 1), torch.tensor([0, 0, 1, 2]))
    (slope,) = torch.autograd.grad(loss, angles)
    assert slope[2] == 0, "harder than semi-hard already, for both anchors: left alone"
    assert slope[3] != 0, "still easy: pulled nearer"


def test_adversarial_training_runs_in_the_loop_of_every_training(pictures):
    """What it gains is for R6 to measure; here: the loop runs, all weights move, and the best epoch is kept."""
    torch.manual_seed(SEED)
    model = Network(SEED, dimensions=6)
    model.layers[1].momentum = model.layers[-1].momentum = 0.9  # a few batches make its statistics fit
    standard, objective = copy.deepcopy(model), Classification(model.classify, 8, 6, 0.01)
    loader = batches(Pictures(pictures, np.arange(len(pictures))), 16, shuffle=True, seed=SEED)
    pairs = all_pairs(pictures.labels)
    few, auc = pairs[:: len(pairs) // 60], pair_auc(model, pictures, pairs)
    select = partial(robust_auc, image_set=pictures, pairs=pairs, attacked_pairs=few, standard_auc=auc, steps=2)
    radii, terms = [], adversarial_terms(standard, EPS, 2 * len(loader), 0.01, steps=1)

    def watched(model, objective, images, labels):
        shown = []
        handle = model.register_forward_pre_hook(lambda _, given: shown.append(given[0].detach()))
        found = terms(model, objective, images, labels)
        handle.remove()
        radii.append((shown[-1] - images).abs().max().item())
        return found

    optimizer, scheduler = one_cycle(model, 0.02, 4 * len(loader))
    history = fit(model, objective, loader, [optimizer], 4, select, [scheduler], terms=watched, seed=SEED)
    assert {"attacked_cross_entropy", "attacked_center", "hold", "validation"} <= set(history)
    assert np.isfinite(history.select_dtypes("number").to_numpy()).all() and len(history) == 4
    assert radii[0] == 0 and max(radii) == pytest.approx(EPS, rel=1e-3) and len(radii) == 4 * len(loader)
    assert radii[: 2 * len(loader)] == sorted(radii[: 2 * len(loader)])
    for new, old in zip(model.layers.parameters(), standard.layers.parameters(), strict=True):
        assert not torch.equal(new, old)
    assert select(model) == pytest.approx(history.validation.max()), "the best epoch's weights"


@pytest.mark.parametrize("approach", ["center_loss", "siamese", "triplet"])
def test_a_robust_model_is_another_one_and_the_standard_model_stays(pictures, approach, tmp_path):
    config = replace(setup(checkpoints=tmp_path, epochs=2, embedding_size=8, device="cpu"), batch_size=16)
    splits = make_splits(pictures, config)
    kind, classes = (SiameseNet, 0) if approach == "siamese" else (EmbeddingNet, len(pictures.class_names))
    standard = new_model(config, "test_resnet", 0, kind, classes)
    before = copy.deepcopy(standard.state_dict())
    model, history = train_robust(approach, standard, pictures, splits, "closed_set", config, EPS, 0.03, 0.01)
    new = model.state_dict()
    assert all(torch.equal(value, standard.state_dict()[name]) for name, value in before.items())
    assert not all(torch.equal(value, new[name]) for name, value in before.items())
    assert len(history) == 2 and {"hold", "validation"} <= set(history)


def test_selection_by_robust_auc_near_the_clean_one(pictures):
    pairs = all_pairs(pictures.labels)
    few, model = pairs[:: len(pairs) // 60], Colors()
    clean = pair_auc(model, pictures, pairs)
    scores = attacked_scores(model, pictures, few, partial(pgd, eps=EPS, steps=10, restarts=1))
    expected = roc_auc(scores, few[:, 2])
    assert 0 < expected < roc_auc(attacked_scores(model, pictures, few), few[:, 2])
    for standard_auc in (clean, clean + 0.0499):
        assert robust_auc(model, pictures, pairs, few, standard_auc, EPS) == pytest.approx(expected)
    worse = robust_auc(model, pictures, pairs, few, clean + 0.0501, EPS)
    assert worse == pytest.approx(clean - 1) and worse < 0


def test_a_collapsed_embedding_stops(pictures):
    pairs = all_pairs(pictures.labels)
    with pytest.raises(Collapse, match=r"mean cosine .* is 1\.000, above 0\.95; try a smaller eps"):
        robust_auc(Colors(collapsed=True), pictures, pairs, pairs, 0.9)
