"""Oxford 102 Flowers: every form of its layout, parts that do not belong together, and the download."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from scipy.io import savemat
from toys import REAL, encoded, pack, write

from common.datasets.decoding import NOT_FLOWER
from common.datasets.duplicates import find_duplicates
from common.flowers.species import PETAL


def changed(root: Path, place: int, value: int) -> bytes:
    """The labels' file with another byte so far from the variable's name; SciPy's reader may crash on it."""
    content = bytearray((root / "imagelabels.mat").read_bytes())
    content[content.index(b"labels") + place] = value
    return bytes(content)


def oxford(root: Path, labels=(1, 1, 2, 2, 3, 3), splits=((1, 3, 5), (2,), (4, 6))) -> Path:
    """The official layout, one small picture per label: a white ellipse on black, and its segmentation."""
    y, x = np.mgrid[:20, :30] / 20
    for number in range(1, len(labels) + 1):
        flower = ((x - 0.7 - 0.01 * number) ** 2 + (y - 0.4) ** 2 < 0.1)[..., None]
        write(root / f"jpg/image_{number:05d}.jpg", encoded(np.repeat(flower, 3, 2) * np.uint8(255)))
        blue = np.where(flower, (250, 240, 60), NOT_FLOWER).astype(np.uint8)
        write(root / f"segmim/segmim_{number:05d}.jpg", encoded(blue, quality=95, subsampling=0))
    savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(root / "setid.mat", dict(zip(("trnid", "valid", "tstid"), (np.array([ids]) for ids in splits))))
    return root


def packed(root: Path) -> Path:
    """Pictures and segmentations in archives beside the .mat files, as Oxford offers them."""
    pack(root / "102flowers.tgz", root / "jpg", "jpg/")
    shutil.rmtree(root / "jpg")
    pack(root / "102segmentations.tgz", root / "segmim", "segmim/")
    shutil.rmtree(root / "segmim")
    return root


@pytest.mark.parametrize("form", [
    lambda root: root, lambda root: root.parent, lambda root: pack(root.parent / "f.zip", root),
    lambda root: pack(root.parent / "f.zip", root, "in/"), packed, lambda root: packed(root) / "102flowers.tgz"])
def test_every_form_of_the_layout(load, tmp_path, form):
    image_set = load("flowers102", form(oxford(tmp_path / "outer" / "flowers-102")))
    assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert image_set.class_names == ["species 1", "species 2", "species 3"]
    assert {name: part.tolist() for name, part in image_set.official.items()} == {
        "train": [0, 2, 4], "validation": [1], "test": [3, 5]}
    assert image_set.paths[0] == "jpg/image_00001.jpg" and image_set.name == "flowers102"
    masks, bright = image_set.parts == PETAL, image_set.images.mean(1) > 127
    assert (masks & bright).sum() > 0.85 * (masks | bright).sum(), "masks lie on their flowers"


def test_masks_change_the_cache_but_not_the_fingerprint(load, tmp_path):
    root = oxford(tmp_path / "set")
    masked = load("flowers102", root)
    assert (load("flowers102", root, grayscale=True).parts == masked.parts).all()
    (root / "segmim").rename(tmp_path / "segmim")
    bare = load("flowers102", root)
    assert bare.parts is None and bare.fingerprint == masked.fingerprint and (bare.images == masked.images).all()
    (tmp_path / "segmim").rename(root / "segmim")
    write(root / "segmim/segmim_00001.jpg", encoded(np.full((20, 30, 3), NOT_FLOWER, np.uint8)))
    assert not load("flowers102", root).parts[0].any() and masked.parts[0].any()


def test_names_stand_in_names_txt_or_are_the_published_ones(load, tmp_path):
    root = oxford(tmp_path / "three")
    (root / "names.txt").write_text("bluebell\nÅkerklocka\ncolts-foot\n", encoding="utf-8")
    assert load("flowers102", root).class_names == ["bluebell", "Åkerklocka", "colts-foot"]
    for wrong in ("bluebell\n", "bluebell\n" * 3):
        (root / "names.txt").write_text(wrong)
        with pytest.raises(ValueError, match=r"names\.txt has 1 names for 3 species: give each a line of its own"):
            load("flowers102", root)
    (root / "names.txt").write_text("bluebell\nÅkerklocka\ncolts-foot\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"names\.txt is not written in UTF-8.*save it again"):
        load("flowers102", root)
    names = load("flowers102", oxford(tmp_path / "all", range(1, 103), ((1,), (2,), (3,)))).class_names
    assert names == list(getattr(torchvision.datasets.Flowers102, "classes", names)) and len(set(names)) == 102


def test_hidden_files_are_no_pictures(load, tmp_path):
    root = oxford(tmp_path / "set")
    write(root / "jpg" / "._image_00001.jpg", b"of a Mac")
    assert len(load("flowers102", root)) == 6


def test_a_damaged_picture_takes_its_mask_along_and_shifts_no_other(load, tmp_path, capsys):
    root = oxford(tmp_path / "set")
    whole = load("flowers102", root)
    write(root / "jpg" / "image_00002.jpg", b"")
    image_set = load("flowers102", root)
    assert "image_00002.jpg (the file is empty)" in capsys.readouterr().out
    others = [0, 2, 3, 4, 5]
    assert (image_set.images == whole.images[others]).all() and (image_set.parts == whole.parts[others]).all()
    assert image_set.labels.tolist() == [0, 1, 1, 2, 2]
    assert {name: part.tolist() for name, part in image_set.official.items()} == {"train": [0, 1, 3], "test": [2, 4]}


@pytest.mark.parametrize("damage, message", [
    (lambda r: (r / "jpg/image_00006.jpg").unlink(), r"6 labels, but .*jpg has 5 pict.*image_00006"),
    (lambda r: shutil.copy(r / "jpg/image_00001.jpg", r / "jpg/image_00007.jpg"), r"6 labels.* 7 pict.*image_00007"),
    (lambda r: (r / "jpg/image_00002.jpg").rename(r / "jpg/rose.jpg"), r"6 labels, but .* 6 pictures"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": [[0, 1, 1, 2, 2, 3]]}), "label 0, but species count from 1"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": [[1, 1, 1.7, 2, 3, 3]]}), "no whole numbers"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": [[1, 1, np.nan, 2, 3, 3]]}), "no whole numbers"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": [[1, 1, 2, 2, 3, 9999]]}), "label 9999, but no"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": [[1, 1, 2, 2, 4, 4]]}), r"label 4, but no .* species 3"),
    (lambda r: savemat(r / "imagelabels.mat", {"labels": np.zeros((1, 0))}), "no whole numbers"),
    (lambda r: write(r / "imagelabels.mat", b"1 1 2 2 3 3"), r"imagelabels.mat is damaged"),
    (lambda r: write(r / "imagelabels.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)),
     r"imagelabels.mat is damaged.*HDF"),
    (lambda r: write(r / "imagelabels.mat", changed(r, 8, 0)), "imagelabels.mat is damaged.*unknown type 0"),
    (lambda r: write(r / "imagelabels.mat", changed(r, -18, 255)), "imagelabels.mat is damaged.* bytes, and only "),
    (lambda r: savemat(r / "imagelabels.mat", {"other": [[1]]}), r"imagelabels.mat.*lacks .*'labels'"),
    (lambda r: write(r / "setid.mat", (r / "setid.mat").read_bytes()[:150]), r"setid.mat is damaged"),
    (lambda r: oxford(r, splits=((1, 3), (2,), (4, 7))), r"setid.mat: tstid names picture 7, .*not one of the 6"),
    (lambda r: oxford(r, splits=((0, 3), (2,), (4, 5))), r"trnid names picture 0"),
    (lambda r: oxford(r, splits=((1, 3), (2,), (3, 4))), r"tstid names picture 3, which is named before"),
    (lambda r: (r / "setid.mat").unlink(), r"setid.mat is missing"),
    (lambda r: shutil.rmtree(r / "jpg"), r"102flowers.tgz is missing"),
    (lambda r: (r / "segmim/segmim_00002.jpg").unlink(), r"segmim has 5 segmentations.*segmim_00002"),
    (lambda r: write(r / "segmim/segmim_00004.jpg", b"nonsense"), r"segmim_00004.jpg is damaged \(not a picture"),
    (lambda r: write(r / "segmim/segmim_00001.jpg", encoded(np.zeros((30, 20, 3), np.uint8))),
     r"segmim_00001.jpg has 20 x 30 pixels, but its picture .*image_00001.jpg has 30 x 20")])
def test_parts_that_do_not_belong_together_are_refused(load, tmp_path, damage, message):
    root = oxford(tmp_path / "set")
    damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load("flowers102", root)
    assert not list((tmp_path / "cache").glob("flowers102-*"))  # nothing half done is left behind


def test_flowers_are_downloaded_once(load, tmp_path, serve, monkeypatch):
    served = packed(oxford(tmp_path / "served"))
    address, asked = serve(served)
    flowers = torchvision.datasets.Flowers102
    sums = {key: (name, hashlib.md5((served / name).read_bytes()).hexdigest())
            for key, (name, _) in flowers._file_dict.items()}
    monkeypatch.setattr(flowers, "_file_dict", sums)
    monkeypatch.setattr(flowers, "_download_url_prefix", address)
    image_set = load("flowers102")
    assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2] and len(image_set.official) == 3
    assert {path for _, path in asked} == {"102flowers.tgz", "imagelabels.mat", "setid.mat"}
    asked.clear()
    assert load("flowers102").fingerprint == image_set.fingerprint and asked == []


@pytest.mark.skipif(not (REAL / "flowers12.zip").exists(), reason="flowers12.zip is not on this machine")
def test_real_photographs(load):
    image_set = load("flowers102", REAL / "flowers12.zip", size=48)
    assert len(image_set) == 720 and np.bincount(image_set.labels).tolist() == [60] * 12
    assert {name: len(part) for name, part in image_set.official.items()} == {
        "train": 360, "validation": 120, "test": 240}
    assert (image_set.files.problem == "").all() and image_set.class_names[0] == "bluebell"
    found = find_duplicates(image_set)  # copies and near-copies, all within a species
    assert len(found) == 36 and (image_set.labels[found["first"]] == image_set.labels[found["second"]]).all()
