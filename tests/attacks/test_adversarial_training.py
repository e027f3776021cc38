"""Adversarial training inside `fit`: batches stay what they are, the objective is attacked, the rule selects."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from toys import Network, all_pairs, image_set, same_state, state_of

from common.attacks.adversarial_training import AdversarialTraining, RobustSelection, semi_hard_loss
from common.attacks.gradient import Attacked, pgd, transfer
from common.attacks.reports import attacked_scores, pair_batch, robust_report, transfer_table
from common.datasets.batches import Pictures, batches
from common.evaluation.metrics import Threshold, accuracy_by_kind, roc_auc
from common.evaluation.reports import pair_auc
from common.ledger import ALLOWED, COLUMNS
from common.losses import Classification
from common.training import Collapse, fit, one_cycle

EPS = 8 / 255
THRESHOLD = Threshold(0.2, "validation")


@pytest.fixture(scope="module")
def pictures():
    return image_set(species=8, each=6, size=12)


def batch(count=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 12, 12, generator=generator), torch.arange(count) % 5


def robust(objective=None, standard=None, **options):
    """The objective under test and the model it trains; the attack's radius is full at once."""
    model = standard or Network(dimensions=4)
    options = dict(eps=EPS, ramp_batches=1, hold_weight=0.1, steps=3) | options
    training = AdversarialTraining(objective or Classification(8, 4, 0.1), model, **options)
    training.batches += options["ramp_batches"]
    return training.train(), model.train()


def test_at_eps_0_the_attacked_batch_is_the_batch():
    """The predecessor rotated one side of its pairs: every picture must keep its place and its label."""
    images, labels = batch()
    seen = []

    class Watched(Classification):
        def forward(self, model, images, labels):
            seen.append((images.detach().clone(), labels.clone()))
            return super().forward(model, images, labels)

    training, model = robust(Watched(8, 4), eps=0.0)
    training(model, images, labels)
    assert len(seen) == 2
    for shown, theirs in seen:
        assert torch.equal(shown, images) and torch.equal(theirs, labels)
    training.eps = EPS
    training(model, images, labels)
    attacked, theirs = seen[-1]
    assert torch.equal(theirs, labels) and not torch.equal(attacked, images)
    assert (attacked - images).abs().max() <= EPS and attacked.min() >= 0 and attacked.max() <= 1
    nearest = torch.cdist(attacked.flatten(1), images.flatten(1)).argmin(1)
    assert nearest.tolist() == list(range(10)), "each attacked picture lies beside its own clean one"


def test_the_terms_are_those_of_the_protocol():
    images, labels = batch()
    training, model = robust(Classification(8, 4, 0.1))
    standard = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in model.layers[-2].parameters():
            parameter.add_(0.1)
    torch.manual_seed(3)
    attacked = training.attack(model, images, labels)
    torch.manual_seed(3)
    twin = copy.deepcopy(model)
    terms = training(model, images, labels)
    assert list(terms) == ["clean_cross_entropy", "clean_center", "attacked_cross_entropy", "attacked_center", "hold"]
    for kind, shown in (("clean", images), ("attacked", attacked)):
        for name, value in training.objective(twin, shown, labels).items():
            torch.testing.assert_close(terms[f"{kind}_{name}"], value)
    distance = (twin(attacked) - standard(images)).square().sum(1).mean()
    assert distance > 0
    torch.testing.assert_close(terms["hold"], 0.1 * distance)
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in training.standard.parameters())
    assert training.stuck_at == {"clean_cross_entropy": pytest.approx(np.log(8))}


def test_the_weight_of_the_clean_terms():
    images, labels = batch()
    found = {}
    for weight in (0.0, 0.5, 1.0):
        training, model = robust(Classification(8, 4, 0.1), Network(dimensions=4), clean_weight=weight)
        torch.manual_seed(3)
        found[weight] = {name: term.item() for name, term in training(model, images, labels).items()}
        assert training.stuck_at == pytest.approx({"clean_cross_entropy": weight * np.log(8)} if weight else {})
    for name in ("clean_cross_entropy", "clean_center"):
        assert found[0.5][name] == pytest.approx(0.5 * found[1.0][name]) and name not in found[0.0]
    assert found[0.0] == pytest.approx({name: found[1.0][name] for name in found[0.0]}), "the other terms stay"


def test_without_clean_terms_the_clean_pictures_are_not_shown():
    images, labels = batch()
    seen = []

    class Watched(Classification):
        def forward(self, model, images, labels):
            seen.append(images)
            return super().forward(model, images, labels)

    training, model = robust(Watched(8, 4), clean_weight=0)
    training(model, images, labels)
    assert len(seen) == 1 and not torch.equal(seen[0], images)


def test_the_inner_attack_raises_the_objectives_own_loss_and_leaves_no_trace():
    images, labels = batch()
    training, model = robust()
    model.layers[1].eval()
    before = state_of(model)
    attacked = training.attack(model, images, labels)
    assert same_state(before, state_of(model)) and not attacked.requires_grad

    def loss(shown):
        return training.objective.attack_loss(copy.deepcopy(model).eval(), shown, labels).item()

    noisy = (images + EPS * (2 * torch.rand(images.shape) - 1)).clamp(0, 1)
    assert loss(attacked) > loss(images) + 5 * abs(loss(noisy) - loss(images))


def test_what_the_attack_raises():
    """The argument, then the objective's own, then the sum of its terms."""
    images, labels = batch()

    class Brightness(nn.Module):
        def forward(self, model, images, labels):
            return {"one": images.mean() + 0 * model(images).sum(), "two": images.mean()}

    darker = Brightness()
    darker.attack_loss = lambda model, images, labels: -images.flatten(1).sum(1)
    for objective, argument, sign in (
        (Brightness(), None, 1), (darker, None, -1), (darker, lambda model, images, labels: images.sum(), 1),
    ):  # fmt: skip
        training, model = robust(objective, attack_loss=argument)
        attacked = training.attack(model, images, labels)
        torch.testing.assert_close(attacked, (images + sign * EPS).clamp(0, 1), atol=1e-6, rtol=0)


def test_classification_is_attacked_by_cross_entropy_alone():
    images, labels = batch()
    model, objective = Network().eval(), Classification(8, 4, 10.0)
    expected = nn.functional.cross_entropy(model.classify(model(images)), labels)
    torch.testing.assert_close(objective.attack_loss(model, images, labels), expected)


def test_the_radius_grows_and_resumes():
    images, labels = batch()
    training, model = robust(ramp_batches=4)
    training.batches.zero_()
    radii = []
    for _ in range(6):
        radii.append((training.attack(model, images, labels) - images).abs().max().item() / EPS)
        training(model, images, labels)
    assert radii == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], abs=1e-3)
    resumed, _ = robust(ramp_batches=4)
    resumed.load_state_dict(training.state_dict())
    assert resumed.batches == 6
    training.eval()(model, images, labels)
    assert training.batches == 6, "only training counts"


def test_the_standard_model_stays_as_it_is():
    training, model = robust()
    before = state_of(training.standard)
    assert not any(before[0]) and not any(before[3]), "evaluation mode, no gradients wanted, even in training"
    images, labels = batch()
    sum(training(model, images, labels).values()).backward()
    assert same_state(before, state_of(training.standard))
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert training.standard.classifier.weight.abs().sum() > 0, "a copy of its own"


def test_embeddings_are_made_once_unless_the_objective_embeds_twice():
    images, labels = batch()
    training, model = robust(steps=2)
    model.embedded = 0
    training(model, images, labels)
    assert model.embedded == (2 + 1 + 1) * 10, "two steps, clean, attacked"

    class Twice(Classification):
        def forward(self, model, images, labels):
            model(images[:5])
            return super().forward(model, images, labels)

    training, model = robust(Twice(8, 4))
    assert training(model, images, labels)["hold"].ndim == 0 and not model._forward_hooks


SENSELESS = [dict(eps=-0.1), dict(hold_weight=-1.0), dict(clean_weight=-1.0), dict(ramp_batches=0), dict(steps=0)]


@pytest.mark.parametrize("options", SENSELESS)
def test_senseless_training_is_refused(options):
    with pytest.raises(ValueError, match=r"must be 0 or more, ramp_batches .* 1 or more"):
        robust(**options)


def slow_semi_hard(embeddings, labels):
    """The capped hardness of every triplet, one at a time."""
    unit, values = embeddings / embeddings.norm(dim=1, keepdim=True), []
    for anchor in range(len(labels)):
        for positive in range(len(labels)):
            for negative in range(len(labels)):
                if anchor != positive and labels[anchor] == labels[positive] != labels[negative]:
                    hardness = (unit[anchor] @ unit[negative] - unit[anchor] @ unit[positive]).item()
                    values.append(min(0.0, hardness))
    assert min(values) < 0
    return np.mean(values), len(values)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_semi_hard_loss_is_its_loop(seed):
    embeddings = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    expected, _ = slow_semi_hard(embeddings, labels)
    assert semi_hard_loss(nn.Identity(), embeddings, labels).item() == pytest.approx(expected)


def test_triplets_are_made_semi_hard_and_no_harder():
    """Anchor and positive at a right angle, the negative beyond: only until it is as near does the loss rise."""
    angles = torch.tensor([0.0, 60.0, 30.0, 200.0], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2])
    radians = angles.deg2rad()
    loss = semi_hard_loss(nn.Identity(), torch.stack([radians.cos(), radians.sin()], 1), labels)
    (slope,) = torch.autograd.grad(loss, angles)
    assert slope[2] == 0, "harder than semi-hard already, for both anchors: left alone"
    assert slope[3] != 0, "still easy: pulled nearer"


def test_adversarial_training_runs_in_the_loop_of_every_training(pictures):
    torch.manual_seed(0)
    model, objective = Network(dimensions=6), Classification(8, 6, 0.01)
    loader = batches(Pictures(pictures, np.arange(len(pictures))), 16, True, 0)
    pairs = all_pairs(pictures.labels)
    optimizer, scheduler = one_cycle(model, 0.02, 10 * len(loader))
    fit(model, objective, loader, [optimizer], 10, partial(pair_auc, image_set=pictures, pairs=pairs), [scheduler])
    standard_auc, few = pair_auc(model, pictures, pairs), pairs[:: len(pairs) // 60]
    attack = partial(pgd, eps=EPS, steps=5, restarts=1)
    standard_robust = roc_auc(attacked_scores(model, pictures, few, attack), few[:, 2])
    training = AdversarialTraining(objective, model, EPS, 2 * len(loader), 0.01, 2)
    optimizer, scheduler = one_cycle(model, 0.02, 6 * len(loader))
    select = RobustSelection(pictures, pairs, few, standard_auc, EPS, 5)
    history = fit(model, training, loader, [optimizer], 6, select, [scheduler])
    assert {"clean_cross_entropy", "attacked_cross_entropy", "hold", "validation"} <= set(history)
    assert training.batches == 6 * len(loader)
    assert select(model) == pytest.approx(history.validation.max())
    assert history.validation.max() > standard_robust + 0.02, "training under attack helps under attack"
    assert pair_auc(model, pictures, pairs) >= standard_auc - 0.05


class Scripted(nn.Module):
    """Embeds a picture by its brightest color, or all alike if `collapsed`."""

    def __init__(self, collapsed=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.collapsed = collapsed

    def forward(self, images):
        colors = images.mean((2, 3)) * self.weight
        return colors * (1e-3 if self.collapsed else 1) + (1 if self.collapsed else -colors.mean(1, keepdim=True))

    def score_embeddings(self, first, second):
        return nn.functional.cosine_similarity(first, second, dim=-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


def test_selection_by_robust_auc_near_the_clean_one(pictures):
    pairs = all_pairs(pictures.labels)
    few = pairs[:: len(pairs) // 60]
    model = Scripted()
    clean = pair_auc(model, pictures, pairs)
    scores = attacked_scores(model, pictures, few, partial(pgd, eps=EPS, steps=10, restarts=1))
    expected = roc_auc(scores, few[:, 2])
    assert 0 < expected < roc_auc(attacked_scores(model, pictures, few), few[:, 2])
    assert RobustSelection(pictures, pairs, few, clean, EPS)(model) == pytest.approx(expected)
    assert RobustSelection(pictures, pairs, few, clean + 0.0499, EPS)(model) == pytest.approx(expected)
    worse = RobustSelection(pictures, pairs, few, clean + 0.0501, EPS)(model)
    assert worse == pytest.approx(clean - 1) and worse < 0


def test_a_collapsed_embedding_stops(pictures):
    pairs = all_pairs(pictures.labels)
    with pytest.raises(Collapse, match=r"mean cosine .* is 1\.000, above 0\.95; try a smaller eps"):
        RobustSelection(pictures, pairs, pairs, 0.9)(Scripted(collapsed=True))


def test_attacked_scores_are_those_of_batches(pictures):
    model, pairs = Scripted(), all_pairs(pictures.labels)[::40]
    assert len(pairs) > 20
    first, second, same = pair_batch(pictures, pairs)
    assert first.dtype == torch.float32 and first.max() <= 1 and same.tolist() == pairs[:, 2].tolist()
    np.testing.assert_array_equal((first * 255).round().numpy(), pictures.images[pairs[:, 0]])
    np.testing.assert_array_equal((second * 255).round().numpy(), pictures.images[pairs[:, 1]])
    clean = attacked_scores(model, pictures, pairs, batch_size=7)
    np.testing.assert_allclose(clean, model.score(first, second).detach(), atol=1e-5)
    seeds = []

    def recorded(*arguments, seed):
        seeds.append(seed)
        return pgd(*arguments, eps=EPS, steps=2, seed=seed)

    scores = attacked_scores(model, pictures, pairs, recorded, batch_size=7)
    assert seeds == list(range(0, len(pairs), 7))
    expected = [pgd(model, *pair_batch(pictures, pairs[s : s + 7]), EPS, 2, seed=s).scores for s in seeds]
    np.testing.assert_allclose(scores, torch.cat(expected))
    moved = attacked_scores(model, pictures, pairs, partial(transfer, Network(), eps=EPS))
    assert np.abs(moved - clean).max() > 0
    assert isinstance(pgd(model, first, second, same, EPS), Attacked)


def test_robust_report(pictures):
    model, pairs = Scripted(), all_pairs(pictures.labels)[::9]
    eps = (2 / 255, 8 / 255)
    report = robust_report(model, pictures, pairs, THRESHOLD, eps, steps=4, restarts=2, rounds=20)
    assert report.eps_255.unique().tolist() == [0, 2, 8]
    assert set(report) <= set(COLUMNS) and set(report.attack.dropna()) <= set(ALLOWED["attack"].split())
    for radius in (0.0, *eps):
        attack = partial(pgd, eps=radius, steps=4, restarts=2)
        scores = attacked_scores(model, pictures, pairs, attack)
        rows = report[np.isclose(report.eps_255, radius * 255)].set_index("metric")
        on_same, on_different = accuracy_by_kind(scores, pairs[:, 2], THRESHOLD)
        assert rows.value["roc_auc"] == pytest.approx(roc_auc(scores, pairs[:, 2]), abs=1e-6)
        assert rows.value["accuracy_same"] == pytest.approx(on_same)
        assert rows.value["accuracy_different"] == pytest.approx(on_different)
        assert (rows.low <= rows.value + 1e-9).all() and (rows.value <= rows.high + 1e-9).all()
        assert rows.attack.isna().all() if radius == 0 else (rows.attack == "pgd").all()
    areas = report[report.metric == "roc_auc"].value.tolist()
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[2]
    both = robust_report(model, pictures, pairs, THRESHOLD, eps[1:], 4, 2, "both", 5)
    assert set(both.attack.dropna()) == {"pgd_both"}
    assert both[both.metric == "roc_auc"].value.iloc[1] <= areas[2]


def test_nothing_is_reported_behind_the_gate(pictures):
    model, pairs = Scripted(), all_pairs(pictures.labels)[::9]
    labels = np.random.default_rng(0).permutation(pairs[:, 2])
    lost = np.column_stack([pairs[:, :2], labels])
    with pytest.warns(UserWarning, match=r"clean AUC is 0\.\d+, below 0\.80: no robustness is reported"):
        report = robust_report(model, pictures, lost, THRESHOLD, steps=1, restarts=1, rounds=5)
    assert report.attack.isna().all() and (report.eps_255 == 0).all() and len(report) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robust_report(model, pictures, pairs, THRESHOLD, (EPS,), steps=1, restarts=1, rounds=5)


def test_transfer_is_judged_by_each_model_on_what_was_made_for_each(pictures):
    torch.manual_seed(0)
    models = {"one": Network(dimensions=2), "two": Network(dimensions=16)}
    pairs = all_pairs(pictures.labels, np.arange(0, 48, 5))
    first, second, same = pair_batch(pictures, pairs)
    attack = partial(pgd, eps=EPS / 3, steps=3, restarts=1)
    table = transfer_table(models, first, second, same, attack)
    assert table.index.tolist() == ["none", *table.columns] == ["none", "one", "two"]
    with torch.no_grad():
        clean = roc_auc(models["two"].eval().score(first, second).numpy(), pairs[:, 2])
    assert table.loc["none", "two"] == pytest.approx(clean)
    for source in models:
        made = attack(models[source], first, second, same)
        for target in models:
            found = transfer(
                models[source], models[target], first, second, same, eps=EPS / 3, steps=3, restarts=1
            ).scores
            assert table.loc[source, target] == pytest.approx(roc_auc(found.numpy(), pairs[:, 2]))
        assert table.loc[source, source] == pytest.approx(roc_auc(made.scores.numpy(), pairs[:, 2]))
    assert table.loc["one", "two"] != table.loc["two", "one"]
