"""Loading data sets by name: drawn flowers, Oxford's layout, folders and archives, whole and damaged."""

import functools
import hashlib
import http.server
import io
import os
import shutil
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchvision
from pictures import class_folder, encoded, smooth, write
from PIL import Image
from scipy.io import savemat

from common import decoding
from common.config import setup
from common.datasets import load_images
from common.images import find_duplicates
from common.rendered import rendered_pictures

FLOWERS12 = Path(__file__).resolve().parents[2] / "shared" / "data" / "flowers12.zip"


@pytest.fixture
def load(tmp_path):
    """load(dataset, data=...) with a cache of the test's own and small pictures."""
    def run(dataset, data=None, size=16, **changes):
        config = setup(dataset=dataset, data=data, cache=tmp_path / "cache", device="cpu")
        return load_images(replace(config, image_size=size, **changes))

    return run


def leftovers(tmp_path):
    """Unfinished or finished things in the cache."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.name != "archives"]


def pack(archive: Path, root: Path, prefix: str = "") -> Path:
    """All files below `root` as a .zip or .tgz."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in files:
                opened.write(path, prefix + path.relative_to(root).as_posix())
    else:
        with tarfile.open(archive, "w:gz") as opened:
            for path in files:
                opened.add(path, prefix + path.relative_to(root).as_posix())
    return archive


# --- by name ---

def test_an_unknown_name_lists_the_choices(load):
    config = setup(dataset="rendered", device="cpu")
    with pytest.raises(ValueError, match=r"'tulips'.*rendered, flowers102 or folder:PATH"):
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
    config = setup(dataset="rendered", data=root, cache=tmp_path / "cache", device="cpu")
    assert len(load_images(replace(config, dataset="folder"))) == 6
    with pytest.raises(ValueError, match="SIMILARITY_DATA"):
        load_images(replace(config, dataset="folder", data=None))


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

    def interrupted(path, size):
        if path.name == "2.jpg":
            raise KeyboardInterrupt
        return original(path, size)

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


# --- Oxford 102 Flowers ---

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
def server(tmp_path, monkeypatch):
    """A web server on this machine that stands in for Oxford's; returns the list of files it was asked for."""
    served = beside(tmp_path, oxford(tmp_path / "set"))
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append((self.command, self.path.strip("/")))

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    flowers = torchvision.datasets.Flowers102
    sums = {key: (name, hashlib.md5((served / name).read_bytes()).hexdigest())
            for key, (name, _) in flowers._file_dict.items()}
    monkeypatch.setattr(flowers, "_file_dict", sums)
    monkeypatch.setattr(flowers, "_download_url_prefix", f"http://127.0.0.1:{running.server_address[1]}/")
    yield asked
    running.shutdown()
    running.server_close()


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
