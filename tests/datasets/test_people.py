"""Faces and persons: labels, cameras and triplets out of names and a table, and every way these can be wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import encoded, pack, smooth, write

from common.config import setup
from common.datasets.splits import make_splits

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FACES, PERSONS = DATA / "at&t.zip", DATA / "reid120.zip"

# --- the AT&T faces ---


def faces(root: Path, persons=(1, 2, 10), folders=("",)) -> Path:
    """Two gray pictures a person, PGM as the real ones; persons take turns over `folders`."""
    for place, person in enumerate(persons):
        for number in (1, 2):
            pixels = smooth(10 * person + number)[..., 0]
            path = root / folders[place % len(folders)] / f"s{person}" / f"{number}.pgm"
            write(path, encoded(Image.fromarray(pixels).resize((92, 112)), "PPM"))
    write(root / "README", b"The ORL face database")
    return root


def test_both_layouts_of_the_faces_are_the_same_set(load, tmp_path):
    image_set = load("att_faces", faces(tmp_path / "orl"))
    assert image_set.class_names == ["s1", "s2", "s10"] and image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.disjoint and image_set.official == {} and image_set.cameras is image_set.triplets is None
    assert (np.ptp(image_set.images, axis=1) == 0).all(), "gray in three equal channels"
    tutorial = faces(tmp_path / "t", folders=("data/faces/training", "data/faces/testing"))
    for place in (tutorial, pack(tmp_path / "at&t.zip", tutorial), pack(tmp_path / "att_faces.zip", tmp_path / "orl")):
        assert load("att_faces", place).fingerprint == image_set.fingerprint
    assert load("att_faces", place).disjoint, "also out of the cache"


def test_faces_are_squeezed_so_that_nothing_is_cropped(load, tmp_path):
    root = faces(tmp_path / "orl")
    for path in root.rglob("*.pgm"):
        pixels = np.zeros((112, 92), np.uint8)
        pixels[:8] = pixels[-8:] = 255
        write(path, encoded(pixels, "PPM"))
    image_set = load("att_faces", root, size=28)
    assert (image_set.images[:, :, [0, -1]] > 200).all() and (image_set.images[:, :, 8:20] < 50).all()


@pytest.mark.parametrize("dataset, wanted", [("att_faces", "att_faces.zip"), ("reid", "train/0002_c1s1_000451_03.jpg")])
def test_without_data_it_says_what_to_fetch_and_how_to_say_where(load, dataset, wanted):
    with pytest.raises(FileNotFoundError, match=rf"fetch .*{wanted}.*set SIMILARITY_DATA"):
        load(dataset)


def test_a_place_without_faces_is_named(load, tmp_path):
    with pytest.raises(ValueError, match=r"orl has 1 class folders"):
        load("att_faces", faces(tmp_path / "orl", persons=(3,)))


@pytest.mark.skipif(not FACES.exists(), reason=f"the faces {FACES.name} are not on this machine")
def test_real_faces(load, tmp_path):
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
    """Three persons with two crops each, `rows` in train.csv."""
    names = [*GOOD, *OTHER, "0007_c2s1_000006_01.jpg", *junk]
    for number, name in enumerate(dict.fromkeys(names)):
        write(root / "train" / name, encoded(np.asarray(Image.fromarray(smooth(number)).resize((64, 128)))))
    write(root / "train.csv", "\n".join([header, *(",".join(row) for row in rows)]).encode())
    return root


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
    assert image_set.triplets.dtype == np.int64 and named(image_set) == [turned(GOOD), turned(OTHER)]
    packed = load("reid", pack(tmp_path / "reid.zip", root, "inside/"))
    assert packed.fingerprint == image_set.fingerprint and named(packed) == named(image_set)
    again = load("reid", root)  # out of the cache
    assert again.cameras.tolist() == image_set.cameras.tolist() and (again.triplets == image_set.triplets).all()


def test_persons_are_squeezed_so_that_heads_and_feet_stay(load, tmp_path):
    root = persons(tmp_path / "set")
    for path in (root / "train").iterdir():
        pixels = np.zeros((128, 64, 3), np.uint8)
        pixels[:16] = pixels[-16:] = 255
        write(path, encoded(pixels))
    image_set = load("reid", root, size=32)
    assert (image_set.images[:, :, [0, -1]] > 200).all() and (image_set.images[:, :, 10:22] < 50).all()


def test_the_table_may_be_missing_or_changed(load, tmp_path):
    root = persons(tmp_path / "set", rows=(OTHER, GOOD))
    assert named(load("reid", root)) == [turned(OTHER), turned(GOOD)]
    swapped = [turned(GOOD)]
    write(root / "train.csv", "\n".join(["Anchor,Positive,Negative", *(",".join(row) for row in swapped)]).encode())
    assert named(load("reid", root)) == swapped, "columns are found by name"
    write(root / "train.csv", TABLE.encode())
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
    root = persons(tmp_path / "set", rows=(GOOD, (GOOD[0], junk[0], GOOD[2])), junk=junk)
    image_set = load("reid", root)
    output = capsys.readouterr().out
    assert len(image_set) == 6 and image_set.class_names == ["0002", "0007", "0009"]
    assert "Left out: 2 pictures of the identities -1 and 0000" in output and "Left out: 1 of 2 triplets" in output
    assert named(image_set) == [turned(GOOD)]


@pytest.mark.parametrize(
    "row, message",
    [
        (("x.jpg", *GOOD[1:]), r"Anchor 'x.jpg' is not in .*train: add the picture or remove the row"),
        ((GOOD[0], GOOD[1], ""), r"Positive '' is not in"),
        ((GOOD[0], GOOD[1]), r"Positive None is not in"),
        ((GOOD[0], GOOD[2], GOOD[1]), r"0002_c1.* with Positive 0007.* is no triplet: .*correct or remove the row"),
        ((GOOD[0], GOOD[2], GOOD[2]), r"Negative 0002_c3.* is no triplet"),
        ((GOOD[0], GOOD[1], OTHER[0]), r"Positive 0009_c2.* is no triplet"),
    ],
)
def test_a_wrong_row_is_named(load, tmp_path, row, message):
    root = persons(tmp_path / "set", rows=(OTHER, row))
    with pytest.raises(ValueError, match=rf"train\.csv, row 3: .*{message}"):
        load("reid", root)


@pytest.mark.parametrize("header", ["", "Anchor,Positive", "anchor,negative,positive", f"{TABLE},Camera"])
def test_a_wrong_header_is_named(load, tmp_path, header):
    with pytest.raises(ValueError, match=r"train\.csv has the header .*: write Anchor,Negative,Positive into"):
        load("reid", persons(tmp_path / "set", header=header))


@pytest.mark.parametrize("name", ["portrait.jpg", "0002_c1.jpg", "0002-c1s1_000451_03.jpg", "c1s1_000451_03.jpg"])
def test_a_picture_that_names_nobody_is_named(load, tmp_path, name):
    root = persons(tmp_path / "set")
    shutil.copy(root / "train" / GOOD[0], root / "train" / name)
    with pytest.raises(ValueError, match=rf"{name} does not say who.*name it as 0002_c1s1_000451_03.jpg"):
        load("reid", root)


def test_a_place_without_crops_is_named(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"faces has no folder train: put the crops"):
        load("reid", faces(tmp_path / "faces"))


@pytest.mark.skipif(not PERSONS.exists(), reason=f"the persons {PERSONS.name} are not on this machine")
def test_real_persons(load):
    image_set = load("reid", PERSONS, size=32)
    assert len(image_set) == 2119 and len(image_set.class_names) == 120 and set(image_set.cameras) == set(range(1, 7))
    anchor, positive, negative = image_set.triplets.T
    assert len(image_set.triplets) == 106 and (anchor != positive).all()
    assert (image_set.labels[anchor] == image_set.labels[positive]).all()
    assert (image_set.labels[anchor] != image_set.labels[negative]).all()
    splits = make_splits(image_set, setup(dataset="reid", device="cpu"))
    assert splits.protocols == ["open_set"]
    assert [len(np.unique(image_set.labels[part])) for part in splits.parts["open_set"].values()] == [60, 20, 40]
