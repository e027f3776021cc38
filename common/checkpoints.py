"""What flows forward: checkpoints that rebuild a model, made by the notebook that owns them."""

import hashlib
import io
import json
import math
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError

import torch

from common.backbones import EmbeddingNet, SiameseNet
from common.config import Config, describe, known_backbone
from common.datasets import load_images
from common.datasets.files import reason, write_whole
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, read_splits
from common.evaluation.metrics import Threshold

MODELS = {"EmbeddingNet": EmbeddingNet, "SiameseNet": SiameseNet}
STEMS = {"center_loss": "center_loss", "siamese": "siamese_network", "triplet": "triplet_loss"}  # in names of files


def save(config: Config, image_set: ImageSet, name: str, model, threshold: Threshold, history, **more) -> Path:
    """Write a checkpoint that stands on its own, whole or not at all, and return its path.

    It notes the settings, how pictures are prepared, the names of the classes, what tells these pictures and their
    split from others, the history of `fit`, and `more` of JSON types, such as metrics or the species trained on. The
    model is an `EmbeddingNet` or a `SiameseNet`.
    """
    path, packed = config.directory / name, io.BytesIO()
    content = {
        "model": type(model).__name__,
        "arguments": model.arguments,
        "state_dict": {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()},
        "threshold": {"value": threshold.value, "fitted_on": threshold.fitted_on},
        "history": json.loads(history.to_json(orient="records")),
        "config": describe(config),
        "dataset": image_set.name,
        "fingerprint": image_set.fingerprint,
        "pictures": len(image_set),
        "class_names": image_set.class_names,
        "image_size": image_set.images.shape[-1],
        "grayscale": config.grayscale,
        "squeeze": image_set.disjoint,
        "split": _split(path),
        "versions": {package: version(package) for package in ("torch", "timm", "numpy")},
        **json.loads(json.dumps(more)),  # plain types only, or it could not be loaded again
    }
    torch.save(content, packed)  # in memory first, since on a full disk torch fails in riddles
    write_whole(path, lambda temporary: temporary.write_bytes(packed.getbuffer()))
    return path


def load(path: Path, image_set: ImageSet | None = None, device: str = "cpu"):
    """Rebuild a model in evaluation mode, its `Threshold` and the checkpoint's whole content.

    The content tells how a picture is prepared for the model ("image_size", "grayscale", "squeeze") and what it learned
    ("class_names"), so it needs none of its pictures. Whoever measures it gives `image_set`: then it must have been
    trained on these very pictures, and on the split that lies beside it, or test pictures may have been its training.
    Raises ValueError where that is not so, and where the file is no checkpoint.
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
        told = "it is not of plain numbers and words" if isinstance(error, UnpicklingError) else reason(error)
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({told}); move it away and run its notebook, which makes it anew"
        ) from None  # torch's own message tells how to run the code in it
    if image_set is not None and fingerprint != image_set.fingerprint:
        raise ValueError(
            f"{path} was trained on other pictures ({dataset!r}, {fingerprint}) than those here ({image_set.name!r}, "
            f"{image_set.fingerprint}): {_difference(content, image_set)}. Use its settings, or another folder as "
            "SIMILARITY_CHECKPOINTS, where models of these pictures are then made"
        )
    if image_set is not None and content.get("split") not in (None, _split(Path(path))):
        raise ValueError(
            f"{path} was trained on another split (seed {content['config']['seed']}) than the splits.json beside it: "
            "pictures that this one tests with may have trained it. Bring its own splits.json back, or set "
            "SIMILARITY_CHECKPOINTS to another folder, where all is made anew"
        )
    return model.to(device).eval(), threshold, content


def _split(path: Path) -> str | None:
    """Digits that stand for the splits beside a checkpoint, where there are any."""
    file = path.parent / "splits.json"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else None


def _difference(content: dict, image_set: ImageSet) -> str:
    """In what the pictures of a checkpoint differ from others."""
    here = {"dataset": image_set.name, "image_size": image_set.images.shape[-1], "pictures": len(image_set)}
    other = {name: content.get(name) for name in here}
    told = [f"{name} {other[name]} there, {here[name]} here" for name in here if other[name] != here[name]]
    if odd := sorted(set(content.get("class_names", ())) ^ set(image_set.class_names)):
        told.append(f"classes that only one of them has, such as {odd[0]!r}")
    return "; ".join(told) or "the files' own pixels (changed files, another seed of drawn flowers, or grayscale)"


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
    return image_set, splits, config.backbone or _chosen_backbone(ensure(config, "backbone.json"), image_set)


def trained(config: Config, image_set: ImageSet, protocol: str, kind: str = "best") -> dict:
    """Approach -> model: the "best" ones of R3 to R5, or the "robust" ones of R6. R3's needs a closed set."""
    names = [name for name in STEMS if name != "center_loss" or protocol == "closed_set"]
    files = {name: ensure(config, f"{kind}_model_{STEMS[name]}.pth") for name in names}
    return {name: load(file, image_set, config.device)[0] for name, file in files.items()}


def _chosen_backbone(path: Path, image_set: ImageSet) -> str:
    try:
        content = json.loads(path.read_text())
        if content["fingerprint"] != image_set.fingerprint:
            raise ValueError("it was chosen on other pictures")
        return known_backbone(content["backbone"])
    except Exception as error:  # whatever somebody's editor, or half a file, makes of it
        told = f"{path} names no backbone for these pictures ({reason(error)})"
        raise ValueError(f"{told}: move it away and run R2") from error
