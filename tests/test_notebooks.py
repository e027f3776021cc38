"""The runner: order, progress, failure, copies, in-place refresh, the kernels' environment."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import nbformat
import pytest
from nbconvert.filters import strip_ansi
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from common import notebooks
from common.config import setup
from common.notebooks import NOTEBOOKS, OWNERS, NotebookError, clean, run, section_titles, select

FIRST, SECOND, THIRD = NOTEBOOKS[:3]
ORDER = "with open('order.txt', 'a') as file:\n    print({!r}, file=file)"


def put(folder, name, *cells):
    """Write a notebook; sources that start with # are Markdown, the others code."""
    made = [new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell) for cell in cells]
    nbformat.write(new_notebook(cells=made), folder / f"{name}.ipynb")


@pytest.fixture
def bars(monkeypatch):
    """Record what progress bars say instead of drawing them."""
    said = []

    def bar(total, desc, unit, position):
        said.append((desc, total))
        return nullcontext(SimpleNamespace(set_description=said.append, update=lambda: said.append("done")))

    monkeypatch.setattr(notebooks, "tqdm", bar)
    return said


def test_select_takes_numbers_and_full_names_in_curriculum_order(tmp_path):
    with pytest.raises(FileNotFoundError, match=FIRST):
        select((), tmp_path)
    for name in (THIRD, FIRST, SECOND):
        put(tmp_path, name, "# x")
    assert [path.stem for path in select((), tmp_path)] == [FIRST, SECOND, THIRD]
    assert [path.stem for path in select(["R3", FIRST, "R1", f"{THIRD}.ipynb"], tmp_path)] == [FIRST, THIRD]
    for unknown in ("R9", "R", "Center_Loss", ""):
        with pytest.raises(ValueError, match=r"R1_Data_Exploration.*R7_Explainability"):
            select(["R1", unknown], tmp_path)
    with pytest.raises(FileNotFoundError, match=NOTEBOOKS[3]):
        select(["R1", "R4"], tmp_path)
    assert set(OWNERS.values()) <= {name[:2] for name in NOTEBOOKS}


def test_section_titles_follow_headings_but_not_comments_in_fences():
    sources = ["# Title\ntext\n## The **mean** of `x` ##", "words only\n```\n# a comment\n```\n#hashtag", "### Last"]
    cells = [new_code_cell("0"), *map(new_markdown_cell, sources)]
    cells.insert(2, new_code_cell("# not a heading"))
    mean = "The mean of x"
    assert section_titles(new_notebook(cells=cells)) == ["", mean, mean, mean, "Last"]


def test_run_in_order_with_progress_copies_pages_and_environment(tmp_path, bars, monkeypatch):
    monkeypatch.setenv("SIMILARITY_WEIGHTS", str(tmp_path))  # not part of the configuration below
    config = setup(seed=7, checkpoints=tmp_path / "kept", weights="")
    figure = "display({'image/png': 'aGk='}, raw=True, metadata={'image/png': {'alt': 'A line rises.'}})"
    put(tmp_path, SECOND, "# Two", ORDER.format("two") + "\n" + figure)
    shown = "import os, sys; print(sys.prefix, os.getcwd(), os.environ['SIMILARITY_SEED'])"
    put(tmp_path, FIRST, "# One", ORDER.format("one"), "## Where", shown, "", "'SIMILARITY_WEIGHTS' in os.environ")
    before = {path: path.read_bytes() for path in tmp_path.glob("R*.ipynb")}

    copies = run(["R2", "R1"], config, root=tmp_path)

    assert copies == [tmp_path / "runs" / config.name / f"{name}.ipynb" for name in (FIRST, SECOND)]
    assert (tmp_path / "order.txt").read_text() == "one\ntwo\n"
    progress = [(FIRST, 3), "R1 One", "done", "R1 Where", "done", "R1 Where", "done", FIRST]
    assert bars == [*progress, (SECOND, 1), "R2 Two", "done", SECOND]
    cells = nbformat.read(copies[0], as_version=4).cells
    assert cells[3].outputs[0].text == f"{sys.prefix} {tmp_path} 7\n"
    assert cells[5].outputs[0].data["text/plain"] == "False"
    assert "One" in copies[0].with_suffix(".html").read_text()
    assert 'alt="A line rises."' in copies[1].with_suffix(".html").read_text()
    assert {path: path.read_bytes() for path in tmp_path.glob("R*.ipynb")} == before
    files = {path.name for path in copies[0].parent.iterdir()}
    made = {f"{name}.{kind}" for name in (FIRST, SECOND) for kind in ("ipynb", "html")}
    assert files == {"report.html", "docs", *made}
    landing = (copies[0].parent / "report.html").read_text()
    assert all(f'href="{name}.html"' in landing for name in (FIRST, SECOND))


def test_failure_names_section_keeps_partial_copy_and_stops(tmp_path, bars, monkeypatch, capsys):
    failing = ["# One", ORDER.format("one"), "## The fault", "kept = 0\n1 / kept", "## After", "2"]
    put(tmp_path, FIRST, *failing)
    stale = nbformat.read(tmp_path / f"{FIRST}.ipynb", as_version=4)
    stale.cells[5].update(execution_count=9)
    nbformat.write(stale, tmp_path / f"{FIRST}.ipynb")
    put(tmp_path, SECOND, ORDER.format("two"))
    before = (tmp_path / f"{FIRST}.ipynb").read_bytes()
    with pytest.raises(NotebookError) as caught:
        run((), setup(), output=tmp_path / "out", in_place=True, root=tmp_path)
    for word in (FIRST, "'The fault', cell 4", "ZeroDivisionError: division by zero", str(tmp_path / "out")):
        assert word in str(caught.value)
    assert "\x1b" not in str(caught.value) and "Traceback" not in str(caught.value)
    outputs = nbformat.read(tmp_path / f"out/{FIRST}.ipynb", 4).cells[3].outputs
    assert " / kept" in strip_ansi("".join(outputs[0].traceback)), "who wants the traceback finds it in the copy"
    assert (tmp_path / "order.txt").read_text() == "one\n"
    counts = [cell.get("execution_count") for cell in nbformat.read(tmp_path / f"out/{FIRST}.ipynb", 4).cells]
    assert counts == [None, 1, None, 2, None, None]
    assert (tmp_path / f"{FIRST}.ipynb").read_bytes() == before

    def failing_run(*arguments, **settings):
        raise caught.value

    monkeypatch.setattr(notebooks, "run", failing_run)
    assert notebooks.main([]) == 1 and "'The fault'" in capsys.readouterr().err


def test_two_runs_on_one_folder_are_one_too_many_but_a_runs_own_kernels_are_not(tmp_path, bars, capsys, monkeypatch):
    config = setup(checkpoints=tmp_path / "kept")
    nested = "import common.notebooks as n\nfrom common.config import setup\nfrom pathlib import Path\n"
    put(tmp_path, FIRST, ORDER.format("one"))
    put(tmp_path, SECOND, f"{nested}n.run(['R1'], setup(), output=Path('inner'), root=Path('.'))")
    monkeypatch.setenv("PYTHONPATH", str(notebooks.ROOT))
    run(["R2"], config, root=tmp_path)
    assert (tmp_path / "order.txt").read_text() == "one\n", "a notebook ran what it needs"
    imports = "from pathlib import Path\nfrom common.datasets.files import lock\n"
    hold = f"{imports}with lock(Path({str(config.directory)!r}), ''): print(flush=True); input()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", hold], cwd=notebooks.ROOT, **pipes)
    other.stdout.readline()
    with pytest.raises(BlockingIOError, match=f"another run works in {config.directory}: wait until it has ended"):
        run(["R1"], config, root=tmp_path)
    run(["R1"], setup(checkpoints=tmp_path / "other"), root=tmp_path)
    other.kill()
    other.wait()
    run(["R1"], config, root=tmp_path)

    def busy(*arguments, **settings):
        raise BlockingIOError("another run works")

    monkeypatch.setattr(notebooks, "run", busy)
    with pytest.raises(SystemExit):
        notebooks.main([])
    assert "another run works" in capsys.readouterr().err


def test_a_page_that_cannot_be_made_stops_nothing(tmp_path, bars, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no template")

    monkeypatch.setattr(notebooks, "notebook_page", fail)
    put(tmp_path, FIRST, ORDER.format("one"))
    put(tmp_path, SECOND, ORDER.format("two"))
    copies = run((), setup(), output=tmp_path / "out", root=tmp_path)
    assert (tmp_path / "order.txt").read_text() == "one\ntwo\n" and all(copy.exists() for copy in copies)
    assert capsys.readouterr().err.count("its page could not be made (RuntimeError('no template'))") == 2


def test_a_kernel_that_dies_is_reported_with_its_section(tmp_path, bars):
    put(tmp_path, FIRST, "# One", "import os\nos._exit(3)")
    with pytest.raises(NotebookError, match=r"section 'One', cell 2:\n\nKernel died"):
        run((), setup(), root=tmp_path)


def test_ctrl_c_stops_the_kernel_and_keeps_what_ran(tmp_path, bars, monkeypatch):
    put(tmp_path, FIRST, "# One", "print('before')", "import time\nprint('sleeping')\ntime.sleep(60)")
    original = notebooks.NotebookClient

    def announce(cell, cell_index):
        if "sleep" in cell.source:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    monkeypatch.setattr(notebooks, "NotebookClient", lambda *given, **settings: original(
        *given, **settings | {"on_cell_execute": announce}))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run((), setup(), output=tmp_path / "out", root=tmp_path)
    cells = nbformat.read(tmp_path / "out" / f"{FIRST}.ipynb", as_version=4).cells
    assert cells[1].outputs[0].text == "before\n" and not list((tmp_path / "out").glob("*.html"))


MEET = """import pathlib, time
pathlib.Path({mine!r}).write_text(str(__import__("os").getpid()))
end = time.time() + 10
while not pathlib.Path({other!r}).exists():
    assert time.time() < end, "nobody else is running"
    time.sleep(0.05)"""


@pytest.fixture
def couple(tmp_path, monkeypatch):
    """R3 and R4, each of which goes on once the other has begun, then R6; and the settings of a run on two cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for name, mine, other in ((NOTEBOOKS[2], "three", "four"), (NOTEBOOKS[3], "four", "three")):
        put(tmp_path, name, MEET.format(mine=mine, other=other), "import os; print(os.environ['OMP_NUM_THREADS'])")
    put(tmp_path, NOTEBOOKS[5], ORDER.format("six"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return setup(checkpoints=tmp_path / "kept")


def hand_on(config):
    config.directory.mkdir(parents=True)
    for name in ("splits.json", "backbone.json"):
        (config.directory / name).write_text("")


def test_what_needs_nothing_of_each_other_runs_side_by_side_with_one_thread_each(tmp_path, bars, couple):
    hand_on(couple)
    copies = run((), couple, root=tmp_path)
    assert [path.stem for path in copies] == [NOTEBOOKS[place] for place in (2, 3, 5)]
    for copy in copies[:2]:
        assert nbformat.read(copy, as_version=4).cells[1].outputs[0].text == "1\n"
    assert (tmp_path / "order.txt").read_text() == "six\n"


def test_a_tagged_cell_waits_for_its_neighbor_and_stops_where_that_failed(tmp_path, bars, couple):
    hand_on(couple)
    for name in OWNERS:
        (couple.directory / name).write_text("")
    for fault in ("", "1 / 0"):
        six = f"time.sleep(1)\n{fault}\n" + ORDER.format(6)
        put(tmp_path, NOTEBOOKS[5], MEET.format(mine="six", other="seven"), six)
        put(tmp_path, NOTEBOOKS[6], MEET.format(mine="seven", other="six"), ORDER.format(7), ORDER.format("last"))
        waiting = nbformat.read(tmp_path / f"{NOTEBOOKS[6]}.ipynb", 4)
        waiting.cells[2].metadata["tags"] = ["after-R6"]
        nbformat.write(waiting, tmp_path / f"{NOTEBOOKS[6]}.ipynb")
        if fault:
            with pytest.raises(NotebookError, match=r"(?s)R6_.*ZeroDivisionError"):
                run(["R6", "R7"], couple, root=tmp_path)
        else:
            run(["R6", "R7"], couple, root=tmp_path)
            run(["R7"], couple, root=tmp_path)  # alone it waits for nobody
    assert (tmp_path / "order.txt").read_text().split() == ["7", "6", "last", "7", "last", "7"]


def test_a_slider_shows_its_picture_in_its_cell_and_is_told_nothing(tmp_path, bars, caplog):
    put(tmp_path, FIRST, "from ipywidgets import interact\ninteract(lambda x=3: print(f'shown at {x}'), x=(0, 9));")
    (copy,) = run((), setup(), root=tmp_path)
    shown = [output.get("text") for output in nbformat.read(copy, 4).cells[0].outputs]
    assert "shown at 3\n" in shown, "it went into the widget, so nbclient answers widgets while it waits for a reply"
    assert not caplog.records, "a warning for each widget would break the progress bars"


def test_while_something_is_missing_they_run_one_after_another(tmp_path, bars, couple):
    with pytest.raises(NotebookError, match="nobody else is running"):
        run((), couple, root=tmp_path)
    assert not (tmp_path / "order.txt").exists()


def test_where_one_fails_its_neighbor_runs_to_its_end_and_nothing_after_them(tmp_path, bars, couple):
    hand_on(couple)
    put(tmp_path, NOTEBOOKS[2], MEET.format(mine="three", other="four"), "1 / 0")
    with pytest.raises(NotebookError, match=r"(?s)R3_Center_Loss.*ZeroDivisionError"):
        run((), couple, root=tmp_path)
    pages = {path.stem for path in (tmp_path / "runs").rglob("R*.html")}
    assert pages == {NOTEBOOKS[3]} and not (tmp_path / "order.txt").exists()


def test_ctrl_c_ends_every_kernel(tmp_path, bars, couple):
    hand_on(couple)
    for name, mine, other in ((NOTEBOOKS[2], "three", "four"), (NOTEBOOKS[3], "four", "three")):
        put(tmp_path, name, MEET.format(mine=mine, other=other), "time.sleep(60)")

    def interrupt():
        while not all((tmp_path / name).exists() for name in ("three", "four")):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run((), couple, root=tmp_path)
    for name in ("three", "four"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


def test_in_place_refreshes_whole_files_and_repeats_itself(tmp_path, bars):
    put(tmp_path, FIRST, "# One", "from tqdm.auto import tqdm\nlist(tqdm(range(2)))")
    contents = []
    for _ in range(2):
        run(["R1"], setup(), in_place=True, root=tmp_path)
        contents.append((tmp_path / f"{FIRST}.ipynb").read_text())
    cell = nbformat.reads(contents[0], as_version=4).cells[1]
    assert contents[0] == contents[1] and cell.execution_count == 1
    assert [output.output_type for output in cell.outputs] == ["execute_result"]  # the progress bar is gone


def test_clean_keeps_what_speaks_and_leaves_its_argument_alone():
    cell = new_code_cell("1", execution_count=3, metadata={"execution": {"x": "2026"}, "tags": ["keep"]})
    about = {"widgets": {}, "language_info": {"name": "python", "version": "3.11.7"}}
    notebook = new_notebook(cells=[cell], metadata=about)
    cleaned = clean(notebook)
    assert cleaned.cells[0].metadata == {"tags": ["keep"]} and cleaned.cells[0].execution_count == 3
    assert "widgets" not in cleaned.metadata and "version" not in cleaned.metadata.language_info
    assert notebook.cells[0].metadata.execution and "widgets" in notebook.metadata


@pytest.mark.parametrize("arguments", [["R8"], ["R7"]])
def test_command_line_refuses_what_is_not_there(arguments, tmp_path, monkeypatch, capsys):
    original = notebooks.run
    monkeypatch.setattr(notebooks, "run", lambda *given, **named: original(*given, **named, root=tmp_path))
    with pytest.raises(SystemExit) as stopped:
        notebooks.main(arguments)
    assert stopped.value.code == 2 and "R7_Explainability" in capsys.readouterr().err
