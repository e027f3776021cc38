"""The pair head: symmetric, a scaled cosine at first, broadcasting, and learning which dimensions count."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import SEED, TINY

from common.backbones import SiameseNet


def siamese(embedding_size=8, seed=0, shaken=True):
    """A small network; `shaken` moves its pair head away from where it starts, as training would."""
    torch.manual_seed(seed)
    net = SiameseNet(TINY, embedding_size, 3).eval()
    if shaken:
        for parameter in net.pair_head.parameters():
            torch.nn.init.normal_(parameter)
    return net


@pytest.fixture(scope="module")
def net():
    return siamese().requires_grad_(False)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed, count=4):
    return random(count, 3, 32, 32, seed=seed).sigmoid()


def slow_score(net, first, second):
    """The logit of one pair, dimension by dimension."""
    a, b = ((vector / vector.norm()).tolist() for vector in (first, second))
    weights, total = net.pair_head.weight[0].tolist(), net.pair_head.bias.item()
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        total += weights[k] * abs(x - y) + weights[len(a) + k] * x * y
    return total


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(1, 5))
def test_the_score_is_a_line_through_differences_and_products(net, seed, count):
    first, second = random(count, 8, seed=seed), random(count, 8, seed=seed + 1)
    scores = net.score_embeddings(first, second)
    expected = [slow_score(net, one, other) for one, other in zip(first, second, strict=True)]
    assert scores.shape == (count,)
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert torch.equal(scores, net.score_embeddings(second, first)), "symmetric to the last bit"
    torch.testing.assert_close(net.score_embeddings(7 * first, 0.1 * second), scores)


def test_the_score_of_pictures_is_that_of_their_embeddings(net):
    first, second = pixels(1), pixels(2)
    scores = net.score(first, second)
    assert scores.shape == (4,) and scores.std() > 0
    assert torch.equal(scores, net.score(second, first))
    torch.testing.assert_close(scores, net.score_embeddings(net(first), net(second)))


def test_it_starts_as_a_scaled_cosine():
    net, first, second = siamese(shaken=False), random(6, 8), random(6, 8, seed=1)
    expected = SiameseNet.START * F.cosine_similarity(first, second)
    torch.testing.assert_close(net.score_embeddings(first, second), expected)
    torch.testing.assert_close(net.score_embeddings(first, first), torch.full((6,), SiameseNet.START))
    torch.testing.assert_close(net.score_embeddings(first, -first), torch.full((6,), -SiameseNet.START))
    assert net.score_embeddings(first, first).gt(0).all(), "above 0 means same"


def test_leading_dimensions_broadcast(net):
    queries, gallery = random(3, 8), random(2, 5, 8, seed=1)
    every = net.score_embeddings(queries[:, None, None], gallery)
    assert every.shape == (3, 2, 5) and net.score_embeddings(queries[0], queries[1]).shape == ()
    for i, j, k in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(5)):
        torch.testing.assert_close(every[i, j, k], net.score_embeddings(queries[i], gallery[j, k]))


def test_every_weight_of_the_head_and_both_pictures_learn():
    net, images, others = siamese(shaken=False), pixels(1).requires_grad_(), pixels(2).requires_grad_()
    F.softplus(-net.score(images, others)).sum().backward()
    differences, products = net.pair_head.weight.grad[0].split(8)
    assert differences.ne(0).all() and products.ne(0).all() and net.pair_head.bias.grad.ne(0)
    assert all(given.grad.abs().sum() > 0 for given in (images, others, net.head[0].weight))
    assert all(parameter.grad.isfinite().all() for parameter in net.backbone.parameters())


def test_gradients_of_the_score():
    net = siamese().double()
    first, second = (random(2, 8, seed=seed).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(net.score_embeddings, (first, second))
    (gradient,) = torch.autograd.grad(net.score_embeddings(first, first).sum(), first)
    assert gradient.isfinite().all(), "identical embeddings"


def test_the_head_learns_which_dimensions_count():
    """Pairs are the same where the first dimension agrees in sign; the other seven are noise."""
    net = siamese(seed=SEED, shaken=False)
    first, second = random(400, 8, seed=SEED), random(400, 8, seed=SEED + 1)
    same = (first[:, 0] * second[:, 0] > 0).float()

    def accuracy():
        return ((net.score_embeddings(first, second) > 0) == same.bool()).float().mean()

    before, optimizer = accuracy(), torch.optim.Adam(net.pair_head.parameters(), 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net.score_embeddings(first, second), same).backward()
        optimizer.step()
    assert before < 0.75 and accuracy() > 0.9


@pytest.mark.parametrize("size", [0, 8])
def test_it_is_rebuilt_from_its_arguments(size):
    net = siamese(size)
    again = SiameseNet(**net.arguments).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.score(pixels(1), pixels(2)), net.score(pixels(1), pixels(2)))
    assert net.pair_head.in_features == 2 * net(pixels(1)).shape[1]
    assert net.classify(net(pixels(1))).shape == (4, 3), "it classifies too"
