"""The README's commands for the predecessors' experiments, run on tiny samples made here."""

import re
import shlex

import nbformat
import pytest
from toys import TINY, UNDRAWN, class_folder, faces, persons, rendered_oxford, write

from common.checkpoints import load
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.splits import make_splits, save_splits
from common.evaluation.retrieval import read_embeddings
from common.ledger import read_results
from common.notebooks import run

COMMANDS = {
    settings["DATASET"]: settings
    for line in re.findall(r"^make run (NOTEBOOKS=.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    if "DATASET" in (settings := dict(word.split("=", 1) for word in shlex.split(line)))
}


def twelve_persons(root):
    form = "{:04d}_c{}s1_{:06d}_01.jpg"
    names = [[form.format(person, number % 2 + 1, number) for number in range(6)] for person in range(1, 13)]
    rows = [(mine[0], other[1], mine[3]) for mine in names for other in names if mine != other]
    return persons(root, [name for mine in names for name in mine], rows)


SAMPLES = {
    "flowers102": lambda root: rendered_oxford(root, species=6, each=25, size=48),
    "caltech101": lambda root: class_folder(root / "101_ObjectCategories", "abcdefg", each=8, kinship=0.8),
    "att_faces": lambda root: faces(root, range(1, 11), each=6),
    "reid": twelve_persons,
}


def test_there_is_a_command_for_each_predecessor():
    assert set(COMMANDS) == set(SAMPLES)
    assert COMMANDS["flowers102"]["BACKBONE"] == "resnext101_32x4d"
    assert COMMANDS["att_faces"]["BACKBONE"] == "small_cnn" and COMMANDS["att_faces"]["EMBEDDING_SIZE"] == "64"


@pytest.fixture(params=SAMPLES)
def done(request, tmp_path, monkeypatch):
    """A command's last notebook, executed with the command's words, but small: configuration, pictures, notebook."""
    words = {name.lower(): value for name, value in COMMANDS[request.param].items()}
    notebook = words.pop("notebooks").split()[-1]
    own = words.get("backbone") == "small_cnn"
    small = dict(data=SAMPLES[request.param](tmp_path / "data"), profile="quick", image_size=32, epochs=1, seeds=1)
    small.update(backbone=words["backbone"] if own else TINY, device="cpu")
    config = setup(**{**words, **small}, checkpoints=tmp_path / "checkpoints", cache=tmp_path / "cache")
    pictures = load_images(config)
    save_splits(make_splits(pictures, config), config.directory / "splits.json")
    monkeypatch.setenv("PYTHONSTARTUP", str(write(tmp_path / "undrawn.py", UNDRAWN.encode())))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
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
        for asked in ("decision_report", '"precision", "recall", "f1"', "center_weight="):  # drawn: undrawn here
            assert any(asked in cell.source for cell in notebook.cells)
        model, *_ = load(config.directory / "best_model_siamese_network.pth", pictures)
    assert model.arguments["embedding_size"] == config.embedding_size
    assert (results["split"] == "test").all()
    assert set(results["protocol"]) == ({"open_set"} if pictures.disjoint else {"closed_set", "open_set"})
