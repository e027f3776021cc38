"""Adversarial training: an objective for `fit` that learns from attacked pictures, and a rule that selects by them."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.attacks.ascent import ball, step
from common.attacks.gradient import pgd
from common.attacks.reports import attacked_scores
from common.backbones import evaluation_mode
from common.datasets.images import ImageSet
from common.evaluation.metrics import cosine_scores, roc_auc
from common.evaluation.reports import embed_all, pair_auc
from common.mining import all_triplets
from common.training import Collapse


class AdversarialTraining(nn.Module):
    """An objective made robust: a * task(clean) + task(attacked) + b * ||z(attacked) - z0(clean)||^2.

    The first two terms are those of Goodfellow et al. 2015, the inner attack is PGD (Madry et al. 2018) against the
    objective itself, and the last term, of Schlarmann et al. 2024 ("Robust CLIP"), holds embeddings where the
    standard model, z0, has them. Every picture is attacked in its place, so clean and attacked batch line up with
    the same labels. The radius grows linearly to eps, since a full attack at once destroys what was learned.
    """

    def __init__(
        self,
        objective: nn.Module,
        standard: nn.Module,
        eps: float,
        ramp_batches: int,
        hold_weight: float,
        steps: int = 5,
        attack_loss: Callable | None = None,
        clean_weight: float = 1.0,
    ):
        """
        Args:
            objective: of `fit`, called as `objective(model, images, labels)`.
            standard: the model training starts from; a frozen copy is kept.
            eps: radius of the inner attack, in units of [0, 1].
            ramp_batches: batches until the radius is eps; a third of all (protocol rule 15).
            hold_weight: b, of the term that holds embeddings.
            steps: of the inner attack.
            attack_loss: what the inner attack raises, `attack_loss(model, images, labels)` -> scalar or (B,);
                default: the objective's own `attack_loss` where it has one, else the sum of its terms.
            clean_weight: a, of the objective on clean pictures; 0, as in Madry et al. 2018, spares their pass.

        Raises:
            ValueError: a negative eps or weight, or a ramp or attack of less than one step.
        """
        super().__init__()
        if min(eps, hold_weight, clean_weight) < 0 or ramp_batches < 1 or steps < 1:
            raise ValueError(
                f"eps {eps}, hold_weight {hold_weight} and clean_weight {clean_weight} must be 0 or more, "
                f"ramp_batches {ramp_batches} and steps {steps} 1 or more"
            )
        self.objective, self.standard = objective, copy.deepcopy(standard).requires_grad_(False).eval()
        self.eps, self.ramp_batches, self.hold_weight, self.steps = eps, ramp_batches, hold_weight, steps
        self.attack_loss = attack_loss or getattr(objective, "attack_loss", None) or self._sum_of_terms
        self.clean_weight = clean_weight
        stuck_at = (getattr(objective, "stuck_at", None) or {}) if clean_weight else {}
        self.stuck_at = {f"clean_{name}": clean_weight * value for name, value in stuck_at.items()}
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))  # in the state, so that `fit` can resume

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms to add up, "clean_..." (at weight 0 none) and "attacked_..." of the objective, and "hold"."""
        attacked = self.attack(model, images, labels)
        if self.training:
            self.batches += 1
        clean_terms = self.objective(model, images, labels) if self.clean_weight else {}
        attacked_terms, embeddings = self._terms_and_embeddings(model, attacked, labels)
        with torch.no_grad():
            held = self.standard(images)
        return {
            **{f"clean_{name}": self.clean_weight * term for name, term in clean_terms.items()},
            **{f"attacked_{name}": term for name, term in attacked_terms.items()},
            "hold": self.hold_weight * (embeddings - held).square().sum(1).mean(),
        }

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The same pictures in the same order, each moved by at most the radius of this batch."""
        eps = self.eps * min(1.0, self.batches.item() / self.ramp_batches)
        bounds = ball(images, eps)
        noise = torch.rand(images.shape).to(images) * 2 - 1  # of the generator whose state `fit` keeps
        current, size = [(images.detach() + eps * noise).clamp(*bounds)], 2.5 * eps / self.steps
        with evaluation_mode(model, gradients=True):
            for _ in range(self.steps):
                current, _ = step(lambda shown: self.attack_loss(model, shown, labels), current, [bounds], size)
        return current[0]

    def train(self, mode: bool = True):
        super().train(mode)
        self.standard.eval()
        return self

    def _sum_of_terms(self, model, images, labels) -> Tensor:
        return sum(self.objective(model, images, labels).values())

    def _terms_and_embeddings(self, model, images, labels):
        """The objective's terms and the embeddings it made on its way, so that pictures are embedded once."""
        made = []
        hook = model.register_forward_hook(lambda module, inputs, output: made.append(output))
        try:
            terms = self.objective(model, images, labels)
        finally:
            hook.remove()
        return terms, made[0] if len(made) == 1 else model(images)


def semi_hard_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """What the inner attack raises for triplets: how much closer the negative is than the positive, up to 0.

    The mean over all triplets of a batch of min(0, cosine with the negative - cosine with the positive): a triplet
    is made semi-hard and no harder. Without the cap, adversarial training on triplets collapses the embedding (Zhou
    and Patel 2022, "Enhancing Adversarial Robustness for Deep Metric Learning").

    Args:
        model: embeds.
        images: float (B, 3, H, W) in [0, 1].
        labels: int (B,); some class must occur twice, and two classes must occur.
    """
    unit = F.normalize(model(images))
    cosines = unit @ unit.T
    anchor, positive, negative = all_triplets(labels)
    return (cosines[anchor, negative] - cosines[anchor, positive]).clamp(max=0).mean()


class RobustSelection:
    """What adversarial training is validated on: robust AUC, while the clean AUC stays near the standard model's."""

    def __init__(
        self, image_set: ImageSet, pairs, attacked_pairs, standard_auc: float, eps: float = 4 / 255, steps: int = 10
    ):
        """
        Args:
            image_set: the pictures.
            pairs: int (P, 3), validation pairs for the clean AUC.
            attacked_pairs: int (A, 3), some of them, for the AUC under attack, which costs more.
            standard_auc: clean AUC of the standard model on `pairs`.
            eps, steps: of the attack, PGD on the first picture with one restart.
        """
        self.image_set, self.pairs, self.attacked_pairs = image_set, np.asarray(pairs), np.asarray(attacked_pairs)
        self.least_auc = standard_auc - 0.05
        self.attack = partial(pgd, eps=eps, steps=steps, restarts=1)

    def __call__(self, model: nn.Module) -> float:
        """Robust AUC, 0 to 1; a model more than .05 below the standard AUC gets less than 0, its clean AUC - 1.

        Raises:
            Collapse: the mean cosine of different species exceeds .95.
        """
        different = self.pairs[self.pairs[:, 2] == 0]
        cosine = cosine_scores(embed_all(model, self.image_set, different[:, :2]), different).mean()
        if cosine > 0.95:
            raise Collapse(
                f"the mean cosine of pictures of different species is {cosine:.3f}, above 0.95; "
                "try a smaller eps, a longer ramp, a larger hold_weight, or an attack_loss capped at semi-hard"
            )
        clean = pair_auc(model, self.image_set, self.pairs)
        if clean < self.least_auc:
            return clean - 1
        scores = attacked_scores(model, self.image_set, self.attacked_pairs, self.attack)
        return roc_auc(scores, self.attacked_pairs[:, 2])
