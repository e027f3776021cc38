"""Losses and objectives against loops that follow the papers and a library, their gradients, and their edges."""

import math
from itertools import combinations

import pytest
import references
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from references import rows
from torch import nn

from common.losses import (
    CenterLoss,
    Classification,
    PairJudgment,
    TripletJudgment,
    contrastive_loss,
    pairwise_distances,
    triplet_loss,
)
from common.mining import all_pairs, all_triplets, balanced_pairs, random_triplets

LABELS = torch.tensor([0, 2, 0, 1, 0, 2, 1, 3])  # class 3 has one picture
MINED = [mining for mining in TripletJudgment.MINING if mining != "given"]  # from a batch of any labels
PAIR_LOSSES, NEGATIVES = ("pair_cross_entropy", "contrastive"), ("all", "random", "hard")
PAIR_OPTIONS = [dict(loss=loss, negatives=negatives) for loss in PAIR_LOSSES for negatives in NEGATIVES]
MARGINS = [dict(margin=0.2, squared=False), dict(margin=None, squared=False), dict(margin=0.5, squared=True)]
TRIPLET_OPTIONS = [dict(mining=mining, **margin) for mining in MINED for margin in MARGINS]


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def embedded(count=8, size=4, seed=2):
    """Embeddings in double precision that are to be moved."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64, requires_grad=True)


def labelled(count, classes, seed=0):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def center_loss(classes=4, size=4, seed=0):
    torch.manual_seed(seed)
    return CenterLoss(classes, size).double()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))
def test_center_loss_is_equations_2_and_4(count, size, classes, seed):
    embeddings, labels = embedded(count, size, seed), labelled(count, classes, seed)
    loss = center_loss(classes, size, seed)
    expected = references.slow_value(embeddings, labels, loss.centers)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-9)
    loss.center_step(embeddings, labels).backward()
    expected = references.slow_center_update(embeddings, labels, loss.centers)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(loss.centers.grad, expected)


def test_center_loss_worked_by_hand():
    loss = center_loss(3, 2)
    loss.centers.data = doubles([[0, 0], [1, 1], [5, 5]])
    embeddings, labels = doubles([[3, 4], [1, 0], [1, 2]]), torch.tensor([0, 1, 1])
    assert loss(embeddings, labels).item() == pytest.approx((25 + 1 + 1) / 2 / 3)
    loss.center_step(embeddings, labels).backward()
    torch.testing.assert_close(loss.centers.grad, doubles([[-1.5, -2], [0, 0], [0, 0]]))  # the last has no members


def test_each_term_of_center_loss_moves_what_it_should():
    embeddings, loss = embedded(), center_loss()
    assert torch.autograd.gradcheck(lambda inputs: loss(inputs, LABELS), embeddings)
    loss(embeddings, LABELS).backward()
    assert loss.centers.grad is None, "the loss moves embeddings only"
    embeddings.grad = None
    step = loss.center_step(embeddings, LABELS)
    step.backward()
    assert step.item() == 0, "moving the centers adds nothing to the loss"
    assert embeddings.grad is None and loss.centers.grad.abs().sum() > 0


def test_centers_move_to_their_species():
    torch.manual_seed(0)
    clouds = torch.cat([torch.randn(50, 2) + 5, torch.randn(50, 2) - 5])
    loss, labels = CenterLoss(2, 2), torch.arange(2).repeat_interleave(50)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        loss.center_step(clouds, labels).backward()
        optimizer.step()
    torch.testing.assert_close(loss.centers.detach(), torch.stack([clouds[:50].mean(0), clouds[50:].mean(0)]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), min_size=1, max_size=9), st.floats(0.1, 2))
def test_contrastive_loss_is_equation_4(pairs, margin):
    distances, same = doubles([distance for distance, _ in pairs]), torch.tensor([alike for _, alike in pairs])
    expected = [d**2 / 2 if alike else max(0.0, margin - d) ** 2 / 2 for d, alike in pairs]
    torch.testing.assert_close(contrastive_loss(distances, same, margin), doubles(expected))


def test_contrastive_loss_worked_by_hand():
    """Same = 1: a same pair costs the more the farther it is apart, a different pair the nearer it is."""
    distances, same = doubles([0.0, 0.6, 2.0, 0.0, 0.6, 1.0, 2.0]), torch.arange(7) < 3
    torch.testing.assert_close(contrastive_loss(distances, same), doubles([0, 0.18, 2, 0.5, 0.08, 0, 0]))
    distances, same = doubles([0.3, 0.9, 0.2, 0.5, 1.7]).requires_grad_(), torch.arange(5) < 2
    assert torch.autograd.gradcheck(lambda inputs: contrastive_loss(inputs, same), distances)
    (gradient,) = torch.autograd.grad(contrastive_loss(distances, same).sum(), distances)
    torch.testing.assert_close(gradient, doubles([0.3, 0.9, -0.8, -0.5, 0]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0, 4)), min_size=1, max_size=9), st.floats(0.01, 2))
def test_triplet_loss_is_the_margin_that_is_missing(pairs, margin):
    to_positive, to_negative = doubles(pairs).unbind(1)
    hinge = [max(0.0, near - far + margin) for near, far in pairs]
    soft = [math.log(1 + math.exp(near - far)) for near, far in pairs]
    torch.testing.assert_close(triplet_loss(to_positive, to_negative, margin), doubles(hinge))
    torch.testing.assert_close(triplet_loss(to_positive, to_negative, None), doubles(soft))


def test_triplet_loss_at_the_edge_of_its_margin():
    to_positive, to_negative = doubles([0.5, 0.5, 0.5, 0.5]), doubles([0.5, 0.75, 1.0, 0.0])
    torch.testing.assert_close(triplet_loss(to_positive, to_negative, 0.25), doubles([0.25, 0, 0, 0.75]))
    torch.testing.assert_close(triplet_loss(to_positive, to_negative)[:1], doubles([0.2]))
    soft = triplet_loss(doubles([0.0, 1e4, 0.0]), doubles([0.0, 0.0, 1e4]), None)
    torch.testing.assert_close(soft, doubles([math.log(2), 1e4, 0]))


@pytest.mark.parametrize("margin", [0.2, None])
def test_gradients_of_triplet_loss(margin):
    inputs = [doubles([0.5, 0.9, 0.1]).requires_grad_(), doubles([0.6, 0.4, 1.5]).requires_grad_()]
    assert torch.autograd.gradcheck(lambda near, far: triplet_loss(near, far, margin), inputs)
    near, far = torch.autograd.grad(triplet_loss(*inputs, margin).sum(), inputs)
    torch.testing.assert_close(near, -far)
    slopes = [1, 1, 0] if margin else [1 / (1 + math.exp(-x)) for x in (-0.1, 0.5, -1.4)]
    torch.testing.assert_close(near, doubles(slopes))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 999), st.floats(1e-3, 1e3))
def test_distances_are_euclidean_between_unit_vectors_whatever_their_scale(count, size, seed, scale):
    embeddings = embedded(count, size, seed).detach() * scale
    found = pairwise_distances(embeddings)
    torch.testing.assert_close(found, references.slow_distances(embeddings))
    torch.testing.assert_close(found, pairwise_distances(embeddings * torch.arange(1, count + 1)[:, None]))
    torch.testing.assert_close(found, found.T, atol=1e-7, rtol=0)
    assert found.diagonal().eq(0).all()
    assert found.min() >= 0 and found.max() <= 2 + 1e-12
    squared = pairwise_distances(embeddings, squared=True)
    torch.testing.assert_close(squared, found**2)
    units = embeddings / embeddings.norm(dim=1, keepdim=True)
    torch.testing.assert_close(squared, 2 - 2 * units @ units.T)


@pytest.mark.parametrize("squared", [False, True])
def test_distances_worked_by_hand_and_their_gradients(squared):
    side, across = (2, 4) if squared else (math.sqrt(2), 2)
    corners = doubles([[3, 0], [0, 0.5], [-1, 0]])
    expected = doubles([[0, side, across], [side, 0, side], [across, side, 0]])
    torch.testing.assert_close(pairwise_distances(corners, squared), expected)
    first, second, _ = all_pairs(torch.zeros(5))
    assert torch.autograd.gradcheck(lambda inputs: pairwise_distances(inputs, squared)[first, second], embedded(5))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_identical_embeddings_are_0_apart_and_have_a_gradient_of_0(seed, squared):
    embeddings = embedded(4, 16, seed).detach().float()
    embeddings[1] = embeddings[0]
    found = pairwise_distances(embeddings.requires_grad_(), squared)
    assert found[0, 1] == 0 and found.diagonal().eq(0).all(), "exactly, in single precision too"
    (gradient,) = torch.autograd.grad(found[0, 1] + found.diagonal().sum(), embeddings, retain_graph=True)
    assert gradient.eq(0).all()
    (gradient,) = torch.autograd.grad(found.sum(), embeddings)
    assert gradient.isfinite().all() and gradient[0].abs().sum() > 0, "others still move them"


def test_distances_keep_single_precision_where_the_model_runs_in_half():
    embeddings = embedded(6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = pairwise_distances(embeddings)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), references.slow_distances(embeddings))


@pytest.mark.parametrize("gap", [1e-3, 1e-1])
@pytest.mark.parametrize("half", [False, True])
def test_gradients_of_distances_in_single_precision(gap, half):
    """Also between near ones, and where the model runs in half: those of double precision, to a thousandth."""
    exact, weights = embedded(8).detach(), torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double()
    exact[1] = exact[0] + gap * exact[2]
    exact, found = exact.float().double().requires_grad_(), exact.float().requires_grad_()
    (expected,) = torch.autograd.grad((pairwise_distances(exact) * weights).sum(), exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        (gradient,) = torch.autograd.grad((pairwise_distances(found) * weights).sum(), found)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().mean().item())


def test_distances_have_gradients_on_devices_without_autocast():
    """As on "mps" before torch 2.5; "meta", which computes nothing, has none in any version."""
    with pytest.raises(RuntimeError):
        torch.autocast("meta")
    embeddings = torch.randn(6, 4, device="meta", requires_grad=True)
    (gradient,) = torch.autograd.grad(pairwise_distances(embeddings).sum(), embeddings)
    assert gradient.shape == (6, 4) and gradient.is_meta


def test_contrastive_loss_agrees_with_pytorch_metric_learning():
    """Theirs is neither squared nor halved, and is averaged over what is above 0, same and different apart."""
    embeddings, labels = embedded(12), labelled(12, 4)
    first, second, same = all_pairs(labels)
    losses = (2 * contrastive_loss(pairwise_distances(embeddings)[first, second], same, 1.3)).sqrt()
    ours = sum(losses[kind & (losses > 0)].mean() for kind in (same, ~same))
    theirs = ContrastiveLoss(neg_margin=1.3, distance=LpDistance(p=2))(embeddings, labels)
    assert theirs > 0 and (losses == 0).any(), "with pairs beyond the margin"
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_loss_agrees_with_pytorch_metric_learning(margin, squared):
    """Their soft loss adds the margin inside, so it is ours with a margin of 0."""
    embeddings, labels = embedded(12), labelled(12, 4)
    anchor, positive, negative = all_triplets(labels)
    distances = pairwise_distances(embeddings, squared)
    ours = triplet_loss(distances[anchor, positive], distances[anchor, negative], margin).mean()
    distance = LpDistance(p=2, power=2 if squared else 1)
    theirs = TripletMarginLoss(margin or 0, smooth_loss=margin is None, distance=distance, reducer=MeanReducer())
    assert ours > 0
    torch.testing.assert_close(ours, theirs(embeddings, labels))


def score(first, second):
    return 3 * F.cosine_similarity(first, second, dim=-1) - 0.5


def classification(**options):
    torch.manual_seed(0)
    return Classification(nn.Linear(4, 4).double(), 4, 4, **options).double()


def pair_judgment(score=score, **options):
    torch.manual_seed(0)
    return PairJudgment(score, 4, 4, **options).double()


def test_classification_is_cross_entropy():
    objective, embeddings = classification(), embedded()
    terms, total = objective(embeddings, LABELS), 0.0
    for row, label in zip(objective.classify(embeddings).tolist(), LABELS.tolist(), strict=True):
        total += math.log(sum(math.exp(value) for value in row)) - row[label]
    assert terms["cross_entropy"].item() == pytest.approx(total / 8) and total > 0
    assert terms["cross_entropy"] == objective.attack_loss(embeddings, LABELS)
    assert objective.stuck_at == {"cross_entropy": pytest.approx(math.log(4))}


WEIGHTS = (1e-4, 0.3, 10.0)


@pytest.mark.parametrize(
    "make, term, weight",
    [(classification, "cross_entropy", 0.0)]  # whose centers follow, to be looked at
    + [(*made, weight) for made in ((classification, "cross_entropy"), (pair_judgment, "pairs")) for weight in WEIGHTS],
)
def test_center_loss_is_joined_by_a_weight_that_does_not_slow_the_centers(make, term, weight):
    objective, embeddings = make(center_weight=weight), embedded()
    centers, terms = objective.center_loss.centers, objective(embeddings, LABELS)
    assert list(terms) == [term, "center"]
    expected = weight * references.slow_value(embeddings, LABELS, centers)
    assert terms["center"].item() == pytest.approx(expected, abs=1e-12)
    (alone,) = torch.autograd.grad(terms[term], embeddings, retain_graph=True)
    pulled, moved = torch.autograd.grad(sum(terms.values()), [embeddings, centers])
    torch.testing.assert_close(pulled, alone + weight * (embeddings - centers[LABELS]) / len(LABELS))
    torch.testing.assert_close(moved, references.slow_center_update(embeddings, LABELS, centers))
    assert alone.abs().sum() > 0 and moved.abs().sum() > 0


def test_pairs_at_weight_0_have_no_centers():
    assert list(pair_judgment(center_weight=0)(embedded(), LABELS)) == ["pairs"]


@pytest.mark.parametrize(
    "make, options",
    [
        (classification, {"center_weight": 0.5}), (pair_judgment, {"center_weight": 0.3}),
        *((pair_judgment, options) for options in PAIR_OPTIONS if options["negatives"] != "random"),
        *((TripletJudgment, options) for options in TRIPLET_OPTIONS if options["mining"] != "random"),
    ],
    ids=str,
)  # fmt: skip
def test_gradients_of_objectives(make, options):
    objective, embeddings = make(**options), embedded()
    assert torch.autograd.gradcheck(lambda given: sum(objective(given, LABELS).values()), embeddings)
    (gradient,) = torch.autograd.grad(sum(objective(embeddings, LABELS).values()), embeddings)
    assert gradient.abs().sum() > 0


def slow_pairs(labels, loss, margin=1.0):
    """Score and loss of every same pair (True) and every different one (False), each with its pictures i < j."""
    embeddings, pairs = embedded(len(labels)).detach(), {True: [], False: []}
    distances = references.slow_distances(embeddings)
    for i, j in combinations(range(len(labels)), 2):
        alike, distance = labels[i].item() == labels[j].item(), distances[i, j].item()
        logit = score(embeddings[i], embeddings[j]).item()
        if loss == "pair_cross_entropy":
            value = -math.log(1 / (1 + math.exp(-logit if alike else logit)))
        else:
            value = distance**2 / 2 if alike else max(0.0, margin - distance) ** 2 / 2
        pairs[alike].append((logit, value, i, j))
    return pairs


def half_each(pairs, loss):
    """The mean loss of same pairs and that of different pairs, half each; no pairs, no loss.

    Different pairs of the contrastive loss count only where they cost anything.
    """
    active = [pair for pair in pairs[False] if loss == "pair_cross_entropy" or pair[1] > 0]
    means = [sum(value for _, value, *_ in kind) / max(len(kind), 1) for kind in (pairs[True], active)]
    return sum(means) / 2


def hardest_of_each_anchor(pairs, labels):
    """Every anchor's highest-scoring different pairs, as many as it has same ones."""
    chosen = []
    for anchor in range(len(labels)):
        mine = sorted((pair for pair in pairs[False] if anchor in pair[2:]), reverse=True)
        chosen += mine[: sum(anchor in pair[2:] for pair in pairs[True])]
    return chosen


@pytest.mark.parametrize("loss, margin", [("pair_cross_entropy", 1.0), ("contrastive", 1.0), ("contrastive", 0.9)])
def test_same_and_different_pairs_count_half_each_be_it_all_or_the_hardest_of_each_anchor(loss, margin):
    found, hard = (
        pair_judgment(loss=loss, margin=margin, negatives=negatives)(embedded(), LABELS)["pairs"].item()
        for negatives in ("all", "hard")
    )
    pairs = slow_pairs(LABELS, loss, margin)
    assert (len(pairs[True]), len(pairs[False])) == (5, 23)
    hardest = hardest_of_each_anchor(pairs, LABELS)
    if loss == "contrastive":
        assert 0 < sum(value > 0 for _, value, *_ in hardest) < len(hardest), "with pairs beyond the margin"
    assert found == pytest.approx(half_each(pairs, loss)) and found > 0
    assert hard == pytest.approx(half_each({True: pairs[True], False: hardest}, loss))
    assert hard > found


def test_random_negatives_are_as_many_as_there_are_same_pairs():
    objective = pair_judgment(negatives="random")
    torch.manual_seed(7)
    chosen = rows(balanced_pairs(LABELS))
    torch.manual_seed(7)
    found = objective(embedded(), LABELS)["pairs"].item()
    by_pair = {pair[2:]: pair for kind in slow_pairs(LABELS, "pair_cross_entropy").values() for pair in kind}
    pairs = {kind: [by_pair[min(i, j), max(i, j)] for i, j, same in chosen if same == kind] for kind in (True, False)}
    assert len(pairs[True]) == len(pairs[False]) == 10
    assert found == pytest.approx(half_each(pairs, "pair_cross_entropy"))
    assert found != pytest.approx(objective(embedded(), LABELS)["pairs"].item()), "others the next time"


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_extreme_logits_give_a_finite_loss(logit):
    objective, embeddings = pair_judgment(lambda one, other: logit * (1 + 0 * (one * other).sum(-1))), embedded()
    loss = objective(embeddings, LABELS)["pairs"]
    loss.backward()
    assert loss.item() == pytest.approx(5000), "one kind is all wrong, the other all right"
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("labels, sign", [([0, 0], 1), ([0, 1], -1)])
@pytest.mark.parametrize("loss", ["pair_cross_entropy", "contrastive"])
def test_same_pairs_shall_score_high_and_different_ones_low(loss, labels, sign):
    embeddings = doubles([[1, 0, 0, 0], [1, 1, 0, 0]]).requires_grad_()  # nearer than the margin
    pair_judgment(loss=loss)(embeddings, torch.tensor(labels))["pairs"].backward()
    with torch.no_grad():
        assert sign * (score(*(embeddings - 0.1 * embeddings.grad)) - score(*embeddings)) > 0.001


def test_pairs_at_logit_0_are_stuck_at_ln_2():
    objective = pair_judgment(lambda first, second: 0 * (first * second).sum(-1))
    assert objective.stuck_at == {"pairs": pytest.approx(objective(embedded(), LABELS)["pairs"].item())}
    assert pair_judgment(loss="contrastive").stuck_at == {}, "its value then depends on the pairs"


@pytest.mark.parametrize("options", PAIR_OPTIONS, ids=str)
@pytest.mark.parametrize("labels", [[3, 3, 3], [0, 1, 2], [1]], ids=["same only", "different only", "one picture"])
def test_a_batch_without_a_kind_of_pair_asks_nothing_of_it(options, labels):
    labels, embeddings = torch.tensor(labels), embedded(len(labels))
    found = pair_judgment(**options)(embeddings, labels)["pairs"]
    found.backward()
    pairs = slow_pairs(labels, options["loss"], 1.0)
    if options["negatives"] != "all":
        pairs[False] = hardest_of_each_anchor(pairs, labels)
    assert found.item() == pytest.approx(half_each(pairs, options["loss"]))
    assert embeddings.grad.isfinite().all() and embeddings.grad.eq(0).all() == (found.item() == 0)


def slow_triplet_numbers(labels, mining, margin, squared):
    """The objective's value and what it watches, one triplet at a time."""
    apart = references.slow_distances(embedded(len(labels))) ** (2 if squared else 1)
    triplets = {
        "batch_all": references.slow_triplets(labels),
        "random": rows(random_triplets(labels)),
        "batch_hard": references.slow_batch_hard(labels, apart),
        "semi_hard": references.slow_semi_hard(labels, apart),
    }[mining]
    to_positive, to_negative = [apart[a, p] for a, p, _ in triplets], [apart[a, n] for a, _, n in triplets]
    gaps = [(near - far).item() for near, far in zip(to_positive, to_negative, strict=True)]
    losses = [math.log(1 + math.exp(gap)) if margin is None else max(0.0, gap + margin) for gap in gaps]
    active = sum(gap + (margin or 0) > 0 for gap in gaps)
    divisor = active if mining == "batch_all" and margin is not None else len(losses)
    means = [float(sum(values)) / len(triplets) for values in ([active], to_positive, to_negative)]
    return sum(losses) / divisor, [active, *means]


@pytest.mark.parametrize("options", TRIPLET_OPTIONS, ids=str)
def test_triplet_judgment_is_the_mean_over_its_triplets(options):
    objective = TripletJudgment(**options)
    torch.manual_seed(3)
    terms = objective(embedded(), LABELS)
    assert set(terms) == {"triplet"} and terms["triplet"] > 0
    torch.manual_seed(3)
    value, watched = slow_triplet_numbers(LABELS, **options)
    assert terms["triplet"].item() == pytest.approx(value)
    names = ["active_triplets", "active_share", "distance_to_positive", "distance_to_negative"]
    assert list(objective.watched) == names
    assert [number.item() for number in objective.watched.values()] == pytest.approx(watched)
    assert not any(number.requires_grad for number in objective.watched.values())


@pytest.mark.parametrize("options", TRIPLET_OPTIONS, ids=str)
@pytest.mark.parametrize("labels", [[5], [5, 5, 5], [1, 2, 3]], ids=["one picture", "one class", "no positive"])
def test_a_batch_without_a_valid_triplet_asks_nothing(options, labels):
    objective, embeddings = TripletJudgment(**options), embedded(len(labels))
    loss = objective(embeddings, torch.tensor(labels))["triplet"]
    loss.backward()
    assert loss.item() == 0 and embeddings.grad.eq(0).all()
    assert objective.watched == {}, "nothing to say"
    objective(embedded(), LABELS)
    before = dict(objective.watched)
    objective(embeddings, torch.tensor(labels))
    assert objective.watched == before, "of the latest batch that had a triplet"


@pytest.mark.parametrize("options", TRIPLET_OPTIONS, ids=str)
def test_equal_embeddings_are_stuck_at_the_margin(options):
    objective, embeddings = TripletJudgment(**options), torch.ones(8, 4, requires_grad=True)
    loss = objective(embeddings, LABELS)["triplet"]
    loss.backward()
    stuck = {} if options["mining"] == "batch_all" else {"triplet": pytest.approx(loss.item())}
    assert objective.stuck_at == stuck, "a mean over active triplets is near the margin while it learns, too"
    assert embeddings.grad.isfinite().all()
    assert objective.watched["active_share"] == (0 if options["margin"] is None else 1)


@pytest.mark.parametrize("mining", MINED)
def test_triplets_beyond_the_margin_cost_nothing(mining):
    labels = torch.tensor([0, 0, 1, 1])
    embeddings = doubles([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, 0.0]]).requires_grad_()
    objective = TripletJudgment(mining, margin=0.5)
    loss = objective(embeddings, labels)["triplet"]
    loss.backward()
    assert loss.item() == 0 and embeddings.grad.eq(0).all()
    assert objective.watched["active_share"] == 0 and objective.watched["distance_to_negative"] > 1.9
    assert TripletJudgment(mining, margin=2.5)(embeddings, labels)["triplet"] > 0.5, "none is so far"


@pytest.mark.parametrize("mining, miner, reducer", [
    ("batch_all", None, AvgNonZeroReducer()), ("batch_hard", BatchHardMiner(), MeanReducer()),
])  # fmt: skip
def test_triplet_judgment_agrees_with_pytorch_metric_learning(mining, miner, reducer):
    theirs = TripletMarginLoss(0.2, reducer=reducer)(embedded(), LABELS, miner and miner(embedded(), LABELS))
    ours = TripletJudgment(mining)(embedded(), LABELS)["triplet"]
    assert ours > 0
    torch.testing.assert_close(ours, theirs)


def test_given_triplets_are_taken_as_they_come():
    embeddings = doubles([[1, 0], [0, 1], [1, 0], [0, 1], [0, 1], [1, 0]])
    objective = TripletJudgment("given", margin=0.5)
    found = objective(embeddings, torch.zeros(6))
    assert found["triplet"].item() == pytest.approx(0.0)  # each anchor meets its positive, its negative is sqrt(2) away
    swapped = embeddings[[0, 1, 4, 5, 2, 3]]
    assert objective(swapped, torch.zeros(6))["triplet"].item() == pytest.approx(2**0.5 + 0.5)
    assert objective(swapped[[0, 2, 4]], torch.zeros(3))["triplet"].item() == pytest.approx(2**0.5 + 0.5), "just one"
    for count in (4, 5):
        with pytest.raises(ValueError, match=rf"{count} pictures.*triplet_batches"):
            objective(embeddings[:count], torch.zeros(count))


def test_center_loss_joins_only_where_it_is_asked_to():
    for objective in (Classification(torch.nn.Linear(2, 3), 3, 2), PairJudgment(lambda a, b: (a * b).sum(-1), 3, 2)):
        terms = objective(torch.randn(6, 2), torch.arange(6) // 2)
        center = [value.item() for name, value in terms.items() if "center" in name]
        assert not any(center), "its weight is 0"


@pytest.mark.parametrize("make, options, message", [
    (classification, dict(center_weight=-0.1), r"center_weight is -0\.1; use 0"),
    (pair_judgment, dict(center_weight=-1), "center_weight is -1; use 0"),
    (pair_judgment, dict(loss="hinge"), "'hinge'; choose pair_cross_entropy, contrastive"),
    (pair_judgment, dict(negatives="easy"), "'easy'; choose all, random, hard"),
    (pair_judgment, dict(margin=0), "margin is 0; .* 0 to 2"),
    (pair_judgment, dict(margin=2.1), "margin is 2.1; .* 0 to 2"),
    (TripletJudgment, dict(mining="hard"), "'hard'; choose random, batch_all, batch_hard, semi_hard, given"),
    (TripletJudgment, dict(margin=0), "margin is 0; give more than 0, or None"),
    (TripletJudgment, dict(margin=-0.2), "margin is -0.2; give more than 0, or None"),
], ids=str)  # fmt: skip
def test_objectives_refuse_what_they_do_not_know(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
    pair_judgment(margin=2)
