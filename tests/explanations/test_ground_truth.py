"""Ground truth: parts taken away, planted squares, and explanations graded by them."""

from dataclasses import replace
from functools import partial
from itertools import product

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from toys import config, cosine_model, pair_model

from common.datasets import images_to_show, load_images
from common.datasets.batches import as_float
from common.evaluation.metrics import interval
from common.explanations import ground_truth as truth
from common.explanations.faithfulness import area, curve
from common.explanations.localization import difference, relevance_mass
from common.explanations.maps import (
    PairScore,
    activations,
    cam,
    enlarge,
    integrated_gradients,
    pair_integrated_gradients,
)
from common.flowers.rendering import render
from common.flowers.species import BACKGROUNDS, PARTS, species_table

TABLE = species_table(6)
SIZE = 32
models = pytest.mark.parametrize("model", [cosine_model(), pair_model()], ids=["cosine", "pair head"])


def floats(images):
    """Pictures as a model takes them."""
    return as_float(torch.from_numpy(np.stack(list(images))))


def test_each_intervention_touches_the_part_it_names():
    seen = set()
    for instance in range(4):
        picture, made = render(TABLE[0], instance, 64), dict(truth.interventions(TABLE[0], instance, 64))
        np.testing.assert_array_equal(made.pop(truth.UNCHANGED)[1], picture.image)
        for name, (part, image) in made.items():
            seen.add((name, part))
            changed = (image != picture.image).any(0)
            assert changed.any(), "what changes nothing is left out"
            assert changed[picture.parts == PARTS.index(part)].mean() > 0.3, name
    parts = {"no petals": "petal", "no center": "center", "no leaves": "leaf"}
    assert seen == set({**parts, "other color": "petal", "other background": "background"}.items())
    bare = next(instance for instance in range(50) if not (render(TABLE[0], instance, SIZE).parts == 1).any())
    assert "no leaves" not in truth.interventions(TABLE[0], bare, SIZE)


def test_what_is_drawn_once_cannot_be_painted_over():
    made = truth.interventions(TABLE[1], 7, SIZE)
    assert made is truth.interventions(TABLE[1], 7, SIZE) and len(made) > 3
    for _, image in made.values():
        with pytest.raises(ValueError, match="read-only"):
            image[:] = 0


def test_another_background_is_the_farthest_in_color():
    """Of all others, by the mean distance in CIELAB over the background's pixels; and far enough to be seen."""
    for species, instance in product(species_table(6), range(2)):
        picture, distances = render(species, instance, SIZE), {}
        behind = picture.parts == PARTS.index("background")
        for name in BACKGROUNDS:
            other = render(species, instance, SIZE, background=name).image
            distances[name] = np.linalg.norm(lab(other) - lab(picture.image), axis=2)[behind].mean()
        _, chosen = truth.interventions(species, instance, SIZE)["other background"]
        distance = np.linalg.norm(lab(chosen) - lab(picture.image), axis=2)[behind].mean()
        assert distance == max(distances.values()) > 35, (picture.factors["background"], distances)


def lab(image):
    """A picture (3, H, W) in CIELAB (H, W, 3)."""
    return cv2.cvtColor(np.moveaxis(image, 0, -1).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def test_rendered_pictures_are_drawn_again_from_their_species_and_instance(tmp_path):
    run = replace(config(tmp_path), species=3, pictures_per_species=2, image_size=SIZE, seed=4)
    images = load_images(run)
    for index, flower in zip([5, 0], truth.flowers_of(images, [5, 0], 4), strict=True):
        np.testing.assert_array_equal(render(*flower, SIZE).image, images.images[index])


@models
def test_effects_are_falls_of_the_score(model):
    flowers = [(TABLE[0], 0), (TABLE[1], 3)]
    others = floats(render(species, instance + 10, SIZE).image for species, instance in flowers)
    table = truth.intervention_effects(model, flowers, others)
    assert list(table.columns) == ["picture", "intervention", "part", "fall"]
    assert set(table.picture) == {0, 1} and set(table.part) <= set(PARTS) and (table["fall"] != 0).any()
    for row in table.itertuples():
        species, instance = flowers[row.picture]
        changed = truth.interventions(species, instance, SIZE)[row.intervention][1]
        images = floats([render(species, instance, SIZE).image, changed])
        with torch.no_grad():
            scores = model.score(images, others[[row.picture] * 2])
        assert row.fall == pytest.approx((scores[0] - scores[1]).item(), abs=1e-4)


def test_a_map_claims_its_sum_over_the_part_that_a_change_touches():
    maps = np.array([[[4.0, -1.0], [1.0, 5.0]], [[-1.0, -1.0], [-1.0, 0.0]]])
    parts = np.array([[[0, 1], [2, 2]], [[0, 1], [2, 3]]], np.uint8)
    effects = pd.DataFrame({"picture": [0, 0, 1, 1], "part": ["petal", "leaf", "background", "center"]})
    assert truth.claimed(effects, maps, parts).tolist() == [6, -1, -1, 0]


def test_agreement_is_spearmans_correlation_within_each_picture():
    rows = {"picture": [0, 0, 0, 1, 1, 2], "part": ["petal", "leaf", "center", "petal", "leaf", "petal"]}
    effects = pd.DataFrame({**rows, "fall": [0.9, 0.1, 0.5, 0.2, 0.1, 0.3]})
    claims = np.array([0.8, 0.1, 0.2, 0.007, 0.003, 0.8])
    mean, row = np.ones((1, 3)), interval(truth.rank_agreement(effects, claims), 3, 20)
    assert row == pytest.approx({"value": 1, "low": 1, "high": 1, "n": 3}), "one change alone has no order"
    assert truth.rank_agreement(effects, -claims)(mean) == pytest.approx(-1.0)
    effects.loc[2, "fall"] = 0.95
    assert truth.rank_agreement(effects, claims)(mean) == pytest.approx((0.5 + 1) / 2)  # ranks 2 1 3 against 3 1 2
    claims[3:5] = 0.1, 0.5
    assert truth.rank_agreement(effects, claims)(np.array([[2.0, 0, 1], [1.0, 3, 0]])) == pytest.approx([0.5, -0.625])
    claims[3:5] = 0.25
    assert truth.rank_agreement(effects, claims)(mean) == pytest.approx(0.5), "equal claims have no order"


def test_agreement_of_noise_has_an_interval_around_zero():
    effects = pd.DataFrame({"picture": np.repeat(range(60), 2), "part": ["petal", "leaf"] * 60})
    noise = np.random.default_rng(0).random((2, 120))
    measure = truth.rank_agreement(effects.assign(fall=noise[0]), noise[1])
    row = interval(measure, 60, 100)
    assert row["low"] < 0 < row["high"] and row["high"] - row["low"] < 0.6


def test_squares_give_the_label_away_and_touch_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 20, 24), np.uint8)
    labels, before = np.arange(12) % 4, images.copy()
    planted, where = truth.plant_square(images, labels)
    assert planted.dtype == np.uint8 and (where.sum((1, 2)) == 25).all()
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(np.where(where[:, None], 0, planted), np.where(where[:, None], 0, images))
    colors = [{tuple(color) for color in picture[:, square].T} for picture, square in zip(planted, where, strict=True)]
    by_label = [set.union(*colors[label::4]) for label in range(4)]
    assert all(len(color) == 1 for color in by_label) and len(set.union(*by_label)) == 4
    corners = where[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.sum(1) == 1).all() and len(np.unique(corners, axis=0)) > 1, "place alone gives nothing away"
    assert (truth.plant_square(images, labels, seed=1)[1] != where).any()
    images = np.zeros((4, 3, 20, 20), np.uint8)
    every, where = truth.plant_square(images, np.arange(4))
    alone, same = truth.plant_square(images[:2], [1, 1], colors=4)
    color = every[1][:, where[1]].T[0]
    assert all((color == picture[:, square].T).all() for picture, square in zip(alone, same)), "one wheel for all"


@pytest.fixture(scope="module")
def pairs():
    flowers = [(species, 0) for species in TABLE[:4]]
    shown = [render(*flower, SIZE) for flower in flowers]
    second = floats(render(species, 1, SIZE).image for species, _ in flowers)
    return floats(one.image for one in shown), second, np.stack([one.parts for one in shown]), flowers


@models
def test_measures_are_those_of_the_first_pictures_maps(model, pairs):
    first, second, parts, flowers = pairs
    weights = np.array([[2.0, 0, 1, 1]])
    maps, score = enlarge(pair_integrated_gradients(model, first, second)[0], (SIZE, SIZE)), PairScore(model, second)
    measures = truth.graded(model, first, second, parts, flowers)
    found = {metric: measure(weights)[0] for metric, measure in measures.items()}
    mass = relevance_mass(maps, np.isin(parts, [PARTS.index("petal"), PARTS.index("center")]))
    assert found["deletion_area"] == pytest.approx(area(curve(score, first, maps, False), False, weights)[0])
    assert found["insertion_area"] == pytest.approx(area(curve(score, first, maps, True), True, weights)[0])
    assert found["relevance_mass"] == pytest.approx((2 * mass[0] + mass[2] + mass[3]) / 4)
    effects, drawn = truth.intervention_effects(model, flowers, second), [0, 0, 2, 3]
    effects = effects[effects["intervention"] != "other color"]
    assert not effects.duplicated(["picture", "part"]).any(), "a part is ranked once"
    again = pd.concat(effects[effects["picture"] == old].assign(picture=new) for new, old in enumerate(drawn))
    agreement = truth.rank_agreement(again, truth.claimed(again, maps[drawn], parts[drawn]))(np.ones((1, 4)))
    assert found["intervention_agreement"] == pytest.approx(agreement)
    given = truth.graded(model, first, second, parts, flowers, maps)
    assert {metric: measure(weights)[0] for metric, measure in given.items()} == pytest.approx(found)
    assert list(truth.graded(model, first, second, maps=maps)) == ["insertion_area", "deletion_area"], "without masks"
    assert list(truth.graded(model, first, second, parts, maps=maps))[2:] == ["relevance_mass"]


def test_grades_and_differences_by_hand():
    values = np.array([0.0, 0.2, 0.4, 0.6])
    one, other = {"m": lambda w: w @ values / 4}, {"m": lambda w: w @ (values - 0.3) / 4}
    (row,) = truth.grades(one, 4).to_dict("records")
    assert row["metric"] == "m" and row["n"] == 4 and row["value"] == pytest.approx(0.3)
    assert 0 <= row["low"] < 0.3 < row["high"] <= 0.6
    (gap,) = truth.grades({"m": partial(difference, one["m"], other["m"])}, 4).to_dict("records")
    assert [gap[key] for key in ("value", "low", "high")] == pytest.approx([0.3] * 3), "paired: equal draws for both"
    better = {"deletion_area": lambda w: w @ values / 4, "insertion_area": lambda w: w @ values / 4}
    worse = {metric: lambda w: w @ (values + 0.1) / 4 for metric in better}
    found = {metric: float(measure(np.ones(4))) for metric, measure in truth.gains(better, worse).items()}
    assert found == pytest.approx({"deletion_gain": 0.1, "insertion_gain": -0.1}), "less deleted area is better"
    table = truth.gained({"a": better, "b": worse}, ["a", "b"], ["b"], 4, 10)
    assert table[["map", "against", "metric", "n"]].to_numpy().tolist() == [
        ["a", "b", "deletion_gain", 4], ["a", "b", "insertion_gain", 4]
    ]  # fmt: skip
    np.testing.assert_allclose(table["value"], [0.1, -0.1])


def test_maps_stand_beside_all_their_controls(pairs):
    first, second, parts, _ = pairs
    model, flower, wrong = cosine_model(), parts >= truth.PETAL, second[[1, 2, 3, 0]]
    methods = {"path": integrated_gradients, "cam": partial(cam, layer="layer2.0")}
    found = truth.beside_controls(model, methods, first, second, wrong, flower, seed=3)
    own = [f"{name}, {control}" for control in ("random weights", "wrong partner") for name in methods]
    assert list(found) == [*methods, *own, "uniform", "blob", "color saliency", "flower's mask"]
    assert all(one.shape == (4, SIZE, SIZE) for several in found.values() for one in several)
    assert {name: len(several) for name, several in found.items() if len(several) > 1} == dict.fromkeys(own[:2], 3)

    def expected(model, other):
        return enlarge(cam(PairScore(model, other), first, "layer2.0"), (SIZE, SIZE))

    np.testing.assert_allclose(found["cam"][0], expected(model, second), atol=1e-6)
    np.testing.assert_allclose(found["cam, wrong partner"][0], expected(model, wrong), atol=1e-6)
    for more, one in zip((10, 11, 12), found["cam, random weights"], strict=True):
        np.testing.assert_allclose(one, expected(truth.untrained(model, 3 + more), second), atol=1e-6)
    np.testing.assert_array_equal(found["flower's mask"][0], flower)
    assert "flower's mask" not in truth.beside_controls(model, methods, first, second, wrong)


def test_robust_models_are_held_against_standard_ones_over_a_control_in_each(pairs):
    first, second, parts, flowers = pairs
    blob, one, other = np.ones((4, SIZE, SIZE)), cosine_model(), cosine_model(seed=5)
    models = {"standard": {"siamese": one, "triplet": one}, "robust": {"siamese": other}}
    kept, gaps = truth.robust_less_standard(models, first, second, parts, flowers, blob, 5)
    assert not any(name.endswith("_area") for name in kept["metric"]), "for no two models' areas may be compared"
    assert kept.groupby(["approach", "variant"], sort=False).size().to_dict() == {
        ("siamese", "standard"): 4, ("siamese", "robust"): 4, ("triplet", "standard"): 4
    }  # fmt: skip
    gained = [truth.gains(*(truth.graded(model, *pairs, maps) for maps in (None, blob))) for model in (one, other)]
    every = np.ones((1, 4))
    expected = {name: gained[1][name](every)[0] - gained[0][name](every)[0] for name in gained[0]}
    assert gaps.set_index("metric")["value"].to_dict() == pytest.approx(expected)
    assert set(gaps["approach"]) == {"siamese"}
    assert truth.robust_less_standard({"standard": {"triplet": one}}, first, second, control=blob, rounds=5)[1].empty


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = config(tmp_path_factory.mktemp("shortcut"))
    return replace(made, species=3, pictures_per_species=12, image_size=SIZE, pretrained=False)


def test_a_flower_is_drawn_again_in_large_with_the_scores_it_has(run):
    rows = [(1, "no petals", "petal", 0.5), (1, "other color", "petal", -0.1), (1, "no leaves", "leaf", 0.2)]
    rows += [(0, "no center", "center", 0.3)]
    effects = pd.DataFrame(rows, columns=["picture", "intervention", "part", "fall"])
    images, rows = load_images(run), np.array([[0, 1, 13], [3, 4, 14]])
    pairs = truth.Pairs(rows, *[None] * 3, [0.1, 0.8], None, [None, (TABLE[0], 3)])
    shown = truth.drawn_again(images, pairs, 1, effects, 48)
    words = ["as it is\nscore 0.80", "no petals\nfall 0.50", "other color\nfall -0.10", "compared\nwith"]
    assert [*shown] == words, "without leaves"
    np.testing.assert_array_equal(shown["compared\nwith"], images_to_show(images, [4], 48)[0])
    np.testing.assert_array_equal(shown["no petals\nfall 0.50"], render(TABLE[0], 3, 48, without="petals").image)


def test_pairs_to_explain_are_of_one_species_the_most_alike_first_and_show_the_flower(run):
    images, model = load_images(run), cosine_model()
    rows = np.array([[0, 1, 1], [5, 9, 0], [9, 2, 1], [13, 14, 1], [1, 14, 0], [3, 4, 1]])
    parts = np.array(images.parts)
    parts[9] = 3
    pairs = truth.pairs_to_explain(run, replace(images, parts=parts), rows, model)
    assert sorted(pairs.rows[:, :2].tolist()) == [[0, 1], [3, 4], [13, 14]]
    assert (np.diff(pairs.scores) <= 0).all()
    first, second, wrong = (floats(images.images[row] for row in one) for one in pairs.rows.T)
    for given, found in ((first, pairs.first), (second, pairs.second), (wrong, pairs.wrong)):
        np.testing.assert_array_equal(given, found)
    with torch.no_grad():
        np.testing.assert_allclose(model.score(first, second), pairs.scores, atol=1e-5)
    assert (images.labels[pairs.rows[:, 0]] != images.labels[pairs.rows[:, 2]]).all(), "a wrong partner"
    np.testing.assert_array_equal(pairs.masks, parts[pairs.rows[:, 0]])
    np.testing.assert_array_equal(render(*pairs.flowers[0], SIZE).image, images.images[pairs.rows[0, 0]])
    ways, petals = pairs.petals_lost(), (pairs.masks == PARTS.index("petal"))[:, None]
    for way in ("blurred", "covered"):
        np.testing.assert_array_equal(np.where(petals, first, ways[way]), ways["as it is"], "petals only")
        assert (ways[way] != first).any()
    bare = floats(render(*one, SIZE, without="petals").image for one in pairs.flowers)
    np.testing.assert_array_equal(ways["not drawn"], bare)
    with pytest.raises(ValueError, match="the pairs show 0 species"):
        truth.pairs_to_explain(run, replace(images, parts=np.zeros_like(images.parts)), rows, model)
    plain = truth.pairs_to_explain(run, replace(images, parts=None, name="photographs"), rows, model, count=2)
    assert len(plain.rows) == 2 and plain.masks is None and plain.flowers == []
    maps = [np.ones((3, SIZE, SIZE)), np.array(pairs.masks, float)]
    both, each = pairs.graded(model, maps), [truth.graded(model, first, second, pairs.masks, maps=one) for one in maps]
    mass = [one["relevance_mass"](np.ones((2, 3))) for one in each]
    np.testing.assert_allclose(both["relevance_mass"](np.ones((2, 3))), np.mean(mass, axis=0))


def test_other_partners_are_the_next_of_another_species():
    assert truth.other_partners([4, 4, 7, 7, 4]) == [2, 2, 4, 4, 2]
    for labels in ([], np.array([1, 1])):
        with pytest.raises(ValueError, match=f"the pairs show {len(set(labels))} species: give pairs of two"):
            truth.other_partners(labels)


@pytest.mark.parametrize("size", [20, 64, 80, 128, 192, 200])
def test_squares_are_shown_in_large_at_every_size(run, size):
    images = load_images(replace(run, image_size=size, species=2, pictures_per_species=3))
    telling, where = truth.plant_square(images.images, images.labels)
    given = dict(suspects={}, truth={}, learned=[], new=[], pictures={"telling": telling}, where=where)
    large = truth.Shortcut(**given, rows=np.arange(6), labels=images.labels).to_show(images, [0, 5])
    drawn = truth.images_to_show(images, [0, 5])
    assert large.shape == drawn.shape == (2, 3, max(size, 192), max(size, 192))
    for place, shown, flower in zip([0, 5], large, drawn, strict=True):
        color = telling[place][:, where[place]][:, :1, None]
        square = (shown == color).all(0)
        assert abs(square.mean() - where[place].mean()) < 0.02, "it covers the share that it has in the small picture"
        np.testing.assert_array_equal(shown, np.where(square, color, flower))


def test_a_cheat_and_its_twin_differ_in_their_squares_only(run, monkeypatch):
    learned, fit = [], truth.fit
    monkeypatch.setattr(truth, "SHORT", 1)
    monkeypatch.setattr(truth, "fit", lambda *given, **more: learned.append(given[2]) or fit(*given, **more))
    images = load_images(run)
    puzzle = truth.shortcut(run, images, "test_resnet", kinds=2)
    assert sorted(puzzle.truth) == sorted(puzzle.suspects) == ["model A", "model B"]
    assert sorted(puzzle.truth.values()) == ["its honest twin", "the cheat"]
    telling, bare, wrong = puzzle.pictures.values()
    np.testing.assert_array_equal(bare, images.images[puzzle.rows])
    assert set(puzzle.labels) == {0, 1} and not np.isin(puzzle.new, learned[0].dataset.indices).any()
    np.testing.assert_array_equal(learned[0].dataset.indices, learned[1].dataset.indices)
    np.testing.assert_array_equal(learned[0].dataset.images, telling)
    square = puzzle.where[:, None]
    for shown in (telling, wrong, learned[1].dataset.images):
        np.testing.assert_array_equal(np.where(square, 0, shown), np.where(square, 0, bare))
    colors = [[one[:, spot][:, 0].tolist() for one, spot in zip(shown, puzzle.where)] for shown in (telling, wrong)]
    assert all((one == colors[0][0]) == (label == 0) for one, label in zip(colors[0], puzzle.labels, strict=True))
    assert all(one != other for one, other in zip(*colors, strict=True)), "of another species"
    exam = puzzle.exam()
    assert list(exam["named rightly"]) == [*puzzle.pictures]
    assert list(exam["named as the wrong square says"]) == ["another species' square", "no square"]
    assert exam.to_numpy().min() >= 0 and exam.to_numpy().max() <= 1
    assert (exam.iloc[:, 2] + exam.iloc[:, 3]).tolist() == [1, 1], "of two species a name that is wrong is the square's"
    np.testing.assert_allclose(exam.iloc[:, 1] + exam.iloc[:, 4], 1)
    large = puzzle.to_show(images, [3])
    assert large.shape == (1, 3, 192, 192)
    assert (large[0, :, puzzle.where[3].repeat(6, 0).repeat(6, 1)] == colors[0][3]).all()
    couples = puzzle.couples(2)
    cheat, first, second, strangers, flower = puzzle.on_trial(images, couples, "cpu")
    changed = floats(wrong[couples[:, 0]])
    with torch.no_grad():
        fell = cheat.score(first, second) - cheat.score(changed, second)
    np.testing.assert_allclose(puzzle.falls(couples)["the cheat"], fell, atol=1e-5)
    assert cheat is next(model for name, model in puzzle.suspects.items() if puzzle.truth[name] == "the cheat")
    np.testing.assert_array_equal(torch.stack([first, second]), [floats(telling[side]) for side in couples.T])
    np.testing.assert_array_equal(strangers, second[truth.other_partners(puzzle.labels[couples[:, 0]])])
    seen, spot = np.asarray(images.parts)[puzzle.rows[couples[:, 0]]] >= truth.PETAL, puzzle.where[couples[:, 0]]
    np.testing.assert_array_equal(flower, seen & ~spot)
    assert puzzle.on_trial(replace(images, parts=None), couples, "cpu")[-1] is None
    own, others = puzzle.colored(0, puzzle.new)
    mine = puzzle.labels[puzzle.new] == 0
    np.testing.assert_array_equal(own[mine], telling[puzzle.new][mine])
    np.testing.assert_array_equal(others[mine], wrong[puzzle.new][mine])
    couples = puzzle.couples(3)
    assert np.isin(couples, puzzle.new).all() and not np.diff(puzzle.labels[couples]).any()
    assert puzzle.labels[couples[:, 0]].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(np.sort([*puzzle.learned, *puzzle.new]), np.arange(len(puzzle.rows)))
    pairs = np.array([puzzle.new[:2], puzzle.new[-2:]])
    steps = puzzle.steps(pairs, "layer1.0", "cpu")
    assert sorted(steps) == sorted(puzzle.truth.values()) and steps["the cheat"].shape == (3, 2, truth.SEEDS)
    first, second = (torch.from_numpy(telling[pairs[:1, side]]).float() / 255 for side in (0, 1))
    name = next(name for name, true in puzzle.truth.items() if true == "the cheat")
    places = np.random.default_rng(0).permutation(puzzle.learned)
    both = [torch.from_numpy(images).float() / 255 for images in puzzle.colored(0, places)]
    both = [activations(puzzle.suspects[name], images, "layer1.0").mean((2, 3)).numpy() for images in both]
    np.testing.assert_array_equal(both, puzzle.activations(puzzle.suspects[name], "layer1.0", 0, places))
    by_hand, by_chance, accuracies = truth.raised(puzzle.suspects[name], first, second, *both, "layer1.0")
    np.testing.assert_array_equal(steps["the cheat"][:, :1], [by_hand, by_chance, accuracies[None]])
    sides = pair_integrated_gradients(puzzle.suspects[name], first, second)
    for side, maps in enumerate(sides):
        explained = puzzle.explained(pairs, "cpu")[name][:1, side]
        np.testing.assert_allclose(explained, enlarge(maps, (SIZE, SIZE)), atol=1e-5)
