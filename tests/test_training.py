"""Training: an ordinary loop that repeats itself and stops on collapse, one budget, and the way back from its end."""

import copy
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import SEED, TINY, config, image_set

from common import training
from common.backbones import EmbeddingNet, SiameseNet, embed, new_model
from common.datasets.batches import Pictures, batches, species_batches
from common.datasets.splits import make_splits
from common.evaluation.metrics import cosine_scores, roc_auc
from common.evaluation.reports import pair_auc
from common.evaluation.retrieval import retrieval
from common.losses import Classification, PairJudgment, TripletJudgment
from common.training import (
    HEAD_EPOCHS,
    POINTS,
    Collapse,
    between,
    check_collapse,
    fit,
    one_cycle,
    path_quality,
    train,
    train_arm,
    train_head,
)  # fmt: skip


class Toy(nn.Module):
    """Colors on a 4 x 4 grid, a linear embedding, a classifier."""

    def __init__(self, classes=8, size=6):
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(48, size), nn.BatchNorm1d(size))
        self.classifier = nn.Linear(size, classes)

    def forward(self, images):
        return self.head(self.pool(images))

    def classify(self, embeddings):
        return self.classifier(embeddings)


@pytest.fixture(scope="module")
def pictures():
    return image_set(size=16)


def arranged(pictures, seed=SEED, weight=0.1, epochs=6, rate=0.05, loader_seed=0):
    """Everything `fit` takes: model, objective, loader, optimizers and schedulers."""
    torch.manual_seed(seed)
    model = Toy()
    objective = Classification(model.classify, 8, 6, weight)
    loader = batches(Pictures(pictures, np.arange(len(pictures))), 16, True, loader_seed)
    optimizer, scheduler = one_cycle(model, rate, epochs * len(loader))
    centers = torch.optim.SGD(objective.parameters(), lr=0.5)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(centers, epochs * len(loader))
    return dict(
        model=model, objective=objective, loader=loader, optimizers=[optimizer, centers], epochs=epochs,
        schedulers=[scheduler, slower],
    )  # fmt: skip


class Script:
    """A validation that returns given scores and remembers the model of each epoch."""

    def __init__(self, *scores):
        self.scores, self.states = scores, []

    def __call__(self, model):
        self.states.append(copy.deepcopy(model.state_dict()))
        return self.scores[len(self.states) - 1]


def same_state(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_history_of_a_training_that_learns(pictures):
    given = arranged(pictures)

    def validate(model):
        model.eval()
        images, labels = torch.from_numpy(pictures.images) / 255, torch.from_numpy(pictures.labels)
        return (model.classify(model(images)).argmax(1) == labels).float().mean()

    history = fit(**given, validate=validate)
    assert list(history) == [
        "epoch", "cross_entropy", "center", "loss", "learning_rate", "spread", "validation", "images", "seconds",
    ]  # fmt: skip
    assert history.epoch.tolist() == [1, 2, 3, 4, 5, 6]
    assert history.images.tolist() == [80, 160, 240, 320, 400, 480]
    np.testing.assert_allclose(history.loss, history.cross_entropy + history.center, rtol=1e-5)
    assert history.spread.gt(0).all() and history.seconds.is_monotonic_increasing
    assert history.validation.max() == pytest.approx(validate(given["model"]).item())
    # Colors of a species lie apart, so a linear model finds all of them; two in eight are guessed by none.
    assert history.loss.iloc[-1] < history.loss.iloc[0] and history.validation.max() > 2 / 8


@pytest.mark.parametrize("keep, epoch", [("best", 1), ("last", 3)])
def test_the_best_epoch_is_restored_or_the_last(pictures, keep, epoch):
    given, script = arranged(pictures, epochs=4), Script(0.5, 0.9, 0.7, 0.8)
    history = fit(**given, validate=script, keep=keep)
    kept = [same_state(state, given["model"].state_dict()) for state in script.states]
    assert kept == [number == epoch for number in range(4)]
    assert not given["model"].training and history.validation.tolist() == [0.5, 0.9, 0.7, 0.8]


@pytest.mark.parametrize("planted, message", [
    (dict(keep="first"), "'first'.*'best' or 'last'"), (dict(epochs=0), "epochs 0; .*1 epoch or more"),
    (dict(validate=lambda model: dict(loss=1.0, spread=0.5)), "gave loss, spread, but no 'validation'"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_named(pictures, planted, message):
    with pytest.raises(ValueError, match=message):
        fit(**{**arranged(pictures), "validate": lambda model: 0.5, **planted})


def test_it_is_an_ordinary_loop_of_steps():
    """Against the loop everybody writes by hand, over tensors that are no pictures and so are not varied."""
    data = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(data, torch.arange(20) % 3), batch_size=5, shuffle=False)

    def make():
        torch.manual_seed(1)
        model = Toy(3)
        return model, Classification(model.classify, 3, 6, 0.1), torch.optim.SGD(model.parameters(), 0.1)

    model, objective, optimizer = make()
    fit(model, objective, loader, [optimizer], 3, Script(1, 2, 3))
    by_hand, terms, optimizer = make()
    by_hand.train()
    for _ in range(3):
        for images, labels in loader:
            optimizer.zero_grad()
            sum(terms(by_hand(images), labels).values()).backward()
            optimizer.step()
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    assert torch.equal(objective.center_loss.centers, terms.center_loss.centers), "without an optimizer they stay"


class Recorded(nn.Module):
    """An objective that remembers what it is given and watches the labels of its batch."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, embeddings, labels):
        self.given.append((embeddings.detach().clone(), labels))
        self.watched = {"mean_label": labels.double().mean(), "largest_label": labels.max()}
        return {"loss_one": embeddings.square().mean()}


def test_the_objective_gets_the_embeddings_of_the_varied_pictures(pictures, monkeypatch):
    varied, strengths, augment = [], [], training.augment

    def watched(images, generator, strength):
        strengths.append(strength)
        varied.append(augment(images, generator, strength))
        return varied[-1]

    monkeypatch.setattr(training, "augment", watched)
    objective, loader = Recorded(), batches(Pictures(pictures, np.arange(80)), 80)
    given = {**arranged(pictures, epochs=2), "objective": objective, "loader": loader}
    start = copy.deepcopy(given["model"])  # in training mode
    fit(**given, validate=Script(1, 2), augmentation=0.5)
    (embeddings, labels), _ = objective.given
    plain = torch.from_numpy(pictures.images) / 255
    assert labels.tolist() == pictures.labels.tolist() and strengths == [0.5, 0.5]
    assert varied[0].dtype == torch.float32 and varied[0].min() >= 0 and varied[0].max() <= 1
    assert min((varied[0] - other).abs().mean() for other in (plain, varied[1])) > 0.01, "anew in every epoch"
    torch.testing.assert_close(embeddings, start(varied[0]))
    assert (embeddings - start(plain)).abs().max() > 0.01, "not those of the plain pictures"


def test_the_terms_that_are_given_are_what_is_minimized(pictures):
    """Terms in place of the usual ones, as adversarial training has them; the fault is terms that ask nothing."""
    seen = []

    def asking(factor):
        def terms(*given):
            seen.append(given)
            model, _, images, _ = given
            return {"other": factor * model(images).square().mean()}

        return terms

    trained = {}
    for factor in (0, 1):
        given = {**arranged(pictures, epochs=1), "objective": Recorded(), "schedulers": ()}
        before = copy.deepcopy(given["model"].head[0].weight)
        given["optimizers"] = [torch.optim.SGD(given["model"].parameters(), 0.1)]
        history = fit(**given, validate=Script(1), terms=asking(factor))
        trained[factor] = not torch.equal(before, given["model"].head[0].weight)
        assert given["objective"].given == [] and history.other.tolist() == history.loss.tolist()
        assert seen[-1][:2] == (given["model"], given["objective"])
        assert [part.shape for part in seen[-1][2:]] == [(16, 3, 16, 16), (16,)] and seen[-1][2].is_floating_point()
    assert trained == {0: False, 1: True}


def test_optimizers_and_schedulers_step_after_every_batch(pictures):
    given = arranged(pictures, epochs=4)
    before = given["objective"].center_loss.centers.detach().clone()
    history = fit(**given, validate=Script(1, 2, 3, 4))
    assert (given["objective"].center_loss.centers - before).norm(dim=1).gt(0).all(), "centers move"
    model_schedule, center_schedule = given["schedulers"]
    assert model_schedule.last_epoch == center_schedule.last_epoch == 4 * 5
    assert center_schedule.get_last_lr()[0] < 1e-6
    rates = history.learning_rate.tolist()
    assert rates[1] == pytest.approx(0.05, rel=0.02) and rates[0] < 0.01 and rates[1] > rates[2] > rates[3]


@pytest.mark.parametrize("steps", [*range(1, 9), 100])
def test_one_cycle(steps):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    optimizer, scheduler = one_cycle(model, 0.1, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= 0.1 for rate in rates)
    if steps == 100:
        assert max(rates) == pytest.approx(0.1) and 23 <= rates.index(max(rates)) <= 25
        assert rates[0] < 0.01 and rates[-1] < 1e-3
    held = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    expected = {id(model[0].weight): 0.05, id(model[0].bias): 0.0, id(model[1].weight): 0.0, id(model[1].bias): 0.0}
    assert held == expected, "weight decay spares biases and BatchNorm; what is frozen is left out"


def test_equal_seeds_train_equal_models(pictures):
    def final(seed=SEED, augmentation=0, loader_seed=0):
        given = arranged(pictures, seed, epochs=2, loader_seed=loader_seed)
        torch.manual_seed(1234 + len(states))  # the global generator plays no part in the loop itself
        history = fit(**given, validate=Script(1, 2), seed=augmentation)
        states.append({**given["model"].state_dict(), "centers": given["objective"].center_loss.centers})
        return states[-1], history.drop(columns="seconds")

    states = []
    (first, history), (again, history_again) = final(), final()
    assert same_state(first, again)
    pd.testing.assert_frame_equal(history, history_again, check_exact=True)
    for other in (dict(seed=SEED + 1), dict(augmentation=1), dict(loader_seed=1)):
        assert not same_state(first, final(**other)[0])


def test_what_an_objective_watches_is_in_the_history_but_not_in_the_loss(pictures):
    given = {**arranged(pictures, epochs=2), "objective": Recorded()}
    given["loader"] = batches(Pictures(pictures, np.arange(80)), 30)  # 30, 30 and 20 pictures, 10 of each species
    history = fit(**given, validate=Script(1, 2))
    assert list(history) == [
        "epoch", "loss_one", "loss", "mean_label", "largest_label", "learning_rate", "spread", "validation",
        "images", "seconds",
    ]  # fmt: skip
    assert history.mean_label.tolist() == pytest.approx([3.5, 3.5])
    assert history.largest_label.tolist() == pytest.approx([(30 * 2 + 30 * 5 + 20 * 7) / 80] * 2)
    np.testing.assert_allclose(history.loss, history.loss_one)


def test_the_very_gpu_that_is_asked_for_is_taken(pictures, monkeypatch):
    """Without a GPU: that it is made the current one, which accelerate then takes."""

    def refuse(device):
        raise LookupError(device)

    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    with pytest.raises(LookupError, match="cuda:1"):
        fit(**arranged(pictures), validate=lambda model: 0.5, device="cuda:1")


def test_a_processor_may_have_a_number(pictures):
    assert len(fit(**arranged(pictures, epochs=1), validate=lambda model: 0.5, device="cpu:0")) == 1


@pytest.mark.parametrize("home, device, cpu", [("cpu", None, True), ("meta", None, False), ("cpu", "mps:0", False)])
def test_a_model_is_trained_where_it_is_or_where_it_is_told(pictures, monkeypatch, home, device, cpu):
    """Without a GPU: that accelerate is asked for one; "meta" stands for any device but the CPU."""
    given, asked = arranged(pictures), []
    given["model"].to(home)

    def refuse(cpu, mixed_precision):
        asked.append((cpu, mixed_precision))
        raise LookupError

    monkeypatch.setattr(training, "Accelerator", refuse)
    with pytest.raises(LookupError):
        fit(**given, validate=lambda model: 0.5, device=device)
    assert asked == [(cpu, "no")]


@pytest.mark.parametrize("capability, precision", [((7, 5), "no"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_bfloat16_is_for_gpus_that_compute_in_it(pictures, monkeypatch, capability, precision):
    """Without a GPU: the T4 says that it supports bfloat16, but emulates it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    asked = []

    def refuse(cpu, mixed_precision):
        asked.append((cpu, mixed_precision))
        raise LookupError

    monkeypatch.setattr(training, "Accelerator", refuse)
    with pytest.raises(LookupError):
        fit(**arranged(pictures), validate=lambda model: 0.5, device="cuda")
    assert asked == [(False, precision)]


def test_the_device_and_precision_of_one_training_bind_no_later_one(pictures):
    """A process has one state of accelerate, which refuses any other: as left by a training on a GPU, then one here."""
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision="bf16")
    assert len(fit(**arranged(pictures, epochs=1), validate=lambda model: 0.5)) == 1
    assert AcceleratorState().mixed_precision == "no"


class Unlearnable(nn.Module):
    """An objective whose loss is not a number, still connected to the model."""

    def forward(self, embeddings, labels):
        return {"cross_entropy": math.nan + 0 * embeddings.sum()}


class Constant(Toy):
    """A model that embeds all pictures alike."""

    def forward(self, images):
        return super().forward(images) * 0 + torch.arange(6.0)


@pytest.mark.parametrize("planted, validation, message", [
    (dict(objective=Unlearnable()), 0.5, "epoch 1: the loss is nan.*try a learning rate"),
    (dict(), math.nan, "epoch 1: .*validation nan.*try a learning rate"),
    (dict(model=Constant()), 0.5, "epoch 1: .*same embedding.*try a lower learning rate"),
])  # fmt: skip
def test_a_training_that_has_collapsed_stops(pictures, planted, validation, message):
    with pytest.raises(Collapse, match=message):
        fit(**{**arranged(pictures), **planted}, validate=Script(*[validation] * 6))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_loss_stuck_at_chance_stops(pictures, weight):
    """With or without center loss, whose own value must not hide that the classifier learns nothing."""
    given = arranged(pictures, weight=weight, rate=1e-12)
    for parameter in given["model"].classifier.parameters():
        nn.init.zeros_(parameter)
    script = Script(*[0.5] * 6)
    with pytest.raises(Collapse, match=r"cross_entropy.* 2\.079.*4 epochs.*try"):
        fit(**given, validate=script)
    assert len(script.states) == 4


def row(epoch=1, loss=1.0, spread=0.5, validation=0.5, **terms):
    return dict(epoch=epoch, loss=loss, spread=spread, validation=validation, **terms)


def test_a_healthy_training_is_left_alone():
    chance = math.log(8)
    stuck = {"cross_entropy": chance}
    rows = [row(epoch, cross_entropy=chance) for epoch in range(1, 4)]
    check_collapse(rows, stuck)  # three epochs are no proof
    check_collapse([*rows, row(4, cross_entropy=0.9 * chance)], stuck)
    check_collapse([row(0, cross_entropy=0.5), *rows], stuck)
    check_collapse([*rows, row(4, cross_entropy=chance)], None)
    check_collapse([row(loss=0.0)], {})
    hardest = [row(epoch, cross_entropy=chance, validation=0.9) for epoch in range(2, 6)]
    check_collapse([row(1, validation=0.6), *hardest], stuck)  # the loss says chance, but the model has learned
    with pytest.raises(Collapse):
        check_collapse([row(1, validation=0.89), *hardest], stuck)
    with pytest.raises(Collapse):
        check_collapse([row(cross_entropy=9.0), *rows, row(4, cross_entropy=1.01 * chance)], stuck)
    for bad in (dict(loss=math.inf), dict(spread=math.nan), dict(spread=1e-5)):
        with pytest.raises(Collapse, match="try"):
            check_collapse([row(**bad)], None)


@pytest.fixture
def budget(tmp_path):
    """small(objective, ...) trains a tiny network under the common budget: the model and its history."""
    run = dataclasses.replace(config(tmp_path), embedding_size=8, epochs=3, batch_size=16, learning_rate=0.01)
    pictures = image_set()

    def small(objective, seed=SEED, drawn=0, validate=lambda model: 0.5, **options):
        model = new_model(run, TINY, seed, SiameseNet)
        torch.rand(drawn)
        loader = species_batches(Pictures(pictures, np.arange(len(pictures))), 4, 4, seed)
        return model, train(run, model, objective, loader, validate, seed, **options)

    small.run = run
    return small


def test_a_seed_alone_decides_a_training(budget):
    """Random triplets are drawn from torch's own generator, from which something may have been drawn before."""
    (one, history), (again, repeated) = (budget(TripletJudgment("random"), drawn=drawn) for drawn in (0, 7))
    pd.testing.assert_series_equal(history["loss"], repeated["loss"])
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, again.state_dict()[name])
    other, _ = budget(TripletJudgment("random"), seed=SEED + 1)
    assert not torch.equal(one.head[0].weight, other.head[0].weight)


def test_a_noisy_validation_chooses_no_epoch_unless_asked_to(budget):
    for options, kept in ({}, 2), (dict(keep="best"), 0):
        script = Script(0.9, 0.5, 0.4)
        model, history = budget(TripletJudgment(), validate=script, **options)
        assert history["validation"].tolist() == [0.9, 0.5, 0.4]
        assert same_state(script.states[kept], model.state_dict())


def test_centers_have_an_optimizer_and_a_schedule_of_their_own(budget, monkeypatch):
    given = {}
    monkeypatch.setattr("common.training.fit", lambda *arguments, **options: given.update(a=arguments, **options))
    objective, run, terms = PairJudgment(None, 8, 8, center_weight=0.1), budget.run, object()
    budget(objective, terms=terms)
    (model, _, loader, (adam, descent), epochs, _), schedulers = given["a"], given["schedulers"]
    assert epochs == run.epochs and len(schedulers) == 2
    assert isinstance(adam, torch.optim.AdamW) and isinstance(descent, torch.optim.SGD)
    assert descent.param_groups[0]["params"] == [objective.center_loss.centers]
    assert sum(len(group["params"]) for group in adam.param_groups) == len(list(model.parameters()))
    assert schedulers[0].total_steps == schedulers[1].T_max == run.epochs * len(loader)
    assert given["keep"] == "last" and given["augmentation"] == run.augmentation and given["terms"] is terms
    budget(TripletJudgment())
    assert len(given["a"][3]) == 1  # nothing of the objective's own to optimize


@pytest.fixture
def arm(tmp_path):
    """A tiny pretrained arm: call it with indices and a seed. Has the run, its pictures and their splits."""
    torch.manual_seed(3)
    save_file(timm.create_model(TINY).state_dict(), tmp_path / f"{TINY}.safetensors")
    small = dict(embedding_size=8, epochs=1, batch_size=16, learning_rate=0.01)
    run = dataclasses.replace(config(tmp_path), pretrained=True, weights=tmp_path, **small)
    pictures = image_set(species=12)

    def build(indices, seed):
        build.learned.append(np.unique(pictures.labels[indices]).tolist())
        known, labels = np.unique(pictures.labels[indices], return_inverse=True)
        model = new_model(build.run, TINY, seed, EmbeddingNet, len(known), pictures.images[indices])
        objective = Classification(model.classify, len(known), 8, 0.1)
        return model, objective, batches(Pictures(pictures, indices, labels), 16, True, seed)

    build.run, build.pictures, build.splits, build.learned = run, pictures, make_splits(pictures, run), []
    return build


@pytest.mark.parametrize("protocol", ["closed_set", "open_set"])
def test_an_arm_goes_back_to_the_first_point_near_the_best(arm, protocol, monkeypatch):
    """Judged where the protocol says: on pictures that were not learned from, in the open set on other species."""
    qualities, judged = dict(zip(POINTS, [0.5, 0.7, 0.72, 0.75, 0.7, 0.754, 0.6])), []

    def planted(model, corners, image_set, indices, pairs):
        judged.append((indices, set(image_set.labels[indices]), arm.learned[-1]))
        assert np.isin(pairs[:, :2], indices).all() and watched[-1] is pairs, "watched by what it will be judged by"
        return pd.DataFrame({"roc_auc": qualities, "map_at_r": qualities}).rename_axis("point")

    watched, report = [], training.validation_report
    seen = lambda model, image_set, pairs: [watched.append(pairs), report(model, image_set, pairs)][1]  # noqa: E731
    monkeypatch.setattr(training, "validation_report", seen)
    monkeypatch.setattr(training, "path_quality", planted)
    trained = train_arm(arm.run, arm, arm.pictures, arm.splits, protocol, SEED)
    parts = arm.splits.parts[protocol]
    assert trained.point == 1.25 and trained.quality == 0.75 and len(trained.history) == 1
    assert not trained.model.training
    if protocol == "closed_set":
        assert len(judged) == 1 and set(judged[0][0]) == set(parts["validation"])
    else:
        known = set(arm.pictures.labels[np.concatenate([parts["train"], parts["validation"]])])
        assert len(judged) == 2 and judged[0][1] | judged[1][1] == known and not judged[0][1] & judged[1][1]
        assert all(set(learned) == known - new for _, new, learned in judged)
    assert not any(np.isin(indices, parts["test"]).any() for indices, *_ in judged)


def test_the_kept_model_lies_at_the_point_and_was_trained_by_leg(arm, monkeypatch):
    """First the head alone, then all: the corners say which weights moved, the model what was kept."""
    seen = {}

    def planted(model, corners, *_):
        seen["corners"] = corners
        return pd.DataFrame({"roc_auc": {1.5: 1.0}, "map_at_r": {1.5: 1.0}})

    monkeypatch.setattr(training, "path_quality", planted)
    kept = train_arm(arm.run, arm, arm.pictures, arm.splits, "closed_set", SEED).model.state_dict()
    start, head, end = seen["corners"]
    backbone = [name for name in start if name.startswith("backbone.")]
    assert all(torch.equal(start[name], head[name]) for name in backbone)
    assert not torch.equal(start["head.0.weight"], head["head.0.weight"])
    assert not torch.equal(head["backbone.conv1.0.weight"], end["backbone.conv1.0.weight"])
    for name, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (head[name] + end[name]) / 2)
        else:
            assert torch.equal(value, end[name])


def test_from_scratch_the_whole_training_is_kept(arm, monkeypatch):
    arm.run = dataclasses.replace(arm.run, pretrained=False)
    monkeypatch.setattr(training, "train_head", None)
    for protocol in ("closed_set", "open_set"):
        arm.learned.clear()
        trained = train_arm(arm.run, arm, arm.pictures, arm.splits, protocol, SEED)
        assert trained.path.index.tolist() == [2.0] and trained.point == 2.0 and len(arm.learned) == 1
        pairs, embeddings = arm.splits.pairs[protocol]["validation"], embed(trained.model, arm.pictures.images)
        area = roc_auc(cosine_scores(embeddings, pairs), pairs[:, 2])
        assert trained.path.loc[2.0, "roc_auc"] == pytest.approx(area, abs=1e-3)
        assert trained.quality == pytest.approx(trained.path.loc[2.0].mean())


def test_the_quality_of_a_path_is_that_of_its_models(arm):
    part, pairs = (getattr(arm.splits, name)["closed_set"]["validation"] for name in ("parts", "pairs"))
    corners = [new_model(arm.run, TINY, seed, SiameseNet).state_dict() for seed in range(3)]
    model = new_model(arm.run, TINY, 9, SiameseNet)
    path = path_quality(model, copy.deepcopy(corners), arm.pictures, part, pairs)
    assert path.index.tolist() == list(POINTS) and same_state(corners[2], model.state_dict())
    for point, corner in zip((0.0, 1.0, 2.0), corners):
        model.load_state_dict(corner)
        assert path.loc[point, "roc_auc"] == pytest.approx(pair_auc(model, arm.pictures, pairs))
        embeddings = torch.from_numpy(embed(model, arm.pictures.images[part]))
        with torch.no_grad():
            found = retrieval(embeddings, arm.pictures.labels[part], model.score_embeddings)
        assert path.loc[point, "map_at_r"] == pytest.approx(found["map_at_r"].mean())


def test_between_corners_lie_straight_lines():
    corners = [{"weight": torch.tensor([float(corner)]), "count": torch.tensor(corner)} for corner in (0, 4, 6)]
    found = {point: between(corners, point)["weight"].item() for point in (0.0, 0.5, 1.0, 1.25, 2.0)}
    assert found == {0.0: 0, 0.5: 2, 1.0: 4, 1.25: 4.5, 2.0: 6}
    assert between(corners, 0.5)["count"] == 4 and between(corners[:1], 2.0) is corners[0]


def test_the_head_learns_from_the_features_of_the_pictures_as_they_are(arm):
    """Against the loop everybody writes by hand; nothing else moves."""
    indices = arm.splits.parts["closed_set"]["train"]
    (model, objective, loader), (twin, its, order) = (arm(indices, SEED) for _ in range(2))
    train_head(arm.run, model, objective, loader, SEED)
    features = torch.from_numpy(embed(twin, arm.pictures.images[indices], pooled=True))
    labels = torch.as_tensor(loader.dataset.labels)
    learners = nn.ModuleList([twin.head, twin.classifier])
    adam, cycle = one_cycle(learners, arm.run.learning_rate, HEAD_EPOCHS * len(loader))
    descent = torch.optim.SGD(its.center_loss.parameters(), lr=0.5)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(descent, HEAD_EPOCHS * len(loader))
    for _ in range(HEAD_EPOCHS):
        for places in order.batch_sampler:
            adam.zero_grad(), descent.zero_grad()
            sum(its(twin.head(features[places]), labels[places]).values()).backward()
            adam.step(), descent.step(), cycle.step(), slower.step()
    assert all(torch.allclose(value, twin.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.allclose(objective.center_loss.centers, its.center_loss.centers)
