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


class Constant(Judge):
    """Says the same of all pairs, through a graph that leads nowhere."""

    def score_embeddings(self, first, second):
        return super().score_embeddings(first, second) * 0 + 0.3


class Detached(Judge):
    """Its score has no gradient at all."""

    def score_embeddings(self, first, second):
        return super().score_embeddings(first, second).detach()


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


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        (Rounding, {"eps", "steps", "large", "search", "gradient"}),
        (Constant, {"eps", "steps", "large", "gradient"}),
        (Detached, {"eps", "steps", "large", "search", "gradient"}),
    ],
)
def test_models_that_only_seem_robust_fail(model, lines):
    assert failed(model=model()) >= lines


def no_attack(model, first, second, same, eps, **options):
    return noise(model, first, second, same, 0.0, 1)


def boastful(model, first, second, same, eps, **options):
    """Changes nothing and claims the best scores."""
    return no_attack(model, first, second, same, eps)._replace(scores=-100.0 * (2 * same - 1))


def mere_noise(model, first, second, same, eps, steps=8, restarts=1, which="first"):
    return noise(model, first, second, same, eps, 1)


def helpful(model, first, second, same, eps, **options):
    """Takes same for different: every step goes the wrong way."""
    return pgd(model, first, second, 1 - same, eps, **options)


def too_far(model, first, second, same, eps, **options):
    found = pgd(model, first, second, same, eps, **options)
    return found._replace(first=(first + 1.01 * (found.first - first)).clamp(0, 1))


def unclamped(model, first, second, same, eps, **options):
    found = pgd(model, first, second, same, eps, **options)
    return found._replace(first=first + eps * (found.first - first).sign())


def two_faced(model, first, second, same, eps, which="first", **options):
    """Changes the second pictures too, unasked."""
    return pgd(model, first, second, same, eps, which="both", **options)


def always_on(model, first, second, same, eps, **options):
    return pgd(model, first, second, same, max(eps, 1 / 255), **options)


def one_step(model, first, second, same, eps, steps=8, restarts=1, which="first"):
    """A single step of a twentieth, whatever was asked."""
    return fgsm(model, first, second, same, eps / 20)


def late(model, first, second, same, eps, steps=8, **options):
    """Needs more steps than it is usually given."""
    return pgd(model, first, second, same, eps if steps > 16 else 0.4 * eps, steps, **options)


def one_sided(model, first, second, same, eps, which="first", **options):
    """Lets off whoever asks for both sides."""
    return pgd(model, first, second, same, eps if which == "first" else 0.0, **options)


@pytest.mark.parametrize(
    ("attack", "lines"),
    [
        (no_attack, {"eps", "steps", "large", "fgsm", "search", "transfer"}),
        (boastful, {"eps", "steps", "large", "fgsm", "search", "transfer"}),
        (mere_noise, {"large", "fgsm", "search", "transfer"}),
        (helpful, {"eps", "steps", "large", "fgsm", "search", "transfer"}),
        (one_step, {"large", "fgsm", "search", "transfer"}),
        (too_far, {"bounds"}),
        (unclamped, {"bounds"}),
        (two_faced, {"bounds"}),
        (always_on, {"zero", "bounds"}),
        (late, {"converged", "transfer"}),
        (one_sided, {"both"}),
    ],
)
def test_broken_attacks_fail(attack, lines):
    assert failed(attack=attack) >= lines


def test_noise_that_beats_an_attack_is_seen():
    """Where some pairs are judged wrongly from the start, an attack that helps them is worse than none."""
    assert "noise" in failed(attack=helpful, threshold=Threshold(-0.15, "validation"))
