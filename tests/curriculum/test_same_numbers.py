"""Two runs of the same command give the same numbers, byte for byte but for seconds (protocol rule 21)."""

import shutil

import nbformat
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from toys import TINY, UNDRAWN, class_folder, write

from common.config import ROOT, setup
from common.notebooks import run, select


def same(one, other) -> bool:
    """Whether two files of a run say the same: their bytes; of a ledger and a checkpoint, all that no clock writes."""
    if not (one.exists() and other.exists()):
        return False
    if one.name == "results.csv":
        first, second = (pd.read_csv(path, dtype=str).drop(columns="train_seconds") for path in (one, other))
        return first.equals(second)
    if one.suffix == ".pth":
        first, second = (torch.load(path, weights_only=True) for path in (one, other))
        weights = [torch.equal(tensor, second["state_dict"][name]) for name, tensor in first["state_dict"].items()]
        return all(weights) and all(first[name] == second[name] for name in ("threshold", "metrics"))
    return one.read_bytes() == other.read_bytes()


def differences(one, other) -> list[str]:
    """The names of the files in which two folders of runs differ."""
    names = sorted({path.name for folder in (one, other) for path in folder.iterdir()})
    return [name for name in names if not same(one / name, other / name)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two short runs, R1 then R3, each in a kernel of its own."""
    root = tmp_path_factory.mktemp("runs")
    paths = select(["R1", "R3"])
    cells = [cell for path in paths for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    nbformat.write(new_notebook(cells=[new_code_cell(cell.source) for cell in cells]), root / paths[0].name)
    folders, pictures = [], class_folder(root / "pictures", "abcdef", 10, kinship=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONSTARTUP", str(write(root / "undrawn.py", UNDRAWN.encode())))
        patch.setenv("PYTHONPATH", str(ROOT))
        for name in ("one", "other"):
            places = dict(checkpoints=root / name / "checkpoints", cache=root / name / "cache")
            small = dict(image_size=32, epochs=1, backbone=TINY, device="cpu")
            config = setup(dataset=f"folder:{pictures}", **places, **small)
            run(["R1"], config, output=root / name / "runs", root=root)
            folders.append(config.directory)
    return folders


def test_two_runs_give_the_same_numbers(runs):
    one, other = runs
    assert {"splits.json", "results.csv", "best_model_center_loss.pth"} <= {path.name for path in one.iterdir()}
    assert differences(one, other) == []


def test_a_planted_difference_is_seen(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    ledger = pd.read_csv(copy / "results.csv", dtype=str)
    ledger.assign(train_seconds="99").to_csv(copy / "results.csv", index=False)
    assert differences(runs[0], copy) == [], "seconds may differ"
    ledger.loc[5, "value"] += "1"
    ledger.to_csv(copy / "results.csv", index=False)
    (copy / "splits.json").write_text((copy / "splits.json").read_text().replace("1", "2", 1))
    content = torch.load(copy / "best_model_center_loss.pth", weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] += 1e-6
    torch.save(content, copy / "best_model_center_loss.pth")
    (copy / "backbone.json").write_text("{}")
    assert differences(runs[0], copy) == ["backbone.json", "best_model_center_loss.pth", "results.csv", "splits.json"]
