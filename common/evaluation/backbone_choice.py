"""Which backbone: candidates, and what each one costs and gives on these pictures."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.backbones import EmbeddingNet, evaluation_mode, new_model
from common.config import Config
from common.datasets.batches import Pictures, batches
from common.datasets.files import save_json
from common.datasets.images import ImageSet
from common.datasets.splits import Splits
from common.evaluation.metrics import RESOLUTION, cosine_scores, first_near_best
from common.evaluation.reports import embed_all, pair_auc
from common.losses import Classification
from common.training import train

FROM_SCRATCH = ("test_byobnet", "test_efficientnet", "test_resnet", "test_vit")
FROM_HUB = ("mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "tiny_vit_5m_224.dist_in22k_ft_in1k")
LARGE = ("resnet50", "resnext101_32x4d")
PICTURES = {"quick": 8 * 480, "standard": 700, "full": 20_000}  # to train a candidate: few if pretrained
RULE = (
    "highest validation pair AUC after an equal-budget fine-tune; of all at most "
    f"{RESOLUTION} behind it, the one with the fewest multiply-adds"
)


def candidates(config: Config) -> list[str]:
    """timm names to compare.

    Without pretraining: small models for training from scratch. With `config.weights`: each
    `<timm name>.safetensors` in it, of which there must be one. Else models whose weights timm's hub has, large ones
    in the profile "full" only. A `config.backbone` that is not among them comes last.
    """
    names = list(FROM_SCRATCH)
    if config.pretrained and config.weights:
        names = [path.stem for path in sorted(config.weights.glob("*.safetensors")) if timm.is_model(path.stem)]
        if not names and not config.backbone:
            raise FileNotFoundError(f"{config.weights} holds no <timm name>.safetensors, such as resnet50.safetensors")
    elif config.pretrained:
        names = [*FROM_HUB, *(LARGE if config.profile == "full" else ())]
    return list(dict.fromkeys([*names, *([config.backbone] if config.backbone else [])]))


def cost(model: EmbeddingNet, image_size: int) -> dict[str, int]:
    """Parameters of the backbone, and multiply-adds for one picture of `image_size` x `image_size` pixels."""
    plain = sdpa_kernel(SDPBackend.MATH)  # attention as products, of which every kind of device counts the same
    with evaluation_mode(model) as device, plain, FlopCounterMode(display=False) as counter:
        model.pooled(torch.zeros(1, 3, image_size, image_size, device=device))
    parameters = sum(parameter.numel() for parameter in model.backbone.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def train_candidate(config: Config, name: str, image_set: ImageSet, splits: Splits, pictures: int) -> dict:
    """Train a candidate with cross-entropy for about `pictures` pictures, and measure it on the validation pairs.

    Gives "embeddings" as of `embed_all` and "scores" (P,) of validation, "seconds", "pictures" seen, and "history".
    """
    part, pairs = splits.parts["closed_set"], splits.pairs["closed_set"]["validation"]
    species, labels = np.unique(image_set.labels[part["train"]], return_inverse=True)
    model = new_model(config, name, config.seed, EmbeddingNet, len(species), image_set.images[part["train"]])
    objective = Classification(model.classify, len(species), config.embedding_size)
    loader = batches(Pictures(image_set, part["train"], labels), config.batch_size, shuffle=True, seed=config.seed)
    budget = replace(config, epochs=max(1, round(pictures / len(part["train"]))))
    validate = partial(pair_auc, image_set=image_set, pairs=pairs)
    history = train(budget, model, objective, loader, validate, config.seed)
    found = embed_all(model, image_set, part["validation"])
    spent = {"seconds": history["seconds"].iloc[-1], "pictures": int(history["images"].iloc[-1])}
    return {"embeddings": found, "scores": cosine_scores(found, pairs), **spent, "history": history}


def choose(table: pd.DataFrame) -> str:
    """Of all candidates at most `RESOLUTION` behind the best, the one with the fewest multiply-adds.

    Multiply-adds are the same on every machine, seconds are not. `table` has a row for each candidate and the columns
    roc_auc, on validation pairs, and multiply_adds, as of `cost`; ties go by name.
    """
    return str(first_near_best(table.sort_index().sort_values("multiply_adds", kind="stable")["roc_auc"]))


def save_choice(config: Config, image_set: ImageSet, table: pd.DataFrame) -> str:
    """Write `backbone.json`, which R3 to R5 read, and return the backbone in it: `config.backbone`, or the rule's."""
    rule = f"set by SIMILARITY_BACKBONE (the rule: {choose(table)})" if config.backbone else RULE
    backbone, rows = config.backbone or choose(table), json.loads(table.to_json(orient="index"))
    content = dict(backbone=backbone, rule=rule, table=rows, fingerprint=image_set.fingerprint)
    save_json(config.directory / "backbone.json", content)
    return backbone
