"""Does an attack measure robustness? Checks that a broken attack, or a model that hides its gradients, fails."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
from torch import Tensor

from common.attacks.gradient import fgsm, input_gradient, noise, pgd, transfer
from common.attacks.square import square
from common.backbones import evaluation_mode
from common.evaluation.metrics import Threshold, accuracy


def sanity_suite(
    model, first: Tensor, second: Tensor, same: Tensor, threshold: Threshold, other=None, attack: Callable = pgd,
    eps: float = 4 / 255, steps: int = 20, queries: int = 100,
) -> pd.DataFrame:  # fmt: skip
    """Protocol rule 14: what must hold if an attack, called as `pgd` is, is to be believed.

    Robust accuracy is the balanced accuracy at the model's own threshold. Two accuracies count as equal within one
    point or one pair. Costs about 16 times `steps` forward and backward passes of all pairs.

    Args:
        other: another model to borrow pictures from; None leaves that check out.
        eps: the radius of most checks; others use its multiples.
        steps: of the attack, 2 or more; one check takes five times as many.
        queries: of the gradient-free attack.

    Returns one row a check: check, value, bound, passed ("PASS" or "FAIL").
    """
    sides = []  # (changed, clean, how far it may have moved), of both sides of all that was ever made
    slack = max(0.01, 1 / len(same)) + 1e-9

    def scores(*pictures):
        with evaluation_mode(model):
            return model.score(*pictures).float().cpu()

    def run(attack, times, **options):
        """Attack within so many times eps, and let the model score what came out: nobody's word is taken for it."""
        radius = min(times * eps, 1.0)
        found = attack(model, first, second, same, eps=radius, **options)
        sides.extend([(found.first, first, radius), (found.second, second, radius if "which" in options else 0.0)])
        return scores(found.first, found.second)

    def right(scores):
        return accuracy(scores.numpy(), same.cpu().numpy(), threshold)

    def falls(name, course):
        passed = all(later <= earlier + slack for earlier, later in pairwise(course)) and course[-1] < course[0] - slack
        return name, " > ".join(f"{value:.3f}" for value in course), "never up, and lower at the end", passed

    def least(name, first, second):
        return name, f"{first:.3f} and {second:.3f}", "first >= second", first >= second - slack

    attack, clean = partial(attack, restarts=1), scores(first, second)
    change = float((run(attack, 0, steps=2) - clean).abs().max())
    moved = float((sides[0][0] - first).abs().max())

    base, fourfold = run(attack, 1, steps=steps), run(attack, 4, steps=steps)
    ours, few = right(base), max(steps // 4, 2)
    in_eps = [right(clean), ours, right(run(attack, 2, steps=steps)), right(fourfold)]
    in_steps = [right(clean), *(right(run(attack, 4, steps=count)) for count in (1, few)), right(fourfold)]
    wide = right(run(attack, 16, steps=2 * steps))
    longer = right(run(attack, 1, steps=5 * steps))
    both = right(run(attack, 1, steps=steps, which="both"))

    direction = 1 - 2 * same.cpu().float()
    strong = float((direction * (base - run(fgsm, 1)) >= -1e-5).float().mean())
    rivals = {"uniform noise": noise, "a gradient-free attack": partial(square, queries=queries)}
    if other is not None:
        rivals["transfer from another model"] = partial(transfer, other, steps=steps, restarts=1)
    rivals = {name: right(run(rival, 1)) for name, rival in rivals.items()}

    with evaluation_mode(model, gradients=True):
        leaf = first.detach().clone().requires_grad_()
        slopes = input_gradient(model.score(leaf, second).sum(), leaf).flatten(1).abs().sum(1)
    blind = int((~(slopes > 0) | ~slopes.isfinite()).sum())  # pairs without a gradient
    excess = max(0.0, *(float((new.double() - old.double()).abs().max()) - radius for new, old, radius in sides))
    lowest, highest = min(float(new.min()) for new, *_ in sides), max(float(new.max()) for new, *_ in sides)
    at_1, at_2, at_4, at_16 = (f"{255 * min(times * eps, 1.0):.3g}/255" for times in (1, 2, 4, 16))
    table = [
        ("eps = 0 changes nothing", f"pixels {moved:.1e}, scores {change:.1e}", "0 and <= 1e-05",
         moved == 0 and change <= 1e-5),
        falls(f"accuracy falls in eps (0, {at_1}, {at_2}, {at_4})", in_eps),
        # At four times eps, since a robust model may withstand any number of steps at eps itself.
        falls(f"accuracy falls in steps (0, 1, {few}, {steps}) at {at_4}", in_steps),
        (f"{at_16} leaves nothing", f"accuracy {wide:.3f}", "< 0.01", wide < 0.01),
        ("PGD is as strong as FGSM", f"on {strong:.1%} of pairs", ">= 95 %", strong >= 0.95),
        (f"PGD-{steps} has converged (PGD-{5 * steps})", f"{ours:.3f} and {longer:.3f}", "equal",
         abs(ours - longer) <= slack),
        *(least(f"{name} never beats PGD", theirs, ours) for name, theirs in rivals.items()),
        ("no gradient is zero", f"{blind} of {len(same)} pairs", "0", blind == 0),
        least("changing both pictures is as strong as one", ours, both),
        ("|change| <= eps and pixels in [0, 1]", f"eps + {excess:.1e}, [{lowest:.3g}, {highest:.3g}]", "exact",
         excess == 0 and lowest >= 0 and highest <= 1),
    ]  # fmt: skip
    found = pd.DataFrame(table, columns=["check", "value", "bound", "passed"])
    return found.assign(passed=np.where(found["passed"], "PASS", "FAIL"))
