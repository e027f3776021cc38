"""What a run is: a profile, a data set, a backbone, a seed, and where things are kept."""

import difflib
import hashlib
import os
import random
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPU cannot do, the CPU does
import torch

PROFILES = {
    # The whole curriculum in minutes on two CPU cores, offline, trained from scratch; too short for much augmentation.
    "quick": dict(
        dataset="rendered", image_size=64, embedding_size=128, epochs=10, batch_size=48, learning_rate=5e-3,
        frozen_share=0.0, augmentation=0.5, seeds=1, pretrained=False,
    ),
    # Real pictures and a pretrained backbone, still bearable on a CPU.
    "standard": dict(
        dataset="flowers102", image_size=160, embedding_size=128, epochs=6, batch_size=32, learning_rate=1e-3,
        frozen_share=0.5, augmentation=1.0, seeds=3, pretrained=True,
    ),
    # The predecessor's scale, for a GPU.
    "full": dict(
        dataset="flowers102", image_size=224, embedding_size=128, epochs=20, batch_size=64, learning_rate=5e-4,
        frozen_share=0.0, augmentation=1.0, seeds=3, pretrained=True,
    ),
}  # fmt: skip
DATASETS = ("rendered", "flowers102", "caltech101", "att_faces", "reid", "folder")
OWN_BACKBONES = ("small_cnn",)  # registered where a network is made; nobody has weights for them
# What may be chosen beside the profile, and how it stands in a run's name where it is not the profile's own.
CHOICES = {
    "backbone": "{}", "epochs": "epochs{}", "image_size": "size{}", "embedding_size": "embedding{}",
    "seeds": "seeds{}", "seed": "seed{}", "grayscale": "grayscale",
}  # fmt: skip
IMAGE_SIZES = 16, 1024  # a smaller picture shows nothing, of a larger one a batch fills the memory
ARCHIVE = r"(?i)\.(zip|tar|tgz|tar\.gz)$"  # what a data set's name leaves out of its file's
REPLACED: dict[str, int] = {}  # torch's threads before a quick run, which takes one
CACHE = "~/.cache/image-similarity"  # where a cache is that nobody named
HOME = Path(__file__).resolve().parent.parent
# Where notebooks and checkpoints lie: beside the package, or where one works if a copy of it alone was installed.
ROOT = HOME if (HOME / "requirements.txt").exists() else Path.cwd()


@dataclass(frozen=True)
class Config:
    """One run's settings; made by `setup`, never changed afterwards."""

    profile: str
    dataset: str
    data: Path | None
    backbone: str | None
    weights: Path | None
    checkpoints: Path
    cache: Path
    seed: int
    device: str
    image_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    frozen_share: float
    augmentation: float
    seeds: int
    pretrained: bool
    embedding_size: int
    grayscale: bool = False
    species: int = 24
    pictures_per_species: int = 40
    pairs: int = 40_000

    @property
    def dataset_name(self) -> str:
        """The data set's name as it stands in file names and in the ledger."""
        kind, _, path = self.dataset.partition(":")
        return f"{kind}-{re.sub(ARCHIVE, '', Path(path).resolve().name)}" if path else kind

    @property
    def name(self) -> str:
        """Data set, profile and what differs from it: `rendered-quick`, `caltech101-standard-epochs2-size96`.

        Of two folders that are called the same, six digits of the path tell which one it is.
        """
        path = self.dataset.partition(":")[2]
        place = [hashlib.sha256(os.fsencode(path)).hexdigest()[:6]] if path else []
        changed = [CHOICES[name].format(value) for name, value in self._changed().items()]
        return "-".join([self.dataset_name, *place, self.profile, *changed])

    @property
    def directory(self) -> Path:
        """Where this run's checkpoints and results are kept; runs never mix."""
        return self.checkpoints / self.name

    @property
    def seed_list(self) -> list[int]:
        """The seeds a claim is measured over; the first one's model is the checkpoint."""
        return [self.seed + step for step in range(self.seeds)]

    def environment(self) -> dict[str, str]:
        """The `SIMILARITY_*` variables that make `setup()` return this configuration in another process."""
        names = ("profile", "dataset", "data", "weights", "checkpoints", "cache", "device")
        values = {name: getattr(self, name) for name in names} | self._changed()
        return {f"SIMILARITY_{name.upper()}": str(value) for name, value in values.items() if value is not None}

    def _changed(self) -> dict:
        """Those of `CHOICES` in which this run differs from its profile."""
        usual = {"backbone": None, "grayscale": False, "seed": 0, **PROFILES[self.profile]}
        return {name: getattr(self, name) for name in CHOICES if getattr(self, name) != usual[name]}


def setup(
    profile=None, dataset=None, data=None, backbone=None, weights=None, checkpoints=None, cache=None, seed=None,
    device=None, grayscale=None, image_size=None, epochs=None, seeds=None, embedding_size=None,
) -> Config:  # fmt: skip
    """Settle a run's configuration and seed every generator.

    Each argument falls back on its `SIMILARITY_*` environment variable, then on the default.

    Args:
        profile: "quick" (default), "standard" or "full".
        dataset: "rendered", "flowers102", "caltech101", "att_faces", "reid", or your own pictures as "folder:PATH"
            ("folder" alone means `data`); the default is the profile's own.
        data: folder or .zip/.tgz archive that holds the data set.
        backbone: any timm model name, or "small_cnn"; without it R2's choice is used.
        weights: folder of `<timm name>.safetensors` files, for machines without a network.
        checkpoints: folder for what notebooks hand on (default `checkpoints/` beside the notebooks).
        cache: folder for decoded pictures (default `~/.cache/image-similarity`).
        seed: first seed, 0 or more (default 0).
        device: a torch device (default: "cuda" where there is one, else Apple's "mps", else "cpu").
        grayscale: whether pictures become gray, in three equal channels: True or False, 1 or 0.
        image_size, epochs, seeds, embedding_size: pixels of a side (16 to 1024), passes over the training pictures,
            seeds a claim is measured over, length of an embedding; the defaults are the profile's own.

    Raises:
        ValueError: an unknown profile, data set or backbone, a number or device that is none, or a `SIMILARITY_*`
            variable that names no argument.
        FileNotFoundError: `data`, `weights` or the data set's folder names nothing.
    """
    given = dict(locals())
    chosen = {name: _first(value, os.environ.get(f"SIMILARITY_{name.upper()}")) for name, value in given.items()}
    for variable in os.environ:
        if variable.startswith("SIMILARITY_"):
            _one_of("setting", variable, [f"SIMILARITY_{name.upper()}" for name in given])
    profile = _one_of("profile", chosen["profile"] or "quick", PROFILES)
    numbers = dict(PROFILES[profile])
    default_dataset = numbers.pop("dataset")
    for name in ("image_size", "epochs", "seeds", "embedding_size"):
        limits = IMAGE_SIZES if name == "image_size" else (1, None)
        numbers[name] = _whole(name, _first(chosen[name], numbers[name]), *limits)
    if chosen["backbone"] in OWN_BACKBONES:
        numbers.update(pretrained=False, frozen_share=0.0)
    data = _existing("data", chosen["data"])
    config = Config(
        profile=profile,
        dataset=_dataset(chosen["dataset"] or default_dataset, data),
        data=data,
        backbone=known_backbone(chosen["backbone"]) if chosen["backbone"] else None,
        weights=_existing("weights", chosen["weights"]),
        checkpoints=_place("checkpoints", chosen["checkpoints"] or ROOT / "checkpoints"),
        cache=_place("cache", chosen["cache"] or CACHE),
        seed=_whole("seed", chosen["seed"] or 0, 0, 2**31),
        device=_device(chosen["device"]),
        grayscale=_yes(chosen["grayscale"]),
        **numbers,
    )
    if profile == "quick":
        REPLACED.setdefault("threads", torch.get_num_threads())
        torch.set_num_threads(1)  # sums then come out alike on any number of cores, and small pictures need no more
    elif REPLACED:
        torch.set_num_threads(REPLACED.pop("threads"))
    seed_everything(config.seed)
    return config


def known_backbone(name: str) -> str:
    """The name, if timm knows such a model; else ValueError with those that are written alike."""
    import timm  # here, as it takes a second

    if name not in OWN_BACKBONES and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 8)
        raise ValueError(f"timm knows no model {name!r}; similar names: {', '.join(close) or 'none'}")
    return name


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators with the same `seed`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(config: Config) -> dict:
    """The configuration as JSON types, for checkpoints."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _first(argument, variable):
    return argument if argument is not None else variable or None  # an empty variable is no setting


def _one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown; choose one of: {', '.join(choices)}")
    return value


def _dataset(value: str, data: Path | None) -> str:
    kind, _, path = value.partition(":")
    _one_of("dataset", kind, DATASETS)
    if kind == "folder":
        path = path or data
    if (kind == "folder") != bool(path):
        raise ValueError(
            f"dataset {value!r}: write folder:PATH for your own pictures (or folder, and where it is as data), "
            "a bare name for the others"
        )
    return f"folder:{_existing('dataset', path)}" if path else kind


def _place(name: str, value) -> Path:
    try:
        return Path(value).expanduser().resolve()
    except RuntimeError as error:
        raise ValueError(f"{value} is nowhere ({error}); set SIMILARITY_{name.upper()} to a full path") from None


def _existing(name: str, value) -> Path | None:
    if not value:
        return None
    path = _place(name, value)
    if name == "weights" and not path.is_dir():
        raise FileNotFoundError(f"weights {str(value)!r} is no folder; give one that holds .safetensors files")
    if not path.exists():
        raise FileNotFoundError(f"{name} {str(value)!r} does not exist; give a folder or archive that does")
    return path


def _whole(name: str, value, least: int, most: int | None = None) -> int:
    use = f"use {least}, {least + 1}, {least + 2}, ..." + (f" to {most}" if most else "")
    try:
        number = int(str(value))  # text, so that 1.5 is refused rather than cut
    except ValueError:
        raise ValueError(f"{name} {value!r} is not a whole number; {use}") from None
    if number < least or (most and number > most):
        raise ValueError(f"{name} {number} is too {'small' if number < least else 'large'}; {use}")
    return number


def _yes(value) -> bool:
    word = str(value or "no").lower()
    return _one_of("grayscale", word, ("yes", "true", "1", "no", "false", "0")) in ("yes", "true", "1")


def _device(value) -> str:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = value or next(name for name in there if there[name])
    try:
        _one_of("device", torch.device(name).type, there)  # "meta" is one, too, but computes nothing
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here ({error}); try device='cpu'") from None
    return str(name)
