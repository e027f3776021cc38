"""What does an attack cost, do independent attackers agree with it, and what does robustness cost?

    python -m benchmarks.attacks               prints the cost of a step, as ratios
    python -m benchmarks.attacks --attackers   writes attackers.csv: each robust model's accuracy under every attacker
    python -m benchmarks.attacks --price       into differences.csv and control.csv: robust against standard models
    python -m benchmarks.attacks --control     writes into control.csv: R6's training without its attacker, or a term

The last three take the run that SIMILARITY_* names. The control trains 36 models in about twelve minutes on one core.
The attackers need about two minutes a model on one core, foolbox and torchattacks (its pin of requests is out of date:
`pip install --no-deps torchattacks`).
"""

import argparse
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.results import replace_rows
from common.attacks.adversarial_training import train_robust
from common.attacks.gradient import Attacked, noise, pgd
from common.attacks.reports import attacked_scores
from common.attacks.square import square
from common.backbones import EmbeddingNet, evaluation_mode
from common.checkpoints import STEMS, ensure, load
from common.config import setup
from common.datasets import load_images
from common.datasets.splits import read_splits, some_pairs
from common.evaluation.metrics import accuracy, roc_auc
from common.evaluation.reports import comparison, difference

EPS, KINDS = 4 / 255, {"standard": "best", "robust": "robust"}
ARMS = {  # what trainings on from a standard model differ in
    "more epochs": dict(eps=0.0, steps=0, hold_weight=0.03),
    "robust": dict(eps=2 * EPS, hold_weight=0.03),  # R6's
    "no hold term": dict(eps=2 * EPS, hold_weight=0.0),
    "hold term alone": dict(eps=2 * EPS, hold_weight=3e4),  # beside it the loss is as good as nothing
}
CONTROL = ["dataset", "approach", "name", "metric", "value", "low", "high", "seeds"]  # columns of control.csv


class TwoLogits(nn.Module):
    """A pair score as the classifier that other libraries attack: logits -k (s - t) "different" and k (s - t) "same".

    They attack single pictures, and some pick rows of a batch as they like, so a fourth channel can tell, in pixels of
    0 and 1 that no eps below 1/2 can turn, which second picture a first one belongs to; without it rows keep order.
    """

    def __init__(self, model, second: Tensor, threshold: float, scale: float = 1.0):
        """
        Args:
            model: compares the pictures; in evaluation mode.
            second: float (B, 3, H, W), the pictures that stay.
            threshold, scale: t and k.
        """
        super().__init__()
        self.model, self.threshold, self.scale = model, threshold, scale
        with torch.no_grad():
            self.held = model(second)

    def forward(self, tagged: Tensor) -> Tensor:
        rows = torch.arange(len(tagged), device=tagged.device)
        if tagged.shape[1] == 4:
            bits = (tagged[:, 3].flatten(1)[:, :16] > 0.5).long()
            rows = (bits << torch.arange(16, device=bits.device)).sum(1)
        above = self.scale * (self.model.score_embeddings(self.model(tagged[:, :3]), self.held[rows]) - self.threshold)
        return torch.stack([-above, above], 1)

    @staticmethod
    def tag(first: Tensor) -> Tensor:
        """Give pictures (B, 3, H, W), B up to 65,536, the channel that numbers them."""
        numbers = torch.arange(len(first), device=first.device)[:, None] >> torch.arange(16, device=first.device) & 1
        channel = torch.zeros_like(first[:, :1])
        channel.flatten(1)[:, :16] = numbers.to(first)
        return torch.cat([first, channel], 1)


def independent(make, model, first, second, same, eps, threshold: float, scale: float = 1.0) -> Attacked:
    """Let a torchattacks attack, `make(classifier, eps=eps)`, change the first pictures; arguments as in `pgd`."""
    with evaluation_mode(model, gradients=True):
        attack = make(TwoLogits(model, second, threshold, scale).eval(), eps=eps)
        found = attack(TwoLogits.tag(first), same.long())[:, :3].detach()
    return _scored(model, found, second)


def foolbox_pgd(model, first, second, same, eps, steps: int = 20) -> Attacked:
    """Foolbox's PGD from the clean pictures, its loss replaced by the pair score; the pictures after the last step."""
    import eagerpy
    import foolbox

    direction = 1 - 2 * same.to(second)
    with evaluation_mode(model, gradients=True):
        held = model(second).detach()

        class ScorePGD(foolbox.attacks.LinfPGD):
            def get_loss_fn(self, model_, labels):
                return lambda inputs: eagerpy.astensor(
                    direction * model.score_embeddings(model(inputs.raw), held)
                ).sum()

        attack = ScorePGD(abs_stepsize=2.5 * eps / steps, steps=steps, random_start=False)
        wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=first.device)
        found = attack.run(wrapped, first, foolbox.criteria.Misclassification(same.long()), epsilon=eps)
    return _scored(model, found, second)


def torchattacks_pgd(model, first, second, same, eps, steps: int = 20) -> Attacked:
    """The PGD of torchattacks from the clean pictures with the protocol's step; the pictures after the last step."""
    import torchattacks

    with evaluation_mode(model, gradients=True):
        classifier = TwoLogits(model, second, threshold=0.0).eval()
        attack = torchattacks.PGD(classifier, eps=eps, alpha=2.5 * eps / steps, steps=steps, random_start=False)
        found = attack(first, same.long())
    return _scored(model, found, second)


def apgd(*pairs, eps: float, threshold: float, scale: float = 10.0, steps: int = 100) -> Attacked:
    """AutoAttack's APGD on cross-entropy (Croce and Hein 2020), as torchattacks has it; `pairs` as in `pgd`."""
    import torchattacks

    return independent(partial(torchattacks.APGD, steps=steps, seed=0), *pairs, eps, threshold, scale)


def full_square(*pairs, eps: float, threshold: float, queries: int = 1000) -> Attacked:
    """AutoAttack's Square (Andriushchenko et al. 2020), as torchattacks has it; `pairs` as in `pgd`."""
    import torchattacks

    return independent(partial(torchattacks.Square, n_queries=queries, seed=0), *pairs, eps, threshold)


def _scored(model, found, second) -> Attacked:
    with evaluation_mode(model):
        return Attacked(found, second, model.score(found, second))


def step_ratios(repeats: int = 7, size: int = 64, pairs: int = 32, steps: int = 4) -> dict[str, float]:
    """Processor time of some PGD steps over that of as many bare passes of the same graph: median of repeats."""
    torch.manual_seed(0)
    model = EmbeddingNet("test_resnet", 128).eval()
    first, second = torch.rand(2, pairs, 3, size, size)
    same, held = torch.arange(pairs) % 2, model(second).detach()

    def bare(score):
        for _ in range(steps):
            leaf = first.clone().requires_grad_()
            torch.autograd.grad(score(leaf).sum(), leaf)

    def seconds(work, *arguments):
        started = time.process_time()
        work(*arguments)
        return time.process_time() - started

    ways = {
        "a forward and backward pass of the first pictures": lambda leaf: model.score_embeddings(model(leaf), held),
        "the same, embedding both pictures": lambda leaf: model.score(leaf, second),
        "the same, with gradients of both pictures": lambda leaf: model.score(leaf, second + 0 * leaf),
    }
    ratios = {name: [] for name in ways}
    for _ in range(repeats):
        few, many = (seconds(pgd, model, first, second, same, EPS, count, 1) for count in (1, steps + 1))
        for name, way in ways.items():
            ratios[name].append((many - few) / seconds(bare, way))
    return {name: statistics.median(values) for name, values in ratios.items()}


def attackers(count: int) -> pd.DataFrame:
    """Balanced accuracy of the run's robust models under every attacker, on the first `count` test pairs, as R6 has it.

    Rows of approach, attacker, accuracy, pairs.
    """
    config, rows = setup(), []
    pictures = load_images(config)
    pairs = some_pairs(read_splits(ensure(config, "splits.json"), pictures).pairs["closed_set"]["test"], count)
    for approach, name in STEMS.items():
        path = ensure(config, f"robust_model_{name}.pth")
        model, threshold, _ = load(path, pictures, config.device)
        rivals = {
            "none": partial(noise, eps=0.0, draws=1),
            "noise, worst of 10": partial(noise, eps=EPS),
            "ours: Square, 1,000 queries": partial(square, eps=EPS, queries=1000),
            "torchattacks: Square, 1,000 queries": partial(full_square, eps=EPS, threshold=threshold.value),
            "ours: PGD-20, 3 starts": partial(pgd, eps=EPS),
            "ours: PGD-100, 5 starts": partial(pgd, eps=EPS, steps=100, restarts=5),
            "foolbox: PGD-20": partial(foolbox_pgd, eps=EPS),
            "torchattacks: PGD-20": partial(torchattacks_pgd, eps=EPS),
            "torchattacks: APGD-CE, 100 steps": partial(apgd, eps=EPS, threshold=threshold.value),
        }
        for attacker, attack in rivals.items():
            right = accuracy(attacked_scores(model, pictures, pairs, attack), pairs[:, 2], threshold)
            rows.append(dict(approach=approach, attacker=attacker, accuracy=round(right, 4), pairs=len(pairs)))
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def prices() -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each robust model of the run costs on clean test pictures: rows of control.csv, and of differences.csv."""
    config, rows = setup(), []
    pictures = load_images(config)
    splits = read_splits(ensure(config, "splits.json"), pictures)
    for approach, name in STEMS.items():
        files = {kind: ensure(config, f"{word}_model_{name}.pth") for kind, word in KINDS.items()}
        models = {kind: [load(file, pictures, config.device)[0]] for kind, file in files.items()}
        found = comparison(models, "standard", pictures, splits, "closed_set", "test")
        rows.append(found.assign(approach=approach, seeds=1, dataset=config.dataset_name))
    levels = pd.concat(rows, ignore_index=True)
    standard, robust = (levels[levels["name"] == kind].reset_index(drop=True) for kind in ("standard", "robust"))
    gaps = robust.assign(value=robust["value"] - standard["value"], against=robust["approach"])
    return levels[CONTROL], gaps.assign(approach="robust_" + gaps["against"]).drop(columns="name")


def control(seeds: int, count: int = 80) -> pd.DataFrame:
    """What does the attacker add to R6's training, and each term of its loss? The same epochs, as ARMS has them.

    Every seed trains on from the run's standard models: it orders the batches and the noise. Rows of approach, name
    (an arm, or "standard"), metric, value (the mean over seeds), and low and high of the paired difference to "more
    epochs". Metrics are of clean test pictures, and of the first `count` test pairs under PGD at 4/255, as R6 attacks
    them. A metric "..._over_..." is itself a difference, of "robust" to an arm that lacks a term of its loss.
    """
    config, rows = setup(), []
    pictures, shorter = load_images(config), replace(config, epochs=5, learning_rate=6e-3)
    splits = read_splits(ensure(config, "splits.json"), pictures)
    pairs = some_pairs(splits.pairs["closed_set"]["test"], count)
    for approach, name in STEMS.items():
        standard, _, content = load(ensure(config, f"best_model_{name}.pth"), pictures, config.device)
        models, weight = {"standard": [standard] * seeds} | {kind: [] for kind in ARMS}, content.get("center_weight")
        for seed in range(seeds):
            given = approach, standard, pictures, splits, "closed_set", replace(shorter, seed=seed)
            for kind, options in ARMS.items():
                model, _ = train_robust(*given, center_weight=weight or 0.0, **options)
                models[kind].append(model)
        found = [comparison(models, "more epochs", pictures, splits, "closed_set", "test")]
        attack = partial(pgd, eps=EPS, restarts=1)
        scores = {kind: [attacked_scores(model, pictures, pairs, attack) for model in some]
                  for kind, some in models.items()}  # fmt: skip
        for kind, some in scores.items():
            gap = difference(some, scores["more epochs"], pairs)
            value = np.mean([roc_auc(one, pairs[:, 2]) for one in some])
            found.append(pd.DataFrame([{"metric": "roc_auc_under_pgd", "name": kind, **gap, "value": value}]))
        for kind in ("no hold term", "hold term alone"):
            gap = difference(scores["robust"], scores[kind], pairs)
            metric = f"roc_auc_under_pgd_over_{kind.replace(' ', '_')}"
            found.append(pd.DataFrame([{"metric": metric, "name": "robust", **gap}]))
        rows.append(pd.concat(found).assign(approach=approach, seeds=seeds, dataset=config.dataset_name))
        print(rows[-1].to_string(), flush=True)
    table = pd.concat(rows)[CONTROL].round(5)
    table.loc[table["name"] == "more epochs", ["low", "high"]] = np.nan
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attackers", action="store_true", help="write attackers.csv")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--price", action="store_true", help="write differences.csv")
    parser.add_argument("--control", action="store_true", help="write control.csv")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    levels = Path(__file__).with_name("control.csv")
    if arguments.control:
        replace_rows(levels, control(arguments.seeds), CONTROL[:3])
    elif arguments.price:
        keys = ["dataset", "approach", "against", "protocol"]
        found, gaps = prices()
        replace_rows(levels, found, CONTROL[:3])
        replace_rows(Path(__file__).with_name("differences.csv"), gaps, keys)
    elif arguments.attackers:
        attackers(arguments.pairs).to_csv(Path(__file__).with_name("attackers.csv"), index=False)
    else:
        torch.set_num_threads(1)
        print("one PGD step on 32 pairs, the first picture attacked, costs")
        for name, ratio in step_ratios().items():
            print(f"{ratio:5.2f} x {name}")
