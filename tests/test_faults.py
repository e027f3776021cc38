"""What users and their files do wrong: every row of faults.md is planted for real, and met as the row says.

A fault is a generator: what stands before its `yield` plants it, what stands after it is what a user then does.
"""

import dataclasses
import json
import os
import pwd
import re
import sys
import tarfile
import zipfile
from contextlib import contextmanager, redirect_stderr
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from toys import TINY, class_folder, config, encoded, faces, huge_png, image_set, model, pack, smooth, write

from common import checkpoints, notebooks
from common.config import ROOT, setup
from common.datasets import files, load_images
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import printable
from common.datasets.splits import make_splits, save_splits
from common.evaluation.metrics import Threshold
from common.evaluation.retrieval import read_embeddings, save_embeddings
from common.explanations.maps import pair_cam
from common.find import ColorAndLayout, collect, find
from common.ledger import COLUMNS, read_results, record
from common.losses import Classification
from common.training import Collapse, fit

TABLE = Path(__file__).with_name("faults.md")
FOR_PEOPLE = (ValueError, FileNotFoundError, BlockingIOError, PermissionError, Collapse, notebooks.NotebookError)
FAULTS = {}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def fault(function, name=None):
    """Register a fault under its own name."""
    FAULTS[name or function.__name__] = function
    return function


class World:
    """A folder of the test's own with what is needed to do something wrong in it."""

    def __init__(self, place, monkeypatch):
        self.place, self.patch, self.pictures = place, monkeypatch, None
        self.config = config(place)
        monkeypatch.setenv("SIMILARITY_CHECKPOINTS", str(place / "checkpoints"))
        monkeypatch.setenv("SIMILARITY_CACHE", str(place / "cache"))

    def folder(self, more=(), classes=("iris", "rose")):
        """A good folder of three pictures a class, and `more`: path -> bytes."""
        root = class_folder(self.place / "set", classes)
        for path, content in dict(more).items():
            write(root / path, content)
        return root

    def load(self, dataset=None, data=None):
        """Read pictures as a notebook does, at 16 pixels."""
        chosen = setup(dataset=dataset or f"folder:{self.place / 'set'}", data=data, device="cpu")
        self.pictures = load_images(dataclasses.replace(chosen, image_size=16))
        return self.pictures

    def files(self):
        """Every file but the cache's: path -> content."""
        found = [path for path in self.place.rglob("*") if path.is_file() and path.stat().st_size < 2**30]
        return {path: path.read_bytes() for path in found if "cache" not in path.parts and path.suffix != ".lock"}

    def save(self, name="best_model_center_loss.pth", pictures=None, net=None, **more):
        """A checkpoint, as R3 makes it."""
        history, threshold = pd.DataFrame({"epoch": [1]}), Threshold(0.5, "validation")
        given = pictures or image_set(3, 2), name, net or model(3), threshold
        return checkpoints.save(self.config, *given, history, **more)


# --- settings ---

SETTINGS = {
    "profile_unknown": dict(profile="fast"), "dataset_unknown": dict(dataset="roses"),
    "dataset_in_capitals": dict(dataset="Rendered"), "folder_nowhere": dict(dataset="folder"),
    "folder_missing": dict(dataset="folder:/no/such"), "data_missing": dict(data="/no/such"),
    "data_of_nobody": dict(data="~nobody-of-that-name/set"),
    "weights_missing": dict(weights="/no/such"), "seed_below_0": dict(seed=-1), "seed_a_word": dict(seed="abc"),
    "seed_too_large": dict(seed=2**32), "epochs_0": dict(epochs=0), "epochs_a_half": dict(epochs="1.5"),
    "embedding_0": dict(embedding_size=0), "picture_of_1_pixel": dict(image_size=1),
    "picture_of_4096_pixels": dict(image_size=4096), "size_with_unit": dict(image_size="64px"),
    "grayscale_perhaps": dict(grayscale="perhaps"), "device_unknown": dict(device="toaster"),
    "device_meta": dict(device="meta"),
    "backbone_misspelt": dict(backbone="resnet5O"), "backbone_empty_of_sense": dict(backbone="???"),
}  # fmt: skip


def setting(given):
    def wrong(world):
        yield
        setup(**given)

    return wrong


for name, given in SETTINGS.items():
    fault(setting(given), name)


@fault
def notebook_unknown(world):
    yield
    notebooks.select(["R8"])


@fault
def variable_misspelt(world):
    world.patch.setenv("SIMILARITY_DATSET", "flowers102")
    yield
    setup()


@fault
def home_unknown(world):
    world.patch.delenv("HOME", raising=False)
    world.patch.delenv("SIMILARITY_CACHE")
    world.patch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    yield
    setup()


# --- pictures, each in the class rose of a good folder ---

PICTURES = {
    "picture_cut": ("cut.jpg", encoded(smooth(1, 200))[:900]), "picture_empty": ("empty.jpg", b""),
    "picture_text": ("text.jpg", b"this is text"), "picture_html": ("page.png", b"<html>404</html>"),
    "picture_bomb": ("bomb.png", huge_png()), "picture_film": ("film.jpg", b"\x00\x00\x01\xba" + bytes(99)),
    "picture_program": ("program.gif", b"\x7fELF" + bytes(99)), "picture_zeros": ("zeros.bmp", bytes(999)),
    "picture_postscript": ("run.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
    "picture_animated": ("film.gif", encoded(Image.fromarray(smooth(1)), "GIF", save_all=True,
                                             append_images=[Image.fromarray(smooth(2))])),
    "picture_16_bit": ("deep.png", encoded(np.arange(2500, dtype=np.uint16).reshape(50, 50) * 20, "PNG")),
    "picture_cmyk": ("print.jpg", encoded(Image.fromarray(smooth(1)).convert("CMYK"))),
    "picture_palette": ("icon.png", encoded(Image.fromarray(smooth(1)).quantize(8), "PNG", transparency=3)),
    "picture_1_x_1": ("dot.png", encoded(smooth(1, 1), "PNG")),
    "picture_20000_x_10": ("strip.png", encoded(np.ones((10, 20_000, 3), np.uint8), "PNG")),
    "picture_bad_exif": ("notes.jpg", encoded(smooth(1), exif=b"Exif\x00\x00garbage")),
    "picture_named_oddly": ("a'b\"c\n<script>x</script> $1 \U0001f339.jpg", encoded(smooth(1))),
    "picture_not_utf_8": (os.fsdecode(b"\xff\xfe.jpg"), encoded(smooth(1))),
    "picture_that_obeys": ("\x1b[2J" + os.fsdecode(b"\xff") + ".jpg", b""),
    "picture_hidden": (".DS_Store", b"x"), "picture_of_a_mac": ("._0.jpg", b"x"), "picture_notes": ("notes.txt", b"x"),
}  # fmt: skip


def picture(name, content):
    def wrong(world):
        world.folder({f"rose/{name}": content})
        yield
        world.load()

    return wrong


for name, given in PICTURES.items():
    fault(picture(*given), name)


@fault
def picture_of_3_gigabytes(world):
    root = world.folder()
    with open(root / "rose" / "zeros.jpg", "wb") as file:
        file.truncate(3 * 2**30)
    yield
    world.load()


@fault
def folder_called_x_jpg(world):
    world.folder({"rose/x.jpg/inside.jpg": encoded(smooth(1))})
    yield
    world.load()


@fault
def link_to_a_picture(world):
    root = world.folder()
    (root / "rose" / "linked.jpg").symlink_to(write(world.place / "far.jpg", encoded(smooth(1))))
    yield
    world.load()


@fault
def link_to_nothing(world):
    (world.folder() / "rose" / "gone.jpg").symlink_to(world.place / "gone.jpg")
    yield
    world.load()


@fault
def link_to_a_class(world):
    root = world.folder()
    (root / "tulip").symlink_to(class_folder(world.place / "far", ("tulip",)) / "tulip")
    yield
    world.load()


@fault
def links_in_circles(world):
    root = world.folder()
    (root / "rose" / "again").symlink_to(root)
    (root / "all").symlink_to(root)
    yield
    world.load()


# --- folders ---

def contents(more, classes=()):
    def wrong(world):
        world.folder(more, classes).mkdir(exist_ok=True)
        yield
        world.load()

    return wrong


GOOD = {f"{n}.jpg": encoded(smooth(n)) for n in range(3)}
FOLDERS = {
    "folder_empty": contents({}), "folder_of_one_class": contents({}, ("iris",)), "folder_flat": contents(GOOD),
    "folder_of_folders": contents({f"{part}/rose/{n}": c for part in ("train", "test") for n, c in GOOD.items()}),
    "class_empty": contents({"tulip/.keep": b""}, ("iris", "rose")),
    "class_of_one": contents({"tulip/0.jpg": encoded(smooth(9))}, ("iris", "rose")),
    "class_all_damaged": contents({"tulip/0.jpg": b"", "tulip/1.jpg": b"x"}, ("iris", "rose")),
    "class_named_oddly": contents({"a $b$ <i> \U0001f339/" + n: c for n, c in GOOD.items()}, ("iris", "rose")),
    "all_damaged": contents({"a/0.jpg": b"", "b/1.jpg": b"x"}),
    "loose_pictures": contents(GOOD, ("iris", "rose")),
}  # fmt: skip
for name, given in FOLDERS.items():
    fault(given, name)


def split(world, pictures):
    """What R1 does with a folder: leave copies out, and draw the splits."""
    world.pictures = pictures
    keep = keep_one(pictures, find_duplicates(pictures))
    save_splits(make_splits(pictures, world.config, keep), world.config.directory / "splits.json")


@fault
def thousand_classes_of_two(world):
    yield
    split(world, image_set(1000, 2, 16))


@fault
def all_black(world):
    yield
    split(world, image_set(6, 6, images=np.zeros((36, 3, 16, 16), np.uint8), hashes=np.array(["same"] * 36)))


@fault
def two_pictures_a_class(world):
    yield
    split(world, image_set(2, 2, 16))


@fault
def six_small_classes(world):
    yield
    split(world, image_set(6, 6, 16))


@fault
def faces_of_three(world):
    root = faces(world.place / "orl")
    yield
    split(world, world.load("att_faces", root))


@fault
def a_text_for_a_folder(world):
    write(world.place / "set", b"not a folder")
    yield
    world.load()


# --- archives ---

def archive(suffix, fill):
    def wrong(world):
        path = world.place / f"set{suffix}"
        fill(path, class_folder(world.place / "source"))
        yield
        world.load(f"folder:{path}")

    return wrong


def zipped(name, content, **options):
    def fill(path, root):
        pack(path, root)
        with zipfile.ZipFile(path, "a", **options) as opened:
            opened.writestr(name, content)

    return fill


def tarred(name, kind, target):
    def fill(path, root):
        with tarfile.open(path, "w:gz") as opened:
            opened.add(root, ".")
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            opened.addfile(member)

    return fill


def cut(path, root):
    content = pack(path, root).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path, root):
    content = bytearray(pack(path, root).read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


def locked(path, root):
    content = bytearray(pack(path, root).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the bit that says encrypted
        for start in (match.start() for match in re.finditer(re.escape(mark), bytes(content))):
            content[start + place] |= 1
    path.write_bytes(content)


def lying(path, root):
    """The directory declares one byte where there are more."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("iris/0.jpg", bytes(10**6))
    content = path.read_bytes()
    path.write_bytes(content.replace((10**6).to_bytes(4, "little"), (1).to_bytes(4, "little")))


ARCHIVES = {
    "archive_outside": archive(".zip", zipped("../evil.jpg", b"x")),
    "archive_absolute": archive(".zip", zipped("/tmp/evil-of-a-test.jpg", b"x")),
    "archive_link": archive(".tgz", tarred("rose/passwords.jpg", tarfile.SYMTYPE, "/etc/passwd")),
    "archive_device": archive(".tgz", tarred("rose/disk.jpg", tarfile.BLKTYPE, "")),
    "archive_cut": archive(".zip", cut), "archive_cut_tgz": archive(".tgz", cut),
    "archive_flipped": archive(".zip", flipped),
    "archive_locked": archive(".zip", locked), "archive_lying": archive(".zip", lying),
    "archive_html": archive(".zip", lambda path, root: path.write_text("<html>404</html>")),
    "archive_unknown": archive(".rar", lambda path, root: path.write_bytes(b"Rar!\x1a\x07" + bytes(99))),
}  # fmt: skip
for name, given in ARCHIVES.items():
    fault(given, name)


@fault
def archive_bomb(world):
    root = write(world.place / "source" / "rose" / "zeros.jpg", bytes(20 * 2**20)).parents[1]
    path = pack(world.place / "set.zip", root, compression=zipfile.ZIP_DEFLATED)
    world.patch.setattr(files, "ROOM", 2**20)  # in place of the first gigabyte
    yield
    world.load(f"folder:{path}")


# --- Oxford's tables ---

def oxford(change):
    def wrong(world):
        root, labels = world.place / "set", [[1, 1, 2, 2, 3, 3]]
        for number in range(1, 7):
            write(root / f"jpg/image_{number:05d}.jpg", encoded(smooth(number)))
        savemat(root / "imagelabels.mat", {"labels": labels})
        savemat(root / "setid.mat", {"trnid": [[1, 3, 5]], "valid": [[2]], "tstid": [[4, 6]]})
        change(root)
        yield
        world.load("flowers102", root)

    return wrong


def labeled(labels, name="labels"):
    return oxford(lambda root: savemat(root / "imagelabels.mat", {name: labels}))


def parted(train, validation, test):
    return oxford(lambda root: savemat(root / "setid.mat", dict(trnid=train, valid=validation, tstid=test)))


HDF = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)
OXFORD = {
    "mat_a_picture_less": labeled([[1, 1, 2, 2, 3]]), "mat_label_0": labeled([[0, 1, 1, 2, 2, 3]]),
    "mat_label_half": labeled([[1, 1, 1.7, 2, 3, 3]]), "mat_label_nan": labeled([[1, 1, np.nan, 2, 3, 3]]),
    "mat_label_9999": labeled([[1, 1, 2, 2, 3, 9999]]), "mat_label_skipped": labeled([[1, 1, 2, 2, 4, 4]]),
    "mat_other_variable": labeled([[1, 1, 2, 2, 3, 3]], "species"), "mat_empty": labeled(np.zeros((1, 0))),
    "mat_words": labeled(np.array(["rose", "iris"], object)),
    "mat_out_of_range": parted([[1, 3, 5]], [[2]], [[4, 7]]), "mat_split_of_0": parted([[0, 3, 5]], [[2]], [[4, 6]]),
    "mat_overlapping": parted([[1, 3, 5]], [[2]], [[3, 6]]), "mat_text": oxford(lambda root: write(
        root / "setid.mat", b"1 3 5")), "mat_v7_3": oxford(lambda root: write(root / "imagelabels.mat", HDF)),
    "mat_cut": oxford(lambda root: write(root / "setid.mat", (root / "setid.mat").read_bytes()[:150])),
    "mat_missing": oxford(lambda root: (root / "setid.mat").unlink()),
    "mat_hidden_file": oxford(lambda root: write(root / "jpg" / "._image_00001.jpg", b"x")),
    "mat_names_latin": oxford(lambda root: write(root / "names.txt", "bluebell\nÅker\nrose".encode("latin-1"))),
    "mat_names_alike": oxford(lambda root: write(root / "names.txt", b"rose\nrose\nrose")),
    "mat_mask_of_other_size": oxford(lambda root: [write(
        root / f"segmim/segmim_{n:05d}.jpg", encoded(smooth(1, 20))) for n in range(1, 7)]),
}  # fmt: skip
for name, given in OXFORD.items():
    fault(given, name)


# --- tables ---

def triplets(header, *rows, more=()):
    def wrong(world):
        names = ["0002_c1s1_000001_01.jpg", "0002_c2s1_000001_01.jpg", "0007_c1s1_000002_01.jpg", *more]
        for number, name in enumerate(names):
            write(world.place / "set" / "train" / name, encoded(smooth(number)))
        lines = [header, *(row.format(*names) for row in rows)]
        write(world.place / "set" / "train.csv", "\n".join(lines).encode())
        yield
        world.load("reid", world.place / "set")

    return wrong


ROLES = "Anchor,Positive,Negative"
TRIPLETS = {
    "triplet_header": triplets("a,b,c", "{0},{1},{2}"), "triplet_of_nobody": triplets(ROLES, "{0},{1},x.jpg"),
    "triplet_cut": triplets(ROLES, "{0},{1},{2}", "{0},{1}"), "triplet_wrong_way": triplets(ROLES, "{0},{2},{1}"),
    "crop_without_name": triplets(ROLES, "{0},{1},{2}", more=["portrait.jpg"]),
}  # fmt: skip
for name, given in TRIPLETS.items():
    fault(given, name)


def row(**changes):
    known = dict(approach="center_loss", variant="standard", protocol="closed_set", split="test", metric="roc_auc")
    return pd.DataFrame([{**known, "value": 0.625, "low": 0.6, "high": 0.65, "n": 9, "seed": 0, **changes}])


def ledger(change):
    def wrong(world):
        record(world.config, image_set(2, 2), "R3", row())
        path = world.config.directory / "results.csv"
        path.write_bytes(change(path.read_bytes()))
        yield
        record(world.config, image_set(2, 2), "R4", row())

    return wrong


LEDGERS = {
    "ledger_cut": ledger(lambda text: text[:-40]), "ledger_empty": ledger(lambda text: b""),
    "ledger_header": ledger(lambda text: text.replace(b"attack", b"assault")),
    "ledger_binary": ledger(lambda text: bytes(range(256)) * 9),
    "ledger_nan": ledger(lambda text: text.replace(b"0.625", b"nan")),
    "ledger_7": ledger(lambda text: text.replace(b"0.625", b"7.0")),
    "ledger_word": ledger(lambda text: text.replace(b"center_loss", b"centre_loss")),
}  # fmt: skip
for name, given in LEDGERS.items():
    fault(given, name)


@fault
def ledger_row_of_validation(world):
    record(world.config, image_set(2, 2), "R3", row())
    yield
    record(world.config, image_set(2, 2), "R4", row(split="validation"))


@fault
def ledger_of_other_pictures(world):
    record(world.config, image_set(2, 2, seed=1), "R3", row())
    content = (world.config.directory / "results.csv").read_bytes()
    yield
    record(world.config, image_set(2, 2), "R4", row())
    assert read_results(world.config)["notebook"].tolist() == ["R4"]
    (world.config.directory / "results.csv").write_bytes(content)  # it may change: these rows leave


@fault
def ledger_of_many_rows(world):
    path = write(world.config.directory / "results.csv", b"")
    many = row(notebook="R1", dataset="x", profile="y", fingerprint="z").iloc[[0] * 100_000]
    many.reindex(columns=COLUMNS).to_csv(path, index=False)
    yield
    assert len(read_results(world.config)) == 100_000


def embeddings(change):
    def wrong(world):
        path = world.place / "embeddings.csv"
        save_embeddings(path, image_set(2, 2), np.ones((4, 3)))
        path.write_text(change(path.read_text()))
        yield
        read_embeddings(path)

    return wrong


fault(embeddings(lambda text: text.replace("1.0", "nan", 1)), "embeddings_nan")
fault(embeddings(lambda text: "a,b\n1,2\n"), "embeddings_of_other_kind")


# --- what notebooks hand on ---

def handed(change, name="splits.json"):
    def wrong(world):
        pictures = image_set()
        world.patch.setattr(checkpoints, "load_images", lambda config: pictures)
        save_splits(make_splits(pictures, world.config), world.config.directory / "splits.json")
        choice = dict(backbone=TINY, fingerprint=pictures.fingerprint)
        write(world.config.directory / "backbone.json", json.dumps(choice).encode())
        path = world.config.directory / name
        path.write_text(change(path.read_text()))
        yield
        checkpoints.handed_on(world.config)

    return wrong


def moved(text):
    """A test picture becomes one of train."""
    content = json.loads(text)
    part = content["parts"]["closed_set"]
    part["train"].append(part["test"].pop())
    return json.dumps(content)


HANDED = {
    "splits_cut": handed(lambda text: text[:500]), "splits_empty": handed(lambda text: "{}"),
    "splits_test_in_train": handed(moved),
    "splits_of_others": handed(lambda text: text.replace('int": "0', 'int": "f')),
    "backbone_cut": handed(lambda text: text[:9], "backbone.json"),
    "backbone_unknown": handed(lambda text: text.replace(TINY, "resnet5O"), "backbone.json"),
    "backbone_of_others": handed(lambda text: text.replace('int": "0', 'int": "f'), "backbone.json"),
}  # fmt: skip
for name, given in HANDED.items():
    fault(given, name)


class Exploit:
    """A pickle that writes a file as soon as it is read."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return open, (str(self.victim), "w")


def checkpoint(change, pictures=None):
    def wrong(world):
        path = world.save()
        change(path, world)
        yield
        checkpoints.load(path, pictures or image_set(3, 2))

    return wrong


def altered(place, name, value):
    def change(path, world):
        content = torch.load(path)
        content[place][name] = value
        torch.save(content, path)

    return change


def resplit(path, world):
    """R1 ran again, with another seed."""
    write(path.parent / "splits.json", b"one")
    world.save()
    write(path.parent / "splits.json", b"another")


CHECKPOINTS = {
    "checkpoint_cut": checkpoint(lambda path, world: path.write_bytes(path.read_bytes()[:5000])),
    "checkpoint_empty": checkpoint(lambda path, world: path.write_bytes(b"")),
    "checkpoint_html": checkpoint(lambda path, world: path.write_text("<html>404</html>")),
    "checkpoint_exploit": checkpoint(lambda path, world: torch.save(Exploit(world.place / "boom"), path)),
    "checkpoint_nan": checkpoint(altered("state_dict", "head.0.weight", torch.full((8, 96), torch.nan))),
    "checkpoint_threshold_nan": checkpoint(altered("threshold", "value", float("nan"))),
    "checkpoint_threshold_of_test": checkpoint(altered("threshold", "fitted_on", "test")),
    "checkpoint_of_other_size": checkpoint(lambda path, world: None, image_set(3, 2, 48)),
    "checkpoint_of_other_pictures": checkpoint(lambda path, world: None, image_set(4, 2)),
    "checkpoint_of_other_split": checkpoint(resplit),
}  # fmt: skip
for name, given in CHECKPOINTS.items():
    fault(given, name)


@fault
def file_that_nobody_makes(world):
    yield
    checkpoints.ensure(world.config, "best.pth")


# --- the disk, other processes, the cache ---

@fault
def disk_full_at_a_checkpoint(world):
    world.save()

    def full(place, content):
        raise OSError(28, "No space left on device")

    world.patch.setattr(Path, "write_bytes", full)
    yield
    with pytest.raises(OSError, match="No space left on device") as raised:
        world.save(net=model(3, seed=1))
    print(raised.value)


@contextmanager
def failing(world, name):
    """A drive that cannot read the files of one name, while it lasts."""
    def fails(path, read=Path.read_bytes):
        if path.name == name:
            raise OSError(5, "Input/output error")
        return read(path)

    with world.patch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        yield


@fault
def drive_fails_while_decoding(world):
    world.folder()
    yield
    with failing(world, "1.jpg"), pytest.raises(OSError, match="cannot be read now") as raised:
        world.load()
    print(raised.value)
    world.load()


@fault
def drive_fails_in_a_search(world):
    root, net = world.folder(), ColorAndLayout()
    yield
    with failing(world, "1.jpg"), redirect_stderr(sys.stdout):
        assert len(collect(root, net)) == 4
    world.pictures = collect(root, net)


@fault
def disk_full_at_the_cache(world):
    world.folder()
    numbers = count()

    def full(picture):
        if next(numbers) == 3:
            raise OSError(28, "No space left on device")
        return picture

    world.patch.setattr("common.datasets.images.in_gray", full)
    yield
    with pytest.raises(OSError, match="No space left on device") as raised:
        load_images(setup(dataset=f"folder:{world.place / 'set'}", grayscale=True, image_size=16))
    print(raised.value)


@fault
def checkpoints_read_only(world):
    write(world.place / "checkpoints", b"a file where a folder should be: even root cannot write into it")
    yield
    with pytest.raises(OSError) as raised:
        world.save()
    print(raised.value)


@fault
def cache_flipped(world):
    world.folder()
    world.load()
    path = next((world.place / "cache").glob("folder-set-*/images.bin"))
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    yield
    world.load()


@fault
def cache_cut(world):
    world.folder()
    world.load()
    path = next((world.place / "cache").glob("folder-set-*/files.csv"))
    path.write_bytes(path.read_bytes()[:30])
    yield
    world.load()


@fault
def killed_leftovers(world):
    world.folder()
    left = write(world.place / "cache" / "folder-set-1.0123abcd.part" / "images.bin", bytes(99)).parent
    os.utime(left, (0, 0))
    yield
    world.load()
    assert not left.exists()


def searched(query, folder="set"):
    def wrong(world):
        world.folder({"rose/" + os.fsdecode(b"\xff.jpg"): encoded(smooth(1)), "text.txt": b"text"})
        world.patch.setenv("COLUMNS", "200")
        net = ColorAndLayout()
        yield
        table = find(world.place / query, collect(world.place / folder, net), net)
        assert len(table) == 6 and printable(table["file"].iloc[0])

    return wrong


fault(searched("set/iris/0.jpg"), "search_among_odd_names")
fault(searched("set/text.txt"), "search_for_a_text")
fault(searched("set/gone.jpg"), "search_for_nothing")
fault(searched("set/iris/0.jpg", "gone"), "search_in_nothing")


@fault
def folder_in_use(world):
    yield
    with files.lock(world.config.directory, ""):
        notebooks.run(["R1"], world.config, root=ROOT)


@fault
def network_missing(world):
    yield
    files.download("The set", 7, "http://127.0.0.1:9/", {"one.zip": "0" * 32}, world.place / "cache" / "one")


# --- training and what follows ---

def trained(rate, value):
    def wrong(world):
        pictures, net = torch.rand(8, 3, 32, 32), model(2)
        loader = [(255 * pictures, torch.arange(8) % 2)] * 2
        with torch.no_grad():
            net.head[0].weight.fill_(value)
        yield
        optimizer = torch.optim.SGD(net.parameters(), lr=rate)
        fit(net, Classification(net.classify, 2, 8), loader, [optimizer], 3, lambda model: 0.5, augmentation=0.0)

    return wrong


fault(trained(0.1, torch.nan), "training_nan")
fault(trained(0.0, 0.0), "training_collapsed")


@fault
def map_of_nothing(world):
    net = model(2).eval()
    with torch.no_grad():
        net.head[0].weight.zero_()
    yield
    pair_cam(net, torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), "layer3.0")


# --- the walk ---

def rows():
    """(name, what the user sees, what is kept) of every row of faults.md."""
    for line in TABLE.read_text().splitlines():
        if match := re.fullmatch(r"\| .*\(`(\w+)`\) \| (.*) \| (.*) \|", line):
            yield pytest.param(*match.groups(), id=match[1])


def test_the_table_and_the_faults_are_the_same():
    named = [row.values[0] for row in rows()]
    assert sorted(named) == sorted(FAULTS) and len(named) >= 80


@pytest.mark.parametrize("name, sees, kept", [*rows()])
def test_a_fault_is_met_as_the_table_says(name, sees, kept, tmp_path, monkeypatch, capsys):
    world = World(tmp_path, monkeypatch)
    steps = FAULTS[name](world)
    next(steps)
    before = world.files()
    capsys.readouterr()
    try:
        assert next(steps, "done") == "done"
        reason = ""
    except FOR_PEOPLE as error:
        reason = str(error)
    said = capsys.readouterr().out + reason
    for words in re.findall(r"`([^`]+)`", sees):
        assert words in said, said
    assert said or sees == "nothing", "silence is said to be silence"
    assert len(said) < 700 and "Traceback" not in said, said
    assert (not said) == (sees == "nothing"), said
    after = world.files()
    assert {path: after.get(path) for path in before} == before, "no file is touched"
    assert not [*tmp_path.rglob("*.part")] and not (tmp_path / "boom").exists() and not list(tmp_path.rglob("evil*"))
    if number := re.match(r"(\d+) pictures", kept):
        assert len(world.pictures) == int(number[1])
