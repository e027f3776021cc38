"""The training loop, the one budget under which every approach is trained, and the way back to the pretrained start."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from common.backbones import embed, evaluation_mode
from common.config import Config, seed_everything
from common.datasets.batches import as_float, augment
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, make_pairs
from common.evaluation.metrics import first_near_best, roc_auc, spread
from common.evaluation.reports import embed_all, pair_scores, searched, validation_report

HEAD_EPOCHS = 8  # passes over features that are computed once, so they cost next to nothing
POINTS = (0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the path from the start over the trained head to the end


class Collapse(RuntimeError):
    """Training has ended in a state it does not leave: equal embeddings, or a loss stuck at chance."""


class Trained(NamedTuple):
    """A finished training: its model in evaluation mode, the history of `fit`, the path's qualities, the point kept."""

    model: nn.Module
    history: pd.DataFrame
    path: pd.DataFrame
    point: float

    @property
    def quality(self) -> float:
        """What arms are compared by: the mean of ROC-AUC and MAP@R on validation, at the point kept."""
        return float(self.path.loc[self.point].mean())


def train_arm(config: Config, arm: Callable, image_set: ImageSet, splits: Splits, protocol: str, seed: int) -> Trained:
    """Train one arm of a comparison, and keep as much of its training as validation supports.

    From scratch that is all. From a pretrained backbone a training has two legs: first the head learns alone (Kumar et
    al. 2022, "Fine-Tuning Can Distort Pretrained Features and Underperform Out-of-Distribution"), then everything.
    On the straight lines between the start (0), the trained head (1) and the end (2) the model goes back (Wortsman et
    al. 2022, "Robust Fine-Tuning of Zero-Shot Models") to the first of the `POINTS` whose mean of ROC-AUC and MAP@R is
    near the best: in the closed set on the validation pictures, in the open set by `class_held_out_validation`.

    `arm(indices, seed)` makes the model, objective and loader that learn from the training pictures `indices`.
    """
    part, pairs = splits.parts[protocol], splits.pairs[protocol]["validation"]
    validate = partial(validation_report, image_set=image_set, pairs=pairs)
    model, history, corners = _walk(config, arm, part["train"], seed, validate)
    if protocol == "open_set" and len(corners) > 1:
        path = class_held_out_validation(config, arm, image_set, splits, seed)
    else:
        path = path_quality(model, corners, image_set, part["validation"], pairs)
    point = first_near_best(path.mean(axis=1))
    model.load_state_dict(between(corners, point))
    return Trained(model.eval(), history, path, point)


def class_held_out_validation(
    config: Config, arm: Callable, image_set: ImageSet, splits: Splits, seed: int
) -> pd.DataFrame:
    """The `path_quality` that an arm may expect on new species, in the open set: the mean of two trainings.

    The species of train and validation are halved; each half is trained on once and held out once, to judge.
    """
    indices = np.concatenate([splits.parts["open_set"][name] for name in ("train", "validation")])
    species, paths = np.random.default_rng(seed).permutation(np.unique(image_set.labels[indices])), []
    for held in np.array_split(species, 2):
        new = np.isin(image_set.labels[indices], held)
        pairs = make_pairs(image_set.labels, indices[new], config.pairs, seed)
        validate = partial(validation_report, image_set=image_set, pairs=pairs)
        model, _, corners = _walk(config, arm, indices[~new], seed, validate)
        paths.append(path_quality(model, corners, image_set, indices[new], pairs))
    return sum(paths) / 2


def _walk(config: Config, arm: Callable, indices, seed: int, validate: Callable):
    """Train an arm all the way: its model, the history of `fit`, and the states at the corners of its path."""
    model, objective, loader = arm(indices, seed)
    corners = []
    if config.pretrained and config.embedding_size:
        corners.append(_state(model))
        train_head(config, model, objective, loader, seed)
        corners.append(_state(model))
    history = train(config, model, objective, loader, validate, seed)
    return model, history, [*corners, _state(model)]


def path_quality(model: nn.Module, corners: list[dict], image_set: ImageSet, indices, pairs) -> pd.DataFrame:
    """What a model is worth along its path: a row for each of the `POINTS`, roc_auc of `pairs`, map_at_r of `indices`.

    A path of one corner is its end alone, where the model is left.
    """
    rows = {}
    for point in POINTS if len(corners) > 1 else POINTS[-1:]:
        model.load_state_dict(between(corners, point))
        embeddings = embed_all(model, image_set, indices)
        found = searched(model, embeddings[indices], image_set.labels[indices])
        area = roc_auc(pair_scores(model, embeddings, pairs), pairs[:, 2])
        rows[point] = {"roc_auc": area, "map_at_r": float(np.nanmean(found["map_at_r"]))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("point")


def between(corners: list[dict], point: float) -> dict[str, Tensor]:
    """A model's state at a point of the lines between its states at the `corners`: 1.25 is a quarter of the second."""
    if len(corners) == 1:
        return corners[0]
    leg = min(int(point), len(corners) - 2)
    before, after = corners[leg : leg + 2]
    return {
        name: torch.lerp(before[name], value, point - leg) if value.is_floating_point() else value
        for name, value in after.items()
    }


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def train_head(config: Config, model: nn.Module, objective: nn.Module, loader: DataLoader, seed: int) -> None:
    """Train all but the backbone: its pooled features of the loader's pictures, as they are, are computed once."""
    seed_everything(seed)
    model, objective, pictures = model.to(config.device), objective.to(config.device), loader.dataset
    features = torch.from_numpy(embed(model, pictures.images[pictures.indices], pooled=True)).to(config.device)
    labels = torch.as_tensor(pictures.labels, device=config.device)
    learners = nn.ModuleList(child for name, child in model.named_children() if name != "backbone")
    optimizers, schedulers = _optimizers(config, learners, objective, HEAD_EPOCHS * len(loader))
    for _ in range(HEAD_EPOCHS):
        for places in loader.batch_sampler:
            loss = sum(objective(model.head(features[places]), labels[places]).values())
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for stepped in (*optimizers, *schedulers):
                stepped.step()


def train(
    config: Config, model: nn.Module, objective: nn.Module, loader: DataLoader, validate: Callable, seed: int, **options
) -> pd.DataFrame:
    """Train a model for one objective with the optimizers, schedules and epochs that all approaches share.

    The last epoch is kept: by then the learning rate has fallen to 0. The seed is that of augmentation and of all that
    an objective draws: pairs, triplets, an attack's start. Model, objective, loader, `validate` and options, such as
    other `terms`, are those of `fit`, whose history is returned.
    """
    seed_everything(seed)
    optimizers, schedulers = _optimizers(config, model, objective, config.epochs * len(loader))
    budget = dict(schedulers=schedulers, keep="last", device=config.device, augmentation=config.augmentation)
    return fit(model, objective, loader, optimizers, config.epochs, validate, seed=seed, **budget | options)


def _optimizers(config: Config, learners: nn.Module, objective: nn.Module, steps: int) -> tuple[list, list]:
    """The optimizers and schedulers of a training of so many steps, those of the model first.

    The model has AdamW, its learning rate rising and falling once. An objective's own parameters, such as centers,
    have plain gradient descent with a rate of 0.5 that falls to 0 (Wen et al. 2016).
    """
    optimizer, scheduler = one_cycle(learners, config.learning_rate, steps)
    optimizers, schedulers = [optimizer], [scheduler]
    if centers := [parameter for parameter in objective.parameters() if parameter.requires_grad]:
        optimizers.append(torch.optim.SGD(centers, lr=0.5))
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[-1], steps))
    return optimizers, schedulers


def one_cycle(model: nn.Module, learning_rate: float, steps: int):
    """AdamW of all trainable parameters, and its scheduler, to be stepped after every batch.

    The learning rate rises for a quarter of all `steps`, then falls to 0; weight decay of 0.05 spares vectors.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": 0.05},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    rise = 0.3 if steps == 4 else 0.25  # a quarter of 4 would end in the first step, and torch divide by 0
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=rise)


def clean_terms(model: nn.Module, objective: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What a batch adds to the loss, term by term: the objective of its embeddings."""
    return objective(embed_together(model, images), labels)


def embed_together(model: nn.Module, images: Tensor) -> Tensor:
    """Embeddings of a whole batch (B, D) of which each process embeds its share; alone, simply the model's.

    Gradients flow back to whoever embedded. Processes without a picture of their own embed the first one in vain.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return model(images).float()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    places = torch.arange(rank, rank + ranks * -(-len(images) // ranks), ranks)
    shares = all_gather(model(images[places % len(images)]).float())
    return torch.stack(shares, 1).flatten(0, 1)[: len(images)]


def fit(
    model: nn.Module, objective: nn.Module, loader: DataLoader, optimizers: Sequence[torch.optim.Optimizer],
    epochs: int, validate: Callable[[nn.Module], float | dict],
    schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] = (), seed: int = 0, device: str | None = None,
    keep: str = "best", augmentation: float = 1.0, terms: Callable[..., dict[str, Tensor]] = clean_terms,
) -> pd.DataFrame:  # fmt: skip
    """Train a model and leave it, in evaluation mode, with the weights of its best validated epoch, or its last.

    Under `accelerate launch` each process embeds its share of every batch, and all of them the same whole loss.

    Args:
        model: changed in place.
        objective: embeddings and labels in, named terms out, whose sum is minimized. Its own parameters (centers,
            say) are trained too if an optimizer holds them. Attributes: `stuck_at`, the terms' values for a model
            that learned nothing (ln C, ln 2, the margin); `watched`, more of the latest batch for the history.
        loader: batches of pictures and labels; uint8 pictures become augmented floats.
        optimizers, schedulers: stepped after every batch.
        validate: measures the model after each epoch, higher is better; of a dict "validation" is what counts, and
            "spread", which is taken from the last batch otherwise, tells a collapse.
        seed: of augmentation.
        device: the model's own by default; but for the CPU, the accelerators at hand, in bfloat16 if made for it.
        keep: "best" or "last"; the last trusts the schedule, for where validation is too small to choose by.
        augmentation: strength of `augment`.
        terms: `terms(model, objective, images, labels)`, for trainings that change the pictures first.

    Returns a row an epoch: epoch, each term, loss, what is watched, learning_rate, spread, what `validate` found,
    images, seconds.
    Raises Collapse as `check_collapse` does, and ValueError for what cannot be asked for.
    """
    if keep not in ("best", "last") or epochs < 1:
        raise ValueError(f"keep is {keep!r} and epochs {epochs}; choose 'best' or 'last', and 1 epoch or more")
    device = torch.device(device or next(model.parameters()).device)
    accelerator = _accelerator(device)
    model.to(accelerator.device, memory_format=torch.channels_last)
    objective.to(accelerator.device)
    change = partial(augment, generator=torch.Generator().manual_seed(seed), strength=augmentation)
    history, seen, seconds, best = [], 0, 0.0, None
    progress = tqdm(range(epochs), desc="training", unit="epoch", disable=not accelerator.is_main_process)
    for epoch in progress:
        started, rate = time.perf_counter(), optimizers[0].param_groups[0]["lr"]
        means, count, latest = _epoch(model, objective, loader, optimizers, schedulers, accelerator, change, terms)
        found = found if isinstance(found := validate(model), dict) else {"validation": found}
        if "validation" not in found:
            raise ValueError(f"validate gave {', '.join(found)}, but no 'validation', by which epochs are compared")
        seen, seconds = seen + count, seconds + time.perf_counter() - started
        found = {name: float(value) for name, value in found.items()} | {"images": seen, "seconds": seconds}
        if "spread" not in found:
            with evaluation_mode(model):
                found["spread"] = spread(model(latest[:64]).float().cpu())
        history.append({"epoch": epoch + 1, **means, "learning_rate": rate, "spread": found["spread"], **found})
        check_collapse(history, getattr(objective, "stuck_at", None))
        scores = [past["validation"] for past in history]
        if keep == "last" or scores[-1] >= max(scores):
            best = _state(model)
        progress.set_postfix(loss=f"{means['loss']:.3f}", validation=f"{scores[-1]:.3f}")
    model.load_state_dict(best)
    model.eval()
    return pd.DataFrame(history)


def _accelerator(device: torch.device) -> Accelerator:
    """What runs a training on such a device; in bfloat16 on a GPU that is made for it."""
    if device.type == "cuda" and device.index is not None:  # accelerate takes the current one
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # else accelerate keeps the device and precision of the first training in a process
        AcceleratorState._reset_state(reset_partial_state=True)
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8  # older ones emulate bfloat16
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if fast else "no")


def _epoch(model, objective, loader, optimizers, schedulers, accelerator, change, terms) -> tuple[dict, int, Tensor]:
    """Train on each batch once: means of terms, loss and what is watched; count of pictures; the last batch."""
    sums, count, together = {}, 0, accelerator.num_processes > 1
    model.train()
    objective.train()
    for batch in loader:
        images, labels = (part.to(accelerator.device) for part in batch)
        if images.dtype == torch.uint8:
            images = change(as_float(images))
        with accelerator.autocast():
            added = terms(model, objective, images, labels)
            loss = sum(added.values())
        for optimizer in optimizers:
            optimizer.zero_grad()
        accelerator.backward(loss)
        for parameter in model.parameters() if together else ():
            if parameter.grad is not None:  # every process has the whole loss, and the gradients of its share
                parameter.grad = accelerator.reduce(parameter.grad, "mean")
        for stepped in (*optimizers, *schedulers):
            stepped.step()
        for name, value in {**added, "loss": loss, **getattr(objective, "watched", {})}.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(labels)
        count += len(labels)
    for average in model.buffers() if together else ():  # of BatchNorm: each process has seen its share
        if average.is_floating_point():
            average.copy_(accelerator.reduce(average, "mean"))
    return {name: total / count for name, total in sums.items()}, count, images


def check_collapse(history: list[dict], stuck_at: dict | None) -> None:
    """Stop a training that has collapsed (protocol rule 10).

    `history` holds rows as `fit` returns them; `stuck_at` is that of the objective.

    Raises:
        Collapse: all embeddings are equal, loss or validation is not finite, or a term stays within 2 % of its value
            in `stuck_at` for four epochs while validation is hardly better than after the first (the hardest triplets
            of a good model may end near the margin too); the message says what to try.
    """
    latest = history[-1]
    if not all(math.isfinite(latest[name]) for name in ("loss", "spread", "validation")):
        raise Collapse(
            f"epoch {latest['epoch']}: the loss is {latest['loss']}, the validation {latest['validation']}; "
            "try a learning rate ten times lower"
        )
    if latest["spread"] < 1e-4:
        raise Collapse(
            f"epoch {latest['epoch']}: all pictures have nearly the same embedding (spread {latest['spread']:.1e}); "
            "try a lower learning rate, a smaller weight of the pulling term, or easier negatives"
        )
    recent = history[-4:]
    risen = max(row["validation"] for row in recent) - history[0]["validation"]
    for term, value in (stuck_at or {}).items():
        stuck = value and len(recent) == 4 and all(abs(row.get(term, 0) / value - 1) < 0.02 for row in recent)
        if stuck and risen < 0.02:
            raise Collapse(
                f"{term} has stayed at {value:.3f}, as of a model that learned nothing, for 4 epochs; "
                "try another learning rate, unfreeze more of the backbone, or check the labels"
            )
