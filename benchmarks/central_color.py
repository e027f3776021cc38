"""What the middle of a picture adds to its colors: `python -m benchmarks.central_color DATA`, a minute or two.

Without any training, the color histogram of a central disc (R1's central color) is compared with that of the whole
picture on the test pairs and searches of every data set that DATA holds; the paired differences go into
differences.csv, in place of what stood there. Pictures are those of R1's stored rows: faces are gray, at 48 pixels.
"""

import sys
from pathlib import Path

import pandas as pd

from benchmarks.results import FILES, replace_rows
from common.config import ROOT, setup
from common.datasets import load_images
from common.datasets.duplicates import find_duplicates, keep_one
from common.datasets.splits import make_splits
from common.evaluation.baselines import central_color, color_histogram
from common.evaluation.metrics import cosine_scores
from common.evaluation.reports import difference, search_difference
from common.evaluation.retrieval import retrieval

SETTINGS = {"att_faces": dict(grayscale=True, image_size=48), "reid": dict(image_size=128)}


def gaps(name: str, data: Path | None) -> pd.DataFrame:
    """Central color less color on one data set: a row for each protocol and metric."""
    config = setup(dataset=name, data=data, **SETTINGS.get(name, {}), profile="standard" if data else "quick")
    pictures, rows = load_images(config), []
    splits = make_splits(pictures, config, keep_one(pictures, find_duplicates(pictures)))
    both = [central_color(pictures.images), color_histogram(pictures.images)]
    for protocol in splits.protocols:
        test, pairs = splits.parts[protocol]["test"], splits.pairs[protocol]["test"]
        found = {"roc_auc": difference(*(cosine_scores(one, pairs)[None] for one in both), pairs)}
        searches = [retrieval(one[test], pictures.labels[test]) for one in both]
        for metric in ("precision_at_1", "map_at_r"):
            found[metric] = search_difference(*(search[metric][None] for search in searches))
        rows += [dict(protocol=protocol, metric=metric, **gap) for metric, gap in found.items()]
    about = dict(dataset=config.dataset_name, approach="central_color", against="color_histogram", seeds=1)
    return pd.DataFrame(rows).assign(**about)


if __name__ == "__main__":
    for name, (files, _) in FILES.items():
        place = next((Path(sys.argv[1]) / file for file in files if (Path(sys.argv[1]) / file).exists()), None)
        if place or not files:
            keys = ["dataset", "approach", "against", "protocol"]
            replace_rows(ROOT / "benchmarks" / "differences.csv", gaps(name, place), keys)
