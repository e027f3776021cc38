"""What flows forward: checkpoints that rebuild a model, made by the notebook that owns them."""

import io
import json
import math
from importlib.metadata import version
from pathlib import Path

import torch

from common.backbones import EmbeddingNet, SiameseNet
from common.config import Config, describe
from common.datasets import load_images
from common.datasets.files import write_whole
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, read_splits
from common.evaluation.metrics import Threshold

MODELS = {"EmbeddingNet": EmbeddingNet, "SiameseNet": SiameseNet}


def save(config: Config, image_set: ImageSet, name: str, model, threshold: Threshold, history, **more) -> Path:
    """Write a checkpoint that stands on its own, whole or not at all, and return its path.

    It notes the settings, the pictures' fingerprint, the history of `fit`, and `more` of JSON types, such as metrics or
    the species trained on. The model is an `EmbeddingNet` or a `SiameseNet`.
    """
    content = {
        "model": type(model).__name__,
        "arguments": model.arguments,
        "state_dict": {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()},
        "threshold": {"value": threshold.value, "fitted_on": threshold.fitted_on},
        "history": json.loads(history.to_json(orient="records")),
        "config": describe(config),
        "dataset": image_set.name,
        "fingerprint": image_set.fingerprint,
        "versions": {package: version(package) for package in ("torch", "timm", "numpy")},
        **json.loads(json.dumps(more)),  # plain types only, or it could not be loaded again
    }
    path, packed = config.directory / name, io.BytesIO()
    torch.save(content, packed)  # in memory first, since on a full disk torch fails in riddles
    write_whole(path, lambda temporary: temporary.write_bytes(packed.getbuffer()))
    return path


def load(path: Path, image_set: ImageSet, device: str = "cpu"):
    """Rebuild a model in evaluation mode, its `Threshold` and the checkpoint's whole content, for use on `image_set`.

    Raises ValueError where the file is no checkpoint, or was trained on other pictures.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        model = MODELS[content["model"]](**content["arguments"])
        model.load_state_dict(content["state_dict"])
        threshold, dataset, fingerprint = Threshold(**content["threshold"]), content["dataset"], content["fingerprint"]
        if threshold.fitted_on not in ("train", "validation") or not math.isfinite(threshold.value):
            raise ValueError(f"its {threshold} is none that validation gave")
        if broken := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
            raise ValueError(f"{broken[0]} is not finite")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({error}); delete it and run its notebook") from error
    if fingerprint != image_set.fingerprint:
        raise ValueError(
            f"{path} was trained on {dataset!r} ({fingerprint}), but the pictures here are "
            f"{image_set.name!r} ({image_set.fingerprint}); use that data set or delete {Path(path).parent}"
        )
    return model.to(device).eval(), threshold, content


def ensure(config: Config, name: str) -> Path:
    """Return the path of a file another notebook hands on, such as "splits.json" or "best_model_center_loss.pth".

    If it is missing, that notebook (see `notebooks.OWNERS`) is run first, under the same configuration. Raises
    ValueError where no notebook makes such a file, FileNotFoundError where it ran and did not.
    """
    path = config.directory / name
    if path.exists():
        return path
    from common import notebooks  # here, since what runs notebooks takes three seconds to import

    if name not in notebooks.OWNERS:
        raise ValueError(f"no notebook makes {name!r}; known are: {', '.join(notebooks.OWNERS)}")
    owner = notebooks.OWNERS[name]
    print(f"{name} is missing; running {owner}, which makes it.")
    notebooks.run([owner], config)
    if not path.exists():
        raise FileNotFoundError(f"{owner} ran but did not write {path}")
    return path


def handed_on(config: Config) -> tuple[ImageSet, Splits, str]:
    """What R1 and R2 hand on: the pictures, their splits, and the name of the backbone.

    Notebooks whose results are missing are run first. A backbone set in `config` needs no R2.
    """
    image_set = load_images(config)
    splits = read_splits(ensure(config, "splits.json"), image_set)
    backbone = config.backbone or json.loads(ensure(config, "backbone.json").read_text())["backbone"]
    return image_set, splits, backbone
