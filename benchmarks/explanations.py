"""What insertion and deletion say of maps on photographs, inside each model: `python -m benchmarks.explanations`.

Takes the run that SIMILARITY_* names, after R3 to R5 or `benchmarks.results`, and writes explanations.csv: for each
standard model by how much its maps beat maps that know nothing of it, and one another, on the same pairs with the same
resampled pictures. About two minutes a model on one core.
"""

from functools import partial

import numpy as np
import pandas as pd

from benchmarks.results import replace_rows
from common.checkpoints import STEMS, ensure, load
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.batches import pair_batch
from common.datasets.splits import read_splits
from common.explanations import maps
from common.explanations.faithfulness import area, curve
from common.explanations.ground_truth import gained
from common.explanations.localization import controls

PAIRS = 32


def main() -> None:
    """Command line; see the module."""
    config = setup()
    pictures = load_images(config)
    splits, rows = read_splits(ensure(config, "splits.json"), pictures), []
    protocol = splits.protocols[0]
    pairs = np.random.default_rng(config.seed).permutation(splits.pairs[protocol]["test"])
    pairs = pairs[pairs[:, 2] == 1][:PAIRS]
    first, second, _ = pair_batch(pictures, pairs, config.device)
    others = {
        "blob": controls(pictures.images[pairs[:, 0]])["blob"],
        "random order": np.random.default_rng(config.seed).random((PAIRS, *first.shape[2:])),
    }
    for approach, stem in STEMS.items():
        model, *_ = load(ensure(config, f"best_model_{stem}.pth"), pictures, config.device)
        score = maps.PairScore(model, second)
        found = {
            "integrated gradients": maps.integrated_gradients(score, first),
            "pair CAM": maps.cam(score, first, maps.target_layer(model, first)),
        }
        found = {name: maps.enlarge(one, first.shape[2:]) for name, one in found.items()}
        measures = {
            name: {
                f"{word}_area": partial(area, curve(score, first, one, insert), insert)
                for word, insert in (("insertion", True), ("deletion", False))
            }
            for name, one in (found | others).items()
        }
        rows.append(gained(measures, [*found], [*others, "pair CAM"], PAIRS).assign(approach=approach))
        print(rows[-1].round(3).to_string(index=False, header=False), flush=True)
        about = dict(dataset=pictures.name, profile=config.profile, protocol=protocol, seed=config.seed)
        columns = [*about, "approach", "map", "against", "metric", "value", "low", "high", "n"]
        table = pd.concat(rows).assign(**about)[columns]
        replace_rows(ROOT / "benchmarks" / "explanations.csv", table, ["dataset", "profile", "approach"])


if __name__ == "__main__":
    main()
