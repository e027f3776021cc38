"""Search: the nearest neighbors of each picture, exactly, what is measured on them, and a collection kept in a file."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from common.datasets.batches import exact
from common.datasets.files import reason, write_whole
from common.datasets.images import ImageSet
from common.evaluation.metrics import average_precision, map_at_r, precision_at_1, r_precision

SPARE = 16  # candidates that may be compared exactly beyond four for each neighbor asked for, which bounds memory
CHUNK = 256  # queries, and gallery rows, compared at a time, which bounds memory
CACHED = 2**11  # candidates compared at a time, which stay in a processor's cache
LARGEST = 2**26  # rough cosines kept at a time, 256 MiB
RANKS = (1, 5, 10)  # the k of CMC@k


def nearest(
    queries, gallery, k: int, similarity: Callable | None = None, excluded: Callable | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of a gallery for each query, the most similar first; ties keep the gallery's order.

    Exact search, a chunk at a time, on the device the gallery lies on.

    Args:
        queries, gallery: float (Q, D) and (G, D), arrays or tensors.
        similarity: of float32 tensors (C, 1, D) and (1, B, D), gives (C, B), such as a model's `score_embeddings` in
            evaluation mode; default: cosine.
        excluded: numbers of queries (C,) -> bool (C, G), what must not come back, such as the query itself.

    Returns:
        int64 (Q, k) rows of the gallery, and their float32 (Q, k) similarities.

    Raises:
        ValueError: fewer than k rows are left for a query, a similarity that is not finite, or shapes that do not fit.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is {k}, but the gallery holds {len(gallery)}: choose k from 1 to {len(gallery)}")
    indices, similarities = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for rows, order, values in _rankings(queries, gallery, k, similarity, excluded):
        if len(short := rows[~np.isfinite(values).all(axis=1)]):
            raise ValueError(f"query {short[0]} has fewer than k = {k} rows of the gallery left: choose a smaller k")
        indices[rows], similarities[rows] = order, values
    return indices, similarities


def queries_and_gallery(labels, indices, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw at most `count` of the pictures `indices` as queries, each of which leaves one of its class in the gallery.

    Returns int64 (Q,) and (G,), in random order; Q is small where classes are. ValueError where no class has two.
    """
    order = np.random.default_rng(seed).permutation(np.asarray(indices))
    _, last = np.unique(np.asarray(labels)[order][::-1], return_index=True)  # of each class, which stays
    free = np.setdiff1d(np.arange(len(order)), len(order) - 1 - last)[:count]
    if not len(free):
        raise ValueError(f"of {len(order)} pictures no two are of one class, so nothing can be searched: add pictures")
    return order[free], np.delete(order, free)


def retrieval(embeddings, labels, similarity: Callable | None = None) -> dict[str, np.ndarray]:
    """Search each picture among all others and rate what comes back.

    Returns:
        "precision_at_1", "r_precision", "map_at_r" -> float (N,), NaN for a query that is alone in its class.
    """
    found = {name: np.full(len(labels), np.nan) for name in ("precision_at_1", "r_precision", "map_at_r")}
    _, kinds, counts = np.unique(labels, return_inverse=True, return_counts=True)
    for rows, hits in _hits(embeddings, labels, None, similarity, counts.max(initial=1)):
        found["precision_at_1"][rows] = precision_at_1(hits)
        for name, rate in (("r_precision", r_precision), ("map_at_r", map_at_r)):
            found[name][rows] = rate(hits, counts[kinds[rows]] - 1)
    return found


def cmc(embeddings, labels, cameras=None, similarity: Callable | None = None) -> dict[str, np.ndarray]:
    """Search each picture among all others as person re-identification does (cumulative match characteristic).

    Pictures of the query's own identity from its own camera, the query among them, are neither right nor wrong: they
    are taken out of the gallery (Zheng et al. 2015, "Scalable Person Re-identification: A Benchmark", Market-1501).
    Without `cameras`, int (N,), only the query itself is taken out.

    Returns:
        "cmc_at_1", "cmc_at_5", "cmc_at_10" -> float (N,), 1 where one of the k closest is of the query's identity,
        else 0; "average_precision" -> float (N,), the mean over the whole ranking of the precision at each hit. NaN
        for a query whose identity is nowhere else in the gallery.
    """
    found = {name: np.full(len(labels), np.nan) for name in [*(f"cmc_at_{k}" for k in RANKS), "average_precision"]}
    for rows, hits in _hits(embeddings, labels, cameras, similarity, len(labels)):
        for k in RANKS:
            found[f"cmc_at_{k}"][rows] = hits[:, :k].any(1)
        found["average_precision"][rows] = average_precision(hits)
    return found


def save_embeddings(path: Path | str, image_set: ImageSet, embeddings) -> None:
    """Write a CSV, a row a picture: path, label (the name of its class), and the embedding in columns e0, e1, ..."""
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(image_set) or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings {embeddings.shape} must be finite and ({len(image_set)}, D) for {image_set}")
    labels = [image_set.class_names[label] for label in image_set.labels]
    names = pd.DataFrame({"path": image_set.paths, "label": labels}, dtype=object)  # a file's name may be no UTF-8
    table = pd.concat([names, pd.DataFrame(embeddings).add_prefix("e")], axis=1)
    write_whole(Path(path), lambda file: table.to_csv(file, index=False, errors="surrogateescape"))


def read_embeddings(path: Path | str) -> pd.DataFrame:
    """Read what `save_embeddings` wrote, bit for bit; a damaged file, or another table, is a ValueError."""
    kinds = defaultdict(lambda: np.float32, path=object, label=object)
    try:
        table = pd.read_csv(path, dtype=kinds, na_filter=False, encoding_errors="surrogateescape")
        numbers = [f"e{place}" for place in range(table.shape[1] - 2)]
        surplus = not isinstance(table.index, pd.RangeIndex)  # pandas makes an index of fields without a heading
        if list(table) != ["path", "label", *numbers] or not table.size or not numbers or surplus:
            raise ValueError("it has not the columns path, label, e0, e1, ... with a row for each picture")
        if not np.isfinite(table[numbers].to_numpy()).all():
            raise ValueError("some numbers are not finite")
    except ValueError as error:  # pandas' own errors are among them
        told = f"{path} is no table of embeddings ({reason(error)})"
        raise ValueError(f"{told}: write it with save_embeddings") from error
    return table


@torch.inference_mode()
def _rankings(queries, gallery, k, similarity, excluded) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For a chunk of queries at a time: their numbers (C,), the k best rows (C, k), and similarities (C, k).

    Excluded rows come last, with a similarity of minus infinity.
    """
    gallery = _tensor(gallery)
    queries = _tensor(queries).to(gallery.device)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and gallery {tuple(gallery.shape)} must be (Q, D) and (G, D)")
    if not all(part.sum().isfinite() or part.isfinite().all() for part in (queries, gallery)):  # a sum is quick
        raise ValueError("some embeddings are not finite: look for NaN or infinity in them")
    if similarity is None and gallery.device.type == "mps":  # Apple's has no float64
        queries, gallery = queries.cpu(), gallery.cpu()
    if similarity is None and gallery.device.type == "cpu" and 4 * k < len(gallery):  # else all is as quick exactly
        yield from _shortlisted(queries, gallery, k, excluded)
        return
    if similarity is None:
        queries, gallery = _exactly_unit(queries), _exactly_unit(gallery)
    for start in range(0, len(queries), CHUNK):
        values = _similarities(queries[start : start + CHUNK], gallery, similarity).float()
        rows = np.arange(start, start + len(values))
        if similarity is not None and not values.isfinite().all():
            raise ValueError("some similarities are not finite: look for NaN or infinity in the similarity")
        if excluded is not None:
            values.masked_fill_(torch.as_tensor(excluded(rows), device=values.device), -torch.inf)
        ranked, order = _best(values, k)
        yield rows, order.cpu().numpy(), ranked.cpu().numpy()


def _shortlisted(queries, gallery, k, excluded) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`_rankings` by exact cosines, computed only for what rough ones say may be among the k best.

    In NumPy, whose products and gathers are quicker than PyTorch's on a processor. The rough cosines of a query are a
    grid, (S, T): its k best are no worse than the k best maxima of columns.
    """
    size = min(4 * CHUNK, max(128, LARGEST // len(gallery)), len(queries))
    steps = int((len(gallery) / (2 * k)) ** 0.5)
    # Used again for each chunk, as new memory costs as much as a product; filled up to a whole grid.
    memory = np.full((size, steps, -(-len(gallery) // steps)), -np.inf, np.float32)
    asked, known = _unit(queries).numpy(), _unit(gallery).numpy()
    unit = _exactly_unit(queries).numpy()
    stored = (gallery if gallery.dtype == torch.float32 else exact(gallery)).numpy()
    for start in range(0, len(queries), size):
        rows = np.arange(start, min(start + size, len(queries)))
        grid = memory[: len(rows)]
        values = grid.reshape(len(rows), -1)[:, : len(gallery)]
        np.matmul(asked[rows], known.T, out=values)
        if excluded is not None:
            np.copyto(values, -np.inf, where=excluded(rows))
        columns, listed = _candidates(grid, k)
        if columns is None:  # many are alike, or too few are left
            cosines = torch.from_numpy(unit[rows]) @ _exactly_unit(gallery).T
            ranked, order = _best(cosines.float().where(torch.from_numpy(values > -np.inf), -torch.inf), k)
            yield rows, order.numpy(), ranked.numpy()
            continue
        cosines, few = np.empty(columns.shape), max(1, CACHED // columns.shape[1])
        for piece in (slice(first, first + few) for first in range(0, len(rows), few)):
            near = stored.take(columns[piece], axis=0).astype(float, copy=False)
            lengths = np.sqrt(np.einsum("cmd,cmd->cm", near, near))
            cosines[piece] = np.einsum("cd,cmd->cm", unit[rows[piece]], near) / lengths.clip(1e-12)
        cosines = np.where(listed, cosines, -np.inf).astype(np.float32)
        order = (-cosines).argsort(axis=1, kind="stable")[:, :k]
        yield rows, np.take_along_axis(columns, order, 1), np.take_along_axis(cosines, order, 1)


def _candidates(grid: np.ndarray, k: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Columns that hold each query's k best, (C, M) as they lie in the gallery, and which of them count, bool (C, M).

    None where a query has many.
    """
    maxima, most = grid.max(1), 4 * k + SPARE
    least = np.partition(maxima, -k, axis=1)[:, -k] - 1e-5  # more than single precision rounds off
    close = maxima >= least[:, None]
    if close.sum(1).max() > most or not np.isfinite(least).all():
        return None, None
    row, column = close.nonzero()
    found, step = (grid[row, :, column] >= least[row, None]).nonzero()
    row, column = row[found], step * grid.shape[2] + column[found]
    counts = np.bincount(row, minlength=len(grid))
    if counts.max() > most:
        return None, None
    listed = np.arange(counts.max()) < counts[:, None]
    columns = np.zeros(listed.shape, np.int64)
    columns[listed] = np.sort(row * grid[0].size + column) % grid[0].size
    return columns, listed


def _exactly_unit(embeddings: Tensor) -> Tensor:
    """Rows at unit length: cosines rounded from float64 make equal pictures equally similar, whatever the chunk."""
    return F.normalize(exact(embeddings))


def _unit(embeddings: Tensor) -> Tensor:
    """The same in single precision, unless that cannot hold a row's length."""
    lengths = torch.linalg.vector_norm(embeddings.float(), dim=1, keepdim=True)
    return (embeddings / lengths.clamp(min=1e-12) if lengths.isfinite().all() else _exactly_unit(embeddings)).float()


def _best(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns; of equal ones the first columns, which `topk` does not promise."""
    if 2 * k > values.shape[1]:
        ranked, order = values.sort(dim=1, descending=True, stable=True)
        return ranked[:, :k], order[:, :k]
    columns = values.topk(k + 1, sorted=False).indices.sort(dim=1).values
    ranked, places = values.gather(1, columns).sort(dim=1, descending=True, stable=True)
    order, cut = columns.gather(1, places), ranked[:, -1] == ranked[:, -2]  # others left out are perhaps as good
    order[cut] = values[cut].sort(dim=1, descending=True, stable=True).indices[:, : k + 1]
    return ranked[:, :k], order[:, :k]


def _tensor(embeddings) -> Tensor:
    return torch.as_tensor(embeddings if isinstance(embeddings, Tensor) else np.asarray(embeddings))


def _similarities(queries: Tensor, gallery: Tensor, similarity) -> Tensor:
    if similarity is None:
        return queries @ gallery.T
    parts = gallery.float().split(CHUNK)
    return torch.cat([similarity(queries[:, None].float(), part[None]) for part in parts], dim=1)


def _hits(embeddings, labels, cameras, similarity, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whether what is ranked is of the query's class, for the queries that have another picture to be found.

    A chunk at a time: numbers of the queries (C,), and hits (C, k) from the most similar on. What is of the query's
    class and camera, without cameras the query itself, is taken out.
    """
    labels = np.asarray(labels)
    cameras = np.arange(len(labels)) if cameras is None else np.asarray(cameras)
    if not labels.shape == cameras.shape == (len(embeddings),):
        raise ValueError(f"labels {labels.shape} and cameras {cameras.shape} must be ({len(embeddings)},)")
    excluded = lambda rows: (labels[rows, None] == labels) & (cameras[rows, None] == cameras)  # noqa: E731
    for rows, order, values in _rankings(embeddings, embeddings, k, similarity, excluded):
        hits = (labels[order] == labels[rows, None]) & np.isfinite(values)
        known = ((labels[rows, None] == labels) & (cameras[rows, None] != cameras)).any(1)
        yield rows[known], hits[known]
