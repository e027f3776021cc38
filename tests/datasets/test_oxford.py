"""Oxford 102 Flowers: every form of its layout, parts that do not belong together, and the download."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from scipy.io import savemat
from toys import encoded, pack, smooth, write

from common.datasets.duplicates import find_duplicates

FLOWERS12 = Path(__file__).resolve().parents[3] / "shared" / "data" / "flowers12.zip"


def oxford(root: Path, labels=(1, 1, 2, 2, 3, 3), splits=((1, 3, 5), (2,), (4, 6))) -> Path:
    """The official layout, one small picture per label."""
    for number in range(1, len(labels) + 1):
        write(root / "jpg" / f"image_{number:05d}.jpg", encoded(smooth(number, 20)))
    savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(root / "setid.mat", dict(zip(("trnid", "valid", "tstid"), (np.array([ids]) for ids in splits))))
    return root


def beside(tmp_path: Path, root: Path) -> Path:
    """102flowers.tgz with the pictures, the .mat files beside it, as Oxford offers them."""
    folder = tmp_path / "download"
    folder.mkdir()
    for path in root.glob("*.mat"):
        shutil.copy(path, folder)
    pack(folder / "102flowers.tgz", root / "jpg", "jpg/")
    return folder


@pytest.mark.parametrize("form", ["folder", "outer folder", "zip", "nested zip", "tgz", "folder with tgz"])
def test_every_form_of_the_layout(load, tmp_path, form):
    root = oxford(tmp_path / "outer" / "flowers-102")
    data = {"folder": lambda: root, "outer folder": lambda: root.parent,
            "zip": lambda: pack(tmp_path / "f.zip", root), "nested zip": lambda: pack(tmp_path / "f.zip", root, "in/"),
            "tgz": lambda: beside(tmp_path, root) / "102flowers.tgz",
            "folder with tgz": lambda: beside(tmp_path, root)}[form]()
    image_set = load("flowers102", data)
    assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.class_names == ["species 1", "species 2", "species 3"]
    assert {name: part.tolist() for name, part in image_set.official.items()} == {
        "train": [0, 2, 4], "validation": [1], "test": [3, 5]}
    assert image_set.paths[0] == "jpg/image_00001.jpg" and image_set.name == "flowers102"


def test_names_stand_in_names_txt_or_are_the_published_ones(load, tmp_path):
    root = oxford(tmp_path / "three")
    (root / "names.txt").write_text("bluebell\nÅkerklocka\ncolts-foot\n", encoding="utf-8")
    assert load("flowers102", root).class_names == ["bluebell", "Åkerklocka", "colts-foot"]
    (root / "names.txt").write_text("bluebell\n")
    with pytest.raises(ValueError, match=r"names\.txt has 1 names for 3 species"):
        load("flowers102", root)
    every = oxford(tmp_path / "all", range(1, 103), ((1,), (2,), (3,)))
    names = load("flowers102", every).class_names
    assert names == list(getattr(torchvision.datasets.Flowers102, "classes", names)) and len(set(names)) == 102


def test_a_damaged_picture_does_not_shift_the_others(load, tmp_path, capsys):
    root = oxford(tmp_path / "set")
    whole = load("flowers102", root)
    write(root / "jpg" / "image_00002.jpg", b"")
    image_set = load("flowers102", root)
    assert "image_00002.jpg (the file is empty)" in capsys.readouterr().out
    assert (image_set.images == whole.images[[0, 2, 3, 4, 5]]).all()
    assert image_set.labels.tolist() == [0, 1, 1, 2, 2]
    assert {name: part.tolist() for name, part in image_set.official.items()} == {"train": [0, 1, 3], "test": [2, 4]}


@pytest.mark.parametrize("damage, message", [
    (lambda r: (r / "jpg/image_00006.jpg").unlink(), r"6 labels, but .*jpg has 5 pict.*image_00006"),
    (lambda r: shutil.copy(r / "jpg/image_00001.jpg", r / "jpg/image_00007.jpg"),
     r"imagelabels.mat has 6 labels, but .* 7 pict.*image_00007"),
    (lambda r: (r / "jpg/image_00002.jpg").rename(r / "jpg/rose.jpg"), r"6 labels, but .* 6 pictures.*same download"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": [[0, 1, 1, 2, 2, 3]]}), "label 0, but species count from 1"),
    (lambda r: savemat(r / "imagelabels.mat", {"other": [[1]]}), r"imagelabels.mat.*lacks the variable 'labels'"),
    (lambda r: write(r / "imagelabels.mat", b"nonsense"), r"imagelabels.mat is damaged"),
    (lambda r: write(r / "setid.mat", (r / "setid.mat").read_bytes()[:150]), r"setid.mat is damaged"),
    (lambda r: oxford(r, splits=((1, 3), (2,), (4, 7))), r"setid.mat: tstid names picture 7, but there are only 6"),
    (lambda r: oxford(r, splits=((0, 3), (2,), (4, 5))), r"trnid names picture 0"),
    (lambda r: oxford(r, splits=((1, 3), (2,), (3, 4))), r"picture 3 is in train and again in test"),
    (lambda r: (r / "setid.mat").unlink(), r"setid.mat is missing: put it beside"),
    (lambda r: shutil.rmtree(r / "jpg"), r"102flowers.tgz is missing")])
def test_parts_that_do_not_belong_together_are_refused(load, tmp_path, damage, message):
    root = oxford(tmp_path / "set")
    damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load("flowers102", root)


@pytest.fixture
def server(tmp_path, monkeypatch, serve):
    """A web server on this machine that stands in for Oxford's; returns the list of files it was asked for."""
    served = beside(tmp_path, oxford(tmp_path / "set"))
    address, asked = serve(served)
    flowers = torchvision.datasets.Flowers102
    sums = {key: (name, hashlib.md5((served / name).read_bytes()).hexdigest())
            for key, (name, _) in flowers._file_dict.items()}
    monkeypatch.setattr(flowers, "_file_dict", sums)
    monkeypatch.setattr(flowers, "_download_url_prefix", address)
    return asked


def test_flowers_are_downloaded_once(load, tmp_path, server, capsys):
    image_set = load("flowers102")
    assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2] and len(image_set.official) == 3
    assert "about 330 MB" in capsys.readouterr().out
    assert {path for _, path in server} == {"102flowers.tgz", "imagelabels.mat", "setid.mat"}
    server.clear()
    assert load("flowers102").fingerprint == image_set.fingerprint and server == []
    (tmp_path / "cache" / "flowers102" / "setid.mat").unlink()
    load("flowers102")
    assert {path for _, path in server} == {"setid.mat"}  # only what is missing


def test_a_download_with_a_wrong_checksum_is_not_kept(load, tmp_path, server, monkeypatch):
    monkeypatch.setitem(torchvision.datasets.Flowers102._file_dict, "label", ("imagelabels.mat", "0" * 32))
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded.*corrupted"):
        load("flowers102")
    assert [path.name for path in (tmp_path / "cache" / "flowers102").iterdir()] == ["102flowers.tgz"]


def test_without_a_network_it_says_what_to_put_where(load, tmp_path, server, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_download_url_prefix", "http://127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match=r"Without a network, put 102flowers.tgz, imagelabels.mat, setid.mat "
                                                r"into .*flowers102.*SIMILARITY_DATA") as caught:
        load("flowers102")
    place = tmp_path / "cache" / "flowers102"
    assert str(place) in str(caught.value) and list(place.iterdir()) == []
    for path in (tmp_path / "download").iterdir():  # following the advice helps
        shutil.copy(path, place)
    assert len(load("flowers102")) == 6


@pytest.mark.skipif(not FLOWERS12.exists(), reason=f"the photographs {FLOWERS12.name} are not on this machine")
def test_real_photographs(load):
    image_set = load("flowers102", FLOWERS12, size=48)
    assert len(image_set) == 720 and np.bincount(image_set.labels).tolist() == [60] * 12
    assert {name: len(part) for name, part in image_set.official.items()} == {
        "train": 360, "validation": 120, "test": 240}
    assert (image_set.files.problem == "").all() and image_set.class_names[0] == "bluebell"
    found = find_duplicates(image_set)  # copies and near-copies, all within a species
    assert len(found) == 36 and (image_set.labels[found["first"]] == image_set.labels[found["second"]]).all()
