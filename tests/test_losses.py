"""Losses against loops that follow the papers and an established library, their gradients, and their edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer
from references import slow_center_update, slow_distances, slow_value

from common.losses import CenterLoss, contrastive_loss, pairwise_distances, triplet_loss
from common.mining import all_pairs, all_triplets


def batch(count=7, size=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(classes, (count,), generator=generator)


def center_loss(classes=3, size=4, seed=0):
    torch.manual_seed(seed)
    return CenterLoss(classes, size).double()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))
def test_center_loss_is_equations_2_and_4(count, size, classes, seed):
    embeddings, labels = batch(count, size, classes, seed)
    loss = center_loss(classes, size, seed)
    value = loss(embeddings, labels)
    assert value > 0
    assert value.item() == pytest.approx(slow_value(embeddings, labels, loss.centers), rel=1e-9)
    loss.center_step(embeddings, labels).backward()
    expected = slow_center_update(embeddings, labels, loss.centers)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(loss.centers.grad, expected)


def test_center_loss_worked_by_hand():
    loss = center_loss(2, 2)
    loss.centers.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    embeddings = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    assert loss(embeddings, labels).item() == pytest.approx((25 + 1 + 1) / 2 / 3)
    loss.center_step(embeddings, labels).backward()
    torch.testing.assert_close(loss.centers.grad, torch.tensor([[-1.5, -2.0], [0, 0]], dtype=torch.float64))


def test_gradient_of_the_embeddings():
    embeddings, labels = batch()
    embeddings.requires_grad_()
    loss = center_loss()
    assert torch.autograd.gradcheck(lambda inputs: loss(inputs, labels), embeddings)
    (gradient,) = torch.autograd.grad(loss(embeddings, labels), embeddings)
    torch.testing.assert_close(gradient, (embeddings - loss.centers[labels]).detach() / len(labels))
    assert gradient.abs().sum() > 0


def test_each_term_moves_what_it_should():
    embeddings, labels = batch()
    embeddings.requires_grad_()
    loss = center_loss()
    loss(embeddings, labels).backward()
    assert loss.centers.grad is None, "the loss moves embeddings only"
    embeddings.grad = None
    step = loss.center_step(embeddings, labels)
    step.backward()
    assert step.item() == 0, "moving the centers adds nothing to the loss"
    assert embeddings.grad is None and loss.centers.grad.abs().sum() > 0


def test_a_center_without_members_stays():
    embeddings, _ = batch(5)
    loss = center_loss()
    loss.center_step(embeddings, torch.tensor([0, 0, 2, 2, 2])).backward()
    moved = loss.centers.grad.abs().sum(1)
    assert moved[1] == 0 and moved[0] > 0 and moved[2] > 0


def test_centers_move_to_their_species():
    torch.manual_seed(0)
    clouds = torch.cat([torch.randn(50, 2) + 5, torch.randn(50, 2) - 5])
    labels = torch.arange(2).repeat_interleave(50)
    loss = CenterLoss(2, 2)
    before, optimizer = loss.centers.detach().clone(), torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        loss.center_step(clouds, labels).backward()
        optimizer.step()
    assert (loss.centers - before).norm(dim=1).min() > 1
    torch.testing.assert_close(loss.centers.detach(), torch.stack([clouds[:50].mean(0), clouds[50:].mean(0)]))


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), min_size=1, max_size=9), st.floats(0.1, 2))
def test_contrastive_loss_is_equation_4(pairs, margin):
    distances, same = doubles([distance for distance, _ in pairs]), torch.tensor([alike for _, alike in pairs])
    expected = [d**2 / 2 if alike else max(0.0, margin - d) ** 2 / 2 for d, alike in pairs]
    torch.testing.assert_close(contrastive_loss(distances, same, margin), doubles(expected))


def test_contrastive_loss_worked_by_hand():
    """Same = 1: a same pair costs the more the farther it is apart, a different pair the nearer it is."""
    distances, same = doubles([0.0, 0.6, 2.0, 0.0, 0.6, 1.0, 2.0]), torch.tensor([True] * 3 + [False] * 4)
    found = contrastive_loss(distances, same)
    torch.testing.assert_close(found, doubles([0, 0.18, 2, 0.5, 0.08, 0, 0]))
    assert found.sum() > 0


def test_gradients_of_contrastive_loss():
    distances = doubles([0.3, 0.9, 0.2, 0.5, 1.7]).requires_grad_()
    same = torch.tensor([True, True, False, False, False])
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
    assert sum(soft) > 0


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
    embeddings = batch(count, size, 1, seed)[0] * scale
    found = pairwise_distances(embeddings)
    torch.testing.assert_close(found, slow_distances(embeddings))
    torch.testing.assert_close(found, pairwise_distances(embeddings * torch.arange(1, count + 1)[:, None]))
    assert torch.equal(found, found.T) and found.diagonal().eq(0).all()
    assert found.min() >= 0 and found.max() <= 2 + 1e-12
    squared = pairwise_distances(embeddings, squared=True)
    torch.testing.assert_close(squared, found**2)
    units = embeddings / embeddings.norm(dim=1, keepdim=True)
    torch.testing.assert_close(squared, 2 - 2 * units @ units.T)


def test_distances_worked_by_hand():
    corners = doubles([[3, 0], [0, 0.5], [-1, 0]])
    root = math.sqrt(2)
    torch.testing.assert_close(pairwise_distances(corners), doubles([[0, root, 2], [root, 0, root], [2, root, 0]]))
    torch.testing.assert_close(pairwise_distances(corners, True), doubles([[0, 2, 4], [2, 0, 2], [4, 2, 0]]))


@pytest.mark.parametrize("squared", [False, True])
def test_gradients_of_distances(squared):
    embeddings = batch(5)[0].requires_grad_()
    first, second, _ = all_pairs(torch.zeros(5))
    assert torch.autograd.gradcheck(lambda inputs: pairwise_distances(inputs, squared)[first, second], embeddings)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_identical_embeddings_are_0_apart_and_have_a_gradient_of_0(seed, squared):
    embeddings = batch(4, 16, seed=seed)[0].float()
    embeddings[1] = embeddings[0]
    embeddings.requires_grad_()
    found = pairwise_distances(embeddings, squared)
    assert found[0, 1] == 0 and found.diagonal().eq(0).all(), "exactly, in single precision too"
    (gradient,) = torch.autograd.grad(found[0, 1] + found.diagonal().sum(), embeddings, retain_graph=True)
    assert gradient.eq(0).all()
    (gradient,) = torch.autograd.grad(found.sum(), embeddings)
    assert gradient.isfinite().all() and gradient[0].abs().sum() > 0, "others still move them"


def test_distances_keep_single_precision_where_the_model_runs_in_half():
    embeddings = batch(6)[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = pairwise_distances(embeddings)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), slow_distances(embeddings))


def test_contrastive_loss_agrees_with_pytorch_metric_learning():
    """Theirs is neither squared nor halved, and is averaged over what is above 0, same and different apart."""
    embeddings, labels = batch(12, classes=4)
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
    embeddings, labels = batch(12, classes=4)
    anchor, positive, negative = all_triplets(labels)
    distances = pairwise_distances(embeddings, squared)
    ours = triplet_loss(distances[anchor, positive], distances[anchor, negative], margin).mean()
    distance = LpDistance(p=2, power=2 if squared else 1)
    theirs = TripletMarginLoss(margin or 0, smooth_loss=margin is None, distance=distance, reducer=MeanReducer())
    assert ours > 0
    torch.testing.assert_close(ours, theirs(embeddings, labels))
