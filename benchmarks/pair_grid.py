"""Ask R4's questions of more seeds: which negatives, and which margin, are best for which loss of pairs?

`python -m benchmarks.pair_grid folder`, the folder as of `benchmarks.results`. Arms are {cross-entropy, contrastive} x
{all, random, hard}, and contrastive with other margins, over three seeds: on drawn flowers (profile `quick`) trained as
R4 trains them, on Oxford's flowers (profile `standard`) the embedding head alone, on the backbone as it comes. Of its
training half is kept (0.5), as `train_arm` keeps it for new species, or all (1). For each data set, protocol, arm and
metric pair_grid.csv has a row for each arm it is held against: the mean of the test over seeds, which chooses nothing,
and the paired difference. Held against: "all", the same loss with all negatives; "pair_cross_entropy", that loss with
all; "start", the network before training.
"""

import sys
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.results import FILES
from common.backbones import SiameseNet, embed, new_model
from common.config import ROOT, Config, setup
from common.datasets import load_images
from common.datasets.batches import Pictures, species_batches
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.files import write_whole
from common.datasets.splits import make_splits
from common.evaluation.metrics import roc_auc
from common.evaluation.reports import difference, embed_all, pair_scores, search_difference, searched
from common.losses import PairJudgment
from common.training import between, train_arm, train_head

NEGATIVES, BACKBONE = ("all", "random", "hard"), "mobilenetv2_100"
ARMS = [("pair_cross_entropy", 1.0, name) for name in NEGATIVES] + [("contrastive", 1.0, name) for name in NEGATIVES]
ARMS += [("contrastive", margin, "hard") for margin in (0.5, 1.4)]
START = "start", 1.0, "none"


def measured(model, image_set, part, pairs, embeddings=None):
    """Of the test: the scores of its pairs, and the MAP@R of each query."""
    embeddings = embed_all(model, image_set, part["test"]) if embeddings is None else embeddings
    hits = searched(model, embeddings[part["test"]], image_set.labels[part["test"]])
    return pair_scores(model, embeddings, pairs), hits["map_at_r"]


def learns(config: Config, image_set, new, indices, seed: int, **options):
    """A `new` model, its objective and the batches of its training: an arm as `train_arm` takes it."""
    model = new(seed)
    _, labels = np.unique(image_set.labels[indices], return_inverse=True)
    objective = PairJudgment(model.score_embeddings, labels.max() + 1, config.embedding_size, **options)
    return model, objective, species_batches(Pictures(image_set, indices, labels), config.batch_size // 4, 4, seed)


def trained(config: Config, image_set, splits, protocol: str) -> dict:
    """(Loss, margin, negatives, share of the training kept) -> what `measured` gives, one a seed."""
    part, pairs = splits.parts[protocol], splits.pairs[protocol]["test"]
    new = partial(new_model, config, config.backbone, network=SiameseNet)
    start, found = new(config.seed, images=image_set.images[part["train"]]), {}
    features = torch.from_numpy(embed(start, image_set.images, pooled=True)) if config.pretrained else None
    for arm, seed in product([START, *ARMS], config.seed_list):
        options = dict(zip(("loss", "margin", "negatives"), arm, strict=True))
        if not config.pretrained:
            arm_of = partial(learns, config, image_set, new, **options)
            fresh = arm == START
            model = new(seed) if fresh else train_arm(config, arm_of, image_set, splits, protocol, seed).model
            found.setdefault((*arm, 1.0), []).append(measured(model, image_set, part, pairs))
        else:
            model, before = deepcopy(start), start.state_dict()
            if arm != START:
                model, *learned = learns(config, image_set, lambda _: deepcopy(start), part["train"], seed, **options)
                train_head(config, model, *learned, seed)
            after = {name: value.clone() for name, value in model.state_dict().items()}
            for kept in (0.5, 1.0):
                model.load_state_dict(between([before, after], kept))
                with torch.inference_mode():
                    embeddings = model.eval().head(features).numpy()
                found.setdefault((*arm, kept), []).append(measured(model, image_set, part, pairs, embeddings))
        print(config.dataset_name, protocol, *arm, seed, roc_auc(found[(*arm, 1.0)][-1][0], pairs[:, 2]), flush=True)
    return found


def rows_of(found: dict, pairs) -> list[dict]:
    """The rows of all arms, as the module says."""
    rows = []
    for (loss, margin, negatives, kept), mine in found.items():
        scores, hits = zip(*mine, strict=True)
        means = np.mean([roc_auc(one, pairs[:, 2]) for one in scores]), np.nanmean(hits)
        arm = dict(loss=loss, margin=margin, negatives=negatives, kept=kept)
        others = {"all": (loss, margin, "all", kept), "pair_cross_entropy": ("pair_cross_entropy", 1.0, "all", kept)}
        for against, other in (others | {"start": (*START, kept)}).items():
            if other in found:
                theirs, misses = zip(*found[other], strict=True)
                gaps = difference(scores, theirs, pairs), search_difference(hits, misses)
                for metric, mean, gap in zip(("roc_auc", "map_at_r"), means, gaps, strict=True):
                    rows.append(arm | dict(metric=metric, mean=mean, against=against) | gap | dict(seeds=len(mine)))
    return rows


def main(data: Path, *datasets: str) -> None:
    """Train all arms and write their rows, in place of those of the same data sets."""
    path = ROOT / "benchmarks" / "pair_grid.csv"
    for dataset in datasets or ("flowers102", "rendered"):
        names, settings = FILES[dataset]
        place = next((data / name for name in names if (data / name).exists()), None)
        given = dict(profile="standard", backbone=BACKBONE, weights=data / "weights") | settings
        config = setup(dataset=dataset, data=place, **given | dict(seeds=3))
        image_set, rows = load_images(config), []
        splits = make_splits(image_set, config, keep_one(image_set, find_duplicates(image_set)))
        for protocol in splits.protocols:
            found = rows_of(trained(config, image_set, splits, protocol), splits.pairs[protocol]["test"])
            rows += [dict(dataset=dataset, protocol=protocol) | row for row in found]
        old = pd.read_csv(path).query("dataset != @dataset") if path.exists() else None
        order = dict(by=["dataset", "metric", "protocol", "kept"], ascending=[False, True, True, False], kind="stable")
        write_whole(path, partial(pd.concat([old, pd.DataFrame(rows)]).sort_values(**order).to_csv, index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
