"""Search against loops, peers, worked cases and planted faults; a file gives back the embeddings stored in it."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from toys import image_set

from common.evaluation.retrieval import (
    cmc,
    nearest,
    queries_and_gallery,
    read_embeddings,
    retrieval,
    save_embeddings,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:overflow")
slow = settings(deadline=None, max_examples=25)
SIZE = 32  # pixels of a stored collection's pictures


def chunked(size):
    """Compare `size` queries and rows at a time."""
    return patch("common.evaluation.retrieval.CHUNK", size)


def distance_score(first, second):
    """A similarity that is no cosine."""
    return -(first - second).square().sum(-1)


def slow_similarity(one, other):
    length = math.dist(one, [0] * len(one)) * math.dist(other, [0] * len(other))
    return np.float32(sum(a * b for a, b in zip(one, other, strict=True)) / length if length else 0)


def slow_ranking(query, gallery, left, similarity):
    """Rows in `left`, the most similar first; sorting keeps the order of equals."""
    return sorted(left, key=lambda row: -similarity(query, gallery[row]))


SIMILARITIES = [(None, slow_similarity), (distance_score, lambda a, b: -np.square(a - b).sum())]


@slow
@given(st.integers(1, 7), st.integers(1, 12), st.integers(0, 99), st.integers(1, 9), st.data())
def test_nearest_in_loops(count, size, seed, chunk, data):
    generator = np.random.default_rng(seed)
    queries, gallery = generator.normal(size=(count, 3)), generator.normal(size=(size, 3))
    gone = generator.random((count, size)) < 0.4
    gone[:, 0] = False
    k = data.draw(st.integers(1, int((~gone).sum(1).min())))
    for similarity, reference in SIMILARITIES:
        with chunked(chunk):
            indices, values = nearest(queries, gallery, k, similarity, lambda rows: gone[rows])
        assert (indices.dtype, values.dtype) == (np.int64, np.float32)
        for query, found, similarities, out in zip(queries, indices, values, gone, strict=True):
            expected = slow_ranking(query, gallery, np.flatnonzero(~out), reference)[:k]
            assert found.tolist() == expected
            assert similarities == pytest.approx([reference(query, gallery[row]) for row in expected], abs=1e-5)


@slow
@given(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1e-30, 0.5, 3.0]), min_size=1, max_size=9), st.integers(1, 4))
def test_ties_keep_the_order_of_the_gallery(values, chunk):
    """One number each, multiplied: many ties, negative scores and both zeros."""
    gallery = np.array(values)[:, None]
    with chunked(chunk):
        indices, _ = nearest(np.ones((2, 1)), gallery, len(values), lambda a, b: (a * b)[..., 0])
    assert indices.tolist() == [sorted(range(len(values)), key=lambda row: -values[row])] * 2


@slow
@given(st.integers(0, 999), st.sampled_from([1e-9, 1e-7, 1e-5, 1.0]), st.integers(1, 20),
       st.sampled_from([1e-25, 1.0, 1e25]))  # fmt: skip
def test_a_shortlist_finds_what_exact_search_finds(seed, apart, k, length):
    """Also where cosines differ by less than single precision can tell, for copies, and for lengths beyond it."""
    generator = np.random.default_rng(seed)
    gallery = generator.normal(size=12) + apart * generator.normal(size=(200, 12))
    gallery[generator.integers(0, 200, 40)] = gallery[:40]
    queries, gone = generator.normal(size=(5, 12)), generator.random((5, 200)) < 0.2
    queries[:2] *= generator.integers(0, 2, (2, 1))  # zeros are as near to all
    queries[2] = gallery[0] + 1e-9 * queries[2]  # copies of one picture only lie near this one
    exact = (F.normalize(torch.tensor(queries)) @ F.normalize(torch.tensor(gallery * length)).T).float()
    exact[torch.tensor(gone)] = -torch.inf
    expected = exact.sort(descending=True, stable=True)
    found, similarities = nearest(queries, gallery * length, k, None, lambda rows: gone[rows])
    np.testing.assert_array_equal(found, expected.indices[:, :k])
    np.testing.assert_array_equal(similarities, expected.values[:, :k])


@given(st.integers(0, 999), st.integers(1, 12), st.integers(2, 5))
def test_of_equal_similarities_the_first_of_the_gallery_come(seed, k, kinds):
    """Also where the k-th has equals that are left out; compared with sorting by similarity and place."""
    values = torch.randint(kinds, (6, 40), generator=torch.Generator().manual_seed(seed)).float()
    found, similarities = nearest(torch.eye(6), torch.eye(40, 6), k, lambda one, _: one[:, 0] @ values)
    expected = [sorted(range(40), key=lambda place: (-row[place], place))[:k] for row in values.tolist()]
    assert found.tolist() == expected
    np.testing.assert_array_equal(similarities, np.take_along_axis(values.numpy(), found, 1))


def test_equal_pictures_are_equally_near_in_any_chunk():
    one = np.random.default_rng(0).normal(size=(1, 37))
    gallery = np.repeat(one, 70, axis=0) * np.linspace(0.1, 9, 70)[:, None]  # cosine 1 with each other
    for chunk in (1, 3, 64, 256):
        with chunked(chunk):
            indices, values = nearest(gallery[:9], gallery, 70)
        assert (indices == np.arange(70)).all() and (values == 1).all()


def test_nearest_worked_by_hand():
    gallery = np.array([[1, 0], [1, 1], [0, 2], [0, 0]], np.float32)
    indices, values = nearest(np.array([[3, 0], [-1, 0]], np.float32), gallery, 4)
    assert indices.tolist() == [[0, 1, 2, 3], [2, 3, 1, 0]], "a row of zeros has a cosine of 0 with everything"
    np.testing.assert_allclose(values, [[1, 0.5**0.5, 0, 0], [0, 0, -(0.5**0.5), -1]], atol=1e-7)
    indices, _ = nearest(gallery, torch.from_numpy(gallery), 1, distance_score, lambda rows: rows[:, None] == range(4))
    assert indices[:, 0].tolist() == [1, 0, 1, 0]


def test_few_rows_are_compared_at_a_time_and_without_gradients():
    seen, embeddings = [], torch.randn(50, 2, requires_grad=True)
    watched = lambda a, b: seen.append((len(a), b.shape[1])) or distance_score(a, b)  # noqa: E731
    with chunked(8):
        assert nearest(embeddings, embeddings, 3, watched)[0][:, 0].tolist() == list(range(50))
    assert max(seen) == (8, 8) and len(seen) == 49


@pytest.mark.parametrize("arguments, message", [
    (dict(k=0), "k is 0"), (dict(k=5), "k is 5, .* 4"),
    (dict(k=3, excluded=lambda rows: (rows[:, None] == 1) & (np.arange(4) < 2)), "query 1 .* k = 3"),
    (dict(queries=np.ones((3, 5))), r"queries \(3, 5\) and gallery \(4, 2\)"),
    (dict(queries=np.full((3, 2), np.nan)), "embeddings are not finite"),
    (dict(gallery=np.array([[1, 0], [np.inf, 1], [0, 1], [1, 1]])), "embeddings are not finite"),
    (dict(similarity=lambda a, b: (a * b)[..., 0] * np.nan), "similarities are not finite"),
])  # fmt: skip
def test_bad_searches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nearest(**(dict(queries=np.ones((3, 2)), gallery=np.eye(4, 2), k=1) | arguments))


def slow_rates(hits):
    """P@1, R-precision and MAP@R as Musgrave et al. 2020 define them; CMC@k; average precision by scikit-learn."""
    if not any(hits):
        return [math.nan] * 7
    relevant = sum(hits)
    precisions = [sum(hits[: place + 1]) / (place + 1) if hits[place] else 0.0 for place in range(relevant)]
    rates = [hits[0], sum(hits[:relevant]) / relevant, sum(precisions) / relevant]
    return [*rates, *(any(hits[:k]) for k in (1, 5, 10)), average_precision_score(hits, -np.arange(len(hits)))]


def slow_search(embeddings, labels, cameras, similarity):
    """What `slow_rates` gives for each query, in columns."""
    found = []
    for query, label, camera in zip(embeddings, labels, cameras, strict=True):
        left = np.flatnonzero((labels != label) | (cameras != camera))
        ranking = slow_ranking(query, embeddings, left, similarity)
        found.append(slow_rates([int(labels[row] == label) for row in ranking]))
    return np.array(found, float).T


@slow
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20), st.integers(0, 999),
       st.integers(1, 30), st.sampled_from(SIMILARITIES))  # fmt: skip
def test_retrieval_in_loops(pictures, seed, chunk, compared):
    labels, cameras = np.array(pictures).T
    similarity, reference = compared
    embeddings = np.random.default_rng(seed).normal(size=(len(labels), 3))
    with chunked(chunk):
        found = retrieval(embeddings, labels, similarity) | cmc(embeddings, labels, None, similarity)
        by_camera = cmc(embeddings, labels, cameras, similarity)
    ranks = ["cmc_at_1", "cmc_at_5", "cmc_at_10", "average_precision"]
    assert list(found) == ["precision_at_1", "r_precision", "map_at_r", *ranks] and list(by_camera) == ranks
    expected = slow_search(embeddings, labels, np.arange(len(labels)), reference)
    np.testing.assert_allclose([*found.values()], expected)
    np.testing.assert_allclose([*by_camera.values()], slow_search(embeddings, labels, cameras, reference)[3:])


def test_retrieval_worked_by_hand():
    degrees = np.radians([0, 10, 15, 40])  # from the first picture the others come as species 1, 0, 0
    embeddings, labels = np.stack([np.cos(degrees), np.sin(degrees)], 1), np.array([0, 1, 0, 0])
    found = retrieval(embeddings, labels)
    assert found["precision_at_1"].tolist()[0] == 0
    assert found["r_precision"].tolist()[0] == 0.5
    assert found["map_at_r"].tolist()[0] == pytest.approx((0 + 1 / 2) / 2)
    assert found["precision_at_1"].tolist()[3] == 1
    assert found["map_at_r"].tolist()[3] == pytest.approx((1 + 0) / 2)  # then species 1, then the first picture
    assert all(math.isnan(values[1]) for values in found.values()), "alone in its species"


def test_equal_embeddings_are_not_ranked_by_species():
    labels = np.array([0, 1] * 10)
    found = retrieval(np.ones((20, 2)), labels)
    assert found["precision_at_1"].mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(found["precision_at_1"][2:], labels[2:] == 0)  # all find the very first picture


def test_retrieval_agrees_with_pytorch_metric_learning():
    accuracies = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), [2, 3, 5, 8, 13, 4])
    embeddings = (generator.normal(size=(35, 4)) + generator.normal(size=(6, 4))[labels]).astype(np.float32)
    calculator = accuracies.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k=int(np.bincount(labels).max()),  # their MAP@R is wrong below the largest class
        device=torch.device("cpu"),
        knn_func=inference.CustomKNN(distances.CosineSimilarity()),
    )
    theirs = calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))
    ours = retrieval(embeddings, labels)
    assert 0.2 < theirs["mean_average_precision_at_r"] < 0.95
    for mine, their in (("precision_at_1", "precision_at_1"), ("r_precision", "r_precision"),
                        ("map_at_r", "mean_average_precision_at_r")):  # fmt: skip
        assert ours[mine].mean() == pytest.approx(theirs[their], abs=1e-6)


def test_cmc_worked_by_hand():
    degrees = np.radians([0, 1, 2, 5, 9.5, 50])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], 1)
    people, cameras = np.array([7, 7, 4, 7, 4, 9]), np.array([1, 1, 1, 2, 1, 1])
    found = cmc(embeddings, people, cameras)
    # The first picture: its twin of camera 1 does not count; then come 4, 7 (camera 2), 4, 9.
    assert [found[f"cmc_at_{k}"][0] for k in (1, 5, 10)] == [0, 1, 1]
    assert found["average_precision"][0] == pytest.approx(1 / 2)
    # The fourth, alone at camera 2, finds in turn 4 (3 degrees off), 7 (4), 4 (4.5), 7 (5), 9 (45).
    assert found["average_precision"][3] == pytest.approx((1 / 2 + 2 / 4) / 2)
    # Both 4 are of one camera, 9 is alone: no valid match.
    assert all(np.isnan(values[[2, 4, 5]]).all() for values in found.values())
    by_default = cmc(embeddings, people)
    assert by_default["cmc_at_1"][0] == 1, "without cameras only the query itself is ignored"
    assert by_default["average_precision"][0] == pytest.approx((1 + 2 / 3) / 2)


def test_labels_and_cameras_that_do_not_fit_are_refused():
    embeddings = np.eye(3)
    with pytest.raises(ValueError, match=r"labels \(2,\)"):
        retrieval(embeddings, [0, 0])
    with pytest.raises(ValueError, match=r"cameras \(3, 1\)"):
        cmc(embeddings, [0, 0, 0], np.ones((3, 1)))


def test_what_is_stored_comes_back_bit_for_bit(tmp_path):
    pictures = image_set(3, 4, class_names=["NA", "7", 'a "rose", red'])
    pictures.paths[:3] = ["null", "päth, 1.png", "\udce9.png"]
    embeddings = np.random.default_rng(0).normal(size=(12, 11)).astype(np.float32)
    embeddings[0, :5] = [1e-30, -0.0, 3e38, 1 / 3, np.nextafter(np.float32(1), np.float32(2))]
    save_embeddings(tmp_path / "new" / "table.csv", pictures, embeddings)
    table = read_embeddings(str(tmp_path / "new" / "table.csv"))
    assert list(table) == ["path", "label", *(f"e{place}" for place in range(11))]
    assert list(table["path"]) == pictures.paths
    assert list(table["label"]) == [pictures.class_names[label] for label in pictures.labels]
    assert (table.dtypes.iloc[2:] == np.float32).all()
    assert table.iloc[:, 2:].to_numpy().tobytes() == embeddings.tobytes()


@pytest.mark.parametrize("embeddings", [np.ones((3, 2)), np.ones(4), np.full((4, 2), np.nan), np.full((4, 2), 1e300)])
def test_embeddings_that_do_not_fit_are_refused(tmp_path, embeddings):
    with pytest.raises(ValueError, match=r"finite and \(4, D\)"):
        save_embeddings(tmp_path / "table.csv", image_set(2, 2), embeddings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [
    b"", b"\n", b"\x00\xff\xfe\x89PNG" * 9, b"path,label,e0\n", b"path,label\na,b\n", b"path,e0\na,1\n",
    b"path,label,e0,e2\na,b,1,2\n", b"path,label,e0,e1\na,b,1,2\nc,d,1\n", b"path,label,e0\na,b,x\n",
    b"path,label,e0\na,b,nan\n", b"path,label,e0\na,b,1e99\n", b"path,label,e0\na,b,1,2,3,4\n",
    b"first,second,same\n1,2,1\n", b"path,label,e0,e1\na,\"b,1,2\n",
])  # fmt: skip
def test_a_damaged_or_wrong_file_is_refused(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.csv .* save_embeddings"):
        read_embeddings(path)
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        read_embeddings(tmp_path / "other.csv")


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(1, 20), st.integers(0, 99))
def test_each_query_leaves_one_of_its_class_in_the_gallery(labels, count, seed):
    labels, indices = np.array(labels), np.arange(len(labels))
    most = len(labels) - len(np.unique(labels))
    if not most:
        with pytest.raises(ValueError, match="no two are of one class"):
            queries_and_gallery(labels, indices, count, seed)
        return
    queries, gallery = queries_and_gallery(labels, indices, count, seed)
    assert sorted([*queries, *gallery]) == [*indices] and len(queries) == min(count, most)
    assert set(labels[queries]) <= set(labels[gallery])
