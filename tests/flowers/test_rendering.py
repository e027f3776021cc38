"""Rendered flowers: the same bytes always, exact masks, and interventions that touch nothing else."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.flowers.painting import OUTLINES
from common.flowers.rendering import REMOVABLE, VERSION, render
from common.flowers.species import BACKGROUNDS, COLORS, FAMILIES, PARTS, PETAL, draw_nuisances, species_table

ROOT = Path(__file__).resolve().parents[2]
TABLE = species_table(102)
SIZE = 64
examples = st.tuples(st.integers(0, 101), st.integers(0, 10_000))
DIGEST = """
import hashlib
from common.flowers.rendering import render
from common.flowers.species import species_table
table = species_table(102)
for label, instance in [(40, 3), (7, 1), (99, 12), (0, 0)]:
    picture = render(table[label], instance, 48)
    print(hashlib.sha256(picture.image.tobytes() + picture.parts.tobytes()).hexdigest())
"""


def digest(label, instance, size=48):
    picture = render(TABLE[label], instance, size)
    return hashlib.sha256(picture.image.tobytes() + picture.parts.tobytes()).hexdigest()


def near(mask, reach):
    """The mask, grown by `reach` pixels."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool)


def reach(picture):
    """How far the picture's blurs carry a pixel's color: three sigma, and two pixels for sampling."""
    behind, near = picture.factors["background_blur"], picture.factors["occluders"] > 0
    sigma = picture.factors["blur"] + behind * (0.55 if near else 0.25) + 0.005
    return 2 + int(np.ceil(3 * len(picture.parts) * sigma))


def changed(picture, other):
    return (picture.image != other.image).any(0)


# --- one picture ---

def test_what_a_picture_holds():
    picture = render(TABLE[3], 5, SIZE)
    assert picture.image.shape == (3, SIZE, SIZE) and picture.image.dtype == np.uint8
    assert picture.parts.shape == (SIZE, SIZE) and picture.parts.dtype == np.uint8
    assert {"petals", "outline", "exposure", "background", "instance"} <= set(picture.factors)
    assert all(isinstance(value, int | float | str) for value in picture.factors.values())
    decoded = cv2.imdecode(np.frombuffer(picture.file, np.uint8), cv2.IMREAD_COLOR)
    assert (decoded[..., ::-1].transpose(2, 0, 1) == picture.image).all()


def test_every_part_is_seen():
    parts = np.stack([render(species, instance, 48).parts for species in TABLE[:8] for instance in range(4)])
    assert (np.bincount(parts.ravel(), minlength=len(PARTS)) / parts.size > [0.2, 0.02, 0.1, 0.005]).all()


# --- the same bytes, always ---

def test_other_process_and_order_give_the_same_bytes():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", DIGEST], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert out.stdout.split() == [digest(*key) for key in reversed([(0, 0), (99, 12), (7, 1), (40, 3)])], out.stderr


def test_threads_give_the_same_bytes():
    keys = [(label, instance) for label in (2, 11, 30) for instance in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda key: digest(*key), keys)) == [digest(*key) for key in keys]


def test_seeds_and_species_give_different_pictures():
    keys = {digest(label, instance) for label in range(6) for instance in range(6)}
    assert len(keys) == 36
    other = render(species_table(1, seed=1)[0], 0, 48)
    assert (other.image != render(TABLE[0], 0, 48).image).any()


def test_a_picture_looks_alike_at_every_size():
    for instance in range(4):
        small, large = (render(TABLE[5], instance, size).parts for size in (64, 128))
        assert (large[::2, ::2] == small).mean() > 0.93


def test_the_drawing_is_that_of_its_version():
    """Whoever changes what is drawn must raise VERSION, or old caches would be taken for the new pictures."""
    known = {  # (label, instance): mean red, green and blue, and the pixels of each part
        (0, 0): ([93.5, 111.5, 47.9], [1573, 285, 1782, 456]),
        (40, 3): ([73.8, 108.8, 50.7], [3607, 128, 359, 2]),
        (99, 12): ([138.8, 154.5, 202.6], [2761, 267, 1037, 31]),
    }
    assert VERSION == 7, "a new version: write down its numbers here"
    for (label, instance), (colors, parts) in known.items():
        picture = render(TABLE[label], instance, SIZE)
        np.testing.assert_allclose(picture.image.mean((1, 2)), colors, atol=1, err_msg="raise VERSION")
        np.testing.assert_allclose(np.bincount(picture.parts.ravel(), minlength=4), parts, atol=12)


# --- interventions ---

@pytest.mark.parametrize("part, value", REMOVABLE.items())
def test_a_mask_covers_its_part_and_no_more(part, value):
    """Without the part every pixel of its mask is another (no mask too large), and none beyond its blur (none too
    small). The same masks, moved by a quarter of the picture, fail both."""
    def shares(moved):
        inside, beyond = [], []
        for number in range(12):
            species = TABLE[17 * number % 102]
            picture, other = render(species, number, SIZE), render(species, number, SIZE, without=part)
            mask, differs = np.roll(picture.parts == value, moved, 1), changed(picture, other)
            inside.append(differs[mask])
            beyond.append(differs[~near(mask, reach(picture))])
        return np.concatenate(inside).mean(), np.concatenate(beyond).mean()

    inside, beyond = shares(0)
    assert inside > 0.99 and beyond == 0
    inside, beyond = shares(SIZE // 4)
    assert inside < 0.9 and beyond > 0


@settings(max_examples=25, deadline=None)
@given(examples, st.sampled_from(list(REMOVABLE)))
def test_leaving_out_a_part_changes_only_its_pixels(example, part):
    species, instance = TABLE[example[0]], example[1]
    picture, other = render(species, instance, SIZE), render(species, instance, SIZE, without=part)
    value = REMOVABLE[part]
    assert not changed(picture, other)[~near(picture.parts == value, reach(picture))].any()
    assert not (other.parts == value).any()
    assert (other.parts == picture.parts)[picture.parts != value].all()


@settings(max_examples=15, deadline=None)
@given(examples)
def test_petals_that_are_left_out_leave_no_outline(example):
    """Where they were, nobody can tell which color they had, as JPEG's traces of it could."""
    species, instance = TABLE[example[0]], example[1]
    white, blue = (replace(species, colors=(color,)) for color in ("white", "blue"))
    gone = [render(one, instance, SIZE, without="petals").image for one in (white, blue)]
    petals = render(white, instance, SIZE).parts == 2
    assert not (gone[0] != gone[1]).any(0)[near(petals, 1)].any()


@settings(max_examples=15, deadline=None)
@given(examples, st.sampled_from(list(COLORS)))
def test_recoloring_keeps_the_masks_and_all_but_the_petals(example, color):
    species, instance = TABLE[example[0]], example[1]
    picture, other = render(species, instance, SIZE), render(species, instance, SIZE, recolor=color)
    assert (picture.parts == other.parts).all()
    assert not changed(picture, other)[~near(picture.parts == 2, reach(picture))].any()


@settings(max_examples=15, deadline=None)
@given(examples, st.sampled_from(BACKGROUNDS))
def test_another_background_keeps_the_masks_and_the_plant(example, background):
    species, instance = TABLE[example[0]], example[1]
    picture, other = render(species, instance, SIZE), render(species, instance, SIZE, background=background)
    assert (picture.parts == other.parts).all()
    assert not changed(picture, other)[~near(picture.parts == 0, reach(picture))].any()
    if background == picture.factors["background"]:
        assert (picture.image == other.image).all()


def test_interventions_do_something():
    picture = render(TABLE[0], 3, SIZE)
    for change in (dict(without="petals"), dict(without=("center", "leaves")), dict(recolor="blue"),
                   dict(background="sky" if picture.factors["background"] != "sky" else "soil")):
        share = changed(picture, render(TABLE[0], 3, SIZE, **change)).mean()
        assert 0.01 < share < 0.99, change
    assert not (render(TABLE[0], 3, SIZE, without=("petals", "center", "leaves")).parts).any()


@pytest.mark.parametrize("wrong", [dict(without="roots"), dict(recolor="infrared"), dict(background="moon")])
def test_unknown_interventions_are_refused(wrong):
    with pytest.raises(ValueError, match="choose from"):
        render(TABLE[0], 0, SIZE, **wrong)


# --- factors ---

def share_of(species, value, instances=8):
    return np.mean([(render(species, instance, SIZE).parts == value).mean() for instance in range(instances)])


@pytest.mark.parametrize("factor, values, value", [
    ("disc", (0.12, 0.25, 0.45), 3), ("width", (0.15, 0.4, 0.9), 2), ("leaf_size", (0.3, 0.8, 1.4), 1)])
def test_a_larger_factor_covers_more_of_the_picture(factor, values, value):
    base = replace(TABLE[0], petals=6, layers=1, cup=5.0)
    shares = [share_of(replace(base, **{factor: step}), value) for step in values]
    assert shares[0] < shares[1] < shares[2]


@settings(max_examples=15, deadline=None)
@given(examples, st.integers(1, 30))
def test_another_number_of_petals_changes_no_other_part(example, count):
    species, instance = TABLE[example[0]], example[1]
    picture, other = render(species, instance, SIZE), render(replace(species, petals=count), instance, SIZE)
    petals = (picture.parts == PETAL) | (other.parts == PETAL)
    assert (picture.parts == other.parts)[~petals].all()


@pytest.mark.parametrize("petals", [3, 5, 8])
def test_petals_can_be_counted(petals):
    """Narrow flat petals around a large disc: each is a piece of the mask of its own."""
    flower = replace(TABLE[20], petals=petals, layers=1, florets=1, inflorescence="single", stamens=0, sepals=0,
                     width=0.2, cup=0.0, cup_step=0.0, curl=0.0, disc=0.45, nodding=0.0, outline="oval", bilateral=0.0)
    pictures = [render(flower, instance, 128, without="leaves") for instance in range(20)]
    masks = [one.parts == PETAL for one in pictures if one.factors["blooms"] == 0 and one.factors["scale"] < 0.42]
    counts = [cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in masks]
    assert len(counts) >= 3 and np.median(counts) == petals, counts


def test_marks_come_in_the_accent_color():
    plain = replace(TABLE[0], petals=5, width=0.9, disc=0.1, spots=0.0, rim=0.0, veins=0.0, colors=("white",))
    for marked in (replace(plain, spots=0.9), replace(plain, rim=0.5), replace(plain, veins=1.0)):
        difference = []
        for instance in range(4):
            a, b = (render(replace(one, accent="purple"), instance, SIZE) for one in (plain, marked))
            petals = a.parts == 2
            difference.append(a.image[1][petals].mean() - b.image[1][petals].mean())  # purple holds little green
        assert np.mean(difference) > 5


def test_nuisances_do_not_depend_on_factors():
    """Moving a factor of a species leaves each picture's circumstances as they were."""
    first = draw_nuisances(TABLE[0], np.random.default_rng(1))
    moved = draw_nuisances(replace(TABLE[0], petals=40, colors=("blue",)), np.random.default_rng(1))
    assert {key for key in first if first[key] != moved[key]} <= {"color"}


# --- the table ---

def test_a_shorter_table_is_a_prefix_and_seeds_differ():
    assert species_table(10) == TABLE[:10] and len(TABLE) == 102
    assert species_table(10, seed=1) != TABLE[:10]
    assert [species.label for species in TABLE] == list(range(102))
    assert len({species.name for species in TABLE}) == 102


def test_species_of_a_genus_share_most_factors():
    rows = np.array([[str(value) for value in vars(species).values()] for species in TABLE])
    apart = (rows[:, None] != rows).sum(2)
    genus = np.array([species.genus for species in TABLE])
    alike, other = genus[:, None] == genus, np.triu(np.ones(apart.shape, bool), 1)
    within, between = apart[alike & other], apart[~alike & other]
    assert within.max() < between.mean() and np.mean(within) < 0.6 * np.mean(between)
    sizes = np.unique([species.genus for species in TABLE], return_counts=True)[1]
    assert sizes.max() <= 3 and np.median(sizes) >= 2


def test_species_of_a_genus_share_their_one_or_two_colors():
    pools = {(species.genus, species.colors) for species in TABLE}
    assert len(pools) == len({species.genus for species in TABLE})
    assert {len(colors) for _, colors in pools} == {1, 2}


def test_factors_are_in_range_and_all_families_are_drawn():
    assert {species.genus.split("-")[0] for species in TABLE} == set(FAMILIES)
    for species in TABLE:
        assert species.outline in OUTLINES and species.inflorescence in ("single", "cluster", "spike", "umbel")
        assert 3 <= species.petals <= 64 and species.stamens <= 64 and 0 < species.disc < 1
        assert set(species.colors) | {species.accent, species.throat, species.center} <= set(COLORS)
