"""Folders that are there whole or not at all, and archives unpacked into them."""

import hashlib
import json
import lzma
import os
import shutil
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm


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
