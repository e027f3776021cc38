"""Ask R3's questions of drawn flowers over several seeds: `python -m benchmarks.center_loss [QUESTION ...]`.

All is profile `quick` with its smallest backbone; rows go into center_loss.csv, in place of the same question's:

- `dimensions`: what the pull does to six species in embeddings of few and of many numbers, trained as in section 4.
- `strengths`: what each lambda is worth on validation of the closed set, and how many directions it leaves.
- `controls`: R3's two losses beside two that also keep a network from fitting too closely, without centers: label
  smoothing, and a softmax of cosines. Low and high are the ends of the paired difference to cross-entropy; in a row
  of its own the value itself is a difference, that of center loss to the softmax of cosines.
- `divisions`: center loss minus cross-entropy on new species: three times all species are halved, each half is
  trained on once (`part` 1a, 1b, 2a, ...), and the other half searched.
- `gains`: center loss minus cross-entropy, from the rows of the last two: known species, then new ones.
"""

import sys
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.results import classification, replace_rows
from common.backbones import EmbeddingNet, embed, new_model
from common.config import ROOT, seed_everything, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, as_float, augment, batches
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.splits import make_pairs, make_splits
from common.evaluation.metrics import normalize, roc_auc
from common.evaluation.reports import comparison, difference, embed_all, pair_scores, search_difference, searched
from common.losses import CenterLoss
from common.training import one_cycle, train

BACKBONE, LAMBDA = "test_resnet", 0.01  # R2's choice, and R3's
DIMENSIONS, STRENGTHS = (2, 16, 128), (0, 0.01, 0.03, 0.1, 1, 30)
SEEDS, HALVINGS = {"dimensions": 6, "strengths": 3, "controls": 3, "divisions": 3}, 3
FILE = ROOT / "benchmarks" / "center_loss.csv"


def relative_width(z, y) -> float:
    """R3's relative width: mean distance to the own species' mean, over that of these means to the mean of all."""
    kinds, y = np.unique(y, return_inverse=True)
    means = np.stack([z[y == j].mean(0) for j in range(len(kinds))])
    return np.linalg.norm(z - means[y], axis=1).mean() / np.linalg.norm(means - z.mean(0), axis=1).mean()


def effective_rank(z) -> float:
    """How many directions share the spread of embeddings (N, D): exp of the entropy of their shares."""
    shares = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
    shares = shares[shares > 1e-12 * shares.sum()] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def dimensions(config, pictures, splits):
    """Train six species by hand, without BatchNorm, in embeddings of so many numbers; with the pull minus without."""
    six = np.unique(np.linspace(0, len(pictures.class_names) - 1, 6).astype(int))
    parts = splits.parts["closed_set"]
    learned, held = (some[np.isin(pictures.labels[some], six)] for some in (parts["train"], parts["validation"]))
    _, numbers = np.unique(pictures.labels[learned], return_inverse=True)
    y = pictures.labels[held]
    first, second = np.triu_indices(len(held), 1)
    pairs = np.column_stack([first, second, y[first] == y[second]])
    for size in DIMENSIONS:
        for seed in range(SEEDS["dimensions"]):
            found = {}
            for lam in (0, 0.1):
                seed_everything(seed)
                model = EmbeddingNet(BACKBONE, size, len(six), image_size=config.image_size, batch_norm=False)
                loader = batches(Pictures(pictures, learned, numbers), 16, shuffle=True, seed=seed)
                centers = CenterLoss(len(six), size)
                optimizer, schedule = one_cycle(model, config.learning_rate, 16 * len(loader))
                follow = torch.optim.SGD(centers.parameters(), lr=0.5)
                for _ in range(16):
                    model.train()
                    for pixels, labels in loader:
                        z = model(augment(as_float(pixels), strength=config.augmentation))
                        loss = F.cross_entropy(model.classify(z), labels) + centers.terms(z, labels, lam)
                        for one in (optimizer, follow):
                            one.zero_grad()
                        loss.backward()
                        for one in (optimizer, follow, schedule):
                            one.step()
                z = embed(model, pictures.images[held])
                unit = normalize(z)
                found[lam] = {"mean length": np.linalg.norm(z, axis=1).mean()}
                found[lam] |= {"relative width of points": relative_width(z, y)}
                found[lam] |= {"relative width of directions": relative_width(unit, y)}
                found[lam]["roc_auc"] = roc_auc((unit[first] * unit[second]).sum(1), pairs[:, 2])
            for metric in found[0]:
                named = dict(size=size, seed=seed, metric=metric)
                yield from ({"arm": f"λ = {lam}", **named, "value": some[metric]} for lam, some in found.items())
                yield {"arm": "difference", **named, "value": found[0.1][metric] - found[0][metric]}


def strengths(config, pictures, splits):
    """Train the closed set with each lambda."""
    parts, pairs = splits.parts["closed_set"], splits.pairs["closed_set"]["validation"]
    held, y = parts["validation"], pictures.labels[parts["validation"]]
    for lam in STRENGTHS:
        for seed in range(SEEDS["strengths"]):
            arm = partial(classification, config, BACKBONE, pictures, lam)
            model = learn(config, pictures, arm, parts["train"], seed)
            embeddings = embed_all(model, pictures, np.union1d(held, pairs[:, :2]))
            z = normalize(embeddings[held])
            found = {"roc_auc": roc_auc(pair_scores(model, embeddings, pairs), pairs[:, 2])}
            found["map_at_r"] = np.nanmean(searched(model, embeddings[held], y)["map_at_r"])
            found["quality"] = (found["roc_auc"] + found["map_at_r"]) / 2
            found |= {"relative width of directions": relative_width(z, y), "effective rank": effective_rank(z)}
            yield from ({"arm": f"λ = {lam}", "lambda": lam, "size": config.embedding_size, "seed": seed,
                         "metric": metric, "value": value} for metric, value in found.items())  # fmt: skip


def learn(config, pictures, arm, indices, seed):
    """Train an arm to its end, watching nothing."""
    model, objective, loader = arm(indices, seed)
    train(config, model, objective, loader, lambda _: {"validation": 0.5, "spread": 1.0}, seed)
    return model.eval()


class Plain(nn.Module):
    """Cross-entropy of a classifier's logits: of names smoothed a little, or of cosines times `scale`."""

    def __init__(self, model, smoothing: float = 0.0, scale: float = 0.0):
        """Keep what is needed; `scale` 0 leaves the logits as they are."""
        super().__init__()
        self.classify, self.weight = model.classify, model.classifier.weight
        self.smoothing, self.scale = smoothing, scale

    def forward(self, z, y):
        logits = self.scale * F.normalize(z) @ F.normalize(self.weight).T if self.scale else self.classify(z)
        return {"cross_entropy": F.cross_entropy(logits, y, label_smoothing=self.smoothing)}


def control(config, pictures, indices, seed, **options):
    """An arm without centers."""
    kinds, y = np.unique(pictures.labels[indices], return_inverse=True)
    model = new_model(config, BACKBONE, seed, EmbeddingNet, len(kinds), pictures.images[indices])
    loader = batches(Pictures(pictures, indices, y), config.batch_size, shuffle=True, seed=seed)
    return model, Plain(model, **options), loader


def arms(config, pictures) -> dict:
    """The losses that are compared, the reference first."""
    given = config, BACKBONE, pictures
    return {
        "cross-entropy": partial(classification, *given, 0.0),
        "label smoothing": partial(control, config, pictures, smoothing=0.1),
        "cosine softmax": partial(control, config, pictures, scale=8.0),
        "center loss": partial(classification, *given, LAMBDA),
    }


def controls(config, pictures, splits):
    """Train all arms on both protocols, and judge them on the test and, of the open set, on validation, too."""
    for protocol in splits.protocols:
        parts, seeds = splits.parts[protocol], range(SEEDS["controls"])
        models = {name: [learn(config, pictures, arm, parts["train"], seed) for seed in seeds]
                  for name, arm in arms(config, pictures).items()}  # fmt: skip
        for part in ("test", "validation"):
            found = comparison(models, "cross-entropy", pictures, splits, protocol, part)
            found = found.rename(columns={"name": "arm"}).assign(part=part, seeds=len(seeds))
            yield from found.to_dict("records")
        if protocol == "closed_set":
            yield from rivalry(models, pictures, splits)


def rivalry(models, pictures, splits):
    """Center loss minus the softmax of cosines, on known species."""
    both = {name: models[name] for name in ("cosine softmax", "center loss")}
    found = comparison(both, "cosine softmax", pictures, splits, "closed_set", "test").rename(columns={"name": "arm"})
    found["value"] = found.groupby("metric")["value"].diff()
    found = found.dropna(subset="value").assign(part="difference", seeds=SEEDS["controls"], against="cosine softmax")
    yield from found.to_dict("records")


def divisions(config, pictures, splits):
    """Train on half of the species with each loss, search the other half."""
    kinds, seeds = len(pictures.class_names), range(SEEDS["divisions"])
    for halving, way in product(range(HALVINGS), (0, 1)):
        order = np.random.default_rng(halving).permutation(kinds)
        halves = order[: kinds // 2], order[kinds // 2 :]
        known, new = (np.flatnonzero(np.isin(pictures.labels, halves[which])) for which in (way, 1 - way))
        pairs, y = make_pairs(pictures.labels, new, config.pairs, 2 * halving + way), pictures.labels[new]
        scores, hits = {}, {}
        for name in ("cross-entropy", "center loss"):
            models = [learn(config, pictures, arms(config, pictures)[name], known, seed) for seed in seeds]
            embeddings = [embed_all(model, pictures, new) for model in models]
            scores[name] = [pair_scores(model, z, pairs) for model, z in zip(models, embeddings, strict=True)]
            hits[name] = [searched(model, z[new], y)["map_at_r"] for model, z in zip(models, embeddings, strict=True)]
        gaps = {"roc_auc": difference(scores["center loss"], scores["cross-entropy"], pairs)}
        gaps["map_at_r"] = search_difference(hits["center loss"], hits["cross-entropy"])
        about = dict(arm="center loss", part=f"{halving + 1}{'ab'[way]}", seeds=len(seeds), against="cross-entropy")
        yield from ({**about, "metric": metric, **gap} for metric, gap in gaps.items())


def gains(config, pictures, splits):
    """Say from the file how much center loss adds, on the species of the splits and of each half."""
    rows = pd.read_csv(FILE)
    names = {"closed_set test": "known species", "open_set test": "new: test's eight",
             "open_set validation": "new: validation's four"}  # fmt: skip
    judged = rows[(rows["question"] == "controls") & (rows["part"] != "difference")]
    judged = judged.set_index(["protocol", "part", "metric"])
    start = judged.loc[judged["arm"] == "cross-entropy", "value"]
    found = judged[judged["arm"] == "center loss"].assign(value=lambda some: some["value"] - start).reset_index()
    found = found.assign(arm=(found["protocol"] + " " + found["part"]).map(names)).dropna(subset="arm")
    divided = rows[rows["question"] == "divisions"]
    found = pd.concat([found, divided.assign(arm="new: halving " + divided["part"])])
    yield from found.assign(against="cross-entropy").to_dict("records")


def main(asked) -> None:
    """Measure what is asked, and put its rows into the file."""
    config = setup("quick", backbone=BACKBONE, device="cpu")
    pictures = load_images(config)
    splits = make_splits(pictures, config, keep_one(pictures, find_duplicates(pictures)))
    columns = ["question", "arm", "lambda", "size", "protocol", "part", "seed", "seeds", "against", "metric", "value"]
    for question in asked or [*SEEDS, "gains"]:
        rows = pd.DataFrame(globals()[question](config, pictures, splits)).assign(question=question)
        rows = rows.reindex(columns=[*columns, "low", "high"])
        replace_rows(FILE, rows, ["question"])


if __name__ == "__main__":
    main(sys.argv[1:])
