"""Reading one picture whatever its format, depth, rotation or damage, its mask with it, and many in threads."""

import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import encoded, huge_png, quadrants, smooth, write

from common.datasets import decoding
from common.datasets.decoding import NOT_FLOWER, DamagedPicture, Entry, in_gray, read_picture, read_pictures
from common.flowers.species import PETAL

# Pillow warns about damaged notes inside of files before it reads or refuses them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
UPRIGHT = {  # EXIF 2.3, tag 274: stored pixels -> displayed pixels
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: a.swapaxes(0, 1)[::-1]}


def read(content: bytes, size=32, **options):
    """The `Picture` in a file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        return read_picture(write(Path(folder) / "picture", content), size, **options)


def decoded(content: bytes, size=32, **options) -> np.ndarray:
    """H x W x 3 integers of a file's bytes."""
    return read(content, size, **options).image.transpose(1, 2, 0).astype(int)


def exif(orientation: int) -> Image.Exif:
    notes = Image.Exif()
    notes[0x0112] = orientation
    return notes


@pytest.mark.parametrize("mode, form", [
    *[("RGB", form) for form in ("PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG")], ("L", "JPEG"), ("1", "PNG"),
    ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "GIF"), ("P", "PNG"), ("YCbCr", "JPEG"), ("RGBA", "WEBP")])
def test_every_format_and_mode_looks_as_pillow_shows_it(mode, form):
    picture = Image.fromarray(quadrants()).convert(mode)
    shown = decoded(encoded(picture, form, **({"lossless": True} if form == "WEBP" else {})))
    assert np.abs(shown - np.asarray(picture.convert("RGB"))).mean() <= (6 if form == "JPEG" else 0)


@pytest.mark.parametrize("notes", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(40),
                                   exif(9), exif(0)])
def test_damaged_or_senseless_exif_does_not_lose_the_picture(notes):
    assert np.abs(decoded(encoded(quadrants(), exif=notes, quality=95)) - quadrants()).mean() < 8


@pytest.mark.parametrize("kind, form, white", [
    (np.uint16, "PNG", 65535), (np.uint16, "TIFF", 65535), (np.int32, "TIFF", 65535),
    *[(np.float32, "TIFF", white) for white in (1.0, 255.0, 65535.0, 3e6)]])  # a float file does not say its white
def test_deep_samples_become_eight_bits(kind, form, white):
    deep = np.linspace(0, white, 32 * 32).astype(kind).reshape(32, 32)
    expected = np.round(deep[..., None].astype(float) / white * 255)
    assert np.abs(decoded(encoded(deep, form)) - expected).max() <= (kind == np.float32)


@pytest.mark.parametrize("form, options", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparency_is_laid_over_white(form, options):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16] = (255, 0, 0, 128)
    image = decoded(encoded(pixels, form, **options))
    assert np.abs(image[:16] - [255, 127, 127]).max() <= 1 and (image[16:] == 255).all()


@pytest.mark.parametrize("mode, form, transparent, color", [
    ("P", "GIF", 0, 1), ("P", "PNG", 0, 1), ("P", "PNG", b"\x00\xff", 1), ("L", "PNG", 0, 99),
    ("RGB", "PNG", (0, 0, 0), (10, 20, 30))])
def test_a_transparent_color_is_white(mode, form, transparent, color):
    picture = Image.new(mode, (32, 32))
    if mode == "P":
        picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.paste(color, (0, 0, 32, 16))
    image = decoded(encoded(picture, form, transparency=transparent))
    assert (image[16:] == 255).all() and (image[:16] == (99 if mode == "L" else [10, 20, 30])).all()


@pytest.mark.parametrize("width, height", [(1, 1), (2000, 1), (1, 2000), (3, 5), (32, 33)])
def test_odd_sizes_and_what_is_recorded_about_a_file(tmp_path, width, height):
    path = write(tmp_path / "a b ü.png", encoded(Image.new("LA", (width, height), (77, 255)), "PNG"))
    picture = read_picture(path, 16)
    assert picture.image.shape == (3, 16, 16) and picture.image.dtype == np.uint8 and (picture.image == 77).all()
    assert (picture.path, picture.width, picture.height) == (str(path), width, height)
    assert (picture.mode, picture.bytes, picture.problem) == ("LA", path.stat().st_size, "")


def test_gray_is_luminance_in_three_equal_channels():
    image = smooth(0).transpose(2, 0, 1)
    gray = in_gray(image)
    assert (gray == gray[:1]).all() and gray.dtype == np.uint8
    np.testing.assert_allclose(gray[0], np.tensordot([0.299, 0.587, 0.114], image.astype(float), 1), atol=0.51)


@pytest.mark.parametrize("form, share, options", [
    *[("JPEG", share, {"progressive": progressive}) for share in (0.01, 0.5, 0.95) for progressive in (False, True)],
    *[(form, 0.5, {}) for form in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]])
def test_a_truncated_picture_is_named(tmp_path, form, share, options):
    content = encoded(smooth(1, 200, 40), form, **options)
    with pytest.raises(DamagedPicture, match="cut off: "):
        read_picture(write(tmp_path / "cut off", content[:int(len(content) * share)]), 32)


@pytest.mark.parametrize("content, reason", [
    (b"", "empty"), (bytes(5000), "not a picture"), (huge_png(), "exceeds limit"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture")])  # starts Ghostscript
def test_what_is_not_a_picture_says_why(tmp_path, content, reason):
    path = write(tmp_path / "odd name.jpg", content)
    with pytest.raises(DamagedPicture, match=reason) as caught:
        read_picture(path, 16)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.randoms(use_true_random=False),
       st.integers(1, 40))
def test_any_corruption_gives_a_picture_or_the_one_error(form, random, count):
    content = bytearray(encoded(quadrants(), form))
    for _ in range(count):
        content[random.randrange(len(content))] = random.randrange(256)
    with suppress(DamagedPicture):
        assert decoded(bytes(content)).shape == (32, 32, 3)


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_picture(tmp_path / "gone.jpg", 16)
    write(tmp_path / "0.png", encoded(smooth(0), "PNG"))
    (tmp_path / "1.png").symlink_to("/proc/self/mem" if Path("/proc/self/mem").exists() else "gone")  # a real EIO
    zero, one = read_pictures(tmp_path, [Entry("0.png", 3), Entry("1.png", 4)], size=16)
    assert zero.image is not None and not zero.passing
    assert one.image is None and one.passing and "Errno" in one.problem and (one.label, one.path) == (4, "1.png")
    monkeypatch.setattr(decoding, "_to_rgb", lambda _: bytes(2**62))
    (full,) = read_pictures(tmp_path, [Entry("0.png", 3)], size=16)
    assert full.passing and full.problem


def flower_in(width: int, height: int) -> np.ndarray:
    """bool H x W: an ellipse and a bar, so that every rotation, mirroring and crop looks different."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    return (((x - 0.4) / 0.22) ** 2 + ((y - 0.3) / 0.2) ** 2 < 1) | ((abs(x - 0.62) < 0.06) & (y > 0.2) & (y < 0.85))


def sampled(flower: np.ndarray, size: int, squeeze: bool) -> list[list[bool]]:
    """The nearest pixels of the central square, or of all, one by one."""
    height, width = flower.shape
    across, down = (width, height) if squeeze else [min(width, height)] * 2
    left, top = (width - across) / 2, (height - down) / 2
    return [[bool(flower[int(top + (y + 0.5) * down / size), int(left + (x + 0.5) * across / size)])
             for x in range(size)] for y in range(size)]


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright_and_framed_exactly_as_their_masks(tmp_path, orientation, form, squeeze):
    for shape in ((61, 40), (40, 61), (600, 410)):  # the largest JPEG is decoded at a fraction of its size
        flower = flower_in(*shape)
        blue = np.where(flower[..., None], (250, 240, 60), NOT_FLOWER).astype(np.uint8)
        segmentation = write(tmp_path / "segmim.png", encoded(blue, "PNG"))
        content = encoded(np.repeat(flower[..., None], 3, 2) * np.uint8(255), form, quality=95, exif=exif(orientation))
        picture = read(content, 32, squeeze=squeeze, segmentation=segmentation)
        mask, seen = picture.parts == PETAL, picture.image.mean(0) > 127
        assert (picture.height, picture.width) == UPRIGHT[orientation](flower).shape
        assert picture.parts.dtype == np.uint8 and mask.tolist() == sampled(UPRIGHT[orientation](flower), 32, squeeze)
        assert (mask & seen).sum() > 0.93 * (mask | seen).sum()


@pytest.mark.parametrize("color, is_flower", [
    ((0, 0, 254), False), ((9, 12, 240), False), ((70, 70, 220), False), ((80, 70, 200), True),  # at 105 and at 119
    ((0, 0, 130), True), ((255, 255, 255), True), ((0, 0, 0), True)])
def test_colors_near_the_blue_are_not_the_flower(tmp_path, color, is_flower):
    pixels = encoded(np.full((8, 8, 3), color, np.uint8), "PNG")
    picture = read(pixels, 8, segmentation=write(tmp_path / "segmim.png", pixels))
    assert (picture.parts == (PETAL if is_flower else 0)).all()


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path):
    with open(tmp_path / "zeros.jpg", "wb") as file:
        file.truncate(3 * 2**30)  # of which the disk holds nothing
    tracemalloc.start()
    with pytest.raises(DamagedPicture, match=r"zeros.jpg: the file has 3072 MB, more than a picture's 256"):
        read_picture(tmp_path / "zeros.jpg", 32)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_threads_keep_the_order_and_stay_a_little_ahead(tmp_path, monkeypatch):
    for number in range(100):
        write(tmp_path / f"{number}.png", encoded(np.full((4, 4, 3), number, np.uint8), "PNG"))
    write(tmp_path / "7.png", b"")
    started = []
    original = decoding.read_picture
    monkeypatch.setattr(decoding, "read_picture", lambda file, **o: started.append(file) or original(file, **o))
    pictures = read_pictures(tmp_path, [Entry(f"{number}.png", number % 5, "test") for number in range(100)], size=4)
    assert started == [], "nothing happens before the first is asked for"
    first = next(pictures)
    assert len(started) <= decoding.AHEAD < 100
    pictures = [first, *pictures]
    assert [picture.path for picture in pictures] == [f"{number}.png" for number in range(100)]
    assert all(one.image is None if n == 7 else (one.image == n).all() for n, one in enumerate(pictures))
    assert (pictures[7].problem, pictures[7].label, pictures[7].split) == ("the file is empty", 2, "test")
