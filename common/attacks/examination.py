"""Does an attack measure robustness? Checks that a broken attack, or a model that masks its gradients, fails."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
from torch import Tensor

from common.attacks.gradient import fgsm, input_gradient, noise, pgd, transfer
from common.attacks.square import square
from common.backbones import evaluation_mode, folded
from common.datasets.batches import exact
from common.evaluation.metrics import Threshold, accuracy


def sanity_suite(
    model, first: Tensor, second: Tensor, same: Tensor, threshold: Threshold, others=(), attack: Callable = pgd,
    eps: float = 4 / 255, steps: int = 20, queries: int = 1000, every: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Protocol rule 14: what must hold if an attack, called as `pgd` is, is to be believed.

    A pair's margin is how far its score lies on the right side of the threshold; harm is what an attack takes of it.
    Most lines compare mean harm, at eps, twice and four times eps, so that they say something where no pair changes
    sides. Costs about 30 + 3 for each of `others` times `steps` passes of all pairs, and the queries.

    Args:
        others: models to borrow pictures from; without any that check is left out.
        steps: of the attack, 2 or more; one check takes five times as many.
        queries: of the gradient-free attack, at eps, on the pairs whose number `every` divides.

    Returns one row a check: about, check, value, bound, passed ("PASS" or "FAIL", or "NO HARM" where it compares two
    attacks that did none); and in those of PGD and its rivals harm, the mean of what the attack took of the margins at
    eps. Rows that are about the same stand together: the rules, the gradient, what PGD makes of it (none of which
    passes where it is zero), and rivals that do not need it.
    """
    trial, attack = _Trial(folded(model), first, second, same, threshold, eps), partial(attack, restarts=1)
    ours = trial.harms(attack, steps=steps)
    noisy = trial.harms(noise)
    rivals = {"noise": (shares(noisy, ours), noisy[0].mean())}
    if others:
        lent = [trial.harms(partial(transfer, folded(other), steps=steps, restarts=1)) for other in others]
        worst = [max(shares([one[place] for one in lent], [whole] * len(lent))) for place, whole in enumerate(ours)]
        rivals["transfer"] = worst, max(one[0].mean() for one in lent)
    searched = trial.searched(queries, every)
    part = shares([searched], [ours[0][::every]])
    rivals["Square"] = part, searched.mean()
    lines = {
        "its rules": [_nothing_at_zero(trial, attack)],
        "the gradient": [_gradients_everywhere(trial)],
        "what PGD makes of the gradient": [
            _margin_falls(trial, ours),
            _more_steps_do_no_less(trial, attack, ours, steps),
            _converged(trial, attack, ours, steps),
            _no_less_than_fgsm(trial, ours),
            _both_do_more(trial, attack, ours, steps),
            _nobody_withstands_much(trial, attack, steps),
        ],
        "rivals without this gradient": [
            (f"{name} does no more", f"{percents(parts)} of PGD's harm", "<= 100 %", max(parts) <= 1, harm)
            for name, (parts, harm) in rivals.items()
        ],
    }
    lines["its rules"].append(_within_bounds(trial))  # of all pictures that were made until now
    columns = "check", "value", "bound", "passed", "harm"
    table = [{"about": about, **dict(zip(columns, line))} for about, some in lines.items() for line in some]
    verdicts = ["NO HARM" if line["passed"] is None else "PASS" if line["passed"] else "FAIL" for line in table]
    return pd.DataFrame(table).assign(passed=verdicts)


class _Trial:
    """A model's pairs, what attacks do to them, and a record of every picture that was ever made."""

    def __init__(self, model, first, second, same, threshold, eps):
        self.model, self.first, self.second, self.same, self.threshold = model, first, second, same, threshold
        self.eps, self.radii = eps, [min(times * eps, 1.0) for times in (1, 2, 4)]
        self.side = 2 * same.cpu().numpy() - 1.0  # 1 for same pairs, whose score should be high
        self.made = []  # (changed, clean, how far it may have moved), of both sides
        self.clean = self.scores(first, second)

    def scores(self, *pictures) -> np.ndarray:
        with evaluation_mode(self.model):
            return self.model.score(*pictures).float().cpu().numpy()

    def run(self, attack, radius, **options) -> np.ndarray:
        """Attack, and let the model score what came out: nobody's word is taken for it."""
        found = attack(self.model, self.first, self.second, self.same, eps=radius, **options)
        moves_second = radius if "which" in options else 0.0
        self.made += [(found.first, self.first, radius), (found.second, self.second, moves_second)]
        return self.scores(found.first, found.second)

    def harms(self, attack, **options) -> list[np.ndarray]:
        """What an attack takes of each margin, at each of the radii."""
        return [self.side * (self.clean - self.run(attack, radius, **options)) for radius in self.radii]

    def searched(self, queries: int, every: int) -> np.ndarray:
        """What a search without gradients takes of the margins of some pairs, at eps."""
        some = [values[::every] for values in (self.first, self.second, self.same)]
        left = self.scores(*square(self.model, *some, self.eps, queries)[:2])
        return self.side[::every] * (self.clean[::every] - left)


def shares(parts, wholes) -> list[float]:
    """Each mean harm as a share of another; infinite where that does none, so that nothing passes for want of harm."""
    pairs = ((float(part.mean()), float(whole.mean())) for part, whole in zip(parts, wholes, strict=True))
    return [part / whole if whole > 0 else np.inf for part, whole in pairs]


def percents(values) -> str:
    """Shares as they stand in the table."""
    return ", ".join(f"{100 * value:.3g} %" if np.isfinite(value) else "undefined" for value in values)


def _nothing_at_zero(trial, attack):
    change = float(np.abs(trial.run(attack, 0.0, steps=2) - trial.clean).max())
    moved = float((trial.made[-2][0] - trial.first).abs().max())
    value = f"pixels {moved:.1e}, scores {change:.1e}"
    return "eps = 0 changes nothing", value, "0 and <= 1e-05", moved == 0 and change <= 1e-5


def _margin_falls(trial, ours):
    kept = trial.side * (trial.clean - trial.threshold.value)
    margins = [float((kept - taken).mean()) for taken in (0.0, *ours)]
    value = " > ".join(f"{margin:.3f}" for margin in margins)
    return "margin falls as eps grows", value, "always", bool(all(np.diff(margins) < 0))


def _more_steps_do_no_less(trial, attack, ours, steps):
    few = max(steps // 4, 2)
    fewer = [trial.harms(attack, steps=count) for count in (1, few)]
    courses = [*zip(*(shares(harms, ours) for harms in (*fewer, ours)), strict=True)]  # of each radius
    value = ", ".join("/".join(f"{100 * part:.0f}" for part in course) for course in courses)
    grow = all(earlier * 0.98 <= later < np.inf for course in courses for earlier, later in pairwise(course))
    return "more steps do no less", f"{value} %", "never down by 2 %", grow if np.any([ours, *fewer]) else None


def _nobody_withstands_much(trial, attack, steps):
    far = min(16 * trial.eps, 1.0)
    left = accuracy(trial.run(attack, far, steps=2 * steps), trial.same.cpu().numpy(), trial.threshold)
    return f"at {255 * far:.3g}/255 nothing is right", f"accuracy {left:.3f}", "< 0.01", left < 0.01


def _no_less_than_fgsm(trial, ours):
    theirs, harm = trial.harms(fgsm), float(ours[0].mean())
    strong = [float(((one > 0) & (one >= once - 1e-5)).mean()) for one, once in zip(ours, theirs, strict=True)]
    passed = min(strong) >= 0.95 if np.any([ours, theirs]) else None
    return "PGD does no less than FGSM", f"{percents(strong)} of pairs", ">= 95 %", passed, harm


def _converged(trial, attack, ours, steps):
    most = trial.harms(attack, steps=5 * steps)
    longer = shares(ours, most)
    passed = min(longer) >= 0.9 and bool(np.isfinite(longer).all()) if np.any([ours, most]) else None
    return f"PGD-{steps} does what PGD-{5 * steps} does", f"{percents(longer)} of its harm", ">= 90 %", passed


def _gradients_everywhere(trial):
    with evaluation_mode(trial.model, gradients=True):
        leaf = trial.first.detach().clone().requires_grad_()
        slopes = input_gradient(trial.model.score(leaf, trial.second).sum(), leaf).flatten(1).abs().sum(1)
    blind = int((~(slopes > 0) | ~slopes.isfinite()).sum())
    return "no gradient is zero", f"{blind} of {len(slopes)} pairs", "0", blind == 0


def _both_do_more(trial, attack, ours, steps):
    theirs = trial.harms(attack, steps=steps, which="both")
    both = shares(theirs, ours)
    passed = min(both) > 1 and bool(np.isfinite(both).all()) if np.any([ours, theirs]) else None
    return "both pictures do more", f"{percents(both)} of PGD's harm", "> 100 %", passed


def _within_bounds(trial):
    """Of every picture that any other line has made; hence the last."""
    moves = (float((exact(new) - exact(old)).abs().max()) - radius for new, old, radius in trial.made)
    excess = max(0.0, *moves)
    lowest, highest = min(float(new.min()) for new, *_ in trial.made), max(float(new.max()) for new, *_ in trial.made)
    value = f"eps + {excess:.1e}, [{lowest:.3g}, {highest:.3g}]"
    passed = excess == 0 and lowest >= 0 and highest <= 1
    return "stays within eps and [0, 1]", value, "exact", passed
