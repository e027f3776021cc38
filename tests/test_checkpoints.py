"""Checkpoints: whole, safe, self-contained, of one data set, and made on demand by their notebook."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toys import TINY, config, image_set, model, pixels

from common import checkpoints, notebooks
from common.backbones import EmbeddingNet, SiameseNet
from common.checkpoints import ensure, handed_on, load, save
from common.datasets.splits import make_splits, save_splits
from common.evaluation.metrics import Threshold

NAME = "best_model_center_loss.pth"
HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [0.1 + 0.2, 0.25], "validation": [np.float64(0.7), None]})


@pytest.fixture(scope="module")
def pictures():
    return image_set(3, 2)


@pytest.fixture
def run(tmp_path):
    return config(tmp_path)


def saved(run, pictures, network=EmbeddingNet, **more):
    torch.manual_seed(0)
    net = network(TINY, 8, 3)
    net(pixels(5, 32))  # BatchNorm statistics of its own
    return net, save(run, pictures, NAME, net, Threshold(0.1 + 0.2, "validation"), HISTORY, **more)


@pytest.mark.parametrize("network", [EmbeddingNet, SiameseNet])
def test_a_loaded_model_scores_exactly_as_the_saved_one(run, pictures, network):
    net, path = saved(run, pictures, network, species=[0, 2], metrics={"roc_auc": 0.9})
    assert path == run.directory / NAME
    torch.manual_seed(99)
    again, threshold, content = load(path, pictures)
    first, second = pixels(5, 32, 1), pixels(5, 32, 2)
    with torch.no_grad():
        scores = again.score(first, second)
        assert torch.equal(scores, net.eval().score(first, second)) and scores.std() > 0
        assert torch.equal(again.classify(again(first)), net.classify(net(first)))
    assert type(again) is network and not any(module.training for module in again.modules())
    assert threshold == Threshold(0.1 + 0.2, "validation")
    assert content["history"] == [dict(epoch=1, loss=0.3, validation=0.7), dict(epoch=2, loss=0.25, validation=None)]
    assert (content["dataset"], content["fingerprint"]) == (pictures.name, pictures.fingerprint)
    assert content["config"]["profile"] == "quick" and content["config"]["checkpoints"] == str(run.checkpoints)
    assert content["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (content["species"], content["metrics"]) == ([0, 2], {"roc_auc": 0.9})


def test_a_checkpoint_holds_tensors_and_plain_types_only(run, pictures):
    _, path = saved(run, pictures)
    content = torch.load(path, weights_only=True)

    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(inside) for key, inside in value.items())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (str, int, float, bool, type(None))

    assert all(type(tensor) is torch.Tensor for tensor in content.pop("state_dict").values())
    assert plain(content)


def test_numbers_of_numpy_do_not_make_a_checkpoint_unreadable(run, pictures):
    _, path = saved(run, pictures, metrics={"roc_auc": np.float64(0.9)})
    assert load(path, pictures)[2]["metrics"] == {"roc_auc": 0.9}
    with pytest.raises(TypeError):
        saved(run, pictures, metrics={"roc_auc": np.arange(3)})
    assert load(path, pictures)[2]["metrics"] == {"roc_auc": 0.9}, "the old file stands"


def test_a_model_needs_no_pictures_and_says_how_to_prepare_others(run, pictures):
    gray = dataclasses.replace(run, grayscale=True)
    _, path = saved(gray, dataclasses.replace(pictures, disjoint=True))
    again, threshold, content = load(path)
    assert isinstance(again, EmbeddingNet) and threshold.fitted_on == "validation"
    assert {name: content[name] for name in ("image_size", "grayscale", "squeeze", "class_names", "pictures")} == dict(
        image_size=32, grayscale=True, squeeze=True, class_names=pictures.class_names, pictures=6
    )


OTHERS = {
    "size": (image_set(3, 2, size=48), "image_size 32 there, 48 here"),
    "number": (image_set(3, 3), "pictures 6 there, 9 here"),
    "classes": (image_set(3, 2, class_names=["x", "y", "z"]), "classes that only one of them has, such as 'species 0'"),
    "name": (image_set(3, 2, name="others"), "dataset made-up there, others here"),
    "pixels": (image_set(3, 2, seed=1), "the files' own pixels"),
}


@pytest.mark.parametrize("other, difference", OTHERS.values(), ids=OTHERS.keys())
def test_other_pictures_are_refused_and_what_differs_is_named(run, pictures, other, difference):
    _, path = saved(run, pictures)
    other = dataclasses.replace(other, fingerprint="feedfeedfeedfeed")
    with pytest.raises(ValueError, match=difference) as raised:
        load(path, other)
    for part in (str(path), "'made-up'", pictures.fingerprint, f"{other.name!r}", "feedfeedfeedfeed"):
        assert part in str(raised.value)
    assert "delete" not in str(raised.value) and load(path), "nobody is told to give up a trained model"


def test_a_model_of_another_split_is_refused(run, pictures):
    """Else it would be judged on pictures that it learned from."""
    splits = run.directory / "splits.json"
    splits.parent.mkdir(parents=True)
    splits.write_text("of seed 0")
    _, path = saved(run, pictures)
    assert load(path, pictures)[2]["split"]
    for fault in (lambda: splits.write_text("of seed 1"), splits.unlink):
        fault()
        with pytest.raises(ValueError, match=r"another split \(seed 0\).*Bring its own splits.json back") as raised:
            load(path, pictures)
        assert "delete" not in str(raised.value)
        assert load(path), "whoever does not measure it needs no split"


class Bomb:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (open, (str(self.victim), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_bomb_does_not_go_off(run, pictures, tmp_path, write):
    _, path = saved(run, pictures)
    content = torch.load(path, weights_only=True)
    write({**content, "metrics": Bomb(tmp_path / "boom")}, path)
    with pytest.raises(ValueError, match=f"{NAME} cannot be read"):
        load(path, pictures)
    assert not (tmp_path / "boom").exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert (tmp_path / "boom").exists(), "the bomb itself was armed"


def altered(path, place, name, value):
    content = torch.load(path)
    content[place][name] = value
    torch.save(content, path)


DAMAGES = {
    "weights not finite": lambda path: altered(path, "state_dict", "head.0.weight", torch.full((8, 96), np.nan)),
    "threshold not finite": lambda path: altered(path, "threshold", "value", np.nan),
    "threshold fitted on test": lambda path: altered(path, "threshold", "fitted_on", "test"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "html": lambda path: path.write_text("<html>404</html>"),
    "a list": lambda path: torch.save([1, 2], path),
    "other class": lambda path: torch.save({**torch.load(path), "model": "Unknown"}, path),
    "no fingerprint": lambda path: torch.save({k: v for k, v in torch.load(path).items() if k != "fingerprint"}, path),
    "other form": lambda path: torch.save({**torch.load(path), "arguments": model(4).arguments}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_no_checkpoint_is_named_with_a_remedy(run, pictures, damage):
    _, path = saved(run, pictures)
    damage(path)
    with pytest.raises(ValueError, match=f"(?s){NAME} cannot be read.*move it away and run its notebook"):
        load(path, pictures)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load(path, pictures)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "full"])
def test_a_fault_while_saving_leaves_the_old_checkpoint(run, pictures, monkeypatch, fault):
    _, path = saved(run, pictures, note="old")
    write = Path.write_bytes

    def half(place, content):
        write(place, bytes(content)[:1000])
        raise fault

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(type(fault)) as raised:
        saved(run, pictures, note="new")
    assert raised.value is fault, "not what torch makes of it"
    assert load(path, pictures)[2]["note"] == "old"
    assert list(run.directory.iterdir()) == [path]


@pytest.mark.parametrize("name, owner", [("splits.json", "R1"), ("backbone.json", "R2"), (NAME, "R3")])
def test_ensure_runs_the_notebook_that_owns_a_missing_file(run, monkeypatch, capsys, name, owner):
    ran = []

    def write(names, config):
        ran.append((names, config))
        config.directory.mkdir(parents=True)
        (config.directory / name).touch()

    monkeypatch.setattr(notebooks, "run", write)
    assert ensure(run, name) == ensure(run, name) == run.directory / name
    assert ran == [([owner], run)], "that notebook alone, once, under the same configuration"
    assert name in capsys.readouterr().out


def test_ensure_refuses_what_no_notebook_makes_or_made(run, monkeypatch):
    monkeypatch.setattr(notebooks, "run", lambda *_: None)
    with pytest.raises(FileNotFoundError, match=f"R3.*{NAME}"):
        ensure(run, NAME)
    with pytest.raises(ValueError, match=r"'best\.pth'; known are: splits\.json, .*" + NAME):
        ensure(run, "best.pth")


def test_what_earlier_notebooks_hand_on(run, monkeypatch):
    pictures = image_set()
    monkeypatch.setattr(checkpoints, "load_images", lambda config: pictures)
    splits = make_splits(pictures, run)
    save_splits(splits, run.directory / "splits.json")
    chosen = dict(backbone=TINY, fingerprint=pictures.fingerprint)
    (run.directory / "backbone.json").write_text(json.dumps(chosen))
    same, read, backbone = handed_on(run)
    assert same is pictures and backbone == TINY
    np.testing.assert_array_equal(read.parts["closed_set"]["test"], splits.parts["closed_set"]["test"])
    chosen = dataclasses.replace(run, backbone="resnet18")
    save_splits(splits, chosen.directory / "splits.json")
    assert handed_on(chosen)[2] == "resnet18" and chosen.directory != run.directory, "its own choice needs no R2"


CHOICES = {
    "cut": '{"backbone": "test_res', "empty": "", "nothing in it": "{}", "a list": "[]", "binary": "\x00",
    "an unknown model": '{"backbone": "resnet5O", "fingerprint": "FINGERPRINT"}',
    "no name": '{"backbone": 5, "fingerprint": "FINGERPRINT"}',
    "of other pictures": '{"backbone": "resnet50", "fingerprint": "feedfeedfeedfeed"}',
}  # fmt: skip


def test_models_come_by_approach_standard_and_robust(run, pictures, monkeypatch):
    monkeypatch.setattr(checkpoints, "ensure", lambda config, name: name)
    monkeypatch.setattr(checkpoints, "load", lambda file, images, device: (f"model of {file}", None, None))
    standard, robust = (checkpoints.trained(run, pictures, "closed_set", kind) for kind in ("best", "robust"))
    assert standard["siamese"] == "model of best_model_siamese_network.pth" and [*standard] == [*robust]
    assert robust["center_loss"] == "model of robust_model_center_loss.pth"
    assert [*checkpoints.trained(run, pictures, "open_set")] == ["siamese", "triplet"], "center loss needs names"


@pytest.mark.parametrize("content", CHOICES.values(), ids=CHOICES.keys())
def test_a_damaged_choice_of_backbone_is_named_with_a_remedy(run, monkeypatch, content):
    pictures = image_set()
    monkeypatch.setattr(checkpoints, "load_images", lambda config: pictures)
    save_splits(make_splits(pictures, run), run.directory / "splits.json")
    (run.directory / "backbone.json").write_text(content.replace("FINGERPRINT", pictures.fingerprint))
    with pytest.raises(ValueError, match=r"backbone\.json names no backbone for these.*move it away and run R2"):
        handed_on(run)
