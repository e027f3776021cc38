"""Data sets by name: drawn flowers, one's own folder, Caltech-101, faces and persons; whole, packed and damaged."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from toys import REAL, class_folder, config, encoded, faces, pack, persons, smooth, write

from common.config import setup
from common.datasets import decoding, load_images, readers
from common.datasets.splits import make_splits
from common.flowers.rendering import render
from common.flowers.species import species_table


@pytest.mark.parametrize("dataset, error, message", [
    ("tulips", ValueError, r"'tulips'.*rendered, flowers102, caltech101, att_faces, reid, folder:PATH"),
    ("folder", ValueError, "SIMILARITY_DATA"), ("folder:nowhere", FileNotFoundError, "nowhere does not exist"),
    ("att_faces", FileNotFoundError, r"fetch .*att_faces.zip.*SIMILARITY_DATA"),
    ("reid", FileNotFoundError, r"fetch .*train/0002_c1s1_000451_03.jpg.*SIMILARITY_DATA")])
def test_what_cannot_be_read_says_what_to_do(tmp_path, dataset, error, message):
    with pytest.raises(error, match=message):
        load_images(config(tmp_path, dataset=dataset))


def test_rendered_flowers_are_drawn_once(load, monkeypatch):
    few = dict(species=3, pictures_per_species=2)
    drawn = [render(species, instance, 16) for species in species_table(3, 5) for instance in range(2)]
    image_set = load("rendered", seed=5, **few)
    assert (image_set.images == np.stack([picture.image for picture in drawn])).all()
    assert (image_set.parts == np.stack([picture.parts for picture in drawn])).all()
    assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2] and len(image_set.class_names) == 3
    assert image_set.files.bytes.tolist() == [len(picture.file) for picture in drawn]
    assert load("rendered", seed=6, **few).fingerprint != image_set.fingerprint
    monkeypatch.setattr("common.datasets.render", lambda *_: pytest.fail("drawn again"))
    again = load("rendered", seed=5, **few)
    assert again.fingerprint == image_set.fingerprint and again.factors.equals(image_set.factors)


@pytest.mark.parametrize("dataset, file, pictures, species", [
    ("att_faces", "at&t.zip", 400, [20, 7, 13]), ("reid", "reid120.zip", 2119, [60, 20, 40])])
def test_real_faces_and_persons(load, dataset, file, pictures, species):
    if not (REAL / file).exists():
        pytest.skip(f"{file} is not on this machine")
    image_set = load(dataset, REAL / file)
    assert len(image_set) == pictures and (image_set.files.problem == "").all()
    splits = make_splits(image_set, setup(dataset=dataset, device="cpu"))
    assert splits.protocols == ["open_set"]
    assert [len(np.unique(image_set.labels[part])) for part in splits.parts["open_set"].values()] == species
    if dataset == "reid":
        anchor, positive, negative = image_set.labels[image_set.triplets.T]
        assert len(anchor) == 106 and (anchor == positive).all() and (anchor != negative).all()
        assert set(image_set.cameras) == set(range(1, 7))


# --- a folder of one's own ---

def test_a_clean_folder_is_read_as_torchvision_reads_it(load, tmp_path, capsys):
    root = class_folder(tmp_path / "Zoë's flowers", ("rosa rugosa", "Iris", "花"), 2)
    write(root / "Iris" / "inner folder" / "deep.jpg", encoded(smooth(7)))
    image_set = load(f"folder:{root}")
    reference = torchvision.datasets.ImageFolder(root)
    assert image_set.class_names == reference.classes
    paths = dict(zip(image_set.paths, image_set.labels.tolist()))
    assert paths == {Path(path).relative_to(root).as_posix(): label for path, label in reference.samples}
    assert image_set.images.shape == (7, 3, 16, 16) and image_set.official == {} and image_set.parts is None
    assert capsys.readouterr().out == ""
    assert load("folder", data=root).fingerprint == image_set.fingerprint


def test_a_messy_folder_is_read_and_reported(load, tmp_path, capsys, monkeypatch):
    root = class_folder(tmp_path / "messy", ("a", "b"), 2)
    for name, content in {
        "a/gray.png": encoded(Image.new("L", (20, 30), 9), "PNG"), "a/cmyk.JPG": encoded(Image.new("CMYK", (40, 30))),
        "b/clear.webp": encoded(Image.new("RGBA", (9, 9)), "WEBP"), "single/only.png": encoded(smooth(1), "PNG"),
        "b/pixel.gif": encoded(Image.new("P", (1, 1)), "GIF"), "b/deep.tif": encoded(np.ones((8, 800), ">u2"), "TIFF"),
        "a/cut.jpg": encoded(smooth(2, 200))[:900], "a/empty.jpg": b"", "b/text.jpg": b"this is text",
        "lost/x.png": b"\x89PNG\r\n\x1a\n", "a/notes.txt": b"notes", "b/film.mpg": b"film", "loose.png": b"x",
        "a/.DS_Store": b"x", "a/._0.jpg": b"x", ".git/y.png": b"x", "nothing in it/.keep": b"",
        **{f"lost/{number}.png": b"" for number in range(9)}}.items():
        write(root / name, content)
    image_set = load(f"folder:{root}")
    output = capsys.readouterr().out
    assert image_set.class_names == ["a", "b", "single"] and image_set.name == "folder-messy"
    assert np.bincount(image_set.labels).tolist() == [4, 5, 1]
    assert len(image_set.files) == 23 and (image_set.files.problem != "").sum() == 13
    for line in ("a/cut.jpg (.*truncated", "a/empty.jpg (.*empty", "b/text.jpg (not a picture", "lost/0.png ("):
        assert len(re.findall(f"Damaged and left out: {line}".replace("(", r"\("), output)) == 1
    assert "Ignored 3 files" in output and all(n in output for n in ("a/notes.txt", "b/film.mpg", "loose.png"))
    assert "class 'single' has one picture" in output and "Class 'lost' is left out" in output
    assert "Class 'nothing in it' is left out: it holds no pictures" in output
    assert "3 more damaged files, 13 in all" in output and output.count("\n") == 15
    assert "DS_Store" not in output and output.count("Damaged and left out") == 10
    assert image_set.files.set_index("path").loc["a/gray.png", ["width", "height", "mode"]].tolist() == [20, 30, "L"]
    monkeypatch.setattr(decoding, "read_picture", lambda *_, **__: pytest.fail("decoded again"))
    assert load(f"folder:{root}").fingerprint == image_set.fingerprint
    assert capsys.readouterr().out == output, "the cache forgets no damage"


@pytest.mark.parametrize("suffix, prefix", [(".zip", ""), (".zip", "101_ObjectCategories/"), (".tgz", "data/faces/")])
def test_a_folder_may_be_packed(load, tmp_path, suffix, prefix, monkeypatch):
    root = class_folder(tmp_path / "set")
    archive = pack(tmp_path / f"my set{suffix}", root, prefix)
    image_set = load(f"folder:{archive}")
    assert (image_set.images == load(f"folder:{root}").images).all() and image_set.class_names == ["iris", "rose"]
    shutil.rmtree(tmp_path / "cache" / "archives")
    monkeypatch.setattr(decoding, "read_picture", lambda *_, **__: pytest.fail("decoded again"))
    load(f"folder:{archive}")  # unpacked again, but the decoded pictures still fit


# --- Caltech-101 ---

def categories(root: Path) -> Path:
    """Caltech's folder of class folders, the background among them."""
    folder = class_folder(root / "101_ObjectCategories", ("Faces", "anchor", "yin_yang"), 2)
    write(folder / "BACKGROUND_Google" / "image_0001.jpg", encoded(smooth(9)))
    write(folder / "BACKGROUND_Google" / "tmp", b"not a picture")
    return root


def as_published(tmp_path: Path) -> Path:
    """caltech-101.zip holding 101_ObjectCategories.tar.gz, as the real download does."""
    inner = write(tmp_path / "inner" / "caltech-101" / "Annotations.tar", b"outlines").parent
    pack(inner / "101_ObjectCategories.tar.gz", categories(tmp_path / "set"))
    write(inner.parent / "__MACOSX" / "._caltech-101", b"x")
    return pack(tmp_path / "caltech-101.zip", inner.parent)


@pytest.mark.parametrize("form", [
    lambda tmp_path: categories(tmp_path / "set"),
    lambda tmp_path: categories(tmp_path / "set") / "101_ObjectCategories",
    lambda tmp_path: categories(tmp_path / "outer" / "caltech-101").parent,
    lambda tmp_path: pack(tmp_path / "c.zip", categories(tmp_path / "set")),
    as_published, lambda tmp_path: as_published(tmp_path).parent])
def test_every_form_of_caltechs_layout(load, tmp_path, form, capsys):
    image_set = load("caltech101", form(tmp_path))
    assert image_set.class_names == ["Faces", "anchor", "yin_yang"] and image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.paths[2] == "anchor/0.jpg" and image_set.name == "caltech101"
    assert image_set.official == {} and not image_set.disjoint
    assert "Left out: 1 pictures of BACKGROUND_Google" in capsys.readouterr().out


def test_caltech_is_downloaded_once_or_missed_by_name(load, tmp_path, serve, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"other has no folder 101_ObjectCategories: set SIMILARITY_DATA"):
        load("caltech101", class_folder(tmp_path / "other"))
    archive = as_published(tmp_path)
    address, asked = serve(tmp_path)
    monkeypatch.setattr(readers, "CALTECH_ORIGIN", address)
    monkeypatch.setattr(readers, "CALTECH_FILES", {archive.name: hashlib.md5(archive.read_bytes()).hexdigest()})
    image_set = load("caltech101")
    assert len(image_set) == 6
    asked.clear()
    assert load("caltech101").fingerprint == image_set.fingerprint and asked == []


# --- faces and persons ---

def test_both_layouts_of_the_faces_are_the_same_set(load, tmp_path):
    image_set = load("att_faces", faces(tmp_path / "orl"))
    assert image_set.class_names == ["s1", "s2", "s10"] and image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.disjoint and image_set.official == {} and image_set.cameras is image_set.triplets is None
    assert (np.ptp(image_set.images, axis=1) == 0).all(), "gray"
    assert (image_set.images[:, :, [0, -1]] > 150).all(), "not cropped"
    tutorial = faces(tmp_path / "t", folders=("data/faces/training", "data/faces/testing"))
    for place in (tutorial, pack(tmp_path / "at&t.zip", tutorial), pack(tmp_path / "att_faces.zip", tmp_path / "orl")):
        assert load("att_faces", place).fingerprint == image_set.fingerprint
    assert load("att_faces", place).disjoint, "also out of the cache"


TABLE = "Anchor,Negative,Positive"
GOOD = ("0002_c1s1_000001_01.jpg", "0007_c1s1_000002_01.jpg", "0002_c3s1_000003_01.jpg")
OTHER = ("0009_c2s2_000005_02.jpg", "0002_c1s1_000001_01.jpg", "0009_c6s1_000004_01.jpg")
LONE = "0007_c2s1_000006_01.jpg"
NOBODYS = ("0000_c4s1_000008_01.jpg", "-1_c1s1_000009_01.jpg", "0000_c4s1_000008_01.jpg")


def three(root: Path, rows=(GOOD, OTHER, NOBODYS), header=TABLE, more=()) -> Path:
    """Three persons with two crops each, two crops of nobody, and `rows` in train.csv."""
    return persons(root, [*GOOD, *OTHER, LONE, *NOBODYS[:2], *more], rows, header)


def rows_of(image_set) -> list[tuple]:
    """The triplets as rows (anchor, negative, positive) of file names."""
    return [tuple(Path(image_set.paths[index]).name for index in row) for row in image_set.triplets[:, [0, 2, 1]]]


def test_names_give_identity_and_camera_and_the_table_gives_triplets(load, tmp_path, capsys):
    root = three(tmp_path / "set")
    write(root / "train" / "Thumbs.db", b"x")
    packed = pack(tmp_path / "reid.zip", root, "inside/")
    for place in (root, packed, root):  # the last one out of the cache
        image_set = load("reid", place)
        assert image_set.class_names == ["0002", "0007", "0009"] and image_set.disjoint
        assert "Left out: 2 pictures of the identities -1 and 0000" in capsys.readouterr().out
        assert (image_set.images[:, :, [0, -1]] > 150).all(), "not cropped"
        for path, label, camera in zip(image_set.paths, image_set.labels, image_set.cameras, strict=True):
            assert path.startswith(f"train/{image_set.class_names[label]}_c{camera}s")
        assert image_set.cameras.tolist() == [1, 3, 1, 2, 2, 6]
        assert image_set.triplets.dtype == np.int64 and rows_of(image_set) == [GOOD, OTHER]
    three(root, [(GOOD[0], GOOD[2], GOOD[1])], "Anchor,Positive,Negative")
    assert rows_of(load("reid", root)) == [GOOD], "columns are found by name"
    assert load("reid", three(root, [])).triplets.shape == (0, 3)
    (root / "train.csv").unlink()
    assert load("reid", root).triplets is None


def test_a_damaged_picture_takes_its_triplets_along_and_shifts_no_other(load, tmp_path, capsys):
    root = three(tmp_path / "set")
    write(root / "train" / GOOD[1], b"")  # only the first row needs it
    image_set = load("reid", root)
    output = capsys.readouterr().out
    assert f"train/{GOOD[1]} (the file is empty)" in output and "Left out: 2 of 3 triplets" in output
    assert len(image_set) == 5 and image_set.cameras.tolist() == [1, 3, 2, 2, 6] and rows_of(image_set) == [OTHER]
    write(root / "train" / LONE, b"")  # a whole person is lost, and the labels close up
    image_set = load("reid", root)
    assert image_set.class_names == ["0002", "0009"] and rows_of(image_set) == [OTHER]


WRONG = [(GOOD[0], GOOD[2], GOOD[1]), (GOOD[0], GOOD[2], GOOD[2]), (GOOD[0], GOOD[1], OTHER[0])]


@pytest.mark.parametrize("options, message", [
    (dict(rows=[OTHER, ("x.jpg", *GOOD[1:])]), r"train\.csv, row 3: Anchor 'x.jpg' is not in .*add the picture"),
    (dict(rows=[(GOOD[0], GOOD[1], "")]), "row 2: Positive ''"), (dict(rows=[GOOD[:2]]), "row 2: Positive None"),
    *[(dict(rows=[GOOD, row]), rf"row 3: {row[0]} .*{row[2]} .*{row[1]} is no triplet") for row in WRONG],
    *[(dict(header=header), r"train\.csv has the header .*Anchor,Positive,Negative")
      for header in ("", "Anchor,Positive", "anchor,negative,positive", f"{TABLE},Camera")],
    *[(dict(more=[name]), rf"{name} does not say who.*0002_c1s1_000451_03.jpg")
      for name in ("portrait.jpg", "0002_c1.jpg", "0002-c1s1_000451_03.jpg", "c1s1_000451_03.jpg")]])
def test_a_wrong_row_header_or_name_is_named(load, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load("reid", three(tmp_path / "set", **options))
    with pytest.raises(FileNotFoundError, match=r"faces has no folder train"):
        load("reid", faces(tmp_path / "faces"))


def test_folders_of_folders_are_no_classes(tmp_path, load):
    """A picture under train/ and one under test/ would otherwise be of two classes of that name."""
    for part in ("train", "test"):
        class_folder(tmp_path / "flowers" / part)
    with pytest.raises(ValueError, match=r"folders of folders \(test, train\).*such as .*flowers.test"):
        load(f"folder:{tmp_path / 'flowers'}")
    assert load(f"folder:{tmp_path / 'flowers' / 'train'}").class_names == ["iris", "rose"]
