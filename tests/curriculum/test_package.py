"""The package can be installed, and the recipe of the README runs from any folder."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toys import config, image_set, model

from common.checkpoints import save
from common.config import ROOT
from common.evaluation.metrics import Threshold

README = (ROOT / "README.md").read_text()
RECIPE = re.search(r"```python\n(from common.checkpoints import load\n.*?)```", README, re.DOTALL)
CHECKPOINT = "best_model_triplet_loss.pth"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with what the recipe names: a model, pictures of a user's own, and a query."""
    pictures, run = image_set(4, 3), config(tmp_path)
    history, threshold = pd.DataFrame({"epoch": [1]}), Threshold(0.5, "validation")
    path = save(run, pictures, CHECKPOINT, model(), threshold, history)
    assert path.parent == tmp_path / "checkpoints" / "rendered-quick"
    (tmp_path / "my_pictures").mkdir()
    for number, image in enumerate(np.moveaxis(pictures.images, 1, -1)):
        Image.fromarray(image).save(tmp_path / "my_pictures" / f"{number:02}.png")
    shutil.copy(tmp_path / "my_pictures" / "05.png", tmp_path / "query.jpg")
    return tmp_path


def run(folder, *command, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_r5_ends_with_the_recipe_and_names_of_its_own():
    cells = nbformat.read(ROOT / "R5_Triplet_Loss.ipynb", as_version=4).cells
    (cell,) = [cell.source for cell in cells if "import collect" in cell.source]
    unnamed = [line for line in RECIPE[1].splitlines() if not line.startswith("checkpoint, folder, query = ")]
    assert [line for line in cell.splitlines() if not line.startswith("checkpoint, folder, query = ")] == unnamed


def test_the_recipe_is_short_and_finds(elsewhere):
    recipe = RECIPE[1]
    assert len(recipe.splitlines()) <= 10
    said = run(elsewhere, "-c", recipe, PYTHONPATH=str(ROOT))
    assert re.search(r"0 +05\.png +(1\.0|0\.99)", said), said
    assert len(said.splitlines()) == 1 + 10


@pytest.mark.skipif(not importlib.util.find_spec("setuptools"), reason="setuptools is not installed here")
def test_an_installed_copy_has_every_module_and_works_where_one_is(elsewhere):
    source, site = elsewhere / "source", elsewhere / "site"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "common", source / "common", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site))
    run(elsewhere, "-m", "pip", "install", *options, str(source))
    modules = {path.relative_to(ROOT) for path in (ROOT / "common").rglob("*.py")}
    assert {path.relative_to(site) for path in (site / "common").rglob("*.py")} == modules
    assert (site / "common" / "pages.css").exists()
    metadata = next(site.glob("image_similarity-*/METADATA")).read_text()
    listed = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(re.findall(r"^Requires-Dist: (\S+)", metadata, re.MULTILINE)) == sorted(listed)
    where = "import common.config; print(common.config.__file__); print(common.config.setup().checkpoints)"
    variables = dict(PYTHONPATH=str(site), SIMILARITY_CHECKPOINTS="")
    assert run(elsewhere, "-c", where, **variables).split() == [
        *(str(site / "common" / "config.py"), str(elsewhere / "checkpoints"))
    ]
