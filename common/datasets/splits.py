"""Who is tested on what: closed-set and open-set splits, each with its fixed lists of pairs."""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.config import Config
from common.datasets.images import ImageSet
from common.datasets.pairs import check_pairs, make_pairs
from common.files import save_json

NAMES = ("train", "validation", "test")
OPEN_SET_SPECIES = 6  # two each to train, to validate and to test: fewer allow no "different" pair


@dataclass(frozen=True)
class Splits:
    """Picture indices of each protocol and the pairs they are judged on.

    Attributes:
        parts: protocol -> "train", "validation", "test" -> int64 picture indices. In "closed_set" the
            three share every species; in "open_set" none.
        pairs: protocol -> "train", "validation", "test" -> int64 (P, 3): first, second, same (1) or
            different (0).
        fingerprint: of the data set the indices belong to.
    """

    parts: dict[str, dict[str, np.ndarray]]
    pairs: dict[str, dict[str, np.ndarray]]
    fingerprint: str

    @property
    def protocols(self) -> list[str]:
        """The protocols this data set allows: "closed_set" unless its classes must be disjoint, and "open_set" from
        six species up."""
        return list(self.parts)


def make_splits(image_set: ImageSet, config: Config, keep=None, split: str = "official") -> Splits:
    """Draw both protocols' splits and their pair lists, and check them.

    Args:
        image_set: the pictures. Where its classes are `disjoint` (faces, persons), there is an open set only.
        config: gives the seed and the largest number of pairs in a list.
        keep: bool (N,), False for pictures to leave out (duplicates); default: keep all.
        split: "official" follows the data set's own closed-set split where it has one; "swapped"
            exchanges its train and test, as the predecessor did, for comparison with its figures only.

    Returns:
        The `Splits`; `save_splits` stores them.

    Raises:
        ValueError: an unknown or unavailable `split`, a split that breaks its protocol, or disjoint classes that
            are fewer than six.
    """
    keep = np.ones(len(image_set), bool) if keep is None else np.asarray(keep, bool)
    labels = image_set.labels
    parts, official = {}, _official(image_set, keep, split)
    if not image_set.disjoint:
        parts["closed_set"] = official or stratified_split(labels, keep, config.seed)
    if image_set.disjoint or len(np.unique(labels[keep])) >= OPEN_SET_SPECIES:
        parts["open_set"] = open_set_split(labels, keep, config.seed)
    pairs = {
        protocol: {name: make_pairs(labels, part[name], config.pairs, config.seed) for name in NAMES}
        for protocol, part in parts.items()
    }
    splits = Splits(parts, pairs, image_set.fingerprint)
    check_splits(splits, image_set)
    return splits


def keep_one(image_set: ImageSet, duplicates) -> np.ndarray:
    """Decide which pictures stay where several are the same: bool (N,), the `keep` of `make_splits`.

    Of each group of duplicates (linked by the index pairs `first`, `second` of `find_duplicates`' table) one
    stays, from test rather than validation rather than train, so that an official test stays whole. A group
    that bears two labels is left out entirely: nobody knows which of them is right.
    """
    pairs = (np.ones(len(duplicates)), duplicates[["first", "second"]].to_numpy().T)
    group = connected_components(coo_array(pairs, (len(image_set), len(image_set))), directed=False)[1]
    rank = np.full(len(image_set), len(NAMES))
    for place, name in enumerate(reversed(NAMES)):
        rank[image_set.official.get(name, [])] = place
    order = np.lexsort((rank, group))
    kept = order[np.unique(group[order], return_index=True)[1]]  # one for each group, in order
    labels_borne = np.bincount(np.unique([group, image_set.labels], axis=1)[0])
    return np.isin(np.arange(len(image_set)), kept[labels_borne == 1])


def stratified_split(labels, keep, seed: int, shares=(0.5, 0.2)) -> dict[str, np.ndarray]:
    """Split each species' pictures into train, validation and test.

    Args:
        labels: int (N,), the species of each picture.
        keep: bool (N,), pictures that take part.
        seed: of the shuffle.
        shares: of train and validation in each species; the rest is test. From six pictures up, validation
            and test get two or more, so that same pairs exist; below, train is served first, then test.

    Returns:
        "train", "validation", "test" -> sorted int64 indices.
    """
    generator, parts = np.random.default_rng(seed), {name: [] for name in NAMES}
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero((labels == label) & keep))
        count, least = len(members), 2 if len(members) >= 6 else 0
        validation = max(least, round(shares[1] * count))
        train = max(1, min(int(shares[0] * count), count - validation - least))
        for name, part in zip(NAMES, np.split(members, [train, train + validation]), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def open_set_split(labels, keep, seed: int) -> dict[str, np.ndarray]:
    """Split the species themselves: half to train, a sixth to validate, a third to test.

    Args:
        labels: int (N,), the species of each picture.
        keep: bool (N,), pictures that take part.
        seed: of the shuffle.

    Returns:
        "train", "validation", "test" -> sorted int64 indices, no species in two of them.

    Raises:
        ValueError: fewer than six species.
    """
    species = np.random.default_rng(seed).permutation(np.unique(labels[keep]))
    if len(species) < OPEN_SET_SPECIES:
        raise ValueError(f"the open-set protocol needs {OPEN_SET_SPECIES} species or more; here are {len(species)}")
    validation = max(2, round(len(species) / 6))
    test = max(2, round(len(species) / 3))
    cuts = [len(species) - validation - test, len(species) - test]
    parts = zip(NAMES, np.split(species, cuts), strict=True)
    return {name: np.flatnonzero(np.isin(labels, part) & keep) for name, part in parts}


def check_splits(splits: Splits, image_set: ImageSet) -> None:
    """Raise ValueError where a picture, its copy, or (open set) a species is on two sides."""
    for protocol, parts in splits.parts.items():
        for one, other in combinations(NAMES, 2):
            kinds = {"picture": np.arange(len(image_set)), "picture content": image_set.hashes}
            if protocol == "open_set":
                kinds["species"] = image_set.labels
            for kind, values in kinds.items():
                shared = np.intersect1d(values[parts[one]], values[parts[other]])
                if len(shared):
                    raise ValueError(f"{protocol}: {one} and {other} share {len(shared)} times a {kind}: {shared[:5]}")
    for protocol, lists in splits.pairs.items():
        for name, pairs in lists.items():
            check_pairs(pairs, splits.parts[protocol][name], image_set.labels, f"{protocol} {name} pairs")


def save_splits(splits: Splits, path: Path) -> None:
    """Write the splits and pair lists as JSON, whole or not at all."""
    content = {
        "fingerprint": splits.fingerprint,
        "parts": {protocol: _listed(parts) for protocol, parts in splits.parts.items()},
        "pairs": {protocol: _listed(lists) for protocol, lists in splits.pairs.items()},
    }
    save_json(path, content)


def read_splits(path: Path, image_set: ImageSet) -> Splits:
    """Read splits written by `save_splits` and check them against the pictures at hand.

    Raises:
        ValueError: they were drawn on other pictures, or break their protocol.
    """
    content = json.loads(path.read_text())
    if content["fingerprint"] != image_set.fingerprint:
        raise ValueError(
            f"{path} was drawn on the data set with fingerprint {content['fingerprint']}, but {image_set.name!r} "
            f"here has {image_set.fingerprint}; delete {path.parent} or set SIMILARITY_CHECKPOINTS to another folder"
        )
    parts, pairs = (
        {protocol: _arrays(lists) for protocol, lists in content[kind].items()} for kind in ("parts", "pairs")
    )
    splits = Splits(parts, pairs, content["fingerprint"])
    check_splits(splits, image_set)
    return splits


def _official(image_set, keep, split):
    if split not in ("official", "swapped"):
        raise ValueError(f"split {split!r} is unknown; use 'official' or 'swapped'")
    if not image_set.official:
        if split == "swapped":
            raise ValueError(f"{image_set.name!r} has no official split to swap")
        return None
    if missing := [name for name in NAMES if name not in image_set.official]:
        raise ValueError(f"the official split of {image_set.name!r} has no {' and no '.join(missing)} pictures")
    parts = {name: indices[keep[indices]] for name, indices in image_set.official.items()}
    if split == "swapped":
        parts["train"], parts["test"] = parts["test"], parts["train"]
    return parts


def _listed(arrays):
    return {name: array.tolist() for name, array in arrays.items()}


def _arrays(lists):
    return {name: np.asarray(values, dtype=np.int64) for name, values in lists.items()}
