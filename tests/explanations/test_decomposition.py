"""The exact decomposition: complete below 1e-5, right term by term, and refused where it would not be exact."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toys import cosine_model, pair_model, pixels

from common.explanations.decomposition import Decomposition, decompose

FIRST, SECOND = pixels(3, seed=1), pixels(3, seed=2)


def model_with_offset(backbone="test_resnet", size=64):
    """A model whose BatchNorm shifts and scales, so that its offset is no trifle."""
    model = cosine_model(backbone, size)
    torch.manual_seed(7)
    nn.init.normal_(model.head[1].bias)
    nn.init.uniform_(model.head[1].weight, 0.5, 2)
    return model


MODEL = model_with_offset()


def slow_terms(model, first, second):
    """The sum over pairs of locations in loops, from the definition."""
    net = getattr(model, "net", model)
    head = copy.deepcopy(net.head).double().eval()
    with torch.no_grad():
        offset = head(torch.zeros(1, net.features).double())[0]
        sides = []
        for image in (first, second):
            features = net.backbone.forward_features((image[None] - net.mean) / net.std)[0].double()
            places = [features[:, place // 2, place % 2] for place in range(4)]
            sides.append([(head(place[None] / len(places))[0] - offset) for place in places])
        lengths = [(sum(side) + offset).norm() for side in sides]
        matrix = [[one @ other / lengths[0] / lengths[1] for other in sides[1]] for one in sides[0]]
        given = [[one @ offset / lengths[0] / lengths[1] for one in side] for side in sides]
    return np.array(matrix), np.array(given[0]), np.array(given[1]), (offset @ offset / lengths[0] / lengths[1]).item()


@pytest.mark.parametrize("backbone, size, grid", [
    ("test_resnet", 64, (2, 2)), ("test_efficientnet", 96, (3, 3)), ("test_byobnet", 64, (2, 2)),
])  # fmt: skip
def test_terms_sum_to_the_score(backbone, size, grid):
    model, first, second = model_with_offset(backbone, size), pixels(3, size, 1), pixels(3, size, 2)
    found = decompose(model, first, second)
    with torch.no_grad():
        score = model.score(first, second).double().numpy()
    assert found.grid == grid and np.abs(found.offset).min() > 1e-3
    assert np.abs(found.scores() - score).max() < 1e-5
    assert np.abs(found.shared().sum((1, 2)) - score).max() < 1e-5
    for maps in found.maps():
        assert maps.shape == (3, *grid)
        assert np.abs(maps.sum((1, 2)) - score).max() < 1e-5


def test_each_term_is_that_of_the_definition():
    found = decompose(MODEL, FIRST, SECOND)
    for pair in range(3):
        terms = slow_terms(MODEL, FIRST[pair], SECOND[pair])
        ours = found.matrix[pair], found.first_offset[pair], found.second_offset[pair], found.offset[pair]
        for one, expected in zip(ours, terms, strict=True):
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(one, expected, atol=1e-5)


def test_swapping_the_pair_transposes_the_matrix():
    one, other = decompose(MODEL, FIRST, SECOND), decompose(MODEL, SECOND, FIRST)
    np.testing.assert_allclose(one.matrix, other.matrix.transpose(0, 2, 1), atol=1e-7)
    np.testing.assert_allclose(one.first_offset, other.second_offset, atol=1e-7)
    np.testing.assert_allclose(one.maps()[0], other.maps()[1], atol=1e-7)


def test_without_an_offset_the_matrix_is_all():
    model = cosine_model()
    model.head[1] = nn.Identity()
    found = decompose(model, FIRST, SECOND)
    assert not found.offset.any() and not found.first_offset.any()
    np.testing.assert_array_equal(found.matrix, found.shared())


def by_hand():
    """Two locations above one another in each picture, and a matrix that is easily added up."""
    matrix = np.array([[[0.3, 0.0], [-0.1, 0.2]]])
    return Decomposition(matrix, np.array([[0.04, 0.02]]), np.array([[0.06, 0.0]]), np.array([0.08]), (2, 1))


def test_worked_by_hand():
    found = by_hand()
    assert found.scores() == pytest.approx([0.6])
    # each cell gets half of its row's and of its column's offset, and a quarter of the last
    expected = [[0.3 + 0.02 + 0.03 + 0.02, 0.02 + 0.02], [-0.1 + 0.01 + 0.03 + 0.02, 0.2 + 0.01 + 0.02]]
    np.testing.assert_allclose(found.shared(), [expected])
    first, second = found.maps()
    np.testing.assert_allclose(first, [[[0.41], [0.19]]])
    np.testing.assert_allclose(second, [[[0.33], [0.27]]])


def test_correspondences_are_the_largest_terms():
    table = by_hand().correspondences(0, 3)
    assert list(table.columns) == ["first_row", "first_column", "second_row", "second_column", "contribution"]
    np.testing.assert_allclose(table.contribution, [0.37, 0.23, 0.04])
    assert table.first_row.tolist() == [0, 1, 0] and table.second_row.tolist() == [0, 1, 1]
    assert not table.first_column.any() and not table.second_column.any()
    wide = decompose(MODEL, FIRST, SECOND)
    top = wide.correspondences(1, 100)
    assert len(top) == 16 and top.contribution.is_monotonic_decreasing
    row = top.iloc[0]
    one, other = int(2 * row.first_row + row.first_column), int(2 * row.second_row + row.second_column)
    assert wide.shared()[1, one, other] == row.contribution == wide.shared()[1].max()


def test_the_model_is_left_as_it_was():
    model = copy.deepcopy(MODEL).train()
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = decompose(model, FIRST, SECOND)
    np.testing.assert_array_equal(found.matrix, decompose(MODEL, FIRST, SECOND).matrix)
    assert model.training and all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert model.head[0].weight.dtype == torch.float32


# --- refused ---


def relu_head():
    model = cosine_model()
    model.head.append(nn.ReLU())
    return model


def doubled():
    """A model that scales its embedding behind the head: the cosine is the same, the embedding is not."""
    model = copy.deepcopy(MODEL)
    model.forward = lambda images: model.head(model.pooled(images)) ** 3
    return model


@pytest.mark.parametrize("make, reason", [
    (lambda: cosine_model("test_vit", 32), r"EmbeddingNet \(test_vit\) does not pool by the mean over locations alone"),
    (lambda: cosine_model("test_vit2", 32), "does not pool by the mean"),  # a norm follows
    (lambda: cosine_model("test_convnext"), "does not pool by the mean"),
    (lambda: cosine_model("test_mambaout"), "does not pool by the mean"),
    (lambda: cosine_model("mobilenetv3_small_050"), "does not pool by the mean"),  # a hidden layer follows
    (relu_head, "has a nonlinear head: no exact decomposition"),
    (doubled, "changes the embedding behind the head"),
    (pair_model, r"PairHead \(test_resnet\) compares embeddings otherwise than by their cosine"),
])  # fmt: skip
def test_what_is_not_exact_is_refused_with_the_reason(make, reason):
    model = make()
    size = getattr(model, "net", model).arguments["image_size"] or 64
    with pytest.raises(ValueError, match=reason):
        decompose(model, pixels(2, size, 1), pixels(2, size, 2))


def test_a_pair_head_that_is_a_cosine_after_all_is_taken_apart():
    model = pair_model()
    model.score_embeddings = model.net.score_embeddings
    with torch.no_grad():
        score = model.score(FIRST, SECOND).numpy()
    np.testing.assert_allclose(decompose(model, FIRST, SECOND).scores(), score, atol=1e-5)


def test_backbones_without_locations_are_refused():
    class Flat(nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    model = copy.deepcopy(MODEL)
    model.backbone = Flat()
    with pytest.raises(ValueError, match="test_resnet does not hand out its features before it pools them"):
        decompose(model, FIRST, SECOND)
    model.backbone.forward_features = lambda images: images.mean((2, 3))
    with pytest.raises(ValueError, match="the features of test_resnet have no locations"):
        decompose(model, FIRST, SECOND)
