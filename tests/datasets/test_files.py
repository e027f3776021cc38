"""Files and folders are there whole or not at all; archives are unpacked safely; downloads are checked."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toys import class_folder, pack, write

from common.datasets import files
from common.datasets.files import download, files_below, lock, save_json, unpack, whole, write_whole


def test_a_file_and_its_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    save_json(path, {"a": [1, None, "ö"], "b": np.arange(3)})
    assert json.loads(path.read_text()) == {"a": [1, None, "ö"], "b": [0, 1, 2]}
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(TypeError):
        save_json(path, [object()])
    assert json.loads(path.read_text())["b"] == [0, 1, 2], "what is no JSON leaves the old file"
    with pytest.raises(OSError):
        save_json(path.parent, [])
    assert list(path.parent.parent.iterdir()) == [path.parent], "a file does not silently give way to a folder"


def test_an_interruption_leaves_the_old_and_the_first_of_two_writers_of_a_folder_wins(tmp_path):
    path, folder = write(tmp_path / "file", b"old"), tmp_path / "set"
    for place, below in ((path, ""), (folder, "file")):
        with pytest.raises(KeyboardInterrupt), whole(place) as temporary:
            write(temporary / below, b"half")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_whole(path, lambda temporary: temporary.write_text("new"))
    with whole(folder) as slow:
        with whole(folder) as fast:
            write(fast / "file", b"fast")
        write(slow / "file", b"slow")
    assert sorted(tmp_path.iterdir()) == [path, folder]
    assert path.read_bytes() == b"new" and (folder / "file").read_bytes() == b"fast"


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    old = write(tmp_path / "set.0123abcd.part" / "images.bin", b"half").parent
    new = write(tmp_path / "a.89abcdef.part", b"half")
    own = write(tmp_path / "my.part", b"a user's own")
    day = time.time() - 25 * 3600
    for path in (old, own):
        os.utime(path, (day, day))
    write_whole(tmp_path / "other", Path.touch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "my.part", "other"]


def elsewhere(code, **options):
    """Another process that runs `code`, without the seconds that the package takes to import."""
    start = f"import runpy\nfrom pathlib import Path\nlock = runpy.run_path({files.__file__!r})['lock']\n"
    return subprocess.Popen([sys.executable, "-c", start + code], stdout=subprocess.PIPE, text=True, **options)


def test_a_lock_keeps_others_out_lets_own_processes_in_and_ends_with_its_process(tmp_path):
    path = tmp_path / "new" / "run"
    hold = f"with lock(Path({str(path)!r}), 'busy'):\n    print('held', flush=True)\n    input()"
    other = elsewhere(hold, stdin=subprocess.PIPE)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match="busy here"), lock(path, "busy here"):
        pytest.fail("two hold it")
    with lock(tmp_path / "new" / "another", "busy"):
        pass
    other.kill()
    other.wait()
    with lock(path, "busy here", patience=10):
        assert elsewhere(f"with lock(Path({str(path)!r}), 'busy'): print('in')").stdout.read() == "in\n"
        with pytest.raises(BlockingIOError), lock(path, "busy"):
            pytest.fail("threads are others to each other")
    assert elsewhere(f"with lock(Path({str(path)!r}), 'busy'): print('in')").stdout.read() == "in\n"


def test_who_is_patient_waits_for_a_lock(tmp_path):
    inside, done = tmp_path / "inside", []

    def work(number):
        with lock(tmp_path / "run", "busy", patience=30):
            inside.mkdir()  # fails where it is there
            time.sleep(0.01)
            inside.rmdir()
            done.append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert sorted(done) == [*range(8)]


def test_a_drive_without_locks_is_worked_on_without(tmp_path, monkeypatch):
    def missing(self):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("common.datasets.files.FileLock.acquire", missing)
    with lock(tmp_path / "run", "busy"):
        pass


def test_linked_folders_are_followed_one_deep_and_never_in_a_circle(tmp_path, capsys):
    root, far = class_folder(tmp_path / "set"), class_folder(tmp_path / "far", ("tulip",))
    (root / "tulip").symlink_to(far / "tulip")
    (root / "iris" / "one.jpg").symlink_to(far / "tulip" / "0.jpg")
    names = ["iris/0.jpg", "iris/1.jpg", "iris/2.jpg", "iris/one.jpg", "rose/0.jpg", "rose/1.jpg", "rose/2.jpg"]
    names += ["tulip/0.jpg", "tulip/1.jpg", "tulip/2.jpg"]
    assert [path.as_posix() for path in files_below(root)] == names and not capsys.readouterr().out
    (root / "iris" / "deep").symlink_to(far)
    (root / "circle").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "rose" / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    (root / "rose" / "self.jpg").symlink_to(root / "rose" / "self.jpg")
    assert [path.as_posix() for path in files_below(root)] == names
    assert capsys.readouterr().out == "Left out: 5 links that lead to no file, such as above\n"


def leftovers(cache):
    """Everything below the cache but the empty folder of archives."""
    return [path for path in cache.rglob("*") if path.name != "archives"]


@pytest.mark.parametrize("suffix", [".zip", ".tgz", ".tar.gz"])
def test_an_archive_is_unpacked_once_and_always_the_same(tmp_path, suffix, monkeypatch):
    root, cache = class_folder(tmp_path / "set"), tmp_path / "cache"
    archive = pack(tmp_path / f"my set{suffix}", root, "inner/")

    def state(folder):
        return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
                for path in folder.rglob("*") if path.is_file()}

    folder = unpack(archive, cache)
    first = state(folder)
    assert {name: content for name, (content, _) in first.items()} == {
        f"inner/{name}": content for name, (content, _) in state(root).items()}
    with monkeypatch.context() as patch:
        patch.setattr("common.datasets.files._members", lambda *_: pytest.fail("unpacked again"))
        assert unpack(archive, cache) == folder and unpack(root, cache) == root
    shutil.rmtree(folder)
    assert state(unpack(archive, cache)) == first, "names and times are what the cache of pictures knows"


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("damage", ["cut 0", "cut .1", "cut .5", "cut .99", "flip .3", "flip .5", "flip .9"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, suffix, damage):
    archive = pack(tmp_path / f"set{suffix}", class_folder(tmp_path / "set"))
    content, (kind, where) = bytearray(archive.read_bytes()), damage.split()
    place = int(len(content) * float(where))
    content[place:] = b"" if kind == "cut" else bytes([content[place] ^ 255]) + content[place + 1:]
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=rf"set{suffix} cannot be unpacked.*fetch it again"):
        unpack(archive, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/{}/evil.jpg", "../set-2/evil.jpg"])
def test_an_archive_cannot_write_outside_of_its_folder(tmp_path, suffix, name):
    archive, name = tmp_path / f"bad{suffix}", name.format(tmp_path)
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(name, b"evil")
    else:
        with tarfile.open(archive, "w:gz") as opened:
            member = tarfile.TarInfo(name)
            member.size = 4
            opened.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(ValueError, match=rf"bad{suffix} names a file outside"):
        unpack(archive, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == [] and not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_a_small_archive_of_far_too_much_is_refused_before_it_fills_the_disk(tmp_path, suffix, monkeypatch):
    root = tmp_path / "set"
    write(root / "a" / "zeros.jpg", bytes(20 * 2**20))
    archive = pack(tmp_path / f"bomb{suffix}", root, compression=zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 50_000 and unpack(archive, tmp_path / "roomy").exists()
    monkeypatch.setattr("common.datasets.files.ROOM", 2**20)
    with pytest.raises(ValueError, match=f"bomb{suffix} holds more than 100 times its own size"):
        unpack(archive, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_an_archive_with_a_nameless_file_says_so_in_few_words(tmp_path):
    archive = tmp_path / "nameless.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("qq.jpg", bytes(3000))
    archive.write_bytes(archive.read_bytes().replace(b"qq.jpg", b"\0q.jpg"))  # a name ends where a zero byte stands
    with pytest.raises(ValueError, match=r"nameless.zip cannot be unpacked") as raised:
        unpack(archive, tmp_path / "cache")
    assert len(str(raised.value)) < 600 and not list((tmp_path / "cache").rglob("*.jpg"))


def test_an_archive_with_a_password_says_so(tmp_path):
    archive = pack(tmp_path / "locked.zip", class_folder(tmp_path / "set"))
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the bit that says encrypted
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            content[start + place] |= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"locked.zip cannot be unpacked .*encrypted.*unpack it yourself"):
        unpack(archive, tmp_path / "cache")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_not_unpacked(tmp_path, kind):
    root = class_folder(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as opened:
        opened.add(root / "iris" / "0.jpg", "iris/0.jpg")
        member = tarfile.TarInfo("iris/odd.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        opened.addfile(member)
    folder = unpack(tmp_path / "set.tar", tmp_path / "cache")
    assert [path.name for path in folder.rglob("*.jpg")] == ["0.jpg"]


def test_only_what_is_missing_is_downloaded_and_a_wrong_sum_is_not_kept(tmp_path, serve, capsys):
    address, asked = serve(tmp_path / "served")
    sums = {name: hashlib.md5(write(tmp_path / "served" / name, name.encode()).read_bytes()).hexdigest()
            for name in ("one.zip", "two.mat")}
    folder = tmp_path / "cache"
    with pytest.raises(FileNotFoundError, match=r"The set cannot be downloaded.*corrupted"):
        download("The set", 7, address, sums | {"two.mat": "0" * 32}, folder)
    assert [path.name for path in folder.iterdir()] == ["one.zip"] and "about 7 MB" in capsys.readouterr().out
    asked.clear()
    assert download("The set", 7, address, sums, folder) == folder and (folder / "two.mat").read_bytes() == b"two.mat"
    assert {name for _, name in asked} == {"two.mat"}
    asked.clear()
    assert download("The set", 7, address, sums, folder) == folder and asked == []


def test_without_a_network_it_says_what_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"put one.zip, two.mat into .*cache.*SIMILARITY_DATA"):
        download("The set", 7, "http://127.0.0.1:9/", {"one.zip": "0" * 32, "two.mat": "0" * 32}, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
