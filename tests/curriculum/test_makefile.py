"""What `make` hands on, and to whom: tried with a stand-in for Python that writes down how it was called."""

import inspect
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from common.config import setup

ROOT = Path(__file__).resolve().parents[2]
RECORDER = """#!/bin/sh
echo "$@ |" $(env | grep -E '^(SIMILARITY_|MPLBACKEND)' | sort) >> "$LOG"
case "$*" in *"$FAIL"*) exit 3;; esac
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")


@pytest.fixture
def project(tmp_path):
    """A folder (with a space in its name) of the Makefile, two notebooks and an active environment."""
    folder = tmp_path / "a project"
    python = folder / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER)
    python.chmod(0o755)
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("R2_Backbone_Selection.ipynb", "R1_Data_Exploration.ipynb"):
        (folder / name).touch()
    return folder


def make(project, *arguments, fail="nothing at all", active=True, **variables):
    """Run make from elsewhere; returns its exit status, what Python was called with, and what make said."""
    log = project / "log"
    log.unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"], "LOG": str(log), "FAIL": fail, **variables}
    if active:
        environment["VIRTUAL_ENV"] = str(project / "environment")
    command = ["make", "--no-print-directory", "-C", project, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, log.read_text().splitlines() if log.exists() else [], done.stdout + done.stderr


@pytest.mark.parametrize("wrong", ["EPOCH=1", "profile=standard", "DATSET=reid"])
def test_a_misspelt_setting_is_refused_before_anything_runs(project, wrong):
    status, calls, said = make(project, "run", wrong, "NOTEBOOKS=R1 R3", "DATA=my roses")
    assert status and not calls and f"no setting {wrong.split('=')[0]};" in said and "EPOCHS" in said


def test_results_are_measured_on_a_folder_that_must_be_named(project):
    status, calls, _ = make(project, "results", "DATA=my $data")
    assert status == 0 and [call.split(" |")[0].removeprefix("-m benchmarks.") for call in calls[-3:]] == [
        *("results my $data", "backbones my $data", "readme_tables")
    ]
    status, calls, said = make(project, "results")
    assert status and not calls and "DATA=folder" in said


def test_run_installs_once_passes_on_what_is_given_and_ends_with_the_leaderboard(project):
    status, calls, _ = make(project, "run", "NOTEBOOKS=R1 R3", "DATASET=folder:my roses", "SEED=4", DATA="stray")
    assert status == 0
    assert any("-m pip install -r requirements.txt" in call for call in calls)
    settings = "SIMILARITY_DATASET=folder:my roses SIMILARITY_SEED=4"
    assert calls[-2:] == [f"-m common.notebooks R1 R3 | {settings}", f"-m common.ledger | {settings}"]
    _, calls, _ = make(project, "run", "IMAGE_SIZE=96", "EPOCHS=2", "SEEDS=1", "GRAYSCALE=yes")
    settings = "SIMILARITY_EPOCHS=2 SIMILARITY_GRAYSCALE=yes SIMILARITY_IMAGE_SIZE=96 SIMILARITY_SEEDS=1"
    assert calls[-1] == f"-m common.ledger | {settings}"
    _, calls, _ = make(project, "run", NOTEBOOKS="R2", SIMILARITY_PROFILE="full")
    assert calls == [f"-m common.{name} | SIMILARITY_PROFILE=full" for name in ("notebooks", "ledger")]
    with open(project / "requirements.txt", "a") as file:
        file.write("another\n")
    assert any("pip install" in call for call in make(project, "run")[1]), "requirements have changed"


@pytest.mark.parametrize("value", ["pay$day", "$(shell echo x)", "a'b", 'a"b', "#1", "ü 花", "$$", "a`id`"])
def test_any_value_arrives_as_it_was_written(project, value):
    status, calls, _ = make(project, "run", f"DATA={value}")
    assert status == 0 and calls[-1] == f"-m common.ledger | SIMILARITY_DATA={value}"


def test_torch_without_cuda_comes_first_where_it_is_asked_for(project):
    _, calls, _ = make(project, "run", "TORCH=cpu")
    installed = [call.split(" |")[0] for call in calls if "pip install" in call]
    index = "https://download.pytorch.org/whl/cpu"
    assert installed == [
        f"-m pip install torch torchvision --index-url {index}", "-m pip install -r requirements.txt"]  # fmt: skip
    _, calls, _ = make(project, "run", TORCH="cpu")
    assert not any("index-url" in call for call in calls), "what stands in somebody's shell is no setting"


def test_a_failed_notebook_or_installation_fails_the_run(project):
    status, calls, _ = make(project, "run", fail="pip install")
    assert status != 0 and not any("common" in call for call in calls)
    status, calls, _ = make(project, "run", fail="common.notebooks")
    assert status != 0 and not any("common.ledger" in call for call in calls)


def test_tests_run_in_order_on_defaults_and_leave_nothing(project, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    user = dict(SIMILARITY_SEED="9", SIMILARITY_CHECKPOINTS="/precious", SIMILARITY_IMAGE_SIZE="999", MPLBACKEND="Agg")
    status, calls, said = make(project, "test", "DATASET=mine", TMPDIR=str(temporary), **user)
    assert status == 0 and "passed: lint, unit tests, notebooks" in said.splitlines()[-1]
    assert any("-m pip install -r requirements-dev.txt" in call for call in calls)
    ruff, unit, solutions, notebooks = calls[-4:]
    assert ruff.startswith("-m ruff check .") and unit == "-m pytest tests | SIMILARITY_DEVICE=cpu"
    assert "-p no:xdist --nbval-lax --nbval-current-env" in notebooks
    copies = notebooks.split(" |")[0].split()[-1]
    names = "R1_Data_Exploration.ipynb R2_Backbone_Selection.ipynb"
    assert copies.startswith(str(temporary))
    assert solutions.startswith(f"tests/curriculum/solutions.py {copies} {names} |")
    settings = notebooks.split("| ")[1]
    assert settings.count("SIMILARITY_") == 3 and settings.count(f"={temporary}") == 2
    assert "SIMILARITY_DEVICE=cpu" in settings  # the committed outputs are a CPU's
    assert not list(temporary.iterdir())


STEPS = {"ruff": "lint", "pytest tests": "unit tests", "solutions.py": "solutions of exercises",
         "--nbval-lax": "notebooks", "pytest": "unit tests, notebooks"}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_what_fails_is_named_at_the_end_and_keeps_nothing_from_being_checked(project, step):
    make(project, "test")  # installs
    status, calls, said = make(project, "test", fail=step)
    assert status != 0 and len(calls) == 4
    own = [line for line in said.splitlines() if not line.startswith("make: ***")]
    assert own[-1] == f"make test failed: {STEPS[step]}"


def test_notebooks_are_refreshed_with_the_defaults_and_missed_by_a_test(project):
    _, calls, _ = make(project, "notebooks", "NOTEBOOKS=R1", "PROFILE=full", SIMILARITY_SEED="9")
    assert calls[-1] == "-m common.notebooks --in-place R1 | SIMILARITY_DEVICE=cpu"
    for path in project.glob("*.ipynb"):
        path.unlink()
    status, _, said = make(project, "test")
    assert status != 0 and "no notebook to test" in said


def test_the_slow_tests_run_apart(project):
    status, calls, _ = make(project, "test-slow", SIMILARITY_SEED="9")
    assert status == 0 and calls[-1] == "-m pytest tests/slow | SIMILARITY_DEVICE=cpu"


def test_help_lists_every_setting_that_setup_takes(project):
    said = make(project, "help")[2].split()
    assert {f"{name.upper()}=" for name in inspect.signature(setup).parameters} <= set(said)


def test_an_old_python_and_a_broken_environment_are_refused_with_a_remedy(project):
    old = f"PYTHON={project}/environment/bin/python"
    status, _, said = make(project, "run", old, active=False, fail="version_info")
    assert status != 0 and "not Python 3.10 or newer" in said and "PYTHON=python3.12" in said
    (project / "environment" / "bin" / "python").unlink()
    status, _, said = make(project, "run")
    assert status != 0 and "has no bin/python" in said
    assert not (project / ".venv").exists()
