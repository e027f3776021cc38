"""Draw the README's picture from a run on drawn flowers: `python -m benchmarks.readme_picture` after `make run`."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from common import plotting
from common.config import ROOT, setup
from lab.answers import UNSEEN, Lab

PICTURE = ROOT / "docs" / "picture.jpg"
APPROACH, COLUMNS, RADIUS = "triplet_loss", 6, 4


def fooled_pair(lab: Lab) -> tuple[dict, dict, dict]:
    """The first two flowers of a species of which the standard model is fooled and the robust one is not."""
    for number in range(len(lab.species)):
        flower, other = lab.draw(number, UNSEEN), lab.draw(number, UNSEEN + 1)
        answers = lab.fool(flower["name"], other["name"], APPROACH, RADIUS)["answers"]
        same = all(answer["before"]["same"] for answer in answers.values())
        if same and answers["standard"]["fooled"] and not answers["robust"]["fooled"]:
            return flower, other, answers
    raise RuntimeError(f"no pair of {len(lab.species)} is lost by the standard model and kept by the robust one")


def rows(lab: Lab) -> dict[str, list[tuple[str, str, bool | None]]]:
    """What each row shows: its question -> captions, pictures as data: addresses, and whether they are right."""
    flower, other, answers = fooled_pair(lab)
    query = ("query", flower["picture"], None)
    found = lab.search(flower["name"], APPROACH, number=COLUMNS - 1)["found"]
    shown = {"Find what is like it": [query, *((f"{one['score']:.2f}", one["picture"], one["right"]) for one in found)]}

    def verdict(which: str, when: str) -> str:
        found = answers[which][when]
        return f"{found['score']:.2f}, {'same' if found['same'] else 'different'}"

    shown[f"Fool it: no pixel moves by more than {RADIUS} of 255"] = [
        ("one", flower["picture"], None),
        ("another of its species", other["picture"], None),
        (f"before: {verdict('standard', 'before')}", flower["picture"], True),
        ("the change, x 32", answers["standard"]["change"], None),
        (f"after: {verdict('standard', 'after')}", answers["standard"]["picture"], False),
        (f"robust: {verdict('robust', 'after')}", answers["robust"]["picture"], True),
    ]
    why = lab.why(flower["name"], other["name"], APPROACH, "standard")
    parts = sorted((part for part in why["parts"] if part["what"].startswith("no ")), key=lambda part: -part["drop"])
    shown["Ask why: a map, and the same flower drawn without a part"] = [
        (f"score {why['score']:.2f}", flower["picture"], None),
        ("its map", why["maps"][0], None),
        ("the other's map", why["maps"][1], None),
        *((f"{part['what']}: {part['score']:.2f}", part["picture"], None) for part in parts[:3]),
    ]
    return shown


def draw(lab: Lab) -> None:
    """Write the picture: a row for each question."""
    content = rows(lab)
    figure, axes = plt.subplots(len(content), COLUMNS, figsize=(12, 7.7))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.04, wspace=0.05, hspace=0.28)
    for line, (question, cells) in zip(axes, content.items(), strict=True):
        line[0].text(0, 1.08, question, transform=line[0].transAxes, fontsize=15, fontweight="bold")
        for axis, (caption, picture, right) in zip(line, cells, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).convert("RGB"))
            axis.imshow(pixels, interpolation="nearest" if "change" in caption else "bicubic")
            color = {True: plotting.RIGHT, False: plotting.WRONG, None: "#888888"}[right]
            for side in axis.spines.values():
                side.set(color=color, linewidth=1 if right is None else 4, visible=True)
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(caption, fontsize=12)
    figure.savefig(PICTURE, dpi=120, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    draw(Lab(setup()))
