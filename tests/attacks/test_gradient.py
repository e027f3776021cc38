"""Attacks: exact optima of linear models, loops as reference, bounds to the last bit, nothing disturbed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Bilinear, Network, awkward, pairs_of_pictures, same_state, state_of

from common.attacks.ascent import ascend, ball, climb, input_gradients
from common.attacks.gradient import fgsm, noise, pgd, pgd_path, retrieval_attack, square, transfer
from common.backbones import evaluation_mode

EPS = 8 / 255
ATTACKS = dict(fgsm=fgsm, pgd=pgd, noise=noise, square=square)


def direction(same):
    """-1 for same pairs, whose score is to fall, 1 for different ones."""
    return 1.0 - 2.0 * same


def optimum(model, first, second, same, eps):
    """The worst first pictures of a bilinear model: every pixel at the end of its interval that does harm."""
    slope = (model(second) @ model.weight.T).view(first.shape) * direction(same)[:, None, None, None]
    return (first + eps * slope.sign()).clamp(0, 1).detach()


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
        for attack in (fgsm, pgd):
            found = attack(model, first, second, same, EPS, which=which)
            torch.testing.assert_close(found.scores, clean + direction(same) * sides * gain, rtol=1e-4, atol=1e-4)
            assert torch.equal(found.second, second) == (which == "first")


def slow_pgd(model, first, second, same, eps, steps, restarts, seed):
    """One pair, one restart, one step at a time; only the last pictures of each step are looked at anew."""
    generator, first_moves = torch.Generator().manual_seed(seed), []
    for _ in range(restarts):
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
    pictures, scores = slow_pgd(model, first, second, same, EPS, 5, 2, seed)
    found = pgd(model, first, second, same, EPS, steps=5, restarts=2, seed=seed)
    torch.testing.assert_close(found.scores, scores)
    torch.testing.assert_close(found.first, pictures)
    assert (direction(same) * (scores - model.score(first, second).detach()) > 0).all()


@settings(deadline=None, max_examples=40)
@given(
    eps=st.one_of(st.floats(0, 1), st.sampled_from([1 / 255, 4 / 255, 8 / 255, 0.5])),
    attack=st.sampled_from(sorted(ATTACKS)),
    which=st.sampled_from(["first", "both"]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_what_always_holds(eps, attack, which, seed, extreme):
    model, (first, second, same) = Network(seed % 3), pairs_of_pictures(seed=seed)
    if extreme:
        first = first.round()  # pixels at 0 and 1
    options = {} if attack == "square" else dict(which=which)
    options |= dict(fgsm={}, pgd=dict(steps=3, restarts=2), noise=dict(draws=2), square=dict(queries=5))[attack]
    options |= {} if attack == "fgsm" else dict(seed=seed)
    model.train()
    before, originals = state_of(model), (first.clone(), second.clone())
    found = ATTACKS[attack](model, first, second, same, eps, **options)
    again = ATTACKS[attack](model, first, second, same, eps, **options)
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
    low, high = ball(clean, eps)
    for end, full in ((low, (clean.double() - eps).clamp(min=0)), (high, (clean.double() + eps).clamp(max=1))):
        assert (end.double() - clean.double()).abs().max() <= eps
        assert (end - clean).abs().max() <= torch.tensor(eps, dtype=dtype)
        assert (end.double() - full).abs().max() <= 2 * torch.finfo(dtype).eps
    assert (low <= clean).all() and (clean <= high).all() and low.min() >= 0 and high.max() <= 1


def test_nothing_changes_at_eps_0():
    model, (first, second, same) = Network().eval(), pairs_of_pictures()
    for attack in ATTACKS.values():
        found = attack(model, first, second, same, 0.0)
        assert torch.equal(found.first, first)
        torch.testing.assert_close(found.scores, model.score(first, second).detach(), atol=1e-6, rtol=0)


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
    previous = one
    for restarts in (2, 3, 5):
        more = pgd(model, first, second, same, eps, steps=4, restarts=restarts)
        gain = direction(same) * (more.scores - previous.scores)
        assert (gain >= 0).all()
        previous = more
    assert (direction(same) * (previous.scores - one.scores) > 0).any(), "restarts find something worse"


def test_the_path_starts_at_random_and_takes_steps_of_the_protocol():
    model, (first, second, same) = Bilinear(), pairs_of_pictures(margin=0.2)
    path = pgd_path(model, first, second, same, EPS, steps=10, seed=3)
    start = first + torch.empty(first.shape).uniform_(-EPS, EPS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(path[0].first, start)
    assert (path[0].first - first).abs().mean() == pytest.approx(EPS / 2, rel=0.1)
    largest = (path[1].first - path[0].first).abs().max().item()
    assert largest == pytest.approx(0.25 * EPS, rel=1e-3)
    assert len(pgd_path(model, first, second, same, EPS, steps=0)) == 1
    assert all(torch.equal(point.second, second) for point in path)


def test_seeds_differ():
    model, (first, second, same) = Network(), pairs_of_pictures()
    for attack in (pgd, noise, square):
        one, other = (attack(model, first, second, same, EPS, seed=seed).first for seed in (0, 1))
        assert not torch.equal(one, other)


def test_the_second_pictures_are_embedded_once():
    model, (first, second, same) = Network(), pairs_of_pictures(count=5)
    pgd(model, first, second, same, EPS, steps=4, restarts=3)
    assert model.embedded == 5 + 3 * 5 * 5, "the second once, the first at every point of each restart"
    model.embedded = 0
    fgsm(model, first, second, same, EPS)
    assert model.embedded == 5 + 2 * 5
    model.embedded = 0
    square(model, first, second, same, EPS, queries=7)
    assert model.embedded == 5 + 8 * 5
    model.embedded = 0
    pgd(model, first, second, same, EPS, steps=4, restarts=1, which="both")
    assert model.embedded == 2 * 5 * 5


class Interrupted(Network):
    """Stops the attack in its third forward pass."""

    def forward(self, images):
        if self.embedded >= 2 * len(images):
            raise KeyboardInterrupt
        return super().forward(images)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_interrupted_attack_leaves_no_trace(attack):
    model, (first, second, same) = awkward(Network()), pairs_of_pictures()
    before = state_of(model)
    assert len(set(before[0])) == 2 and any(gradient is not None for gradient in before[2])
    attack(model, first, second, same, EPS)
    assert same_state(before, state_of(model))
    model.__class__, model.embedded = Interrupted, 0
    with pytest.raises(KeyboardInterrupt):
        attack(model, first, second, same, EPS)
    assert same_state(before, state_of(model)) and torch.is_grad_enabled()


def test_attacks_work_where_gradients_are_switched_off():
    model, (first, second, same) = Bilinear(), pairs_of_pictures()
    with torch.no_grad():
        found = pgd(model, first, second, same, EPS)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found.first, optimum(model, first, second, same, EPS), atol=1e-6, rtol=0)
    model.requires_grad_(False)
    assert torch.equal(pgd(model, first, second, same, EPS).first, found.first)


def test_a_score_without_gradient_is_attacked_as_well_as_can_be():
    model, (first, second, same) = Bilinear(), pairs_of_pictures()
    model.requires_grad_(False)
    model.forward = lambda images: (images.detach() * 255).round().flatten(1) / 255 @ model.weight
    clean = direction(same) * model.score(first, second)
    blind = direction(same) * pgd(model, first, second, same, EPS).scores
    searched = direction(same) * square(model, first, second, same, EPS, queries=300).scores
    best = direction(same) * model.score(optimum(model, first, second, same, EPS), second)
    assert (searched > blind).all() and (searched < best + 1e-3).all()
    assert ((searched - clean) > 0.5 * (best - clean)).all(), "scores alone show most of the way"
    assert input_gradients(torch.tensor(1.0), [first])[0].abs().sum() == 0


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


def test_square_paints_squares_and_only_gets_worse():
    model, (first, second, same) = Network(), pairs_of_pictures(count=4, size=12, margin=0.2)
    start = square(model, first, second, same, EPS, queries=0)
    stripes = ((start.first - first) / EPS).round()
    assert stripes.abs().min() == 1 and (stripes == stripes[:, :, :1]).all(), "vertical stripes of +-eps"
    found = square(model, first, second, same, EPS, queries=60)
    gain = direction(same) * (found.scores - start.scores)
    assert (gain >= 0).all() and (gain > 0).any()
    assert ((found.first - first).abs() > EPS * 0.99).all(), "every pixel at an end of its interval"


def slow_harm(scores, labels, gallery_labels, targets=None):
    """Minus the mean lead of each picture to overtake on each to raise, one query and two pictures at a time."""
    found = []
    for query, row in enumerate(scores.tolist()):
        leads = []
        for one, score in enumerate(row):
            for other, ahead in enumerate(row):

                def wanted(item, query=query):
                    label = gallery_labels[item].item()
                    return label != labels[query].item() if targets is None else label == targets[query].item()

                if wanted(one) and not wanted(other):
                    leads.append(max(0.0, ahead - score))
        found.append(-sum(leads) / len(leads))
    return torch.tensor(found)


def retrieval_case(seed=0):
    model = Network(seed).eval()
    queries, pictures, _ = pairs_of_pictures(count=9, seed=seed)
    labels = torch.arange(9) % 3
    queries = (0.7 * queries + 0.1 * labels[:, None, None, None]).clamp(0, 1)
    with torch.no_grad():
        gallery = model((0.7 * pictures + 0.1 * labels[:, None, None, None]).clamp(0, 1))
    return model, queries, labels, gallery, labels


@pytest.mark.parametrize("targeted", [False, True])
def test_retrieval_attacks_turn_the_ranking(targeted):
    model, queries, labels, gallery, gallery_labels = retrieval_case()
    targets = (labels + 1) % 3 if targeted else None
    before = state_of(model.train())

    def ranked(pictures):
        with evaluation_mode(model):
            scores = model.score_embeddings(model(pictures)[:, None], gallery[None])
        return scores, gallery_labels[scores.argmax(1)]

    clean = retrieval_attack(model, queries, labels, gallery, gallery_labels, 0.0, targets, steps=1, restarts=1)
    torch.testing.assert_close(clean.harm, slow_harm(ranked(queries)[0], labels, gallery_labels, targets))
    assert torch.equal(clean.queries, queries) and (clean.harm < 0).any()
    found = retrieval_attack(model, queries, labels, gallery, gallery_labels, 0.1, targets, steps=10, restarts=2)
    scores, nearest = ranked(found.queries)
    torch.testing.assert_close(found.harm, slow_harm(scores, labels, gallery_labels, targets), atol=1e-5, rtol=1e-4)
    assert (found.harm >= clean.harm).all() and (found.harm > clean.harm).any()
    goal = (nearest == targets) if targeted else (nearest != labels)
    was = (ranked(queries)[1] == targets) if targeted else (ranked(queries)[1] != labels)
    assert goal.sum() > was.sum()
    assert (found.queries - queries).abs().max() <= 0.1 and same_state(before, state_of(model))


def test_a_gallery_that_allows_no_ranking_is_refused():
    model, queries, labels, gallery, gallery_labels = retrieval_case()
    for targets, theirs in ((None, gallery_labels * 0), (labels + 7, gallery_labels), (None, gallery_labels + 7)):
        with pytest.raises(ValueError, match="the gallery needs pictures"):
            retrieval_attack(model, queries, labels, gallery, theirs, EPS, targets)
    with pytest.raises(ValueError, match="queries has pixels from"):
        retrieval_attack(model, queries * 2, labels, gallery, gallery_labels, EPS)


def spoiled(value):
    first, second, same = pairs_of_pictures()
    first[0, 0, 0, 0] = value
    return first, second, same


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(
    ("arguments", "eps", "message"),
    [
        (spoiled(1.01), EPS, r"first has pixels from .* to 1\.01; give pictures in \[0, 1\].*inside the model"),
        (spoiled(-0.5), EPS, r"first has pixels from -0\.5"),
        (spoiled(float("nan")), EPS, "first has pixels that are not finite"),
        (pairs_of_pictures(), -EPS, r"eps is -0\.03.*use 0 or more"),
        (pairs_of_pictures(), float("nan"), "eps is nan"),
        (pairs_of_pictures(), float("inf"), "eps is inf"),
        ((pairs_of_pictures()[0], pairs_of_pictures(5)[1], torch.ones(6)), EPS, r"give \(B, 3, H, W\) twice"),
        ((*pairs_of_pictures()[:2], torch.ones(5)), EPS, r"\(5,\); give"),
        ((*pairs_of_pictures()[:2], torch.full((6,), 2)), EPS, "same must hold 1"),
        ((*((part * 255).byte() for part in pairs_of_pictures()[:2]), torch.ones(6)), EPS, "torch.uint8"),
        ((*(part[0] for part in pairs_of_pictures()[:2]), torch.ones(6)), EPS, r"shape \(B, 3, H, W\)"),
    ],
)
def test_bad_input_is_refused(attack, arguments, eps, message):
    with pytest.raises(ValueError, match=message):
        attack(Network(), *arguments, eps)


def test_bad_options_are_refused():
    model, pairs = Network(), pairs_of_pictures()
    with pytest.raises(ValueError, match="which is 'second'; use 'first' or 'both'"):
        pgd(model, *pairs, EPS, which="second")
    for options in (dict(restarts=0), dict(steps=-1)):
        with pytest.raises(ValueError, match="use 0 steps or more and 1 restart or more"):
            pgd(model, *pairs, EPS, **options)


def test_a_step_walks_uphill_on_any_harm():
    """Two batches at once, a made-up harm: the shared search knows nothing of models."""
    pictures = [torch.full((2, 3, 2, 2), 0.5), torch.full((2, 3, 2, 2), 0.5)]

    def harm(one, other):
        return one.flatten(1).sum(1) - (other - 0.45).abs().flatten(1).sum(1)

    path = list(ascend(harm, pictures, 0.1, 2, 0.04, pictures))
    assert [round(batch[0].mean().item(), 4) for batch, _ in path] == [0.5, 0.54, 0.58]
    assert [round(batch[1].mean().item(), 4) for batch, _ in path] == [0.5, 0.46, 0.42]
    assert path[0][1].tolist() == pytest.approx([6 - 0.6] * 2)
    (one, other), done = climb(harm, pictures, 0.1, 10, 1, 0)
    assert one.mean() == pytest.approx(0.6) and (other - 0.45).abs().mean() < 0.025 and done.shape == (2,)
