"""Configuration: arguments before variables before defaults, and no bad value gets through."""

import dataclasses
import inspect
import json
import random

import numpy as np
import pytest
import torch

from common.config import PROFILES, ROOT, describe, seed_everything, setup


@pytest.fixture
def variable(monkeypatch):
    """Set a `SIMILARITY_*` variable for one test."""
    return lambda name, value: monkeypatch.setenv(f"SIMILARITY_{name.upper()}", str(value))


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_give_their_numbers(profile):
    config = setup(profile)
    assert (config.profile, config.dataset) == (profile, PROFILES[profile]["dataset"])
    for name, value in PROFILES[profile].items():
        assert getattr(config, name) == value


def test_defaults(monkeypatch):
    for name in ("CHECKPOINTS", "CACHE"):
        monkeypatch.delenv(f"SIMILARITY_{name}")
    config = setup()
    assert (config.profile, config.dataset, config.seed, config.backbone) == ("quick", "rendered", 0, None)
    assert config.data is None and config.weights is None
    assert config.checkpoints == ROOT / "checkpoints"
    assert config.cache.parts[-2:] == (".cache", "image-similarity") and config.cache.is_absolute()
    assert config.directory == ROOT / "checkpoints" / "rendered-quick"
    assert config.device == ("cuda" if torch.cuda.is_available() else "cpu")


def settings_in(folder):
    """A value for each setting, different from every default."""
    return dict(
        profile="standard", dataset="flowers102", data=str(folder), backbone="resnet50", weights=str(folder),
        checkpoints=str(folder / "kept"), cache=str(folder / "decoded"), seed="3", device="meta",
        grayscale="True", image_size="96", epochs="2", seeds="5", embedding_size="64",
    )  # fmt: skip


def test_variables_are_read_and_arguments_win(variable, tmp_path):
    for name, value in settings_in(tmp_path).items():
        variable(name, value)
    config = setup()
    assert {name: str(getattr(config, name)) for name in settings_in(tmp_path)} == settings_in(tmp_path)
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
    flowers = tmp_path / "my flowers"
    flowers.mkdir()
    config = setup(
        "standard", f"folder:{flowers}", flowers, "resnet18", flowers, tmp_path / "a", tmp_path / "b", 7, "meta",
        True, 96, 2, 5,
    )  # fmt: skip
    assert setup() != config
    for name, value in config.environment().items():
        variable(name.removeprefix("SIMILARITY_"), value)
    assert setup() == config


def test_the_environment_holds_only_what_is_set():
    assert set(setup(device="cpu").environment()) == {
        f"SIMILARITY_{name}" for name in ("PROFILE", "DATASET", "CHECKPOINTS", "CACHE", "SEED", "DEVICE")
    }


@pytest.mark.parametrize(
    "name, value, remedy",
    [
        ("profile", "fast", "quick, standard, full"),
        ("dataset", "roses", "rendered, flowers102, caltech101, att_faces, reid, folder"),
        ("dataset", "folder", "folder:PATH"),
        ("dataset", "rendered:x", "folder:PATH"),
        ("seed", "abc", "0, 1, 2"),
        ("seed", "1.5", "0, 1, 2"),
        ("seed", 1.5, "0, 1, 2"),
        ("seed", "-1", "0, 1, 2"),
        ("image_size", "0", "1, 2, 3"),
        ("image_size", 0, "1, 2, 3"),
        ("image_size", "64px", "1, 2, 3"),
        ("epochs", "-2", "1, 2, 3"),
        ("epochs", 2.0, "1, 2, 3"),
        ("seeds", "0", "1, 2, 3"),
        ("seeds", True, "1, 2, 3"),
        ("grayscale", "maybe", "yes, true, 1, no, false, 0"),
        ("grayscale", "2", "yes, true, 1, no, false, 0"),
        ("device", "toaster", "device='cpu'"),
        ("data", "no/such/folder", "give a folder or archive"),
        ("weights", "no/such/folder", "give a folder or archive"),
    ],
)
@pytest.mark.parametrize("way", ["argument", "variable"])
def test_a_bad_value_is_named_with_its_remedy(name, value, remedy, way, variable):
    if way == "variable":
        variable(name, value)
    expected = FileNotFoundError if name in ("data", "weights") else ValueError
    with pytest.raises(expected) as raised:
        setup(**({name: value} if way == "argument" else {}))
    for part in (name, str(value), remedy):
        assert part in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match=r"device 'cuda' cannot be used here.*device='cpu'"):
        setup(device="cuda")


@pytest.mark.parametrize(
    "folder, name",
    [
        ("roses", "folder-roses"),
        ("roses/", "folder-roses"),
        ("my roses", "folder-my roses"),
        ("v1.0", "folder-v1.0"),  # another folder than v1.1, so another name
        ("roses.zip", "folder-roses"),
        ("roses.v2.tar.gz", "folder-roses.v2"),
    ],
)
def test_a_folder_is_named_after_itself(folder, name, tmp_path):
    config = setup(dataset=f"folder:{tmp_path}/{folder}", checkpoints=tmp_path)
    assert config.dataset_name == name
    assert config.directory == tmp_path / f"{name}-quick"


def test_a_network_without_pretrained_weights_is_not_frozen():
    assert [setup("standard", backbone=name).frozen_share for name in ("resnet18", "small_cnn")] == [0.5, 0.0]


def test_a_bare_folder_is_found_where_the_data_are(tmp_path):
    config = setup(dataset="folder", data=tmp_path, checkpoints=tmp_path)
    assert config == setup(dataset=f"folder:{tmp_path}", data=tmp_path, checkpoints=tmp_path)
    assert config.dataset_name == f"folder-{tmp_path.name}", "named after itself: runs on two folders never mix"
    with pytest.raises(ValueError, match="'reid:x'"):
        setup(dataset="reid:x", data=tmp_path)


@pytest.mark.parametrize(
    "words, gray", [(("yes", "True", "1", 1, True), True), (("no", "FALSE", "0", 0, False, "", None), False)]
)
def test_grayscale_is_yes_or_no(words, gray):
    assert [setup(grayscale=word).grayscale for word in words] == [gray] * len(words)


@pytest.mark.parametrize(
    "given, name",
    [
        ({}, "rendered-quick"),
        (dict(image_size=64, epochs=10, seeds=1, grayscale=False), "rendered-quick"),  # the profile's own numbers
        (dict(profile="standard", dataset="caltech101", epochs=2, image_size=96), "caltech101-standard-epochs2-size96"),
        (dict(seeds=2, grayscale=True, backbone="small_cnn"), "rendered-quick-small_cnn-seeds2-grayscale"),
        (dict(dataset="att_faces", embedding_size=2), "att_faces-quick-embedding2"),
        (dict(backbone="hf-hub:timm/resnet18.a1"), "rendered-quick-hf-hub_timm_resnet18.a1"),
    ],
)
def test_a_run_is_named_after_what_differs_from_its_profile(given, name, tmp_path):
    config = setup(**given, checkpoints=tmp_path)
    assert config.name == name and config.directory == tmp_path / name


def test_seeds_follow_the_first():
    assert setup("quick", seed=5).seed_list == [5]
    assert setup("standard", seed=5).seed_list == [5, 6, 7]


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
