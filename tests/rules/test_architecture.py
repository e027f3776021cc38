"""The house: common/ is layered, small and documented, and the README's commands name things that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# From the ground up; a file imports only from rows above it.
ROWS = """
files folders profiles config decoding images species painting plants rendered downloads picture_files oxford caltech
people datasets pairs splits sampling small_cnn backbones siamese losses mining objectives metrics retrieval evaluation
index baselines notebooks ledger checkpoints training protocol selection ascent attacks sanity
robust_evaluation robust explain integrated_gradients decomposition localization concepts interventions faithfulness
randomization grading report plotting curves galleries drawing
"""
ORDER = ROWS.split()
MOST_LINES = 250
FILES = sorted(path for path in (ROOT / "common").glob("*.py") if path.stem != "__init__")
MADE_BY_RUNS = ("runs/", "checkpoints/")


def common_imports(source: str) -> set[str]:
    """The files of common/ that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("common.")}
        elif isinstance(node, ast.ImportFrom):
            module = f"common.{node.module or ''}" if node.level else node.module
            if module.rstrip(".") == "common":
                found |= {name.name for name in node.names}
            elif module.startswith("common."):
                found.add(module.split(".")[1])
    return found


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods without a docstring; overrides that torch names are self-explaining."""
    found, kinds = [], (ast.FunctionDef, ast.ClassDef)
    for node in ast.parse(source).body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
        for item in [node, *inside]:
            public = isinstance(item, kinds) and not item.name.startswith("_") and item.name not in ("forward", "train")
            if public and not ast.get_docstring(item):
                found.append(item.name)
    return found


def missing_files(readme: str, root: Path) -> list[str]:
    """Files, modules and make targets that a README names in links and code, and that are not there."""
    makefile = (root / "Makefile").read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.DOTALL))
    links = [link for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", readme) if "://" not in link]
    links += [source for source in re.findall(r'<img[^>]*src="([^"]+)"', readme) if "://" not in source]
    named = re.findall(r"(?<![\w./<:{}-])[\w./-]+\.(?:ipynb|py|txt|toml|cfg|md|yml)\b", code)
    named += [f"{module.replace('.', '/')}.py" for module in re.findall(r"-m (common\.\w+)", code)]
    targets = re.findall(r"\bmake ([a-z]+)", code)
    found = [path for path in links + named if not path.startswith(MADE_BY_RUNS) and not (root / path).exists()]
    return found + [f"make {target}" for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_imports_only_from_rows_above_it(path):
    assert path.stem in ORDER, f"common/{path.name} has no row in the design"
    above = set(ORDER[: ORDER.index(path.stem)])
    assert common_imports(path.read_text()) <= above


def test_notebook_runner_knows_nothing_of_what_notebooks_do():
    assert common_imports((ROOT / "common" / "notebooks.py").read_text()) == {"config", "files"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_small_and_its_public_functions_are_documented(path):
    source = path.read_text()
    assert len(source.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(source)), "no module docstring"
    assert undocumented(source) == []


def test_readme_names_only_what_exists():
    assert missing_files((ROOT / "README.md").read_text(), ROOT) == []


def test_planted_faults_are_caught(tmp_path):
    source = "from common import losses\ndef f():\n    import common.evaluation.metrics\n    from . import images\n"
    assert common_imports(source + "from .config import setup\nimport numpy\nfrom os import path") == {
        *("losses", "metrics", "images", "config")
    }
    assert undocumented("def a(): pass\ndef _b(): pass\nclass C:\n    'd'\n    def e(self): pass") == ["a", "e"]
    (tmp_path / "Makefile").write_text("run:\n")
    (tmp_path / "real.py").write_text("")
    readme = "`make run` `make fly` [a](R9.ipynb#x) [b](https://x.org/y.py) `python -m common.no` `real.py`"
    assert missing_files(readme, tmp_path) == ["R9.ipynb", "common/no.py", "make fly"]
