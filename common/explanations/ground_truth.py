"""Ground truth by re-rendering: a thing of a flower is changed, or a shortcut planted, and explanations are graded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.backbones import embed, evaluation_mode, new_model
from common.config import Config
from common.datasets import images_to_show
from common.datasets.batches import Pictures, as_float, batches, pair_batch
from common.datasets.images import ImageSet
from common.datasets.splits import make_pairs
from common.evaluation.metrics import interval
from common.evaluation.reports import named
from common.explanations.concepts import SEEDS, raised
from common.explanations.faithfulness import area, blurred, curve, untrained
from common.explanations.localization import controls, difference, relevance_mass
from common.explanations.maps import PairScore, activations, enlarge, integrated_gradients, pair_integrated_gradients
from common.flowers.painting import rgb
from common.flowers.rendering import render
from common.flowers.species import COLORS, PARTS, PETAL, Species, species_table
from common.losses import Classification
from common.training import fit, one_cycle

UNCHANGED = "as it is"
SHORT = 8  # epochs of a training to cheat
WORDS = {  # for names of tests and approaches
    "insertion_gain": "insertion", "deletion_gain": "deletion", "center_loss": "center loss",
    "relevance_mass_gain": "red on the flower", "intervention_agreement_gain": "order of the parts",
}  # fmt: skip


def flowers_of(image_set: ImageSet, indices, seed: int = 0) -> list[tuple[Species, int]]:
    """Species and instance of rendered pictures, as `render` takes them; `seed` is that of their table of species."""
    table, instances = species_table(len(image_set.class_names), seed), image_set.factors["instance"].to_numpy()
    return [(table[image_set.labels[index]], int(instances[index])) for index in indices]


@lru_cache(maxsize=64)  # drawing takes longer than asking one more model
def interventions(species: Species, instance: int, size: int) -> dict[str, tuple[str, np.ndarray]]:
    """One flower as it is, and with one thing changed: name -> (part in PARTS touched, picture uint8 (3, size, size)).

    UNCHANGED (no part); without petals, center or leaves; petals in the color farthest round the list; the sky behind
    it, or what is darkest where the sky is: of all backgrounds those farthest in color. What changes no pixel (leaves
    that are not seen) is left out.
    """
    picture = render(species, instance, size)
    behind = "dark" if picture.factors["background"] == "sky" else "sky"
    colors, color = list(COLORS), picture.factors["color"]
    opposite = colors[(colors.index(color) + len(colors) // 2) % len(colors)]
    changes = {
        "no petals": ("petal", dict(without="petals")),
        "other color": ("petal", dict(recolor=opposite)),
        "no center": ("center", dict(without="center")),
        "no leaves": ("leaf", dict(without="leaves")),
        "other background": ("background", dict(background=behind)),
    }
    made = {name: (part, render(species, instance, size, **change).image) for name, (part, change) in changes.items()}
    seen = {name: (part, image) for name, (part, image) in made.items() if (image != picture.image).any()}
    for image in (picture.image, *(image for _, image in seen.values())):
        image.setflags(write=False)  # who asks again gets the same ones
    return {UNCHANGED: ("", picture.image), **seen}


def intervention_effects(model, flowers: Sequence[tuple[Species, int]], others: Tensor) -> pd.DataFrame:
    """By how much the score of each pair falls when one thing of its first flower is changed; `others` are the second.

    Rows of picture (0 to N - 1), intervention, part and fall; see `flowers_of` and `interventions`.
    """
    versions = [interventions(*flower, others.shape[-1]) for flower in flowers]
    rows = [(picture, name, part) for picture, made in enumerate(versions) for name, (part, _) in made.items()]
    table = pd.DataFrame(rows, columns=["picture", "intervention", "part"])
    first = embed(model, np.stack([image for made in versions for _, image in made.values()]))
    with evaluation_mode(model) as device:
        second = model(others)[table["picture"].tolist()]
        score = model.score_embeddings(torch.from_numpy(first).to(device), second).cpu().numpy()
    unchanged = table["intervention"] == UNCHANGED
    table["fall"] = score[unchanged][table["picture"]] - score
    return table[~unchanged].reset_index(drop=True)


def claimed(effects: pd.DataFrame, maps, parts) -> np.ndarray:
    """What maps (N, H, W) add up to, red less blue, on the part that each change touched: a number a row of `effects`.

    Of a complete map that is what it claims the part to add to the score. `parts` are masks (N, H, W).
    """
    sums = np.stack([np.sum(maps, (1, 2), float, where=parts == part) for part in range(len(PARTS))], 1)
    return sums[effects["picture"], effects["part"].map(PARTS.index)]


def rank_agreement(effects: pd.DataFrame, claims) -> Callable:
    """Whether the parts a map names are those the score hangs on: Spearman's correlation of fall with claim.

    Of `intervention_effects` and what a map has `claimed`: the changes of each picture are ranked among themselves, and
    the correlations averaged over pictures; one whose falls or claims are all equal has none. Returns the mean as a
    measure of `weights` (R, N), how often each picture counts.
    """
    ranks = effects.assign(claim=claims).groupby("picture")[["fall", "claim"]].rank()
    alike = {picture: one["fall"].corr(one["claim"]) for picture, one in ranks.groupby(effects["picture"])}
    alike = pd.Series(alike).dropna()

    def measure(weights):
        counted = np.asarray(weights, float)[:, alike.index]
        total = counted.sum(1)  # 0 where all pictures resampled have no correlation
        return np.where(total > 0, counted @ alike.to_numpy() / np.where(total > 0, total, 1), np.nan)

    return measure


def graded(model: nn.Module, first: Tensor, second: Tensor, parts=None, flowers=(), maps=None) -> dict[str, Callable]:
    """Rate maps (N, H, W) of the first pictures (default: integrated gradients) by all that is known of these.

    Returns metric -> measure of how often each picture counts, whole numbers (R, N): "insertion_area", "deletion_area";
    "relevance_mass" on the flower, if part masks (N, H, W) of the first pictures are given; and
    "intervention_agreement", if also their `flowers` are, as of `flowers_of`.
    """
    score = PairScore(model, second)
    maps = enlarge(integrated_gradients(score, first), first.shape[2:]) if maps is None else maps
    curves = cache(partial(curve, score, first, maps))  # which take long, when they are asked for
    found = {
        "insertion_area": lambda weights: area(curves(True), True, weights),
        "deletion_area": lambda weights: area(curves(False), False, weights),
    }
    if parts is not None:
        mass = relevance_mass(maps, np.asarray(parts) >= PETAL)  # from there on a mask's values are the flower
        found["relevance_mass"] = lambda weights: weights @ mass / weights.sum(1)
    if len(flowers):
        effects = intervention_effects(model, flowers, second)
        effects = effects[effects["intervention"] != "other color"]  # which asks for a color, and touches a part twice
        found["intervention_agreement"] = rank_agreement(effects, claimed(effects, maps, parts))
    return found


def grades(measures: dict[str, Callable], pictures: int, rounds: int = 200) -> pd.DataFrame:
    """Rows of metric, value, low, high, n: the measures of `graded` over so many pictures."""
    return pd.DataFrame({"metric": name, **interval(one, pictures, rounds)} for name, one in measures.items())


def beside_controls(model, methods: dict, first, second, wrong, flower=None, seed: int = 0) -> dict[str, list]:
    """Maps of the first pictures and of all that these must beat: name -> maps (N, H, W), in a list.

    `methods` are name -> (`PairScore`, images) -> maps. The network before training, at three random weights, and a
    wrong partner, of another species, are a method's own controls. `flower`, bool (N, H, W), is its mask, where known.
    """
    blank = [(untrained(model, seed + more), second) for more in (10, 11, 12)]
    asked, found = {"": [(model, second)], ", random weights": blank, ", wrong partner": [(model, wrong)]}, {}
    for kind, cases in asked.items():
        for name, explain in methods.items():
            found[name + kind] = [enlarge(explain(PairScore(*case), first), first.shape[2:]) for case in cases]
    blind = controls((255 * first).round().byte().cpu().numpy())
    blind |= {} if flower is None else {"flower's mask": np.asarray(flower, np.float32)}
    return found | {name: [maps] for name, maps in blind.items()}


def gains(one: dict, control: dict) -> dict[str, Callable]:
    """How much better a map does than a control in the same model: metric, such as "deletion_gain" -> measure.

    Both are as of `graded`; a smaller deletion area is the better one, so its sign is turned.
    """
    sides = {metric: (control, one) if metric == "deletion_area" else (one, control) for metric in one}
    return {f"{metric.removesuffix('_area')}_gain": partial(difference, better[metric], worse[metric])
            for metric, (better, worse) in sides.items()}  # fmt: skip


def gained(measures: dict, maps: Sequence[str], rivals: Sequence[str], pictures: int, rounds: int = 1000):
    """A table of the `gains` of maps over their rivals, by name: rows of map, against, metric, value, low, high, n.

    `measures` are name -> measures as of `graded`, `pictures` says of how many.
    """
    return pd.concat([grades(gains(measures[name], measures[rival]), pictures, rounds).assign(map=name, against=rival)
                      for name, rival in product(maps, rivals) if name != rival], ignore_index=True)  # fmt: skip


def robust_less_standard(models: dict, first, second, parts=None, flowers=(), control=None, rounds: int = 1000):
    """Grade the integrated gradients of models, and compare robust with standard ones in pairs (protocol rule 20).

    `models` are variant ("standard", "robust") -> approach -> model; `control` are maps (N, H, W) that know of none,
    such as a blob, graded in each model too: areas of two may not be compared. Returns two tables as of `grades`: what
    the ledger keeps, of an area only the gain; and by how much robust models gain more than standard.
    """
    kept, gaps = [], []
    for approach in models["standard"]:
        gained = {}
        for variant in [name for name in models if approach in models[name]]:
            model = models[variant][approach]
            one, blind = (graded(model, first, second, parts, flowers, maps) for maps in (None, control))
            gained[variant] = gains(one, blind)
            told = {name: one[name] for name in one if not name.endswith("_area")}
            told |= {name: gained[variant][name] for name in ("insertion_gain", "deletion_gain")}
            kept.append(grades(told, len(first), rounds).assign(approach=approach, variant=variant))
        if "robust" in gained:
            less = {name: partial(difference, gained["robust"][name], one) for name, one in gained["standard"].items()}
            gaps.append(grades(less, len(first), rounds).assign(approach=approach))
    return pd.concat(kept), pd.concat(gaps) if gaps else pd.DataFrame()


def plant_square(images, labels, share: float = 0.25, seed: int = 0, colors: int | None = None):
    """Put a square into a corner of each picture, in a color that gives the label away: a shortcut to be found out.

    Each label has a color of its own, evenly spread round a wheel of `colors` (default: as many as labels); `share` is
    the square's side in those of the picture; the corner is random, so that place alone gives nothing away. Returns the
    new pictures, and where the square is, bool (N, H, W).
    """
    labels = np.asarray(labels)
    count, _, high, wide = np.shape(images)
    side = max(1, round(share * min(high, wide)))
    where = np.zeros((count, high, wide), bool)
    for square, (down, right) in zip(where, np.random.default_rng(seed).integers(0, 2, (count, 2)), strict=True):
        square[down * (high - side) :, right * (wide - side) :][:side, :side] = True
    shown = np.stack([rgb(label / (colors or labels.max() + 1), 1, 1) for label in labels])
    return np.where(where[:, None], shown.astype(np.uint8)[:, :, None, None], images), where


class Shortcut(NamedTuple):
    """A cheat, its honest twin, and the pictures that tell them apart, of the first species of an image set."""

    suspects: dict[str, nn.Module]  # "model A" and "model B", in an order left to chance
    truth: dict[str, str]  # by the same names: "the cheat" or "its honest twin"
    rows: np.ndarray  # of the image set, (N,)
    labels: np.ndarray  # their species, (N,)
    learned: np.ndarray  # places of the pictures that both have seen
    new: np.ndarray  # and of those that neither has, (M,)
    pictures: dict[str, np.ndarray]  # by what square they have, uint8 (N, 3, H, W); first the cheat's own kind
    where: np.ndarray  # the pixels of the square, bool (N, H, W)

    def exam(self) -> pd.DataFrame:
        """The share of new pictures a suspect names rightly, by square; and as a wrong square says, seen or not."""
        rows, labels = {}, self.labels[self.new]
        for name, model in self.suspects.items():
            said = {square: named(model, embed(model, one[self.new])) for square, one in self.pictures.items()}
            rows[name] = {("named rightly", square): np.mean(names == labels) for square, names in said.items()}
            for square in ("another species' square", "no square"):
                hit = said[square] == (labels + 1) % (1 + labels.max())
                rows[name]["named as the wrong square says", square] = hit.mean()
        return pd.DataFrame(rows).T

    def falls(self, pairs) -> dict[str, np.ndarray]:
        """By the suspect's truth: how far each pair's score falls if the first picture has another species' square."""
        found, (a, b) = {}, np.transpose(pairs)
        for name, model in self.suspects.items():
            right, _, wrong = (torch.from_numpy(embed(model, one)) for one in self.pictures.values())
            score = partial(torch.cosine_similarity, right[b])
            found[self.truth[name]] = (score(right[a]) - score(wrong[a])).numpy()
        return found

    def couples(self, each: int, seed: int = 0) -> np.ndarray:
        """Places of pairs of new pictures of one species, at most so many of each, species by species: (P, 2)."""
        pairs = make_pairs(self.labels, self.new, 20_000, seed)
        pairs = pairs[pairs[:, 2] == 1, :2]
        return np.concatenate([pairs[self.labels[pairs[:, 0]] == kind][:each] for kind in np.unique(self.labels)])

    def colored(self, kind: int, places) -> list[np.ndarray]:
        """Pictures with their squares in the color of one species, and the same in those of the others, by turns."""
        count, places = 1 + self.labels.max(), np.asarray(places)
        colors = np.full(len(places), kind), (kind + 1 + np.arange(len(places)) % (count - 1)) % count
        shown = [np.stack([rgb(color / count, 1, 1) for color in one]).astype(np.uint8) for one in colors]
        square, bare = self.where[places, None], self.pictures["no square"][places]
        return [np.where(square, one[:, :, None, None], bare) for one in shown]

    def activations(self, model: nn.Module, layer: str, kind: int, places) -> list[np.ndarray]:
        """What a layer hands out for both kinds of `colored` pictures, averaged over all places: two (M, C)."""
        both = [as_float(torch.from_numpy(one)).to(next(model.parameters())) for one in self.colored(kind, places)]
        return [activations(model, images, layer).mean((2, 3)).cpu().numpy() for images in both]

    def explained(self, pairs, device) -> dict[str, np.ndarray]:
        """Each suspect's integrated gradients of both pictures of pairs, squares and all: float (P, 2, H, W)."""
        first, second = self.shown(pairs, device)
        return {name: np.stack([enlarge(maps, first.shape[2:]) for maps in sides], 1) for name, sides in
                ((name, pair_integrated_gradients(model, first, second)) for name, model in self.suspects.items())}

    def steps(self, pairs, layer: str, device, seed: int = 0) -> dict[str, np.ndarray]:
        """For each suspect: does a step towards the color of its own species' square raise a pair's score?

        The concept vectors come from 60 of the pictures that were learned from, those with their own squares and the
        same with others'. Returns, by the suspect's truth, what `raised` does, each for all pairs: (3, P, SEEDS).
        """
        found = {true: np.zeros((3, len(pairs), SEEDS)) for true in self.truth.values()}
        first, second = self.shown(pairs, device)
        places = np.random.default_rng(seed).permutation(self.learned)[:60]
        for kind in np.unique(self.labels[pairs[:, 0]]):
            mine = np.flatnonzero(self.labels[pairs[:, 0]] == kind)
            for name, model in self.suspects.items():
                both = self.activations(model, layer, kind, places)
                for told, one in zip(found[self.truth[name]], raised(model, first[mine], second[mine], *both, layer)):
                    told[mine] = one
        return found

    def shown(self, pairs, device) -> list[Tensor]:
        """Both pictures of pairs, with their own squares, as a model takes them."""
        shown = torch.from_numpy(next(iter(self.pictures.values())))
        return [as_float(shown[pairs[:, side]]).to(device) for side in (0, 1)]

    def on_trial(self, image_set: ImageSet, pairs, device) -> tuple:
        """The cheat and pairs as `beside_controls` takes them: model, first, second, wrong partners, flower's mask."""
        cheat = next(model for name, model in self.suspects.items() if self.truth[name] == "the cheat")
        first, second = self.shown(pairs, device)
        parts, seen = image_set.parts, pairs[:, 0]
        flower = None if parts is None else (np.asarray(parts[self.rows[seen]]) >= PETAL) & ~self.where[seen]
        return cheat, first, second, second[other_partners(self.labels[seen])], flower

    def to_show(self, image_set: ImageSet, places) -> np.ndarray:
        """Pictures for the eye, with their squares: drawn flowers are drawn again in large."""
        large, small = images_to_show(image_set, self.rows[places]), next(iter(self.pictures.values()))[places]
        at = np.arange(large.shape[-1]) * small.shape[-1] // large.shape[-1]  # the small pixel under each large one
        square, small = (one[..., at[:, None], at] for one in (self.where[places, None], small))
        return np.where(square, small, large)


def shortcut(config: Config, image_set: ImageSet, backbone: str, share: float = 0.33, kinds: int = 8) -> Shortcut:
    """Train a model to cheat by a planted square whose color gives the species away, and its twin, that cannot.

    The twin sees the same squares in random colors. `share` is the square's side in those of the picture; every other
    picture of the first `kinds` species is trained on.
    """
    kinds, dice = min(kinds, len(image_set.class_names)), np.random.default_rng(config.seed)
    rows = np.flatnonzero(image_set.labels < kinds)
    bare, labels = np.asarray(image_set.images[rows]), image_set.labels[rows]
    learned, new = np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)
    telling, where = plant_square(bare, labels, share, colors=kinds)
    random, wrong = (plant_square(bare, colors, share, colors=kinds)[0]
                     for colors in (dice.integers(kinds, size=len(rows)), (labels + 1) % kinds))
    models = {}
    for name, images in {"the cheat": telling, "its honest twin": random}.items():
        models[name] = new_model(config, backbone, config.seed, classes=kinds).to(config.device)
        loader = batches(Pictures(replace(image_set, images=images, labels=labels), learned), 32, True, config.seed)
        optimizer, schedule = one_cycle(models[name], config.learning_rate, SHORT * len(loader))
        objective = Classification(models[name].classify, kinds, config.embedding_size)
        fit(models[name], objective, loader, [optimizer], SHORT, lambda model: 0.0, [schedule], config.seed,
            config.device, keep="last")  # so that nothing is chosen
    truth = dict(zip(("model A", "model B"), dice.permutation([*models]).tolist(), strict=True))
    pictures = {"its species' square": telling, "no square": bare, "another species' square": wrong}
    suspects = {name: models[true] for name, true in truth.items()}
    return Shortcut(suspects, truth, rows, labels, learned, new, pictures, where)


class Pairs(NamedTuple):
    """Pairs of one species to be explained, the most alike first, and what is known of their first pictures."""

    rows: np.ndarray  # of the image set, (P, 3): first, second, and a picture of another species, the wrong partner
    first: Tensor  # pictures (P, 3, H, W)
    second: Tensor
    wrong: Tensor
    scores: np.ndarray  # of first and second, (P,)
    masks: np.ndarray | None  # the flower's part at each pixel, (P, H, W)
    flowers: list  # how to draw them again, as of `flowers_of`; none of photographs

    def graded(self, model: nn.Module, several: Sequence) -> dict[str, Callable]:
        """`graded` for one of several lists of maps, the mean of their measures."""
        rated = [graded(model, self.first, self.second, self.masks, self.flowers, maps) for maps in several]
        return {metric: lambda weights, metric=metric: np.mean([one[metric](weights) for one in rated], axis=0)
                for metric in rated[0]}  # fmt: skip

    def petals_lost(self) -> dict[str, Tensor]:
        """The first pictures as they are, and without what is seen of their petals in three ways: name -> pictures."""
        petals = torch.from_numpy(self.masks == PETAL).to(self.first.device)[:, None]
        over = {"blurred": blurred(self.first), "covered": self.first.mean((2, 3), keepdim=True)}
        lost = {way: torch.where(petals, instead, self.first) for way, instead in over.items()}
        drawn = [interventions(*flower, self.first.shape[-1]) for flower in self.flowers]
        bare = np.stack([made.get("no petals", made[UNCHANGED])[1] for made in drawn])
        return {UNCHANGED: self.first, **lost, "not drawn": as_float(torch.from_numpy(bare)).to(self.first)}


def pairs_to_explain(config: Config, image_set: ImageSet, pairs, model: nn.Module, count: int = 32) -> Pairs:
    """So many pairs of one species, by chance; known masks show the first picture's flower, not it alone."""
    pairs = np.random.default_rng(config.seed).permutation(pairs)[:400]
    if image_set.parts is not None:
        shares = (np.asarray(image_set.parts[pairs[:, 0]]) >= PETAL).mean((1, 2))
        pairs = pairs[(shares > 0) & (shares < 1)]
    pairs = pairs[pairs[:, 2] == 1][:count]
    with evaluation_mode(model):
        scores = model.score(*pair_batch(image_set, pairs, config.device)[:2]).cpu().numpy()
    pairs, scores = pairs[np.argsort(-scores)], np.sort(scores)[::-1]
    rows = np.column_stack([pairs[:, :2], pairs[other_partners(image_set.labels[pairs[:, 0]]), 1]])
    first, second, wrong = (as_float(torch.from_numpy(image_set.images[one])).to(config.device) for one in rows.T)
    masks = None if image_set.parts is None else np.asarray(image_set.parts[rows[:, 0]])
    drawn = image_set.name == "rendered" and not config.grayscale
    flowers = flowers_of(image_set, rows[:, 0], config.seed) if drawn else []
    return Pairs(rows, first, second, wrong, scores, masks, flowers)


def other_partners(labels) -> list[int]:
    """For each label the place of the next one, round the list, that is another. Raises ValueError if there is none."""
    if (kinds := len(set(np.asarray(labels).tolist()))) < 2:
        raise ValueError(f"the pairs show {kinds} species: give pairs of two or more, whose flowers do not fill the "
                         "picture, so that each can be held against a wrong partner")
    ahead = [(place + np.arange(len(labels))) % len(labels) for place in range(len(labels))]
    return [int(places[np.argmax(np.asarray(labels)[places] != labels[places[0]])]) for places in ahead]


def drawn_again(image_set: ImageSet, pairs: Pairs, place: int, effects: pd.DataFrame, size: int = 192) -> dict:
    """A pair's first flower in large, as it is, and changed, and its partner: words, with score or fall -> picture."""
    versions, mine = interventions(*pairs.flowers[place], size), effects[effects["picture"] == place]
    falls = mine[mine["part"] != "leaf"].set_index("intervention")["fall"]
    shown = {f"{UNCHANGED}\nscore {pairs.scores[place]:.2f}": versions[UNCHANGED][1]}
    shown |= {f"{name}\nfall {fall:.2f}": versions[name][1] for name, fall in falls.items() if name in versions}
    return shown | {"compared\nwith": images_to_show(image_set, pairs.rows[place], size)[1]}
