"""Files and folders: written whole or not at all, listed, unpacked from archives and downloaded, each one checked."""

import hashlib
import json
import lzma
import os
import shutil
import socket
import tarfile
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`; an interruption leaves `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, content) -> None:
    """Write JSON types to a file."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content)))


def digest(value) -> str:
    """16 hexadecimal digits that stand for a value of JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; rename it to `folder` at the end, or on an exception leave nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f"{folder.name}.building-{uuid.uuid4().hex[:8]}")
    building.mkdir()  # with the rights of every new folder, so that a cache can be shared
    try:
        yield building
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster and made the same
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a damaged folder. Raises OSError with what to do where that is not allowed."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OSError(f"{folder} is damaged and cannot be removed ({error}): delete this folder, "
                      "then run again") from error


def unpack(archive: Path, cache: Path) -> Path:
    """The folder below `cache` with the files of a .zip, .tgz or .tar archive, unpacked on the first call.

    Only plain files are taken. Raises ValueError when the archive is damaged or names a file outside of it.
    """
    archive = archive.resolve()
    stat = archive.stat()
    identity = digest([str(archive), stat.st_size, stat.st_mtime_ns])
    folder = cache / "archives" / f"{archive.stem}-{identity}"
    if not folder.exists():
        with whole(folder) as building:
            try:
                for name, file in tqdm(_members(archive), f"unpacking {archive.name}", leave=False):
                    _place(building, name, file, stat.st_mtime_ns)
            except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
                    tarfile.TarError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"{archive} cannot be unpacked ({reason}): fetch it again, or unpack it yourself "
                                 "and give the folder") from error
    return folder


def _members(archive: Path) -> Iterator[tuple]:
    """(name, open binary file) of every plain file in an archive."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if not member.is_dir():
                    yield member.filename, opened.open(member)
    else:
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isfile():
                    yield member.name, opened.extractfile(member)
            while opened.fileobj.read(2 ** 20):
                pass  # a damaged header looks like the end; only the checksum at the real end shows the damage


def _place(folder: Path, name: str, file, modified: int) -> None:
    """Write one member below `folder`; it gets the archive's time, so unpacking again changes nothing."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ValueError(f"The archive names a file outside of itself, {name!r}: do not use it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with file, open(target, "wb") as copy:
        shutil.copyfileobj(file, copy)
    os.utime(target, ns=(modified, modified))


def download(title: str, megabytes: int, origin: str, files: dict[str, str], folder: Path) -> Path:
    """Complete `folder`: fetch what is missing of `files`, check each, then rename it.

    Args:
        title: the data set's name, for people.
        megabytes: about how much it is in all.
        origin: address that a file's name is put behind.
        files: name -> MD5 sum.
        folder: where they go, and where a user without a network may put them.

    Returns:
        `folder`.

    Raises:
        FileNotFoundError: no network, or a sum that is wrong; the message says what to put where.
    """
    from torchvision.datasets.utils import download_url

    missing = {name: md5 for name, md5 in files.items() if not (folder / name).is_file()}
    if not missing:
        return folder
    print(f"Downloading {title}, about {megabytes} MB, from {origin} to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds: a closed network must not look like a long download
    try:
        for name, md5 in missing.items():
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                download_url(origin + name, temporary, name, md5)
                (Path(temporary) / name).replace(folder / name)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{title} cannot be downloaded from {origin} ({error}). Without a network, put {', '.join(files)} into "
            f"{folder}, or set SIMILARITY_DATA to a folder or archive that holds them, or choose "
            "SIMILARITY_DATASET=rendered.") from error
    finally:
        socket.setdefaulttimeout(patience)
    return folder


def opened(source: Path, cache: Path) -> Path:
    """The folder that `source`, a folder or archive, stands for."""
    return unpack(source, cache) if source.is_file() else source


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted, without the operating system's own."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))


def files_below(root: Path) -> list[Path]:
    """Paths, relative to `root` and sorted, of all files that are not the operating system's own."""
    paths = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    return sorted(path for path in paths if not any(map(_hidden, path.parts)))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")
