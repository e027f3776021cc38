"""Oxford's segmentations as part masks: read right, moved exactly as their pictures, and refused where they are odd."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from toys import encoded, pack, write

from common.datasets.decoding import NOT_FLOWER, PARTS, read_picture
from common.datasets.images import ImageSet
from common.flowers.rendering import render, write_oxford
from common.flowers.species import species_table

PETAL = PARTS.index("petal")
SPECIES, EACH, SIZE = 3, 21, 64


def overlap(masks, others) -> float:
    """Intersection over union."""
    return (masks & others).sum() / (masks | others).sum()


def flower_in(width: int, height: int) -> np.ndarray:
    """bool H x W: an ellipse and a bar, so that every rotation, mirroring and crop looks different."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    return (((x - 0.4) / 0.22) ** 2 + ((y - 0.3) / 0.2) ** 2 < 1) | ((abs(x - 0.62) < 0.06) & (y > 0.2) & (y < 0.85))


def segmented(flower: np.ndarray, color=(250, 240, 60)) -> np.ndarray:
    """uint8 H x W x 3: `color` on the flower, blue elsewhere."""
    return np.where(flower[..., None], color, NOT_FLOWER).astype(np.uint8)


def sampled(flower: np.ndarray, size: int, squeeze: bool) -> list[list[bool]]:
    """The nearest pixels of the central square, or of all, one by one."""
    height, width = flower.shape
    across, down = (width, height) if squeeze else [min(width, height)] * 2
    left, top = (width - across) / 2, (height - down) / 2
    return [[bool(flower[int(top + (y + 0.5) * down / size), int(left + (x + 0.5) * across / size)])
             for x in range(size)] for y in range(size)]


def layout(root: Path, shapes=((30, 20), (20, 30), (20, 20), (25, 20))) -> Path:
    """The official layout with segmentations; all pictures but the flower in them are black."""
    for number, shape in enumerate(shapes, 1):
        flower = flower_in(*shape)
        write(root / f"jpg/image_{number:05d}.jpg", encoded(np.repeat(flower[..., None], 3, 2) * np.uint8(255)))
        write(root / f"segmim/segmim_{number:05d}.jpg", encoded(segmented(flower), quality=95, subsampling=0))
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 1, 2, 2]])})
    savemat(root / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[3, 4]]})
    return root


def is_aligned(image_set: ImageSet) -> bool:
    """Whether the masks lie on what is bright in the pictures of `layout`."""
    return overlap(image_set.parts == PETAL, image_set.images.mean(1) > 127) > 0.85


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Rendered flowers in Oxford's layout."""
    root = tmp_path_factory.mktemp("drawn") / "set"
    write_oxford(root, SPECIES, EACH, SIZE)
    return root


def test_masks_read_back_are_the_rendered_flowers(load, drawn):
    image_set = load("flowers102", drawn, SIZE)
    truth = [render(one, instance, SIZE).parts for one in species_table(SPECIES) for instance in range(EACH)]
    truth = np.stack(truth) >= PETAL  # the center belongs to the flower
    masks = image_set.parts == PETAL
    assert image_set.parts.dtype == np.uint8 and np.unique(image_set.parts).tolist() == [0, PETAL]
    assert overlap(masks, truth) > 0.94
    for moved in (masks[..., ::-1], masks[:, ::-1], masks.swapaxes(1, 2), np.roll(masks, 2, 2), np.roll(masks, 1, 0)):
        assert overlap(moved, truth) < 0.9


def test_masks_change_the_cache_but_not_the_fingerprint(load, drawn, tmp_path):
    root = shutil.copytree(drawn, tmp_path / "set")
    (root / "segmim").rename(tmp_path / "segmim")
    bare = load("flowers102", root)
    assert bare.parts is None
    (tmp_path / "segmim").rename(root / "segmim")
    masked = load("flowers102", root)
    assert masked.fingerprint == bare.fingerprint and (masked.images == bare.images).all()
    assert masked.parts.shape == (len(bare), 16, 16)
    write(root / "segmim/segmim_00001.jpg", encoded(np.full((SIZE, SIZE, 3), NOT_FLOWER, np.uint8)))
    assert not load("flowers102", root).parts[0].any() and masked.parts[0].any()
    shutil.rmtree(root / "segmim")
    assert load("flowers102", root).parts is None


@pytest.mark.parametrize("form", ["folder", "folder with tgz", "zip", "nested zip", "tgz beside", "folder beside"])
def test_segmentations_are_found_where_the_other_files_are(load, tmp_path, form):
    data = root = layout(tmp_path / "set")
    if "zip" in form:
        data = pack(tmp_path / "set.zip", root, "in/" * ("nested" in form))
    if "beside" in form:
        data = pack(root / "102flowers.tgz", root / "jpg", "jpg/")
        shutil.rmtree(root / "jpg")
    if "tgz" in form:
        pack(root / "102segmentations.tgz", root / "segmim", "segmim/")
        shutil.rmtree(root / "segmim")
    image_set = load("flowers102", data)
    assert len(image_set) == 4 and is_aligned(image_set)


def test_a_damaged_picture_takes_its_mask_along_and_gray_changes_none(load, tmp_path):
    root = layout(tmp_path / "set")
    whole = load("flowers102", root)
    assert (load("flowers102", root, grayscale=True).parts == whole.parts).all()
    write(root / "jpg/image_00001.jpg", b"")
    image_set = load("flowers102", root)
    assert (image_set.parts == whole.parts[1:]).all() and is_aligned(image_set)


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_move_exactly_as_their_pictures(tmp_path, orientation, squeeze):
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for shape in ((61, 40), (40, 61), (600, 410)):  # the largest JPEG is decoded at a fraction of its size
        flower = flower_in(*shape)
        file = write(tmp_path / "segmim.jpg", encoded(segmented(flower), "PNG"))
        content = encoded(np.repeat(flower[..., None], 3, 2) * np.uint8(255), quality=95, exif=exif)
        picture = read_picture(io.BytesIO(content), 32, squeeze, file)
        assert picture.parts.dtype == np.uint8
        assert (picture.parts == PETAL).tolist() == sampled(undo(flower), 32, squeeze)
        seen, mask = picture.image.mean(0) > 127, picture.parts == PETAL
        assert overlap(mask, seen) > 0.93
        others = [mask[:, ::-1], mask[::-1], np.rot90(mask), mask.T, np.roll(mask, 1, 0), np.roll(mask, -1, 1)]
        assert max(overlap(moved, seen) for moved in others) < 0.93


@pytest.mark.parametrize("color, is_flower", [
    ((0, 0, 254), False), ((0, 0, 255), False), ((9, 12, 240), False), ((60, 50, 200), False),
    ((70, 70, 220), False),  # distance 105 from pure blue
    ((80, 70, 200), True),  # 119
    ((0, 0, 130), True), ((90, 80, 230), True), ((255, 255, 255), True), ((0, 0, 0), True), ((254, 0, 0), True)])
def test_colors_near_the_blue_are_not_the_flower(tmp_path, color, is_flower):
    pixels = encoded(np.full((8, 8, 3), color, np.uint8), "PNG")
    picture = read_picture(io.BytesIO(pixels), 8, segmentation=write(tmp_path / "segmim.png", pixels))
    assert (picture.parts == (PETAL if is_flower else 0)).all()


@pytest.mark.parametrize("damage, message", [
    (lambda r: [(r / f"segmim/segmim_0000{n}.jpg").unlink() for n in (2, 3)],
     r"imagelabels.mat has 4 labels, but .*segmim has 2 segm.*match is segmim_00002.jpg: take segm.*same download"),
    (lambda r: shutil.copy(r / "segmim/segmim_00001.jpg", r / "segmim/segmim_00005.jpg"),
     r"has 5 segmentations.*segmim_00005"),
    (lambda r: write(r / "segmim/segmim_00004.jpg", b"nonsense"),
     r"segmim_00004.jpg is damaged \(not a picture.*fetch the segmentations again"),
    (lambda r: write(r / "segmim/segmim_00001.jpg", (r / "segmim/segmim_00001.jpg").read_bytes()[:-99]),
     r"segmim_00001.jpg is damaged \(image file is truncated"),
    (lambda r: shutil.copy(r / "segmim/segmim_00002.jpg", r / "segmim/segmim_00001.jpg"),
     r"segmim_00001.jpg has 20 x 30 pixels, but its picture .*image_00001.jpg has 30 x 20: take pictures and segm"),
    (lambda r: (pack(r / "102segmentations.tgz", r / "segmim"), shutil.rmtree(r / "segmim")),
     r"has 0 segmentations.*segmim_00001")])
def test_segmentations_that_do_not_fit_are_refused(load, tmp_path, damage, message):
    root = layout(tmp_path / "set")
    damage(root)
    with pytest.raises(ValueError, match=message):
        load("flowers102", root)
    assert not list((tmp_path / "cache").glob("flowers102-*"))  # nothing half done is left behind
