"""The training loop: it learns, keeps the best epoch, repeats itself, and stops when nothing is learned."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import SEED, image_set

from common import training
from common.datasets.batches import Pictures, batches, species_batches
from common.losses import Classification, TripletJudgment
from common.training import Collapse, check_collapse, fit, one_cycle


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


def test_the_very_gpu_that_is_asked_for_is_taken(pictures, monkeypatch):
    """Without a GPU: that it is made the current one, which accelerate then takes."""

    def refuse(device):
        raise LookupError(device)

    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    with pytest.raises(LookupError, match="cuda:1"):
        fit(**arranged(pictures), validate=lambda model: 0.5, device="cuda:1")


class Script:
    """A validation that returns given scores and remembers the model of each epoch."""

    def __init__(self, *scores):
        self.scores, self.states = scores, []

    def __call__(self, model):
        self.states.append(copy.deepcopy(model.state_dict()))
        return self.scores[len(self.states) - 1]


def same_state(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_it_learns_what_can_be_learned(pictures):
    given = arranged(pictures)

    def validate(model):
        model.eval()
        images, labels = torch.from_numpy(pictures.images) / 255, torch.from_numpy(pictures.labels)
        return (model.classify(model(images)).argmax(1) == labels).float().mean()

    before = validate(given["model"])
    history = fit(**given, validate=validate)
    assert list(history) == [
        "epoch", "cross_entropy", "center", "loss", "learning_rate", "spread", "validation", "images", "seconds",
    ]  # fmt: skip
    assert history.epoch.tolist() == [1, 2, 3, 4, 5, 6]
    assert history.images.tolist() == [80, 160, 240, 320, 400, 480]
    assert history.loss.iloc[-1] < 0.6 * history.loss.iloc[0]
    assert before < 0.3 < 0.6 < history.validation.max() == pytest.approx(validate(given["model"]).item())
    np.testing.assert_allclose(history.loss, history.cross_entropy + history.center, rtol=1e-5)
    assert history.spread.between(0.01, 2).all() and history.seconds.is_monotonic_increasing


def test_the_best_epoch_is_restored(pictures):
    given, script = arranged(pictures, epochs=4), Script(0.5, 0.9, 0.7, 0.8)
    history = fit(**given, validate=script)
    assert same_state(script.states[1], given["model"].state_dict())
    assert not same_state(script.states[3], given["model"].state_dict())
    assert not given["model"].training
    assert history.validation.tolist() == [0.5, 0.9, 0.7, 0.8]


@pytest.mark.parametrize(
    "patience, scores, stops_after",
    [
        (1, [0.5, 0.6, 0.6, 0.9, 0.9, 0.9], 3),
        (2, [0.5, 0.6, 0.4, 0.3, 0.9, 0.9], 4),
        (2, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6], 6),
        (None, [0.9, 0.5, 0.4, 0.3, 0.2, 0.1], 6),
    ],
)
def test_patience(pictures, patience, scores, stops_after):
    history = fit(**arranged(pictures), validate=Script(*scores), patience=patience)
    assert len(history) == stops_after


def test_it_is_an_ordinary_loop_of_steps():
    """Against the loop everybody writes by hand, over tensors that are no pictures and so are not varied."""
    generator = torch.Generator().manual_seed(0)
    data, labels = torch.rand(20, 3, 4, 4, generator=generator), torch.arange(20) % 3

    def make():
        torch.manual_seed(1)
        return Toy(3), DataLoader(TensorDataset(data, labels), batch_size=5, shuffle=False)

    class Objective(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.classify = model.classify

        def forward(self, embeddings, labels):
            logits = self.classify(embeddings)
            return {"loss_one": nn.functional.cross_entropy(logits, labels), "decay": logits.square().mean()}

    model, loader = make()
    fit(model, Objective(model), loader, [torch.optim.SGD(model.parameters(), 0.1)], 3, Script(1, 2, 3))
    by_hand, loader = make()
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    by_hand.train()
    for _ in range(3):
        for images, labels_here in loader:
            optimizer.zero_grad()
            sum(Objective(by_hand)(by_hand(images), labels_here).values()).backward()
            optimizer.step()
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_pictures_arrive_varied_between_zero_and_one(pictures):
    seen = []

    def terms(model, objective, images, labels):
        seen.append((images, labels))
        return objective(model(images), labels)

    given = {**arranged(pictures, epochs=2), "terms": terms}
    given["loader"] = batches(Pictures(pictures, np.arange(80)), 80)
    fit(**given, validate=Script(1, 2))
    (first, labels), (second, _) = seen
    assert first.dtype == torch.float32 and first.min() >= 0 and first.max() <= 1
    assert labels.tolist() == pictures.labels.tolist()
    plain = torch.from_numpy(pictures.images) / 255
    assert (first - plain).abs().mean() > 0.02 and (first - second).abs().mean() > 0.02


def test_optimizers_and_schedulers_step_after_every_batch(pictures):
    given = arranged(pictures, epochs=4)
    before = given["objective"].center_loss.centers.detach().clone()
    history = fit(**given, validate=Script(1, 2, 3, 4))
    assert (given["objective"].center_loss.centers - before).norm(dim=1).min() > 0.1, "centers move"
    model_schedule, center_schedule = given["schedulers"]
    assert model_schedule.last_epoch == center_schedule.last_epoch == 4 * 5
    assert center_schedule.get_last_lr()[0] < 1e-6
    rates = history.learning_rate.tolist()
    assert rates[1] == pytest.approx(0.05, rel=0.02) and rates[0] < 0.01 and rates[1] > rates[2] > rates[3]


def test_centers_without_an_optimizer_stay(pictures):
    given = arranged(pictures, epochs=1)
    given.update(optimizers=given["optimizers"][:1], schedulers=given["schedulers"][:1])
    before = given["objective"].center_loss.centers.detach().clone()
    fit(**given, validate=Script(1))
    assert torch.equal(given["objective"].center_loss.centers, before)


def test_one_cycle():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    optimizer, scheduler = one_cycle(model, 0.1, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.1) and 23 <= rates.index(max(rates)) <= 25
    assert rates[0] < 0.01 and rates[-1] < 1e-3
    held = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    expected = {id(model[0].weight): 0.05, id(model[0].bias): 0.0, id(model[1].weight): 0.0, id(model[1].bias): 0.0}
    assert held == expected, "weight decay spares biases and BatchNorm; what is frozen is left out"


@pytest.mark.parametrize("steps", range(1, 9))
def test_one_cycle_of_few_steps(steps):
    optimizer, scheduler = one_cycle(nn.Linear(2, 2), 0.1, steps)
    for _ in range(steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= 0.1
        optimizer.step()
        scheduler.step()


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


class Watched(nn.Module):
    """An objective that watches the labels of its batch."""

    def forward(self, embeddings, labels):
        self.watched = {"mean_label": labels.double().mean(), "largest_label": labels.max()}
        return {"loss_one": embeddings.square().mean()}


def test_what_an_objective_watches_is_in_the_history_but_not_in_the_loss(pictures):
    given = {**arranged(pictures, epochs=2), "objective": Watched()}
    given["loader"] = batches(Pictures(pictures, np.arange(80)), 30)  # 30, 30 and 20 pictures, 10 of each species
    history = fit(**given, validate=Script(1, 2))
    assert list(history) == [
        "epoch", "loss_one", "loss", "mean_label", "largest_label", "learning_rate", "spread", "validation",
        "images", "seconds",
    ]  # fmt: skip
    assert history.mean_label.tolist() == pytest.approx([3.5, 3.5])
    assert history.largest_label.tolist() == pytest.approx([(30 * 2 + 30 * 5 + 20 * 7) / 80] * 2)
    np.testing.assert_allclose(history.loss, history.loss_one)


def triplets(pictures, seed=SEED):
    given = arranged(pictures, seed, rate=0.02)
    given.update(objective=TripletJudgment("random"), optimizers=given["optimizers"][:1])
    given.update(schedulers=given["schedulers"][:1])
    return {**given, "loader": species_batches(Pictures(pictures, np.arange(80)), 4, 4)}


def test_triplets_are_learned_and_watched(pictures):
    given = triplets(pictures)
    history = fit(**given, validate=Script(*range(6)))
    assert history.images.tolist() == [80, 160, 240, 320, 400, 480]
    first, last = history.iloc[0], history.iloc[-1]
    assert last.triplet < 0.6 * first.triplet and last.active_share < 0.6 * first.active_share <= 0.6
    assert 0 < last.distance_to_positive < last.distance_to_negative < 2


def row(epoch=1, loss=1.0, spread=0.5, validation=0.5, **terms):
    return dict(epoch=epoch, loss=loss, spread=spread, validation=validation, **terms)


class Broken(nn.Module):
    """An objective whose loss is what the test says, still connected to the model."""

    def __init__(self, value, **attributes):
        super().__init__()
        self.value = value
        self.__dict__.update(attributes)

    def forward(self, embeddings, labels):
        return {"cross_entropy": self.value + 0 * embeddings.sum()}


def test_a_loss_that_is_not_finite_stops(pictures):
    given = {**arranged(pictures), "objective": Broken(math.nan)}
    with pytest.raises(Collapse, match=r"epoch 1: the loss is nan.*try a learning rate ten times lower"):
        fit(**given, validate=Script(*[0.5] * 6))


def test_a_validation_that_is_not_finite_stops(pictures):
    with pytest.raises(Collapse, match=r"epoch 1: .*validation.* nan.*try"):
        fit(**arranged(pictures), validate=Script(*[math.nan] * 6))


def test_equal_embeddings_stop(pictures):
    given = arranged(pictures)

    class Constant(Toy):
        def forward(self, images):
            return super().forward(images) * 0 + torch.arange(6.0)

    given["model"].__class__ = Constant
    with pytest.raises(Collapse, match=r"epoch 1: all pictures have nearly the same embedding.*try a lower learning"):
        fit(**given, validate=Script(*[0.5] * 6))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_loss_stuck_at_chance_stops(pictures, weight):
    """With or without center loss, whose own value must not hide that the classifier learns nothing."""
    given = arranged(pictures, weight=weight, rate=1e-12)
    for parameter in given["model"].classifier.parameters():
        nn.init.zeros_(parameter)
    script = Script(*[0.5] * 6)
    with pytest.raises(Collapse, match=r"has stayed at 2\.079.*for 4 epochs; try another learning rate.*labels"):
        fit(**given, validate=script)
    assert len(script.states) == 4


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


def test_pictures_are_varied_as_strongly_as_asked(pictures, monkeypatch):
    used, augment = set(), training.augment
    monkeypatch.setattr(training, "augment", lambda *given: used.add(given[2]) or augment(*given))
    fit(**arranged(pictures, epochs=2), validate=Script(1, 2), augmentation=0.5)
    assert used == {0.5}
