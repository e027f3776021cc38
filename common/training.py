"""The training loop: epochs, schedules, validation, early stopping, resuming, on any number of devices."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from common.datasets.batches import as_float, augment
from common.files import write_whole


class Collapse(RuntimeError):
    """Training has ended in a state it does not leave: equal embeddings, or a loss stuck at chance."""


class TrainingStep(nn.Module):
    """Model and objective as one module, so that several devices can run it together."""

    def __init__(self, model: nn.Module, objective: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        return self.objective(self.model, *batch)


def one_cycle(model: nn.Module, learning_rate: float, steps: int):
    """The one recipe every approach is trained by: AdamW, the learning rate up for a quarter, then down to 0.

    Args:
        model: its trainable parameters are optimized; weight decay 0.05 spares BatchNorm and biases.
        learning_rate: the highest rate.
        steps: batches in the whole training.

    Returns:
        The optimizer and its scheduler, to be stepped after every batch.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": 0.05},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    rise = 0.3 if steps == 4 else 0.25  # a quarter of 4 would end in the first step, and torch divide by 0
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=rise)


def fit(
    model: nn.Module,
    objective: nn.Module,
    loader: DataLoader,
    optimizers: Sequence[torch.optim.Optimizer],
    epochs: int,
    validate: Callable[[nn.Module], float | dict],
    schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] = (),
    patience: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: Path | None = None,
    keep: str = "best",
    augmentation: float = 1.0,
) -> pd.DataFrame:
    """Train a model and leave it, in evaluation mode, with the weights of its best validated epoch, or its last.

    Args:
        model: changed in place.
        objective: called as `objective(model, *batch)`, returns named terms whose sum is minimized.
            Its own parameters (centers, say) are trained too if an optimizer holds them. An attribute
            `stuck_at` gives terms' values for a model that learned nothing, by their names; an attribute
            `watched` names further numbers of the latest batch, for the history only.
        loader: batches of tensors; uint8 ones are pictures, turned into augmented floats in [0, 1].
        optimizers: stepped together after every batch.
        epochs: passes through `loader`, 1 or more.
        validate: measures the model after each epoch, higher is better; or a dict of numbers, of which
            "validation" is the one that counts and the others are for the history.
        schedulers: stepped after every batch.
        patience: stop after this many epochs without a better validation; None: never.
        seed: of augmentation.
        device: "cpu", or anything else to use the accelerators at hand, in bfloat16 where it is a GPU.
        resume: file that keeps the state after each epoch; if it exists, training goes on from there,
            and it is removed at the end.
        keep: "best" returns to the best validated epoch; "last" trusts the schedule, for where validation
            is too small to choose by.
        augmentation: strength of `augment`.

    Returns:
        One row an epoch: epoch, each term, loss, what is watched, validation, learning_rate, spread, images, seconds.

    Raises:
        Collapse: see `check_collapse`.
        ValueError: an unknown `keep`.
    """
    if keep not in ("best", "last"):
        raise ValueError(f"keep is {keep!r}; choose 'best' or 'last'")
    if ":" in device:  # accelerate takes the current one
        torch.cuda.set_device(device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if device.startswith("cuda") else "no")
    on_device = accelerator.prepare(TrainingStep(model, objective).to(memory_format=torch.channels_last))
    batches = accelerator.prepare(loader)
    varying = torch.Generator().manual_seed(seed)
    generators = [generator for generator in (loader.generator, varying) if generator is not None]
    stateful = [model, objective, *optimizers, *schedulers]
    history, best = _restore(resume, stateful, generators)
    progress = tqdm(range(len(history), epochs), desc="training", unit="epoch", disable=not accelerator.is_main_process)
    for epoch in progress:
        if _stale(history, patience):
            break
        started = time.perf_counter()
        row = _run_epoch(on_device, batches, optimizers, schedulers, accelerator, varying, augmentation)
        numbers = validate(model)
        numbers = numbers if isinstance(numbers, dict) else {"validation": numbers}
        numbers = {name: float(value) for name, value in numbers.items()}
        validation = numbers["validation"]
        seconds = time.perf_counter() - started + (history[-1]["seconds"] if history else 0.0)
        images = row.pop("images") + (history[-1]["images"] if history else 0)
        history.append({"epoch": epoch + 1, **row, **numbers, "images": images, "seconds": seconds})
        check_collapse(history, getattr(objective, "stuck_at", None))
        if keep == "last" or validation >= max(past["validation"] for past in history):
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        progress.set_postfix(loss=f"{row['loss']:.3f}", validation=f"{validation:.3f}")
        _keep(resume, stateful, generators, history, best)
    model.load_state_dict(best)
    model.eval()
    if resume is not None:
        Path(resume).unlink(missing_ok=True)
    return pd.DataFrame(history)


def check_collapse(history: list[dict], stuck_at: dict | None, window: int = 4, tolerance: float = 0.02) -> None:
    """Stop a training that has collapsed (protocol rule 10).

    Args:
        history: rows as `fit` returns them, the latest last.
        stuck_at: terms' values for a model that learned nothing (ln C, ln 2, the margin), by their names.
        window: epochs in a row that count as stuck.
        tolerance: how near to that value, as a share of it, counts as stuck.

    Raises:
        Collapse: all embeddings are equal, loss or validation is not finite, or a term stays at its
            value in `stuck_at` while validation is hardly better than after the first epoch (the hardest
            triplets of a good model may end near the margin too); the message says what to try.
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
    recent = history[-window:]
    risen = max(row["validation"] for row in recent) - history[0]["validation"]
    for term, value in (stuck_at or {}).items():
        stuck = value and len(recent) == window and all(abs(row[term] / value - 1) < tolerance for row in recent)
        if stuck and risen < tolerance:
            raise Collapse(
                f"{term} has stayed at {value:.3f}, as of a model that learned nothing, for {window} epochs; "
                "try another learning rate, unfreeze more of the backbone, or check the labels"
            )


def _run_epoch(step, batches, optimizers, schedulers, accelerator, generator, strength) -> dict[str, float]:
    step.train()
    rate, totals, images = optimizers[0].param_groups[0]["lr"], {}, 0
    for batch in batches:
        inputs = [augment(as_float(part), generator, strength) if part.dtype == torch.uint8 else part for part in batch]
        with accelerator.autocast():
            terms = step(*inputs)
            loss = sum(terms.values())
        for optimizer in optimizers:
            optimizer.zero_grad()
        accelerator.backward(loss)
        for stepped in (*optimizers, *schedulers):
            stepped.step()
        watched = getattr(accelerator.unwrap_model(step).objective, "watched", {})
        for name, term in {**terms, "loss": loss, **watched}.items():
            totals[name] = totals.get(name, 0.0) + term.item() * len(inputs[0])
        images += len(inputs[0]) * accelerator.num_processes
    shown = images // accelerator.num_processes
    means = {name: total / shown for name, total in totals.items()}
    spread = _spread(accelerator.unwrap_model(step).model, inputs[0])
    return {**means, "learning_rate": rate, "spread": spread, "images": images}


@torch.no_grad()
def _spread(model, images) -> float:
    """Standard deviation of unit-length embeddings over a batch, mean over dimensions times their square root."""
    model.eval()
    embeddings = nn.functional.normalize(model(images[:64]).float())
    return float(embeddings.std(0).mean() * embeddings.shape[1] ** 0.5)


def _stale(history, patience) -> bool:
    scores = [row["validation"] for row in history]
    return patience is not None and bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


def _keep(path, stateful, generators, history, best) -> None:
    if path is None:
        return
    state = {
        "states": [part.state_dict() for part in stateful],
        "generators": [generator.get_state() for generator in generators],
        "global_generator": torch.get_rng_state(),
        "history": history,
        "best": best,
    }
    write_whole(Path(path), lambda temporary: torch.save(state, temporary))


def _restore(path, stateful, generators):
    if path is None or not Path(path).exists():
        return [], None
    state = torch.load(path, weights_only=True)
    for part, saved in zip(stateful, state["states"], strict=True):
        part.load_state_dict(saved)
    for generator, saved in zip(generators, state["generators"], strict=True):
        generator.set_state(saved)
    torch.set_rng_state(state["global_generator"])
    return state["history"], state["best"]
