"""Losses against loops that follow the papers, their gradients, and what the centers do."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.losses import CenterLoss
from common.objectives import Classification


class Toy(nn.Module):
    """A model with an embedding and a classifier, in double precision."""

    def __init__(self, classes=3, size=4):
        super().__init__()
        self.embed, self.classifier = nn.Linear(5, size), nn.Linear(size, classes)
        self.double()

    def forward(self, images):
        return self.embed(images)

    def classify(self, embeddings):
        return self.classifier(embeddings)


def batch(count=7, size=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(classes, (count,), generator=generator)


def center_loss(classes=3, size=4, seed=0):
    torch.manual_seed(seed)
    return CenterLoss(classes, size).double()


def slow_value(embeddings, labels, centers):
    """Equation 2 of Wen et al. 2016, as a mean over the batch."""
    total = 0.0
    for embedding, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        total += sum((one - other) ** 2 for one, other in zip(embedding, centers[label].tolist(), strict=True)) / 2
    return total / len(labels)


def slow_center_update(embeddings, labels, centers):
    """Equation 4 of Wen et al. 2016: sum over members of (center - embedding) / (1 + number of members)."""
    updates = []
    for label, center in enumerate(centers.tolist()):
        members = [x for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True) if y == label]
        updates.append([
            sum(center[axis] - member[axis] for member in members) / (1 + len(members)) for axis in range(len(center))
        ])  # fmt: skip
    return torch.tensor(updates, dtype=torch.float64)


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


def classification(weight, seed=0):
    torch.manual_seed(seed)
    return Classification(3, 4, weight).double()


@pytest.mark.parametrize("weight", [0.0, 0.01, 1.0])
def test_classification_adds_cross_entropy_and_weighted_center_loss(weight):
    torch.manual_seed(1)
    model, objective = Toy(), classification(weight)
    images, (_, labels) = torch.rand(7, 5, dtype=torch.float64), batch()
    terms = objective(model, images, labels)
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
    model, objective = Toy(), classification(weight)
    images, (_, labels) = torch.rand(7, 5, dtype=torch.float64), batch()
    sum(objective(model, images, labels).values()).backward()
    expected = slow_center_update(model(images), labels, objective.center_loss.centers)
    torch.testing.assert_close(objective.center_loss.centers.grad, expected)


def test_the_weight_scales_what_the_model_learns():
    torch.manual_seed(1)
    model, images, (_, labels) = Toy(), torch.rand(7, 5, dtype=torch.float64), batch()
    gradients = []
    for weight in (0.0, 1.0, 3.0):
        model.zero_grad()
        sum(classification(weight)(model, images, labels).values()).backward()
        gradients.append(model.embed.weight.grad.clone())
    plain, once, thrice = gradients
    assert (once - plain).abs().sum() > 0.01
    torch.testing.assert_close(thrice - plain, 3 * (once - plain))


def test_gradients_of_the_joined_loss():
    torch.manual_seed(1)
    model, objective, (_, labels) = Toy(), classification(0.5), batch()
    images = torch.rand(7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda inputs: sum(objective(model, inputs, labels).values()), images)


def test_plain_cross_entropy_learns_the_same_without_centers():
    torch.manual_seed(1)
    model, images, (_, labels) = Toy(), torch.rand(7, 5, dtype=torch.float64), batch()
    F.cross_entropy(model.classify(model(images)), labels).backward()
    expected = model.embed.weight.grad.clone()
    model.zero_grad()
    sum(classification(0.0)(model, images, labels).values()).backward()
    torch.testing.assert_close(model.embed.weight.grad, expected)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"center_weight is -0\.1; use 0"):
        Classification(3, 4, -0.1)
