"""Files and folders: written whole or not at all, listed, unpacked from archives, downloaded."""

import hashlib
import json
import lzma
import os
import shutil
import socket
import tarfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

ABANDONED = 24 * 3600  # seconds after which a half-written file is nobody's
UNPACKED, ROOM = 100, 2**30  # times its own size, and bytes beside it, that an archive may hold: pictures hardly shrink
HELD = "IMAGE_SIMILARITY_LOCKS"  # the variable that tells processes which locks those that started them hold
INHERITED = frozenset(os.environ.get(HELD, "").split(os.pathsep))


@contextmanager
def lock(path: Path, message: str, patience: float = 0) -> Iterator[None]:
    """Hold the file or folder `path`, which need not exist, for this process and for those it starts from now on.

    Another process waits up to `patience` seconds, then BlockingIOError tells it `message`. The operating system gives
    the lock back however a process ends; where a drive knows no locks, there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = str(path.resolve())
    if name in INHERITED:
        yield
        return
    held = FileLock(path.with_name(f".{path.name}.lock"), timeout=patience)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(message) from None
    except NotImplementedError:
        pass
    before = os.environ.get(HELD, "")
    os.environ[HELD] = before + os.pathsep + name
    try:
        yield
    finally:
        os.environ[HELD] = before
        held.release()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place for a new file or folder that becomes `path` at the end; an interruption leaves `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError:
            if not (temporary.is_dir() and path.is_dir()):  # else another process was faster and made the same folder
                raise
    finally:
        _remove(temporary)


def sweep(folder: Path) -> None:
    """Remove what `whole` began in `folder` a day ago or earlier and could not finish, as its process was killed."""
    for part in folder.glob("*.????????.part") if folder.is_dir() else ():
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`; an interruption leaves `path` as it was."""
    with whole(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> Path:
    """Write a text in UTF-8, whole or not at all; returns the path."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def save_json(path: Path, content) -> None:
    """Write JSON types, and arrays as lists, to a file."""
    write_text(path, json.dumps(content, default=np.ndarray.tolist))


def digest(value) -> str:
    """16 hexadecimal digits that stand for a value of JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def reason(error: Exception) -> str:
    """What was raised, in one short line for people."""
    told = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= 300 else f"{told[:300]}..."  # some quote the damaged bytes


def printable(name) -> str:
    """A file's name without what a terminal would obey or cannot show, written as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(name))


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted, without the operating system's own."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))


def files_below(root: Path) -> list[Path]:
    """Paths, relative to `root` and sorted, of all files that are not the operating system's own.

    A link to a file counts as the file, and a folder of `root` may be a link to another one. What other links lead to,
    such as folders in a circle, is left out in print.
    """
    linked = [folder for folder in subfolders(root) if folder.is_symlink() and not _holds(folder, root)]
    found = [path for folder in (root, *linked) for path in folder.rglob("*")]
    paths = [(path, path.relative_to(root)) for path in found]
    paths = [(path, below) for path, below in paths if not any(map(_hidden, below.parts))]
    if lost := sorted(str(below) for path, below in paths if path.is_symlink() and not path.is_file()
                      and path not in linked):
        print(f"Left out: {len(lost)} links that lead to no file, such as {printable(lost[0])}")
    return sorted(below for path, below in paths if path.is_file())


def _holds(folder: Path, root: Path) -> bool:
    return root.resolve().is_relative_to(folder.resolve())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def unpack(source: Path, cache: Path) -> Path:
    """The folder that `source` stands for: itself, or the files of a .zip, .tgz or .tar archive, unpacked to `cache`.

    Only plain files are taken, no links or devices; they bear the archive's time, so unpacking again changes nothing.
    Raises ValueError when the archive is damaged, names a file outside of itself or holds far more than pictures do.
    """
    if not source.is_file():
        return source
    archive = source.resolve()
    stat = archive.stat()
    folder = cache / "archives" / f"{archive.stem}-{digest([str(archive), stat.st_size, stat.st_mtime_ns])}"
    if folder.exists():
        return folder
    left = ROOM + UNPACKED * stat.st_size  # bytes
    with whole(folder) as building:
        building.mkdir()
        try:
            for name, file in tqdm(_members(archive), f"unpacking {archive.name}", leave=False):
                target = (building / name).resolve()
                if not target.is_relative_to(building.resolve()):
                    raise ValueError(f"{archive} names a file outside of itself, {name!r}: do not use it")
                target.parent.mkdir(parents=True, exist_ok=True)
                with file, open(target, "wb") as copy:
                    while block := file.read(2**20):
                        left -= copy.write(block)
                        if left < 0:
                            raise ValueError(f"{archive} holds more than {UNPACKED} times its own size, which pictures "
                                             "do not: do not use it, or unpack it yourself and give the folder")
                os.utime(target, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
                tarfile.TarError) as error:
            raise ValueError(f"{archive} cannot be unpacked ({reason(error)}): fetch it again, or unpack it yourself "
                             "and give the folder") from error
    return folder


def _members(archive: Path) -> Iterator[tuple]:
    """(name, open binary file) of every plain file in an archive."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if not member.filename.endswith("/"):  # is_dir stumbles over a name without letters
                    yield member.filename, opened.open(member)
    else:
        if not tarfile.is_tarfile(archive):
            raise tarfile.ReadError("it is no .zip, .tar or .tgz archive")
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isfile():
                    yield member.name, opened.extractfile(member)
            while opened.fileobj.read(2 ** 20):
                pass  # a damaged header looks like the end; only the checksum at the real end shows the damage


def download(title: str, megabytes: int, origin: str, files: dict[str, str], folder: Path) -> Path:
    """Fetch what `folder` lacks of `files` (name -> MD5 sum) from the address `origin` and check it; return `folder`.

    Raises FileNotFoundError without a network or for a wrong sum; the message says what to put where.
    """
    from torchvision.datasets.utils import download_url  # slow to import, rarely needed

    missing = {name: md5 for name, md5 in files.items() if not (folder / name).is_file()}
    if not missing:
        return folder
    print(f"Downloading {title}, about {megabytes} MB, from {origin} to {folder}")
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds: a closed network must not look like a long download
    try:
        for name, md5 in missing.items():
            with whole(folder / name) as temporary:
                download_url(origin + name, folder, temporary.name, md5)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{title} cannot be downloaded from {origin} ({error}). Without a network, put {', '.join(files)} into "
            f"{folder}, or set SIMILARITY_DATA to a folder or archive that holds them, or choose "
            "SIMILARITY_DATASET=rendered.") from error
    finally:
        socket.setdefaulttimeout(patience)
    return folder
