"""Which backbone: candidates with their published figures, and what each one costs and gives on these pictures."""

import json
import time
from functools import partial

import numpy as np
import pandas as pd
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.flop_counter import FlopCounterMode

from common.backbones import EmbeddingNet
from common.config import Config
from common.datasets.batches import Pictures, batches
from common.datasets.files import save_json
from common.datasets.images import ImageSet
from common.datasets.splits import Splits
from common.evaluation.metrics import bootstrap, cosine_scores, pair_weights, roc_auc
from common.evaluation.reports import embed_all, pair_auc
from common.evaluation.retrieval import retrieval
from common.losses import Classification
from common.training import fit, one_cycle

FILE = "backbone.json"
# Top-1 accuracy in % on ImageNet's 50,000 validation pictures, as timm's author measured it with the weights that
# timm loads for these names: github.com/huggingface/pytorch-image-models, results/results-imagenet.csv (November
# 2024), at 224 x 224 pixels (test_* at 160 x 160).
PUBLISHED = {
    "resnext101_32x4d": 80.936, "tiny_vit_5m_224.dist_in22k_ft_in1k": 80.862, "resnet50": 80.382,
    "efficientnet_b0": 77.696, "mobilenetv3_large_100": 75.786, "mobilenetv1_100": 75.384, "mobilenetv2_100": 72.936,
    "resnet18": 71.488, "lcnet_050": 63.130, "test_efficientnet": 46.424, "test_byobnet": 45.400, "test_vit": 40.832,
}  # fmt: skip
FROM_SCRATCH = ("test_byobnet", "test_efficientnet", "test_resnet", "test_vit")
FROM_HUB = ("mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "tiny_vit_5m_224.dist_in22k_ft_in1k")
LARGE = ("resnet50", "resnext101_32x4d")
TOLERANCE = 0.01  # a gap in AUC that is not worth longer training
RULE = (
    "highest validation pair AUC after an equal-budget fine-tune; of all at most "
    f"{TOLERANCE} behind it, the fastest to train"
)


def candidates(config: Config) -> list[str]:
    """timm names to compare.

    Without pretraining: small models for training from scratch. With `config.weights`: each
    `<timm name>.safetensors` in it. Else models whose weights timm's hub has, large ones in the profile "full"
    only. A `config.backbone` that is not among them comes last.

    Raises:
        FileNotFoundError: `config.weights` holds no file named after a timm model.
    """
    names = list(FROM_SCRATCH)
    if config.pretrained and config.weights:
        names = [path.stem for path in sorted(config.weights.glob("*.safetensors")) if timm.is_model(path.stem)]
        if not names and not config.backbone:
            raise FileNotFoundError(f"{config.weights} holds no <timm name>.safetensors, such as resnet50.safetensors")
    elif config.pretrained:
        names = [*FROM_HUB, *(LARGE if config.profile == "full" else ())]
    return list(dict.fromkeys([*names, *([config.backbone] if config.backbone else [])]))


def make_model(config: Config, name: str, classes: int = 0, embedding_size: int = 0) -> EmbeddingNet:
    """The candidate `name`, pretrained where the profile says so; equal seeds start from equal weights."""
    torch.manual_seed(config.seed)
    return EmbeddingNet(name, embedding_size, classes, config.pretrained, config.weights, config.image_size)


def cost(model: EmbeddingNet, image_size: int) -> dict[str, int]:
    """Parameters of the backbone, and multiply-adds for one picture of `image_size` x `image_size` pixels."""
    picture = torch.zeros(1, 3, image_size, image_size, device=model.mean.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval().pooled(picture)
    parameters = sum(parameter.numel() for parameter in model.backbone.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


@torch.inference_mode()
def speed(model: EmbeddingNet, image_size: int, batch_size: int = 32, seconds: float = 0.4) -> dict[str, float]:
    """Latency of one picture in ms and pictures per second in batches, on the device the model is on.

    Each is the median over repetitions that fill `seconds`, after a warm-up of three that is not counted.
    """
    device, medians = model.mean.device, {}
    model.eval()
    for count in (1, batch_size):
        pictures = torch.rand(count, 3, image_size, image_size, device=device)
        durations: list[float] = []
        while len(durations) < 6 or sum(durations[3:]) < seconds:
            started = time.perf_counter()
            model.pooled(pictures)
            if device.type == "cuda":
                torch.cuda.synchronize()
            durations.append(time.perf_counter() - started)
        medians[count] = float(np.median(durations[3:]))
    return {"latency_ms": 1000 * medians[1], "images_per_second": batch_size / medians[batch_size]}


def frozen_features(config: Config, name: str, image_set: ImageSet, indices) -> np.ndarray:
    """The candidate's pooled features, nothing trained: float32 (N, D), zeros for pictures not in `indices`."""
    return embed_all(make_model(config, name).to(config.device), image_set, indices)


def linear_probe(features, labels, train, test) -> np.ndarray:
    """Species of the pictures `test` by logistic regression on the features of `train`, standardized by `train`.

    Args:
        features: float (N, D).
        labels: int (N,); only those of `train` are looked at.
        train, test: int picture indices.

    Returns:
        int, one label for each of `test`.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return probe.fit(features[train], labels[train]).predict(features[test])


def frozen_quality(features, labels, splits: Splits) -> dict[str, float]:
    """What features are worth as they are, on the closed set's validation pictures: kNN, linear probe and pairs."""
    train, validation = (splits.parts["closed_set"][part] for part in ("train", "validation"))
    pairs = splits.pairs["closed_set"]["validation"]
    found = retrieval(features[validation], labels[validation])
    return {
        "precision_at_1": float(np.nanmean(found["precision_at_1"])),
        "map_at_r": float(np.nanmean(found["map_at_r"])),
        "class_accuracy": float(np.mean(linear_probe(features, labels, train, validation) == labels[validation])),
        "frozen_auc": roc_auc(cosine_scores(features, pairs), pairs[:, 2]),
    }


def fine_tune(config: Config, name: str, image_set: ImageSet, splits: Splits, pictures: int) -> dict:
    """Train a candidate with cross-entropy for about `pictures` pictures, and measure it on the validation pairs.

    Returns:
        "scores" (float (P,), of the validation pairs), "seconds" of training, "pictures" seen.
    """
    part, pairs = splits.parts["closed_set"], splits.pairs["closed_set"]["validation"]
    species, labels = np.unique(image_set.labels[part["train"]], return_inverse=True)
    model = make_model(config, name, len(species), config.embedding_size).to(config.device)
    model.freeze(config.frozen_share)
    loader = batches(Pictures(image_set, part["train"], labels), config.batch_size, shuffle=True, seed=config.seed)
    epochs = max(1, round(pictures / len(part["train"])))
    optimizer, scheduler = one_cycle(model, config.learning_rate, epochs * len(loader))
    objective = Classification(model.classify, len(species), config.embedding_size).to(config.device)
    validate = partial(pair_auc, image_set=image_set, pairs=pairs)
    history = fit(model, objective, loader, [optimizer], epochs, validate, [scheduler], None, config.seed,
                  config.device, augmentation=config.augmentation)  # fmt: skip
    scores = cosine_scores(embed_all(model, image_set, part["validation"]), pairs)
    return {"scores": scores, "seconds": history["seconds"].iloc[-1], "pictures": int(history["images"].iloc[-1])}


def compare(tuned: dict[str, dict], pairs, rounds: int = 200) -> pd.DataFrame:
    """How the fine-tuned candidates do on the same pairs.

    Args:
        tuned: name -> what `fine_tune` returned.
        pairs: int (P, 3), the validation pairs.
        rounds: bootstrap draws.

    Returns:
        A row a candidate, the best first: roc_auc, low, high (its 95 % interval over pictures); behind, behind_low
        (how far behind the best, and the low end of that gap's interval: 0 or less means no difference seen);
        seconds of training, pictures seen.
    """
    pictures, compact = np.unique(pairs[:, :2], return_inverse=True)
    draws: list[dict[str, float]] = []

    def draw(weights) -> float:  # asks all candidates about the same drawn pictures
        weights = None if weights is None else pair_weights(weights, compact.reshape(-1, 2))
        draws.append({name: roc_auc(run["scores"], pairs[:, 2], weights) for name, run in tuned.items()})
        return 0.0

    draw(None)
    auc = pd.Series(draws.pop()).sort_values(ascending=False)
    bootstrap(draw, len(pictures), rounds)
    drawn = pd.DataFrame(draws)[auc.index]
    table = {"roc_auc": auc, "low": drawn.quantile(0.025), "high": drawn.quantile(0.975), "behind": auc.iloc[0] - auc}
    table["behind_low"] = drawn.rsub(drawn[auc.index[0]], axis=0).quantile(0.025)
    spent = pd.DataFrame(tuned).T.reindex(auc.index)
    return pd.DataFrame(table).assign(seconds=spent["seconds"].astype(float), pictures=spent["pictures"].astype(int))


def choose(table: pd.DataFrame) -> str:
    """The fastest to train of those at most `TOLERANCE` behind the best; `table` is what `compare` returns."""
    good_enough = table["behind"] <= TOLERANCE
    return str(table.loc[good_enough, "seconds"].idxmin())


def save_choice(config: Config, image_set: ImageSet, table: pd.DataFrame) -> str:
    """Write `backbone.json`, which R3 to R5 read, and return the backbone in it: `config.backbone`, or the rule's."""
    rule = f"set by SIMILARITY_BACKBONE (the rule: {choose(table)})" if config.backbone else RULE
    content = {
        "backbone": config.backbone or choose(table),
        "rule": rule,
        "table": json.loads(table.to_json(orient="index")),
        "fingerprint": image_set.fingerprint,
    }
    save_json(config.directory / FILE, content)
    return content["backbone"]
