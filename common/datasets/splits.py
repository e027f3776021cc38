"""Who is tested on what: closed-set and open-set splits, each with its fixed lists of pairs."""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from common.config import Config
from common.datasets.files import reason, save_json
from common.datasets.images import SPLITS, ImageSet

SHARES = {"train": 0.5, "validation": 0.2}  # of each species in the closed set; the rest is test
OPEN_SET_SPECIES = 6  # two each to train, to validate and to test: fewer allow no "different" pair


@dataclass(frozen=True)
class Splits:
    """Protocol -> "train", "validation" and "test" -> picture indices, and the pairs they are judged on.

    In "closed_set" the three share every species; in "open_set" none.
    """

    parts: dict[str, dict[str, np.ndarray]]  # int64 (M,)
    pairs: dict[str, dict[str, np.ndarray]]  # int64 (P, 3)
    fingerprint: str  # of the data set the indices belong to

    @property
    def protocols(self) -> list[str]:
        """What this data set allows: "closed_set" unless its classes are disjoint, "open_set" from six species up."""
        return list(self.parts)


def make_splits(image_set: ImageSet, config: Config, keep=None) -> Splits:
    """Draw both protocols' splits and their lists of at most `config.pairs` pairs, and check them.

    The closed set is the official split where there is one; `disjoint` classes have an open set only. `keep`, bool
    (N,), is False for pictures to leave out. Raises ValueError for an official split that is incomplete or breaks its
    protocol, and for disjoint classes that are fewer than six.
    """
    keep = np.ones(len(image_set), bool) if keep is None else np.asarray(keep, bool)
    labels, official, parts = image_set.labels, image_set.official, {}
    if not keep.any():
        raise ValueError(f"of the {len(keep)} pictures of {image_set.name!r} none is left: each is the copy of one "
                         "with another label; look at the pictures")
    if missing := [name for name in SPLITS if official and name not in official]:
        raise ValueError(f"the official split of {image_set.name!r} has no {' and no '.join(missing)} pictures")
    if not image_set.disjoint:
        parts["closed_set"] = {name: indices[keep[indices]] for name, indices in official.items()} or stratified_split(
            labels, keep, config.seed)
    if image_set.disjoint or len(np.unique(labels[keep])) >= OPEN_SET_SPECIES:
        parts["open_set"] = open_set_split(labels, keep, config.seed)
    pairs = {protocol: {name: make_pairs(labels, part[name], config.pairs, config.seed) for name in SPLITS}
             for protocol, part in parts.items()}
    splits = Splits(parts, pairs, image_set.fingerprint)
    check_splits(splits, image_set)
    return splits


def stratified_split(labels, keep, seed: int) -> dict[str, np.ndarray]:
    """Split each species' pictures, those to `keep`, by SHARES: SPLITS -> sorted int64 indices.

    From six pictures up, validation and test get two or more, for same pairs; below, train is served first, then test.
    """
    generator, parts = np.random.default_rng(seed), {name: [] for name in SPLITS}
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero((labels == label) & keep))
        count, least = len(members), 2 if len(members) >= 6 else 0
        validation = max(least, round(SHARES["validation"] * count))
        train = max(1, min(int(SHARES["train"] * count), count - validation - least))
        for name, part in zip(SPLITS, np.split(members, [train, train + validation]), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def open_set_split(labels, keep, seed: int) -> dict[str, np.ndarray]:
    """As `stratified_split`, but of the species themselves: half to train, a sixth to validate, a third to test.

    Raises ValueError for fewer than six species.
    """
    species = np.random.default_rng(seed).permutation(np.unique(labels[keep]))
    if len(species) < OPEN_SET_SPECIES:
        raise ValueError(f"the open-set protocol needs {OPEN_SET_SPECIES} species or more; here are {len(species)}")
    validation, test = max(2, round(len(species) / 6)), max(2, round(len(species) / 3))
    parts = np.split(species, [len(species) - validation - test, len(species) - test])
    return {name: np.flatnonzero(np.isin(labels, part) & keep) for name, part in zip(SPLITS, parts, strict=True)}


def make_pairs(labels, indices, most: int, seed: int) -> np.ndarray:
    """Draw a fixed list of pairs of `indices`, half same and half different, without self-pairs or repeats.

    All same pairs are used where they are no more than `most` / 2, else a sample of them; as many different pairs are
    drawn beside them. Raises ValueError where no species has two pictures, or there is only one species.
    """
    generator, labels, row = np.random.default_rng(seed), labels[indices], np.arange(len(indices))
    species = np.unique(labels, return_inverse=True)[1]
    order = np.argsort(species, kind="stable")  # the pictures species by species
    place = np.argsort(order)  # of each picture in it
    # How many pictures after each one are of its species, and how many are not: the pairs are counted, never listed.
    alike = np.cumsum(np.bincount(species))[species] - 1 - place
    kinds = alike, row[::-1] - alike
    if not all(kind.any() for kind in kinds):
        raise ValueError(f"a split of {len(indices)} pictures of {len(np.unique(labels))} species allows no balanced "
                         "pairs; give two species or more, of six pictures or more each")
    count = min(*(kind.sum() for kind in kinds), most // 2)
    (first, ranks), (other, others) = (_picked(kind, count, generator) for kind in kinds)
    second = order[place[first] + 1 + ranks]
    # Between a picture and the one at place q of its species lie order[q] - order[p] - (q - p) of other species.
    between = order - row + 2 * len(row) * species[order]
    passed = np.searchsorted(between, between[place[other]] + others, side="right") - 1 - place[other]
    rows, columns = np.concatenate([first, other]), np.concatenate([second, other + 1 + others + passed])
    return np.stack([indices[rows], indices[columns], np.arange(2 * count) < count], axis=1).astype(np.int64)


def _picked(counts, size: int, generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` of the things that rows hold by the `counts`: of each its row, and its rank in the row."""
    ends = np.cumsum(counts)
    picked = generator.choice(ends[-1], size, replace=False)
    rows = np.searchsorted(ends, picked, side="right")
    return rows, picked - (ends - counts)[rows]


def some_pairs(pairs, count: int) -> np.ndarray:
    """The first `count` pairs of a list, half same and half different; as `make_pairs` draws, a random sample.

    Where there are fewer, all of the rarer kind are taken. Raises ValueError for a count that is odd or below 2.
    """
    if count < 2 or count % 2:
        raise ValueError(f"{count} pairs cannot be half same and half different; give an even number")
    pairs = np.asarray(pairs)
    kinds = [pairs[pairs[:, 2] == same] for same in (1, 0)]
    half = min(count // 2, *map(len, kinds))
    return np.concatenate([kind[:half] for kind in kinds])


def check_pairs(pairs, allowed, labels, name: str) -> None:
    """Raise ValueError, with every fault, where list `name` of the pictures `allowed` is not as `make_pairs` draws."""
    first, second, same = pairs.T
    unordered = pairs[:, :2].min(1) * len(labels) + pairs[:, :2].max(1)  # a number for each pair of pictures
    faults = {
        "a picture from outside its split": not np.isin(pairs[:, :2], allowed).all(),
        "a picture paired with itself": (first == second).any(),
        "a wrong label (same = 1, different = 0)": (same != (labels[first] == labels[second])).any(),
        "an unequal number of same and different pairs": 2 * same.sum() != len(same),
        "the same pair twice": len(np.unique(unordered)) != len(pairs),
    }
    if found := [fault for fault, present in faults.items() if present]:
        raise ValueError(f"{name} hold {' and '.join(found)}")


def check_splits(splits: Splits, image_set: ImageSet) -> None:
    """Raise ValueError where a picture, its copy, or (open set) a species is on two sides, or a pair is wrong."""
    allowed = {"open_set"} if image_set.disjoint else {"closed_set", "open_set"}
    if not splits.parts or not set(splits.parts) <= allowed or splits.parts.keys() != splits.pairs.keys():
        raise ValueError(f"{image_set.name!r} allows {allowed}, not parts {[*splits.parts]}, pairs {[*splits.pairs]}")
    for protocol, parts in splits.parts.items():
        for name, part in parts.items():
            if len(np.unique(part)) < len(part) or (len(part) and not 0 <= part.min() <= part.max() < len(image_set)):
                raise ValueError(f"{protocol}: {name} holds a picture twice, or one that none of {len(image_set)} is")
        kinds = {"picture": np.arange(len(image_set)), "picture content": image_set.hashes}
        if protocol == "open_set":
            kinds["species"] = image_set.labels
        for one, other in combinations(SPLITS, 2):
            for kind, values in kinds.items():
                shared = {*values[parts[one]].tolist()} & {*values[parts[other]].tolist()}
                if shared:
                    some = sorted(shared)[:5]
                    raise ValueError(f"{protocol}: {one} and {other} share {len(shared)} times a {kind}: {some}")
        for name, pairs in splits.pairs[protocol].items():
            check_pairs(pairs, parts[name], image_set.labels, f"{protocol} {name} pairs")


def save_splits(splits: Splits, path: Path) -> None:
    """Write the splits and pair lists as JSON, whole or not at all."""
    save_json(path, {"fingerprint": splits.fingerprint, "parts": splits.parts, "pairs": splits.pairs})


def read_splits(path: Path, image_set: ImageSet) -> Splits:
    """Read splits written by `save_splits` and check them against the pictures at hand.

    Raises ValueError where they are those of other pictures, or break their protocol.
    """
    try:
        content = json.loads(path.read_text())
        fingerprint = content["fingerprint"]
        parts, pairs = ({protocol: {name: _whole_numbers(lists[name], shape) for name in SPLITS}
                         for protocol, lists in content[kind].items()}
                        for kind, shape in (("parts", (-1,)), ("pairs", (-1, 3))))
        splits = Splits(parts, pairs, fingerprint)
        if fingerprint == image_set.fingerprint:
            check_splits(splits, image_set)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever somebody's editor, or half a file, makes of it
        raise ValueError(f"{path} holds no splits of these pictures ({reason(error)}): move it away and run R1, which "
                         "draws them again, and the same") from error
    if fingerprint != image_set.fingerprint:
        raise ValueError(f"{path} was drawn on the data set with fingerprint {fingerprint}, but {image_set.name!r} "
                         f"here has {image_set.fingerprint}, as files, size or colors differ: set "
                         "SIMILARITY_CHECKPOINTS to another folder")
    return splits


def _whole_numbers(values, shape: tuple) -> np.ndarray:
    array = np.array(values)
    if array.dtype.kind != "i" or array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        raise ValueError(f"{array.dtype} {array.shape} instead of whole numbers {shape}")
    return array.astype(np.int64)
