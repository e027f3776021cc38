"""Faithfulness on a model whose truth is known: the score is the brightness of chosen pixels."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toys import cosine_model, pair_model, pixels

from common.explanations.faithfulness import area, blurred, curve, faithfulness_report, max_sensitivity, road
from common.explanations.maps import PairScore

SIDE = 16


class Region(nn.Module):
    """Looks at the upper left quarter only: its embedding is that quarter's color, its score the brightness."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images[..., : SIDE // 2, : SIDE // 2].mean((2, 3)) * self.anything

    def score_embeddings(self, first, second):
        return (first * second).sum(-1)

    def score(self, first, second):
        return self.score_embeddings(self(first), self(second))


class Brightness(Region):
    """The same as a model of one picture."""

    def forward(self, images):
        return super().forward(images).sum(1, keepdim=True)


def bright_corner(count=4):
    """Dark noise with a bright upper left quarter."""
    images = 0.3 * torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images[..., : SIDE // 2, : SIDE // 2] += 0.6
    return images


IMAGES = bright_corner()
TRUTH = np.zeros((4, SIDE, SIDE), np.float32)
TRUTH[:, : SIDE // 2, : SIDE // 2] = 1
TRUTH += 1e-3 * np.random.default_rng(0).random(TRUTH.shape).astype(np.float32)  # no ties
NOISE = np.random.default_rng(1).random(TRUTH.shape).astype(np.float32)


def slow_curve(score, image, one, insert, steps):
    """One picture's curve, pixel by pixel."""
    soft, values = blurred(image[None])[0], []
    order = sorted((-one[row, column], row, column) for row in range(SIDE) for column in range(SIDE))
    for step in range(steps + 1):
        mixed = (soft if insert else image).clone()
        for _, row, column in order[: round(step / steps * len(order))]:
            mixed[:, row, column] = (image if insert else soft)[:, row, column]
        values.append(score(mixed[None]).item())
    return values


@pytest.mark.parametrize("insert", [True, False])
def test_curves_are_those_of_the_loops(insert):
    found = curve(Brightness(), IMAGES, NOISE, insert, steps=8)
    assert found.shape == (4, 9)
    for place in range(2):
        expected = slow_curve(Brightness(), IMAGES[place], NOISE[place], insert, 8)
        np.testing.assert_allclose(found[place], expected, atol=1e-5)


def test_ends_of_the_curves_are_the_picture_and_its_blur():
    with torch.no_grad():
        whole, empty = (Brightness()(images)[:, 0].numpy() for images in (IMAGES, blurred(IMAGES)))
    insertion, deletion = (curve(Brightness(), IMAGES, NOISE, insert) for insert in (True, False))
    np.testing.assert_allclose(insertion[:, [0, -1]], np.stack([empty, whole], 1), atol=1e-5)
    np.testing.assert_allclose(deletion[:, [0, -1]], np.stack([whole, empty], 1), atol=1e-5)


def test_area_worked_by_hand():
    up, down = np.array([[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]]), np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    assert area(up, True) == pytest.approx(((1 + 3) / 2 * 0.5 + (3 + 3) / 2 * 0.5 - 1) / 2)
    assert area(up, True, [1, 0]) == pytest.approx(0.5), "a straight line from 0 to 1"
    assert area(down, False, [1, 0]) == pytest.approx(0.5)
    assert area(down, False, [0, 1]) == pytest.approx(0.25), "all gone after the first half"
    assert area(-up, True, [0, 1]) == pytest.approx(area(up, True, [0, 1])), "a negative score has the same area"


def test_the_truth_is_inserted_and_deleted_faster_than_noise():
    model = Brightness()
    assert area(curve(model, IMAGES, TRUTH, True), True) > 0.8 > 0.2 > area(curve(model, IMAGES, TRUTH, False), False)
    for insert in (True, False):
        assert abs(area(curve(model, IMAGES, NOISE, insert), insert) - 0.5) < 0.1
    assert road(model, IMAGES, TRUTH).min() > 0.1
    assert abs(road(model, IMAGES, NOISE).mean()) < 0.1 * road(model, IMAGES, TRUTH).mean()
    np.testing.assert_allclose(road(model, IMAGES, -TRUTH), -road(model, IMAGES, TRUTH), rtol=0.25)


def test_road_depends_on_its_seed_alone():
    state = torch.get_rng_state()
    one = road(Brightness(), IMAGES[:2], NOISE[:2])
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    np.testing.assert_array_equal(one, road(Brightness(), IMAGES[:2], NOISE[:2]))
    assert (one != road(Brightness(), IMAGES[:2], NOISE[:2], seed=1)).all()


def test_report_of_a_pair():
    table = faithfulness_report(Region(), IMAGES[:3], IMAGES[1:4], {"truth": TRUTH[:3], "noise": NOISE[:3]}, 20)
    assert list(table.columns) == ["map", "metric", "value", "low", "high", "n"] and (table.n == 3).all()
    found = table.set_index(["metric", "map"]).value
    assert found["insertion", "truth"] > found["insertion", "noise"]
    assert found["deletion", "truth"] < found["deletion", "noise"]
    assert found["ROAD", "truth"] > found["ROAD", "noise"]
    assert (table.low <= table.value + 1e-9).all() and (table.value <= table.high + 1e-9).all()
    # the held picture counts, not only the explained one
    score = PairScore(Region(), Region()(IMAGES[1:4]).detach())
    assert found["insertion", "truth"] == pytest.approx(area(curve(score, IMAGES[:3], TRUTH[:3], True), True))


@pytest.mark.parametrize("make", [cosine_model, pair_model], ids=["cosine", "pair head"])
def test_reports_of_networks_leave_them_as_they_are(make):
    model = make().train()
    before = copy.deepcopy(model.state_dict())
    maps = {"noise": np.random.default_rng(0).random((2, 32, 32))}
    table = faithfulness_report(model, pixels(2, 32, 1), pixels(2, 32, 2), maps, 5)
    assert np.isfinite(table.value).all() and model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sensitivity_worked_by_hand():
    """A map that is the picture itself moves as far as the picture does, which is the radius at most."""
    gray = torch.full((2, 3, 8, 8), 0.5)
    found = max_sensitivity(lambda images: images.mean(1).numpy(), gray, radius=0.1, draws=5)
    assert found.shape == (2,) and (found > 0.05).all() and (found <= 0.2).all()
    small = max_sensitivity(lambda images: images.mean(1).numpy(), gray, radius=0.01, draws=5)
    np.testing.assert_allclose(small, found / 10, rtol=1e-3)
    assert (max_sensitivity(lambda images: np.ones((2, 4, 4)), gray) == 0).all()
    more = max_sensitivity(lambda images: images.mean(1).numpy(), gray, radius=0.1, draws=10)
    assert (more >= found).all(), "the worst of more draws"


def test_blurring_keeps_the_mean_and_takes_the_detail():
    images = pixels(3, 32)
    soft = blurred(images)
    assert soft.shape == images.shape and soft.dtype == images.dtype and soft.min() >= 0 and soft.max() <= 1
    torch.testing.assert_close(soft.mean((2, 3)), images.mean((2, 3)), atol=0.05, rtol=0)
    assert (soft.std((2, 3)) < 0.8 * images.std((2, 3))).all()
