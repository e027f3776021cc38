"""What the page asks, as plain functions: names of pictures in, JSON types out, pictures among them as PNG files."""

import base64
import io
import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.attacks.gradient import pgd
from common.backbones import embed, evaluation_mode
from common.checkpoints import load
from common.config import Config
from common.datasets import images_to_show, load_images
from common.datasets.decoding import DamagedPicture, read_picture
from common.datasets.files import digest
from common.datasets.images import ImageSet
from common.datasets.splits import read_splits
from common.evaluation.metrics import Threshold
from common.explanations.faithfulness import blurred
from common.explanations.maps import enlarge, pair_cam
from common.find import Collection, collect, find, printable, read_framed
from common.flowers.rendering import REMOVABLE, render
from common.flowers.species import BACKGROUNDS, COLORS, Species, species_table

APPROACHES = {"center_loss": "Center loss", "siamese_network": "Siamese network", "triplet_loss": "Triplet loss"}
FILES = {"standard": "best_model_{}.pth", "robust": "robust_model_{}.pth"}
SHOWN = 320  # pixels of a side of what people see; models see fewer
MOST_BYTES = 20_000_000  # of an uploaded file
KEPT = 200  # pictures, the latest ones
UNSEEN = 1000  # flowers from this number on are in no run's pictures
RADII = (1, 2, 4, 8)  # gray levels of 255
STRONGER = 32  # times that a change is shown
SHARE = 0.2  # of a picture that is taken away to test a map
# What one may turn on a drawn flower: name of the factor -> least, most and step, or words.
FACTORS = {"petals": (3, 24, 1), "width": (0.15, 1.2, 0.05), "disc": (0.04, 0.7, 0.02)}
WORDS = {"color": list(COLORS), "background": list(BACKGROUNDS)}


class Picture(NamedTuple):
    """A picture on the page."""

    shown: np.ndarray  # uint8 (3, SHOWN, SHOWN), for people
    seen: Tensor  # float (1, 3, H, W) in [0, 1], for models
    title: str
    flower: tuple[Species, int] | None = None  # if it was drawn, what and which
    background: str | None = None  # if another one was asked for
    label: str | None = None  # its class, where it has one of the run's
    path: str | None = None  # if it is one of the run's


class Judge(NamedTuple):
    """A trained model, and from which score on it says "same"."""

    model: nn.Module
    threshold: Threshold
    content: dict


class NoModels(FileNotFoundError):
    """There is no trained model to play with; the message says how to make them."""


class Lab:
    """The models of one run, the pictures on the page, and an answer for each thing it asks.

    Whatever cannot be done is a ValueError or OSError whose message is for the reader of the page.
    """

    def __init__(self, config: Config):
        self.config, self.pictures, self.collections = config, OrderedDict(), {}
        self.judges = {variant: self._judges(name) for variant, name in FILES.items()}
        if not self.judges["standard"]:
            files = config.checkpoints.glob(f"*/{FILES['standard'].format('*')}")
            others = ", ".join(sorted({file.parent.name for file in files}))
            raise NoModels(
                f"There are no trained models in {config.directory}. Make them with `make run` (some minutes on two "
                "cores), then start the lab again with the same words, as in `make lab DATASET=flowers102`."
                + f" There are models of: {others}." * bool(others)
            )
        content = next(iter(self.judges["standard"].values())).content
        wants = {name: content.get(name, content["config"].get(name, False)) for name in ("squeeze", "grayscale")}
        self.framing = dict(size=content.get("image_size", content["config"]["image_size"]), **wants)
        self.species = species_table(config.species, config.seed)

    def _judges(self, name: str) -> dict[str, Judge]:
        paths = {approach: self.config.directory / name.format(approach) for approach in APPROACHES}
        return {approach: Judge(*load(path)) for approach, path in paths.items() if path.exists()}

    # What the page shows before anything is asked

    def about(self) -> dict:
        """What there is to choose from."""
        return {
            "run": self.config.name,
            "approaches": {name: APPROACHES[name] for name in self.judges["standard"]},
            "robust": list(self.judges["robust"]),
            "drawn": self.config.dataset == "rendered",
            "species": [one.name for one in self.species],
            "factors": {name: list(bounds) for name, bounds in FACTORS.items()},
            "words": WORDS,
            "size": self.framing["size"],
            "radii": list(RADII),
            "most_bytes": MOST_BYTES,
        }

    def draw(self, species: int, instance: int, **factors) -> dict:
        """A drawn flower: which species, which of its pictures, and what is changed of it, by FACTORS and WORDS."""
        if not (isinstance(species, int) and 0 <= species < len(self.species)):
            raise ValueError(f"there is no species {species!r}: choose one of 0 to {len(self.species) - 1}")
        if not (isinstance(instance, int) and 0 <= instance < 10**6):
            raise ValueError(f"there is no picture {instance!r}: choose a number from 0 to 999999")
        background = factors.pop("background", None)
        plant = replace(self.species[species], **_factors(factors))
        turned = bool(factors or background)
        title, label = f"{plant.name}, drawn{', changed' * turned}", None if turned else plant.name
        images = [render(plant, instance, size, background=background).image for size in (SHOWN, self.framing["size"])]
        usual = self.species[species]
        values = {name: getattr(plant, name) for name in FACTORS} | {"color": plant.colors[0], "background": background}
        kept = self._keep(Picture(images[0], _tensor(images[1]), title, (plant, instance), background, label))
        return {**kept, "factors": values, "usual": {name: getattr(usual, name) for name in FACTORS}}

    def sample(self, number: int) -> dict:
        """One of the run's test pictures, counted round and round: what a run on photographs has instead of flowers."""
        image_set, test = self._pictures_of_run()
        index = test[int(number) % len(test)]
        image = image_set.images[index]
        shown = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC))
        title = image_set.class_names[image_set.labels[index]]
        known = dict(label=title, path=image_set.paths[index])
        return self._keep(Picture(shown.transpose(2, 0, 1).copy(), _tensor(np.array(image)), title, **known))

    def upload(self, data: bytes) -> dict:
        """A picture file of the user's own, decoded as every picture of the project is."""
        if len(data) > MOST_BYTES:
            raise ValueError(f"The file has more than {MOST_BYTES // 10**6} MB: choose a smaller one.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "upload"
            file.write_bytes(data)
            try:
                shown = read_picture(file, SHOWN, self.framing["squeeze"]).image
                seen = read_framed(file, self.framing)
            except DamagedPicture as error:
                reason = str(error).removeprefix(f"{file}: ").rstrip(".")
                raise ValueError(f"This picture cannot be read: {reason}.") from error
        return self._keep(Picture(shown, _tensor(seen), "your picture"))

    def prepare(self) -> None:
        """Embed the run's test pictures for every approach, so that the first search need not."""
        for approach in self.judges["standard"]:
            self._gallery(approach)

    # The four tabs

    def compare(self, first: str, second: str) -> dict:
        """Same or different: what each approach says of two pictures."""
        one, other = self._pictures(first, second)
        verdicts = []
        for approach, judge in self.judges["standard"].items():
            score = _score(judge.model, one.seen, other.seen)
            verdicts.append({"approach": APPROACHES[approach], **_verdict(judge, score)})
        return {"verdicts": verdicts, "same": sum(verdict["same"] for verdict in verdicts)}

    def fool(self, first: str, second: str, approach: str, eps: float) -> dict:
        """The first picture, changed by up to eps gray levels so that a model takes back what it said (PGD)."""
        one, other = self._pictures(first, second)
        if not (isinstance(eps, int | float) and 0 <= eps <= 16):
            raise ValueError(f"eps is {eps!r}: choose a number of gray levels from 0 to 16")
        answers = {}
        for variant in FILES:
            if approach not in self.judges[variant]:
                continue
            judge = self._judge(approach, variant)
            before = _verdict(judge, _score(judge.model, one.seen, other.seen))
            found = pgd(judge.model, one.seen, other.seen, torch.tensor([int(before["same"])]), eps / 255, 10, 1)
            after = _verdict(judge, found.scores.item())
            change = found.first - one.seen
            answers[variant] = {
                "before": before,
                "after": after,
                "fooled": before["same"] != after["same"],
                "picture": _address(found.first),
                "change": _address((0.5 + STRONGER * change).clamp(0, 1)),
                "largest": round(255 * change.abs().max().item(), 2),
            }
        return {"eps": eps, "original": _address(one.seen), "answers": answers}

    def why(self, first: str, second: str, approach: str, variant: str = "standard") -> dict:
        """Maps of what speaks for the similarity, and the score again with parts of the first picture taken away."""
        one, other = self._pictures(first, second)
        judge = self._judge(approach, variant)
        score = _score(judge.model, one.seen, other.seen)
        try:
            sides = [enlarge(side, (SHOWN, SHOWN))[0] for side in pair_cam(judge.model, one.seen, other.seen)]
        except ValueError as error:
            raise ValueError(
                "These two are the same picture to the model, so no place speaks more for it than another: change one."
            ) from error
        maps = [_address(_overlay(picture.shown, side)) for picture, side in zip((one, other), sides, strict=True)]
        changed = [*self._without(one), *_masked(one, sides[0])]
        scores = [_score(judge.model, seen, other.seen) for _, _, seen in changed]
        parts = [
            {"what": what, "picture": _address(shown), "drop": score - after, **_verdict(judge, after)}
            for (what, shown, _), after in zip(changed, scores, strict=True)
        ]
        return {"maps": maps, **_verdict(judge, score), "parts": parts}

    def hide(self, first: str, second: str, approach: str, places: list, variant: str = "standard") -> dict:
        """The score with squares of the first picture blurred, at `places` (x, y), each 0 to 1 of its width."""
        one, other = self._pictures(first, second)
        judge, mask = self._judge(approach, variant), np.zeros((SHOWN, SHOWN), bool)
        if not (len(places) <= 100 and all(0 <= value <= 1 for place in places for value in place)):
            raise ValueError("places are up to 100 pairs of numbers from 0 to 1")
        for x, y in places:
            left, top = (int(value * SHOWN - SHOWN / 12) for value in (x, y))
            mask[max(top, 0) : top + SHOWN // 6, max(left, 0) : left + SHOWN // 6] = True
        shown, seen = _blur(one, mask)
        score, after = (_score(judge.model, image, other.seen) for image in (one.seen, seen))
        return {"picture": _address(shown), "drop": score - after, **_verdict(judge, after)}

    def search(self, query: str, approach: str, folder: str = "", number: int = 8) -> dict:
        """The pictures most like a query: of the run's test pictures, or of a folder on this machine."""
        (picture,) = self._pictures(query)
        judge = self._judge(approach)
        folder = folder.strip()
        collection, image_set = (self._folder(judge, folder), None) if folder else self._gallery(approach)
        asked, number = (255 * picture.seen[0]).round().byte().numpy(), min(max(number, 1), 24)
        table = find(asked, collection, judge.model, number + 1)
        table = table[table["file"] != picture.path][:number]  # not the query itself
        if image_set is None:
            framing = {**collection.framing, "size": SHOWN // 2}
            shown = [read_framed(collection.folder / file, framing) for file in table["file"]]
            titles, where, wanted = map(printable, table["file"]), "pictures of the folder", None
        else:
            rows = [image_set.paths.index(file) for file in table["file"]]
            shown = images_to_show(image_set, rows, SHOWN // 2)
            titles = [image_set.class_names[image_set.labels[row]] for row in rows]
            where, wanted = "test pictures of the run", picture.label
        found = [
            {"picture": _address(image), "title": title, "score": float(score), "right": wanted and title == wanted}
            for image, title, score in zip(shown, titles, table["score"], strict=True)
        ]
        damaged = len(collection.damaged)
        return {"found": found, "where": f"{len(collection)} {where}", "damaged": damaged, "wanted": wanted}

    # Behind them

    def _keep(self, picture: Picture) -> dict:
        shown = _address(picture.shown)
        name = digest([shown, _address(picture.seen)])
        self.pictures[name] = picture
        self.pictures.move_to_end(name)
        while len(self.pictures) > KEPT:
            self.pictures.popitem(last=False)
        return {"name": name, "picture": shown, "title": picture.title, "drawn": picture.flower is not None}

    def _pictures(self, *names: str) -> list[Picture]:
        if any(name not in self.pictures for name in names):
            raise ValueError("This picture is no longer here: choose it again.")
        return [self.pictures[name] for name in names]

    def _judge(self, approach: str, variant: str = "standard") -> Judge:
        known = self.judges.get(variant, {})
        if approach not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"There is no {variant} model of {approach!r} here; there are: {names}.")
        return known[approach]

    def _pictures_of_run(self) -> tuple[ImageSet, np.ndarray]:
        """The run's pictures, and which of them are for the test."""
        if "pictures" not in self.collections:
            image_set = load_images(self.config)
            splits = read_splits(self.config.directory / "splits.json", image_set)
            parts = splits.parts.get("closed_set") or splits.parts["open_set"]
            self.collections["pictures"] = image_set, parts["test"]
        return self.collections["pictures"]

    def _gallery(self, approach: str) -> tuple[Collection, ImageSet]:
        """The test pictures of the run, as an approach's model sees them; embedded at the first search."""
        image_set, test = self._pictures_of_run()
        if approach not in self.collections:
            vectors = embed(self._judge(approach).model, image_set.images[test])
            files = [image_set.paths[index] for index in test]
            self.collections[approach] = Collection(Path(), files, vectors, {}, self.framing)
        return self.collections[approach], image_set

    def _folder(self, judge: Judge, folder: str) -> Collection:
        return collect(folder, judge.model, judge.content, self.config.cache)

    def _without(self, picture: Picture) -> list[tuple[str, np.ndarray, Tensor]]:
        """A drawn flower again, each time without one of its parts that is seen, or in other colors."""
        if picture.flower is None:
            return []
        plant, instance = picture.flower
        colors, backgrounds = list(COLORS), list(BACKGROUNDS)
        other = colors[(colors.index(plant.colors[0]) + len(colors) // 2) % len(colors)]
        behind = next(name for name in backgrounds[::-1] if name != picture.background)
        changes = {f"no {part}": dict(without=part) for part in REMOVABLE}
        changes |= {f"petals {other}": dict(recolor=other), f"before {behind}": dict(background=behind)}
        made = []
        for what, change in changes.items():
            change = {"background": picture.background, **change}
            shown, seen = (render(plant, instance, size, **change).image for size in (SHOWN // 2, self.framing["size"]))
            if not torch.equal(_tensor(seen), picture.seen):
                made.append((what, shown, _tensor(seen)))
        return made


def _factors(factors: dict) -> dict:
    """Changed factors as `Species` has them; ValueError for one that does not exist or lies outside its bounds."""
    changed = {}
    for name, value in factors.items():
        if name == "color" and value in COLORS:
            changed["colors"] = (value,)
        elif name in FACTORS and isinstance(value, int | float) and FACTORS[name][0] <= value <= FACTORS[name][1]:
            changed[name] = int(value) if name == "petals" else float(value)
        else:
            raise ValueError(f"{name} cannot be {value!r} on a drawn flower")
    return changed


def _score(model: nn.Module, first: Tensor, second: Tensor) -> float:
    with evaluation_mode(model):
        return model.score(first, second).item()


def _verdict(judge: Judge, score: float) -> dict:
    """A score beside its threshold; `place` is where it stands from -1, surely different, to 1, surely same."""
    threshold = judge.threshold.value
    reach = 1 - threshold if judge.model.cosine else 8.0  # a cosine ends at 1, a logit of 8 leaves 3 in 10,000
    place = float(np.clip((score - threshold) / reach, -1, 1))
    return {"score": score, "threshold": threshold, "same": score >= threshold, "place": place}


def _masked(picture: Picture, one_map: np.ndarray) -> list[tuple[str, np.ndarray, Tensor]]:
    """A picture with the fifth blurred that a map calls most relevant, and with the one it calls least relevant."""
    low, high = np.quantile(one_map, [SHARE, 1 - SHARE])
    masks = {"most relevant fifth blurred": one_map >= high, "least relevant fifth blurred": one_map <= low}
    return [(what, *_blur(picture, mask)) for what, mask in masks.items()]


def _blur(picture: Picture, mask: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """A picture as shown and as seen, blurred where a mask (SHOWN, SHOWN) says so."""
    shown = torch.from_numpy(picture.shown)[None] / 255
    shown = torch.where(torch.from_numpy(mask), blurred(shown), shown)
    small = torch.tensor(np.array(Image.fromarray(mask).resize(picture.seen.shape[:1:-1])))
    return _pixels(shown), torch.where(small, blurred(picture.seen), picture.seen)


def _overlay(shown: np.ndarray, one_map: np.ndarray) -> np.ndarray:
    """A picture in gray under a signed map, scaled by its largest value: red speaks for similarity, blue against."""
    gray = 80 + 0.68 * np.tensordot([0.299, 0.587, 0.114], shown.astype(float), 1)  # brighter, so that colors show
    strength = one_map / np.abs(one_map).max()
    red, blue = (np.array(color)[:, None, None] for color in ((178, 24, 43), (33, 102, 172)))
    color = np.where(strength > 0, red, blue)
    share = 0.75 * np.abs(strength) ** 0.8
    return (gray * (1 - share) + color * share).round().astype(np.uint8)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image)[None] / 255


def _pixels(image: Tensor) -> np.ndarray:
    return (255 * image[0]).round().byte().numpy()


def _address(image: np.ndarray | Tensor) -> str:
    """A picture as a data: address of a PNG file."""
    array = _pixels(image) if isinstance(image, Tensor) else image
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
