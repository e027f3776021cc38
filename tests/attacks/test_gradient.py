"""Attacks: exact optima of linear models, loops as reference, bounds to the last bit, nothing disturbed."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import direction, optimum
from toys import Bilinear, Network, awkward, pairs_of_pictures, pgd_path, same_state, state_of

from common.attacks import gradient
from common.attacks.gradient import fgsm, noise, pgd, transfer
from common.attacks.square import square
from common.backbones import evaluation_mode

EPS = 8 / 255
ATTACKS = dict(fgsm=fgsm, pgd=pgd, noise=noise, square=square)


@pytest.mark.parametrize("margin", [0.2, 0.0])
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_the_optimum_of_a_linear_score_is_found(attack, margin):
    model, (first, second, same) = Bilinear(), pairs_of_pictures(margin=margin)
    expected = optimum(model, first, second, same, EPS)
    found = attack(model, first, second, same, EPS)
    torch.testing.assert_close(found.first, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.scores, model.score(expected, second))
    assert torch.equal(found.second, second)
    harm = direction(same) * (found.scores - model.score(first, second))
    assert (harm > 0.1).all(), "the score of same pairs falls, that of different pairs rises"


def test_both_sides_worked_by_hand():
    """Scores that add up: each side moves as if alone."""
    model, (first, second, same) = Bilinear(dimensions=1), pairs_of_pictures(margin=0.2)
    model.score_embeddings = lambda one, other: (one + other).sum(-1)
    gain = EPS * model.weight.abs().sum()
    clean = model.score(first, second)
    for which, sides in (("first", 1), ("both", 2)):
        found = pgd(model, first, second, same, EPS, which=which)
        torch.testing.assert_close(found.scores, clean + direction(same) * sides * gain, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.second, second) == (which == "first")


def slow_pgd(model, first, second, same, eps, steps, restarts, seed):
    """One pair, one start, one step at a time: the clean pictures first, then random ones."""
    generator, first_moves = torch.Generator().manual_seed(seed), [torch.zeros_like(first)]
    for _ in range(restarts - 1):
        first_moves.append(torch.empty(first.shape).uniform_(-eps, eps, generator=generator))
    scores, pictures = [], []
    for pair in range(len(first)):
        sign, clean, other = direction(same)[pair].item(), first[pair], second[pair : pair + 1]
        best, kept = -np.inf, None
        for moves in first_moves:
            current = (clean + moves[pair]).clamp(0, 1)
            for number in range(steps + 1):
                leaf = current.clone().requires_grad_()
                score = model.score(leaf[None], other)[0]
                if sign * score.item() > best:
                    best, kept = sign * score.item(), current.clone()
                if number < steps:
                    score.backward()
                    current = current + sign * 2.5 * eps / steps * leaf.grad.sign()
                    current = torch.minimum(torch.maximum(current, clean - eps), clean + eps).clamp(0, 1)
        scores.append(sign * best)
        pictures.append(kept)
    return torch.stack(pictures), torch.tensor(scores, dtype=first.dtype)


@pytest.mark.parametrize("seed", [0, 1])
def test_pgd_is_the_loop_it_stands_for(seed):
    model, (first, second, same) = Network(seed).double().eval(), pairs_of_pictures(seed=seed, dtype=torch.float64)
    pictures, scores = slow_pgd(model, first, second, same, EPS, 5, 3, seed)
    found = pgd(model, first, second, same, EPS, steps=5, restarts=3, seed=seed)
    torch.testing.assert_close(found.scores, scores)
    torch.testing.assert_close(found.first, pictures)
    assert (direction(same) * (scores - model.score(first, second).detach()) > 0).all()


@settings(deadline=None, max_examples=40)
@given(
    eps=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1 / 255, 4 / 255, 8 / 255, 0.5])),
    attack=st.sampled_from([*sorted(ATTACKS), "both"]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_what_always_holds(eps, attack, seed, extreme):
    model, (first, second, same) = Network(seed % 3), pairs_of_pictures(seed=seed)
    if extreme:
        first = first.round()  # pixels at 0 and 1
    options = dict(fgsm={}, pgd=dict(steps=3, restarts=2, seed=seed), noise=dict(draws=2, seed=seed),
                   square=dict(queries=5), both=dict(steps=3, restarts=2, which="both"))[attack]  # fmt: skip
    chosen = ATTACKS.get(attack, pgd)
    before, originals = state_of(awkward(model)), (first.clone(), second.clone())
    found = chosen(model, first, second, same, eps, **options)
    again = chosen(model, first, second, same, eps, **options)
    for changed, clean in ((found.first, first), (found.second, second)):
        assert (changed.double() - clean.double()).abs().max() <= eps
        assert changed.min() >= 0 and changed.max() <= 1 and changed.dtype == clean.dtype
    with evaluation_mode(model):
        torch.testing.assert_close(found.scores, model.score(found.first, found.second), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(found, again)), "the same seed does the same"
    assert same_state(before, state_of(model))
    assert torch.equal(first, originals[0]) and torch.equal(second, originals[1])
    assert not found.first.requires_grad and not found.scores.requires_grad


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_the_ball_is_exact_and_no_smaller_than_need_be(eps, seed, dtype):
    clean = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    clean[0, 0, 0, :3] = torch.tensor([0.0, 1.0, eps])
    low, high = gradient.ball(clean, eps)
    for end, full in ((low, (clean.double() - eps).clamp(min=0)), (high, (clean.double() + eps).clamp(max=1))):
        assert (end.double() - clean.double()).abs().max() <= eps
        assert (end - clean).abs().max() <= torch.tensor(eps, dtype=dtype)
        assert (end.double() - full).abs().max() <= 2 * torch.finfo(dtype).eps
    assert (low <= clean).all() and (clean <= high).all() and low.min() >= 0 and high.max() <= 1


def test_the_worst_of_all_steps_and_restarts_is_kept():
    model, (first, second, same) = Network().eval(), pairs_of_pictures(count=12)
    eps = 0.3  # large, so that steps overshoot
    path = pgd_path(model, first, second, same, eps, steps=4)
    assert len(path) == 5
    harms = torch.stack([direction(same) * point.scores for point in path])
    assert (harms.argmax(0) < 4).any(), "some pair is worst before the last step"
    one = pgd(model, first, second, same, eps, steps=4, restarts=1)
    torch.testing.assert_close(direction(same) * one.scores, harms.max(0).values)
    for pair, step in enumerate(harms.argmax(0)):
        assert torch.equal(one.first[pair], path[step].first[pair])
    found = [pgd(model, first, second, same, eps, steps=4, restarts=restarts).scores for restarts in (1, 2, 3, 5)]
    gains = (direction(same) * torch.stack(found)).diff(dim=0)
    assert (gains >= 0).all() and (gains > 0).any(), "restarts find something worse"


def test_the_path_starts_clean_and_takes_steps_of_the_protocol():
    model, (first, second, same) = Bilinear(), pairs_of_pictures(margin=0.2)
    path = pgd_path(model, first, second, same, EPS, steps=10)
    assert torch.equal(path[0].first, first)
    assert (path[1].first - first).abs().max().item() == pytest.approx(0.25 * EPS, rel=1e-3)
    assert len(pgd_path(model, first, second, same, EPS, steps=0)) == 1
    assert all(torch.equal(point.second, second) for point in path)


class Trap(Bilinear):
    """Its gradient always points to where the score helps: a step away from the clean picture never hurts."""

    def forward(self, images):
        outward = super().forward(images)
        return outward.detach() - (outward - outward.detach())


@pytest.mark.parametrize("which", ["first", "both"])
def test_pgd_never_does_less_harm_than_none(which):
    model, (first, second, same) = Trap(), pairs_of_pictures(margin=0.2)
    for restarts in (1, 3):
        found = pgd(model, first, second, same, EPS, steps=3, restarts=restarts, which=which)
        assert (direction(same) * (found.scores - model.score(first, second)) >= 0).all()
    assert torch.equal(pgd(model, first, second, same, EPS, restarts=1).first, first)


def test_no_gradient_loses_the_clean_start_and_nothing_else():
    """A picture paired with itself has the highest cosine, where the slope is 0; random starts find a way down."""
    model, (first, _, _) = Network().double(), pairs_of_pictures(dtype=torch.float64)
    found = pgd(model, first, first, torch.ones(len(first)), EPS, restarts=2)
    assert (found.scores < 1 - 1e-6).all() and (found.first - first).abs().max() <= EPS


def test_seeds_differ():
    model, (first, second, same) = Network(), pairs_of_pictures()
    for attack in (partial(pgd, steps=0), noise):
        one, other = (attack(model, first, second, same, EPS, seed=seed).first for seed in (0, 1))
        assert not torch.equal(one, other)
    ones = (pgd(model, first, second, same, EPS, restarts=1, seed=seed).first for seed in (0, 1))
    assert torch.equal(*ones), "the clean start needs no seed"


def test_the_second_pictures_are_embedded_once():
    for attack, options, embedded in [
        (pgd, dict(steps=4, restarts=3), 5 + 3 * 5 * 5),  # the second once, the first at every point of each restart
        (square, dict(queries=7), 5 + 8 * 5), (pgd, dict(steps=4, restarts=1, which="both"), 2 * 5 * 5)]:
        model = Network()
        attack(model, *pairs_of_pictures(count=5), EPS, **options)
        assert model.embedded == embedded


def test_an_interrupted_attack_leaves_no_trace():
    model, pairs = awkward(Network()), pairs_of_pictures()
    before = state_of(model)
    assert len(set(before[0])) == 2 and any(gradient is not None for gradient in before[2])
    model.score_embeddings = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    for attack in ATTACKS.values():
        with pytest.raises(KeyboardInterrupt):
            attack(model, *pairs, EPS)
        assert same_state(before, state_of(model)) and torch.is_grad_enabled()


def test_attacks_work_where_gradients_are_switched_off():
    model, (first, second, same) = Bilinear(), pairs_of_pictures()
    with torch.no_grad():
        found = pgd(model, first, second, same, EPS)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found.first, optimum(model, first, second, same, EPS), atol=1e-6, rtol=0)
    model.requires_grad_(False)
    assert torch.equal(pgd(model, first, second, same, EPS).first, found.first)


def test_noise_is_the_worst_of_its_draws():
    model, (first, second, same) = Network(), pairs_of_pictures()
    found = noise(model, first, second, same, EPS, draws=4, seed=5)
    generator = torch.Generator().manual_seed(5)
    draws = [first + torch.empty(first.shape).uniform_(-EPS, EPS, generator=generator) for _ in range(4)]
    with evaluation_mode(model):
        scores = torch.stack([model.score(draw.clamp(0, 1), second) for draw in draws])
    torch.testing.assert_close(direction(same) * found.scores, (direction(same) * scores).max(0).values)


def test_borrowed_pictures_are_scored_by_the_target():
    source, target, (first, second, same) = Bilinear(1), Network(), pairs_of_pictures()
    before = state_of(awkward(target))
    found = transfer(source, target, first, second, same, EPS, steps=5, restarts=1, which="both")
    expected = pgd(source, first, second, same, EPS, steps=5, restarts=1, which="both")
    assert torch.equal(found.first, expected.first) and torch.equal(found.second, expected.second)
    assert same_state(before, state_of(target))
    with evaluation_mode(target):
        torch.testing.assert_close(found.scores, target.score(found.first, found.second))
    assert not torch.allclose(found.scores, expected.scores)


def spoiled(value):
    first, second, same = pairs_of_pictures()
    first[0, 0, 0, 0] = value
    return first, second, same


BAD = [
    (spoiled(1.01), EPS, r"to 1\.01; give floats"), (spoiled(-0.5), EPS, r"from -0\.5"),
    (spoiled(float("nan")), EPS, "nan"),
    (pairs_of_pictures(), -EPS, r"eps is -0\.03"), (pairs_of_pictures(), float("nan"), "eps is nan"),
    (pairs_of_pictures(), float("inf"), "eps is inf"),
    ((pairs_of_pictures()[0], pairs_of_pictures(5)[1], torch.ones(6)), EPS, r"give \(B, 3, H, W\) twice"),
    ((*pairs_of_pictures()[:2], torch.ones(5)), EPS, r"\(5,\).*give"),
    ((*pairs_of_pictures()[:2], torch.full((6,), 2)), EPS, "same of 1"),
    ((*((part * 255).byte() for part in pairs_of_pictures()[:2]), torch.ones(6)), EPS, "torch.uint8"),
    ((*(part[0] for part in pairs_of_pictures()[:2]), torch.ones(6)), EPS, r"floats \(B, 3, H, W\)"),
]  # fmt: skip


@pytest.mark.parametrize("attack", [pgd, noise, square])
@pytest.mark.parametrize(("arguments", "eps", "message"), BAD)
def test_bad_input_and_options_are_refused(attack, arguments, eps, message):
    with pytest.raises(ValueError, match=message):
        attack(Network(), *arguments, eps)
    for options in (dict(which="second"), dict(restarts=0), dict(steps=-1)):
        with pytest.raises(ValueError, match="use"):
            pgd(Network(), *pairs_of_pictures(), EPS, **options)


def test_a_step_walks_uphill_on_any_harm():
    """A made-up harm of the first half and the second of a batch: the search knows nothing of models."""
    images = torch.full((4, 3, 2, 2), 0.5)

    def harm(shown):
        one, other = shown.chunk(2)
        return torch.cat([one.flatten(1).sum(1), -(other - 0.45).abs().flatten(1).sum(1)])

    path = list(gradient.ascend(harm, images, 0.1, 5, images))
    assert [round(shown[0].mean().item(), 4) for shown, _ in path] == [0.5, 0.55, 0.6, 0.6, 0.6, 0.6]
    assert [round(shown[2].mean().item(), 4) for shown, _ in path][:2] == [0.5, 0.45]
    assert path[0][1].tolist() == pytest.approx([6, 6, -0.6, -0.6])
    found, done = gradient.strongest(harm, images, 0.1, 10, 1, 0)
    assert found[:2].mean() == pytest.approx(0.6) and (found[2:] - 0.45).abs().max() < 1e-6 and done.shape == (4,)
    assert gradient.input_gradient(torch.tensor(1.0), images.requires_grad_()).abs().sum() == 0, "nothing to follow"
