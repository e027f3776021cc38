"""Widgets outlive the cell that made them: what their callbacks read may not change its meaning further down."""

import ast

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from common.config import ROOT

LINKS = {"dlink", "link", "interact", "interactive"}


def names(node, context) -> list[ast.Name]:
    return [one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, context)]


def rebound(sources: list[str]) -> set[str]:
    """Names that a callback reads and that the notebook assigns more than once."""
    assigned, read = [], set()
    for source in sources:
        cell = ast.parse(TransformerManager().transform_cell(source))
        functions = [node for node in ast.walk(cell) if isinstance(node, (ast.Lambda, ast.FunctionDef))]
        local = {id(name) for function in functions for name in names(function, ast.Store)}
        assigned += [name.id for name in names(cell, ast.Store) if id(name) not in local]
        if any(name.id in LINKS for name in names(cell, ast.Load)):
            for function in functions:
                own = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
                own |= {name.id for name in names(function, ast.Store)}
                read |= {name.id for name in names(function, ast.Load)} - own
    return {name for name in read if assigned.count(name) > 1}


@pytest.mark.parametrize("path", sorted(ROOT.glob("R*.ipynb")), ids=lambda path: path.stem)
def test_what_a_callback_reads_is_assigned_once(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not rebound([cell.source for cell in cells if cell.cell_type == "code"])


def test_a_rebound_name_is_seen():
    slider = "frames = [1, 2]\ndlink((slider, 'value'), (frame, 'value'), lambda place: frames[place])"
    assert rebound([slider, "frames = 3"]) == {"frames"}
    assert rebound([slider, "for frames in (): pass"]) == {"frames"}
    assert not rebound([slider, "place = 3", "place = 4"])
    assert not rebound([slider.replace("lambda place: frames[place]", "frames.__getitem__"), "frames = 3"])
