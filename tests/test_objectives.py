"""What a training asks for: every term against loops, batches that ask nothing, and what is watched."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from references import (
    rows,
    slow_batch_hard,
    slow_center_update,
    slow_distances,
    slow_semi_hard,
    slow_triplets,
    slow_value,
)
from torch import nn

from common.losses import Classification, PairJudgment, TripletJudgment
from common.mining import balanced_pairs, random_triplets

CLASSES = torch.tensor([2, 0, 1, 1, 0, 2, 2])
LABELS = torch.tensor([0, 2, 0, 1, 0, 2, 1, 3])  # class 3 has one picture

MINED = [mining for mining in TripletJudgment.MINING if mining != "given"]  # from a batch of any labels


class Toy(nn.Module):
    """A model with an embedding, a classifier and a score; in double precision."""

    def __init__(self, classes=3, size=4):
        super().__init__()
        self.embed, self.classifier = nn.Linear(5, size), nn.Linear(size, classes)
        self.double()

    def forward(self, images):
        return self.embed(images)

    def classify(self, embeddings):
        return self.classifier(embeddings)

    def score_embeddings(self, first, second):
        return 3 * F.cosine_similarity(first, second, dim=-1) - 0.5


def classification(model, weight):
    torch.manual_seed(0)
    return Classification(model.classify, 3, 4, weight).double()


@pytest.mark.parametrize("weight", [0.0, 0.01, 1.0])
def test_classification_adds_cross_entropy_and_weighted_center_loss(weight):
    torch.manual_seed(1)
    model = Toy()
    objective = classification(model, weight)
    images, labels = torch.rand(7, 5, dtype=torch.float64), CLASSES
    terms = objective(model(images), labels)
    assert set(terms) == {"cross_entropy", "center"}
    logits, total = model.classify(model(images)), 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total += math.log(sum(math.exp(value) for value in row)) - row[label]
    assert terms["cross_entropy"].item() == pytest.approx(total / 7) and total > 0
    expected = slow_value(model(images), labels, objective.center_loss.centers)
    assert terms["center"].item() == pytest.approx(weight * expected, abs=1e-12)
    assert objective.stuck_at == {"cross_entropy": pytest.approx(math.log(3))}


@pytest.mark.parametrize("weight", [0.0, 1e-4, 0.01, 10.0])
def test_centers_move_at_the_same_pace_whatever_the_weight(weight):
    torch.manual_seed(1)
    model = Toy()
    objective = classification(model, weight)
    images, labels = torch.rand(7, 5, dtype=torch.float64), CLASSES
    sum(objective(model(images), labels).values()).backward()
    expected = slow_center_update(model(images), labels, objective.center_loss.centers)
    torch.testing.assert_close(objective.center_loss.centers.grad, expected)


def test_the_weight_scales_what_the_model_learns():
    torch.manual_seed(1)
    model, images, labels = Toy(), torch.rand(7, 5, dtype=torch.float64), CLASSES
    gradients = []
    for weight in (0.0, 1.0, 3.0):
        model.zero_grad()
        sum(classification(model, weight)(model(images), labels).values()).backward()
        gradients.append(model.embed.weight.grad.clone())
    plain, once, thrice = gradients
    assert (once - plain).abs().sum() > 0.01
    torch.testing.assert_close(thrice - plain, 3 * (once - plain))


def test_gradients_of_the_joined_loss():
    torch.manual_seed(1)
    model, labels = Toy(), CLASSES
    objective = classification(model, 0.5)
    images = torch.rand(7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda inputs: sum(objective(model(inputs), labels).values()), images)


def test_plain_cross_entropy_learns_the_same_without_centers():
    torch.manual_seed(1)
    model, images, labels = Toy(), torch.rand(7, 5, dtype=torch.float64), CLASSES
    F.cross_entropy(model.classify(model(images)), labels).backward()
    expected = model.embed.weight.grad.clone()
    model.zero_grad()
    sum(classification(model, 0.0)(model(images), labels).values()).backward()
    torch.testing.assert_close(model.embed.weight.grad, expected)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"center_weight is -0\.1; use 0"):
        Classification(None, 3, 4, -0.1)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Toy()


def inputs(count=8):
    return torch.rand(count, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5


def pair_judgment(model, **options):
    torch.manual_seed(0)
    return PairJudgment(model.score_embeddings, 4, 4, **options).double()


def slow_pairs(model, labels, loss, margin):
    """Score and loss of every same pair (True) and every different one (False), each with its pictures i < j."""
    embeddings, sums = model(inputs(len(labels))), {True: [], False: []}
    for i, j in combinations(range(len(labels)), 2):
        alike = labels[i].item() == labels[j].item()
        score = model.score_embeddings(embeddings[i], embeddings[j]).item()
        distance = math.dist(*(F.normalize(embeddings[k], dim=0).tolist() for k in (i, j)))
        if loss == "cross_entropy":
            value = -math.log(1 / (1 + math.exp(-score if alike else score)))
        else:
            value = distance**2 / 2 if alike else max(0.0, margin - distance) ** 2 / 2
        sums[alike].append((score, value, i, j))
    return sums


def half_each(sums):
    """The mean loss of same pairs and that of different pairs, half each."""
    return sum(sum(value for _, value, *_ in kind) / len(kind) for kind in sums.values()) / 2


def hardest_of_each_anchor(sums, labels):
    """Every anchor's highest-scoring different pairs, as many as it has same ones."""
    chosen = []
    for anchor in range(len(labels)):
        mine = sorted((pair for pair in sums[False] if anchor in pair[2:]), reverse=True)
        chosen += mine[: sum(anchor in pair[2:] for pair in sums[True])]
    return chosen


@pytest.mark.parametrize("loss, margin", [("cross_entropy", 1.0), ("contrastive", 1.0), ("contrastive", 0.4)])
def test_pair_judgment_counts_same_and_different_pairs_half_each(model, loss, margin):
    terms = pair_judgment(model, loss=loss, margin=margin)(model(inputs()), LABELS)
    sums = slow_pairs(model, LABELS, loss, margin)
    assert (len(sums[True]), len(sums[False])) == (5, 23)
    assert set(terms) == {"pairs", "center"} and terms["pairs"] > 0
    assert terms["pairs"].item() == pytest.approx(half_each(sums))


@pytest.mark.parametrize("loss", ["cross_entropy", "contrastive"])
def test_hard_negatives_are_those_that_score_highest_with_their_anchor(model, loss):
    sums = slow_pairs(model, LABELS, loss, 1.0)
    found = pair_judgment(model, loss=loss, negatives="hard")(model(inputs()), LABELS)["pairs"].item()
    assert found == pytest.approx(half_each({True: sums[True], False: hardest_of_each_anchor(sums, LABELS)}))
    assert found > 1.02 * half_each(sums)


def test_random_negatives_are_as_many_as_there_are_same_pairs(model):
    objective, embeddings = pair_judgment(model, negatives="random"), model(inputs())
    torch.manual_seed(7)
    first, second, same = balanced_pairs(LABELS)
    torch.manual_seed(7)
    found = objective(embeddings, LABELS)["pairs"].item()
    assert same.sum() == (~same).sum() == 10
    by_pair = {pair[2:]: pair for kind in slow_pairs(model, LABELS, "cross_entropy", 1.0).values() for pair in kind}
    sums = {kind: [by_pair[tuple(sorted(pair))] for pair in torch.stack([first, second], 1)[same == kind].tolist()]
            for kind in (True, False)}  # fmt: skip
    assert found == pytest.approx(half_each(sums))
    assert found != pytest.approx(objective(embeddings, LABELS)["pairs"].item()), "others the next time"


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_pair_judgment_joins_center_loss_whose_centers_move_at_the_same_pace(model, weight):
    objective = pair_judgment(model, center_weight=weight)
    terms = objective(model(inputs()), LABELS)
    centers = objective.center_loss.centers
    assert terms["center"].item() == pytest.approx(weight * slow_value(model(inputs()), LABELS, centers), abs=1e-12)
    sum(terms.values()).backward()
    torch.testing.assert_close(centers.grad, slow_center_update(model(inputs()), LABELS, centers))
    assert centers.grad.abs().sum() > 0
    moved = model.embed.weight.grad.clone()
    model.zero_grad()
    terms = pair_judgment(model)(model(inputs()), LABELS)
    pull = (model(inputs()) - centers.detach()[LABELS]).square().sum() / 2 / len(LABELS)
    (terms["pairs"] + weight * pull).backward()
    torch.testing.assert_close(moved, model.embed.weight.grad)


@pytest.mark.parametrize("options", [{"negatives": "hard"}, {"loss": "contrastive"}, {"center_weight": 0.3}], ids=str)
def test_gradients_of_pair_judgment(model, options):
    objective, images = pair_judgment(model, **options), inputs().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: sum(objective(model(given), LABELS).values()), images)
    (gradient,) = torch.autograd.grad(objective(model(images), LABELS)["pairs"], images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_extreme_logits_give_a_finite_loss(model, logit):
    model.score_embeddings = lambda first, second: logit * (1 + 0 * (first * second).sum(-1))
    images = inputs().requires_grad_()
    loss = pair_judgment(model)(model(images), LABELS)["pairs"]
    loss.backward()
    assert loss.item() == pytest.approx(5000), "one kind is all wrong, the other all right"
    assert images.grad.isfinite().all()


def test_same_pairs_shall_score_high_and_different_ones_low(model):
    objective, kinds = pair_judgment(model), []
    for labels in (torch.tensor([0, 0]), torch.tensor([0, 1])):
        embeddings = model(inputs(2)).detach().requires_grad_()
        objective(embeddings, labels)["pairs"].backward()
        with torch.no_grad():
            before, after = (model.score_embeddings(*z) for z in (embeddings, embeddings - 0.1 * embeddings.grad))
        kinds.append((after - before).item())
    assert kinds[0] > 0.001 and kinds[1] < -0.001


def test_pairs_at_logit_0_are_stuck_at_ln_2(model):
    model.score_embeddings = lambda first, second: 0 * (first * second).sum(-1)
    objective = pair_judgment(model)
    assert objective.stuck_at == {"pairs": pytest.approx(objective(model(inputs()), LABELS)["pairs"].item())}
    assert objective.stuck_at == {"pairs": pytest.approx(math.log(2))}
    assert pair_judgment(model, loss="contrastive").stuck_at == {}, "its value then depends on the pairs"


LOSSES, NEGATIVES = ("cross_entropy", "contrastive"), ("all", "random", "hard")
PAIR_OPTIONS = [dict(loss=loss, negatives=negatives) for loss in LOSSES for negatives in NEGATIVES]
TRIPLET_OPTIONS = [
    dict(mining=mining, margin=margin, squared=squared)
    for mining in MINED
    for margin, squared in ((0.2, False), (None, False), (0.5, True))
]


@pytest.mark.parametrize("options", PAIR_OPTIONS, ids=str)
@pytest.mark.parametrize("labels", [[3, 3, 3], [0, 1, 2], [1]], ids=["same only", "different only", "one picture"])
def test_a_batch_without_a_kind_of_pair_asks_nothing_of_it(model, options, labels):
    labels, images = torch.tensor(labels), inputs(len(labels)).requires_grad_()
    found = pair_judgment(model, **options)(model(images), labels)["pairs"]
    found.backward()
    sums = slow_pairs(model, labels, options["loss"], 1.0)
    if options["negatives"] != "all":
        sums[False] = hardest_of_each_anchor(sums, labels)
    assert found.item() == pytest.approx(half_each({kind: pairs or [(0, 0)] for kind, pairs in sums.items()}))
    assert images.grad.isfinite().all()
    nothing = not any(sums.values())
    assert nothing == (len(labels) == 1 or (labels[0] == 0 and options["negatives"] != "all"))
    assert images.grad.eq(0).all() == nothing and (found.item() > 0) != nothing


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(loss="hinge"), "loss is 'hinge'; choose cross_entropy, contrastive"),
        (dict(negatives="easy"), "negatives is 'easy'; choose all, random, hard"),
        (dict(center_weight=-1), "center_weight is -1; use 0"),
        (dict(margin=0), "margin is 0; unit-length embeddings are 0 to 2 apart"),
        (dict(margin=2.1), "margin is 2.1; unit-length"),
    ],
    ids=str,
)
def test_pair_judgment_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        PairJudgment(None, 4, 4, **options)
    PairJudgment(None, 4, 4, margin=2)


def slow_triplet_numbers(model, labels, mining, margin, squared):
    """The objective's value and what it watches, one triplet at a time."""
    apart = slow_distances(model(inputs(len(labels)))) ** (2 if squared else 1)
    triplets = {
        "batch_all": slow_triplets(labels),
        "random": rows(random_triplets(labels)),
        "batch_hard": slow_batch_hard(labels, apart),
        "semi_hard": slow_semi_hard(labels, apart),
    }[mining]
    to_positive, to_negative = [apart[a, p] for a, p, _ in triplets], [apart[a, n] for a, _, n in triplets]
    gaps = [(near - far).item() for near, far in zip(to_positive, to_negative, strict=True)]
    losses = [math.log(1 + math.exp(gap)) if margin is None else max(0.0, gap + margin) for gap in gaps]
    active = sum(gap + (margin or 0) > 0 for gap in gaps)
    divisor = active if mining == "batch_all" and margin is not None else len(losses)
    watched = [float(sum(values)) / len(triplets) for values in ([active], to_positive, to_negative)]
    return sum(losses) / divisor, watched


@pytest.mark.parametrize("options", TRIPLET_OPTIONS, ids=str)
def test_triplet_judgment_is_the_mean_over_its_triplets(model, options):
    objective = TripletJudgment(**options)
    torch.manual_seed(3)
    terms = objective(model(inputs()), LABELS)
    assert set(terms) == {"triplet"} and terms["triplet"] > 0
    torch.manual_seed(3)
    value, watched = slow_triplet_numbers(model, LABELS, **options)
    assert terms["triplet"].item() == pytest.approx(value)
    assert list(objective.watched) == ["active_share", "distance_to_positive", "distance_to_negative"]
    assert [number.item() for number in objective.watched.values()] == pytest.approx(watched)
    assert 0 < watched[0] < (1 if options["mining"] == "batch_all" else 1.01)
    assert not any(number.requires_grad for number in objective.watched.values())


@pytest.mark.parametrize("options", [options for options in TRIPLET_OPTIONS if options["mining"] != "random"], ids=str)
def test_gradients_of_triplet_judgment(model, options):
    objective, images = TripletJudgment(**options), inputs().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: objective(model(given), LABELS)["triplet"], images)
    (gradient,) = torch.autograd.grad(objective(model(images), LABELS)["triplet"], images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("options", TRIPLET_OPTIONS, ids=str)
@pytest.mark.parametrize("labels", [[5], [5, 5, 5], [1, 2, 3]], ids=["one picture", "one class", "no positive"])
def test_a_batch_without_a_valid_triplet_asks_nothing(model, options, labels):
    objective, images = TripletJudgment(**options), inputs(len(labels)).requires_grad_()
    loss = objective(model(images), torch.tensor(labels))["triplet"]
    loss.backward()
    assert loss.item() == 0 and images.grad.eq(0).all()
    assert objective.watched == {}, "nothing to say"
    objective(model(inputs()), LABELS)
    before = dict(objective.watched)
    objective(model(images), torch.tensor(labels))
    assert objective.watched == before, "of the latest batch that had a triplet"


@pytest.mark.parametrize("options", TRIPLET_OPTIONS, ids=str)
def test_equal_embeddings_are_stuck_at_the_margin(model, options):
    objective, images = TripletJudgment(**options), inputs().requires_grad_()
    nn.init.zeros_(model.embed.weight)
    loss = objective(model(images), LABELS)["triplet"]
    loss.backward()
    watched = {} if options["mining"] == "batch_all" else {"triplet": pytest.approx(loss.item())}
    assert objective.stuck_at == watched, "a mean over active triplets is near the margin while it learns, too"
    assert images.grad.isfinite().all() and model.embed.weight.grad.isfinite().all()
    assert objective.watched["active_share"] == (0 if options["margin"] is None else 1)


@pytest.mark.parametrize("mining", MINED)
def test_triplets_beyond_the_margin_cost_nothing(model, mining):
    labels = torch.tensor([0, 0, 1, 1])
    images = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, 0.0]]).double().requires_grad_()
    objective = TripletJudgment(mining, margin=0.5)
    loss = objective(images, labels)["triplet"]
    loss.backward()
    assert loss.item() == 0 and images.grad.eq(0).all()
    assert objective.watched["active_share"] == 0 and objective.watched["distance_to_negative"] > 1.9
    assert TripletJudgment(mining, margin=2.5)(images, labels)["triplet"] > 0.5, "none is so far"


@pytest.mark.parametrize("mining, miner, reducer", [
    ("batch_all", None, AvgNonZeroReducer()), ("batch_hard", BatchHardMiner(), MeanReducer()),
])  # fmt: skip
def test_triplet_judgment_agrees_with_pytorch_metric_learning(model, mining, miner, reducer):
    embeddings = model(inputs())
    theirs = TripletMarginLoss(0.2, reducer=reducer)(embeddings, LABELS, miner and miner(embeddings, LABELS))
    ours = TripletJudgment(mining)(model(inputs()), LABELS)["triplet"]
    assert ours > 0
    torch.testing.assert_close(ours, theirs)


def test_triplet_judgment_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="mining is 'hard'; choose random, batch_all, batch_hard, semi_hard"):
        TripletJudgment("hard")
    for margin in (0, -0.2):
        with pytest.raises(ValueError, match=f"margin is {margin}; give more than 0, or None for the soft margin"):
            TripletJudgment(margin=margin)


def test_given_triplets_are_taken_as_they_come(model):
    embeddings = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.float64)
    objective = TripletJudgment("given", margin=0.5)
    found = objective(embeddings, torch.zeros(6))
    assert found["triplet"].item() == pytest.approx(0.0)  # each anchor meets its positive, its negative is sqrt(2) away
    swapped = embeddings[[0, 1, 4, 5, 2, 3]]
    assert objective(swapped, torch.zeros(6))["triplet"].item() == pytest.approx(2**0.5 + 0.5)
    with pytest.raises(ValueError, match="5 pictures are no triplets"):
        objective(embeddings[:5], torch.zeros(5))
