"""A gallery that outgrows memory: embeddings in a Milvus collection, kept in a local file or by a cluster.

The address alone decides: "gallery.db" is a file of Milvus Lite, "http://host:19530" a server. Needs the packages of
requirements-extra.txt.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.evaluation.metrics import normalize

BATCH = 5_000  # embeddings sent at a time


def store(address: Path | str, name: str, batches: Iterable[np.ndarray]):
    """Make the collection `name`, in place of one of that name, of batches of embeddings, float (B, D), in order.

    Returns the connection that `search` takes. Embeddings are scaled to unit length and numbered from 0 on. Raises
    ImportError, saying what to install, where Milvus is missing.
    """
    client, count = connect(address), 0
    from pymilvus import DataType

    kind = "AUTOINDEX" if "://" in str(address) else "FLAT"  # of a million, a file's own index takes ten minutes
    client.drop_collection(name)
    for batch in batches:
        if not count:
            schema = client.create_schema().add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=batch.shape[1])
            index = client.prepare_index_params("vector", index_type=kind, metric_type="COSINE")
            client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
        unit = normalize(batch).astype(np.float32)
        for start in range(0, len(unit), BATCH):
            part = unit[start : start + BATCH]
            client.insert(name, [{"id": count + row, "vector": vector} for row, vector in enumerate(part)])
            count += len(part)
    return client


def connect(address: Path | str):
    """Open a file or a server that `store` has written to."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise ImportError("stored galleries need Milvus: pip install -r requirements-extra.txt") from error
    return MilvusClient(str(address))


def search(client, name: str, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `retrieval.nearest` by cosine: int64 (Q, k) numbers of embeddings and float32 (Q, k) similarities.

    How exact that is, is the index's affair: a local file is searched whole.
    """
    found = client.search(name, data=[*normalize(queries).astype(np.float32)], limit=k)
    numbers = [[hit["id"] for hit in row] for row in found]
    return np.array(numbers, np.int64), np.array([[hit["distance"] for hit in row] for row in found], np.float32)
