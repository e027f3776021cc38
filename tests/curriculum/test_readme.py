"""What the README and its kin name exists, their code runs, and their results are those of the committed ledger."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import TINY, config, image_set

from benchmarks.readme_tables import END, LEDGER, START, TABLES, fill, gap_lines, stale, summary, tables
from common import find
from common.backbones import EmbeddingNet
from common.config import DATASETS, ROOT
from common.ledger import COLUMNS
from common.report import ASKED

README = (ROOT / "README.md").read_text()
WRITTEN = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "tests" / "faults.md",
           ROOT / "checkpoints" / "README.md"]  # fmt: skip
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in WRITTEN)
EXTENDING = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
SHELL = [line.split("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
         for line in block.splitlines() if not line.startswith("#")]  # fmt: skip
INLINE = sorted(set(re.findall(r"`(make [^`.]+(?:\.[^`.]+)*)`", TEXT)))
MADE_BY_RUNS = ("runs/", "checkpoints/")


def missing_files(readme: str, root: Path) -> list[str]:
    """Files, modules and make targets that a README names in links and code, and that are not there."""
    makefile = (root / "Makefile").read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.DOTALL))
    links = [link for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", readme) if "://" not in link]
    links += [source for source in re.findall(r'<img[^>]*src="([^"]+)"', readme) if "://" not in source]
    links = [link for link in links if not link.startswith("data:")]
    named = re.findall(r"(?<![\w./<:{}-])[\w./-]+\.(?:ipynb|py|txt|toml|cfg|md|yml|json)\b", code)
    named += [f"{module.replace('.', '/')}.py" for module in re.findall(r"-m (common\.\w+)", code)]
    targets = re.findall(r"\bmake ([a-z]+)", code)
    found = [path for path in links + named if not path.startswith(MADE_BY_RUNS) and not (root / path).exists()]
    return found + [f"make {target}" for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def test_readme_names_only_what_exists():
    assert missing_files(README, ROOT) == []


def test_what_a_readme_names_in_vain_is_found(tmp_path):
    (tmp_path / "Makefile").write_text("run:\n")
    (tmp_path / "real.py").write_text("")
    readme = "`make run` `make fly` [a](R9.ipynb#x) [b](https://x.org/y.py) `python -m common.no` `real.py`"
    assert missing_files(readme, tmp_path) == ["R9.ipynb", "common/no.py", "make fly"]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)", path.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link:
            file, _, place = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists() and target.is_relative_to(ROOT), link
            if place and target.suffix == ".md":
                anchors = re.findall(r'(?:id|name)="([^"]+)"', target.read_text()) + [
                    re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                    for heading in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                ]
                assert place in anchors, link


@pytest.mark.parametrize("line", SHELL + INLINE)
def test_every_command_of_the_readme_is_one(line, tmp_path):
    words = shlex.split(line)
    if words[0] == "make":  # said, not done
        environment = {"PATH": os.environ["PATH"], "VIRTUAL_ENV": str(tmp_path)}
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[:3] == ["python", "-m", "common.find"]:
        pictures = image_set(3, 2).images
        (tmp_path / "my_pictures").mkdir()
        for number, image in enumerate(np.moveaxis(pictures, 1, -1)):
            Image.fromarray(image).save(tmp_path / "my_pictures" / f"{number}.png")
        shutil.copy(tmp_path / "my_pictures" / "1.png", tmp_path / "query.jpg")
        package = tmp_path / "installed"  # a copy, so that the sheets land in `tmp_path`
        shutil.copytree(ROOT / "common", package / "common")
        changes = {"PYTHONPATH": str(package), "HF_HUB_OFFLINE": "1", "SIMILARITY_CACHE": str(tmp_path)}
        environment = os.environ | changes
        command = [sys.executable, *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and (tmp_path / "runs" / "found" / "found.png").exists(), done.stderr
    elif words[0] == "source":
        assert words[1:] == [".venv/bin/activate"] and "$(CURDIR)/.venv)" in (ROOT / "Makefile").read_text()
    else:
        pytest.fail(f"nobody checks {line!r}")


def test_modules_settings_options_and_names_in_the_text_exist(capsys):
    for module in re.findall(r"-m ([a-z_]+\.[a-z_]+)", TEXT):
        assert importlib.util.find_spec(module), module
    settings = set(re.search(r"^SETTINGS = (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    assert set(re.findall(r"SIMILARITY_([A-Z_]+)", README)) == settings
    rows = re.findall(r"^\| `([A-Z_]+)=` \| `SIMILARITY_(\w+)` \|", README, re.MULTILINE)
    assert {name for name, _ in rows} == settings and all(name == variable for name, variable in rows)
    named = re.search(r"`SIMILARITY_DATASET` \| (.+?) \|", README)[1]
    assert tuple(re.findall(r"`(\w+)", named)) == DATASETS
    with pytest.raises(SystemExit):
        find.main(["--help"])
    assert set(re.findall(r"`(--[a-z]+)", README)) <= set(re.findall(r"--[a-z]+", capsys.readouterr().out))
    for name, file in re.findall(r"`(\w+)`\s+of\s+`(common/[\w/]+\.py)`", TEXT):
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), f"{name} of {file}"
    places = re.findall(r"^\| (`.+?) \|", README.split("| place | holds |")[1].split("\n\n")[0], re.MULTILINE)
    rooms = re.findall(r"`(\w+)(/?)`", " ".join(places))
    assert len(rooms) >= 16 and all((ROOT / "common" / f"{name}{room or '.py'}").exists() for name, room in rooms)


def test_the_questions_are_those_of_the_report():
    asked = re.findall(r"^\| \[R\d[^|]+\| ([^|]+) \|", README, re.MULTILINE)
    assert tuple(question.replace("species", "class") for question in asked) == ASKED


def test_the_recipe_of_the_house_runs(tmp_path, monkeypatch):
    (recipe,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "setup(" in block]
    for name in ("iris", "rose"):
        (tmp_path / "my_pictures" / name).mkdir(parents=True)
        for number in range(3):
            image = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "my_pictures" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMILARITY_CACHE", str(tmp_path / "cache"))
    offline = recipe.replace('"resnet50", pretrained=True', f'"{TINY}", image_size=160')  # no weights to fetch
    assert offline != recipe
    exec(offline, {})


def test_a_data_set_is_added_in_a_few_lines(tmp_path):
    for number, name in enumerate(("robin", "wren") * 3):
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(tmp_path / f"000{number}_{name}_7.jpg")
    (tmp_path / "notes_of_2024.txt").write_text("no picture")
    space = {}
    exec(EXTENDING[0], space)
    found = space["birds"](config(tmp_path / "run", data=tmp_path, image_size=16))
    assert found.class_names == ["robin", "wren"] and np.bincount(found.labels).tolist() == [3, 3]


def test_a_backbone_is_added_in_a_few_lines(tmp_path, monkeypatch):
    (tmp_path / "two_layers.py").write_text(EXTENDING[1])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("two_layers")
    net = EmbeddingNet("two_layers", embedding_size=8, image_size=64)
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 8)


def test_a_loss_is_added_in_a_few_lines():
    pictures, model = image_set(4, 6), EmbeddingNet(TINY, embedding_size=8, image_size=32)
    space = dict(pictures=pictures, indices=np.arange(len(pictures)), model=model, validate=lambda _: 0.5)
    exec(EXTENDING[2] + EXTENDING[3], space)
    history = space["history"]
    assert history["contrast"].iloc[-1] < history["contrast"].iloc[0]
    far = space["SupervisedContrastive"]()(torch.eye(4), torch.tensor([0, 0, 1, 1]))["contrast"]
    assert far.item() == pytest.approx(np.log(3), abs=1e-5), "all alike: a third each"


def test_messages_to_look_up_are_those_that_are_printed():
    printed = "".join(path.read_text() for path in [*ROOT.glob("common/**/*.py"), ROOT / "Makefile"])
    rows = re.findall(r"^\| `([^`]+)` \|", README[README.index("## When something goes wrong") :], re.MULTILINE)
    assert len(rows) >= 4
    for message in rows[:4]:
        assert max(message.split("..."), key=len).strip() in printed.replace('"\n            f"', ""), message


def test_the_address_is_written_wherever_it_stands_again_and_again(tmp_path):
    for path in [*ROOT.glob("R*.ipynb"), ROOT / "README.md", ROOT / "CITATION.cff"]:
        shutil.copy(path, tmp_path)
    command = [sys.executable, str(ROOT / ".ci" / "address")]
    for address in ("me/flowers", "you.too/flowers-2"):
        environment = {**os.environ, "REPOSITORY": address}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        for path in tmp_path.iterdir():
            text = path.read_text()
            assert "OWNER/image-similarity" not in text and f"/{address}" in text, path.name
    assert "until the address is set" not in (tmp_path / "README.md").read_text()
    for wrong in ("", "you", "a/b/c", "a b/c"):
        environment = {**os.environ, "REPOSITORY": wrong}
        assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode


def test_version_and_date_are_the_same_everywhere():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    citation = (ROOT / "CITATION.cff").read_text()
    date = re.search(r'^date-released: "(.+)"$', citation, re.MULTILINE)[1]
    assert f'version: "{version}"' in citation
    assert re.search(rf"^## {re.escape(version)}, {date}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())


def test_results_are_those_of_the_ledger():
    again, results = "run: python -m benchmarks.readme_tables", pd.read_csv(LEDGER)
    text = TABLES.read_text(encoding="utf-8")
    assert fill(text, tables()) == text, again
    assert text.count("| center_loss |") >= 2, "the tables name the trained approach"
    assert fill(README, summary(results)) == README, again
    assert stale(ROOT / "docs", results) == [], again
    results.loc[results["metric"] == "map_at_r", "value"] *= 0.5
    assert stale(ROOT / "docs", results) == ["results-found.png"] and fill(README, summary(results)) != README


def test_committed_ledger_is_clean():
    ledger = pd.read_csv(LEDGER)
    assert list(ledger) == COLUMNS
    assert (ledger["split"] == "test").all() and set(ledger["threshold_from"].dropna()) == {"validation"}
    key = ["dataset", "profile", "approach", "variant", "protocol", "attack", "eps_255", "metric", "seed"]
    assert not ledger.duplicated(key).any()


def test_a_changed_value_changes_the_table_and_nothing_else(tmp_path):
    ledger = pd.read_csv(LEDGER, dtype={"fingerprint": str})
    ledger.loc[ledger["approach"] == "center_loss", "value"] = 0.123
    ledger.to_csv(tmp_path / "results.csv", index=False)
    assert tables(tmp_path / "results.csv") != tables() and "0.123" in tables(tmp_path / "results.csv")
    assert fill(f"a{START}old{END}z", "new") == f"a{START}\nnew\n{END}z"
    with pytest.raises(ValueError):
        fill("no markers", "new")


def test_differences_stand_in_the_table_with_their_signs_and_intervals():
    gap = dict(approach="triplet", against="frozen_backbone", value=0.0512, low=-0.01, high=0.1)
    lines = gap_lines(pd.DataFrame([{**gap, "metric": metric} for metric in ("roc_auc", "map_at_r")]))
    assert lines[2:] == ["| triplet - frozen_backbone" + 2 * " | +0.051 [-0.010, +0.100]" + " |"]
