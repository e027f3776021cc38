"""The house: rooms import one way, nothing imports in a circle, everything is documented, and it stays small."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# From the ground up. A room, or a file at the door, imports from its own row and from those above it.
ROWS = """
flowers
config
datasets
pages
small_cnn
backbones losses mining
training evaluation checkpoints ledger notebooks plotting diagrams report
attacks
explanations
find
"""
ORDER = {room: number for number, row in enumerate(ROWS.strip().splitlines()) for room in row.split()}
MOST_LINES, MOST_FILES, MOST_AT_THE_DOOR = 8_240, 48, 15  # of common/, docstrings and __init__ files included
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "common").rglob("*.py"))
}


def imported(source: str, modules) -> set[str]:
    """The modules of common/ that a source imports, inside functions too; `modules` are all there are."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "common/ names itself in full"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in modules else node.module)
    return {name for name in found if name.split(".")[0] == "common"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room that lies in a later row: "common.mining imports common.attacks.gradient"."""
    pairs = [(module, other) for module, others in graph.items() for other in others]
    return [f"{one} imports {other}" for one, other in pairs if ORDER[room(other)] > ORDER[room(one)]]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of an import cycle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods without a docstring; overrides that torch names are self-explaining."""
    tree = ast.parse(source)
    found, kinds = [] if ast.get_docstring(tree) else ["the module"], (ast.FunctionDef, ast.ClassDef)
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
        for item in [node, *inside]:
            public = isinstance(item, kinds) and not item.name.startswith("_") and item.name not in ("forward", "train")
            if public and not ast.get_docstring(item):
                found.append(item.name)
    return found


@pytest.fixture(scope="module")
def graph():
    return {name: imported(path.read_text(), MODULES) for name, path in MODULES.items() if name != "common"}


def test_every_module_has_a_row(graph):
    assert {room(module) for module in graph} == set(ORDER)


def test_rooms_import_one_way_and_nothing_in_a_circle(graph):
    assert upward(graph) == [] and circle(graph) == []
    flowers = {other for module, others in graph.items() if room(module) == "flowers" for other in others}
    assert {room(module) for module in flowers} <= {"flowers"}, "the drawn flowers stand alone"


def test_what_runs_notebooks_and_what_draws_figures_know_little_else(graph):
    assert graph["common.notebooks"] == {"common.config", "common.datasets.files", "common.pages"}
    assert graph["common.plotting"] == {"common.evaluation.metrics"}


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module):
    assert undocumented(MODULES[module].read_text()) == []


def test_the_house_stays_small():
    lines = sum(len(path.read_text().splitlines()) for path in MODULES.values())
    door = [path for path in MODULES.values() if path.parent.name == "common"]
    assert lines <= MOST_LINES and len(MODULES) <= MOST_FILES and len(door) <= MOST_AT_THE_DOOR


def test_planted_faults_are_caught():
    source = """
import numpy
from os import path
from common import losses
from common.config import setup
from common.datasets import images, load_images
def f():
    import common.evaluation.metrics
"""
    modules = {"common.losses", "common.config", "common.datasets", "common.datasets.images"}
    assert imported(source, modules) == modules | {"common.evaluation.metrics"}
    graph = {"common.mining": {"common.losses", "common.attacks.pgd"}, "common.losses": {"common.config"}}
    assert upward(graph) == ["common.mining imports common.attacks.pgd"] and circle(graph) == []
    assert set(circle(graph | {"common.config": {"common.mining"}})) == {
        *("common.mining", "common.losses", "common.config")
    }
    assert undocumented("def a(): pass\ndef _b(): pass\nclass C:\n    'd'\n    def e(self): pass") == [
        *("the module", "a", "e")
    ]
