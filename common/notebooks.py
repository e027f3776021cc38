"""Running notebooks: in order or side by side, in the project's root, with bars that name the running sections."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.filters import strip_ansi
from tqdm.auto import tqdm

from common.config import ROOT, Config, cores, setup
from common.datasets.files import lock, write_text
from common.pages import LANDING, land, notebook_page

NOTEBOOKS = (
    *("R1_Data_Exploration", "R2_Backbone_Selection", "R3_Center_Loss", "R4_Siamese_Network", "R5_Triplet_Loss"),
    *("R6_Adversarial_Robustness", "R7_Explainability"),
)
OWNERS = {  # which notebook makes which file of a run's checkpoint folder
    "splits.json": "R1",
    "backbone.json": "R2",
    "best_model_center_loss.pth": "R3",
    "best_model_siamese_network.pth": "R4",
    "best_model_triplet_loss.pth": "R5",
    "robust_model_center_loss.pth": "R6",
    "robust_model_siamese_network.pth": "R6",
    "robust_model_triplet_loss.pth": "R6",
    "report.html": "R7",
}
STAGES = (("R1",), ("R2",), ("R3", "R4", "R5"), ("R6", "R7"))  # those of a stage run side by side
AFTER = "after-"  # a cell tagged "after-R6" waits until R6, running beside it, has ended
WIDGET = "application/vnd.jupyter.widget-view+json"
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


class NotebookError(RuntimeError):
    """A notebook stopped; the message names it, its section, the cause, and where the partial copy is."""


def select(names: Iterable[str] = (), root: Path = ROOT) -> list[Path]:
    """Find notebooks by full name or number ("R1"): each once, in the order in which checkpoints flow forward.

    No names mean every notebook there. ValueError for a name that fits none, FileNotFoundError for one not in `root`.
    """
    stems = {str(name).removesuffix(".ipynb") for name in names}
    unknown = stems - {short for name in NOTEBOOKS for short in (name, name[:2])}
    if unknown:
        raise ValueError(f"notebook {sorted(unknown)} is unknown; choose among: {', '.join(NOTEBOOKS)} (or R1 ... R7)")
    paths = [Path(root) / f"{name}.ipynb" for name in NOTEBOOKS if not stems or stems & {name, name[:2]}]
    found = [path for path in paths if path.exists()]
    if not found or (stems and len(found) < len(paths)):
        missing = ", ".join(path.name for path in paths if path not in found)
        raise FileNotFoundError(f"{missing}: not in {root}; run from a complete checkout")
    return found


def section_titles(notebook: nbformat.NotebookNode) -> list[str]:
    """Name every cell's section: the last Markdown heading at or above it, "" before the first one."""
    titles, title = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = HEADING.findall(FENCED.sub("", cell.source))
            title = re.sub(r"[*_`]{1,2}(\S.*?)[*_`]{1,2}", r"\1", headings[-1]) if headings else title
        titles.append(title)
    return titles


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of an executed notebook without what differs from run to run and says nothing.

    Progress bars, widget state, timestamps, random cell ids and the interpreter's version go; sources, other
    outputs and execution counts stay.
    """
    notebook = nbformat.from_dict(notebook)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


def run(
    names: Iterable[str] = (), config: Config | None = None, output: Path | None = None, in_place: bool = False,
    root: Path = ROOT,
) -> list[Path]:  # fmt: skip
    """Execute the notebooks that `select` finds, each in a fresh kernel that works in `root`.

    They run in order; on a CPU of two cores or more those of one of the `STAGES` side by side, if nothing is missing
    that earlier ones make. `config` (default `setup()`) reaches the kernels as `SIMILARITY_*` variables. The executed
    copies, which are returned, a page each, and the landing page go to the folder `output` (default
    `runs/<name of the run>/`). `in_place` puts the executed notebook, cleaned of what is volatile, in the place of the
    original too, once it has run to its end. A cell that fails raises NotebookError: what ran until then is kept in
    `output`, later stages and cells that wait for that notebook are not run. BlockingIOError where another run works
    in the same folder of checkpoints; notebooks that this run's own kernels start are not
    another run.
    """
    config = config or setup()
    output = Path(output or Path(root) / "runs" / config.name)
    paths = select(names, root)
    busy = f"another run works in {config.directory}: wait until it has ended, or give this one another folder"
    with lock(config.directory, f"{busy} (SIMILARITY_CHECKPOINTS)"):
        _in_its_own_loop(_in_stages(paths, output, config, in_place))
    return [output / path.name for path in paths]


def _in_its_own_loop(work: Coroutine) -> None:
    """Run `work` in another thread, where nbclient leaves the signals alone; Ctrl-C ends it, and its kernels."""
    begun: Queue = Queue()

    async def noted() -> None:
        begun.put((asyncio.get_running_loop(), asyncio.current_task()))
        await work

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, noted())
        try:
            running.result()
        except KeyboardInterrupt:
            loop, task = begun.get()
            loop.call_soon_threadsafe(task.cancel)
            raise  # leaving the thread waits until every kernel is shut down


async def _in_stages(paths: list[Path], output: Path, config: Config, in_place: bool) -> None:
    async def one(path: Path, threads: int, running: dict[str, asyncio.Task]) -> None:
        notebook = await _execute(path, output / path.name, config, threads, running)
        try:
            page = notebook_page(notebook, path.stem, {"All pages of this run": LANDING})
            write_text(output / f"{path.stem}.html", page)
            land(output, config.directory / "report.html")
        except Exception as fault:  # who needs what the notebook made needs no page
            print(f"{path.stem} ran, but its page could not be made ({fault!r})", file=sys.stderr)
        if in_place:
            write_text(path, nbformat.writes(clean(notebook)) + "\n")

    for names in STAGES:
        stage = [path for path in paths if path.stem[:2] in names]
        needed = [config.directory / name for name, owner in OWNERS.items() if owner < names[0]]
        beside = cores() > 1 and config.device == "cpu" and all(file.exists() for file in needed)
        for group in [stage] if beside else [[path] for path in stage]:  # else each would make what is missing
            running = {}
            for path in group:
                task = one(path, max(1, cores() // len(group)), running)
                running[path.stem[:2]] = asyncio.create_task(task)
            found = await asyncio.gather(*running.values(), return_exceptions=True)
            for error in filter(None, found):
                raise error


async def _execute(path: Path, copy: Path, config: Config, threads: int, running: dict) -> nbformat.NotebookNode:
    """Run one notebook and write it to `copy`, also when it fails half way; `running` are its stage's tasks."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:  # so that a partial copy shows no outputs of an earlier run
        cell.outputs, cell.execution_count = [], None
    titles, section = section_titles(notebook), [0]
    total = sum(bool(cell.source.strip()) for cell in code)
    with tqdm(total=total, desc=path.stem, unit="cell", position=[*running].index(path.stem[:2])) as bar:

        async def begin(cell, cell_index):
            section[0] = cell_index
            bar.set_description(f"{path.stem[:2]} {titles[cell_index][:50]}".strip())
            for name in {tag.removeprefix(AFTER) for tag in cell.metadata.get("tags", ())} & running.keys():
                await asyncio.wait([running[name]])
                if running[name].exception():
                    raise NotebookError(f"{path.name} stopped in section {titles[cell_index]!r}, as {name} failed")

        client = NotebookClient(
            notebook, timeout=None, startup_timeout=180, kernel_name="python3", record_timing=False,
            coalesce_streams=True, shutdown_kernel="immediate", resources={"metadata": {"path": str(path.parent)}},
            extra_arguments=["--log-level=ERROR"],  # a kernel's own notices would break the progress bar
            on_cell_execute=begin, on_cell_executed=lambda **_: bar.update(),
        )  # fmt: skip
        client.comm_open_handlers["jupyter.widget"] = lambda _: None  # an answer can lose the cell's own reply for ever
        try:
            await client.async_execute(env=_environment(config, threads))
            bar.set_description(path.stem)
        except (CellExecutionError, DeadKernelError) as error:
            where = f"section {titles[section[0]]!r}, cell {section[0] + 1}"
            reason = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error)
            raise NotebookError(
                f"{path.name} failed in {where}:\n\n{strip_ansi(reason)}\n\nWhat ran until then, and the traceback, is "
                f"kept in {copy}"
            ) from None
        finally:
            write_text(copy, nbformat.writes(notebook) + "\n")
    return notebook


def _environment(config: Config, threads: int) -> dict[str, str]:
    """A kernel's variables: those of `config` and no other `SIMILARITY_*`, figures inline, few warnings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SIMILARITY_")}
    quiet = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin beside a busy neighbor make training slow
        "PYTHONHASHSEED": "0",  # the same order of sets, so the same outputs, in every run
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no debugger notice from each kernel that starts
    }
    return inherited | quiet | config.environment()


def main(arguments: list[str] | None = None) -> int:
    """Command line: `python -m common.notebooks R1 R3 --in-place`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m common.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="R1 ... R7 or full names; default all")
    parser.add_argument("--output", type=Path, help="default runs/<dataset>-<profile>/")
    parser.add_argument("--in-place", action="store_true", help="also refresh the notebooks' own outputs")
    chosen = parser.parse_args(arguments)
    try:
        copies = run(chosen.names, output=chosen.output, in_place=chosen.in_place)
    except NotebookError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; what ran until then is kept.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"Executed notebooks and their pages are in {copies[0].parent}; open {copies[0].parent / LANDING}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
