"""The training loop, and the one budget under which every approach is trained."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from common.backbones import evaluation_mode
from common.config import Config, seed_everything
from common.datasets.batches import as_float, augment
from common.datasets.images import ImageSet
from common.datasets.splits import Splits
from common.evaluation.reports import validation_report


class Collapse(RuntimeError):
    """Training has ended in a state it does not leave: equal embeddings, or a loss stuck at chance."""


def train(
    config: Config, model: nn.Module, objective: nn.Module, loader: DataLoader, image_set: ImageSet, splits: Splits,
    protocol: str, seed: int, **options,
) -> pd.DataFrame:  # fmt: skip
    """Train a model for one objective with the optimizers, schedules and epochs that all approaches share.

    The model has AdamW, its learning rate rising and falling once over the training. An objective's own parameters,
    such as centers, have plain gradient descent with a rate of 0.5 that falls to 0 (Wen et al. 2016). In the closed
    set the best validated epoch is kept; in the open set the last, since a few species are too few to choose one by.

    The seed is that of augmentation and of all that an objective draws: pairs, triplets, an attack's start. Model,
    objective, loader and options, such as another `validate` or `terms`, are those of `fit`, whose history is returned.
    """
    seed_everything(seed)
    steps = config.epochs * len(loader)
    optimizer, scheduler = one_cycle(model, config.learning_rate, steps)
    optimizers, schedulers = [optimizer], [scheduler]
    if centers := [parameter for parameter in objective.parameters() if parameter.requires_grad]:
        optimizers.append(torch.optim.SGD(centers, lr=0.5))
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[-1], steps))
    validate = partial(validation_report, image_set=image_set, pairs=splits.pairs[protocol]["validation"])
    keep, patience = ("best", config.epochs // 2) if protocol == "closed_set" else ("last", None)
    budget = dict(schedulers=schedulers, patience=patience, device=config.device, augmentation=config.augmentation)
    options = {"validate": validate, **budget, **options}
    return fit(model, objective, loader, optimizers, config.epochs, keep=keep, seed=seed, **options)


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
    return objective(model(images).float(), labels)


def fit(
    model: nn.Module, objective: nn.Module, loader: DataLoader, optimizers: Sequence[torch.optim.Optimizer],
    epochs: int, validate: Callable[[nn.Module], float | dict],
    schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] = (), patience: int | None = None, seed: int = 0,
    device: str = "cpu", keep: str = "best", augmentation: float = 1.0,
    terms: Callable[..., dict[str, Tensor]] = clean_terms,
) -> pd.DataFrame:  # fmt: skip
    """Train a model and leave it, in evaluation mode, with the weights of its best validated epoch, or its last.

    Args:
        model: changed in place.
        objective: embeddings and labels in, named terms out, whose sum is minimized. Its own parameters (centers,
            say) are trained too if an optimizer holds them. Attributes: `stuck_at`, the terms' values for a model
            that learned nothing (ln C, ln 2, the margin); `watched`, more of the latest batch for the history.
        loader: batches of pictures and labels; uint8 pictures become augmented floats.
        optimizers, schedulers: stepped after every batch.
        validate: measures the model after each epoch, higher is better; of a dict "validation" is what counts.
        patience: stop after this many epochs without a better validation; None: never.
        seed: of augmentation.
        device: "cpu", or anything else to use the accelerators at hand, in bfloat16 where it is a GPU.
        keep: "best" or "last"; the last trusts the schedule, for where validation is too small to choose by.
        augmentation: strength of `augment`.
        terms: `terms(model, objective, images, labels)`, for trainings that change the pictures first.

    Returns a row an epoch: epoch, each term, loss, what is watched, learning_rate, spread, validation, images, seconds.
    Raises Collapse as `check_collapse` does, and ValueError for an unknown `keep`.
    """
    if keep not in ("best", "last"):
        raise ValueError(f"keep is {keep!r}; choose 'best' or 'last'")
    if ":" in device:  # accelerate takes the current one
        torch.cuda.set_device(device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if device.startswith("cuda") else "no")
    model.to(accelerator.device, memory_format=torch.channels_last)
    objective.to(accelerator.device)
    batches, generator = accelerator.prepare(loader), torch.Generator().manual_seed(seed)
    history, seen, seconds, best = [], 0, 0.0, None
    progress = tqdm(range(epochs), desc="training", unit="epoch", disable=not accelerator.is_main_process)
    for epoch in progress:
        started, rate, sums, count = time.perf_counter(), optimizers[0].param_groups[0]["lr"], {}, 0
        model.train()
        objective.train()
        for images, labels in batches:
            if images.dtype == torch.uint8:
                images = augment(as_float(images), generator, augmentation)
            with accelerator.autocast():
                added = terms(model, objective, images, labels)
                loss = sum(added.values())
            for optimizer in optimizers:
                optimizer.zero_grad()
            accelerator.backward(loss)
            for stepped in (*optimizers, *schedulers):
                stepped.step()
            for name, value in {**added, "loss": loss, **getattr(objective, "watched", {})}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(labels)
            count += len(labels)
        means = {name: total / count for name, total in sums.items()}
        found = validate(model)
        found = found if isinstance(found, dict) else {"validation": found}
        seen, seconds = seen + count, seconds + time.perf_counter() - started
        found = {name: float(value) for name, value in found.items()} | {"images": seen, "seconds": seconds}
        spread = _spread(model, images)
        history.append({"epoch": epoch + 1, **means, "learning_rate": rate, "spread": spread, **found})
        check_collapse(history, getattr(objective, "stuck_at", None))
        scores = [past["validation"] for past in history]
        if keep == "last" or scores[-1] >= max(scores):
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        progress.set_postfix(loss=f"{means['loss']:.3f}", validation=f"{scores[-1]:.3f}")
        if patience is not None and epoch - scores.index(max(scores)) >= patience:
            break
    model.load_state_dict(best)
    model.eval()
    return pd.DataFrame(history)


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


def _spread(model: nn.Module, images: Tensor) -> float:
    """Standard deviation of unit-length embeddings over a batch, mean over dimensions times their square root."""
    with evaluation_mode(model):
        embeddings = nn.functional.normalize(model(images[:64]).float())
    return float(embeddings.std(0).mean() * embeddings.shape[1] ** 0.5)
