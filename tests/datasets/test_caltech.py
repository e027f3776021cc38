"""Caltech-101: every way its folder may be packed, the background left out, and the download."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from toys import class_folder, encoded, pack, smooth, write

from common.datasets import caltech, decoding

CALTECH71 = Path(__file__).resolve().parents[3] / "shared" / "data" / "caltech71.zip"


def categories(root: Path) -> Path:
    """Caltech's folder of class folders, the background among them."""
    folder = class_folder(root / "101_ObjectCategories", ("Faces", "anchor", "yin_yang"), 2)
    write(folder / "BACKGROUND_Google" / "image_0001.jpg", encoded(smooth(9)))
    write(folder / "BACKGROUND_Google" / "tmp", b"not a picture")
    write(root / "101_ObjectCategories.txt", b"notes")
    return root


def as_published(tmp_path: Path) -> Path:
    """caltech-101.zip holding 101_ObjectCategories.tar.gz, as the real download does."""
    inner = tmp_path / "inner" / "caltech-101"
    inner.mkdir(parents=True)
    pack(inner / "101_ObjectCategories.tar.gz", categories(tmp_path / "set"))
    write(inner / "Annotations.tar", b"outlines")
    write(inner.parent / "__MACOSX" / "._caltech-101", b"x")
    return pack(tmp_path / "caltech-101.zip", inner.parent)


FORMS = {
    "folder": lambda tmp_path: categories(tmp_path / "set"),
    "the class folders themselves": lambda tmp_path: categories(tmp_path / "set") / "101_ObjectCategories",
    "outer folder": lambda tmp_path: categories(tmp_path / "outer" / "caltech-101").parent,
    "zip": lambda tmp_path: pack(tmp_path / "c.zip", categories(tmp_path / "set")),
    "tar.gz": lambda tmp_path: pack(tmp_path / "101_ObjectCategories.tar.gz", categories(tmp_path / "set")),
    "archive in an archive": as_published,
    "folder with that archive": lambda tmp_path: as_published(tmp_path).parent,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_layout(load, tmp_path, form, capsys):
    image_set = load("caltech101", FORMS[form](tmp_path))
    assert image_set.class_names == ["Faces", "anchor", "yin_yang"] and image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.paths[2] == "anchor/0.jpg" and image_set.name == "caltech101"
    assert image_set.official == {} and not image_set.disjoint
    assert "Left out: 1 pictures of BACKGROUND_Google" in capsys.readouterr().out


def test_a_place_without_the_folder_is_named(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"other has no folder 101_ObjectCategories: set SIMILARITY_DATA"):
        load("caltech101", class_folder(tmp_path / "other"))
    class_folder(tmp_path / "one" / "101_ObjectCategories", ("BACKGROUND_Google", "anchor"))
    with pytest.raises(ValueError, match="1 class folders"):
        load("caltech101", tmp_path / "one")


def test_it_is_downloaded_once(load, tmp_path, serve, monkeypatch, capsys):
    archive = as_published(tmp_path)
    address, asked = serve(tmp_path)
    monkeypatch.setattr(caltech, "ORIGIN", address)
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded.*corrupted"):
        load("caltech101")
    assert list((tmp_path / "cache" / "caltech101").iterdir()) == []
    monkeypatch.setattr(caltech, "FILES", {archive.name: hashlib.md5(archive.read_bytes()).hexdigest()})
    image_set = load("caltech101")
    assert len(image_set) == 6 and "about 137 MB" in capsys.readouterr().out
    asked.clear()
    assert load("caltech101").fingerprint == image_set.fingerprint and asked == []


def test_without_a_network_it_says_what_to_put_where(load, tmp_path, monkeypatch):
    monkeypatch.setattr(caltech, "ORIGIN", "http://127.0.0.1:9/")
    place = tmp_path / "cache" / "caltech101"
    with pytest.raises(FileNotFoundError, match=r"put caltech-101.zip into .*SIMILARITY_DATA") as caught:
        load("caltech101")
    assert str(caught.value).startswith("Caltech-101 cannot be downloaded") and str(place) in str(caught.value)
    as_published(tmp_path).rename(place / "caltech-101.zip")  # following the advice helps
    assert len(load("caltech101")) == 6


@pytest.mark.skipif(not CALTECH71.exists(), reason=f"the photographs {CALTECH71.name} are not on this machine")
def test_real_photographs(load, monkeypatch, capsys):
    blank = decoding.Picture(np.zeros((3, 8, 8), np.uint8), -1, "")  # which are read is asked here; decoding takes long
    monkeypatch.setattr(decoding, "read_picture", lambda *_: blank)
    image_set = load("caltech101", CALTECH71, size=8)
    assert "Left out: 467 pictures of BACKGROUND_Google" in capsys.readouterr().out
    assert len(image_set) == 7016 - 467 and len(image_set.class_names) == 70
    names = [image_set.class_names[label] for label in image_set.labels]
    assert names == [path.split("/")[0] for path in image_set.paths]
