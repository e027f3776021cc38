"""The sanity suite: an honest attack on an honest model passes every line, and each planted fault fails some."""

import pytest
import torch
from toys import Network, awkward, pairs_of_pictures, same_state, state_of

from common.attacks.examination import sanity_suite
from common.attacks.gradient import fgsm, noise, pgd
from common.evaluation.metrics import Threshold

COLUMNS = ["check", "value", "bound", "passed"]
THRESHOLD = Threshold(-0.09, "validation")


class Judge(Network):
    """Compares the colors of two pictures, and a little of their texture, through a smooth network."""

    def forward(self, images):
        return torch.cat([4 * (images.mean((2, 3)) - 0.5), 0.1 * super().forward(images)], 1)

    def score_embeddings(self, first, second):
        return -(first - second).square().sum(-1)


class Rounding(Judge):
    """Hides its gradients by rounding pixels to 8 bits."""

    def forward(self, images):
        return super().forward((images * 255).round() / 255)


def judge(score):
    """A judge whose score is further changed: made constant through a graph that leads nowhere, or detached."""
    model = Judge()
    model.score_embeddings = lambda first, second: score(Judge.score_embeddings(model, first, second))
    return model


def case(count=20):
    """Grainy pairs of nearly one color, and of two colors that are not far apart."""
    first, grain, same = pairs_of_pictures(count, size=8)
    draw = torch.rand(2, count, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    colors, shift = draw[0] * 0.3 + 0.35, torch.linspace(0, 0.02, count) + torch.where(same == 1, 0.01, 0.05)
    second = colors + (draw[1] - 0.5).sign() * shift[:, None, None, None] + 0.1 * (grain - 0.5)
    return colors + 0.1 * (first - 0.5), second, same


def suite(model=None, **options):
    """The suite's table by check."""
    options = dict(threshold=THRESHOLD, eps=8 / 255, steps=8, queries=60, other=Judge(1)) | options
    return sanity_suite((model or Judge()).eval(), *case(), **options).set_index("check")


def failed(**options):
    """Words of the lines that failed, shortened to tell them apart."""
    short = dict(zero="eps = 0 ", eps="falls in eps", steps="falls in steps", large="leaves nothing", fgsm="FGSM",
                 converged="converged", noise="noise", search="gradient-free", transfer="transfer",
                 gradient="no gradient", both="both pictures", bounds="|change|")  # fmt: skip
    table = suite(**options)
    return {word for word, text in short.items() for check, line in table.iterrows()
            if text in check and line.passed == "FAIL"}  # fmt: skip


def test_an_honest_attack_on_an_honest_model_passes():
    table = suite()
    assert [table.index.name, *table] == COLUMNS and len(table) == 12
    assert (table.passed == "PASS").all(), table.to_string()
    assert len(suite(other=None)) == 11 and not suite(other=None).index.str.contains("transfer").any()
    course = [float(value) for value in table.value.iloc[1].split(" > ")]
    assert len(course) == 4 and course[0] > 0.9 and course == sorted(course, reverse=True) and course[-1] < 0.2
    assert table.value["no gradient is zero"] == "0 of 20 pairs"


def test_the_suite_disturbs_nothing():
    model = awkward(Judge())
    before = state_of(model)
    sanity_suite(model, *case(), THRESHOLD, eps=8 / 255, steps=2, queries=2)
    assert same_state(before, state_of(model))


@pytest.mark.parametrize(("model", "lines"), [
    (Rounding(), {"eps", "steps", "large", "search", "gradient"}),
    (judge(lambda score: score * 0 + 0.3), {"eps", "steps", "large", "gradient"}),
    (judge(torch.Tensor.detach), {"eps", "steps", "large", "search", "gradient"}),
], ids=["rounding", "constant", "detached"])  # fmt: skip
def test_models_that_only_seem_robust_fail(model, lines):
    assert failed(model=model) >= lines


def helpful(model, first, second, same, eps, **options):
    """Takes same for different: every step goes the wrong way."""
    return pgd(model, first, second, 1 - same, eps, **options)


def boastful(model, first, second, same, eps, **options):
    """Changes nothing and claims the best scores."""
    return noise(model, first, second, same, 0.0, 1)._replace(scores=-100.0 * (2 * same - 1))


def moved_on(further):
    """What PGD finds, its first pictures replaced by further(clean, found, eps)."""

    def faulty(model, first, second, same, eps, **options):
        found = pgd(model, first, second, same, eps, **options)
        return found._replace(first=further(first, found.first, eps))

    return faulty


WEAK = {"large", "fgsm", "search", "transfer"}
FAULTS = {  # what an attack does wrong: (the attack, the lines that must fail)
    "changes nothing": (lambda *pairs, **_: noise(*pairs, 0.0, 1), WEAK | {"eps", "steps"}),
    "boasts": (boastful, WEAK | {"eps", "steps"}),
    "helps": (helpful, WEAK | {"eps", "steps"}),
    "adds mere noise": (lambda *pairs, eps, **_: noise(*pairs, eps, 1), WEAK),
    "takes a single short step": (lambda *pairs, eps, **_: fgsm(*pairs, eps / 20), WEAK),
    "goes too far": (moved_on(lambda old, new, _: (old + 1.01 * (new - old)).clamp(0, 1)), {"bounds"}),
    "leaves [0, 1]": (moved_on(lambda old, new, eps: old + eps * (new - old).sign()), {"bounds"}),
    "changes the second pictures too, unasked": (lambda *pairs, **options: pgd(*pairs, **options | {"which": "both"}),
                                                 {"bounds"}),
    "is on at eps 0": (lambda *pairs, eps, **options: pgd(*pairs, max(eps, 1 / 255), **options), {"zero", "bounds"}),
    "needs more steps than usual": (lambda *pairs, eps, steps, **options:
                                    pgd(*pairs, eps if steps > 16 else 0.4 * eps, steps, **options),
                                    {"converged", "transfer"}),
    "lets off whoever asks for both sides": (lambda *pairs, eps, which="first", **options:
                                             pgd(*pairs, eps if which == "first" else 0.0, **options), {"both"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_attacks_fail(fault):
    attack, lines = FAULTS[fault]
    assert failed(attack=attack) >= lines


def test_noise_that_beats_an_attack_is_seen():
    """Where some pairs are judged wrongly from the start, an attack that helps them is worse than none."""
    assert "noise" in failed(attack=helpful, threshold=Threshold(-0.15, "validation"))
