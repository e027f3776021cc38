"""Two processes on the CPU train as one does: equal losses and gradients on the whole batch, equal embeddings."""

import os
import subprocess
import sys

import pytest
import torch

from common.config import ROOT

WORK = """
import sys
import torch
import numpy as np
from accelerate import Accelerator
from common.backbones import EmbeddingNet, SiameseNet, embed
from common.losses import Classification, PairJudgment, TripletJudgment
from common.training import embed_together, fit

accelerator = Accelerator(cpu=True)
found = {"processes": accelerator.num_processes}
images, labels = torch.rand(11, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(11) // 2
for name in ("center", "siamese", "triplet"):
    torch.manual_seed(0)
    network = SiameseNet if name == "siamese" else EmbeddingNet
    model = network("test_convnext", 8, 6, batch_norm=False)  # its norms look at one picture at a time
    objective = {
        "center": Classification(model.classify, 6, 8, 0.1),
        "siamese": PairJudgment(model.score_embeddings, 6, 8, negatives="hard"),
        "triplet": TripletJudgment("batch_hard"),
    }[name]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
    history = fit(model, objective, [(images, labels)] * 2, optimizers, 1, lambda model: 0.5, keep="last")
    found[name] = history["loss"].item(), torch.cat([weight.grad.flatten() for weight in model.parameters()
                                                     if weight.grad is not None])
pictures = np.random.default_rng(0).integers(0, 256, (13, 3, 32, 32), np.uint8)
found["embed"] = torch.from_numpy(embed(model, pictures, batch_size=4))
if accelerator.is_main_process:
    torch.save(found, sys.argv[1])
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process finds, and what two do."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "work.py").write_text(WORK)
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command = [*launch, str(folder / "work.py"), str(folder / str(count))]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(folder / str(count)) for count in (1, 2)]
    assert [one["processes"] for one in found] == [1, 2]  # else nothing is compared
    return found


@pytest.mark.parametrize("name", ["center", "siamese", "triplet"])
def test_loss_and_gradients_are_those_of_the_whole_batch(found, name):
    (loss, gradients), (their_loss, theirs) = (one[name] for one in found)
    assert loss == pytest.approx(their_loss, abs=1e-5)
    torch.testing.assert_close(theirs, gradients, rtol=0, atol=1e-5)
    assert gradients.abs().max() > 1e-3


def test_embeddings_come_in_the_order_of_the_pictures(found):
    torch.testing.assert_close(found[1]["embed"], found[0]["embed"], rtol=0, atol=1e-5)
