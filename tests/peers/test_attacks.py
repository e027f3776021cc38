"""The same attacks through foolbox and torchattacks: two independent programs must find the same pictures."""

from functools import partial

import pytest
import torch
from toys import Network, pairs_of_pictures, pgd_path

from benchmarks.attacks import TwoLogits, apgd, foolbox_pgd, full_square, step_ratios, torchattacks_pgd
from common.attacks.gradient import fgsm, pgd
from common.attacks.square import square
from common.backbones import evaluation_mode

EPS = 8 / 255


def need(library):
    pytest.importorskip(library, reason=f"{library} is not installed: pip install --no-deps {library}")


def case(count=12, seed=0):
    """A network with clear gradients, and pairs to attack."""
    model = Network(seed)
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(32, 3, 16, 16))  # BatchNorm statistics that fit
    return model.eval(), pairs_of_pictures(count, seed, size=16)


def agree(ours, theirs, clean, same):
    assert (theirs.first - clean).abs().max() > 0.9 * EPS
    assert ((ours.first - theirs.first).abs() < 1e-6).float().mean() >= 0.999
    loss, their_loss = (((1 - 2 * same) * found.scores).sum() for found in (ours, theirs))
    assert abs(loss - their_loss) <= 1e-5 * len(same)


@pytest.mark.parametrize(("library", "theirs"), [("foolbox", foolbox_pgd), ("torchattacks", torchattacks_pgd)])
@pytest.mark.parametrize("seed", [0, 1])
def test_independent_programs_find_the_same_pictures(library, theirs, seed):
    need(library)
    model, (first, second, same) = case(seed=seed)
    ours = pgd_path(model, first, second, same, EPS, steps=10)[-1]
    agree(ours, theirs(model, first, second, same, EPS, steps=10), first, same)


def test_stronger_attackers_find_little_more():
    """APGD and Square on the two-logit form: neither harms much beyond PGD, and all harm more than nothing."""
    need("torchattacks")
    model, pairs = case(16)
    direction = 1 - 2 * pairs[2]
    with evaluation_mode(model):
        clean = model.score(*pairs[:2])
    threshold = clean.median().item()
    ours = (direction * (pgd(model, *pairs, EPS).scores - clean)).mean()
    assert ours > 0
    for attack in (partial(apgd, steps=20), partial(full_square, queries=100)):
        found = attack(model, *pairs, eps=EPS, threshold=threshold)
        assert (found.first - pairs[0]).abs().max() <= EPS + 1e-6
        assert -0.01 < (direction * (found.scores - clean)).mean() <= 1.05 * ours
    assert 0 < (direction * (square(model, *pairs, EPS, queries=100).scores - clean)).mean() < ours
    assert (direction * (fgsm(model, *pairs, EPS).scores - clean)).mean() <= ours


def test_two_logits_follow_their_rows():
    model, (first, second, _) = case()
    classifier = TwoLogits(model, second, threshold=0.3, scale=2.0)
    with torch.no_grad():
        tagged, expected = TwoLogits.tag(first), 2 * (model.score(first, second) - 0.3)
        torch.testing.assert_close(classifier(first), classifier(tagged))
        torch.testing.assert_close(classifier(tagged), torch.stack([-expected, expected], 1))
        rows = torch.tensor([7, 2, 2, 11])
        moved = tagged[rows].clone()
        moved[:, 3] = (moved[:, 3] + 0.4 * torch.rand_like(moved[:, 3]).sub(0.5)).clamp(0, 1)
        torch.testing.assert_close(classifier(moved)[:, 1], expected[rows])


def test_the_benchmark_measures_ratios():
    ratios = step_ratios(repeats=1, size=32, pairs=4, steps=8)
    assert len(ratios) == 3 and all(ratio < 100 for ratio in ratios.values())
