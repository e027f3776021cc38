"""docs/protocol.md: the rules that are cited by number stand there, and every test it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
CITING = [*ROOT.glob("common/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("R*.ipynb"), ROOT / "README.md"]


def rules(page: str) -> dict[int, str]:
    """Number -> the rule's paragraph."""
    return {int(number): text for number, text in re.findall(r"^\*\*(\d+)\. (.*)$", page, re.MULTILINE)}


def cited(text: str) -> set[int]:
    found = re.findall(r"protocol\s+rules?\s+(\d+)(?:\s+and\s+(\d+))?", text, re.IGNORECASE)
    return {int(number) for numbers in found for number in numbers if number}


def missing(page: str, root: Path = ROOT) -> list[str]:
    """Tests that a page names as [words](../file) (`test`, ...) and that are not there."""
    found = []
    for file, names in re.findall(r"\]\(\.\./([^)]+)\)(?: \(([^)]*)\))?", page):
        source = (root / file).read_text() if (root / file).exists() else ""
        names = re.findall(r"`(\w+)`", names) or ["no test is named"]
        found += [f"{file}: {name}" for name in names if f"def {name}(" not in source]
    return found


def test_every_cited_rule_stands_on_the_page():
    citations = {str(path.relative_to(ROOT)): cited(path.read_text()) for path in CITING}
    assert set.union(*citations.values()), "nobody cites a rule"
    assert {name: numbers for name, numbers in citations.items() if numbers - set(rules(PAGE))} == {}


def test_every_rule_says_what_holds_it():
    assert list(rules(PAGE)) == list(range(1, 23)) and len(PAGE.split()) <= 1500
    unheld = [number for number, text in rules(PAGE).items() if "](../tests/" not in text and "Not built" not in text]
    assert unheld == [] == missing(PAGE)


def test_planted_faults_are_seen(tmp_path):
    (tmp_path / "real.py").write_text("def test_it():\n    pass\n")
    page = "**1. One.** [A](../real.py) (`test_it`, `test_no`), [b](../gone.py) (`test_it`) [c](../real.py)"
    assert missing(page, tmp_path) == ["real.py: test_no", "gone.py: test_it", "real.py: no test is named"]
    assert cited("(protocol\n    rule 3), Protocol rules 12 and 22; rule 4") == {3, 12, 22}
