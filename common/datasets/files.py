"""Files and folders: written whole or not at all, listed, unpacked from archives, downloaded."""

import hashlib
import json
import lzma
import os
import shutil
import socket
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place for a new file or folder that becomes `path` at the end; an interruption leaves `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError:
            if not (temporary.is_dir() and path.is_dir()):  # else another process was faster and made the same folder
                raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`; an interruption leaves `path` as it was."""
    with whole(path) as temporary:
        write(temporary)


def save_json(path: Path, content) -> None:
    """Write JSON types, and arrays as lists, to a file."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, default=np.ndarray.tolist)))


def digest(value) -> str:
    """16 hexadecimal digits that stand for a value of JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted, without the operating system's own."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))


def files_below(root: Path) -> list[Path]:
    """Paths, relative to `root` and sorted, of all files that are not the operating system's own."""
    paths = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    return sorted(path for path in paths if not any(map(_hidden, path.parts)))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def unpack(source: Path, cache: Path) -> Path:
    """The folder that `source` stands for: itself, or the files of a .zip, .tgz or .tar archive, unpacked to `cache`.

    Only plain files are taken, no links or devices; they bear the archive's time, so unpacking again changes nothing.
    Raises ValueError when the archive is damaged or names a file outside of itself.
    """
    if not source.is_file():
        return source
    archive = source.resolve()
    stat = archive.stat()
    folder = cache / "archives" / f"{archive.stem}-{digest([str(archive), stat.st_size, stat.st_mtime_ns])}"
    if folder.exists():
        return folder
    with whole(folder) as building:
        building.mkdir()
        try:
            for name, file in tqdm(_members(archive), f"unpacking {archive.name}", leave=False):
                target = (building / name).resolve()
                if not target.is_relative_to(building.resolve()):
                    raise ValueError(f"{archive} names a file outside of itself, {name!r}: do not use it")
                target.parent.mkdir(parents=True, exist_ok=True)
                with file, open(target, "wb") as copy:
                    shutil.copyfileobj(file, copy)
                os.utime(target, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
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
