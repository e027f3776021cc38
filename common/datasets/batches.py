"""What a batch is: which pictures are drawn together, and how they are varied."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from common.datasets.images import ImageSet


class Pictures(Dataset):
    """Some pictures of an `ImageSet` with their labels, handed out a whole batch at a time."""

    def __init__(self, image_set: ImageSet, indices, labels=None):
        """
        Args:
            image_set: where the pictures are.
            indices: int (M,), which of them, in this order.
            labels: int (M,), what stands for each picture's class; default: its species.
        """
        self.images = image_set.images
        self.indices = np.asarray(indices)
        self.labels = image_set.labels[self.indices] if labels is None else np.asarray(labels)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item):
        return self.__getitems__([item])

    def __getitems__(self, items):
        pictures = np.asarray(self.images[self.indices[items]])
        return torch.from_numpy(pictures), torch.as_tensor(self.labels[items], dtype=torch.long)


def batches(pictures: Pictures, batch_size: int, shuffle: bool = False, seed: int = 0) -> DataLoader:
    """Group single pictures into batches; one epoch shows every picture once.

    Args:
        pictures: what to show.
        batch_size: pictures in a batch, 1 or more. When shuffling, a last batch of a single picture
            is dropped: BatchNorm cannot train on it.
        shuffle: a new order every epoch.
        seed: of the order.

    Returns:
        A DataLoader of (uint8 (B, 3, H, W), int64 (B,)).
    """
    return DataLoader(
        pictures,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=shuffle and len(pictures) > batch_size and len(pictures) % batch_size == 1,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=_as_is,
    )


class SpeciesSampler(Sampler):
    """P x K batches: P species, K pictures of each, so that every batch holds same and different pairs.

    An epoch is as many batches as it takes to show about as many pictures as there are. Species take
    turns in a random order, and so do the pictures of a species; a picture of a small species is
    therefore seen more often than one of a large species.
    """

    def __init__(self, labels, species: int, pictures: int, generator: torch.Generator):
        """
        Args:
            labels: int (M,), the species of each picture.
            species: P, 2 or more; all there are, if they are fewer.
            pictures: K, 2 or more; a species with fewer gives all it has.
            generator: source of the order.

        Raises:
            ValueError: P or K below 2, one species only, or no species with two pictures.
        """
        self.members = {label: np.flatnonzero(np.equal(labels, label)).tolist() for label in np.unique(labels)}
        if species < 2 or pictures < 2:
            raise ValueError(f"{species} species x {pictures} pictures hold no triplet; give 2 x 2 or more")
        if len(self.members) < 2 or max(map(len, self.members.values())) < 2:
            raise ValueError(f"{len(labels)} pictures of {len(self.members)} species hold no triplet; add pictures")
        self.species, self.generator = min(species, len(self.members)), generator
        self.pictures = {label: min(pictures, len(members)) for label, members in self.members.items()}
        self.batches = max(1, round(len(labels) / (self.species * np.mean([*self.pictures.values()]))))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        order = np.random.default_rng(torch.randint(2**31, (1,), generator=self.generator).item())
        species = _turns([*self.members], self.species, order)
        pictures = {label: _turns(self.members[label], count, order) for label, count in self.pictures.items()}
        for _ in range(self.batches):
            yield [picture for label in next(species) for picture in next(pictures[label])]


def _turns(items: list, count: int, order: np.random.Generator):
    """Groups of `count` different items without end: all come once, in a random order, before any comes again."""
    waiting = []
    while True:
        if len(waiting) < count:  # those still waiting go first, and last in the round that now begins
            waiting += sorted(order.permutation(items).tolist(), key=waiting.__contains__)
        yield waiting[:count]
        waiting = waiting[count:]


def species_batches(pictures: Pictures, species: int, per_species: int, seed: int = 0) -> DataLoader:
    """Group pictures into P x K batches; see `SpeciesSampler` for what an epoch is.

    Args:
        pictures: what to show.
        species: P, species in a batch.
        per_species: K, pictures of each.
        seed: of the order.

    Returns:
        A DataLoader of (uint8 (P K, 3, H, W), int64 (P K,)).
    """
    generator = torch.Generator().manual_seed(seed)
    sampler = SpeciesSampler(pictures.labels, species, per_species, generator)
    return DataLoader(pictures, batch_sampler=sampler, generator=generator, collate_fn=_as_is)


class TripletSampler(Sampler):
    """Batches of given triplets: all anchors, then all positives, then all negatives, each triplet in its turn."""

    def __init__(self, triplets: int, size: int, shown: int, generator: torch.Generator):
        """
        Args:
            triplets: how many there are; triplet t is made of the items 3 t, 3 t + 1 and 3 t + 2.
            size: triplets in a batch; all there are, if they are fewer.
            shown: pictures an epoch shows, about.
            generator: source of the order.

        Raises:
            ValueError: no triplet at all.
        """
        if triplets < 1:
            raise ValueError("there is no triplet to learn from; give one or more")
        self.triplets, self.size, self.generator = triplets, min(size, triplets), generator
        self.batches = max(1, round(shown / (3 * self.size)))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        order = np.random.default_rng(torch.randint(2**31, (1,), generator=self.generator).item())
        turns = _turns([*range(self.triplets)], self.size, order)
        for _ in range(self.batches):
            chosen = next(turns)
            yield [3 * triplet + role for role in range(3) for triplet in chosen]


def triplet_batches(image_set: ImageSet, triplets, size: int, shown: int, seed: int = 0) -> DataLoader:
    """Group given triplets into batches for `TripletJudgment("given")`.

    Args:
        image_set: where the pictures are.
        triplets: int (T, 3): indices of anchor, positive, negative.
        size: B, triplets in a batch.
        shown: pictures an epoch shows, about.
        seed: of the order.

    Returns:
        A DataLoader of (uint8 (3 B, 3, H, W), int64 (3 B,)): anchors, then positives, then negatives.
    """
    generator = torch.Generator().manual_seed(seed)
    sampler = TripletSampler(len(triplets), size, shown, generator)
    pictures = Pictures(image_set, np.reshape(triplets, -1))
    return DataLoader(pictures, batch_sampler=sampler, generator=generator, collate_fn=_as_is)


def as_float(images: Tensor) -> Tensor:
    """Turn uint8 pixels 0..255 into the float32 [0, 1] every model takes."""
    return images.float() / 255


def pair_batch(image_set: ImageSet, pairs, device="cpu") -> tuple[Tensor, Tensor, Tensor]:
    """The pictures and labels of pairs as attacks and explanations take them: first, second, same."""
    pairs = np.asarray(pairs)
    first, second = (torch.from_numpy(np.array(image_set.images[pairs[:, side]])) for side in (0, 1))
    return as_float(first.to(device)), as_float(second.to(device)), torch.as_tensor(pairs[:, 2], device=device)


def augment(images: Tensor, generator: torch.Generator | None = None, strength: float = 1.0) -> Tensor:
    """Vary each picture of a batch in its own way: flip, shift, turn, zoom, brightness and contrast.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        generator: source of the random numbers, on the CPU.
        strength: scales every change but the flip, 0 or more.

    Returns:
        float (B, 3, H, W) in [0, 1], differentiable in `images`.
    """
    count = len(images)

    def uniform(low, high, center=0.0):
        drawn = torch.rand(count, generator=generator) * (high - low) + low
        return (center + strength * drawn).to(images)

    angle, zoom = uniform(-math.pi / 12, math.pi / 12), uniform(-0.25, 0.05, 1.0)
    flip = (torch.rand(count, generator=generator) * 2 - 1).sign().to(images)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cosine * flip, -sine, uniform(-0.15, 0.15)], 1)]
    rows += [torch.stack([sine * flip, cosine, uniform(-0.15, 0.15)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), images.shape, align_corners=False)
    varied = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = (uniform(*bounds)[:, None, None, None] for bounds in ((-0.2, 0.2, 1.0), (-0.1, 0.1)))
    mean = varied.mean(dim=(1, 2, 3), keepdim=True)
    return ((varied - mean) * contrast + mean + brightness).clamp(0, 1)


def _as_is(batch):
    return batch
