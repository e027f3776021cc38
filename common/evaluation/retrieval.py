"""Search: the nearest neighbors of each picture, exactly, and what is measured on them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def nearest(
    queries, gallery, k: int, similarity: Callable | None = None, excluded: Callable | None = None, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of a gallery for each query, the most similar first; ties keep the gallery's order.

    All similarities are computed, `chunk` x G of them at a time, on the device the gallery lies on.

    Args:
        queries: float (Q, D), array or tensor.
        gallery: float (G, D), array or tensor.
        k: neighbors of each query.
        similarity: takes float32 tensors (C, 1, D) and (1, B, D), returns (C, B), higher is more similar; a model's
            `score_embeddings`, in evaluation mode, does. Default: cosine.
        excluded: takes int (C,), numbers of queries, returns bool (C, G): what must not come back, such as the query
            itself.
        chunk: queries, and gallery rows, compared at a time.

    Returns:
        int64 (Q, k) rows of the gallery, and their float32 (Q, k) similarities.

    Raises:
        ValueError: fewer than k rows are left for a query, a similarity that is not finite, or shapes that do not fit.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is {k}, but the gallery holds {len(gallery)}: choose k from 1 to {len(gallery)}")
    indices = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    for rows, order, values in _rankings(queries, gallery, k, similarity, excluded, chunk):
        left = np.isfinite(values).sum(axis=1)
        if left.min() < k:
            raise ValueError(
                f"query {rows[left.argmin()]} has {left.min()} rows of the gallery left once the excluded ones are "
                f"gone, fewer than k = {k}: choose a smaller k"
            )
        indices[rows], similarities[rows] = order, values
    return indices, similarities


def retrieval(embeddings, labels, similarity: Callable | None = None, chunk: int = 256) -> dict[str, np.ndarray]:
    """Search each picture among all others and rate what comes back.

    R is the number of other pictures of the query's class. P@1 asks whether the closest picture is of
    that class; R-precision is the share of the class among the R closest; MAP@R is the mean over the R
    closest of the precision at each hit (Musgrave et al. 2020, "A Metric Learning Reality Check").
    Ties are broken by picture order, never by class.

    Args:
        embeddings: float (N, D).
        labels: int (N,).
        similarity, chunk: as in `nearest`.

    Returns:
        "precision_at_1", "r_precision", "map_at_r" -> float (N,), NaN for a query that is alone in its class.
    """
    labels = _checked(embeddings, labels, "labels")
    numbers = np.unique(labels, return_inverse=True)[1]
    relevant = np.bincount(numbers)[numbers] - 1
    found = {name: np.full(len(labels), np.nan) for name in ("precision_at_1", "r_precision", "map_at_r")}
    deepest = max(int(relevant.max()), 1)
    itself = _alike(np.arange(len(labels)))
    for rows, closest, _ in _rankings(embeddings, embeddings, deepest, similarity, itself, chunk):
        hits = labels[closest] == labels[rows, None]
        count = relevant[rows]
        within = hits & (np.arange(deepest) < count[:, None])
        known, size = count > 0, np.maximum(count, 1)
        found["precision_at_1"][rows] = np.where(known, hits[:, 0], np.nan)
        found["r_precision"][rows] = np.where(known, within.sum(1) / size, np.nan)
        found["map_at_r"][rows] = np.where(known, _precision_at_hits(within) / size, np.nan)
    return found


def cmc(
    embeddings, labels, cameras=None, ranks: tuple[int, ...] = (1, 5, 10), similarity: Callable | None = None
) -> dict[str, np.ndarray]:
    """Search each picture among all others as person re-identification does (cumulative match characteristic).

    Pictures of the query's own identity from its own camera, the query among them, are neither right nor wrong: they
    are taken out of the gallery (Zheng et al. 2015, "Scalable Person Re-identification: A Benchmark", Market-1501).
    Ties are broken by picture order.

    Args:
        embeddings: float (N, D).
        labels: int (N,), the identities.
        cameras: int (N,); without them only the query itself is taken out.
        ranks: the k of CMC@k.
        similarity: as in `nearest`.

    Returns:
        "cmc_at_<k>" for each rank -> float (N,), 1 where one of the k closest is of the query's identity, else 0;
        "average_precision" -> float (N,), the mean over the whole ranking of the precision at each hit. NaN for a
        query whose identity is nowhere else in the gallery.
    """
    labels = _checked(embeddings, labels, "labels")
    cameras = np.arange(len(labels)) if cameras is None else _checked(embeddings, cameras, "cameras")
    found = {name: np.full(len(labels), np.nan) for name in [*(f"cmc_at_{k}" for k in ranks), "average_precision"]}
    for rows, order, values in _rankings(embeddings, embeddings, len(labels), similarity, _alike(labels, cameras), 256):
        hits = (labels[order] == labels[rows, None]) & np.isfinite(values)
        count = hits.sum(1)
        for k in ranks:
            found[f"cmc_at_{k}"][rows] = np.where(count > 0, hits[:, :k].any(1), np.nan)
        found["average_precision"][rows] = np.where(count > 0, _precision_at_hits(hits) / np.maximum(count, 1), np.nan)
    return found


@torch.inference_mode()
def _rankings(queries, gallery, k, similarity, excluded, chunk) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For `chunk` queries at a time: their numbers (C,), the k best rows (C, k), and similarities (C, k).

    Excluded rows come last, with a similarity of minus infinity.
    """
    gallery = _tensor(gallery)
    queries = _tensor(queries).to(gallery.device)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and gallery {tuple(gallery.shape)} must be (Q, D) and (G, D)")
    if similarity is None:  # rounded from float64, equal pictures are equally similar, whatever the chunk
        queries, gallery = F.normalize(queries.double()), F.normalize(gallery.double())
    for start in range(0, len(queries), chunk):
        part = queries[start : start + chunk]
        rows = np.arange(start, start + len(part))
        values = _similarities(part, gallery, similarity, chunk).float()
        if values.shape != (len(part), len(gallery)):
            raise ValueError(f"similarity gave {tuple(values.shape)} instead of {(len(part), len(gallery))}")
        if not values.isfinite().all():
            raise ValueError("some similarities are not finite: look for NaN or infinity in the embeddings")
        if excluded is not None:
            values[torch.as_tensor(excluded(rows), device=values.device)] = -torch.inf
        order = _sort_keys(values).topk(k).indices
        yield rows, order.cpu().numpy(), values.gather(1, order).cpu().numpy()


def _tensor(embeddings) -> Tensor:
    return embeddings if isinstance(embeddings, Tensor) else torch.tensor(np.asarray(embeddings))


def _alike(*columns) -> Callable:
    """The `excluded` of rows that equal the query in every column (N,), be it its number, identity or camera."""
    return lambda rows: np.all([column[rows, None] == column for column in columns], axis=0)


def _similarities(queries: Tensor, gallery: Tensor, similarity, chunk: int) -> Tensor:
    if similarity is None:
        return queries @ gallery.T
    queries, parts = queries.float(), gallery.float().split(chunk)
    return torch.cat([similarity(queries[:, None], part[None]) for part in parts], dim=1)


def _sort_keys(values: Tensor) -> Tensor:
    """int64 keys in the order of float32 (C, G), among equals the first column highest: topk then breaks no tie."""
    bits = (values + 0.0).view(torch.int32).long()  # minus zero becomes zero
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # negative floats are ordered backwards by their bits
    return (bits << 32) - torch.arange(values.shape[1], device=values.device)


def _precision_at_hits(hits) -> np.ndarray:
    """Sum over the hits of bool (C, k) of the precision up to each."""
    return (np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1) * hits).sum(1)


def _checked(embeddings, values, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (len(embeddings),):
        raise ValueError(f"{name} {values.shape} must be one for each of the {len(embeddings)} embeddings")
    return values
