"""Embedding index: a file gives back what was stored, and a query finds its like, prepared as the data set was."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from toys import class_folder, config, encoded, image_set, model, smooth, write

from common.backbones import embed
from common.datasets import load_images
from common.datasets.decoding import DamagedPicture
from common.evaluation.index import find_similar, read_embeddings, save_embeddings
from common.evaluation.metrics import cosine_scores

pytestmark = pytest.mark.filterwarnings("ignore:overflow")
SIZE = 32
FORMS = ["table.csv", "table.parquet"]


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures, one twice under different names, as a picture set."""
    root = class_folder(tmp_path / "pictures", ("iris", "rose"), each=4)
    write(root / "rose" / "copy.jpg", (root / "iris" / "0.jpg").read_bytes())
    return root, load_images(config(tmp_path, dataset=f"folder:{root}", data=root, image_size=SIZE))


def as_table(image_set, embeddings) -> pd.DataFrame:
    names = pd.DataFrame({"path": image_set.paths, "label": np.array(image_set.class_names)[image_set.labels]})
    return names.join(pd.DataFrame(embeddings, columns=[f"e{place}" for place in range(embeddings.shape[1])]))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_stored_comes_back_bit_for_bit(tmp_path, name):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which is optional")
    pictures = image_set(3, 4, class_names=["NA", "7", 'a "rose", red'])
    pictures.paths[:3] = ["null", "päth, 1.png", "\udce9.png" if name.endswith(".csv") else "é.png"]
    embeddings = np.random.default_rng(0).normal(size=(12, 11)).astype(np.float32)
    embeddings[0, :5] = [1e-30, -0.0, 3e38, 1 / 3, np.nextafter(np.float32(1), np.float32(2))]
    save_embeddings(tmp_path / "new" / name, pictures, embeddings)
    table = read_embeddings(str(tmp_path / "new" / name))
    assert list(table) == ["path", "label", *(f"e{place}" for place in range(11))]
    assert list(table["path"]) == pictures.paths
    assert list(table["label"]) == [pictures.class_names[label] for label in pictures.labels]
    assert (table.dtypes.iloc[2:] == np.float32).all()
    assert table.iloc[:, 2:].to_numpy().tobytes() == embeddings.tobytes()
    assert [file.name for file in (tmp_path / "new").iterdir()] == [name]


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path, pictures = tmp_path / "table.csv", image_set(2, 2)
    save_embeddings(path, pictures, np.ones((4, 2)))

    def half(self, file, **options):
        file.write_text("path,lab")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="disk full"):
        save_embeddings(path, pictures, np.zeros((4, 2)))
    assert read_embeddings(path)["e0"].eq(1).all() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("embeddings", [np.ones((3, 2)), np.ones(4), np.full((4, 2), np.nan), np.full((4, 2), 1e300)])
def test_embeddings_that_do_not_fit_are_refused(tmp_path, embeddings):
    with pytest.raises(ValueError, match=r"must be finite and \(4, D\) for ImageSet\(made-up"):
        save_embeddings(tmp_path / "table.csv", image_set(2, 2), embeddings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"\x00\xff\xfe\x89PNG" * 9, b"path,label,e0\n", b"path,label\na,b\n", b"path,e0\na,1\n",
        b"path,label,e0,e2\na,b,1,2\n", b"path,label,e0,e1\na,b,1,2\nc,d,1\n", b"path,label,e0\na,b,x\n",
        b"path,label,e0\na,b,nan\n", b"path,label,e0\na,b,1e99\n", b"path,label,e0\na,b,1,2,3,4\n",
        b"first,second,same\n1,2,1\n", b"path,label,e0,e1\na,\"b,1,2\n",
    ],
)  # fmt: skip
def test_a_damaged_or_wrong_file_is_refused(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.csv is no table of embeddings .*: write it with save_embeddings"):
        read_embeddings(path)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which is optional")
    path = tmp_path / "table.parquet"
    save_embeddings(path, image_set(2, 2), np.ones((4, 2)))
    for content in (path.read_bytes()[:-20], b"", b"path,label,e0\na,b,1\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no table of embeddings"):
            read_embeddings(path)
    pd.DataFrame({"path": ["a"], "label": ["b"], "e0": ["x"]}).to_parquet(path)
    with pytest.raises(ValueError, match="is no table of embeddings"):
        read_embeddings(path)


def test_without_pyarrow_the_error_names_csv(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "table.parquet"
    for use in (lambda: save_embeddings(path, image_set(2, 2), np.ones((4, 2))), lambda: read_embeddings(path)):
        with pytest.raises(ValueError, match=r"pyarrow; install it, or choose \.csv"):
            use()


def test_other_endings_and_missing_files(tmp_path):
    for name in ("table.txt", "table", "table.csv.gz"):
        with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet"):
            save_embeddings(tmp_path / name, image_set(2, 2), np.ones((4, 2)))
    with pytest.raises(FileNotFoundError, match=r"table\.csv"):
        read_embeddings(tmp_path / "table.csv")


def test_a_query_is_prepared_as_the_data_set_was_and_finds_its_like(folder, tmp_path):
    root, pictures = folder
    net = model()
    embeddings = embed(net, pictures.images)
    save_embeddings(tmp_path / "table.csv", pictures, embeddings)
    table = read_embeddings(tmp_path / "table.csv")
    query = pictures.paths.index("iris/0.jpg")
    pairs = np.array([[query, other] for other in range(len(pictures)) if other != query])
    expected = pd.Series(cosine_scores(embeddings, pairs), pairs[:, 1]).sort_values(ascending=False)
    found = find_similar(net, root / "iris" / "0.jpg", table, 8, SIZE)
    assert list(found) == ["path", "label", "similarity"] and list(found.index) == list(range(8))
    assert list(found["path"]) == [pictures.paths[other] for other in expected.index]
    np.testing.assert_allclose(found["similarity"], expected, atol=1e-5)
    first = found.iloc[0]
    assert (first["path"], first["label"]) == ("rose/copy.jpg", "rose"), "a copy under another name is found"
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=r"query 0 has 8 rows .* fewer than k = 9"):
        find_similar(net, root / "iris" / "0.jpg", table, 9, SIZE)


def test_only_the_very_file_is_left_out(folder, tmp_path):
    root, pictures = folder
    net = model()
    table = as_table(pictures, embed(net, pictures.images))
    same_name = write(tmp_path / "elsewhere" / "iris" / "0.jpg", encoded(smooth(999)))
    assert "iris/0.jpg" in set(find_similar(net, same_name, table, 9, SIZE)["path"]), "another picture of that name"
    other_name = write(tmp_path / "new.jpg", (root / "iris" / "0.jpg").read_bytes())
    assert set(find_similar(net, other_name, table, 2, SIZE)["path"]) == {"iris/0.jpg", "rose/copy.jpg"}


def test_a_relative_path_is_the_same_file(folder, monkeypatch):
    root, pictures = folder
    net = model()
    monkeypatch.chdir(root / "iris")
    found = find_similar(net, "0.jpg", as_table(pictures, embed(net, pictures.images)), 8, SIZE)
    assert "iris/0.jpg" not in set(found["path"])


def test_the_model_is_asked_not_the_cosine(folder):
    root, pictures = folder
    net = model()
    table = as_table(pictures, embed(net, pictures.images))
    nearest = find_similar(net, root / "iris" / "1.jpg", table, 8, SIZE)
    modes = []
    net.score_embeddings = lambda a, b: modes.append(net.training) or -torch.cosine_similarity(a, b, dim=-1)
    farthest = find_similar(net, root / "iris" / "1.jpg", table, 8, SIZE)
    np.testing.assert_allclose(farthest["similarity"], -nearest["similarity"][::-1], atol=1e-6)
    assert not any(modes) and net.training


def test_bad_queries_are_refused(folder, tmp_path):
    root, pictures = folder
    table = as_table(pictures, np.ones((len(pictures), 5)))
    with pytest.raises(DamagedPicture, match=r"no\.jpg"):
        find_similar(model(), write(tmp_path / "no.jpg", b"no picture"), table, 1, SIZE)
    with pytest.raises(ValueError, match=r"length 5, the model makes 8: write the index with this model"):
        find_similar(model(), root / "iris" / "0.jpg", table, 1, SIZE)
