"""What `pytest --nbmake` does at the root: package tests, and each chapter executed once for test and book.

nbmake collects the notebooks and reports them; `ChapterItem` replaces its run by `tools.execution.run` (an empty
folder, no network, a budget), then `tools.judge.faults`, and keeps the executed copy in `_build/executed` for the book.
Of the solutions one runs in a kernel; `tests/exercises` runs them all, with their checks.

With `--changed`, which `make test` gives, what passed is not run again until something under it has changed: a chapter
whose executed copy is fresh, a test file that passed whole (`tools.passed`).
"""

import json
import os
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbmake.nb_result import NotebookError, NotebookResult
from nbmake.pytest_items import NotebookFailedException, NotebookFile, NotebookItem

from tools import contents, execution, judge, passed

FRESH = "fresh"  # the property of the report of a chapter or file that was not run again: which of the two it is
BEGAN = "COURSE_TESTS_BEGAN"
TESTS = contents.ROOT / "tests"
collect_ignore = ["notebooks/exercises"]  # the students' copies: their stubs raise until a student has written them


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("course")
    group.addoption("--patience", type=float, default=1.0, help="multiply every chapter's time budget (a slow machine)")
    group.addoption("--changed", action="store_true", help="leave out what passed and stands on nothing that changed")
    group.addoption(
        "--thorough",
        action="store_true",
        help="all that is proved by examples else: every seed, every solution in a kernel, every chapter as in Colab",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--overwrite", default=False):
        raise pytest.UsageError("chapters are never written over: the executed copies lie in _build/executed")
    config.addinivalue_line(
        "markers", "slow: starts a process, a kernel or a browser (tools.slow finds these), or trains"
    )
    config.addinivalue_line("markers", "once: proved on one version of Python: chapters, book, Colab, types")
    if (share := _threads()) is not None:
        os.environ["OMP_NUM_THREADS"] = str(share)  # before anything imports torch
    if not hasattr(config, "workerinput"):
        os.environ[BEGAN] = str(time.time())  # the workers' too: what passes in this run is fresh in the next
    config.pluginmanager.register(Account(config), "account of files that passed")


class ChapterItem(NotebookItem):
    """One notebook: run, judge, keep."""

    def runtest(self) -> None:
        source = Path(self.filename)
        if unknown := self._mocks(source):
            raise ValueError(f"{source.name}: nbmake mocks are not run here, a chapter shows what ran: {unknown[0]}")
        patience = self.config.getoption("--patience")
        if self.config.getoption("--changed") and execution.fresh(source, patience):
            if source in contents.CHAPTERS:
                self.user_properties.append((FRESH, "chapter"))
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


class FreshFile(pytest.File):
    """A test file that is not even imported."""

    def collect(self) -> Iterator[pytest.Item]:
        yield FreshItem.from_parent(self, name=FRESH)


class FreshItem(pytest.Item):
    def runtest(self) -> None:
        self.user_properties.append((FRESH, "test file"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True for the solutions that no kernel runs, unless one is named on the command line."""
    return True if collection_path in contents.SOLUTIONS[1:] and not config.getoption("--thorough") else None


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, list[Any], list[Any]]:
    collected = yield
    ours = {*contents.CHAPTERS, *contents.SOLUTIONS}
    if collected and _may_be_fresh(file_path, parent.config) and passed.fresh(file_path, float(os.environ[BEGAN])):
        return [FreshFile.from_parent(parent, path=file_path)]
    return [
        ChapterFile.from_parent(found.parent, path=file_path)
        if isinstance(found, NotebookFile) and file_path.resolve() in ours
        else found
        for found in collected
    ]


def _may_be_fresh(file: Path, config: pytest.Config) -> bool:
    """Whether a test file is asked for only if it changed, and no single test by name."""
    return (
        config.getoption("--changed")
        and file.is_relative_to(TESTS)
        and not (config.getoption("--thorough") or _named_tests(config))
    )


def _named_tests(config: pytest.Config) -> bool:
    return bool(config.option.keyword or config.option.deselect or any("::" in name for name in config.args))


class Account:
    """Keeps which test files passed whole, in the process that ran them."""

    def __init__(self, config: pytest.Config) -> None:
        self.stamps: dict[str, str] = {}
        self.left: Counter[str] = Counter()
        self.partial = _named_tests(config) or bool(config.option.markexpr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.left = Counter(item.nodeid.split("::")[0] for item in items if isinstance(item, pytest.Function))
        self.stamps = {} if self.partial else {name: passed.stamp(contents.ROOT / name) for name in self.left}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("::")[0]
        self.left[name] -= report.when == "call" and report.passed
        if report.failed and name in self.stamps:
            del self.stamps[name]
            passed.forget(contents.ROOT / name)
        elif report.when == "teardown" and self.left[name] == 0 and name in self.stamps:
            passed.keep(contents.ROOT / name, self.stamps[name])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Chapters first: the tests that open the built book find them executed. Two long files before the short ones."""
    from tools.slow import starts_processes

    for item in items:
        if item.path.is_relative_to(TESTS / "book") or isinstance(item, ChapterItem):
            item.add_marker(pytest.mark.once)
        if item.path.is_relative_to(TESTS / "book"):
            item.add_marker(
                pytest.mark.timeout(1500)
            )  # the first one may have to run every chapter, and builds the book
        if not isinstance(item, FreshItem) and (item.path.parent != TESTS or starts_processes(item)):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Chapters, exercises, the longest test of the book, the package, the rest of the book.

    The longest builds the book, while the other worker still has the tests of the package.
    """
    if isinstance(item, ChapterItem):
        return 0
    if item.path.parent == TESTS / "book":
        return 2 if item.path.name == "test_every_page.py" else 4
    return 1 if item.path.parent == TESTS / "exercises" else 3


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    count = Counter(value for report in reports for name, value in report.user_properties if name == FRESH)
    if count:
        told = " and ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in sorted(count.items()))
        terminalreporter.write_line(f"{told} fresh: nothing under them has changed (`make clean test` runs all)")


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
