"""Reading one picture, the decode-once cache, and the search for duplicates."""

import io
import itertools
import os
import shutil
import tracemalloc
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import encoded, huge_png, quadrants, smooth, write

from common.datasets import images
from common.datasets.decoding import read_pictures
from common.datasets.duplicates import find_duplicates
from common.datasets.images import DamagedPicture, Picture, cached, read_picture

# Pillow warns about damaged notes inside of files before it reads or refuses them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
UPRIGHT = {  # EXIF 2.3, tag 274: stored pixels -> displayed pixels
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: a.swapaxes(0, 1)[::-1]}


def decoded(content, size=32):
    """H x W x 3 integers of a file's bytes."""
    return read_picture(io.BytesIO(content), size).image.transpose(1, 2, 0).astype(int)


# --- one picture ---

@pytest.mark.parametrize("form, tolerance", [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("PPM", 0), ("JPEG", 40)])
def test_the_pixels_of_a_file_are_returned(form, tolerance):
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    assert np.abs(decoded(encoded(quadrants(), form, **options)) - quadrants()).max() <= tolerance


def test_lossless_webp():
    assert (decoded(encoded(quadrants(), "WEBP", lossless=True)) == quadrants()).all()


def test_what_is_recorded_about_a_file(tmp_path):
    path = write(tmp_path / "a b ü.png", encoded(Image.new("LA", (30, 20)), "PNG"))
    picture = read_picture(path, 8)
    assert picture.image.shape == (3, 8, 8) and picture.image.dtype == np.uint8
    assert (picture.path, picture.width, picture.height) == (str(path), 30, 20)
    assert (picture.mode, picture.bytes, picture.problem) == ("LA", path.stat().st_size, "")
    assert (read_picture(str(path), 8).image == picture.image).all()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_exif_orientation_is_undone(orientation, form):
    stored = quadrants(64, 48)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(io.BytesIO(encoded(stored, form, exif=exif)), 48)
    upright = UPRIGHT[orientation](stored)
    assert (picture.height, picture.width) == upright.shape[:2]
    rows, columns = upright.shape[:2]
    square = upright[(rows - 48) // 2:(rows + 48) // 2, (columns - 48) // 2:(columns + 48) // 2]
    difference = np.abs(picture.image.transpose(1, 2, 0).astype(int) - square)
    assert np.median(difference) <= 4 and (difference > 60).mean() < 0.1


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(40)])
def test_damaged_or_senseless_exif_does_not_lose_the_picture(exif):
    assert np.abs(decoded(encoded(quadrants(), exif=exif, quality=95)) - quadrants()).mean() < 8


def test_squeezed_nothing_is_cropped():
    tall = np.ascontiguousarray(quadrants().repeat(3, axis=0))
    picture = read_picture(io.BytesIO(encoded(tall, "PNG")), 32, squeeze=True)
    assert (np.abs(picture.image.transpose(1, 2, 0).astype(int) - quadrants()) > 40).mean() < 0.1
    assert (picture.width, picture.height) == (32, 96)


def test_only_the_central_square_is_kept():
    bands = np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8), 20, axis=1).repeat(20, axis=0)
    assert (decoded(encoded(bands, "PNG"), 20) == [0, 255, 0]).all()
    assert (decoded(encoded(np.ascontiguousarray(bands.swapaxes(0, 1)), "PNG"), 20) == [0, 255, 0]).all()


def test_sixteen_bits_become_eight():
    deep = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    expected = np.round(deep / 257.0).astype(int)
    for form in ("PNG", "TIFF"):
        assert (decoded(encoded(deep, form)) == expected[..., None]).all()
    whole = Image.fromarray(deep.astype(np.int32))
    assert (decoded(encoded(whole, "TIFF")) == expected[..., None]).all()


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 3e6])
def test_float_tiff_is_scaled_by_its_range(white):
    values = np.linspace(0, white, 32 * 32, dtype=np.float32).reshape(32, 32)
    assert np.abs(decoded(encoded(values, "TIFF")) - np.round(values[..., None] / white * 255)).max() <= 1


@pytest.mark.parametrize("mode, form", [("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"), ("P", "GIF"),
                                        ("P", "PNG"), ("YCbCr", "JPEG"), ("CMYK", "TIFF"), ("RGBA", "WEBP")])
def test_modes_look_as_pillow_shows_them(mode, form):
    picture = Image.fromarray(quadrants()).convert(mode)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(decoded(encoded(picture, form)) - expected).mean() < 6


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_over_white(form):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16] = (255, 0, 0, 128)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    image = decoded(encoded(pixels, form, **options))
    assert np.abs(image[:16] - [255, 127, 127]).max() <= 1
    assert (image[16:] == 255).all()


@pytest.mark.parametrize("mode, form, transparent", [("P", "GIF", 0), ("P", "PNG", 0), ("L", "PNG", 0),
                                                     ("RGB", "PNG", (0, 0, 0)), ("P", "PNG", b"\x00\xff")])
def test_a_transparent_color_is_white(mode, form, transparent):
    picture = Image.new(mode, (32, 32))
    if mode == "P":
        picture.putpalette([0, 0, 0, 10, 20, 30])
    mark = {"P": 1, "L": 99, "RGB": (10, 20, 30)}[mode]
    picture.paste(mark, (0, 0, 32, 16))
    image = decoded(encoded(picture, form, transparency=transparent))
    assert (image[16:] == 255).all()
    assert (image[:16] == (99 if mode == "L" else [10, 20, 30])).all()


@pytest.mark.parametrize("width, height", [(1, 1), (2000, 1), (1, 2000), (3, 5), (32, 33)])
def test_odd_sizes(width, height):
    picture = read_picture(io.BytesIO(encoded(np.full((height, width, 3), 77, np.uint8), "PNG")), 16)
    assert picture.image.shape == (3, 16, 16) and (picture.image == 77).all()
    assert (picture.width, picture.height) == (width, height)


def test_a_large_jpeg_decoded_at_a_fraction_still_looks_the_same():
    large = smooth(3, 1024)
    exact = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    picture = read_picture(io.BytesIO(encoded(large, quality=95)), 32)
    assert (picture.width, picture.height) == (1024, 1024)
    assert np.abs(picture.image.transpose(1, 2, 0) - exact).mean() < 2


# --- damage ---

@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8, 0.95])
def test_a_truncated_jpeg_is_named(tmp_path, share, progressive):
    content = encoded(smooth(1, 200, 40), quality=90, progressive=progressive)
    path = write(tmp_path / "cut.jpg", content[:int(len(content) * share)])
    with pytest.raises(DamagedPicture, match=r"cut\.jpg: ."):
        read_picture(path, 32)


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_other_truncated_formats(form):
    content = encoded(smooth(1, 100, 30), form)
    with pytest.raises(DamagedPicture):
        decoded(content[:len(content) // 2])


@pytest.mark.parametrize("content, reason", [
    (b"", "empty"), (b"not a picture at all", "not a picture"), (bytes(5000), "not a picture"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
    (huge_png(), "exceeds limit")])
def test_what_is_not_a_picture_says_why(tmp_path, content, reason):
    path = write(tmp_path / "odd name.jpg", content)
    with pytest.raises(DamagedPicture, match=reason) as caught:
        read_picture(path, 16)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders_are_damaged_pictures(tmp_path):
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(DamagedPicture, match=path.name):
            read_picture(path, 16)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.randoms(use_true_random=False),
       st.integers(1, 40))
def test_any_corruption_gives_a_picture_or_the_one_error(form, random, count):
    content = bytearray(encoded(quadrants(), form))
    for _ in range(count):
        content[random.randrange(len(content))] = random.randrange(256)
    with suppress(DamagedPicture):
        assert decoded(bytes(content)).shape == (32, 32, 3)


# --- many pictures ---

def test_threads_keep_the_order_and_stay_a_little_ahead(tmp_path):
    for number in range(200):
        write(tmp_path / f"{number}.png", encoded(np.full((4, 4, 3), number, np.uint8), "PNG"))
    write(tmp_path / "7.png", b"")
    taken = []
    entries = ((f"{number}.png", number % 5, "test") for number in range(200) if not taken.append(number))
    pictures = read_pictures(tmp_path, entries, 4)
    first = next(pictures)
    assert len(taken) <= 4 * min(8, os.cpu_count()) + 1
    rest = [first, *pictures]
    assert [picture.path for picture in rest] == [f"{number}.png" for number in range(200)]
    assert all(picture.image is None if n == 7 else (picture.image == n).all() for n, picture in enumerate(rest))
    assert (rest[7].problem, rest[7].label, rest[7].split) == ("the file is empty", 2, "test")
    assert "7.png" not in rest[7].problem  # the path stands beside it


# --- the cache ---

def made(count=6, size=8, **changes):
    """`count` good pictures of three classes, with masks, factors and official splits."""
    splits = ["train", "train", "validation", "test", None, "train"]
    return [replace(Picture(smooth(n, size).transpose(2, 0, 1), n % 3, f"{n}.png", size, size, "RGB", 100 + n,
                            split=splits[n % 6], parts=smooth(n, size)[..., 0] % 4,
                            factors={"hue": n / 7, "kind": "k"}), **changes) for n in range(count)]


def load(cache, pictures, key=None, names=("a", "b", "c"), name="set"):
    return cached(cache, name, key or {}, list(names), lambda: iter(pictures))


def test_a_set_comes_back_as_it_went_in(tmp_path):
    pictures = made()
    image_set = load(tmp_path, pictures)
    assert len(image_set) == 6 and image_set.name == "set" and image_set.class_names == ["a", "b", "c"]
    assert (image_set.images == np.stack([picture.image for picture in pictures])).all()
    assert (image_set.parts == np.stack([picture.parts for picture in pictures])).all()
    assert image_set.labels.tolist() == [0, 1, 2, 0, 1, 2] and image_set.labels.dtype == np.int64
    assert image_set.paths == [picture.path for picture in pictures]
    assert {name: part.tolist() for name, part in image_set.official.items()} == {
        "train": [0, 1, 5], "validation": [2], "test": [3]}
    assert image_set.factors.hue.tolist() == pytest.approx([n / 7 for n in range(6)], rel=1e-12)
    assert list(image_set.files) == ["path", "label", "width", "height", "mode", "bytes", "problem"]
    assert image_set.files.bytes.tolist() == [100 + n for n in range(6)] and (image_set.files.problem == "").all()
    assert len(image_set.fingerprint) == 16 and int(image_set.fingerprint, 16) >= 0
    assert "6 pictures, 8 x 8 pixels, 3 classes" in repr(image_set)


def test_what_a_set_lacks_is_none_or_empty(tmp_path):
    image_set = load(tmp_path, made(parts=None, factors=None, split=None))
    assert image_set.parts is None and image_set.factors is None and image_set.official == {}


def test_arrays_are_memory_mapped_and_read_only(tmp_path):
    image_set = load(tmp_path, made())
    assert isinstance(image_set.images, np.memmap) and isinstance(image_set.parts, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        image_set.images[0] = 0


def test_hashes_are_equal_exactly_for_equal_pictures(tmp_path):
    pictures = made()
    pictures[4].image = pictures[1].image.copy()
    hashes = load(tmp_path, pictures).hashes
    assert hashes[4] == hashes[1] and len(set(hashes)) == 5


def test_the_fingerprint_follows_pixels_labels_names_and_size_only(tmp_path):
    original = load(tmp_path / "1", made()).fingerprint
    assert load(tmp_path / "2", made(bytes=5), key={"other": 1}, name="other").fingerprint == original
    darker, relabeled = made(), made()
    darker[0].image = darker[0].image // 2
    relabeled[0].label = 1
    others = [load(tmp_path / "3", darker), load(tmp_path / "4", relabeled), load(tmp_path / "5", made(size=9)),
              load(tmp_path / "6", made(), names="abd"), load(tmp_path / "7", made()[::-1])]
    assert len({original, *(other.fingerprint for other in others)}) == 6


def test_the_second_load_decodes_nothing(tmp_path):
    first = load(tmp_path, made())
    second = cached(tmp_path, "set", {}, ["a", "b", "c"], lambda: pytest.fail("decoded again"))
    assert (second.images == first.images).all() and second.fingerprint == first.fingerprint
    assert second.files.equals(first.files)


def test_key_names_and_decoding_version_each_make_another_cache(tmp_path, monkeypatch):
    load(tmp_path, made())
    load(tmp_path, made(), key={"size": 9})
    load(tmp_path, made(), names="xyz")
    load(tmp_path, made(), name="other/set")
    monkeypatch.setattr(images, "VERSION", 999)
    load(tmp_path, made())
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interrupted_build_leaves_nothing(tmp_path, error):
    def pictures():
        yield from made()[:3]
        raise error("interrupted")

    with pytest.raises(error):
        cached(tmp_path, "set", {}, ["a", "b", "c"], pictures)
    assert list(tmp_path.iterdir()) == []
    assert len(load(tmp_path, made())) == 6


@pytest.mark.parametrize("name", ["images.bin", "parts.bin", "files.csv", "factors.csv", "meta.json"])
@pytest.mark.parametrize("damage", ["delete", "empty", "cut", "garbage"])
def test_a_damaged_cache_is_built_again(tmp_path, capsys, name, damage):
    original = load(tmp_path, made())
    path = next(tmp_path.glob(f"*/{name}"))
    content = path.read_bytes()
    path.unlink()
    if damage != "delete":
        path.write_bytes({"empty": b"", "cut": content[:len(content) // 2], "garbage": b'"\x00{'}[damage])
    again = load(tmp_path, made())
    assert (again.images == original.images).all() and again.files.equals(original.files)
    assert again.factors.equals(original.factors) and (again.parts == original.parts).all()
    assert "damaged" in capsys.readouterr().out


def test_a_damaged_cache_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    load(tmp_path, made())
    next(tmp_path.glob("*/meta.json")).unlink()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no")))
    with pytest.raises(OSError, match=r"set-[0-9a-f]{16}.*delete this folder"):
        load(tmp_path, made())


def test_a_cache_has_the_rights_of_every_new_folder(tmp_path):
    load(tmp_path / "cache", made())
    (tmp_path / "new").mkdir()
    (built,) = (tmp_path / "cache").iterdir()
    assert built.stat().st_mode == (tmp_path / "new").stat().st_mode, "others may read a shared cache"


def test_a_cache_that_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    load(tmp_path, made())
    monkeypatch.setattr(images, "_open", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    with pytest.raises(PermissionError):
        load(tmp_path, made())
    assert len([*tmp_path.iterdir()]) == 1, "it is still there"


def test_two_processes_may_build_at_once(tmp_path):
    def pictures():
        yield from made()[:3]
        load(tmp_path, made())  # the other one is faster
        yield from made()[3:]

    assert len(cached(tmp_path, "set", {}, ["a", "b", "c"], pictures)) == 6
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_pictures_stay_out_of_the_arrays_but_in_the_files(tmp_path):
    pictures = made()
    pictures[2] = Picture(None, 2, "2.png", bytes=7, problem="truncated", split="validation")
    image_set = load(tmp_path, pictures)
    assert len(image_set) == 5 and len(image_set.files) == 6 and len(image_set.parts) == 5
    assert image_set.files.problem.tolist() == ["", "", "truncated", "", "", ""]
    assert {name: part.tolist() for name, part in image_set.official.items()} == {"train": [0, 1, 4], "test": [2]}
    assert image_set.files.label.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_class_without_a_good_picture_is_dropped_and_labels_close_up(tmp_path):
    pictures = made()
    for n in (1, 4):
        pictures[n] = Picture(None, 1, f"{n}.png", problem="empty")
    image_set = load(tmp_path, pictures)
    assert image_set.class_names == ["a", "c"] and image_set.labels.tolist() == [0, 1, 0, 1]
    assert image_set.files.label.tolist() == [0, -1, 1, 0, -1, 1]


@pytest.mark.parametrize("pictures, message", [
    ([], "none of its 0"),
    ([Picture(None, 0, "a.png", problem="empty")], "a.png: empty"),
    ([*made(2), *made(1, size=9)], r"0.png.*\(3, 9, 9\)"),
    ([*made(2), *made(1, parts=None)], "2 of 3 pictures have a part mask"),
    ([*made(2), *made(1, factors=None)], "2 of 3 pictures have factors"),
    (made(2, image=np.zeros((3, 8, 8), np.float32)), "float32")])
def test_sets_that_make_no_sense_are_refused(tmp_path, pictures, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, pictures)
    assert list(tmp_path.iterdir()) == []


def test_any_file_name_survives(tmp_path):
    names = ["NA", "nan", "a,b.png", 'quote".png', "new\nline.png", "ünï/花 1.png", "\udcff.png"]
    pictures = [replace(picture, path=name) for picture, name in zip(made(7), names)]
    assert load(tmp_path, pictures).paths == names
    assert load(tmp_path, []).paths == names  # from disk


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    count, size = 200, 100
    tracemalloc.start()
    cached(tmp_path, "set", {}, ["a"], (lambda: (Picture(np.full((3, size, size), n, np.uint8), 0, str(n))
                                                 for n in range(count))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * 3 * size * size / 3


# --- duplicates ---

def pairs(image_set, **options):
    found = find_duplicates(image_set, **options)
    return [(int(a), int(b)) for a, b in zip(found["first"], found["second"])]


def set_of(tmp_path, arrays):
    pictures = [Picture(array.transpose(2, 0, 1), 0, str(n)) for n, array in enumerate(arrays)]
    return cached(tmp_path, "d", {}, ["a"], lambda: iter(pictures))


def test_copies_are_found_and_nothing_else(tmp_path):
    originals = [smooth(seed, 64) for seed in range(60)]
    recoded = np.asarray(Image.open(io.BytesIO(encoded(originals[5], quality=60))))
    rescaled = np.asarray(Image.fromarray(originals[9]).resize((90, 90)).resize((64, 64)))
    brighter = (originals[20].astype(int) + 4).clip(0, 255).astype(np.uint8)
    flat = [np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)]
    image_set = set_of(tmp_path, [*originals, originals[0], recoded, rescaled, brighter, *flat])
    found = find_duplicates(image_set)
    assert set(pairs(image_set)) == {(0, 60), (5, 61), (9, 62), (20, 63)}
    assert found.distance.is_monotonic_increasing and found.distance[0] == 0 and tuple(found.iloc[0][:2]) == (0, 60)
    assert pairs(image_set, chunk=7) == pairs(image_set)


def test_no_duplicates_gives_an_empty_table(tmp_path):
    found = find_duplicates(set_of(tmp_path, [smooth(1), smooth(2)]))
    assert len(found) == 0 and list(found) == ["first", "second", "distance"]


def test_many_equal_pictures_give_all_their_pairs(tmp_path):
    image_set = set_of(tmp_path, [smooth(4)] * 100)
    assert pairs(image_set) == list(itertools.combinations(range(100), 2))


def slow_hash(array):
    """The perceptual hash in plain sums: 32 x 32 averages, then sum of cosines, then bits against the median."""
    size = len(array)
    gray = array.astype(float).mean(axis=2)
    small = np.array([[gray[r * size // 32:(r + 1) * size // 32, c * size // 32:(c + 1) * size // 32].mean()
                       for c in range(32)] for r in range(32)])
    angles = (np.arange(32) + 0.5) * np.pi / 32
    table = [(small * np.outer(np.cos(v * angles), np.cos(u * angles))).sum() for v in range(8) for u in range(8)]
    return np.array(table) > np.median(table[1:])


@pytest.mark.parametrize("bits", [2, 6, 12])
def test_hashes_agree_with_a_slow_reference(tmp_path, bits):
    rng = np.random.default_rng(0)
    base = [smooth(seed, 64) for seed in range(4)]
    arrays = [(array + rng.normal(0, 6 * step, array.shape)).clip(0, 255).astype(np.uint8)
              for array in base for step in range(6)]
    hashes = [slow_hash(array) for array in arrays]
    expected = {(a, b) for a, b in itertools.combinations(range(24), 2) if (hashes[a] != hashes[b]).sum() <= bits}
    assert set(pairs(set_of(tmp_path, arrays), bits=bits, difference=255)) == expected and expected
