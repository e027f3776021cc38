"""Does an attack measure robustness? Checks that a broken attack, or a model that hides its gradients, fails."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor

from common.attacks.ascent import input_gradients
from common.attacks.gradient import Attacked, fgsm, noise, pgd, square, transfer
from common.backbones import evaluation_mode
from common.evaluation.metrics import Threshold, accuracy


@dataclass
class _Trial:
    """One model and one set of pairs; remembers every picture an attack made, so that its bounds can be checked."""

    model: torch.nn.Module
    first: Tensor
    second: Tensor
    same: Tensor
    threshold: Threshold
    made: list[tuple[float, str, Attacked]] = field(default_factory=list)

    def run(self, attack: Callable, eps: float, which: str = "first", **options) -> Tensor:
        """Attack, and let the model score what came out: the attack's word is not taken for it."""
        options |= {"which": which} if which == "both" else {}
        found = attack(self.model, self.first, self.second, self.same, eps=eps, **options)
        self.made.append((eps, which, found))
        return self.scores(found.first, found.second)

    def scores(self, first: Tensor, second: Tensor) -> Tensor:
        with evaluation_mode(self.model):
            return self.model.score(first, second).float().cpu()

    def accuracy(self, scores: Tensor) -> float:
        return accuracy(scores.numpy(), self.same.cpu().numpy(), self.threshold)

    @property
    def slack(self) -> float:
        """One point of accuracy, or one pair where a pair weighs more."""
        return max(0.01, 1 / len(self.same)) + 1e-9


def sanity_suite(
    model,
    first: Tensor,
    second: Tensor,
    same: Tensor,
    threshold: Threshold,
    other=None,
    attack: Callable = pgd,
    eps: float = 4 / 255,
    steps: int = 20,
    queries: int = 100,
) -> pd.DataFrame:
    """Protocol rule 14: what must hold if an attack on a model is to be believed.

    Robust accuracy is the balanced accuracy at the model's own threshold. Two accuracies count as equal
    within one point or one pair. Costs about 16 times `steps` forward and backward passes of all pairs.

    Args:
        model, first, second, same: as in `pgd`; both kinds of pairs must occur.
        threshold: the model's, fitted on clean validation pairs.
        other: another model to borrow pictures from; None leaves that check out.
        attack: what is checked; takes the arguments of `pgd`.
        eps: the radius of most checks, in units of [0, 1].
        steps: of the attack, 2 or more; one check takes five times as many.
        queries: of the gradient-free attack.

    Returns:
        One row a check: check, value, bound, passed ("PASS" or "FAIL").
    """
    trial = _Trial(model, first, second, same, threshold)
    attack = partial(attack, restarts=1)
    base = trial.run(attack, eps, steps=steps)
    rivals = {"uniform noise": noise, "a gradient-free attack": partial(square, queries=queries)}
    if other is not None:
        rivals["transfer from another model"] = partial(transfer, other, steps=steps, restarts=1)
    lines = [
        _nothing_at_zero(trial, attack),
        *_falls(trial, attack, eps, steps, base),
        _large_eps(trial, attack, eps, steps),
        _beats_one_step(trial, eps, base),
        _has_converged(trial, attack, eps, steps, base),
        *(_never_beaten(trial, name, rival, eps, base) for name, rival in rivals.items()),
        _no_zero_gradients(trial),
        _both_sides(trial, attack, eps, steps, base),
        _exact_bounds(trial),  # last, because it looks at all pictures made above
    ]
    return pd.DataFrame(lines, columns=["check", "value", "bound", "passed"])


def _in_255(eps: float) -> str:
    return f"{255 * min(eps, 1.0):.3g}/255"


def _line(check: str, value: str, bound: str, passed) -> tuple[str, str, str, str]:
    return check, value, bound, "PASS" if passed else "FAIL"


def _nothing_at_zero(trial, attack):
    clean = trial.scores(trial.first, trial.second)
    change = float((trial.run(attack, 0.0, steps=2) - clean).abs().max())
    moved = float((trial.made[-1][-1].first - trial.first).abs().max())
    value = f"pixels {moved:.1e}, scores {change:.1e}"
    return _line("eps = 0 changes nothing", value, "0 and <= 1e-05", moved == 0 and change <= 1e-5)


def _falls(trial, attack, eps, steps, base):
    """In eps; and in steps at four times eps, since a robust model may withstand any number of them at eps itself."""
    clean, strong = trial.accuracy(trial.scores(trial.first, trial.second)), trial.accuracy(base)
    double, wide = (trial.accuracy(trial.run(attack, min(times * eps, 1.0), steps=steps)) for times in (2, 4))
    counts = 1, max(steps // 4, 2)
    budgets = [trial.accuracy(trial.run(attack, min(4 * eps, 1.0), steps=count)) for count in counts]
    radii = ", ".join(_in_255(times * eps) for times in (1, 2, 4))
    ladder = f"0, {counts[0]}, {counts[1]}, {steps}"
    for name, course in (
        (f"accuracy falls in eps (0, {radii})", [clean, strong, double, wide]),
        (f"accuracy falls in steps ({ladder}) at {_in_255(4 * eps)}", [clean, *budgets, wide]),
    ):
        falls = all(later <= earlier + trial.slack for earlier, later in pairwise(course))
        value = " > ".join(f"{value:.3f}" for value in course)
        yield _line(name, value, "never up, and lower at the end", falls and course[-1] < course[0] - trial.slack)


def _large_eps(trial, attack, eps, steps):
    value = trial.accuracy(trial.run(attack, min(16 * eps, 1.0), steps=2 * steps))
    return _line(f"{_in_255(16 * eps)} leaves nothing", f"accuracy {value:.3f}", "< 0.01", value < 0.01)


def _beats_one_step(trial, eps, base):
    one_step = trial.run(fgsm, eps)
    direction = 1 - 2 * trial.same.cpu().float()
    share = float((direction * base >= direction * one_step - 1e-5).float().mean())
    return _line("PGD is as strong as FGSM", f"on {share:.1%} of pairs", ">= 95 %", share >= 0.95)


def _has_converged(trial, attack, eps, steps, base):
    few, many = trial.accuracy(base), trial.accuracy(trial.run(attack, eps, steps=5 * steps))
    value = f"{few:.3f} and {many:.3f}"
    return _line(f"PGD-{steps} has converged (PGD-{5 * steps})", value, "equal", abs(few - many) <= trial.slack)


def _never_beaten(trial, name, rival, eps, base):
    ours, theirs = trial.accuracy(base), trial.accuracy(trial.run(rival, eps))
    return _line(
        f"{name} never beats PGD", f"{theirs:.3f} and {ours:.3f}", "first >= second", theirs >= ours - trial.slack
    )


def _no_zero_gradients(trial):
    with evaluation_mode(trial.model, gradients=True):
        pictures = trial.first.detach().clone().requires_grad_()
        (slopes,) = input_gradients(trial.model.score(pictures, trial.second).sum(), [pictures])
    lost = int((~(slopes.flatten(1).abs().amax(1) > 0) | ~torch.isfinite(slopes).flatten(1).all(1)).sum())
    return _line("no gradient is zero", f"{lost} of {len(slopes)} pairs", "0", lost == 0)


def _both_sides(trial, attack, eps, steps, base):
    one, both = trial.accuracy(base), trial.accuracy(trial.run(attack, eps, steps=steps, which="both"))
    value = f"{one:.3f} and {both:.3f}"
    return _line("changing both pictures is as strong as one", value, "first >= second", both <= one + trial.slack)


def _exact_bounds(trial):
    excess, lowest, highest = 0.0, 0.0, 1.0
    for eps, which, found in trial.made:
        for changed, clean, allowed in (
            (found.first, trial.first, eps),
            (found.second, trial.second, eps if which == "both" else 0.0),
        ):
            excess = max(excess, float((changed.double() - clean.double()).abs().max()) - allowed)
            lowest, highest = min(lowest, float(changed.min())), max(highest, float(changed.max()))
    value = f"eps + {excess:.1e}, [{lowest:.3g}, {highest:.3g}]"
    return _line("|change| <= eps and pixels in [0, 1]", value, "exact", excess <= 0 and lowest >= 0 and highest <= 1)
