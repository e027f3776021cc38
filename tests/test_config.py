"""Configuration: arguments before variables before defaults, and no bad value gets through."""

import dataclasses
import inspect
import json
import os
import random
import re

import numpy as np
import pytest
import torch

from common.config import PROFILES, ROOT, cores, describe, seed_everything, setup


@pytest.fixture
def variable(monkeypatch):
    """Set a `SIMILARITY_*` variable for one test."""
    return lambda name, value: monkeypatch.setenv(f"SIMILARITY_{name.upper()}", str(value))


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_give_their_numbers(profile):
    config = setup(profile)
    expected = {"profile": profile, **PROFILES[profile]}
    assert {name: getattr(config, name) for name in expected} == expected


def test_quick_sums_come_out_alike_on_any_number_of_cores():
    setup("standard")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    setup("standard")
    assert torch.get_num_threads() == 2
    for profile, count in (("quick", 1), ("quick", 1), ("standard", 2)):  # as in one kernel
        setup(profile)
        assert torch.get_num_threads() == count
    torch.set_num_threads(1)
    setup("full")
    assert torch.get_num_threads() == 1, "who chose one thread keeps it"
    torch.set_num_threads(threads)


@pytest.mark.parametrize("may, has, count", [({3, 5, 6}, 64, 3), (None, 64, 64), (None, None, 1)])
def test_the_cores_are_those_that_may_be_used(monkeypatch, may, has, count):
    """Or the machine's, where no system tells which."""
    monkeypatch.setattr(os, "cpu_count", lambda: has)
    if may:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: may, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == count


def test_defaults(monkeypatch):
    for name in ("CHECKPOINTS", "CACHE", "DEVICE"):
        monkeypatch.delenv(f"SIMILARITY_{name}")
    config = setup()
    assert (config.profile, config.dataset, config.seed) == ("quick", "rendered", 0)
    assert config.backbone is config.data is config.weights is None
    assert config.directory == ROOT / "checkpoints" / "rendered-quick"
    assert config.cache.parts[-2:] == (".cache", "image-similarity") and config.cache.is_absolute()
    assert config.device == ("cuda" if torch.cuda.is_available() else "cpu")


def settings_in(folder):
    """A value for each setting, different from every default."""
    return dict(
        profile="standard", dataset="flowers102", data=str(folder), backbone="resnet50", weights=str(folder),
        checkpoints=str(folder / "kept"), cache=str(folder / "decoded"), seed="3", device="cpu:0",
        grayscale="True", image_size="96", epochs="2", seeds="5", embedding_size="64",
    )  # fmt: skip


def test_variables_are_read_and_arguments_win(variable, tmp_path):
    expected = settings_in(tmp_path)
    assert set(expected) == set(inspect.signature(setup).parameters)
    for name, value in expected.items():
        variable(name, value)
    config = setup()
    assert {name: str(getattr(config, name)) for name in expected} == expected
    other = tmp_path / "other"
    other.mkdir()
    given = dict(
        profile="full", dataset="rendered", data=other, backbone="resnet18", weights=other,
        checkpoints=other / "kept", cache=other / "decoded", seed=0, device="cpu",
        grayscale=False, image_size=48, epochs=1, seeds=2, embedding_size=2,
    )  # fmt: skip
    config = setup(**given)
    assert {name: getattr(config, name) for name in given} == given


def test_an_empty_variable_is_no_setting(variable):
    expected = setup()
    for name in inspect.signature(setup).parameters.keys() - {"checkpoints", "cache"}:
        variable(name, "")
    assert setup() == expected


def test_the_environment_makes_the_same_configuration_again(tmp_path, variable):
    assert set(setup(device="cpu").environment()) == {
        f"SIMILARITY_{name}" for name in ("PROFILE", "DATASET", "CHECKPOINTS", "CACHE", "DEVICE")
    }, "only what is set"
    config = setup(**settings_in(tmp_path) | {"dataset": f"folder:{tmp_path}"})
    assert setup() != config
    for name, value in config.environment().items():
        variable(name.removeprefix("SIMILARITY_"), value)
    assert setup() == config


@pytest.mark.parametrize(
    "name, values, remedy",
    [
        ("profile", ["fast"], "quick, standard, full"),
        ("dataset", ["roses"], "rendered, flowers102, caltech101, att_faces, reid, folder"),
        ("dataset", ["folder", "rendered:x"], "folder:PATH"),
        ("dataset", ["folder:no/such/folder"], "give a folder or archive"),
        ("seed", ["abc", "1.5", 1.5, "-1", 2**32], "0, 1, 2"),
        ("image_size", ["0", 15, "64px", 1025], "16, 17, 18, ... to 1024"),
        ("backbone", ["resnet5O"], "resnet50"),
        ("epochs", ["-2", 2.0], "1, 2, 3"),
        ("seeds", ["0", True], "1, 2, 3"),
        ("grayscale", ["maybe", "2"], "yes, true, 1, no, false, 0"),
        ("device", ["toaster", "meta", *([] if torch.cuda.is_available() else ["cuda"])], "cpu"),
        ("data", ["no/such/folder"], "give a folder or archive"),
        ("weights", ["no/such/folder"], "give one that holds .safetensors files"),
    ],
)
@pytest.mark.parametrize("way", ["argument", "variable"])
def test_a_bad_value_is_named_with_its_remedy(name, values, remedy, way, variable):
    for value in values:
        if way == "variable":
            variable(name, value)
        expected = FileNotFoundError if "no/such" in str(value) else ValueError
        with pytest.raises(expected) as raised:
            setup(**({name: value} if way == "argument" else {}))
        for part in (name if name != "backbone" else "model", str(value).removeprefix("folder:no/"), remedy):
            assert part in str(raised.value)


def test_weights_are_a_folder_of_files_not_a_file(tmp_path):
    (tmp_path / "resnet18.safetensors").touch()
    assert setup(weights=tmp_path).weights == tmp_path
    with pytest.raises(FileNotFoundError, match=r"resnet18.safetensors' is no folder; give one that holds"):
        setup(weights=tmp_path / "resnet18.safetensors")


@pytest.mark.parametrize("name", ["data", "weights", "checkpoints", "cache"])
def test_a_place_that_nobody_has_names_its_own_setting(name):
    with pytest.raises(ValueError, match=f"~nobody-of-that-name/x is nowhere .* SIMILARITY_{name.upper()} to a full"):
        setup(**{name: "~nobody-of-that-name/x"})


@pytest.mark.parametrize("folder, name", [
    ("roses", "folder-roses"), ("roses/", "folder-roses"), ("my roses", "folder-my roses"),
    ("v1.0", "folder-v1.0"),  # another folder than v1.1, so another name
    ("roses.zip", "folder-roses"), ("roses.v2.tar.gz", "folder-roses.v2"),
])  # fmt: skip
def test_a_folder_is_named_after_itself(folder, name, tmp_path):
    names = set()
    for place in ("here", "there"):
        path = tmp_path / place / folder
        path.mkdir(parents=True)
        config = setup(dataset=f"folder:{path}/", checkpoints=tmp_path)
        assert config.dataset_name == name and re.fullmatch(rf"{name}-[0-9a-f]{{6}}-quick", config.name)
        assert config.directory == tmp_path / config.name
        names.add(config.name)
    assert len(names) == 2, "two folders of one name have runs of their own"


def test_a_bare_folder_is_found_where_the_data_are(tmp_path):
    config = setup(dataset="folder", data=tmp_path)
    assert config == setup(dataset=f"folder:{tmp_path}", data=tmp_path)
    assert config.dataset_name == f"folder-{tmp_path.name}", "named after itself: runs on two folders never mix"
    with pytest.raises(ValueError, match="'reid:x'"):
        setup(dataset="reid:x", data=tmp_path)


@pytest.mark.parametrize(
    "given, name",
    [
        (dict(image_size=64, epochs=10, seeds=1, grayscale=False), "rendered-quick"),  # the profile's own numbers
        (dict(profile="standard", dataset="caltech101", epochs=2, image_size=96), "caltech101-standard-epochs2-size96"),
        (dict(seeds=2, grayscale=True, backbone="small_cnn"), "rendered-quick-small_cnn-seeds2-grayscale"),
        (dict(dataset="att_faces", embedding_size=2), "att_faces-quick-embedding2"),
        (dict(seed=1), "rendered-quick-seed1"),  # another seed, another split: its test is this one's training
        (dict(backbone="resnet18.a1_in1k"), "rendered-quick-resnet18.a1_in1k"),
    ],
)
def test_a_run_is_named_after_what_differs_from_its_profile(given, name, tmp_path):
    config = setup(**given, checkpoints=tmp_path)
    assert config.name == name and config.directory == tmp_path / name


@pytest.mark.parametrize("cuda, mps, device", [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_fastest_device_there_is_becomes_the_default(monkeypatch, cuda, mps, device):
    monkeypatch.delenv("SIMILARITY_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    tried = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: tried.append(device))
    assert setup().device == device and tried == [device]


def test_grayscale_is_yes_or_no():
    assert all(setup(grayscale=word).grayscale is True for word in ("yes", "True", "1", 1, True))
    assert all(setup(grayscale=word).grayscale is False for word in ("no", "FALSE", "0", 0, False, "", None))


def test_what_follows_from_other_settings():
    assert setup("quick", seed=5).seed_list == [5] and setup("standard", seed=5).seed_list == [5, 6, 7]
    # Only what may be pretrained is frozen.
    assert [setup("standard", backbone=name).frozen_share for name in ("resnet18", "small_cnn")] == [0.5, 0.0]


def test_setup_seeds_every_generator():
    draws = []
    for seed in (1, 1, 2):
        setup(seed=seed)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert draws[0] == draws[1]
    assert all(one != other for one, other in zip(draws[1], draws[2], strict=True))
    seed_everything(1)
    assert random.random() == draws[0][0]


def test_a_configuration_cannot_change_and_can_be_written_down(tmp_path):
    config = setup(weights=tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2
    assert json.loads(json.dumps(describe(config)))["weights"] == str(tmp_path.resolve())
    assert set(describe(config)) == {field.name for field in dataclasses.fields(config)}
