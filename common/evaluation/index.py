"""Embedding index: the embeddings of a picture set in one file, to find what is similar to a new picture."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.backbones import embed, evaluation_mode
from common.datasets.decoding import read_picture
from common.datasets.files import write_whole
from common.datasets.images import ImageSet
from common.evaluation.metrics import normalize
from common.evaluation.retrieval import nearest

REMEDY = "write it with save_embeddings"


def save_embeddings(path: Path | str, image_set: ImageSet, embeddings) -> None:
    """Write one row a picture: its path, its label (the name of its class), and its embedding in e0, e1, ...

    Args:
        path: ends in ".csv" or ".parquet", which needs pyarrow; written whole or not at all.
        image_set: N pictures.
        embeddings: float (N, D), stored as float32.

    Raises:
        ValueError: another ending, no pyarrow for ".parquet", or embeddings that do not fit or are not finite.
    """
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(image_set) or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings {embeddings.shape} must be finite and ({len(image_set)}, D) for {image_set}")
    labels = [image_set.class_names[label] for label in image_set.labels]
    names = pd.DataFrame({"path": image_set.paths, "label": labels}, dtype=object)  # a file's name may be no UTF-8
    table = pd.concat([names, pd.DataFrame(embeddings).add_prefix("e")], axis=1)
    if _is_parquet(Path(path)):
        write_whole(Path(path), lambda file: table.to_parquet(file, index=False))
    else:
        write_whole(Path(path), lambda file: table.to_csv(file, index=False, errors="surrogateescape"))


def read_embeddings(path: Path | str) -> pd.DataFrame:
    """Read what `save_embeddings` wrote, bit for bit: columns path, label, and float32 e0, e1, ...

    Raises:
        ValueError: the file is damaged or no such table, or ends in ".parquet" where pyarrow is missing.
    """
    parquet, names = _is_parquet(Path(path)), dict.fromkeys(("path", "label"), object)
    form = dict(dtype=names, na_filter=False, encoding_errors="surrogateescape")
    try:
        table = pd.read_parquet(path) if parquet else pd.read_csv(path, **form)
        numbers = [name for name in table if name not in names]
        right = list(table) == [*names, *(f"e{place}" for place in range(len(numbers)))] and numbers and len(table)
        if not right or not isinstance(table.index, pd.RangeIndex):  # pandas makes an index of surplus fields
            raise ValueError("it has not the columns path, label, e0, e1, ... with a row for each picture")
        table = table.astype(dict.fromkeys(numbers, np.float32))
        if not np.isfinite(table[numbers].to_numpy()).all():
            raise ValueError("some numbers are not finite")
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise for a damaged file, and the errors above
        raise ValueError(f"{path} is no table of embeddings ({error}): {REMEDY}") from error
    return table


def find_similar(
    model, picture_file: Path | str, table: pd.DataFrame, k: int, image_size: int, squeeze: bool = False
) -> pd.DataFrame:
    """The k pictures of an index that a model finds most similar to a picture file.

    The file itself is left out where the index holds it: where its path ends like the index's and both embeddings
    agree. A copy under another name is found.

    Args:
        model: the one that made the index.
        picture_file: any picture; prepared exactly as those of a data set are.
        table: what `read_embeddings` returns.
        k: how many to find.
        image_size: pixels of a side, as of the data set.
        squeeze: resize all of the picture instead of its central square, as for faces and persons.

    Returns:
        k rows of path, label, similarity, the most similar first.

    Raises:
        DamagedPicture: the file cannot be decoded.
        ValueError: the index was made by a model of another embedding size, or holds fewer than k other pictures.
    """
    query = embed(model, read_picture(picture_file, image_size, squeeze).image[None])
    gallery = table.drop(columns=["path", "label"]).to_numpy(np.float32)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"the index holds embeddings of length {gallery.shape[1]}, the model makes {query.shape[1]}: write the "
            "index with this model"
        )
    itself = _is_itself(Path(picture_file), query, table["path"], gallery)
    with evaluation_mode(model) as device:
        query, gallery = (torch.tensor(side, device=device) for side in (query, gallery))
        found, similarities = nearest(query, gallery, k, model.score_embeddings, lambda rows: itself[rows])
    return table.iloc[found[0]][["path", "label"]].reset_index(drop=True).assign(similarity=similarities[0])


def _is_itself(file: Path, query, paths, gallery) -> np.ndarray:
    """Which rows of the index are the query's own file: bool (1, G)."""
    folders = file.resolve().parts
    alike = np.array([folders[-len(Path(path).parts) :] == Path(path).parts for path in paths])
    return (alike & (normalize(gallery) @ normalize(query)[0] > 0.9999))[None]


def _is_parquet(path: Path) -> bool:
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: give a file that ends in .csv or .parquet")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError(f"{path}: Parquet needs the package pyarrow; install it, or choose .csv") from error
    return path.suffix == ".parquet"
