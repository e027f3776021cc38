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

    Returns one row a check: check, value, bound, passed ("PASS" or "FAIL").
    """
    model, others = folded(model), [folded(other) for other in others]
    sides = []  # (changed, clean, how far it may have moved), of both sides of all that was ever made
    side, radii = 2 * same.cpu().numpy() - 1.0, [min(times * eps, 1.0) for times in (1, 2, 4)]

    def scores(*pictures):
        with evaluation_mode(model):
            return model.score(*pictures).float().cpu().numpy()

    def run(attack, radius, **options):
        """Attack, and let the model score what came out: nobody's word is taken for it."""
        found = attack(model, first, second, same, eps=radius, **options)
        sides.extend([(found.first, first, radius), (found.second, second, radius if "which" in options else 0.0)])
        return scores(found.first, found.second)

    def share(part, whole):
        """Of the mean harm of the whole; infinite where that does none, so that no line passes for want of harm."""
        return float(part.mean() / whole.mean()) if whole.mean() > 0 else np.inf

    attack, clean = partial(attack, restarts=1), scores(first, second)
    change = float(np.abs(run(attack, 0.0, steps=2) - clean).max())
    moved = float((sides[0][0] - first).abs().max())
    harms = lambda attack, **options: [side * (clean - run(attack, radius, **options)) for radius in radii]  # noqa: E731
    shares = lambda parts, wholes: [*map(share, parts, wholes)]  # noqa: E731
    percents = lambda values: ", ".join(f"{100 * value:.3g} %" for value in values)  # noqa: E731

    ours, few, far = harms(attack, steps=steps), max(steps // 4, 2), min(16 * eps, 1.0)
    margins = [float((side * (clean - threshold.value) - taken).mean()) for taken in (0.0, *ours)]
    courses = [*zip(*(shares(harms(attack, steps=count), ours) for count in (1, few)), shares(ours, ours))]
    wide = accuracy(run(attack, far, steps=2 * steps), same.cpu().numpy(), threshold)
    strong = [float(((taken > 0) & (taken >= once - 1e-5)).mean()) for taken, once in zip(ours, harms(fgsm))]
    longer = shares(ours, harms(attack, steps=5 * steps))
    both = shares(harms(attack, steps=steps, which="both"), ours)
    rivals = {"uniform noise does no more": shares(harms(noise), ours)}
    if others:
        lent = [shares(harms(partial(transfer, other, steps=steps, restarts=1)), ours) for other in others]
        rivals[f"transfer from {len(others)} other models does no more"] = [*map(max, *lent, lent[0])]
    some = [values[::every] for values in (first, second, same)]
    left = scores(*square(model, *some, eps, queries)[:2])
    searched = [share(side[::every] * (clean[::every] - left), ours[0][::every])]
    rivals[f"Square, {queries:,} queries on {len(left)} pairs, does no more"] = searched

    with evaluation_mode(model, gradients=True):
        leaf = first.detach().clone().requires_grad_()
        slopes = input_gradient(model.score(leaf, second).sum(), leaf).flatten(1).abs().sum(1)
    blind = int((~(slopes > 0) | ~slopes.isfinite()).sum())  # pairs without a gradient
    excess = max(0.0, *(float((exact(new) - exact(old)).abs().max()) - radius for new, old, radius in sides))
    lowest, highest = min(float(new.min()) for new, *_ in sides), max(float(new.max()) for new, *_ in sides)
    growth = ", ".join("/".join(f"{100 * part:.0f}" for part in course) for course in courses)
    grow = all(earlier * 0.98 <= later < np.inf for course in courses for earlier, later in pairwise(course))
    table = [
        ("eps = 0 changes nothing", f"pixels {moved:.1e}, scores {change:.1e}", "0 and <= 1e-05",
         moved == 0 and change <= 1e-5),
        ("mean margin falls in eps (0, {:.3g}, {:.3g}, {:.3g} of 255)".format(*(255 * radius for radius in radii)),
         " > ".join(f"{margin:.3f}" for margin in margins), "always", all(np.diff(margins) < 0)),
        (f"more steps do no less (1, {few}, {steps})", f"{growth} %", "never down by 2 %", grow),
        (f"at {255 * far:.3g} of 255 no pair is judged rightly", f"accuracy {wide:.3f}", "< 0.01", wide < 0.01),
        ("PGD harms, and no less than FGSM", f"{percents(strong)} of pairs", ">= 95 %", min(strong) >= 0.95),
        (f"PGD-{steps} does what PGD-{5 * steps} does", f"{percents(longer)} of its harm", ">= 90 %",
         min(longer) >= 0.9 and np.isfinite(longer).all()),
        *((name, f"{percents(parts)} of PGD's harm", "<= 100 %", max(parts) <= 1) for name, parts in rivals.items()),
        ("no gradient is zero", f"{blind} of {len(same)} pairs", "0", blind == 0),
        ("changing both pictures does more", f"{percents(both)} of PGD's harm", "> 100 %",
         min(both) > 1 and np.isfinite(both).all()),
        ("|change| <= eps and pixels in [0, 1]", f"eps + {excess:.1e}, [{lowest:.3g}, {highest:.3g}]", "exact",
         excess == 0 and lowest >= 0 and highest <= 1),
    ]  # fmt: skip
    found = pd.DataFrame(table, columns=["check", "value", "bound", "passed"])
    return found.assign(passed=np.where(found["passed"], "PASS", "FAIL"))
