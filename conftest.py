"""What `pytest --nbmake` does at the root: package tests, and each chapter executed once for test and book.

nbmake collects the notebooks and reports them; `ChapterItem` replaces its run by `tools.execution.run` (an empty
folder, no network, a budget), then `tools.judge.faults`, and keeps the executed copy in `_build/executed` for the book.
A chapter whose copy is fresh is not run again. Of the solutions one runs in a kernel; `tests/exercises` runs them all,
with their checks.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbmake.nb_result import NotebookError, NotebookResult
from nbmake.pytest_items import (
    NotebookFailedException,
    NotebookFile,
    NotebookItem,
)

from tools import contents, execution, judge

FRESH = "fresh"  # the property of a chapter's report that says it was not run again
collect_ignore = ["notebooks/exercises"]  # the students' copies: their stubs raise until a student has written them


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("course")
    group.addoption("--patience", type=float, default=1.0, help="multiply every chapter's time budget (a slow machine)")
    group.addoption(
        "--thorough",
        action="store_true",
        help="all that is proved by examples else: every seed, every solution in a kernel, every chapter as in Colab",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--overwrite", default=False):
        raise pytest.UsageError("chapters are never written over: the executed copies lie in _build/executed")
    if (share := _threads()) is not None:
        os.environ["OMP_NUM_THREADS"] = str(share)  # before anything imports torch


class ChapterItem(NotebookItem):
    """One notebook: run, judge, keep."""

    def runtest(self) -> None:
        source = Path(self.filename)
        if unknown := self._mocks(source):
            raise ValueError(f"{source.name}: nbmake mocks are not run here, a chapter shows what ran: {unknown[0]}")
        patience = self.config.getoption("--patience")
        if execution.fresh(source, patience):
            self.user_properties.append((FRESH, source in contents.CHAPTERS))
            return
        before = execution.stamp(source)
        run = execution.run(source, patience=patience, threads=_threads())
        failure = _failure(source, run)
        if failure is not None:
            execution.write(contents.ROOT / "_build" / "failed" / source.name, nbformat.writes(run.notebook))
            raise NotebookFailedException(NotebookResult(run.notebook, failure))
        execution.record(source, run, before)
        self.add_report_section("call", "chapter", f"{run.seconds:.1f} s, {run.peak_bytes / execution.GB:.2f} GB")

    @staticmethod
    def _mocks(source: Path) -> list[str]:
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
        return [cell.get("id", "?") for cell in cells if "nbmake" in cell["metadata"]]


class ChapterFile(NotebookFile):
    def collect(self) -> Generator[Any, Any, Any]:
        item = ChapterItem.from_parent(self, filename=str(self.path))
        # A net under the chapter's own watch, in case the kernel cannot even be started.
        item.add_marker(pytest.mark.timeout(execution.SECONDS_LIMIT * self.config.getoption("--patience") + 120))
        yield item


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True for the solutions that no kernel runs, unless one is named on the command line."""
    return True if collection_path in contents.SOLUTIONS[1:] and not config.getoption("--thorough") else None


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[Any], list[Any]]:
    collected = yield
    ours = {*contents.CHAPTERS, *contents.SOLUTIONS}
    return [
        ChapterFile.from_parent(found.parent, path=file_path)
        if isinstance(found, NotebookFile) and file_path.resolve() in ours
        else found
        for found in collected
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Chapters first: the tests that open the built book then find them executed, and nothing runs twice.
    items.sort(key=lambda item: not isinstance(item, ChapterItem))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    count = sum(bool(value) for report in passed for name, value in report.user_properties if name == FRESH)
    if count:
        noun = "chapter" if count == 1 else "chapters"
        terminalreporter.write_line(f"{count} {noun} fresh: nothing under them has changed (`make clean` runs all)")


def _threads() -> int | None:
    """How many threads a test's products may use where several workers share the cores; else all that there are.

    Two workers with two threads each on two cores take a third longer than with one each: they wait for each other.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None


def _failure(source: Path, run: execution.Run) -> NotebookError | None:
    """What went wrong as nbmake reports it: a line for the summary, and the whole story."""
    at = run.failing_cell if run.failing_cell is not None else 0
    if run.stopped:
        sentence = f"{source.name} was {run.stopped}; it was in {judge.describe(run.notebook, at)}"
        return NotebookError(sentence, sentence, at)
    if run.failing_cell is not None:
        cell = run.notebook.cells[at]
        error = next(output for output in reversed(cell.outputs) if output.output_type == "error")
        story = "\n".join([f"{source.name}, {judge.describe(run.notebook, at)}", cell.source, *error.traceback])
        return NotebookError(f"{error.ename}: {error.evalue}", story, at)
    faults = judge.faults(run, work_seconds=judge.WORK_SECONDS if source in contents.CHAPTERS else 0.0)
    if not faults:
        return None
    return NotebookError(f"{source.name}: {faults[0]}", "\n".join([f"{source.name} ran, but", *faults]), at)
