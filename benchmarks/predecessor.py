"""Train as our predecessor did, beside ours: `python -m benchmarks.predecessor DATA`, one seed, flowers, closed set.

Its three recipes: pooled features, Linear to 512, BatchNorm, ReLU; Adam at 1e-4 for ten epochs, all weights trained;
cross-entropy with center loss, cross-entropy on the product of a pair's embeddings, random triplets with margin 1. Same
backbone, pictures, splits and test pairs as ours; the table says how many seconds each took.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.results import FILES, arms, tested
from common.backbones import create_backbone
from common.config import setup
from common.datasets import load_images
from common.datasets.batches import Pictures, as_float, augment
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.splits import make_splits
from common.losses import CenterLoss
from common.training import train_arm

OURS = {"center loss": "center_loss", "siamese": "siamese", "triplets": "triplet"}


class Predecessor(nn.Module):
    """Backbone and head as they were; `score_embeddings` is the cosine, for the siamese network its pair logit."""

    def __init__(self, config, backbone: str, classes: int, pairs: bool):
        super().__init__()
        self.backbone = create_backbone(backbone, True, config.weights, config.image_size)
        size = self.backbone.head_hidden_size
        self.head = nn.Sequential(nn.Linear(size, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier, self.pair, self.cosine = nn.Linear(512, classes), nn.Linear(512, 1), not pairs
        for name in ("mean", "std"):
            values = torch.tensor(self.backbone.default_cfg[name])[:, None, None]
            self.register_buffer(name, values)

    def forward(self, images):
        return self.head(self.backbone((images - self.mean) / self.std))

    def score_embeddings(self, first, second):
        if self.cosine:
            return F.cosine_similarity(first, second, dim=-1)
        return self.pair(first * second).squeeze(-1)


def loss_of(recipe: str, model: Predecessor, centers: CenterLoss, images, others, labels, other_labels):
    """The loss of one batch: pictures, and for pairs and triplets as many partners drawn at random."""
    embeddings = model(images)
    if recipe == "center loss":
        return F.cross_entropy(model.classifier(embeddings), labels) + centers.terms(embeddings, labels, 0.01)
    partners = model(others)
    if recipe == "siamese":
        same = (labels == other_labels).float()
        return F.binary_cross_entropy_with_logits(model.score_embeddings(embeddings, partners), same)
    positives, negatives = partners.chunk(2)
    return F.triplet_margin_loss(embeddings, positives, negatives, margin=1.0)


def partners_of(recipe: str, labels, generator) -> np.ndarray:
    """Partners of the pictures with these labels, as positions: same or different at random; or both, for triplets."""
    def draw(label, same):
        return generator.choice(np.flatnonzero((labels == label) == same))

    if recipe == "siamese":
        return np.array([draw(label, generator.random() < 0.5) for label in labels])
    return np.array([draw(label, same) for same in (True, False) for label in labels])


def train_predecessor(recipe: str, config, backbone: str, image_set, indices) -> tuple[Predecessor, float]:
    """A trained model and its seconds."""
    torch.manual_seed(config.seed)
    labels, generator = image_set.labels[indices], np.random.default_rng(config.seed)
    model = Predecessor(config, backbone, labels.max() + 1, recipe == "siamese").to(config.device)
    centers = CenterLoss(labels.max() + 1, 512)
    adam, descent = torch.optim.Adam(model.parameters(), 1e-4), torch.optim.SGD(centers.parameters(), 0.5)
    started = time.perf_counter()
    for _ in range(10):
        model.train()
        order, partners = generator.permutation(len(indices)), partners_of(recipe, labels, generator)
        for places in np.array_split(order, len(order) // config.batch_size):
            chosen = partners.reshape(-1, len(labels))[:, places].ravel()
            images, others = (augment(as_float(Pictures(image_set, indices)[part][0])) for part in (places, chosen))
            targets = (torch.as_tensor(labels[part]) for part in (places, chosen))
            loss = loss_of(recipe, model, centers, images, others, *targets)
            adam.zero_grad(), descent.zero_grad()
            loss.backward()
            adam.step(), descent.step()
    return model.eval(), time.perf_counter() - started


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("recipes", nargs="*", default=list(OURS), help="default all")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    chosen = parser.parse_args()
    place = next(chosen.data / file for file in FILES["flowers102"][0] if (chosen.data / file).exists())
    config = setup("standard", "flowers102", place, chosen.backbone, chosen.data / "weights")
    image_set = load_images(config)
    splits = make_splits(image_set, config, keep_one(image_set, find_duplicates(image_set)))
    train, rows = splits.parts["closed_set"]["train"], []
    known_arms = arms(config, chosen.backbone, image_set)
    for recipe, approach in ((recipe, OURS[recipe]) for recipe in chosen.recipes):
        old, seconds = train_predecessor(recipe, config, chosen.backbone, image_set, train)
        started = time.perf_counter()
        ours = train_arm(config, known_arms[approach], image_set, splits, "closed_set", config.seed)
        spent = {"predecessor": seconds, "ours": time.perf_counter() - started}
        for name, model in {"predecessor": old, "ours": ours.model}.items():
            values = tested(model, image_set, splits, "closed_set")[0].report.set_index("metric")["value"]
            rows.append({"recipe": recipe, "by": name, "seconds": spent[name], "1 - ROC-AUC": 1 - values["roc_auc"],
                         "P@1": values["precision_at_1"], "MAP@R": values["map_at_r"]})
            print(rows[-1], flush=True)
    print(pd.DataFrame(rows).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
