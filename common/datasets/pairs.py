"""The fixed lists of pairs that a split is judged on."""

import numpy as np

MOST_PICTURES = 8_000  # their 32 million candidate pairs still fit in memory


def make_pairs(labels, indices, most: int, seed: int) -> np.ndarray:
    """Draw a fixed list of pairs, half same and half different, without self-pairs or repeats.

    All same pairs are used where they are no more than `most` / 2, else a sample of them; as many
    different pairs are drawn beside them. Beyond 8,000 pictures a sample of 8,000 is paired.

    Args:
        labels: int (N,), the species of every picture of the data set.
        indices: int (M,), the pictures of this split.
        most: the largest number of pairs.
        seed: of the draw; the list depends on nothing else.

    Returns:
        int64 (P, 3): first index, second index, same (1) or different (0).

    Raises:
        ValueError: no species has two pictures here, or there is only one species.
    """
    generator = np.random.default_rng(seed)
    if len(indices) > MOST_PICTURES:
        indices = generator.choice(indices, MOST_PICTURES, replace=False)
    rows, columns = np.triu_indices(len(indices), k=1)
    same = labels[indices][rows] == labels[indices][columns]
    if not same.any() or same.all():
        raise ValueError(
            f"{len(indices)} pictures of {len(np.unique(labels[indices]))} species allow no balanced pairs; "
            "give two species or more, of six pictures or more each"
        )
    count = min(int(same.sum()), int((~same).sum()), most // 2)
    chosen = np.concatenate([generator.choice(np.flatnonzero(group), count, replace=False) for group in (same, ~same)])
    pairs = np.stack([indices[rows[chosen]], indices[columns[chosen]], same[chosen]], axis=1)
    return pairs.astype(np.int64)


def some_pairs(pairs, count: int) -> np.ndarray:
    """The first `count` pairs of a list (P, 3), half same and half different; as `make_pairs` draws, a random sample.

    Raises:
        ValueError: a count that is odd or below 2. Where there are fewer pairs, all of the rarer kind are taken.
    """
    if count < 2 or count % 2:
        raise ValueError(f"{count} pairs cannot be half same and half different; give an even number")
    pairs = np.asarray(pairs)
    kinds = [pairs[pairs[:, 2] == same] for same in (1, 0)]
    half = min(count // 2, *map(len, kinds))
    return np.concatenate([kind[:half] for kind in kinds])


def check_pairs(pairs, allowed, labels, name: str) -> None:
    """Raise ValueError, with every fault found, where a list breaks the rules of `make_pairs`.

    Args:
        pairs: int (P, 3): first index, second index, same or different.
        allowed: int (M,), the pictures of the list's split.
        labels: int (N,), the species of every picture of the data set.
        name: what the list is called in the message.
    """
    first, second, same = pairs.T
    faults = {
        "a picture from outside its split": not np.isin(pairs[:, :2], allowed).all(),
        "a picture paired with itself": (first == second).any(),
        "a wrong label (same = 1, different = 0)": (same != (labels[first] == labels[second])).any(),
        "an unequal number of same and different pairs": 2 * same.sum() != len(same),
        "the same pair twice": len(np.unique(np.sort(pairs[:, :2]), axis=0)) != len(pairs),
    }
    found = [fault for fault, present in faults.items() if present]
    if found:
        raise ValueError(f"{name} hold {' and '.join(found)}")
