"""kill -9 at random moments of a run, and two runs at once: files are whole, a rerun gives the same, no row is lost.

A run is R1's and R3's work on tiny pictures: decode, split, train, write a checkpoint, record rows. It happens in a
forked process, so that a run takes a second and not the five that the imports take.
"""

import os
import pickle
import signal
import time
import traceback
from functools import partial
from itertools import count

import numpy as np
import pandas as pd
import pytest
import torch
from toys import TINY, class_folder

from common import checkpoints
from common.backbones import EmbeddingNet, create_backbone, new_model
from common.config import setup
from common.datasets import load_images
from common.datasets.batches import Pictures, batches
from common.datasets.files import lock
from common.datasets.splits import make_splits, read_splits, save_splits
from common.evaluation.metrics import Threshold
from common.evaluation.reports import pair_auc
from common.ledger import read_results, record
from common.losses import Classification
from common.training import fit

KILLS, PAIRS = 200, 20
create_backbone(TINY)  # imports timm before the forks
NAME = "best_model_center_loss.pth"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def settle(place):
    """The configuration of a run whose every file lies in `place`."""
    kept = dict(checkpoints=place / "checkpoints", cache=place / "cache", image_size=32, device="cpu", epochs=2)
    return setup(dataset=f"folder:{place / 'set'}", **kept)


def rows(value, approach="center_loss"):
    """A ledger's row."""
    known = dict(variant="standard", protocol="closed_set", split="test", metric="roc_auc", low=0.0, high=1.0)
    return pd.DataFrame([dict(approach=approach, value=value, n=9, seed=0, **known)])


def work(place):
    """What R1 and R3 do, each step as the notebooks do it: what is there is read, what is missing is made."""
    config = settle(place)
    pictures = load_images(config)
    path = config.directory / "splits.json"
    if not path.exists():
        save_splits(make_splits(pictures, config), path)
        record(config, pictures, "R1", rows(0.5, "chance"))
    splits = read_splits(path, pictures)
    part, pairs = splits.parts["closed_set"], splits.pairs["closed_set"]
    if not (config.directory / NAME).exists():
        model = new_model(config, TINY, config.seed, EmbeddingNet, len(pictures.class_names))
        loader = batches(Pictures(pictures, part["train"]), 6, shuffle=True, seed=config.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        objective = Classification(model.classify, len(pictures.class_names), config.embedding_size)
        check = partial(pair_auc, image_set=pictures, pairs=pairs["validation"])
        history = fit(model, objective, loader, [optimizer], config.epochs, check).drop(columns="seconds")
        checkpoints.save(config, pictures, NAME, model, Threshold(0.5, "validation"), history)
    model, _, _ = checkpoints.load(config.directory / NAME, pictures)
    record(config, pictures, "R1", rows(0.5, "chance"))
    record(config, pictures, "R3", rows(pair_auc(model, pictures, pairs["test"])))


def start(function, *arguments):
    """Fork a process that calls `function`; returns its id."""
    process = os.fork()
    if not process:
        try:
            torch.set_num_threads(1)
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def finish(process):
    """Wait for a forked process and return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(place):
    """What a run leaves: its ledger's bytes and its model's weights."""
    config = settle(place)
    content = torch.load(config.directory / NAME, weights_only=True)
    weights = {name: tensor.numpy().tobytes() for name, tensor in content["state_dict"].items()}
    return (config.directory / "results.csv").read_bytes(), pickle.dumps(weights)


def check_whole(place):
    """Whatever bears its final name can be read."""
    config = settle(place)
    pictures = load_images(config)
    if (config.directory / "splits.json").exists():
        read_splits(config.directory / "splits.json", pictures)
    if (config.directory / NAME).exists():
        checkpoints.load(config.directory / NAME, pictures)
    return len(read_results(config))


@pytest.fixture
def place(tmp_path):
    class_folder(tmp_path / "set", ("iris", "rose", "tulip"), 8, 0.7)
    return tmp_path


def clear(place):
    """Back to the pictures alone."""
    for folder in ("checkpoints", "cache"):
        if (place / folder).exists():
            (place / folder).rename(place / f"{folder}-{time.time_ns()}")


def test_a_run_killed_at_any_moment_leaves_whole_files_and_a_rerun_gives_the_same(place):
    started = time.perf_counter()
    assert finish(start(work, place)) == 0
    lasts, expected = time.perf_counter() - started, result(place)
    assert finish(start(work, place)) == 0 and result(place) == expected, "cells that run twice change nothing"
    generator, killed, found = np.random.default_rng(0), 0, []
    for number in count():
        if killed == KILLS:
            break
        if number % 2 == 0:  # else go on from where the last one was killed
            clear(place)
        process = start(work, place)
        time.sleep(generator.uniform(0, lasts))
        os.kill(process, signal.SIGKILL)
        killed += finish(process) == -signal.SIGKILL
        reader = start(check_whole, place)
        assert finish(reader) == 0, f"kill {number} left a file that cannot be read"
        if number % 2:
            assert finish(start(work, place)) == 0 and result(place) == expected, f"after kill {number}"
            config = settle(place)
            found.append(sum(path.suffix == ".part" for path in [*config.directory.iterdir(), *config.cache.iterdir()]))
    print(f"{killed} of {number} processes were killed in {lasts:.1f} s of work; {sum(found)} leftovers, gone in a day")


def note(place, notebook, times):
    """Record one notebook's rows again and again."""
    config = settle(place)
    pictures = load_images(config)
    for number in range(times):
        record(config, pictures, notebook, pd.concat([rows(number / times), rows(0.5, "triplet")]))


def test_two_runs_at_once_lose_no_row(place):
    for _ in range(PAIRS):
        clear(place)
        running = [start(note, place, notebook, 5) for notebook in ("R3", "R4", "R5", "R6")]
        assert [finish(process) for process in running] == [0] * 4
        results = read_results(settle(place))
        assert results["notebook"].tolist() == [name for name in ("R3", "R4", "R5", "R6") for _ in range(2)]
        assert set(results["value"]) == {0.8, 0.5}


def test_two_whole_runs_at_once_end_as_one_would(place):
    assert finish(start(work, place)) == 0
    expected = result(place)
    for _ in range(PAIRS):
        clear(place)
        running = [start(work, place) for _ in range(2)]
        assert [finish(process) for process in running] == [0, 0] and result(place) == expected


def hold(place):
    with lock(settle(place).directory, "busy", patience=60):
        time.sleep(60)


def test_a_killed_run_gives_its_lock_back(place):
    for _ in range(PAIRS):
        process = start(hold, place)
        for _ in range(200):
            try:
                with lock(settle(place).directory, "busy"):
                    time.sleep(0.01)
            except BlockingIOError:
                break
        else:
            pytest.fail("the other never held it")
        os.kill(process, signal.SIGKILL)
        finish(process)
        with lock(settle(place).directory, "busy"):
            pass
