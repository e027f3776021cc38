"""Explanations graded as functions of drawn pictures: the same numbers as the functions they are made of."""

import numpy as np
import pandas as pd
import pytest
import torch
from toys import cosine_model, pair_model

from common.datasets.batches import as_float
from common.datasets.images import PARTS
from common.explanations.comparison import differences, graded, grades
from common.explanations.faithfulness import area, curve
from common.explanations.ground_truth import agreement, intervention_effects, part_mass
from common.explanations.integrated_gradients import pair_integrated_gradients
from common.explanations.localization import relevance_mass
from common.explanations.maps import PairScore, embeddings, enlarge
from common.flowers.rendering import render
from common.flowers.species import species_table

SIZE, COUNT = 32, 4


@pytest.fixture(scope="module")
def pairs():
    flowers = [(species, 0) for species in species_table(COUNT)]
    shown = [render(*flower, SIZE) for flower in flowers]
    others = [render(species, 1, SIZE) for species, _ in flowers]
    first, second = (as_float(torch.from_numpy(np.stack([one.image for one in some]))) for some in (shown, others))
    return first, second, np.stack([one.parts for one in shown]), flowers


@pytest.mark.parametrize("make", [cosine_model, pair_model])
def test_measures_are_those_of_the_first_pictures_maps(make, pairs):
    first, second, parts, flowers = pairs
    model, weights = make(), np.array([2.0, 0, 1, 1])
    maps = enlarge(pair_integrated_gradients(model, first, second)[0], (SIZE, SIZE))
    score = PairScore(model, embeddings(model, second))
    found = {metric: measure(weights) for metric, measure in graded(model, first, second, parts, flowers).items()}
    mass = relevance_mass(maps, np.isin(parts, [PARTS.index("petal"), PARTS.index("center")]))
    assert found["deletion_area"] == pytest.approx(area(curve(score, first, maps, False), False, weights))
    assert found["insertion_area"] == pytest.approx(area(curve(score, first, maps, True), True, weights))
    assert found["relevance_mass"] == pytest.approx((2 * mass[0] + mass[2] + mass[3]) / 4)
    effects, drawn = intervention_effects(model, flowers, second), [0, 0, 2, 3]
    again = pd.concat(effects[effects["picture"] == old].assign(picture=new) for new, old in enumerate(drawn))
    expected = agreement(again, part_mass(maps, parts)[drawn], 2)["value"]
    assert found["intervention_agreement"] == pytest.approx(expected)


def test_without_masks_and_a_renderer_the_mask_free_measures_remain(pairs):
    first, second, parts, _ = pairs
    assert list(graded(cosine_model(), first, second)) == ["insertion_area", "deletion_area"]
    assert list(graded(cosine_model(), first, second, parts))[2:] == ["relevance_mass"]


def test_grades_and_differences_by_hand():
    values = np.array([0.0, 0.2, 0.4, 0.6])
    one, other = {"m": lambda w: np.average(values, weights=w)}, {"m": lambda w: np.average(values - 0.3, weights=w)}
    (row,) = grades(one, 4).to_dict("records")
    assert row["metric"] == "m" and row["n"] == 4 and row["value"] == pytest.approx(0.3)
    assert 0 <= row["low"] < 0.3 < row["high"] <= 0.6
    (gap,) = differences(one, other, 4).to_dict("records")
    assert [gap[key] for key in ("value", "low", "high")] == pytest.approx([0.3] * 3), "paired: equal draws for both"
