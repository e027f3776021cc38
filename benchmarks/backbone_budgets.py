"""Does R2's order of networks hold for other seeds and budgets? `python -m benchmarks.backbone_budgets`, minutes.

R2's candidates are trained as R2 trains them, on its drawn flowers (profile `quick`), from several draws of their
weights: not at all (the pooled features as they come); for the same pictures as in R2; then each as long as the
arithmetic of the dearest allows; then all as long as that allows the cheapest; and at R2's length with other learning
rates. backbone_budgets.csv has a row for each training with its validation ROC-AUC, and for each budget and network a
row of the seed "all": the mean, its gap to the dearest on the same budget, and the ends of that paired difference, over
seeds and pictures. The test stays closed.
"""

from dataclasses import replace
from functools import cache, partial
from itertools import product

import numpy as np
import pandas as pd

from common.backbones import new_model
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.files import write_whole
from common.datasets.splits import make_splits
from common.evaluation.backbone_choice import FROM_SCRATCH, cost, train_candidate
from common.evaluation.metrics import roc_auc
from common.evaluation.reports import difference, embed_all, pair_scores

SEEDS, EPOCHS, RATES = range(4), 8, (0.002, 0.01)  # EPOCHS are R2's


def main() -> None:
    """Train all and write their rows."""
    config, rows = setup("quick", "rendered"), []
    image_set = load_images(config)
    splits = make_splits(image_set, config)
    pairs, count = splits.pairs["closed_set"]["validation"], len(splits.parts["closed_set"]["train"])
    bare = {name: new_model(replace(config, embedding_size=0), name, 0) for name in FROM_SCRATCH}
    prices = {name: cost(model, config.image_size)["multiply_adds"] for name, model in bare.items()}
    names = sorted(prices, key=prices.get, reverse=True)
    spent = {name: int(EPOCHS * prices[names[0]] / price) for name, price in prices.items()}
    budgets = {"no training": dict.fromkeys(names, 0), "equal pictures": dict.fromkeys(names, EPOCHS)}
    budgets["equal arithmetic"] = spent
    budgets["longer, equal pictures"] = dict.fromkeys(names, max(spent.values()))
    runs = [(budget, name, epochs[name], config.learning_rate) for budget, epochs in budgets.items() for name in names]
    runs += [(f"learning rate {rate:g}", name, EPOCHS, rate) for rate, name in product(RATES, names)]

    @cache
    def scores(name: str, epochs: int, rate: float) -> np.ndarray:
        """Of the validation pairs (S, P), a row a seed."""
        chosen = [replace(config, seed=seed, learning_rate=rate) for seed in SEEDS]
        if not epochs:
            models = [new_model(replace(one, embedding_size=0), name, one.seed) for one in chosen]
            return np.stack([pair_scores(model, embed_all(model, image_set, pairs[:, :2]), pairs) for model in models])
        return np.stack([train_candidate(one, name, image_set, splits, epochs * count)["scores"] for one in chosen])

    for budget, name, epochs, rate in runs:
        about = dict(budget=budget, backbone=name, multiply_adds=prices[name], epochs=epochs, learning_rate=rate)
        areas = [roc_auc(one, pairs[:, 2]) for one in scores(name, epochs, rate)]
        rows += [{**about, "seed": seed, "value": area} for seed, area in zip(SEEDS, areas, strict=True)]
        first = next(run for run in runs if run[0] == budget)[1:]
        gap = difference(scores(name, epochs, rate), scores(*first), pairs) if name != names[0] else {}
        ends = {"gap": gap.pop("value", np.nan), **gap}
        rows.append({**about, "seed": "all", "value": np.mean(areas), **ends})
        print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows).round(5)
    write_whole(ROOT / "benchmarks" / "backbone_budgets.csv", partial(table.to_csv, index=False))


if __name__ == "__main__":
    main()
