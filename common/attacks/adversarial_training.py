"""Adversarial training: the terms of a `fit` that learns from attacked pictures, and what it is validated by."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import count

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.attacks.gradient import ball, noisy, pgd, step
from common.attacks.reports import attacked_scores
from common.backbones import evaluation_mode
from common.config import Config
from common.datasets.batches import Pictures, batches, species_batches
from common.datasets.images import ImageSet
from common.datasets.splits import Splits, some_pairs
from common.evaluation.metrics import cosine_scores, roc_auc
from common.evaluation.reports import embed_all, pair_auc, pair_scores
from common.losses import Classification, PairJudgment, TripletJudgment
from common.mining import all_triplets
from common.training import Collapse, train


def robust_task(
    approach: str, model: nn.Module, image_set: ImageSet, train, config: Config, center_weight: float = 0.0
) -> tuple[nn.Module, DataLoader]:
    """The objective and the batches of an approach ("center_loss", "siamese", "triplet"), as R3, R4 and R5 train it.

    Batches are of the pictures `train`; `center_weight` is lambda of center loss.
    """
    learned, classes, size = Pictures(image_set, train), len(image_set.class_names), config.embedding_size
    if approach == "center_loss":
        objective = Classification(model.classify, classes, size, center_weight)
        return objective, batches(learned, config.batch_size, shuffle=True, seed=config.seed)
    objective = TripletJudgment("semi_hard", margin=0.6, squared=True)
    if approach == "siamese":
        objective = PairJudgment(model.score_embeddings, classes, size)
    return objective, species_batches(learned, config.batch_size // 4, 4, config.seed)


def train_robust(
    approach: str, standard: nn.Module, image_set: ImageSet, splits: Splits, protocol: str, config: Config, eps: float,
    hold_weight: float, center_weight: float = 0.0, steps: int = 2,
) -> tuple[nn.Module, pd.DataFrame]:  # fmt: skip
    """A copy of a standard model, trained on from there against an attacker (protocol rule 15), and its history.

    As `robust_task` and `adversarial_terms` say, with the ramp over a third of all batches; without inner `steps` it
    learns from random noise. Kept is the epoch with the best `robust_auc` on validation pairs, 64 of them attacked.
    """
    model, pairs = copy.deepcopy(standard), splits.pairs[protocol]["validation"]
    train_set = splits.parts[protocol]["train"]
    objective, loader = robust_task(approach, model, image_set, train_set, config, center_weight)
    terms = adversarial_terms(standard, eps, max(1, config.epochs * len(loader) // 3), hold_weight, steps)
    judge = partial(
        robust_auc, image_set=image_set, pairs=pairs, attacked_pairs=some_pairs(pairs, 64),
        standard_auc=pair_auc(standard, image_set, pairs), steps=5,
    )  # fmt: skip
    return model, train(config, model, objective, loader, judge, config.seed, keep="best", terms=terms)


def adversarial_terms(standard: nn.Module, eps: float, ramp_batches: int, hold_weight: float, steps: int) -> Callable:
    """Make the `terms` of one robust `fit`: objective(z(attacked)) + hold_weight * ||z(attacked) - z0(clean)||^2.

    The objective learns from what hurts it most (Madry et al. 2018). The last term, of Schlarmann et al. 2024 ("Robust
    CLIP"), holds embeddings where a frozen copy of the standard model, z0, has them. The radius grows linearly to eps
    over the first `ramp_batches`, a third of all (protocol rule 15): a full attack at once destroys what was learned.
    """
    if min(eps, hold_weight, steps) < 0 or ramp_batches < 1:
        raise ValueError("eps, hold_weight and steps must be 0 or more, ramp_batches 1 or more")
    standard, batches = copy.deepcopy(standard).requires_grad_(False).eval(), count()

    def terms(model, objective, images, labels):
        radius = eps * min(1.0, next(batches) / ramp_batches)
        attacked = attacked_batch(model, objective, images, labels, radius, steps)
        embeddings = model(attacked).float()
        with torch.no_grad():
            held = standard.to(images.device)(images).float()
        # Renamed, since under attack a loss may rest at the objective's `stuck_at` without a collapse.
        added = {f"attacked_{name}": term for name, term in objective(embeddings, labels).items()}
        return added | {"hold": hold_weight * (embeddings - held).square().sum(1).mean()}

    return terms


def attacked_batch(model, objective, images: Tensor, labels: Tensor, eps: float, steps: int) -> Tensor:
    """The same pictures in the same order, moved by noise and then by `steps` of PGD, up the `attack_loss`."""

    def loss(shown):
        return attack_loss(objective, model(shown).float(), labels)

    attacked, bounds = noisy(images, eps), ball(images, eps)
    with evaluation_mode(model, gradients=True):
        for _ in range(steps):
            attacked, _ = step(loss, attacked, 2.5 * eps / steps, bounds)
    return attacked


def attack_loss(objective: nn.Module, embeddings: Tensor, labels: Tensor) -> Tensor:
    """What the inner attack raises: for triplets `semi_hard_loss`, else the objective's own, else all its terms."""
    if isinstance(objective, TripletJudgment):
        return semi_hard_loss(embeddings, labels)
    own = getattr(objective, "attack_loss", None)
    return own(embeddings, labels) if own else sum(objective(embeddings, labels).values())


def semi_hard_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """How much closer the negative is than the positive, up to 0: the mean over all triplets of a batch.

    That is min(0, cosine with the negative - cosine with the positive): a triplet is made semi-hard and no harder.
    Without the cap, adversarial training on triplets collapses the embedding (Zhou and Patel 2022, "Enhancing
    Adversarial Robustness for Deep Metric Learning").
    """
    unit = F.normalize(embeddings)
    cosines = unit @ unit.T
    anchor, positive, negative = all_triplets(labels)
    return (cosines[anchor, negative] - cosines[anchor, positive]).clamp(max=0).mean()


def robust_auc(
    model: nn.Module, image_set: ImageSet, pairs, attacked_pairs, standard_auc: float, eps: float = 4 / 255,
    steps: int = 10,
) -> float:  # fmt: skip
    """What adversarial training is validated by: ROC-AUC under PGD, while the clean one stays near the standard's.

    Clean is measured on all validation `pairs`, as was `standard_auc`, and the attack, which costs more, on some of
    them. A model whose clean AUC is more than .05 below the standard's gets less than 0, its clean AUC minus 1. Raises
    Collapse where the mean cosine of different species exceeds .95.
    """
    embeddings, different = embed_all(model, image_set, pairs[:, :2]), pairs[pairs[:, 2] == 0]
    cosine = cosine_scores(embeddings, different).mean()
    if cosine > 0.95:
        raise Collapse(
            f"the mean cosine of pictures of different species is {cosine:.3f}, above 0.95; "
            "try a smaller eps, a longer ramp, or a larger hold_weight"
        )
    clean = roc_auc(pair_scores(model, embeddings, pairs), pairs[:, 2])
    if clean < standard_auc - 0.05:
        return clean - 1
    scores = attacked_scores(model, image_set, attacked_pairs, partial(pgd, eps=eps, steps=steps, restarts=1))
    return roc_auc(scores, attacked_pairs[:, 2])
