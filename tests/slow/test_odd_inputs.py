"""Ten thousand odd inputs to readers, splits, samplers, losses, metrics and attacks: an answer, or the one error.

Files are damaged byte by byte, JSON value by value, and the search is led (hypothesis' target) to damage that gets past
the first checks. What a reader makes of them must be whole, or its own ValueError in a few words.
"""

import dataclasses
import json
import os
import signal
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from sklearn.metrics import roc_auc_score
from toys import Bilinear, class_folder, config, encoded, image_set, model, pack, pairs_of_pictures, smooth, write

from common import checkpoints, ledger, losses
from common.attacks.gradient import noise, pgd
from common.datasets import oxford
from common.datasets.batches import Pictures, batches, species_batches
from common.datasets.decoding import DamagedPicture, read_picture
from common.datasets.files import unpack
from common.datasets.splits import check_splits, make_splits, read_splits, save_splits
from common.evaluation import metrics
from common.evaluation.retrieval import cmc, retrieval

pytestmark = pytest.mark.filterwarnings("ignore")
FORMS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]
SEEDS = st.integers(0, 2**32 - 1)


def examples(count):
    """So many inputs, however long they take."""
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@st.composite
def damaged(draw, contents):
    """Bytes of a file: cut, doubled, overwritten and shuffled in a few places."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind, piece = draw(st.sampled_from(["flip", "cut", "write", "insert", "copy"])), draw(st.binary(max_size=8))
        if kind == "cut":
            del content[place : place + draw(st.integers(1, 400))]
        elif kind == "write":
            content[place : place + len(piece)] = piece
        elif kind == "insert":
            content[place:place] = piece
        elif kind == "copy":
            content[place:place] = content[: draw(st.integers(0, 300))]
        elif content:
            content[place] ^= draw(st.integers(1, 255))
    return bytes(content)


def short(error):
    """The message of an error for people: neither empty nor a riddle of many lines."""
    assert 10 < len(str(error)) < 900, error


PICTURES = [encoded(smooth(0, 24), form) for form in FORMS]
PICTURES += [encoded(Image.fromarray(smooth(1, 24)).quantize(8), "PNG", transparency=3), encoded(
    np.arange(400, dtype=np.uint16).reshape(20, 20), "TIFF"), encoded(smooth(2, 24), "JPEG", progressive=True)]


@examples(3000)
@given(damaged(PICTURES))
def test_a_picture_or_the_one_error(content):
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "x.jpg", content)
        try:
            picture = read_picture(file, 16)
        except DamagedPicture as error:
            target(0.0, label="pictures read")
            short(error)
            return
    target(1.0 + picture.image.std(), label="pictures read")
    assert picture.image.shape == (3, 16, 16) and picture.image.dtype == np.uint8


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = class_folder(tmp_path_factory.mktemp("source") / "set", each=1)
    return [(suffix, pack(root.parent / f"a{suffix}", root).read_bytes()) for suffix in (".zip", ".tgz", ".tar")]


@examples(1000)
@given(st.data())
def test_an_archive_is_unpacked_or_refused_and_leaves_nothing_outside(archives, data):
    suffix, content = data.draw(st.sampled_from(archives))
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / f"a{suffix}", data.draw(damaged([content])))
        cache = Path(folder) / "cache"
        try:
            place = unpack(file, cache)
            target(sum(path.is_file() for path in place.rglob("*")), label="members")
        except ValueError as error:
            short(error)
        assert {path.name for path in Path(folder).iterdir()} <= {file.name, "cache"}
        assert not [*cache.rglob("*.part")]


def read_matrix(file):
    try:
        found = oxford._matrix(file, "labels")
    except ValueError as error:
        short(error)
    else:
        assert found.dtype == np.int64 and found.ndim == 1 and len(found)


@examples(500)
@given(st.data())
def test_a_table_of_matlabs_is_whole_numbers_or_refused(data):
    """In a process of its own: of some damaged files scipy's reader, which is compiled, dies."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.mat"
        savemat(file, {"labels": np.arange(9)[None] if data.draw(st.booleans()) else np.ones((1, 3)) * 1.5})
        file.write_bytes(data.draw(damaged([file.read_bytes()])))
        process = os.fork()
        if not process:
            try:
                read_matrix(file)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) in (0, -signal.SIGBUS, -signal.SIGSEGV)


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 99) | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3))


@st.composite
def changed(draw, content):
    """JSON content of which some inner values are others, lost, doubled or moved."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        place, path = content, []
        while isinstance(place, dict | list) and place and (not path or draw(st.integers(0, 4))):
            keys = [*place] if isinstance(place, dict) else [*range(len(place))]
            path.append((place, draw(st.sampled_from(keys))))
            place = place[path[-1][1]]
        holder, key = path[-1]
        change = draw(st.sampled_from(["lose", "other", "double"]))
        if change == "lose":
            del holder[key]
        elif change == "other":
            holder[key] = draw(JSON)
        elif isinstance(holder, list):
            holder.append(holder[key])
        if not content:
            break
    return content


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    pictures, path = image_set(6, 8, 4), tmp_path_factory.mktemp("split") / "splits.json"
    save_splits(make_splits(pictures, config(path.parent, pairs=60)), path)
    return pictures, path, json.loads(path.read_text())


@examples(1500)
@given(st.data())
def test_splits_are_sound_or_refused(split, data):
    pictures, path, content = split
    path.write_text(json.dumps(data.draw(changed(content))))
    try:
        check_splits(read_splits(path, pictures), pictures)
    except ValueError as error:
        short(error)


@examples(800)
@given(st.data())
def test_a_ledger_is_sound_or_refused(data):
    known = dict(approach="center_loss", variant="standard", protocol="closed_set", split="test", metric="roc_auc",
                 dataset="x", profile="y", notebook="R1", fingerprint="0123", n=9, seed=0, value=0.5, low=0.4, high=0.6)
    text = pd.DataFrame([known] * 3).reindex(columns=ledger.COLUMNS).to_csv(index=False).encode()
    with tempfile.TemporaryDirectory() as folder:
        run = config(Path(folder))
        write(run.directory / "results.csv", data.draw(damaged([text])))
        try:
            found = ledger.read_results(run)
            ledger.leaderboard(found), ledger.scoreboard(found), ledger.robustness(found)
        except ValueError as error:
            short(error)
        else:
            assert np.isfinite(found["value"].astype(float)).all() and set(found["split"]) <= {"test"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    run, net = config(tmp_path_factory.mktemp("kept")), model(3)
    given = run, image_set(3, 2), "best.pth", net, metrics.Threshold(0.5, "validation"), pd.DataFrame({"epoch": [1]})
    path = checkpoints.save(*given)
    return path, path.read_bytes()


@examples(400)
@given(st.data())
def test_a_checkpoint_is_a_model_or_refused(checkpoint, data):
    path, content = checkpoint
    path.write_bytes(data.draw(damaged([content])))
    try:
        net, threshold, _ = checkpoints.load(path, image_set(3, 2))
    except ValueError as error:
        short(error)
    else:
        assert all(tensor.isfinite().all() for tensor in net.state_dict().values()) and np.isfinite(threshold.value)


LABELS = st.lists(st.integers(0, 7), min_size=2, max_size=40).map(
    lambda labels: np.unique(labels, return_inverse=True)[1]
)


@examples(800)
@given(LABELS, SEEDS, st.booleans())
def test_splits_of_any_labels_are_sound_or_refused(labels, seed, disjoint):
    count = len(labels)
    pictures = dataclasses.replace(
        image_set(2, 1, 4), images=np.zeros((count, 3, 4, 4), np.uint8), labels=labels, disjoint=disjoint,
        class_names=[str(label) for label in np.unique(labels)], hashes=np.array([str(n) for n in range(count)]),
    )  # fmt: skip
    keep = np.random.default_rng(seed).random(count) < 0.9
    try:
        splits = make_splits(pictures, dataclasses.replace(config(Path("unused")), seed=seed, pairs=50), keep)
    except ValueError as error:
        short(error)
        return
    check_splits(splits, pictures)
    for protocol, parts in splits.parts.items():
        assert keep[np.concatenate([*parts.values()])].all() and all(map(len, splits.pairs[protocol].values()))


@examples(600)
@given(LABELS, st.integers(1, 12), st.integers(1, 6), SEEDS)
def test_samplers_give_batches_of_what_there_is_or_refuse(labels, first, second, seed):
    pictures = Pictures(image_set(2, 20, 4), np.arange(len(labels)), labels)
    seen = [len(found) for found, _ in batches(pictures, first, shuffle=True, seed=seed % 2**31)]
    assert sum(seen) in (len(labels), len(labels) - 1) and (1 not in seen or len(seen) == 1 or first == 1)
    try:
        loader = species_batches(pictures, first, second, seed % 2**31)
    except ValueError as error:
        short(error)
        return
    found = [given for _, given in loader]
    assert len(found) == len(loader) and all((np.bincount(given) <= second).all() for given in found)


NUMBERS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e6])


@examples(1200)
@given(st.data(), LABELS)
def test_losses_and_their_gradients_are_finite(data, labels):
    rows = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=len(labels), max_size=len(labels))
    embeddings = torch.tensor(data.draw(rows), requires_grad=True)
    kinds, classes = torch.from_numpy(labels), int(labels.max()) + 1
    score = torch.nn.functional.cosine_similarity
    made = [losses.PairJudgment(lambda a, b: score(a, b, dim=-1), classes, 3, loss, negatives)
            for loss in ("pair_cross_entropy", "contrastive") for negatives in ("all", "random", "hard")]
    made += [losses.TripletJudgment(mining, margin, squared) for mining in losses.TripletJudgment.MINING[:-1]
             for margin in (0.2, None) for squared in (True, False)]
    objective = data.draw(st.sampled_from(made))
    total = sum(objective(embeddings, kinds).values())
    assert total.isfinite() and total >= 0
    if total.requires_grad:
        total.backward()
        assert embeddings.grad is None or embeddings.grad.isfinite().all()


@examples(1200)
@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=60))
def test_metrics_are_rates_or_refused(pairs):
    scores, same = np.array([score for score, _ in pairs]), np.array([kind for _, kind in pairs]).astype(int)
    try:
        area = metrics.roc_auc(scores, same)
        threshold = metrics.fit_threshold(scores, same, "validation")
    except ValueError as error:
        assert len({*same}) < 2
        short(error)
        return
    assert area == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    found = metrics.verification_rates(scores, same, threshold)
    assert all(0 <= value <= 1 for value in found.values()) and found["accuracy"] >= 0.5
    assert 0 <= metrics.equal_error_rate(scores, same) <= 1


@examples(400)
@given(st.data(), LABELS)
def test_searches_are_rated_between_0_and_1(data, labels):
    rows = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=len(labels), max_size=len(labels))
    embeddings = np.array(data.draw(rows), np.float32)
    alone = np.bincount(labels)[labels] == 1
    for found in (retrieval(embeddings, labels), cmc(embeddings, labels)):
        for values in found.values():
            assert (np.isnan(values) == alone).all() and ((values[~alone] >= 0) & (values[~alone] <= 1)).all()


@examples(400)
@given(SEEDS, st.floats(0, 0.3), st.integers(0, 4), st.integers(1, 2), st.sampled_from(["first", "both"]))
def test_attacks_stay_in_their_box_and_never_help(seed, eps, steps, restarts, which):
    net, seed = Bilinear(seed % 7), seed % 2**31
    first, second, same = pairs_of_pictures(4, seed)
    before = (net.score(first, second) * (2 * same - 1)).detach()
    attacked = pgd(net, first, second, same, eps, steps, restarts, which, seed)
    for found in (attacked, noise(net, first, second, same, eps)):
        for new, old in ((found.first, first), (found.second, second)):
            assert ((new.double() - old.double()).abs() <= eps).all() and ((new >= 0) & (new <= 1)).all()
    assert (attacked.scores * (2 * same - 1) <= before + 1e-5).all()
