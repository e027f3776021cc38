"""Concepts as directions in what a layer hands out (TCAV), and whether a score uses them."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, ttest_ind_from_stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from common.explanations.maps import CHUNK, PairScore, activations_and_gradients

SEEDS = 10  # classifiers of a concept, and as many of random concepts; fewer cannot tell it from chance
HELD_OUT = 0.3  # of the pictures, to see whether a concept is one


def concept_vectors(present, absent, chance: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """SEEDS directions from pictures without a concept to the same pictures with it.

    Kim et al. 2018, "Quantitative Testing with Concept Activation Vectors": the normal of a linear classifier, here
    logistic regression on standardized activations. Each seed holds other pictures out.

    Args:
        present, absent: float (N, C), activations; row n is the same flower with and without the concept.
        chance: let a coin decide for each flower which of its pictures has the concept: a random concept.

    Returns:
        Vectors (SEEDS, C) of length 1, and accuracies (SEEDS,) on the flowers held out, which no classifier has seen.
    """
    present, absent = np.asarray(present, float), np.asarray(absent, float)
    if present.shape != absent.shape or len(present) < 10:
        raise ValueError(f"present {present.shape} and absent {absent.shape} must show the same 10 flowers or more")
    if np.array_equal(present, absent):
        raise ValueError("the concept changes no activation at this stage, so no direction leads to it")
    vectors, accuracies = [], []
    for seed in range(SEEDS):
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
    chunks = zip(first.split(CHUNK), second.split(CHUNK))
    slopes = [activations_and_gradients(PairScore(model, other), one, layer)[1].sum((2, 3)) for one, other in chunks]
    return torch.cat(slopes).cpu().numpy()


def raised(model, first: Tensor, second: Tensor, present, absent, layer: str):
    """Which concept vectors raise the score of which pair, if the first picture takes a step along them.

    `present` and `absent` are as of `concept_vectors`, from a stage `layer` of the backbone. Returns bool (P, SEEDS)
    for the concept and for random concepts, and the accuracies (SEEDS,).
    """
    slopes = sensitivities(model, first, second, layer)
    vectors, accuracies = concept_vectors(present, absent)
    random, _ = concept_vectors(present, absent, chance=True)
    return slopes @ vectors.T > 0, slopes @ random.T > 0, accuracies


def tcav(cases: dict) -> pd.DataFrame:
    """Does a concept in the first picture raise the score? TCAV of pairs, with the statistics of protocol rule 19.

    `cases` are name, such as of a concept or a model -> what `raised` returns.

    Returns:
        Rows by name of value (share of pairs whose score the concept raises, mean over seeds), random (that share for
        random concepts), accuracy (mean, on held-out flowers), p (Welch's t-test between both shares over seeds),
        p_adjusted (Benjamini and Hochberg, over the cases).
    """
    rows = []
    for by_concept, by_chance, accuracies in cases.values():
        shares = [(one.mean(), one.mean(0).std(ddof=1), SEEDS) for one in (by_concept, by_chance)]
        p = ttest_ind_from_stats(*shares[0], *shares[1], equal_var=False).pvalue  # NaN if equal and never varying
        rows.append({"value": by_concept.mean(), "random": by_chance.mean(), "accuracy": np.mean(accuracies),
                     "p": np.nan_to_num(p, nan=1)})
    table = pd.DataFrame(rows, [*cases])
    return table.assign(p_adjusted=false_discovery_control(table["p"]))
