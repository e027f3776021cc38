"""Concept vectors: planted directions are found, chance is called chance, Captum agrees."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, ttest_ind
from toys import cosine_model, pair_model, pixels

from common.explanations import concepts
from common.explanations.concepts import SEEDS, concept_vectors, raised, sensitivities, tcav
from common.explanations.maps import PairScore, activations

FIRST, SECOND = pixels(4, 32, 1), pixels(4, 32, 2)
LAYER = "layer4.0"  # 1 x 1 locations at 32 pixels
MODELS = {"cosine": cosine_model(size=32), "pair head": pair_model()}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def clouds(count=60, channels=5, shift=3.0, seed=0):
    """Activations of flowers, and the same moved along the first channel."""
    generator = np.random.default_rng(seed)
    absent = generator.standard_normal((count, channels))
    moved = absent + 0.3 * generator.standard_normal((count, channels))
    moved[:, 0] += shift
    return moved, absent


def test_a_planted_direction_is_found_and_a_random_one_is_not():
    vectors, accuracies = concept_vectors(*clouds())
    assert vectors.shape == (SEEDS, 5) and accuracies.shape == (SEEDS,)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[:, 0].min() > 0.9 and accuracies.min() > 0.85
    backward, _ = concept_vectors(*reversed(clouds()))
    assert backward[:, 0].max() < -0.9, "from absent to present"
    assert len(np.unique(vectors[:, 1].round(9))) == SEEDS, "every seed holds others out"
    random, accuracies = concept_vectors(*clouds(count=200), chance=True)
    assert 0.4 < accuracies.mean() < 0.6 and random[:, 0].min() < 0 < random[:, 0].max()


def test_the_direction_does_not_depend_on_the_channels_scales():
    present, absent = clouds()
    scale = np.array([100.0, 1, 1, 1, 1])
    back = concept_vectors(present * scale, absent * scale)[0] * scale
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    np.testing.assert_allclose(back, concept_vectors(present, absent)[0], atol=1e-3)


def test_a_flower_is_either_trained_on_or_held_out(monkeypatch):
    """With both of its pictures: else a classifier would be judged on flowers it knows."""
    used, made = [], concepts.make_pipeline

    def watch(call, x, y):
        used.append(x[:, 1].round().astype(int).tolist())
        return call(x, y)

    def watched(*steps):
        classifier = made(*steps)
        classifier.fit, classifier.score = partial(watch, classifier.fit), partial(watch, classifier.score)
        return classifier

    monkeypatch.setattr(concepts, "make_pipeline", watched)
    numbers = np.arange(20.0)
    concept_vectors(np.stack([numbers * 0 + 1, numbers + 0.1], 1), np.stack([numbers * 0, numbers - 0.1], 1))
    for trained, held_out in zip(used[::2], used[1::2], strict=True):
        assert sorted(trained + held_out) == sorted([*range(20), *range(20)]) and not {*trained} & {*held_out}
        assert (len(trained), len(held_out)) == (28, 12)
    assert len({frozenset(held_out) for held_out in used[1::2]}) == SEEDS


@pytest.mark.parametrize("present, absent, reason", [
    (12, 12, "changes no activation"), (9, 9, "same 10 flowers or more"), (12, 11, "same 10 flowers or more"),
])  # fmt: skip
def test_what_leads_to_no_concept_is_refused(present, absent, reason):
    with pytest.raises(ValueError, match=reason):
        concept_vectors(np.ones((present, 2)), np.ones((absent, 2)))


@both
def test_sensitivities_are_derivatives_of_the_score(model):
    """Against the score's change when a channel of the stage is raised everywhere."""
    slopes = sensitivities(model, FIRST, SECOND, "layer3.0")
    stage = getattr(model, "net", model).backbone.layer3
    channel, scores = int(np.abs(slopes).sum(0).argmax()), []
    with torch.no_grad():
        held = model(SECOND)
        for step in (1e-2, -1e-2):
            raised = step * torch.eye(slopes.shape[1])[channel, :, None, None]
            handle = stage.register_forward_hook(lambda module, inputs, output: output + raised)  # noqa: B023
            scores.append(model.score_embeddings(model(FIRST), held).numpy())
            handle.remove()
    change = (scores[0] - scores[1]) / 2e-2
    assert np.abs(change).max() > 1e-4
    np.testing.assert_allclose(slopes[:, channel], change, atol=0.05 * np.abs(change).max())


def test_captum_agrees(tmp_path):
    """Captum's own TCAV, given our classifier's vectors, counts the same signs."""
    concept = pytest.importorskip("captum.concept", reason="captum is missing: pip install -r requirements-dev.txt")
    from captum.attr import LayerGradientXActivation

    model, pictures = MODELS["cosine"], {"with": pixels(12, 32, 3), "without": 1 - pixels(12, 32, 3)}
    present, absent = (activations(model, images, LAYER).mean((2, 3)).numpy() for images in pictures.values())
    vectors = concept_vectors(present, absent)[0]
    classifier = SimpleNamespace(
        train_and_eval=lambda *arguments, **options: {"accs": torch.tensor(1.0)}, classes=lambda: [0, 1],
        weights=lambda: torch.from_numpy(np.stack([vectors[0], -vectors[0]])).float(),
    )  # fmt: skip
    score = PairScore(model, SECOND)
    gradient = LayerGradientXActivation(score, None, multiply_by_inputs=False)
    peer = concept.TCAV(score, [f"model.backbone.{LAYER}"], classifier=classifier, layer_attr_method=gradient,
                        save_path=str(tmp_path))
    sets = [concept.Concept(place, name, torch.utils.data.DataLoader(images, batch_size=4))
            for place, (name, images) in enumerate(pictures.items())]
    found = next(iter(peer.interpret(FIRST, [sets], target=0).values()))[f"model.backbone.{LAYER}"]["sign_count"]
    ours = (sensitivities(model, FIRST, SECOND, LAYER) @ vectors[0] > 0).mean()
    assert found[0].item() == pytest.approx(ours) and found[1].item() == pytest.approx(1 - ours)


def planted(monkeypatch, slopes):
    """Let `raised` see sensitivities (P, 5), named by their first pairs; activations with a concept and with none."""
    monkeypatch.setattr(concepts, "sensitivities", lambda model, first, second, layer: slopes[first])
    return {"real": clouds(), "none": clouds(shift=0.0)}


def test_concepts_that_move_the_score_are_significant_and_adjusted_together(monkeypatch):
    noise = np.random.default_rng(0).standard_normal((30, 5)) * 0.1
    slopes = {"toward": noise + np.eye(5)[0], "away": noise - np.eye(5)[0]}
    sets = planted(monkeypatch, slopes)
    cases = {"up": ("toward", "real"), "down": ("away", "real"), "none": ("toward", "none")}
    told = {name: raised(None, first, None, *sets[kind], "any") for name, (first, kind) in cases.items()}
    assert told["up"][0].shape == told["up"][1].shape == (30, SEEDS) and told["up"][2].shape == (SEEDS,)
    table = tcav(told)
    assert list(table.columns) == ["value", "random", "accuracy", "p", "p_adjusted"]
    up, down, none = table.loc["up"], table.loc["down"], table.loc["none"]
    assert up.value == pytest.approx(1, abs=0.05) and down.value == pytest.approx(0, abs=0.05)
    assert max(up.p_adjusted, down.p_adjusted) < 0.02 and min(up.accuracy, down.accuracy) > 0.85
    assert none.p_adjusted > 0.05 and none.accuracy < 0.7
    assert (table.p_adjusted > table.p).any()
    np.testing.assert_allclose(table.p_adjusted, false_discovery_control(table.p))


def test_p_is_welchs_over_seeds_and_equal_shares_that_never_vary_are_equal(monkeypatch):
    monkeypatch.setattr(concepts, "SEEDS", 5)
    steps, random, accuracies = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 1, 0]]), np.zeros((2, 5)), np.full(5, 0.9)
    always = np.ones((2, 5))
    table = tcav({"a": (steps, random, accuracies), "b": (steps, steps, accuracies), "c": (always, always, accuracies)})
    expected = ttest_ind(steps.mean(0), random.mean(0), equal_var=False).pvalue
    assert table.p["a"] == pytest.approx(expected) and table.p["b"] == table.p["c"] == 1
    assert table.value["a"] == 0.5 and table.random["a"] == 0 and table.accuracy["a"] == pytest.approx(0.9)


@both
def test_the_whole_of_tcav_runs_on_pictures(model):
    bright = (pixels(12, 32, 3) * 0.5 + 0.5, pixels(12, 32, 3) * 0.5)
    seen = (activations(model, images, LAYER).mean((2, 3)).numpy() for images in bright)
    (row,) = tcav({"bright": raised(model, FIRST, SECOND, *seen, LAYER)}).to_dict("records")
    assert row["accuracy"] > 0.8 and 0 <= row["value"] <= 1 and 0 <= row["p"] <= 1
