"""Concepts, by their two proper names: deep feature factorization (maps) and TCAV (directions with a meaning)."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, ttest_ind_from_stats
from sklearn.decomposition import NMF
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from common.explanations.localization import mean_with_interval
from common.explanations.maps import CHUNK, PairScore, activations, activations_and_gradients, embeddings, target_layer

HELD_OUT = 0.3  # of the pictures, to see whether a concept is one


def factorize(model: nn.Module, images: Tensor, count: int = 4, layer: str | None = None, seed: int = 0):
    """Find the concepts that pictures share (Collins et al. 2018, "Deep Feature Factorization").

    All locations of all pictures are stacked into one non-negative matrix, which is written as a product of few: so
    concept k is the same in every picture, and may be drawn in one color. Stack both pictures of a pair for theirs.

    Args:
        model: holds an `EmbeddingNet`.
        images: float (N, 3, H, W) in [0, 1].
        count: concepts, K.
        layer: a stage of the backbone; default: `target_layer`.
        seed: of the factorization.

    Returns:
        How strongly each location shows each concept, float (N, K, h, w), and the concepts, float (K, C).
    """
    located = activations(model, images, layer or target_layer(model, images)).movedim(1, -1).cpu().numpy()
    matrix = located.reshape(-1, located.shape[-1]).astype(float)
    matrix -= np.minimum(matrix.min(0), 0)  # channels that go below 0 are lifted; after a ReLU none does
    factors = NMF(count, init="nndsvda", max_iter=1000, random_state=seed)
    maps = factors.fit_transform(matrix).reshape(*located.shape[:3], count)
    return np.moveaxis(maps, -1, 1), factors.components_


def pooled_activations(model: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    """A stage's activations, mean over locations: float (N, C). A concept is looked for anywhere in the picture."""
    return activations(model, images, layer).mean((2, 3)).cpu().numpy()


def concept_vectors(present, absent, seeds: int = 10, chance: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Directions from pictures without a concept to the same pictures with it, one for each seed.

    Kim et al. 2018, "Quantitative Testing with Concept Activation Vectors": the normal of a linear classifier, here
    logistic regression on standardized activations. Each seed holds other pictures out.

    Args:
        present, absent: float (N, C), activations; row n is the same flower with and without the concept.
        seeds: number of classifiers, S.
        chance: let a coin decide for each flower which of its pictures has the concept: a random concept.

    Returns:
        Vectors (S, C) of length 1, and accuracies (S,) on the flowers held out, which no classifier has seen.

    Raises:
        ValueError: shapes that differ, fewer than 10 flowers, or activations that do not.
    """
    present, absent = np.asarray(present, float), np.asarray(absent, float)
    if present.shape != absent.shape or len(present) < 10:
        raise ValueError(f"present {present.shape} and absent {absent.shape} must show the same 10 flowers or more")
    if np.array_equal(present, absent):
        raise ValueError("the concept changes no activation at this stage, so no direction leads to it")
    vectors, accuracies = [], []
    for seed in range(seeds):
        generator = np.random.default_rng([seed, chance])
        swap = chance & (generator.random((len(present), 1)) < 0.5)
        both = np.stack([np.where(swap, present, absent), np.where(swap, absent, present)], 1)
        held_out, kept = np.split(generator.permutation(len(present)), [round(HELD_OUT * len(present))])
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(np.concatenate(both[kept]), np.tile([0, 1], len(kept)))
        accuracies.append(classifier.score(np.concatenate(both[held_out]), np.tile([0, 1], len(held_out))))
        normal = classifier[-1].coef_[0] / classifier[0].scale_
        vectors.append(normal / np.linalg.norm(normal))
    return np.array(vectors), np.array(accuracies)


def sensitivities(model, first: Tensor, second: Tensor, layer: str) -> np.ndarray:
    """How each pair's score changes as a channel of the first picture rises everywhere: float (P, C)."""
    parts = zip(first.split(CHUNK), embeddings(model, second).split(CHUNK))
    slopes = [activations_and_gradients(PairScore(model, held), part, layer)[1].sum((2, 3)) for part, held in parts]
    return torch.cat(slopes).cpu().numpy()


def tcav(model, first: Tensor, second: Tensor, concepts: dict, layer: str | None = None, seeds: int = 10,
         rounds: int = 500) -> pd.DataFrame:
    """Does a concept in the first picture raise the score? TCAV of pairs, with the statistics of protocol rule 19.

    Args:
        model: has `score_embeddings`, holds an `EmbeddingNet`.
        first, second: float (P, 3, H, W) in [0, 1].
        concepts: name -> pictures with the concept and the same pictures without, each float (N, 3, H, W) in [0, 1].
        layer: a stage of the backbone; default: `target_layer`.
        seeds: classifiers of each concept, and as many of random concepts from the same pictures; 10 or more.
        rounds: bootstrap draws, of pairs.

    Returns:
        Rows of concept, value (share of pairs whose score the concept raises, mean over seeds), low, high, n (pairs),
        random (that share for random concepts), p (Welch's t-test between both over seeds), p_adjusted (Benjamini
        and Hochberg, over the concepts), accuracy (mean, on held-out flowers).

    Raises:
        ValueError: fewer than 10 seeds, or as in `concept_vectors`.
    """
    if seeds < 10:
        raise ValueError(f"{seeds} seeds cannot tell a concept from chance; use 10 or more")
    layer = layer or target_layer(model, first)
    slopes, rows = sensitivities(model, first, second, layer), []
    for name, pictures in concepts.items():
        present, absent = (pooled_activations(model, part, layer) for part in pictures)
        vectors, accuracies = concept_vectors(present, absent, seeds)
        raised = slopes @ vectors.T > 0
        random = (slopes @ concept_vectors(present, absent, seeds, chance=True)[0].T > 0).mean(0)
        tested = {"random": random.mean(), "p": _p_value(raised.mean(0), random), "accuracy": accuracies.mean()}
        rows.append({"concept": name, **mean_with_interval(raised.mean(1), rounds), **tested})
    table = pd.DataFrame(rows)
    table.insert(7, "p_adjusted", false_discovery_control(table["p"]))
    return table


def tcav_cases(model, cases: dict, layer: str | None = None, **options) -> pd.DataFrame:
    """TCAV of concepts that each have pairs of their own: does blue make a picture more like blue ones?

    Args:
        model, layer, options: as in `tcav`.
        cases: name -> (first pictures, second pictures, (pictures with the concept, the same without)).

    Returns:
        The rows of `tcav`, one a case, with `p_adjusted` over all of them.
    """
    rows = [tcav(model, *pairs, {name: concept}, layer, **options) for name, (*pairs, concept) in cases.items()]
    table = pd.concat(rows, ignore_index=True)
    return table.assign(p_adjusted=false_discovery_control(table["p"]))


def _p_value(scores: np.ndarray, random: np.ndarray) -> float:
    """Welch's t-test; scores that never vary have no variance to test with, and are compared as they are."""
    if scores.std() == random.std() == 0:
        return float(scores[0] == random[0])
    both = [statistic for one in (scores, random) for statistic in (one.mean(), one.std(ddof=1), len(one))]
    return float(ttest_ind_from_stats(*both, equal_var=False).pvalue)
