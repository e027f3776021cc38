"""The one budget every approach is trained under, so that only what they ask for differs (protocol rule 6)."""

from functools import partial

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from common.backbones import EmbeddingNet
from common.config import Config, seed_everything
from common.evaluation import validation_report
from common.images import ImageSet
from common.splits import Splits
from common.training import fit, one_cycle


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
        seed: of augmentation.

    Returns:
        The history, as `fit` returns it.
    """
    steps = config.epochs * len(loader)
    optimizer, scheduler = one_cycle(model, config.learning_rate, steps)
    optimizers, schedulers = [optimizer], [scheduler]
    if centers := list(objective.parameters()):
        optimizers.append(torch.optim.SGD(centers, lr=0.5))
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[-1], steps))
    validate = partial(validation_report, image_set=image_set, pairs=splits.pairs[protocol]["validation"])
    keep = "best" if protocol == "closed_set" else "last"
    return fit(
        model, objective, loader, optimizers, config.epochs, validate, schedulers,
        patience=config.epochs // 2 if keep == "best" else None, seed=seed, device=config.device, keep=keep,
    )  # fmt: skip
