"""Are rendered flowers fast, flat in memory, and as hard as photographs? Prints three tables.

    python benchmarks/rendered_flowers.py --photos FLOWERS.zip --weights DIR

`--photos` names a folder or archive in the layout of Oxford Flowers-102, to stand beside the rendered pictures;
`--weights` a folder with mobilenetv2_100.safetensors, for the row of the frozen backbone.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from common.backbones import EmbeddingNet, embed
from common.baselines import colour_histogram, raw_pixels
from common.config import setup
from common.datasets import load_images
from common.rendered import rendered_pictures
from common.retrieval import retrieval
from common.species import species_table

BANDS = dict(colour_histogram="0.25-0.60", raw_pixels="<= 0.45", frozen_mobilenetv2_100="0.60-0.95")


def speed() -> None:
    """Pictures per second on one core, by size; the first pass, which fills the pattern cache, is shown apart."""
    print("size  species x pictures  first pass  pictures/s  peak memory")
    for size, species, each in ((64, 24, 40), (96, 24, 20), (96, 24, 40), (256, 12, 5)):
        seconds = []
        for _ in range(2):
            start = time.process_time()
            count = sum(1 for _ in rendered_pictures(species, each, size))
            seconds.append(time.process_time() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{size:4}  {species:7} x {each:<8}  {seconds[0]:8.1f} s  {count / seconds[1]:10.0f}  {memory:7.0f} MB")


def memory(pictures: int) -> None:
    """Peak memory while drawing many pictures, one after the other: it must stop growing."""
    print("\npictures drawn  peak memory")
    for number, _ in enumerate(rendered_pictures(102, -(-pictures // 102), 96), 1):
        if number % (pictures // 4) == 0:
            print(f"{number:14}  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.0f} MB")


def precision(images, labels, weights: Path | None) -> dict[str, tuple[float, np.ndarray]]:
    """Precision of the nearest neighbor among all other pictures, for each kind of features."""
    features = dict(colour_histogram=colour_histogram(images), raw_pixels=raw_pixels(images))
    if weights:
        model = EmbeddingNet("mobilenetv2_100", embedding_size=0, pretrained=True, weights=weights)
        features["frozen_mobilenetv2_100"] = embed(model, images)
    return {name: float(np.nanmean(retrieval(one, labels)["precision_at_1"])) for name, one in features.items()}


def difficulty(photos: Path | None, weights: Path | None, size: int = 96) -> None:
    """Nearest-neighbor precision on 24 species x 40 rendered pictures, photographs beside them."""
    pictures = list(rendered_pictures(24, 40, size))
    columns = dict(rendered=precision(np.stack([p.image for p in pictures]), [p.label for p in pictures], weights))
    if photos:
        with tempfile.TemporaryDirectory() as cache:
            config = setup(profile="standard", dataset="flowers102", data=photos, cache=Path(cache))
            real = load_images(config)
            shrunk = (cv2.resize(one.transpose(1, 2, 0), (size, size), interpolation=cv2.INTER_AREA)
                      for one in real.images)
            images = list(shrunk)
            columns["photographs"] = precision(np.stack(images).transpose(0, 3, 1, 2), real.labels, weights)
    print(f"\nprecision at 1, {size} px   {'band':>10}  " + "  ".join(f"{name:>11}" for name in columns))
    for name in columns["rendered"]:
        print(f"{name:24}  {BANDS[name]:>10}  " + "  ".join(f"{column[name]:11.3f}" for column in columns.values()))
    genera = {one.genus for one in species_table(24)}
    print(f"({len(genera)} genera of look-alikes among the 24 rendered species)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pictures", type=int, default=8189, help="to draw for the memory table")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    speed()
    difficulty(arguments.photos, arguments.weights)
    memory(arguments.pictures)
