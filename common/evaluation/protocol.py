"""The protocol every approach obeys: one budget to be trained under, one way to be tested."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from common.backbones import EmbeddingNet
from common.checkpoints import ensure
from common.config import Config, seed_everything
from common.datasets import load_images
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, read_splits
from common.evaluation.metrics import Threshold, fit_threshold, precision_recall_f1, roc_auc
from common.evaluation.reports import embed_all, pair_scores, reid_report, retrieval_report, verification_report
from common.training import fit, one_cycle


class Evaluation(NamedTuple):
    """What `evaluate` found: embeddings (N, D) of the pictures, scores of each pair list (P,), and the test report."""

    embeddings: np.ndarray
    scores: dict[str, np.ndarray]
    threshold: Threshold
    report: pd.DataFrame


def handed_on(config: Config) -> tuple[ImageSet, Splits, str]:
    """What R1 and R2 hand on: the pictures, their splits, and the name of the backbone.

    Notebooks whose results are missing are run first. A backbone set in `config` needs no R2.
    """
    image_set = load_images(config)
    splits = read_splits(ensure(config, "splits.json"), image_set)
    backbone = config.backbone or json.loads(ensure(config, "backbone.json").read_text())["backbone"]
    return image_set, splits, backbone


def new_model(config: Config, backbone: str, seed: int, network=EmbeddingNet, classes: int = 0) -> nn.Module:
    """A network to be trained: equal seeds start from equal weights.

    Args:
        config: embedding size, picture size, and whether and where from to take pretrained weights.
        backbone: any timm model name.
        seed: of every generator, the weights' and what is drawn after them.
        network: `EmbeddingNet` or `SiameseNet`.
        classes: species of the classifier; 0 makes none.

    Returns:
        The network with the first `config.frozen_share` of its stages frozen.
    """
    seed_everything(seed)
    model = network(backbone, config.embedding_size, classes, config.pretrained, config.weights, config.image_size)
    model.freeze(config.frozen_share)
    return model


def train(
    config: Config,
    model: nn.Module,
    objective: nn.Module,
    loader: DataLoader,
    image_set: ImageSet,
    splits: Splits,
    protocol: str,
    seed: int,
    validate: Callable | None = None,
) -> pd.DataFrame:
    """Train a model for one objective with the optimizers, schedules and epochs that all approaches share.

    The model has AdamW, its learning rate rising and falling once over the training. An objective's own
    parameters, such as centers, have plain gradient descent with a rate of 0.5 that falls to 0, as Wen et
    al. 2016 give them. In the closed set the best validated epoch is kept. In the open set it is the last
    one: a few species are too few to choose an epoch by.

    Args:
        config: epochs, learning rate, device.
        model: changed in place.
        objective: what it is trained for.
        loader: batches of training pictures.
        image_set, splits, protocol: what it is validated on.
        seed: of augmentation and of all that an objective draws: pairs, triplets, an attack's start.
        validate: measures the model after each epoch, as `fit` takes it; default: `validation_report`.

    Returns:
        The history, as `fit` returns it.
    """
    seed_everything(seed)
    steps = config.epochs * len(loader)
    optimizer, scheduler = one_cycle(model, config.learning_rate, steps)
    optimizers, schedulers = [optimizer], [scheduler]
    if centers := [parameter for parameter in objective.parameters() if parameter.requires_grad]:
        optimizers.append(torch.optim.SGD(centers, lr=0.5))
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[-1], steps))
    pairs = splits.pairs[protocol]["validation"]
    validate = validate or partial(validation_report, image_set=image_set, pairs=pairs)
    keep = "best" if protocol == "closed_set" else "last"
    return fit(
        model, objective, loader, optimizers, config.epochs, validate, schedulers,
        patience=config.epochs // 2 if keep == "best" else None, seed=seed, device=config.device, keep=keep,
        augmentation=config.augmentation,
    )  # fmt: skip


def evaluate(model, image_set: ImageSet, splits: Splits, protocol: str) -> Evaluation:
    """Measure a trained model as the protocol says: the threshold from validation, then the test, once.

    Args:
        model: an `EmbeddingNet`, or anything with its `score_embeddings`.
        image_set, splits: the pictures and who is tested on what.
        protocol: "closed_set" or "open_set".

    Returns:
        The `Evaluation`; its report has the rows of `verification_report` and `retrieval_report` of the
        test and, for pictures by several cameras, of `reid_report`.
    """
    embeddings = embed_all(model, image_set, np.concatenate([*splits.parts[protocol].values()]))
    return _judge(model, embeddings, image_set, splits, protocol)


def _judge(model, embeddings, image_set: ImageSet, splits: Splits, protocol: str) -> Evaluation:
    part, pairs = splits.parts[protocol], splits.pairs[protocol]
    scores = {name: pair_scores(model, embeddings, listed) for name, listed in pairs.items()}
    threshold = fit_threshold(scores["validation"], pairs["validation"][:, 2], "validation")
    reports = [verification_report(scores["test"], pairs["test"], threshold)]
    test, labels, similarity = embeddings[part["test"]], image_set.labels[part["test"]], similarity_of(model)
    reports.append(retrieval_report(test, labels, similarity))
    if image_set.cameras is not None:
        reports.append(reid_report(test, labels, image_set.cameras[part["test"]], similarity))
    return Evaluation(embeddings, scores, threshold, pd.concat(reports, ignore_index=True))


def frozen_report(config: Config, backbone: str, image_set: ImageSet, splits: Splits) -> pd.DataFrame:
    """The backbone as it comes, untrained on these pictures: the rows every training has to beat.

    Returns:
        The reports of `evaluate` on its pooled features for each protocol, ready for the ledger.
    """
    untrained = new_model(replace(config, embedding_size=0), backbone, config.seed).to(config.device)
    embeddings = embed_all(untrained, image_set, np.arange(len(image_set)))
    reports = [
        _judge(untrained, embeddings, image_set, splits, protocol).report.assign(protocol=protocol)
        for protocol in splits.protocols
    ]
    return pd.concat(reports).assign(approach="frozen_backbone", seed=config.seed, train_seconds=0.0)


def similarity_of(model):
    """A model's similarity for `nearest` and `retrieval`: None, their fast cosine, or its own `score_embeddings`."""
    cosine = getattr(model.score_embeddings, "__func__", None) is EmbeddingNet.score_embeddings
    return None if cosine else model.score_embeddings


def validation_report(model, image_set: ImageSet, pairs) -> dict[str, float]:
    """What a training is watched by, on int validation pairs (P, 3).

    Returns:
        "validation", the ROC-AUC; "precision", "recall" and "f1" at the best threshold of these same pairs.
    """
    scores, same = pair_scores(model, embed_all(model, image_set, pairs[:, :2]), pairs), pairs[:, 2]
    threshold = fit_threshold(scores, same, "validation")
    return {"validation": roc_auc(scores, same), **precision_recall_f1(scores, same, threshold)}
