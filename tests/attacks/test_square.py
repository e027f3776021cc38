"""Square Attack: squares painted, by scores alone."""

from references import direction, optimum
from toys import Bilinear, Network, pairs_of_pictures

from common.attacks.gradient import pgd
from common.attacks.square import square

EPS = 8 / 255


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


def test_square_paints_squares_and_only_gets_worse():
    model, (first, second, same) = Network(), pairs_of_pictures(count=4, size=12, margin=0.2)
    start = square(model, first, second, same, EPS, queries=0)
    stripes = ((start.first - first) / EPS).round()
    assert stripes.abs().min() == 1 and (stripes == stripes[:, :, :1]).all(), "vertical stripes of +-eps"
    found = square(model, first, second, same, EPS, queries=60)
    gain = direction(same) * (found.scores - start.scores)
    assert (gain >= 0).all() and (gain > 0).any()
    assert ((found.first - first).abs() > EPS * 0.99).all(), "every pixel at an end of its interval"
