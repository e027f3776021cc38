"""Data sets fetched from where their makers offer them, each file checked by its MD5 sum."""

import socket
import tempfile
from pathlib import Path


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
