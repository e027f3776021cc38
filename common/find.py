"""Find pictures like the one you have: a folder is embedded once, kept and searched; also `python -m common.find`."""

import argparse
import hashlib
import json
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from huggingface_hub import constants
from torch import Tensor, nn
from tqdm.auto import tqdm

from common.backbones import EmbeddingNet, embed, evaluation_mode
from common.checkpoints import load
from common.config import CACHE, ROOT, Config, setup
from common.datasets.batches import as_float
from common.datasets.decoding import Entry, in_gray, is_picture, read_picture, read_pictures
from common.datasets.files import digest, files_below, printable, unpack, write_whole
from common.evaluation.baselines import color_histogram, raw_pixels
from common.evaluation.metrics import normalize
from common.evaluation.reports import similarity_of
from common.evaluation.retrieval import nearest
from common.explanations.maps import pair_cam

BACKBONE = "mobilenetv2_100"  # 14 MB to fetch, once; it embeds 10 to 50 pictures a second on one core
BATCH = 64  # pictures in memory at a time
SHOWN = 224  # pixels of a side in the sheets
NAMED = 10  # so many damaged files are named one by one
SHEETS = ("found.png", "why.png")
VERSION = 1  # raise it whenever the same file and model would give another embedding


class ColorAndLayout(nn.Module):
    """What needs no weights: a picture's `color_histogram` and its `raw_pixels`, each of length 1, side by side.

    So the cosine is the mean of both. On photographs of flowers the colors find more, on those of things the layout,
    and both together nearly as much as the better one; small networks trained on drawn flowers find less.
    """

    cosine = True
    score_embeddings = EmbeddingNet.score_embeddings

    def forward(self, images: Tensor) -> Tensor:
        pixels = (255 * images).round().byte().cpu().numpy()
        both = np.concatenate([normalize(color_histogram(pixels)), normalize(raw_pixels(pixels))], axis=1)
        return torch.from_numpy(both).float().to(images.device)


@dataclass(frozen=True, eq=False, repr=False)
class Collection:
    """A folder's N pictures as one model sees them."""

    folder: Path
    files: list[str]  # below `folder`
    embeddings: np.ndarray  # float32 (N, D)
    damaged: dict[str, str]  # file -> why it is left out
    framing: dict  # how a picture is prepared, the query too: size, squeeze, grayscale

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"Collection({self.folder}: {len(self)} pictures, {len(self.damaged)} damaged)"


def collect(folder: Path | str, model: nn.Module, content: dict | None = None, cache: Path | None = None) -> Collection:
    """Embed all pictures of a folder, at any depth, or of an archive, and keep that in a file.

    Later only new and changed files (by size or time) are embedded; for another model, all. Damaged ones are named;
    what cannot be read now too, and is tried again next time.

    Args:
        content: of the model's checkpoint, see `checkpoints.load`: it says how pictures are prepared. Without it, they
            come in color, at the backbone's own size, and their central square is taken.
        cache: folder to keep embeddings in; default: SIMILARITY_CACHE, else `~/.cache/image-similarity`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no picture that can be read.
    """
    cache = Path(cache or os.environ.get("SIMILARITY_CACHE") or CACHE).expanduser()
    source = Path(folder).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}: name one that holds pictures")
    root, framing = unpack(source, cache).resolve(), _framing(model, content)
    kept = cache / "collections" / f"{digest([VERSION, str(root), framing, _digest(model)])}.npz"
    stats = {file.as_posix(): (root / file).stat() for file in files_below(root) if is_picture(file)}
    stamps = {file: [stat.st_size, stat.st_mtime_ns] for file, stat in stats.items()}
    rows = {file: row for file, row in _read(kept).items() if row[0] == stamps.get(file)}  # of stamp, result
    if new := [file for file in stamps if file not in rows]:
        try:
            for picture, result in _embedded(model, root, new, framing):  # without a stamp it is tried again
                rows[picture.path] = [] if picture.passing else stamps[picture.path], result
        finally:  # who interrupts an hour's work keeps what is done
            write_whole(kept, lambda temporary: _write(temporary, rows))
    damaged = {file: result for file, (_, result) in sorted(rows.items()) if isinstance(result, str)}
    for file in list(damaged)[:NAMED]:
        told = "Damaged" if rows[file][0] else "Cannot be read now"
        print(f"{told} and left out: {printable(file)} ({damaged[file]})", file=sys.stderr)
    if len(damaged) > NAMED:
        print(f"... and {len(damaged) - NAMED} more damaged files, {len(damaged)} in all", file=sys.stderr)
    files = [file for file in sorted(rows) if file not in damaged]
    if not files:
        raise ValueError(f"{folder} has no picture that can be read: name a folder that holds pictures")
    return Collection(root, files, np.stack([rows[file][1] for file in files]), damaged, framing)


def find(query: Path | str | np.ndarray, collection: Collection, model: nn.Module, number: int = 10) -> pd.DataFrame:
    """The pictures of a collection that its model finds most similar to a picture: rows of file and score, best first.

    The score is the model's own: a siamese network's logit, for others the cosine. The query's own file does not come
    back, though copies of it do; a collection of fewer than `number` others gives all of them. `query` may be an array,
    uint8 (3, H, W), prepared as `read_framed` does. Raises `DamagedPicture` for a query that cannot be decoded.
    """
    given = isinstance(query, np.ndarray)
    image = query if given else read_framed(query, collection.framing)
    itself = "" if given else Path(query).resolve()
    own = np.array([collection.folder / file == itself for file in collection.files])
    if own.all():
        raise ValueError(f"{collection.folder} has no picture but the query: add some to be found")
    with evaluation_mode(model) as device:
        sides = embed(model, image[None]), collection.embeddings
        queries, gallery = (torch.from_numpy(side).to(device) for side in sides)
        count = min(number, int((~own).sum()))
        found, scores = nearest(queries, gallery, count, similarity_of(model), lambda _: own[None])
    files = pd.Series([collection.files[row] for row in found[0]], dtype=object)  # a name may be no UTF-8
    return pd.DataFrame({"file": files, "score": scores[0]})


def read_framed(file: Path | str, framing: dict) -> np.ndarray:
    """A picture file as a collection's model sees it: uint8 (3, size, size); `framing` is of a `Collection`."""
    image = read_picture(Path(file), framing["size"], framing["squeeze"]).image
    return in_gray(image) if framing["grayscale"] else image


def main(arguments: list[str] | None = None) -> None:
    """The command line: a table of what is most similar, and it as a picture; see the parser's own help."""
    parser = argparse.ArgumentParser("python -m common.find", description="Find the pictures most like one.")
    parser.add_argument("query", type=Path, help="the picture to find others like")
    parser.add_argument("folder", type=Path, help="where to search: a folder, flat or nested, or an archive")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="FILE.pth", help="a trained model, of a folder below checkpoints/")
    which.add_argument("--backbone", metavar="NAME", help=f"a timm model with ImageNet weights (default: {BACKBONE})")
    parser.add_argument("--number", type=int, default=10, help="how many to find (default: 10)")
    parser.add_argument("--why", action="store_true", help="also draw what made each of them similar, as why.png")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/found", help="where to draw (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        _answer(given, setup(profile="standard"))
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"{printable(str(error))}\n")


def _answer(given: argparse.Namespace, config: Config) -> None:
    if not given.query.is_file():
        raise FileNotFoundError(f"there is no picture {str(given.query)!r}: name one")
    if given.number < 1:
        raise ValueError(f"--number is {given.number}: ask for 1 picture or more")
    model, content = _chosen(given, config)
    model.to(config.device).eval()
    every = collect(given.folder, model, content, config.cache)
    sheets = [given.output.resolve() / name for name in SHEETS]  # of an earlier search, which are no answer
    rows = [row for row, file in enumerate(every.files) if every.folder / file not in sheets]
    collection = replace(every, files=[every.files[row] for row in rows], embeddings=every.embeddings[rows])
    table = find(given.query, collection, model, given.number)
    print(f"The {len(table)} of {len(collection)} pictures in {given.folder} most like {given.query.name}:")
    shown = table.assign(file=table["file"].map(printable), score=table["score"].map("{:.3f}".format))
    print(shown.set_axis(range(1, len(table) + 1)).to_string())
    _draw(given, collection, table, model)


def _chosen(given: argparse.Namespace, config: Config) -> tuple[nn.Module, dict | None]:
    """The model that was asked for, and its checkpoint's content; said in print."""
    if given.model:
        model, threshold, content = load(given.model)
        same = f"{threshold.value:.3f} and above is 'same'"
        print(f"Model: {given.model}, trained on {content['dataset']}, where {same}")
        return model, content
    name = given.backbone or BACKBONE
    if not _online():  # the hub would be asked again and again, for most of a minute
        constants.HF_HUB_OFFLINE = True
    try:
        model = EmbeddingNet(name, embedding_size=0, pretrained=True, weights=config.weights)
    except RuntimeError:
        if given.backbone:
            raise
        print(
            f"Model: colors and layout alone, because the ImageNet weights of {name}, which finds far more, cannot be "
            f"fetched. Connect to a network, set SIMILARITY_WEIGHTS to a folder that holds {name}.safetensors, or name "
            "a model of your own with --model"
        )
        return ColorAndLayout(), None
    print(f"Model: {name} with ImageNet weights, not trained on pictures like these")
    return model, None


def _online() -> bool:
    """Whether timm's hub can be looked up, or a proxy stands between."""
    try:
        return bool(urllib.request.getproxies() or socket.getaddrinfo("huggingface.co", 443))
    except OSError:
        return False


def _draw(given: argparse.Namespace, collection: Collection, table: pd.DataFrame, model: nn.Module) -> None:
    """Write found.png and, if asked, why.png to the folder given as output."""
    from common import plotting  # here, since it takes seconds to import

    files = [given.query, *(collection.folder / file for file in table["file"])]
    larger = [read_framed(file, {**collection.framing, "size": SHOWN}) for file in files]
    names = [_short(name) for name in (given.query.name, *table["file"])]
    titles = [f"query\n{names[0]}", *(f"{n}: {score:.3f}\n{names[n]}" for n, score in enumerate(table["score"], 1))]
    title = f"Most like {names[0]}, the most similar first"
    _save(plotting.contact_sheet(larger, titles, 4, title, cell=2.2), given.output / SHEETS[0])
    if not given.why:
        return
    if isinstance(model, ColorAndLayout):
        print("Why: their colors, and where these are; maps need --model or --backbone")
        return
    device = next(model.parameters()).device
    pixels = lambda file: as_float(torch.from_numpy(read_framed(file, collection.framing))[None].to(device))  # noqa: E731
    pictures, maps, titles = [], [], []
    query, *others = [pixels(file) for file in files]
    for number, (other, image, score) in enumerate(zip(others, larger[1:], table["score"], strict=True), 1):
        try:
            maps += [side[0] for side in pair_cam(model, query, other)]
        except ValueError:
            print(f"Why number {number}? It is the query's copy: no place matters more than another")
            continue
        pictures += [larger[0], image]
        titles += [f"query\nbeside {number}", f"{number}\n{score:.3f}"]
    if maps:
        title = "Why: red speaks for the similarity of a pair, blue against it"
        _save(plotting.overlay(pictures, maps, titles, title, columns=4), given.output / SHEETS[1])


def _save(figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, bbox_inches="tight")
    print(f"Drawn: {file.resolve()}")


def _short(file: str, most: int = 26) -> str:
    """The end of a file's path in its folder, as a title that matplotlib takes literally."""
    name = printable(file)
    return (name if len(name) <= most else f"...{name[-most:]}").replace("$", r"\$")


def _framing(model: nn.Module, content: dict | None) -> dict:
    """How a model wants a picture: size, squeeze, grayscale."""
    if content:
        settings = {**content["config"], **content}  # older checkpoints have only the settings of their run
        wants = {name: settings.get(name, False) for name in ("squeeze", "grayscale")}
        return {"size": settings["image_size"], **wants}
    size = getattr(model, "arguments", {}).get("image_size")
    backbone = getattr(model, "backbone", None)
    if backbone is not None and not size:
        import timm  # here, as everywhere, since it takes long to import

        size = timm.data.resolve_model_data_config(backbone)["input_size"][-1]
    return dict(size=size or SHOWN, squeeze=False, grayscale=False)


def _digest(model: nn.Module) -> str:
    """Digits that stand for a model: its kind and every weight."""
    found = hashlib.sha256(repr([type(model).__name__, getattr(model, "arguments", None)]).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _embedded(model: nn.Module, root: Path, files: list[str], framing: dict) -> Iterator[tuple]:
    """Each file's `Picture` and its embedding (D,), or the reason why it has none."""
    with tqdm(total=len(files), desc="embedding", leave=False, unit="picture") as progress:
        for start in range(0, len(files), BATCH):
            entries = [Entry(file, -1) for file in files[start : start + BATCH]]
            pictures = list(read_pictures(root, entries, size=framing["size"], squeeze=framing["squeeze"]))
            images = [picture.image for picture in pictures if picture.image is not None]
            images = list(map(in_gray, images)) if framing["grayscale"] else images
            vectors = iter(embed(model, np.stack(images)) if images else ())
            for picture in pictures:
                yield picture, picture.problem or next(vectors)
            progress.update(len(pictures))


def _read(kept: Path) -> dict[str, list]:
    """What `_write` wrote: file -> [stamp, embedding or reason]; nothing where there is none or it is damaged."""
    try:
        with np.load(kept, allow_pickle=False) as stored:
            vectors = iter(stored["embeddings"])
            rows = json.loads(str(stored["rows"]))
            return {file: [stamp, problem or next(vectors)] for file, stamp, problem in rows}
    except FileNotFoundError:
        return {}
    except Exception as error:  # a damaged file raises nearly anything; what it held can be made again
        print(f"{kept} is damaged ({error}): the pictures are embedded again", file=sys.stderr)
        return {}


def _write(file: Path, rows: dict[str, list]) -> None:
    """Write rows of file -> (stamp, embedding or reason) as one .npz file."""
    listed = [[name, stamp, result if isinstance(result, str) else ""] for name, (stamp, result) in rows.items()]
    vectors = [result for _, result in rows.values() if not isinstance(result, str)]
    with open(file, "wb") as opened:  # by name, NumPy would write to another one
        np.savez(opened, rows=json.dumps(listed), embeddings=np.array(vectors, np.float32))


if __name__ == "__main__":
    main()
