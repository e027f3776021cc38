"""common/training.py, backbones.py, checkpoints.py: one budget for every approach, one way to be handed on."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from toys import SEED, TINY, config, image_set

from common.backbones import EmbeddingNet, SiameseNet, new_model
from common.checkpoints import ensure, handed_on
from common.datasets.batches import Pictures, species_batches
from common.datasets.splits import make_splits, save_splits
from common.evaluation.reports import validation_report
from common.losses import PairJudgment, TripletJudgment
from common.training import train


@pytest.fixture
def run(tmp_path):
    return dataclasses.replace(config(tmp_path), embedding_size=8, epochs=3, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def pictures():
    return image_set()


@pytest.fixture
def splits(pictures, run):
    return make_splits(pictures, run)


def small_training(run, pictures, splits, protocol, objective, network=EmbeddingNet, seed=SEED):
    model = new_model(run, TINY, seed, network)
    loader = species_batches(Pictures(pictures, splits.parts[protocol]["train"]), 4, 4, seed)
    return model, train(run, model, objective, loader, pictures, splits, protocol, seed)


def test_equal_seeds_start_and_end_equal(run, pictures, splits):
    one, other, different = (
        small_training(run, pictures, splits, "closed_set", TripletJudgment(), seed=seed)[0]
        for seed in (SEED, SEED, SEED + 1)
    )
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name])
    assert not torch.equal(one.head[0].weight, different.head[0].weight)


def test_what_was_drawn_before_does_not_change_a_training(run, pictures, splits):
    """Random triplets are drawn from torch's own generator."""
    histories = []
    for drawn in (0, 7):
        model = new_model(run, TINY, 0)
        torch.rand(drawn)
        loader = species_batches(Pictures(pictures, splits.parts["closed_set"]["train"]), 4, 4, 0)
        objective = TripletJudgment("random")
        histories.append(train(run, model, objective, loader, pictures, splits, "closed_set", 0)["loss"])
    pd.testing.assert_series_equal(*histories)


def test_a_new_model_is_frozen_as_configured(run):
    half = dataclasses.replace(run, frozen_share=0.5)
    model = new_model(half, TINY, 0, SiameseNet)
    assert isinstance(model, SiameseNet) and model.frozen
    assert not any(weight.requires_grad for weight in model.backbone.get_submodule(model.frozen[0]).parameters())
    assert new_model(run, TINY, 0, classes=5).classify(torch.zeros(1, 8)).shape == (1, 5)


def test_the_closed_set_keeps_the_best_epoch_and_the_open_set_the_last(run, pictures, splits):
    for protocol, chosen in (("closed_set", "max"), ("open_set", "last")):
        model, history = small_training(run, pictures, splits, protocol, TripletJudgment())
        kept = validation_report(model, pictures, splits.pairs[protocol]["validation"])["validation"]
        expected = history["validation"].max() if chosen == "max" else history["validation"].iloc[-1]
        assert kept == pytest.approx(expected, abs=1e-6)


def test_a_noisy_validation_cannot_choose_an_early_epoch_of_the_open_set(run, pictures, splits, monkeypatch):
    falling = iter([{"validation": 0.9}, {"validation": 0.5}, {"validation": 0.4}])
    monkeypatch.setattr("common.training.validation_report", lambda *_, **__: next(falling))
    _, history = small_training(run, pictures, splits, "open_set", TripletJudgment())
    assert history["validation"].tolist() == [0.9, 0.5, 0.4]  # it ran to the end, without patience


def test_centers_have_an_optimizer_and_a_schedule_of_their_own(run, pictures, splits, monkeypatch):
    given = {}
    monkeypatch.setattr("common.training.fit", lambda *arguments, **options: given.update(a=arguments, **options))
    objective = PairJudgment(None, 8, 8, center_weight=0.1)
    small_training(run, pictures, splits, "closed_set", objective, SiameseNet)
    (model, _, loader, (adam, descent), epochs), schedulers = given["a"], given["schedulers"]
    assert epochs == run.epochs and len(schedulers) == 2
    assert isinstance(adam, torch.optim.AdamW) and isinstance(descent, torch.optim.SGD)
    assert descent.param_groups[0]["params"] == [objective.center_loss.centers]
    trained = sum(len(group["params"]) for group in adam.param_groups)
    assert trained == len(list(model.parameters()))
    assert schedulers[0].total_steps == schedulers[1].T_max == run.epochs * len(loader)
    assert given["patience"] == run.epochs // 2 and given["keep"] == "best"
    assert given["augmentation"] == run.augmentation
    small_training(run, pictures, splits, "closed_set", TripletJudgment())
    assert len(given["a"][3]) == 1  # nothing of the objective's own to optimize


def test_another_validation_takes_the_place_of_the_usual_one(run, pictures, splits):
    model = new_model(run, TINY, 0)
    loader = species_batches(Pictures(pictures, splits.parts["closed_set"]["train"]), 4, 4, 0)
    scores = iter([0.2, 0.7, 0.1])
    given = (run, model, TripletJudgment(), loader, pictures, splits, "closed_set", 0)
    assert train(*given, validate=lambda model: next(scores))["validation"].tolist() == [0.2, 0.7, 0.1]


def test_precision_recall_and_f1_are_in_the_history(run, pictures, splits):
    _, history = small_training(run, pictures, splits, "closed_set", TripletJudgment())
    assert history[["validation", "precision", "recall", "f1"]].stack().between(0, 1).all()
    harmonic = 2 * history["precision"] * history["recall"] / (history["precision"] + history["recall"])
    np.testing.assert_allclose(history["f1"], harmonic)
    assert {"active_share", "distance_to_positive", "distance_to_negative"} <= set(history)


def test_what_earlier_notebooks_hand_on(run, pictures, splits, monkeypatch):
    monkeypatch.setattr("common.checkpoints.load_images", lambda config: pictures)
    save_splits(splits, run.directory / "splits.json")
    (run.directory / "backbone.json").write_text(json.dumps({"backbone": TINY}))
    same, read, backbone = handed_on(run)
    assert same is pictures and backbone == TINY
    np.testing.assert_array_equal(read.parts["closed_set"]["test"], splits.parts["closed_set"]["test"])
    (run.directory / "backbone.json").unlink()
    chosen = dataclasses.replace(run, backbone="resnet18")
    save_splits(splits, chosen.directory / "splits.json")
    assert handed_on(chosen)[2] == "resnet18"  # a backbone of one's own needs no R2
    assert ensure(chosen, "splits.json").exists()
