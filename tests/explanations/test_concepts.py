"""Shared concepts and concept vectors: planted directions are found, chance is called chance, Captum agrees."""

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control
from toys import cosine_model, pair_model, pixels

from common.explanations import concepts
from common.explanations.concepts import concept_vectors, factorize, pooled_activations, sensitivities, tcav, tcav_cases
from common.explanations.maps import activations

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


# --- deep feature factorization ---


@both
def test_factors_explain_the_activations(model):
    images = torch.cat([FIRST[:1], SECOND[:1]])
    maps, vectors = factorize(model, images, 3, "layer1.0")
    located = activations(model, images, "layer1.0").numpy().astype(float)
    lifted = located - np.minimum(located.min((0, 2, 3)), 0)[:, None, None]
    assert maps.shape == (2, 3, 8, 8) and vectors.shape == (3, 32)
    assert maps.min() >= 0 and vectors.min() >= 0
    rebuilt = np.einsum("nkhw,kc->nchw", maps, vectors)
    error = np.linalg.norm(rebuilt - lifted) / np.linalg.norm(lifted)
    one = np.linalg.norm(lifted - lifted.mean((0, 2, 3))[:, None, None]) / np.linalg.norm(lifted)
    assert error < 0.9 * one, "better than a single mean"
    again = factorize(model, images, 3, "layer1.0")[0]
    np.testing.assert_array_equal(maps, again)


def test_planted_concepts_are_found_in_both_pictures(monkeypatch):
    """Two concepts with channels of their own, each in one half of both pictures, halves swapped."""
    located = torch.zeros(2, 4, 2, 2)
    located[0, :2, :, 0] = located[1, :2, :, 1] = 1.0
    located[0, 2:, :, 1] = located[1, 2:, :, 0] = 2.0
    monkeypatch.setattr(concepts, "activations", lambda *arguments: located)
    maps, vectors = factorize(None, None, 2, "any")
    first, second = sorted((0, 1), key=lambda concept: vectors[concept, 2])
    assert vectors[first, :2].min() > 10 * vectors[first, 2:].max()
    assert vectors[second, 2:].min() > 10 * vectors[second, :2].max()
    for picture, (mine, other) in enumerate(((0, 1), (1, 0))):
        assert maps[picture, first, :, mine].min() > 10 * maps[picture, first, :, other].max()
        assert maps[picture, second, :, other].min() > 10 * maps[picture, second, :, mine].max()


# --- concept vectors ---


def test_a_planted_direction_is_found():
    vectors, accuracies = concept_vectors(*clouds(), seeds=4)
    assert vectors.shape == (4, 5) and accuracies.shape == (4,)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[:, 0].min() > 0.9 and accuracies.min() > 0.85
    backward, _ = concept_vectors(*reversed(clouds()), seeds=4)
    assert backward[:, 0].max() < -0.9, "from absent to present"
    assert len(np.unique(vectors[:, 1].round(9))) == 4, "every seed holds others out"


def test_the_direction_does_not_depend_on_the_channels_scales():
    present, absent = clouds()
    scale = np.array([100.0, 1, 1, 1, 1])
    plain, scaled = concept_vectors(present, absent, 2)[0], concept_vectors(present * scale, absent * scale, 2)[0]
    back = scaled * scale
    np.testing.assert_allclose(back / np.linalg.norm(back, axis=1, keepdims=True), plain, atol=1e-3)


def test_random_concepts_are_told_apart_by_chance_only():
    vectors, accuracies = concept_vectors(*clouds(count=200), seeds=10, chance=True)
    assert 0.4 < accuracies.mean() < 0.6
    assert vectors[:, 0].min() < 0 < vectors[:, 0].max()


def test_a_flower_is_either_trained_on_or_held_out(monkeypatch):
    """With both of its pictures: else a classifier would be judged on flowers it knows."""
    used, made = [], concepts.make_pipeline

    def watched(*steps):
        classifier = made(*steps)
        fit, score = classifier.fit, classifier.score
        classifier.fit = lambda x, y: used.append((set(x[:, 1].round().astype(int)), len(x))) or fit(x, y)
        classifier.score = lambda x, y: used.append((set(x[:, 1].round().astype(int)), len(x))) or score(x, y)
        return classifier

    monkeypatch.setattr(concepts, "make_pipeline", watched)
    numbers = np.arange(20.0)
    concept_vectors(np.stack([numbers * 0 + 1, numbers + 0.1], 1), np.stack([numbers * 0, numbers - 0.1], 1), seeds=3)
    for (trained, many), (held_out, few) in zip(used[::2], used[1::2], strict=True):
        assert trained | held_out == set(range(20)) and not trained & held_out and (many, few) == (28, 12)
    assert len({tuple(sorted(held_out)) for held_out, _ in used[1::2]}) == 3


def test_a_concept_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="changes no activation"):
        concept_vectors(np.ones((12, 2)), np.ones((12, 2)))


@pytest.mark.parametrize("present, absent", [(np.ones((9, 2)), np.ones((9, 2))), (np.ones((12, 2)), np.ones((11, 2)))])
def test_too_few_or_unpaired_flowers_are_refused(present, absent):
    with pytest.raises(ValueError, match="must show the same 10 flowers or more"):
        concept_vectors(present, absent)


# --- TCAV ---


@both
def test_sensitivities_are_derivatives_of_the_score(model):
    """Against the score's change when a channel of the stage is raised everywhere."""
    slopes = sensitivities(model, FIRST, SECOND, "layer3.0")
    stage = getattr(model, "net", model).backbone.layer3
    channel, step = int(np.abs(slopes).sum(0).argmax()), 1e-2
    scores = []
    for sign in (1, -1):
        with torch.no_grad():
            held = model(SECOND)
            raised = torch.zeros(1, slopes.shape[1], 1, 1)
            raised[0, channel] = sign * step
            handle = stage.register_forward_hook(lambda module, inputs, output: output + raised)  # noqa: B023
            scores.append(model.score_embeddings(model(FIRST), held).numpy())
            handle.remove()
    change = (scores[0] - scores[1]) / (2 * step)
    assert np.abs(change).max() > 1e-4
    np.testing.assert_allclose(slopes[:, channel], change, atol=0.05 * np.abs(change).max())


def test_captum_agrees(tmp_path):
    """Captum's own TCAV, given our classifier's vectors, counts the same signs."""
    concept = pytest.importorskip("captum.concept", reason="captum is missing: pip install -r requirements-dev.txt")
    from captum.attr import LayerGradientXActivation

    from common.explanations.maps import PairScore, embeddings

    model, pictures = MODELS["cosine"], {"with": pixels(12, 32, 3), "without": 1 - pixels(12, 32, 3)}
    present, absent = (pooled_activations(model, images, LAYER) for images in pictures.values())
    vectors = concept_vectors(present, absent, 1)[0]

    class Ours(concept.Classifier):
        def __init__(self):
            pass

        def train_and_eval(self, loader, *arguments, **options):
            return {"accs": torch.tensor(1.0)}

        def weights(self):
            return torch.from_numpy(np.stack([vectors[0], -vectors[0]])).float()

        def classes(self):
            return [0, 1]

    score = PairScore(model, embeddings(model, SECOND))
    gradient = LayerGradientXActivation(score, None, multiply_by_inputs=False)
    peer = concept.TCAV(score, [f"model.backbone.{LAYER}"], classifier=Ours(), layer_attr_method=gradient,
                        save_path=str(tmp_path))
    sets = [concept.Concept(place, name, torch.utils.data.DataLoader(images, batch_size=4))
            for place, (name, images) in enumerate(pictures.items())]
    found = next(iter(peer.interpret(FIRST, [sets], target=0).values()))[f"model.backbone.{LAYER}"]["sign_count"]
    ours = (sensitivities(model, FIRST, SECOND, LAYER) @ vectors[0] > 0).mean()
    assert found[0].item() == pytest.approx(ours) and found[1].item() == pytest.approx(1 - ours)


def planted(monkeypatch, slopes):
    """Let `tcav` see made-up activations (named by their first pixel) and sensitivities (P, 5)."""
    sets = {0.0: clouds()[0], 0.1: clouds()[1], 0.2: clouds(shift=0.0)[0], 0.3: clouds(shift=0.0)[1]}
    monkeypatch.setattr(concepts, "pooled_activations", lambda model, part, layer: sets[round(part.item(), 1)])
    monkeypatch.setattr(concepts, "sensitivities", lambda *arguments: slopes)
    images = [torch.tensor(value) for value in (0.0, 0.1, 0.2, 0.3)]
    return {"real": (images[0], images[1]), "none": (images[2], images[3])}


@pytest.mark.parametrize("direction, expected", [(1, 1.0), (-1, 0.0)])
def test_a_concept_that_moves_the_score_is_significant(monkeypatch, direction, expected):
    slopes = np.random.default_rng(0).standard_normal((30, 5)) * 0.1
    slopes[:, 0] += direction
    table = tcav(None, FIRST, SECOND, planted(monkeypatch, slopes), "any", seeds=20, rounds=20).set_index("concept")
    assert list(table.columns) == ["value", "low", "high", "n", "random", "p", "p_adjusted", "accuracy"]
    real, none = table.loc["real"], table.loc["none"]
    assert real.value == pytest.approx(expected, abs=0.05) and real.p_adjusted < 0.01 and real.accuracy > 0.85
    assert none.p_adjusted > 0.05 and none.accuracy < 0.7
    assert (table.n == 30).all() and (table.p_adjusted >= table.p).all()
    assert table.p_adjusted["real"] == pytest.approx(2 * table.p["real"]), "Benjamini and Hochberg over two concepts"


@both
def test_the_whole_of_tcav_runs_on_pictures(model):
    concept = {"bright": (pixels(12, 32, 3) * 0.5 + 0.5, pixels(12, 32, 3) * 0.5)}
    table = tcav(model, FIRST, SECOND, concept, LAYER, rounds=10)
    assert table.accuracy[0] > 0.8 and 0 <= table.value[0] <= 1 and 0 <= table.p[0] <= 1 and table.n[0] == 4


def test_scores_that_never_vary_are_compared_as_they_are():
    ones = np.ones(10)
    assert concepts._p_value(ones, ones) == 1 and concepts._p_value(ones, 0 * ones) == 0
    spread = np.linspace(0, 1, 10)
    assert concepts._p_value(ones, spread) < 0.01 < concepts._p_value(spread, spread[::-1])


def test_cases_have_pairs_of_their_own_and_are_adjusted_together(monkeypatch):
    sets = planted(monkeypatch, None)
    slopes = {"toward": np.eye(5)[[0] * 30], "away": -np.eye(5)[[0] * 30]}
    monkeypatch.setattr(concepts, "sensitivities", lambda model, first, second, layer: slopes[first])
    chosen = {"a": ("toward", "real"), "b": ("away", "real"), "c": ("toward", "none")}
    cases = {name: (first, None, sets[concept]) for name, (first, concept) in chosen.items()}
    table = tcav_cases(None, cases, "any", seeds=20, rounds=20).set_index("concept")
    assert table.value.to_dict() == {"a": 1.0, "b": 0.0, "c": pytest.approx(0.5, abs=0.4)}
    np.testing.assert_allclose(table.p_adjusted, false_discovery_control(table.p))
    assert (table.p_adjusted > table.p).any()


def test_few_seeds_are_refused():
    with pytest.raises(ValueError, match="9 seeds cannot tell a concept from chance; use 10 or more"):
        tcav(MODELS["cosine"], FIRST, SECOND, {}, seeds=9)
