"""What the seven notebooks share. At the door stands what a student looks for by name; bulk lives in five rooms.

Read, drawn and measured pictures: `datasets`, `flowers`, `evaluation`; how models are fooled and explained: `attacks`,
`explanations`. Imports go one way: datasets and flowers, then backbones, losses and mining, then training and
evaluation, then attacks, then explanations.

Conventions, said once and meant by every docstring:
- `images`: as arrays uint8 (N, 3, H, W); as tensors that enter a model float (B, 3, H, W) in [0, 1]. Normalization is
  the model's first layer, so attacks, augmentation and figures share one space.
- `labels`: int (N,), the class of each picture. `indices`: int (M,), which pictures of an image set.
- `pairs`: int (P, 3) of first, second (picture indices) and same, which is 1 for same and 0 for different.
- `embeddings`: float32 (N, D), not scaled to unit length. `scores`: float (P,), higher is more similar.
- `model`: an `EmbeddingNet`, or whatever has its `score_embeddings`; functions leave its mode and gradients as they
  were, and work on the device it is on.
- `threshold`: a `Threshold`, fitted on validation; nothing that judges a test can fit one.
- `eps`: the largest change of a pixel value in units of [0, 1], such as 4 / 255.
- `rounds`: how often pictures are resampled for a 95 % interval (value, low, high, and n, what was counted).
- `seed`: an int that alone decides what is drawn; equal seeds give equal results.
- `protocol`: "closed_set" or "open_set"; docs/protocol.md lists the rules that docstrings cite by number.
"""
