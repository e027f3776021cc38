"""How long a million embeddings take to be stored and searched: `python -m benchmarks.stored [COUNT]`.

On two busy cores, Milvus Lite 3.2: stored in 110 s, 1,037 MB; 100 queries in 3.4 s, recall@10 1.000, where exact search
in memory took 1.5 s. The file has no index but the vectors: with Milvus's own, a program ended only when that was
built (ten minutes or more).
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from common.evaluation.retrieval import nearest
from common.evaluation.stored import search, store

count, generator = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, np.random.default_rng(0)
centers = generator.normal(size=(1_000, 128))
gallery = np.empty((count, 128), np.float32)
for part in np.array_split(gallery, max(1, count // 50_000)):
    part[:] = centers[generator.integers(0, 1_000, len(part))] + 0.5 * generator.normal(size=part.shape)
queries = gallery[:100] + 0.1 * generator.normal(size=(100, 128)).astype(np.float32)
with tempfile.TemporaryDirectory() as folder:
    started = time.perf_counter()
    client = store(Path(folder) / "gallery.db", "pictures", np.array_split(gallery, max(1, count // 50_000)))
    stored = time.perf_counter()
    numbers, _ = search(client, "pictures", queries, 10)
    searched = time.perf_counter()
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    exact, _ = nearest(queries, gallery, 10)
    ours = time.perf_counter()
recall = np.mean([len({*one} & {*other}) / 10 for one, other in zip(numbers, exact)])
print(f"{count:,} embeddings of 128 numbers: stored in {stored - started:.0f} s, {size / 1e6:.0f} MB")
print(f"100 queries: {searched - stored:.1f} s, recall@10 {recall:.3f}; exact search in memory {ours - searched:.1f} s")
