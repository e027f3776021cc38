"""The decode-once cache: what goes in comes back, damage is noticed, and nothing half done stays."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from toys import class_folder, config, encoded, smooth, write

from common.datasets import images
from common.datasets.decoding import Entry, Picture, in_gray
from common.datasets.images import cached, read_files

NAMES = ["a", "b", "c"]


def made(count=6, size=8, **changes):
    """`count` good pictures of three classes, with masks, factors and official splits."""
    splits = ["train", "train", "validation", "test", None, "train"]
    return [replace(Picture(smooth(n, size).transpose(2, 0, 1), n % 3, f"{n}.png", size, size, "RGB", 100 + n,
                            split=splits[n % 6], parts=smooth(n, size)[..., 0] % 4,
                            factors={"hue": n / 7, "kind": "k"}), **changes) for n in range(count)]


@pytest.fixture
def fill(tmp_path):
    """fill(pictures) opens the cache below tmp_path / "cache", or fills it."""
    def run(pictures, key=None, names=NAMES, **changes):
        return cached(config(tmp_path, **changes), key or {}, list(names), iter(pictures), 6)

    return run


def folders(tmp_path):
    return list((tmp_path / "cache").iterdir())


def lists(official):
    return {name: part.tolist() for name, part in official.items()}


def test_a_set_comes_back_as_it_went_in(fill):
    pictures = made()
    image_set = fill(pictures)
    assert len(image_set) == 6 and image_set.name == "rendered" and image_set.class_names == NAMES
    assert (image_set.images == np.stack([picture.image for picture in pictures])).all()
    assert (image_set.parts == np.stack([picture.parts for picture in pictures])).all()
    assert image_set.labels.tolist() == [0, 1, 2, 0, 1, 2] and image_set.labels.dtype == np.int64
    assert image_set.paths == [picture.path for picture in pictures]
    assert lists(image_set.official) == {"train": [0, 1, 5], "validation": [2], "test": [3]}
    assert image_set.factors.hue.tolist() == pytest.approx([n / 7 for n in range(6)], rel=1e-12)
    assert list(image_set.files) == ["path", "label", "width", "height", "mode", "bytes", "problem"]
    assert image_set.files.bytes.tolist() == [100 + n for n in range(6)] and (image_set.files.problem == "").all()
    assert len(image_set.fingerprint) == 16 and int(image_set.fingerprint, 16) >= 0
    assert "6 pictures, 8 x 8 pixels, 3 classes" in repr(image_set)
    for array in (image_set.images, image_set.parts):
        assert isinstance(array, np.memmap) and not array.flags.writeable
    again = fill(pytest.fail("decoded again") for _ in range(6))
    assert (again.images == image_set.images).all() and again.fingerprint == image_set.fingerprint
    assert again.files.equals(image_set.files)
    bare = fill(made(parts=None, factors=None, split=None), key={"bare": True})
    assert bare.parts is None and bare.factors is None and bare.official == {}


def test_gray_pictures_have_a_cache_of_their_own(fill, tmp_path):
    color, gray = fill(made()), fill(made(), grayscale=True)
    assert (gray.images == np.stack([in_gray(image) for image in color.images])).all()
    assert gray.fingerprint != color.fingerprint and gray.paths == color.paths and (gray.parts == color.parts).all()
    assert fill([]).fingerprint == color.fingerprint and len(folders(tmp_path)) == 2


def test_a_cache_follows_all_but_the_fingerprint_pixels_labels_names_and_size_only(fill, tmp_path, monkeypatch):
    original = fill(made()).fingerprint
    assert fill(made(bytes=5), key={"other": 1}).fingerprint == original
    assert fill(made(), dataset="folder:a/b").fingerprint == original
    darker, relabeled = made(), made()
    darker[0].image = darker[0].image // 2
    relabeled[0].label = 1
    others = [darker, relabeled, made(size=9), made()[::-1]]
    fingerprints = {fill(pictures, key={"number": n}).fingerprint for n, pictures in enumerate(others)}
    assert len({original, *fingerprints, fill(made(), names="abd").fingerprint}) == 6
    assert len(folders(tmp_path)) == 8
    monkeypatch.setattr(images, "CACHE_VERSION", 999)
    assert fill(made()).fingerprint == original and len(folders(tmp_path)) == 9


@pytest.mark.parametrize("name", ["images.bin", "parts.bin", "files.csv", "factors.csv", "meta.json"])
@pytest.mark.parametrize("damage", ["delete", "empty", "cut", "garbage", "flip"])
def test_a_damaged_cache_is_built_again(fill, tmp_path, capsys, name, damage):
    original = fill(made())
    path = folders(tmp_path)[0] / name
    content = path.read_bytes()
    path.unlink()
    if damage != "delete":
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1:]
        path.write_bytes(dict(empty=b"", cut=content[:half], garbage=b'"\x00{', flip=flipped)[damage])
    again = fill(made())
    assert (again.images == original.images).all() and again.files.equals(original.files)
    assert again.factors.equals(original.factors) and (again.parts == original.parts).all()
    assert f"{path.parent} is damaged" in capsys.readouterr().out


def test_a_cache_can_be_shared(fill, tmp_path, monkeypatch):
    fill(made())
    (tmp_path / "new").mkdir()
    assert folders(tmp_path)[0].stat().st_mode == (tmp_path / "new").stat().st_mode, "others may read it"
    monkeypatch.setattr(images, "_open", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    with pytest.raises(PermissionError):
        fill(made())
    assert len(folders(tmp_path)) == 1, "what may not be read is not taken for damaged"


def test_an_interrupted_build_leaves_nothing(fill, tmp_path):
    def pictures():
        yield from made()[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(pictures())
    assert folders(tmp_path) == [] and len(fill(made())) == 6


def test_damaged_pictures_stay_out_of_the_arrays_but_in_the_files(fill):
    pictures = made()
    pictures[2] = Picture(None, 2, "2.png", bytes=7, problem="truncated", split="validation")
    image_set = fill(pictures)
    assert len(image_set) == 5 and len(image_set.files) == 6 and len(image_set.parts) == 5
    assert image_set.files.problem.tolist() == ["", "", "truncated", "", "", ""]
    assert lists(image_set.official) == {"train": [0, 1, 4], "test": [2]}
    for n in (1, 4):  # a class without a good picture is dropped, and the labels close up
        pictures[n] = Picture(None, 1, f"{n}.png", problem="empty")
    image_set = fill(pictures, key={"lost": 1})
    assert image_set.class_names == ["a", "c"] and image_set.labels.tolist() == [0, 0, 1]
    assert image_set.files.label.tolist() == [0, -1, 1, 0, -1, 1]


@pytest.mark.parametrize("pictures, message", [
    ([], "0 classes"), ([*made(1), Picture(None, 1, "a.png", problem="empty")], r"1 classes.*a\.png: empty"),
    ([*made(2), *made(1, size=9)], r"0\.png.*\(3, 9, 9\)"), ([*made(2), *made(1, parts=None)], "2 of 3 .* mask"),
    ([*made(2), *made(1, factors=None)], "2 of 3 .* factors"), (made(2, image=np.zeros((3, 8, 8))), "float64")])
def test_sets_that_make_no_sense_are_refused(fill, tmp_path, pictures, message):
    with pytest.raises(ValueError, match=message):
        fill(pictures)
    assert folders(tmp_path) == []


def test_any_file_name_survives_and_only_equal_pictures_have_equal_hashes(fill):
    names = ["NA", "nan", "a,b.png", 'quote".png', "new\nline.png", "ünï/花 1.png", "\udcff.png"]
    pictures = [replace(picture, path=name) for picture, name in zip(made(7), names)]
    pictures[4].image = pictures[1].image
    hashes = fill(pictures).hashes
    assert hashes[4] == hashes[1] and len(set(hashes)) == 6
    assert fill([]).paths == names  # from disk


def test_memory_does_not_grow_with_the_pictures(fill):
    count, size = 200, 100
    tracemalloc.start()
    fill(Picture(np.full((3, size, size), n, np.uint8), n % 2, str(n)) for n in range(count))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * 3 * size * size / 3


@pytest.mark.parametrize("change", ["nothing", "content", "time", "new", "renamed", "size", "squeeze", "label", "mask"])
def test_any_change_of_the_files_is_noticed(tmp_path, monkeypatch, change):
    root, mask = class_folder(tmp_path / "set"), write(tmp_path / "mask.png", encoded(smooth(0), "PNG"))
    entries = [Entry(f"{name}/{n}.jpg", label, segmentation=mask) for label, name in enumerate(("iris", "rose"))
               for n in range(3)]
    read_files(config(tmp_path, image_size=16), root, NAMES, entries)
    first = root / entries[0].path
    if change in ("content", "mask"):
        write(first if change == "content" else mask, encoded(smooth(99)))
    elif change == "time":
        first.touch()
    elif change == "renamed":
        first.rename(root / "rose" / "9.jpg")
    else:
        entries += [Entry("iris/0.jpg", 1, segmentation=mask)] * (change == "new")
    entries[0] = entries[0]._replace(**{"renamed": {"path": "rose/9.jpg"}, "label": {"label": 1}}.get(change, {}))
    monkeypatch.setattr(images, "read_pictures", lambda root, entries, size, squeeze: made(len(entries), size))
    settings = config(tmp_path, image_size=17 if change == "size" else 16)
    read_files(settings, root, NAMES, entries, squeeze=change == "squeeze")
    assert len(folders(tmp_path)) == (1 if change == "nothing" else 2)
