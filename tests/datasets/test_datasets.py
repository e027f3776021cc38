"""Loading data sets by name: drawn flowers, folders and archives, whole and damaged."""

import io
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from toys import class_folder, encoded, pack, smooth, write

from common.config import setup
from common.datasets import decoding, load_images
from common.flowers.rendering import rendered_pictures


def leftovers(tmp_path):
    """Unfinished or finished things in the cache."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.name != "archives"]


# --- by name ---

def test_an_unknown_name_lists_the_choices(load):
    config = setup(dataset="rendered", device="cpu")
    with pytest.raises(ValueError, match=r"'tulips'.*rendered, flowers102, caltech101, att_faces, reid, folder:PATH"):
        load_images(replace(config, dataset="tulips"))


def test_rendered_flowers_are_drawn_once(load, monkeypatch):
    drawn = list(rendered_pictures(3, 2, 16, 5))
    image_set = load("rendered", species=3, pictures_per_species=2, seed=5)
    assert (image_set.images == np.stack([picture.image for picture in drawn])).all()
    assert (image_set.parts == np.stack([picture.parts for picture in drawn])).all()
    assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2] and len(image_set.class_names) == 3
    monkeypatch.setattr("common.datasets.rendered_pictures", lambda *_: pytest.fail("drawn again"))
    again = load("rendered", species=3, pictures_per_species=2, seed=5)
    assert again.fingerprint == image_set.fingerprint and again.factors.equals(image_set.factors)
    monkeypatch.undo()
    assert load("rendered", species=3, pictures_per_species=2, seed=6).fingerprint != image_set.fingerprint


@pytest.mark.parametrize("dataset", ["rendered", "folder"])
def test_grayscale_is_luminance_in_three_equal_channels_and_has_a_cache_of_its_own(load, tmp_path, dataset):
    if dataset == "folder":
        dataset = f"folder:{class_folder(tmp_path / 'set')}"
        write(tmp_path / "set" / "iris" / "damaged.jpg", b"")
    few = dict(species=2, pictures_per_species=2)
    color, gray = load(dataset, **few), load(dataset, grayscale=True, **few)
    luminance = np.tensordot([0.299, 0.587, 0.114], color.images.astype(float), axes=(0, 1))
    assert (np.ptp(color.images, axis=1) > 0).any() and (np.ptp(gray.images, axis=1) == 0).all()
    np.testing.assert_allclose(gray.images[:, 0], luminance, atol=0.51)
    assert gray.fingerprint != color.fingerprint and gray.paths == color.paths
    assert load(dataset, **few).fingerprint == color.fingerprint


# --- folders ---

def test_a_clean_folder_is_read_as_torchvision_reads_it(load, tmp_path, capsys):
    root = class_folder(tmp_path / "Zoë's flowers", ("rosa rugosa", "Iris", "花"), 2)
    write(root / "Iris" / "inner folder" / "deep.jpg", encoded(smooth(7)))
    image_set = load(f"folder:{root}")
    reference = torchvision.datasets.ImageFolder(root)
    assert image_set.class_names == reference.classes
    paths = {path: label for path, label in zip(image_set.paths, image_set.labels.tolist())}
    assert paths == {Path(path).relative_to(root).as_posix(): label for path, label in reference.samples}
    assert image_set.images.shape == (7, 3, 16, 16) and image_set.official == {} and image_set.parts is None
    assert capsys.readouterr().out == ""


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


def test_a_messy_folder_is_read_and_reported(load, tmp_path, capsys):
    image_set = load(f"folder:{messy_folder(tmp_path / 'messy')}")
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
    root.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=f"{len(classes)} class folders.*sub-folder of its own"):
        load(f"folder:{root}")
    write(root / "bad" / "1.jpg", b"x")
    write(root / "worse" / "1.jpg", b"x")
    with pytest.raises(ValueError, match=r"class folders|none of its"):
        load(f"folder:{root}")


def test_a_folder_may_be_given_as_data(load, tmp_path):
    root = class_folder(tmp_path / "set")
    config = setup(dataset="folder", data=root, cache=tmp_path / "cache", device="cpu")
    assert len(load_images(config)) == 6
    with pytest.raises(ValueError, match="SIMILARITY_DATA"):
        load_images(replace(config, dataset="folder"))


def test_a_place_that_does_not_exist_is_named(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        load(f"folder:{tmp_path / 'nowhere'}")


# --- the cache ---

def test_the_second_load_decodes_nothing(load, tmp_path, monkeypatch, capsys):
    root = messy_folder(tmp_path / "messy")
    first, first_output = load(f"folder:{root}"), capsys.readouterr().out
    monkeypatch.setattr(decoding, "read_picture", lambda *_: pytest.fail("decoded again"))
    second = load(f"folder:{root}")
    assert second.fingerprint == first.fingerprint and (second.images == first.images).all()
    assert capsys.readouterr().out == first_output


@pytest.mark.parametrize("change", ["content", "time", "new", "gone", "renamed", "size"])
def test_any_change_is_noticed(load, tmp_path, monkeypatch, change):
    root = class_folder(tmp_path / "set")
    path, size = root / "iris" / "0.jpg", 16
    load(f"folder:{root}")
    if change == "content":
        write(path, encoded(smooth(99)))
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "new":
        shutil.copy(path, root / "iris" / "9.jpg")
    elif change == "gone":
        path.unlink()
    elif change == "renamed":
        path.rename(root / "rose" / "9.jpg")
    else:
        size = 17
    count = []
    original = decoding.read_picture
    monkeypatch.setattr(decoding, "read_picture", lambda *args: count.append(1) or original(*args))
    image_set = load(f"folder:{root}", size=size)
    assert len(count) == len(image_set) == {"new": 7, "gone": 5}.get(change, 6)


def test_an_interrupted_load_leaves_nothing(load, tmp_path, monkeypatch):
    root = class_folder(tmp_path / "set")
    original = decoding.read_picture

    def interrupted(path, *options):
        if path.name == "2.jpg":
            raise KeyboardInterrupt
        return original(path, *options)

    monkeypatch.setattr(decoding, "read_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(f"folder:{root}")
    assert leftovers(tmp_path) == []
    monkeypatch.undo()
    assert len(load(f"folder:{root}")) == 6


# --- archives ---

@pytest.mark.parametrize("suffix", [".zip", ".tgz", ".tar.gz"])
@pytest.mark.parametrize("prefix", ["", "101_ObjectCategories/", "data/faces/"])
def test_a_folder_may_be_packed(load, tmp_path, suffix, prefix, monkeypatch):
    root = class_folder(tmp_path / "set")
    archive = pack(tmp_path / f"my set{suffix}", root, prefix)
    image_set = load(f"folder:{archive}")
    assert (image_set.images == load(f"folder:{root}").images).all() and image_set.class_names == ["iris", "rose"]
    monkeypatch.setattr(decoding, "read_picture", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: pytest.fail("unpacked again"))
    load(f"folder:{archive}")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "cache" / "archives")
    monkeypatch.setattr(decoding, "read_picture", lambda *_: pytest.fail("decoded again"))
    load(f"folder:{archive}")  # unpacked again, but the decoded pictures still fit


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_named_and_leaves_nothing(load, tmp_path, suffix, share):
    archive = pack(tmp_path / f"set{suffix}", class_folder(tmp_path / "set"))
    content = archive.read_bytes()
    archive.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"set{suffix} cannot be unpacked.*fetch it again"):
        load(f"folder:{archive}")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_flipped_bits_in_an_archive_are_noticed(load, tmp_path, suffix, place):
    archive = pack(tmp_path / f"set{suffix}", class_folder(tmp_path / "set"))
    content = bytearray(archive.read_bytes())
    content[int(len(content) * place)] ^= 255
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        load(f"folder:{archive}")


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/{}/evil.jpg", "../set-2/evil.jpg"])
def test_an_archive_cannot_write_outside_of_its_folder(load, tmp_path, suffix, name):
    archive, name = tmp_path / f"bad{suffix}", name.format(tmp_path)
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(name, b"evil")
    else:
        with tarfile.open(archive, "w:gz") as opened:
            member = tarfile.TarInfo(name)
            member.size = 4
            opened.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(ValueError, match="outside of itself"):
        load(f"folder:{archive}")
    assert leftovers(tmp_path) == [] and not list(tmp_path.rglob("evil.jpg"))


def test_links_in_an_archive_are_not_followed(load, tmp_path):
    root = class_folder(tmp_path / "set")
    secret = write(tmp_path / "secret.jpg", encoded(smooth(5)))
    (root / "iris" / "link.jpg").symlink_to(secret)
    image_set = load(f"folder:{pack(tmp_path / 'set.tgz', root)}")
    assert len(image_set) == 6 and "iris/link.jpg" not in image_set.paths
