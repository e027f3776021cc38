"""Data sets by name: drawn flowers, one's own folder, Caltech-101, faces and persons; whole, packed and damaged."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from toys import class_folder, config, encoded, pack, smooth, write

from common.config import setup
from common.datasets import decoding, load_images, readers
from common.datasets.splits import make_splits
from common.flowers.rendering import render
from common.flowers.species import species_table

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FACES, PERSONS = DATA / "at&t.zip", DATA / "reid120.zip"


@pytest.mark.parametrize("dataset, error, message", [
    ("tulips", ValueError, r"'tulips'.*rendered, flowers102, caltech101, att_faces, reid, folder:PATH"),
    ("folder", ValueError, "SIMILARITY_DATA"),
    ("folder:nowhere", FileNotFoundError, "nowhere does not exist"),
    ("att_faces", FileNotFoundError, r"fetch .*att_faces.zip.*set SIMILARITY_DATA"),
    ("reid", FileNotFoundError, r"fetch .*train/0002_c1s1_000451_03.jpg.*set SIMILARITY_DATA")])
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
    monkeypatch.setattr("common.datasets.render", lambda *_: pytest.fail("drawn again"))
    again = load("rendered", seed=5, **few)
    assert again.fingerprint == image_set.fingerprint and again.factors.equals(image_set.factors)
    monkeypatch.undo()
    assert load("rendered", seed=6, **few).fingerprint != image_set.fingerprint


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


def messy_folder(root: Path) -> Path:
    """Two good classes in many formats, a class with one picture, one without any good one, and much besides."""
    class_folder(root, ("a", "b"), 2)
    write(root / "a" / "gray.png", encoded(Image.new("L", (20, 30), 9), "PNG"))
    write(root / "a" / "cmyk.JPG", encoded(Image.new("CMYK", (40, 30)), "JPEG"))
    write(root / "b" / "clear.webp", encoded(Image.new("RGBA", (9, 9)), "WEBP"))
    write(root / "b" / "one pixel.gif", encoded(Image.new("P", (1, 1)), "GIF"))
    write(root / "b" / "deep.tif", encoded(np.full((8, 800), 999, np.uint16), "TIFF"))
    write(root / "single" / "only.png", encoded(smooth(1), "PNG"))
    write(root / "a" / "cut.jpg", encoded(smooth(2, 200))[:900])
    write(root / "a" / "empty.jpg", b"")
    write(root / "b" / "text.jpg", b"this is text")
    write(root / "lost" / "x.png", b"\x89PNG\r\n\x1a\n")
    write(root / "a" / "notes.txt", b"notes")
    write(root / "b" / "film.mpg", b"film")
    write(root / "loose.png", encoded(smooth(3), "PNG"))
    write(root / "a" / ".DS_Store", b"x")
    write(root / "a" / "._0.jpg", b"x")
    write(root / ".git" / "y.png", encoded(smooth(4), "PNG"))
    (root / "nothing in it").mkdir()
    return root


def test_a_messy_folder_is_read_and_reported(load, tmp_path, capsys, monkeypatch):
    root = messy_folder(tmp_path / "messy")
    image_set = load(f"folder:{root}")
    output = capsys.readouterr().out
    assert image_set.class_names == ["a", "b", "single"] and image_set.name == "folder-messy"
    assert np.bincount(image_set.labels).tolist() == [4, 5, 1]
    assert len(image_set.files) == 14 and (image_set.files.problem != "").sum() == 4
    lines = output.splitlines()
    for name, reason in (("a/cut.jpg", "truncated"), ("a/empty.jpg", "empty"), ("b/text.jpg", "not a picture"),
                         ("lost/x.png", "")):
        assert sum(line.startswith(f"Damaged and left out: {name} (") and reason in line for line in lines) == 1
    assert "Ignored 3 files" in output and all(n in output for n in ("a/notes.txt", "b/film.mpg", "loose.png"))
    assert "class 'single' has one picture" in output and "Class 'lost' is left out" in output
    assert "DS_Store" not in output and len(lines) == 7
    assert image_set.files.set_index("path").loc["a/gray.png", ["width", "height", "mode"]].tolist() == [20, 30, "L"]
    monkeypatch.setattr(decoding, "read_picture", lambda *_, **__: pytest.fail("decoded again"))
    assert load(f"folder:{root}").fingerprint == image_set.fingerprint
    assert capsys.readouterr().out == output, "the cache forgets no damage"


def test_beyond_ten_damaged_files_only_their_number_is_printed(load, tmp_path, capsys):
    root = class_folder(tmp_path / "set")
    for number in range(13):
        write(root / "iris" / f"x{number}.jpg", b"")
    load(f"folder:{root}")
    output = capsys.readouterr().out
    assert output.count("Damaged and left out") == 10 and "3 more damaged files, 13 in all" in output


@pytest.mark.parametrize("classes", [(), ("one",)])
def test_fewer_than_two_classes_are_refused(load, tmp_path, classes):
    root = class_folder(tmp_path / "set", classes)
    write(root / "bad" / "1.jpg", b"x")
    with pytest.raises(ValueError, match=rf"set has {len(classes)} classes.*folder of its own; bad/1.jpg: not a"):
        load(f"folder:{root}")


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("prefix", ["", "101_ObjectCategories/", "data/faces/"])
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
    "archive in an archive": as_published,
    "folder with that archive": lambda tmp_path: as_published(tmp_path).parent,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_caltechs_layout(load, tmp_path, form, capsys):
    image_set = load("caltech101", FORMS[form](tmp_path))
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


# --- the AT&T faces ---

def faces(root: Path, persons=(1, 2, 10), folders=("",)) -> Path:
    """Two gray pictures a person, PGM as the real ones, white above and below; persons take turns over `folders`."""
    for place, person in enumerate(persons):
        for number in (1, 2):
            pixels = np.array(Image.fromarray(smooth(10 * person + number)[..., 0] // 4).resize((92, 112)))
            pixels[:8] = pixels[-8:] = 255
            write(root / folders[place % len(folders)] / f"s{person}" / f"{number}.pgm", encoded(pixels, "PPM"))
    write(root / "README", b"The ORL face database")
    return root


def test_both_layouts_of_the_faces_are_the_same_set(load, tmp_path):
    image_set = load("att_faces", faces(tmp_path / "orl"), size=28)
    assert image_set.class_names == ["s1", "s2", "s10"] and image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.disjoint and image_set.official == {} and image_set.cameras is image_set.triplets is None
    assert (np.ptp(image_set.images, axis=1) == 0).all(), "gray in three equal channels"
    assert (image_set.images[:, :, [0, -1]] > 200).all() and (image_set.images[:, :, 8:20] < 80).all(), "not cropped"
    tutorial = faces(tmp_path / "t", folders=("data/faces/training", "data/faces/testing"))
    for place in (tutorial, pack(tmp_path / "at&t.zip", tutorial), pack(tmp_path / "att_faces.zip", tmp_path / "orl")):
        assert load("att_faces", place, size=28).fingerprint == image_set.fingerprint
    assert load("att_faces", place, size=28).disjoint, "also out of the cache"


@pytest.mark.skipif(not FACES.exists(), reason=f"the faces {FACES.name} are not on this machine")
def test_real_faces(load):
    image_set = load("att_faces", FACES, size=32)
    assert np.bincount(image_set.labels).tolist() == [10] * 40 and (image_set.files.problem == "").all()
    assert image_set.class_names == [f"s{person}" for person in range(1, 41)]
    splits = make_splits(image_set, setup(dataset="att_faces", device="cpu"))
    assert splits.protocols == ["open_set"]
    assert [len(part) for part in splits.parts["open_set"].values()] == [200, 70, 130]


# --- persons ---

TABLE = "Anchor,Negative,Positive"
GOOD = ("0002_c1s1_000001_01.jpg", "0007_c1s1_000002_01.jpg", "0002_c3s1_000003_01.jpg")
OTHER = ("0009_c2s2_000005_02.jpg", "0002_c1s1_000001_01.jpg", "0009_c6s1_000004_01.jpg")


def persons(root: Path, rows=(GOOD, OTHER), header=TABLE, junk=()) -> Path:
    """Three persons with two crops each, white above and below; `rows` in train.csv."""
    names = [*GOOD, *OTHER, "0007_c2s1_000006_01.jpg", *junk]
    for number, name in enumerate(dict.fromkeys(names)):
        pixels = np.array(Image.fromarray(smooth(number) // 4).resize((64, 128)))
        pixels[:16] = pixels[-16:] = 255
        write(root / "train" / name, encoded(pixels))
    write_table(root, rows, header)
    return root


def write_table(root: Path, rows, header=TABLE) -> None:
    write(root / "train.csv", "\n".join([header, *(",".join(row) for row in rows)]).encode())


def named(image_set) -> list[list[str]]:
    """Triplets (anchor, positive, negative) as file names."""
    return [[Path(image_set.paths[index]).name for index in row] for row in image_set.triplets]


def turned(row) -> list[str]:
    """A row of the table in the order of the array."""
    return [row[0], row[2], row[1]]


def test_names_give_identity_and_camera_and_the_table_gives_triplets(load, tmp_path):
    root = persons(tmp_path / "set")
    write(root / "train" / "Thumbs.db", b"x")
    image_set = load("reid", root)
    assert image_set.class_names == ["0002", "0007", "0009"] and image_set.disjoint
    for path, label, camera in zip(image_set.paths, image_set.labels, image_set.cameras, strict=True):
        assert path.startswith(f"train/{image_set.class_names[label]}_c{camera}s")
    assert image_set.cameras.tolist() == [1, 3, 1, 2, 2, 6]
    assert (image_set.images[:, :, [0, -1]] > 200).all() and (image_set.images[:, :, 5:11] < 80).all(), "not cropped"
    assert image_set.triplets.dtype == np.int64 and named(image_set) == [turned(GOOD), turned(OTHER)]
    packed = load("reid", pack(tmp_path / "reid.zip", root, "inside/"))
    assert packed.fingerprint == image_set.fingerprint and named(packed) == named(image_set)
    again = load("reid", root)  # out of the cache
    assert again.cameras.tolist() == image_set.cameras.tolist() and (again.triplets == image_set.triplets).all()


def test_the_table_may_be_missing_or_changed(load, tmp_path):
    root = persons(tmp_path / "set", rows=(OTHER, GOOD))
    assert named(load("reid", root)) == [turned(OTHER), turned(GOOD)]
    write_table(root, [turned(GOOD)], "Anchor,Positive,Negative")
    assert named(load("reid", root)) == [turned(GOOD)], "columns are found by name"
    write_table(root, [])
    assert load("reid", root).triplets.shape == (0, 3)
    (root / "train.csv").unlink()
    assert load("reid", root).triplets is None


def test_a_damaged_picture_takes_its_triplets_along_and_shifts_no_other(load, tmp_path, capsys):
    root = persons(tmp_path / "set")
    write(root / "train" / GOOD[1], b"")  # only the first row needs it
    image_set = load("reid", root)
    output = capsys.readouterr().out
    assert f"train/{GOOD[1]} (the file is empty)" in output and "Left out: 1 of 2 triplets" in output
    assert len(image_set) == 5 and image_set.cameras.tolist() == [1, 3, 2, 2, 6]
    assert named(image_set) == [turned(OTHER)]
    write(root / "train" / "0007_c2s1_000006_01.jpg", b"")  # a whole person is lost, and the labels close up
    image_set = load("reid", root)
    assert image_set.class_names == ["0002", "0009"] and named(image_set) == [turned(OTHER)]


def test_nobody_is_left_out(load, tmp_path, capsys):
    junk = ("-1_c1s1_000009_01.jpg", "0000_c4s1_000008_01.jpg")
    image_set = load("reid", persons(tmp_path / "set", rows=(GOOD, (GOOD[0], junk[0], GOOD[2])), junk=junk))
    output = capsys.readouterr().out
    assert len(image_set) == 6 and image_set.class_names == ["0002", "0007", "0009"]
    assert "Left out: 2 pictures of the identities -1 and 0000" in output and "Left out: 1 of 2 triplets" in output
    assert named(image_set) == [turned(GOOD)]


@pytest.mark.parametrize("row, message", [
    (("x.jpg", *GOOD[1:]), r"Anchor 'x.jpg' is not in .*train: add the picture or remove the row"),
    ((GOOD[0], GOOD[1], ""), r"Positive '' is not in"),
    ((GOOD[0], GOOD[1]), r"Positive None is not in"),
    ((GOOD[0], GOOD[2], GOOD[1]), r"0002_c1.* with Positive 0007.* is no triplet: .*correct"),
    ((GOOD[0], GOOD[2], GOOD[2]), r"Negative 0002_c3.* is no triplet"),
    ((GOOD[0], GOOD[1], OTHER[0]), r"Positive 0009_c2.* is no triplet")])
def test_a_wrong_row_is_named(load, tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"train\.csv, row 3: .*{message}"):
        load("reid", persons(tmp_path / "set", rows=(OTHER, row)))


@pytest.mark.parametrize("header", ["", "Anchor,Positive", "anchor,negative,positive", f"{TABLE},Camera"])
def test_a_wrong_header_is_named(load, tmp_path, header):
    with pytest.raises(ValueError, match=r"train\.csv has the header .*: write Anchor,Positive,Negative into"):
        load("reid", persons(tmp_path / "set", header=header))


@pytest.mark.parametrize("name", ["portrait.jpg", "0002_c1.jpg", "0002-c1s1_000451_03.jpg", "c1s1_000451_03.jpg"])
def test_a_picture_that_names_nobody_is_named(load, tmp_path, name):
    root = persons(tmp_path / "set")
    shutil.copy(root / "train" / GOOD[0], root / "train" / name)
    with pytest.raises(ValueError, match=rf"{name} does not say who.*name it as 0002_c1s1_000451_03.jpg"):
        load("reid", root)
    with pytest.raises(FileNotFoundError, match=r"faces has no folder train: put the crops"):
        load("reid", faces(tmp_path / "faces"))


@pytest.mark.skipif(not PERSONS.exists(), reason=f"the persons {PERSONS.name} are not on this machine")
def test_real_persons(load):
    image_set = load("reid", PERSONS, size=32)
    assert len(image_set) == 2119 and len(image_set.class_names) == 120 and set(image_set.cameras) == set(range(1, 7))
    anchor, positive, negative = image_set.labels[image_set.triplets.T]
    assert len(image_set.triplets) == 106 and (anchor == positive).all() and (anchor != negative).all()
    splits = make_splits(image_set, setup(dataset="reid", device="cpu"))
    assert splits.protocols == ["open_set"]
    assert [len(np.unique(image_set.labels[part])) for part in splits.parts["open_set"].values()] == [60, 20, 40]
