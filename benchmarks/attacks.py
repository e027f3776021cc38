"""What does an attack cost, do independent attackers agree with it, and what does robustness cost?

    python -m benchmarks.attacks               prints the cost of a step, as ratios
    python -m benchmarks.attacks --attackers   writes attackers.csv: each robust model's accuracy under every attacker
    python -m benchmarks.attacks --price       writes into differences.csv: each robust model minus its standard one

The last two take the run that SIMILARITY_* names. The attackers need about two minutes a model on one core, foolbox and
torchattacks (its pin of requests is out of date: `pip install --no-deps torchattacks`).
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.results import replace_rows
from common.attacks.gradient import Attacked, noise, pgd
from common.attacks.reports import attacked_scores, price
from common.attacks.square import square
from common.backbones import EmbeddingNet, evaluation_mode
from common.checkpoints import STEMS, ensure, load
from common.config import setup
from common.datasets import load_images
from common.datasets.splits import read_splits, some_pairs
from common.evaluation.metrics import accuracy

EPS = 4 / 255


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


def prices() -> pd.DataFrame:
    """Rows of differences.csv: what each robust model of the run costs on clean test pictures of the closed set."""
    config, rows = setup(), []
    pictures = load_images(config)
    splits = read_splits(ensure(config, "splits.json"), pictures)
    for approach, name in STEMS.items():
        paths = [ensure(config, f"{kind}_model_{name}.pth") for kind in ("robust", "best")]
        found = price(*(load(path, pictures, config.device)[0] for path in paths), pictures, splits, "closed_set")
        rows.append(found.assign(approach=f"robust_{approach}", against=approach, seeds=1))
    return pd.concat(rows).assign(dataset=config.dataset_name, protocol="closed_set")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attackers", action="store_true", help="write attackers.csv")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--price", action="store_true", help="write differences.csv")
    arguments = parser.parse_args()
    if arguments.price:
        keys = ["dataset", "approach", "against", "protocol"]
        replace_rows(Path(__file__).with_name("differences.csv"), prices(), keys)
    elif arguments.attackers:
        attackers(arguments.pairs).to_csv(Path(__file__).with_name("attackers.csv"), index=False)
    else:
        torch.set_num_threads(1)
        print("one PGD step on 32 pairs, the first picture attacked, costs")
        for name, ratio in step_ratios().items():
            print(f"{ratio:5.2f} x {name}")
