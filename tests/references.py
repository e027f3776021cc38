"""Slow references: what losses, miners and metrics say, in plain Python loops that follow their papers."""

import math
from itertools import permutations

import torch


def slow_value(embeddings, labels, centers):
    """Equation 2 of Wen et al. 2016, as a mean over the batch."""
    total = 0.0
    for embedding, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        total += sum((one - other) ** 2 for one, other in zip(embedding, centers[label].tolist(), strict=True)) / 2
    return total / len(labels)


def slow_center_update(embeddings, labels, centers):
    """Equation 4 of Wen et al. 2016: sum over members of (center - embedding) / (1 + number of members)."""
    updates = []
    for label, center in enumerate(centers.tolist()):
        members = [x for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True) if y == label]
        updates.append([
            sum(center[axis] - member[axis] for member in members) / (1 + len(members)) for axis in range(len(center))
        ])  # fmt: skip
    return torch.tensor(updates, dtype=torch.float64)


def slow_distances(embeddings):
    units = [[value / math.hypot(*row) for value in row] for row in embeddings.tolist()]
    return torch.tensor([[math.dist(one, other) for other in units] for one in units], dtype=torch.float64)


def rows(columns):
    """Columns of indices as a list of tuples."""
    return list(zip(*(column.tolist() for column in columns), strict=True))


def slow_triplets(labels):
    y, picks = labels.tolist(), permutations(range(len(labels)), 3)
    return [(a, p, n) for a, p, n in picks if y[a] == y[p] and y[a] != y[n]]


def slow_batch_hard(labels, distances):
    found = []
    for anchor in range(len(labels)):
        mine = [triplet for triplet in slow_triplets(labels) if triplet[0] == anchor]
        if mine:
            positive = max((p for _, p, _ in mine), key=lambda other: distances[anchor, other])
            found.append((anchor, positive, min((n for *_, n in mine), key=lambda other: distances[anchor, other])))
    return found


def slow_semi_hard(labels, distances):
    found = []
    for anchor, positive in sorted({(a, p) for a, p, _ in slow_triplets(labels)}):
        negatives = {n for a, p, n in slow_triplets(labels) if (a, p) == (anchor, positive)}
        farther = [n for n in negatives if distances[anchor, n] > distances[anchor, positive]]
        nearest = min(farther, key=lambda n: distances[anchor, n]) if farther else None
        farthest = max(negatives, key=lambda n: distances[anchor, n])
        found.append((anchor, positive, nearest if farther else farthest))
    return found


def direction(same):
    """-1 for same pairs, whose score an attack lowers, 1 for different ones."""
    return 1.0 - 2.0 * same


def optimum(model, first, second, same, eps):
    """The worst first pictures of a bilinear model: every pixel at the end of its interval that does harm."""
    slope = (model(second) @ model.weight.T).view(first.shape) * direction(same)[:, None, None, None]
    return (first + eps * slope.sign()).clamp(0, 1).detach()
