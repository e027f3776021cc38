"""The README's commands for the predecessors' experiments, run on tiny samples made here."""

import re
import shlex
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toys import TINY, encoded, rendered_oxford, smooth, write

from common.checkpoints import load
from common.config import setup
from common.datasets import load_images
from common.datasets.splits import make_splits, save_splits
from common.evaluation.retrieval import read_embeddings
from common.ledger import read_results
from common.notebooks import run

README = Path(__file__).resolve().parents[2] / "README.md"
COMMANDS = {
    settings["DATASET"]: settings
    for line in re.findall(r"^make run (NOTEBOOKS=.*)$", README.read_text(), re.MULTILINE)
    if "DATASET" in (settings := dict(word.split("=", 1) for word in shlex.split(line)))
}


def picture(kind: int, number: int) -> np.ndarray:
    """Large soft blobs of a class, with a little of the picture's own."""
    return (0.8 * smooth(kind) + 0.2 * smooth(1000 + 20 * kind + number)).astype(np.uint8)


def flowers(root: Path) -> Path:
    return rendered_oxford(root, species=6, each=25, size=48)


def categories(root: Path) -> Path:
    for kind in range(7):
        for number in range(8):
            write(root / f"101_ObjectCategories/c{kind}/image_{number:04d}.jpg", encoded(picture(kind, number)))
    return root


def faces(root: Path) -> Path:
    for person in range(1, 11):
        for number in range(6):
            gray = Image.fromarray(picture(person, number)[..., 0]).resize((92, 112))
            write(root / f"s{person}/{number}.pgm", encoded(gray, "PPM"))
    return root


def persons(root: Path) -> Path:
    form = "{:04d}_c{}s1_{:06d}_01.jpg"
    names = [[form.format(person, number % 2 + 1, number) for number in range(6)] for person in range(1, 13)]
    for person, mine in enumerate(names):
        for number, name in enumerate(mine):
            write(root / "train" / name, encoded(np.asarray(Image.fromarray(picture(person, number)).resize((32, 64)))))
    rows = [",".join([mine[0], other[1], mine[3]]) for mine in names for other in names if mine != other]
    write(root / "train.csv", "\n".join(["Anchor,Negative,Positive", *rows]).encode())
    return root


SAMPLES = {"flowers102": flowers, "caltech101": categories, "att_faces": faces, "reid": persons}


def test_there_is_a_command_for_each_predecessor():
    assert set(COMMANDS) == set(SAMPLES)
    assert COMMANDS["flowers102"]["BACKBONE"] == "resnext101_32x4d"
    assert COMMANDS["att_faces"]["BACKBONE"] == "small_cnn" and COMMANDS["att_faces"]["EMBEDDING_SIZE"] == "64"


@pytest.fixture(params=SAMPLES)
def done(request, tmp_path):
    """A command's last notebook, executed with the command's words, but small: configuration, pictures, notebook."""
    words = {name.lower(): value for name, value in COMMANDS[request.param].items()}
    notebook = words.pop("notebooks").split()[-1]
    own = words.get("backbone") == "small_cnn"
    small = dict(data=SAMPLES[request.param](tmp_path / "data"), profile="quick", image_size=32, epochs=1, seeds=1)
    small.update(backbone=words["backbone"] if own else TINY, device="cpu")
    config = setup(**{**words, **small}, checkpoints=tmp_path / "checkpoints", cache=tmp_path / "cache")
    pictures = load_images(config)
    save_splits(make_splits(pictures, config), config.directory / "splits.json")
    (copy,) = run([notebook], config, output=tmp_path / "runs")
    return config, pictures, nbformat.read(copy, as_version=4)


def test_it_runs_and_leaves_what_it_promises(done):
    config, pictures, notebook = done
    results = read_results(config)
    approaches, metrics = set(results["approach"]), set(results["metric"])
    text = "\n".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert not re.search(r"'output_type': 'error'", text)
    if config.dataset_name == "reid":
        assert {"triplet", "given_triplets", "frozen_backbone"} <= approaches
        assert {"cmc_at_1", "cmc_at_5", "cmc_at_10", "map"} <= metrics
        table = read_embeddings(config.directory / "embeddings.csv")
        assert len(table) == len(pictures) and table["path"].tolist() == pictures.paths
        model, *_ = load(config.directory / "best_model_triplet_loss.pth", pictures)
    else:
        assert {"siamese", "contrastive", "frozen_backbone"} <= approaches
        for word in ("precision", "recall", "f1", "train", "validation", "test", "cross-entropy + center"):
            assert word in text
        model, *_ = load(config.directory / "best_model_siamese_network.pth", pictures)
    assert model.arguments["embedding_size"] == config.embedding_size
    assert isinstance(results, pd.DataFrame) and (results["split"] == "test").all()
    assert set(results["protocol"]) == ({"open_set"} if pictures.disjoint else {"closed_set", "open_set"})
