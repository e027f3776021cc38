"""The rules that make a number worth printing, across files: labels, thresholds, splits, centers, frozen stages."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from toys import SEED, all_pairs, config, image_set, model

from common.checkpoints import load, save
from common.datasets.batches import Pictures, batches
from common.datasets.splits import make_splits
from common.evaluation.metrics import Threshold, accuracy, cosine_scores, fit_threshold, roc_auc
from common.evaluation.reports import embed_all, evaluate, pair_auc, verification_report
from common.ledger import leaderboard, read_results, record
from common.losses import Classification
from common.training import fit, one_cycle


@pytest.fixture
def run(tmp_path):
    return config(tmp_path)


@pytest.fixture(scope="module")
def pictures():
    return image_set()


def train(pictures, indices, pairs, weight=0.1, epochs=1, share=0.0, rate=0.01, seed=SEED):
    """A small training as the notebooks do it; returns model, objective and history."""
    known, labels = np.unique(pictures.labels[indices], return_inverse=True)
    net = model(len(known), seed=seed)
    objective = Classification(net.classify, len(known), 8, weight)
    objective.start = objective.center_loss.centers.detach().clone()
    net.freeze(share)
    loader = batches(Pictures(pictures, indices, labels), 16, shuffle=True, seed=seed)
    optimizer, scheduler = one_cycle(net, rate, epochs * len(loader))
    optimizers = [optimizer, torch.optim.SGD(objective.parameters(), lr=0.5)]
    validate = lambda net: pair_auc(net, pictures, pairs)  # noqa: E731
    return net, objective, fit(net, objective, loader, optimizers, epochs, validate, [scheduler], seed=seed)


def test_same_is_one_and_a_higher_score_is_more_similar(pictures, run):
    """A model that knows the species is right at every pair; one that has it backwards, at none."""
    splits = make_splits(pictures, run)
    right = np.eye(8)[pictures.labels]
    for protocol in splits.protocols:
        pairs = splits.pairs[protocol]["test"]
        scores = cosine_scores(right, pairs)
        assert roc_auc(scores, pairs[:, 2]) == 1 and roc_auc(-scores, pairs[:, 2]) == 0
        assert scores[pairs[:, 2] == 1].min() > scores[pairs[:, 2] == 0].max()
        assert accuracy(scores, pairs[:, 2], Threshold(0.5, "validation")) == 1
    net, images = model().eval(), torch.from_numpy(pictures.images[::10]) / 255
    with torch.no_grad():
        alike, unlike = net.score(images, images), net.score(images, images.roll(1, 0))
    assert (alike > unlike).all(), "nothing is more similar to a picture than itself"


def test_the_score_of_the_model_is_what_the_metrics_judge(pictures):
    net, pairs = model().eval(), all_pairs(pictures.labels, np.arange(0, 80, 7))
    images = torch.from_numpy(pictures.images) / 255
    with torch.no_grad():
        by_model = net.score(images[pairs[:, 0]], images[pairs[:, 1]])
    by_metrics = cosine_scores(embed_all(net, pictures, pairs[:, :2]), pairs)
    np.testing.assert_allclose(by_metrics, by_model.numpy(), atol=1e-5)


def test_the_threshold_goes_from_validation_to_test_unchanged(pictures, run):
    """Even where another threshold would suit the test better."""
    splits = make_splits(pictures, run)
    validation, test = (splits.pairs["closed_set"][name] for name in ("validation", "test"))
    generator = np.random.default_rng(0)
    scores = validation[:, 2] + generator.normal(0, 0.2, len(validation))
    threshold = fit_threshold(scores, validation[:, 2], "validation")
    shifted = test[:, 2] + 0.8 + generator.normal(0, 0.2, len(test))
    path = save(run, pictures, "best_model_center_loss.pth", model(), threshold, pd.DataFrame({"epoch": [1]}))
    kept = load(path, pictures)[1]
    assert kept == threshold and 0.2 < kept.value < 0.8
    report = verification_report(shifted, test, kept, rounds=5).set_index("metric")
    assert report.loc["accuracy", "value"] == accuracy(shifted, test[:, 2], threshold) < 0.75
    assert report.loc["accuracy", "threshold_from"] == "validation"
    assert report.loc["roc_auc", "value"] > 0.95, "a better threshold for the test exists, and is not used"


class Watched:
    """An array of pictures that remembers which of them were looked at."""

    def __init__(self, images):
        self.images, self.shape, self.seen = images, images.shape, set()

    def __getitem__(self, indices):
        self.seen |= set(np.atleast_1d(np.arange(len(self.images))[indices]).tolist())
        return self.images[indices]


@pytest.mark.parametrize("protocol", ["closed_set", "open_set"])
def test_training_never_looks_at_the_test(pictures, run, protocol):
    splits = make_splits(pictures, run)
    part, pairs = splits.parts[protocol], splits.pairs[protocol]
    watched = dataclasses.replace(pictures, images=Watched(pictures.images))
    net, objective, _ = train(watched, part["train"], pairs["validation"])
    assert watched.images.seen >= set(part["train"].tolist())
    assert watched.images.seen <= set(part["train"].tolist()) | set(part["validation"].tolist())
    known = len(np.unique(pictures.labels[part["train"]]))
    assert known == {"closed_set": 8, "open_set": 3}[protocol]
    assert net.classifier.out_features == len(objective.center_loss.centers) == known


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_centers_move_and_at_the_same_pace_whatever_the_weight(pictures, rate):
    """With a model that stands still, the weight of the loss changes nothing for the centers, not even 0."""
    indices, pairs = np.arange(0, 80, 2), all_pairs(pictures.labels, np.arange(0, 80, 9))
    centers = []
    for weight in (0.0, 1e-3, 1.0) if rate == 0 else (0.0, 1.0):
        _, objective, _ = train(pictures, indices, pairs, weight, rate=rate)
        centers.append(objective.center_loss.centers.detach())
        assert (centers[-1] - objective.start).norm(dim=1).min() > 0.5
    apart = max((other - centers[0]).abs().max() for other in centers[1:])
    assert apart < 1e-6 if rate == 0 else apart > 1e-3


def test_frozen_stages_are_bitwise_unchanged_by_training(pictures):
    before = copy.deepcopy(model(seed=SEED).backbone.state_dict())
    net, _, history = train(pictures, np.arange(80), all_pairs(pictures.labels, np.arange(0, 80, 9)), share=0.5)
    assert len(history) == 1 and len(net.frozen) > 0
    moved = {name for name, tensor in net.backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    inside = {name for name in before if any(name.startswith(f"{stage}.") for stage in net.frozen)}
    assert any("running_mean" in name for name in inside) and not moved & inside
    assert {name for name in before if "running_" in name} - inside <= moved


def test_a_run_from_pictures_to_leaderboard(pictures, run):
    """The whole road on a problem that can be learned: far above chance, in both protocols, and on record."""
    splits, rows = make_splits(pictures, run), []
    for protocol in splits.protocols:
        part, pairs = splits.parts[protocol], splits.pairs[protocol]
        net, _, history = train(pictures, part["train"], pairs["validation"], epochs=5)
        report = evaluate(net, pictures, splits, protocol).report
        rows.append(report.assign(protocol=protocol, train_seconds=history.seconds.iloc[-1]))
    named = pd.concat(rows).assign(approach="center_loss", variant="standard", split="test", seed=0)
    record(run, pictures, "R3", named)
    for protocol in splits.protocols:
        board = leaderboard(read_results(run), protocol)
        assert float(board.roc_auc.iloc[0][:5]) > 0.7
        assert list(board) == ["roc_auc", "eer", "accuracy", "precision_at_1", "map_at_r", "train_seconds", "seeds"]
