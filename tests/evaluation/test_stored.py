"""A stored gallery finds what exact search finds, also after it was closed."""

import sys

import numpy as np
import pytest

from common.evaluation.retrieval import nearest
from common.evaluation.stored import connect, search, store

vectors = np.random.default_rng(0).normal(size=(700, 16)).astype(np.float32)


def test_what_is_stored_is_found_as_exactly_as_by_exact_search(tmp_path):
    pytest.importorskip("pymilvus", reason="pip install -r requirements-extra.txt")
    store(tmp_path / "gallery.db", "pictures", [vectors[::-1]])
    client = store(tmp_path / "gallery.db", "pictures", iter([vectors[:300], vectors[300:]]))
    expected, similarities = nearest(vectors[:40], vectors, 7)
    numbers, found = search(client, "pictures", vectors[:40], 7)
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(found, similarities, atol=1e-5)
    client.close()
    again, _ = search(connect(tmp_path / "gallery.db"), "pictures", 3 * vectors[:40], 7)
    np.testing.assert_array_equal(again, expected)


def test_without_milvus_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ImportError, match=r"requirements-extra\.txt"):
        store(tmp_path / "gallery.db", "pictures", [vectors])
