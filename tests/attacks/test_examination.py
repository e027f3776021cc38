"""The sanity suite: an honest attack on an honest model passes every line, and each planted fault fails some."""

import numpy as np
import pytest
import torch
from toys import Network, awkward, pairs_of_pictures, same_state, state_of

from common.attacks.examination import sanity_suite
from common.attacks.gradient import fgsm, noise, pgd
from common.attacks.square import square
from common.evaluation.metrics import Threshold, accuracy

COLUMNS = ["check", "value", "bound", "passed", "worst", "about"]
THRESHOLD = Threshold(-0.09, "validation")
RADII = (8 / 255, 1 / 255)  # one that changes answers, and one at which no pair changes sides
LINES = dict(zero="ε = 0 ", eps="margin falls", steps="more steps", large="are right", fgsm="FGSM",
             converged="of PGD-", noise="noise", search="Square", transfer="transfer", gradient="no gradient",
             both="both changed", bounds="stays within")  # fmt: skip


class Judge(Network):
    """Compares the colors of two pictures, and a little of their texture, through a smooth network."""

    def forward(self, images):
        return torch.cat([4 * (images.mean((2, 3)) - 0.5), 0.1 * super().forward(images)], 1)

    def score_embeddings(self, first, second):
        return -(first - second).square().sum(-1)


class Rounding(Judge):
    """Masks its gradients by rounding pixels to 8 bits."""

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
    options = dict(threshold=THRESHOLD, eps=RADII[0], steps=8, queries=60, others=[Judge(1), Judge(2)]) | options
    return sanity_suite((model or Judge()).eval(), *case(), **options).set_index("check")


def failed(**options):
    """Words of the lines that failed, shortened to tell them apart."""
    table = suite(**options)
    return {word for word, text in LINES.items() for check, line in table.iterrows()
            if text in check and line.passed != "PASS"}  # fmt: skip


@pytest.mark.parametrize("eps", RADII)
def test_an_honest_attack_on_an_honest_model_passes(eps):
    table = suite(eps=eps)
    assert [table.index.name, *table] == COLUMNS and len(table) == len(LINES) == 12
    assert (table.passed == "PASS").all(), table.to_string()
    assert all(sum(text in check for check in table.index) == 1 for text in LINES.values())
    assert table.value["no gradient is zero"] == "0 of 20 pairs"


def test_values_are_those_of_attacks_made_one_by_one():
    """Margins, and the harm of a rival and of both sides as a share of PGD's."""
    model, (first, second, same) = Judge().eval(), case()
    table, side = suite(), (2 * same - 1).numpy()

    def mean_margin(found):
        with torch.no_grad():
            return float(np.mean(side * (model.score(found.first, found.second).numpy() - THRESHOLD.value)))

    radii = [RADII[0] * times for times in (1, 2, 4)]
    clean, *ours = (mean_margin(pgd(model, first, second, same, radius, 8, 1)) for radius in (0.0, *radii))
    falls = table.value[table.index.str.contains("margin falls")].item()
    assert falls == " > ".join(f"{margin:.3f}" for margin in (clean, *ours))
    for word, rival in (("noise", noise), ("both", lambda *pairs: pgd(*pairs, steps=8, restarts=1, which="both"))):
        theirs = [mean_margin(rival(model, first, second, same, radius)) for radius in radii]
        shares = [100 * (clean - their) / (clean - our) for their, our in zip(theirs, ours)]
        shown = table.value[table.index.str.contains(word)].item()
        assert shown == ", ".join(f"{share:.3g} %" for share in shares) + " of PGD's harm"
        if word == "noise":
            share, radius = max(zip(shares, radii))
            assert table.worst["noise does ≤ 100 % of PGD's harm"] == f"{share:.3g} % at {255 * radius:.3g}/255"
    assert table.worst["no gradient is zero"] == "0 of 20 pairs" and table.worst.str.contains(r"\d|^no |^never ").all()


def test_the_search_may_take_fewer_pairs_and_transfer_may_be_left_out():
    table = suite(others=(), every=4)
    assert len(table) == 11 and not table.index.str.contains("transfer").any() and (table.passed == "PASS").all()
    model, some = Judge().eval(), [values[::4] for values in case()]
    moved = model.score(*some[:2]) - square(model, *some, RADII[0], 60).scores
    ours = model.score(*some[:2]) - pgd(model, *some, RADII[0], 8, 1).scores
    share = 100 * ((2 * some[2] - 1) * moved).mean() / ((2 * some[2] - 1) * ours).mean()
    assert table.worst["Square does ≤ 100 % of PGD's harm"] == f"{share:.3g} % at 8/255"


def test_the_suite_disturbs_nothing():
    model = awkward(Judge())
    before = state_of(model)
    sanity_suite(model, *case(), THRESHOLD, eps=8 / 255, steps=2, queries=2)
    assert same_state(before, state_of(model))


MASKED = {"eps", "steps", "large", "fgsm", "converged", "noise", "search", "transfer", "gradient", "both"}
SEEMING = {  # models that only seem robust: (the model, the lines that must fail)
    "rounding": (Rounding(), MASKED),
    "constant": (judge(lambda score: score * 0 + 0.3), MASKED),
    "detached": (judge(torch.Tensor.detach), MASKED),
}


@pytest.mark.parametrize("name", SEEMING)
def test_models_that_only_seem_robust_fail(name):
    model, lines = SEEMING[name]
    assert failed(model=model) >= lines


def test_where_neither_attack_does_harm_there_is_nothing_to_compare():
    """A constant model: PGD and all it is held against do nothing; a rival that does harm is a failure, and told."""
    constant = suite(model=SEEMING["constant"][0])
    idle = constant.index[constant.passed == "NO HARM"]
    assert {word for word, text in LINES.items() if any(text in check for check in idle)} == {
        *("steps", "converged", "fgsm", "both", "noise", "search", "transfer")
    }
    masked = suite(model=SEEMING["rounding"][0])
    rivals = masked[masked.index.str.contains("noise|Square|transfer")]
    assert (rivals.passed == "FAIL").all() and rivals.worst.str.fullmatch(r"harm 0\.0*[1-9]\d* at \d+/255").all()
    assert masked.worst["margin falls as ε grows"] == "it does not fall"


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


def dark(model, first, second, same, eps, **options):
    """Attacks honestly, but at eps 0 it makes the last first picture darker."""
    found = pgd(model, first, second, same, eps, **options)
    if eps == 0:
        darker = torch.cat([first[:-1], first[-1:] - 1 / 255])
        found = found._replace(first=darker, scores=model.score(darker, second))
    return found


IDLE = {"eps", "steps", "large", "fgsm", "converged", "noise", "search", "transfer", "both"}
FAULTS = {  # what an attack does wrong: (the attack, the lines that must fail)
    "changes nothing": (lambda *pairs, **_: noise(*pairs, 0.0, 1), IDLE),
    "boasts": (boastful, IDLE),
    "helps": (helpful, IDLE),
    "adds mere noise": (lambda *pairs, eps, **_: noise(*pairs, eps, 1), {"large", "fgsm", "noise", "search"}),
    "takes a single short step": (lambda *pairs, eps, **_: fgsm(*pairs, eps / 20),
                                  {"large", "fgsm", "search", "transfer"}),
    "goes too far": (moved_on(lambda old, new, _: (old + 1.01 * (new - old)).clamp(0, 1)), {"bounds"}),
    "leaves [0, 1]": (moved_on(lambda old, new, eps: old + (new - old).sign()), {"bounds"}),
    "changes the second pictures too, unasked": (lambda *pairs, **options: pgd(*pairs, **options | {"which": "both"}),
                                                 {"bounds", "both"}),
    "is on at eps 0": (lambda *pairs, eps, **options: pgd(*pairs, max(eps, 1 / 255), **options), {"zero", "bounds"}),
    "darkens one picture at eps 0": (lambda *pairs, eps, **options: dark(*pairs, eps, **options), {"zero", "bounds"}),
    "needs more steps than usual": (lambda *pairs, eps, steps, **options:
                                    pgd(*pairs, eps if steps > 16 else 0.4 * eps, steps, **options),
                                    {"converged", "transfer", "fgsm"}),
    "is the weaker the more steps it takes": (lambda *pairs, eps, steps, **options:
                                              pgd(*pairs, eps / steps**0.5, steps, **options), {"steps"}),
    "goes no further than eps": (lambda *pairs, eps, **options: pgd(*pairs, min(eps, RADII[1]), **options),
                                 {"eps", "large"}),
    "does not hear of both sides": (lambda *pairs, which="first", **options: pgd(*pairs, **options), {"both"}),
    "lets off whoever asks for both sides": (lambda *pairs, eps, which="first", **options:
                                             pgd(*pairs, eps if which == "first" else 0.0, **options), {"both"}),
}  # fmt: skip


@pytest.mark.parametrize("eps", RADII)
@pytest.mark.parametrize("fault", FAULTS)
def test_broken_attacks_fail(fault, eps):
    attack, lines = FAULTS[fault]
    assert failed(attack=attack, eps=eps) >= lines


def test_every_line_has_a_fault_that_it_catches():
    """An attack has no part in one of them: whether the model has gradients at all."""
    caught = set().union(*(lines for _, lines in FAULTS.values()))
    assert caught == set(LINES) - {"gradient"} and "gradient" in set().union(*(lines for _, lines in SEEMING.values()))


def test_at_the_small_radius_no_answer_changes():
    """So that the lines above are judged by margins: accuracies say nothing there."""
    model, (first, second, same) = Judge().eval(), case()
    before, after = (
        accuracy(pgd(model, first, second, same, eps).scores.numpy(), same.numpy(), THRESHOLD)
        for eps in (0.0, RADII[1])
    )
    assert before == after == 1
