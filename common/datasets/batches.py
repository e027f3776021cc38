"""What a batch is: which pictures are drawn together, and how they are varied."""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from common.datasets.images import ImageSet


class Pictures(Dataset):
    """The pictures `indices` of an `ImageSet`, in this order, and what stands for their classes (default: `labels`).

    An item is a whole batch: a list of positions gives uint8 (B, 3, H, W) and int64 (B,).
    """

    def __init__(self, image_set: ImageSet, indices, labels=None):
        self.images = image_set.images
        self.indices = np.asarray(indices)
        self.labels = image_set.labels[self.indices] if labels is None else np.asarray(labels)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, items: list[int]) -> tuple[Tensor, Tensor]:
        images = np.asarray(self.images[self.indices[items]])
        return torch.from_numpy(images), torch.as_tensor(self.labels[items], dtype=torch.long)

    __getitems__ = __getitem__  # by which a loader asks for a batch


def batches(pictures: Pictures, batch_size: int, shuffle: bool = False, seed: int = 0) -> DataLoader:
    """Group single pictures into batches; one epoch shows every picture once, with `shuffle` in a new order.

    When shuffling, a last batch of a single picture is dropped: BatchNorm cannot train on it.
    """
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(pictures, generator=generator) if shuffle else SequentialSampler(pictures)
    lone = shuffle and len(pictures) > batch_size and len(pictures) % batch_size == 1
    return _loader(pictures, BatchSampler(order, batch_size, drop_last=lone), generator)


def species_batches(pictures: Pictures, species: int, per_species: int, seed: int = 0) -> DataLoader:
    """Group pictures into P x K batches: P `species`, K pictures of each, so that all hold same and different pairs.

    An epoch shows about as many pictures as there are. Species take turns in a random order, and so do the pictures of
    a species: one of a small species is seen more often. A species with fewer than K pictures gives all it has. Raises
    ValueError where there is no triplet: P or K below 2, one species only, or no species with two pictures.
    """
    members = {label: np.flatnonzero(pictures.labels == label).tolist() for label in np.unique(pictures.labels)}
    if species < 2 or per_species < 2:
        raise ValueError(f"{species} species x {per_species} pictures hold no triplet; give 2 x 2 or more")
    if len(members) < 2 or max(map(len, members.values())) < 2:
        raise ValueError(f"{len(pictures)} pictures of {len(members)} species hold no triplet; add pictures")
    species = min(species, len(members))
    counts = {label: min(per_species, len(own)) for label, own in members.items()}

    def stream(order):
        own = {label: _turns(members[label], count, order) for label, count in counts.items()}
        for labels in _turns([*members], species, order):
            yield [picture for label in labels for picture in next(own[label])]

    return _loader(pictures, _Stream(stream, len(pictures) / (species * np.mean([*counts.values()])), seed))


def triplet_batches(image_set: ImageSet, size: int, indices, seed: int = 0) -> DataLoader:
    """Group the triplets given with pictures, of those among `indices`, into batches for `TripletJudgment("given")`.

    A batch has `size` triplets or all: first anchors, then positives, then negatives. They take turns, and an epoch
    shows about as many pictures as there are `indices`. Raises ValueError without a triplet.
    """
    triplets = image_set.triplets[np.isin(image_set.triplets, indices).all(1)]
    if len(triplets) < 1:
        raise ValueError("there is no triplet to learn from; give one or more")
    size = min(size, len(triplets))

    def stream(order):
        for chosen in _turns([*range(len(triplets))], size, order):
            yield [3 * triplet + role for role in range(3) for triplet in chosen]

    return _loader(Pictures(image_set, np.reshape(triplets, -1)), _Stream(stream, len(indices) / (3 * size), seed))


def _turns(items: list, count: int, order: np.random.Generator) -> Iterator[list]:
    """Groups of `count` different items without end: all come once, in a random order, before any comes again."""
    waiting = []
    while True:
        if len(waiting) < count:  # those still waiting go first, and last in the round that now begins
            waiting += sorted(order.permutation(items).tolist(), key=waiting.__contains__)
        yield waiting[:count]
        waiting = waiting[count:]


class _Stream(Sampler):
    """Every epoch the first `count` batches of an endless stream, each time in another order."""

    def __init__(self, stream: Callable[[np.random.Generator], Iterator[list]], count: float, seed: int):
        self.stream, self.count, self.generator = stream, max(1, round(count)), torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        order = np.random.default_rng(torch.randint(2**31, (1,), generator=self.generator).item())
        yield from islice(self.stream(order), self.count)


def _loader(pictures: Pictures, sampler: Sampler, generator: torch.Generator | None = None) -> DataLoader:
    """A loader of the batches that `sampler` lists, whole as `Pictures` gives them: the form that accelerate knows."""
    return DataLoader(pictures, batch_sampler=sampler, collate_fn=lambda batch: batch,
                      generator=generator or sampler.generator)


def as_float(images: Tensor) -> Tensor:
    """Turn uint8 pixels 0..255 into the float32 [0, 1] every model takes."""
    return images.float() / 255


def exact(values: Tensor) -> Tensor:
    """The values as float64, on the CPU where their device has none, as Apple's."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def pair_batch(image_set: ImageSet, pairs, device="cpu") -> tuple[Tensor, Tensor, Tensor]:
    """The pictures and labels of pairs as attacks and explanations take them: first, second, same."""
    pairs = np.asarray(pairs)
    first, second = (torch.from_numpy(np.array(image_set.images[pairs[:, side]])) for side in (0, 1))
    return as_float(first.to(device)), as_float(second.to(device)), torch.as_tensor(pairs[:, 2], device=device)


def augment(images: Tensor, generator: torch.Generator | None = None, strength: float = 1.0) -> Tensor:
    """Vary each picture of a batch in its own way: flip, shift, turn, zoom, brightness and contrast.

    `strength`, 0 or more, scales every change but the flip; `generator` is on the CPU. Differentiable in `images`.
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
    # As affine_grid of all pictures, to the last bit: a batch of such thin products is faster the other way round.
    still = F.affine_grid(torch.eye(2, 3).to(images)[None], images[:1].shape, align_corners=False).flatten(0, 2).T
    moved = torch.stack(rows, 1).bmm(F.pad(still, (0, 0, 0, 1), value=1).expand(count, -1, -1))
    grid = moved.unflatten(2, images.shape[2:]).permute(0, 2, 3, 1)
    varied = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = (uniform(*bounds)[:, None, None, None] for bounds in ((-0.2, 0.2, 1.0), (-0.1, 0.1)))
    mean = varied.mean(dim=(1, 2, 3), keepdim=True)
    return varied.sub_(mean).mul_(contrast).add_(mean).add_(brightness).clamp_(0, 1)  # in place, half as slow
