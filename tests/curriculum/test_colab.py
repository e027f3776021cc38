"""The first cell in Colab: it fetches the project, survives a restart and a second run, and names the placeholder."""

import shutil
import subprocess

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from common.config import ROOT

COLAB = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')"
USED = "import os, common\nprint(common.WHERE, os.path.basename(os.getcwd()))"
PLACEHOLDER = "https://github.com/OWNER/image-similarity"
FIRST = nbformat.read(ROOT / "R1_Data_Exploration.ipynb", 4)
CELL = next(cell.source for cell in FIRST.cells if cell.cell_type == "code")  # the same in all notebooks
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed here")


@pytest.fixture
def address(tmp_path):
    """A repository on this machine in place of the published one."""
    folder = tmp_path / "published"
    (folder / "common").mkdir(parents=True)
    (folder / "common" / "__init__.py").write_text("WHERE = 'fetched'\n")
    (folder / "requirements.txt").write_text("numpy\n")
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return folder.as_uri()


def session(folder, *sources):
    """Run cells in a new kernel that starts in `folder`, as after a runtime restart; returns what the last printed."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return "".join(output.get("text", "") for output in notebook.cells[-1].outputs)


def test_the_project_is_fetched_once_and_found_again(tmp_path, address):
    content = tmp_path / "content"
    content.mkdir()
    cell = CELL.replace(PLACEHOLDER, address).replace("/content", str(content))
    for _ in range(2):  # the second kernel: after a restart, which keeps the disk
        assert session(content, COLAB, cell, USED).split() == ["fetched", "similarity"]
    assert session(content, COLAB, cell, cell, USED).split() == ["fetched", "similarity"]
    assert [path.name for path in content.iterdir()] == ["similarity"]
    if "/content/similarity" in CELL:
        assert not (content / "similarity" / "similarity").exists(), "a cell that runs twice fetches nothing twice"


def test_the_placeholder_is_named_in_one_sentence(tmp_path):
    with pytest.raises(CellExecutionError) as raised:
        session(tmp_path, COLAB, CELL)
    assert raised.value.ename == "AssertionError" and raised.value.evalue.startswith("Put your repository's address")
    assert not list(tmp_path.iterdir())


def test_elsewhere_it_does_nothing(tmp_path):
    assert session(tmp_path, CELL) == "" and not list(tmp_path.iterdir())
