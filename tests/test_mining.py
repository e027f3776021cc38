"""Miners against loops that say what they look for, their invariants, and an established library."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_triplets_indices
from references import rows, slow_batch_hard, slow_semi_hard, slow_triplets

from common.losses import pairwise_distances
from common.mining import all_pairs, all_triplets, balanced_pairs, batch_hard, random_triplets, semi_hard

LABELS = st.lists(st.sampled_from([-7, 0, 3, 10**12]), min_size=1, max_size=9).map(torch.tensor)
SEEDS = st.integers(0, 999)
MINERS = {
    "all": lambda labels, distances: all_triplets(labels),
    "random": lambda labels, distances: random_triplets(labels),
    "batch_hard": batch_hard,
    "semi_hard": semi_hard,
}


def embeddings(count, seed=0):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(count, seed=0):
    return pairwise_distances(embeddings(count, seed))


@settings(deadline=None, max_examples=50)
@given(LABELS)
def test_all_pairs_are_each_pair_once_and_same_is_1(labels):
    expected = [(i, j, labels[i].item() == labels[j].item()) for i, j in combinations(range(len(labels)), 2)]
    first, second, same = all_pairs(labels)
    assert rows((first, second, same)) == expected and same.dtype == torch.bool


@settings(deadline=None, max_examples=50)
@given(LABELS, SEEDS, st.booleans())
def test_balanced_pairs_are_each_anchors_positives_and_as_many_of_its_negatives(labels, seed, hard):
    scores = torch.randn(2 * [len(labels)], generator=torch.Generator().manual_seed(seed))
    chosen = rows(balanced_pairs(labels, scores if hard else None))
    assert len(set(chosen)) == len(chosen)
    for anchor, label in enumerate(labels.tolist()):
        mine = {alike: [other for one, other, kind in chosen if (one, kind) == (anchor, alike)] for alike in (0, 1)}
        positives = [other for other, its in enumerate(labels.tolist()) if its == label and other != anchor]
        negatives = [other for other, its in enumerate(labels.tolist()) if its != label]
        assert mine[1] == positives
        assert set(mine[0]) <= set(negatives) and len(mine[0]) == min(len(positives), len(negatives))
        if hard:
            by_score = sorted(negatives, key=lambda other: -scores[anchor, other].item())
            assert set(mine[0]) == set(by_score[: len(positives)])


def test_negatives_at_random_are_any_of_them():
    labels = torch.tensor([0, 0, 1, 2, 3])  # two anchors with one positive and three negatives each
    torch.manual_seed(0)
    chosen = [pair[:2] for _ in range(300) for pair in rows(balanced_pairs(labels)) if not pair[2]]
    counts = {(anchor, other): chosen.count((anchor, other)) for anchor in (0, 1) for other in (2, 3, 4)}
    assert sum(counts.values()) == len(chosen) == 600
    assert all(60 < count < 140 for count in counts.values()), "100 each are expected"


@settings(deadline=None, max_examples=50)
@given(LABELS)
def test_all_triplets_are_the_valid_ones_in_the_number_that_theory_gives(labels):
    found = rows(all_triplets(labels))
    assert sorted(found) == slow_triplets(labels)
    members = [labels.tolist().count(label) for label in labels.tolist()]  # n_c of every anchor
    assert len(found) == sum((count - 1) * (len(labels) - count) for count in members)


@settings(deadline=None, max_examples=50)
@given(LABELS, SEEDS)
def test_batch_hard_is_the_farthest_positive_and_the_nearest_negative(labels, seed):
    near = distances(len(labels), seed)
    assert rows(batch_hard(labels, near)) == slow_batch_hard(labels, near)


@settings(deadline=None, max_examples=50)
@given(LABELS, SEEDS)
def test_semi_hard_is_the_nearest_farther_negative_or_else_the_farthest(labels, seed):
    near = distances(len(labels), seed)
    assert rows(semi_hard(labels, near)) == slow_semi_hard(labels, near)


@pytest.mark.parametrize("miner", MINERS.values(), ids=MINERS.keys())
@settings(deadline=None, max_examples=50)
@given(LABELS, SEEDS)
def test_triplets_are_three_pictures_of_two_classes(miner, labels, seed):
    found, valid = rows(miner(labels, distances(len(labels), seed))), slow_triplets(labels)
    assert len(set(found)) == len(found)
    for anchor, positive, negative in found:
        assert len({anchor, positive, negative}) == 3
        assert labels[anchor] == labels[positive] != labels[negative]
    assert {anchor for anchor, *_ in found} == {anchor for anchor, *_ in valid}, "no anchor is left out"
    if miner is not MINERS["batch_hard"]:
        assert {triplet[:2] for triplet in found} == {triplet[:2] for triplet in valid}, "nor any positive"


@pytest.mark.parametrize("miner", MINERS.values(), ids=MINERS.keys())
@pytest.mark.parametrize("labels", [[5], [5, 5, 5], [1, 2, 3]], ids=["one picture", "one class", "no positive"])
def test_a_batch_without_a_valid_triplet_gives_none(miner, labels):
    found = miner(torch.tensor(labels), distances(len(labels)))
    assert [(column.shape, column.dtype) for column in found] == [((0,), torch.int64)] * 3


def test_random_negatives_are_any_of_them():
    labels = torch.tensor([0, 0, 1, 1, 1])
    torch.manual_seed(0)
    drawn = [triplet for _ in range(100) for triplet in rows(random_triplets(labels))]
    assert len(drawn) == 100 * (2 * 1 + 3 * 2)
    assert set(drawn) <= set(slow_triplets(labels))
    for triplet in slow_triplets(labels):
        expected = 100 / 3 if triplet[0] < 2 else 100 / 2
        assert abs(drawn.count(triplet) - expected) < 18


def test_semi_hard_worked_by_hand():
    labels = torch.tensor([0, 0, 1, 1, 1])
    from_first = [0.0, 0.5, 0.5, 0.7, 0.6]  # a negative as far as the positive is not farther
    from_second = [0.5, 0.0, 0.2, 0.4, 0.3]  # none is farther: the farthest
    near = torch.tensor([from_first, from_second, *[[0.9] * 5] * 3])
    assert rows(semi_hard(labels, near))[:2] == [(0, 1, 4), (1, 0, 3)]
    assert rows(batch_hard(labels, near))[:2] == [(0, 1, 2), (1, 0, 2)]


def test_all_triplets_and_batch_hard_agree_with_pytorch_metric_learning():
    labels = torch.arange(12) % 4
    assert sorted(rows(all_triplets(labels))) == sorted(rows(get_all_triplets_indices(labels)))
    theirs = BatchHardMiner()(embeddings(12), labels)  # its default distance is ours
    assert len(theirs[0]) == 12
    assert sorted(rows(batch_hard(labels, distances(12)))) == sorted(rows(theirs))


def test_semi_hard_agrees_with_pytorch_metric_learning_where_both_have_one():
    """Theirs are all negatives beyond the positive by less than the margin; ours is the nearest beyond it."""
    labels, near, margin = torch.arange(20) % 5, distances(20), 0.2
    theirs = rows(TripletMarginMiner(margin, type_of_triplets="semihard")(embeddings(20), labels))
    ours, seen = rows(semi_hard(labels, near)), 0
    for anchor, positive, negative in ours:
        candidates = [n for a, p, n in theirs if (a, p) == (anchor, positive)]
        if candidates:
            assert negative == min(candidates, key=lambda other: near[anchor, other])
        else:
            beyond = near[anchor, negative] - near[anchor, positive]
            assert beyond <= 0 or beyond > margin
        seen += bool(candidates)
    assert 0 < seen < len(ours)
