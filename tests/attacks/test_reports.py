"""Scores of pairs under attack, and the report behind its gate."""

import os
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from toys import Colors, Network, all_pairs, image_set

from common.attacks.gradient import pgd, transfer
from common.attacks.reports import BATCH, attacked_scores, idle_cores, robust_report, scores_under_pgd
from common.datasets.batches import pair_batch
from common.evaluation.metrics import Threshold, accuracy_by_kind, roc_auc
from common.ledger import ALLOWED, COLUMNS

EPS = 8 / 255
THRESHOLD = Threshold(0.2, "validation")


@pytest.fixture(scope="module")
def pictures():
    return image_set(species=8, each=6, size=12)


def test_attacked_scores_are_those_of_batches(pictures):
    model, pairs = Colors(), all_pairs(pictures.labels)[::20]
    assert BATCH < len(pairs) <= 2 * BATCH
    first, second, same = pair_batch(pictures, pairs)
    assert first.dtype == torch.float32 and first.max() <= 1 and same.tolist() == pairs[:, 2].tolist()
    np.testing.assert_array_equal((first * 255).round().numpy(), pictures.images[pairs[:, 0]])
    np.testing.assert_array_equal((second * 255).round().numpy(), pictures.images[pairs[:, 1]])
    clean = attacked_scores(model, pictures, pairs)
    np.testing.assert_allclose(clean, model.score(first, second).detach(), atol=1e-5)
    scores = attacked_scores(model, pictures, pairs, partial(pgd, eps=EPS, steps=2))
    parts = [pair_batch(pictures, some) for some in np.array_split(pairs, 2)]  # alike in size, and none above BATCH
    np.testing.assert_allclose(scores, torch.cat([pgd(model, *part, EPS, 2).scores for part in parts]))
    moved = attacked_scores(model, pictures, pairs, partial(transfer, Network(), eps=EPS))
    assert np.abs(moved - clean).max() > 0


def test_threads_are_those_that_leave_no_core_idle(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for threads, count in ((1, 4), (2, 2), (9, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert idle_cores(torch.device("cpu"))._max_workers == count
    assert idle_cores(torch.device("cuda"))._max_workers == 1


def test_robust_report(pictures):
    model, pairs = Colors(), all_pairs(pictures.labels)[::9]
    eps = (2 / 255, 8 / 255)
    found = scores_under_pgd(model, pictures, pairs, eps, steps=4, restarts=2)
    report = robust_report({"triplet": found}, pairs, {"triplet": THRESHOLD})
    assert list(found) == [0, *eps] and report.eps_255.unique().tolist() == [0, 2, 8]
    assert set(report) <= set(COLUMNS) and set(report.attack.dropna()) <= set(ALLOWED["attack"].split())
    for radius in (0.0, *eps):
        scores = attacked_scores(model, pictures, pairs, partial(pgd, eps=radius, steps=4, restarts=2))
        np.testing.assert_allclose(found[radius], scores)
        rows = report[np.isclose(report.eps_255, radius * 255)].set_index("metric")
        expected = [roc_auc(scores, pairs[:, 2]), *accuracy_by_kind(scores, pairs[:, 2], THRESHOLD)]
        measured = rows.value[["roc_auc", "accuracy_same", "accuracy_different"]]
        assert measured.tolist() == pytest.approx(expected, abs=1e-6)
        assert rows.attack.isna().all() if radius == 0 else (rows.attack == "pgd").all()
    areas = report[report.metric == "roc_auc"].value.tolist()
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[2]


def test_nothing_is_reported_behind_the_gate(pictures):
    model, pairs = Colors(), all_pairs(pictures.labels)[::9]
    labels = np.random.default_rng(0).permutation(pairs[:, 2])
    lost = np.column_stack([pairs[:, :2], labels])
    with pytest.warns(UserWarning, match=r"clean AUC is 0\.\d+, below 0\.80: no robustness is reported"):
        found = scores_under_pgd(model, pictures, lost, steps=1, restarts=1)
    report = robust_report({"triplet": found}, lost, {"triplet": THRESHOLD})
    assert report.attack.isna().all() and (report.eps_255 == 0).all() and len(report) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores_under_pgd(model, pictures, pairs, (EPS,), steps=1, restarts=1)
