"""Does an attack measure robustness? Checks that a broken attack, or a model that masks its gradients, fails."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from common.attacks.gradient import fgsm, input_gradient, noise, pgd, transfer
from common.attacks.reports import idle_cores
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
    sides. Costs about 30 + 3 for each of `others` times `steps` passes of all pairs, and the queries, on idle cores.

    Args:
        others: models to borrow pictures from; without any that check is left out.
        steps: of the attack, 2 or more; one check takes five times as many.
        queries: of the gradient-free attack, at eps, on the pairs whose number `every` divides.

    Returns one row a check: about, check, value, bound, passed ("PASS" or "FAIL", or "NO HARM" where none of the
    attacks that it compares does any), and worst, what decided it, in short. Rows about the same stand together: the
    rules, the gradient, what PGD makes of it (none of which passes where it is zero), and rivals that do not need it.
    """
    trial, attack = _Trial(folded(model), first, second, same, threshold, eps), partial(attack, restarts=1)
    lines = {"its rules": [_nothing_at_zero(trial, attack)], "the gradient": [_gradients_everywhere(trial)]}
    with idle_cores(first.device) as pool:
        ours = [*pool.map(partial(trial.harm, attack, steps=steps), trial.radii)]
        rivals = {"Square": (partial(trial.searched, queries, every), [ours[0][::every]])}  # the longest begins
        if others:
            rivals["transfer"] = partial(trial.borrowed, others, steps), ours
        rivals["noise"] = partial(trial.harms, noise), ours
        beaten = [pool.submit(_does_no_more, trial, name, *rival) for name, rival in rivals.items()]
        tries = _margin_falls, _more_steps_do_no_less, _converged, _no_less_than_fgsm, _both_do_more, _nobody_withstands
        made = [pool.submit(line, trial, attack, ours, steps) for line in tries]
    lines["what PGD makes of the gradient"] = [line.result() for line in made]
    lines["rivals without this gradient"] = [line.result() for line in reversed(beaten)]
    lines["its rules"].append(_within_bounds(trial))  # of all pictures that were made until now
    told = [(*line, about) for about, some in lines.items() for line in some]
    table = pd.DataFrame(told, columns=["check", "value", "bound", "passed", "worst", "about"])
    return table.assign(passed=["NO HARM" if one is None else "PASS" if one else "FAIL" for one in table["passed"]])


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

    def harm(self, attack, radius, **options) -> np.ndarray:
        """What an attack takes of each margin."""
        return self.side * (self.clean - self.run(attack, radius, **options))

    def harms(self, attack, **options) -> list[np.ndarray]:
        return [self.harm(attack, radius, **options) for radius in self.radii]

    def borrowed(self, others, steps: int) -> list[np.ndarray]:
        """What pictures made for other models take, at each of the radii those that take most."""
        lent = [self.harms(partial(transfer, folded(other), steps=steps, restarts=1)) for other in others]
        return [max(harms, key=np.mean) for harms in zip(*lent, strict=True)]

    def searched(self, queries: int, every: int) -> list[np.ndarray]:
        """What a search without gradients takes of the margins of some pairs, at eps."""
        some = [values[::every] for values in (self.first, self.second, self.same)]
        left = self.scores(*square(self.model, *some, self.eps, queries)[:2])
        return [self.side[::every] * (self.clean[::every] - left)]


def _share(trial, check, parts, wholes, whose, bound, at_most=False):
    """A line about mean harms as shares of others, which are infinite where those are none; undecided if all are."""
    harms = [(float(part.mean()), float(whole.mean())) for part, whole in zip(parts, wholes, strict=True)]
    shares = [part / whole if whole > 0 else np.inf for part, whole in harms]
    passed = max(shares) <= bound if at_most else min(shares) > bound and max(shares) < np.inf
    told = [f"{100 * share:.3g} %" if share < np.inf else "undefined" for share in shares]
    sign = 1 if at_most or np.inf in shares else -1  # a share of no harm fails: nothing passes for want of harm
    place = max(range(len(harms)), key=lambda at: (sign * shares[at], harms[at]))
    what = f"harm {harms[place][0]:.2g}" if shares[place] == np.inf else told[place]  # the others' is 0
    worst = f"{what} at {255 * trial.radii[place % len(trial.radii)]:.3g}/255"
    value, bound = f"{', '.join(told)} of {whose} harm", f"{'≤' if at_most else '>'} {100 * bound:g} %"
    return check.format(bound), value, bound, passed if np.max(harms) > 0 else None, worst


def _nothing_at_zero(trial, attack):
    change = float(np.abs(trial.run(attack, 0.0, steps=2) - trial.clean).max())
    moved = float((trial.made[-2][0] - trial.first).abs().max())
    value = f"pixels {moved:.1e}, scores {change:.1e}"
    passed = moved == 0 and change <= 1e-5
    return "ε = 0 changes nothing", value, "0 and <= 1e-05", passed, "no pixel moved" if passed else value


def _margin_falls(trial, attack, ours, steps):
    kept = trial.side * (trial.clean - trial.threshold.value)
    margins = [float((kept - taken).mean()) for taken in (0.0, *ours)]
    value = " > ".join(f"{margin:.3f}" for margin in margins)
    least = -np.diff(margins).max()
    worst = f"by at least {least:.3f}" if least > 0 else "it does not fall"
    return "margin falls as ε grows", value, "always", bool(least > 0), worst


def _more_steps_do_no_less(trial, attack, ours, steps):
    once, some = (trial.harms(attack, steps=count) for count in (1, max(steps // 4, 2)))
    return _share(trial, "more steps harm no less ({})", [*some, *ours], [*once, *some], "fewer steps'", 0.98)


def _nobody_withstands(trial, attack, ours, steps):
    far = min(16 * trial.eps, 1.0)
    left = accuracy(trial.run(attack, far, steps=2 * steps), trial.same.cpu().numpy(), trial.threshold)
    check, worst = f"at {255 * far:.3g}/255 < 1 % are right", f"{100 * left:.3g} % of pairs"
    return check, f"accuracy {left:.3f}", "< 0.01", left < 0.01, worst


def _no_less_than_fgsm(trial, attack, ours, steps):
    theirs = trial.harms(fgsm)
    strong = [100 * ((one > 0) & (one >= once - 1e-5)).mean() for one, once in zip(ours, theirs, strict=True)]
    told, passed = [f"{part:.3g} % of pairs" for part in strong], min(strong) >= 95 if np.any([ours, theirs]) else None
    return "PGD ≥ FGSM on 95 % of pairs", ", ".join(told), ">= 95 %", passed, told[np.argmin(strong)]


def _converged(trial, attack, ours, steps):
    most = trial.harms(attack, steps=5 * steps)
    return _share(trial, f"PGD-{steps} does {{}} of PGD-{5 * steps}'s harm", ours, most, "its", 0.9)


def _gradients_everywhere(trial):
    with evaluation_mode(trial.model, gradients=True):
        leaf = trial.first.detach().clone().requires_grad_()
        slopes = input_gradient(trial.model.score(leaf, trial.second).sum(), leaf).flatten(1).abs().sum(1)
    blind = int((~(slopes > 0) | ~slopes.isfinite()).sum())
    value = f"{blind} of {len(slopes)} pairs"
    return "no gradient is zero", value, "0", blind == 0, value


def _both_do_more(trial, attack, ours, steps):
    theirs = trial.harms(attack, steps=steps, which="both")
    return _share(trial, "both changed do {} of one's harm", theirs, ours, "PGD's", 1)


def _does_no_more(trial, name, rival, ours):
    return _share(trial, f"{name} does {{}} of PGD's harm", rival(), ours, "PGD's", 1, at_most=True)


def _within_bounds(trial):
    """Of every picture that any other line has made; hence the last."""
    moves = (float((exact(new) - exact(old)).abs().max()) - radius for new, old, radius in trial.made)
    excess = max(0.0, *moves)
    lowest, highest = min(float(new.min()) for new, *_ in trial.made), max(float(new.max()) for new, *_ in trial.made)
    value = f"eps + {excess:.1e}, [{lowest:.3g}, {highest:.3g}]"
    passed = excess == 0 and lowest >= 0 and highest <= 1
    return "stays within ε and [0, 1]", value, "exact", passed, "never beyond" if passed else value
