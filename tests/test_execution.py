"""One execution for test and book: what a chapter may do, how it is stopped, judged and kept."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_output
from toy import Course, notebook

from tools import closure, execution, judge, passed
from tools.contents import CHAPTERS, ROOT, SOLUTIONS

WORK = "import time\n\ntime.sleep(1.1)\nprint('done')"

# Name of the chapter -> its cells, its budget, and what pytest must say of it (None: it passes). One for each way to
# end; what is wrong with an output is planted below, where no kernel is needed.
TOYS: dict[str, tuple[list[str], dict[str, Any], str | None]] = {
    "good": (
        [
            WORK,
            "import os\n\nprint(os.listdir())",
            "import socket\n\nserver = socket.create_server(('127.0.0.1', 0))\n"
            "client = socket.create_connection(('localhost', server.getsockname()[1]))\nclient.close()\nserver.close()",
        ],
        {},
        None,  # processes of one machine may talk to each other
    ),
    "slow": (["x = 1", "while True:\n    pass"], {"seconds": 3}, "in code cell 2 (while True:)"),
    "large": (
        ["import os\nimport time", "x = os.urandom(200_000_000)\ntime.sleep(0.6)"],
        {"memory_gb": 0.1},
        "over the budget of 0.1 GB",
    ),
    "orphan": (
        ["import subprocess\n\np = subprocess.Popen(['sleep', '45'], start_new_session=True)"],
        {},
        "left running after the kernel ended: sleep 45",
    ),
    "child_asks": (
        [
            "import subprocess\nimport sys",
            "code = 'import socket; socket.create_connection((\"192.0.2.1\", 80))'\n"
            "done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
            "raise RuntimeError(done.stderr.splitlines()[-1])",
        ],
        {},
        "asked for 192.0.2.1:80",
    ),
    "crash": (["import os", "os.abort()"], {}, "ended by the death of its kernel"),
    "wrong": (["1 / 0"], {}, "ZeroDivisionError: division by zero"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, str]:
    """All the toys, run once by `pytest --nbmake`, and what it printed."""
    course = Course(tmp_path_factory.mktemp("course"))
    for name, (cells, budget, _) in TOYS.items():
        course.add(notebook(*cells, chapter=name, **budget), f"{name}.ipynb")
    (course.root / "notebooks" / "exercises" / "good.ipynb").write_text("not even JSON")
    (course.root / "tests").mkdir()
    (course.root / "tests" / "test_green.py").write_text("def test_a(): pass\ndef test_b(): pass")
    (course.root / "tests" / "test_red.py").write_text("def test_c(): pass\ndef test_d(): assert False")
    return course, _plain(course.pytest("-rA", "--color=no", "notebooks", "tests"))


def _plain(done: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


def test_each_toy_gets_its_verdict(ran: tuple[Course, str]) -> None:
    course, printed = ran
    for name, (_, _, said) in TOYS.items():
        copy = course.root / "_build" / "executed" / f"{name}.ipynb"
        if said is None:
            assert f"PASSED notebooks/{name}.ipynb" in printed
            assert copy.is_file()
        else:
            section = re.split(rf"\n_+ \S*{name}\.ipynb _+\n", printed)[1]
            assert said in re.split(r"\n[_=]+ ", section)[0], name
            assert not copy.exists(), f"{name} failed and must not reach the book"
    assert "exercises" not in printed


def test_a_chapter_sees_nothing_but_itself_and_leaves_a_record(ran: tuple[Course, str]) -> None:
    kept = ran[0].root / "_build" / "executed"
    copy = nbformat.read(kept / "good.ipynb", as_version=4)
    assert copy.cells[1].outputs[0].text == "['good.ipynb']\n"
    assert [cell.execution_count for cell in copy.cells] == [1, 2, 3]
    record = json.loads((kept / "good.json").read_text())
    assert 1.1 < record["seconds"] <= record["budget"]["seconds"] == 30
    assert 0.01 < record["peak_memory_gb"] <= record["budget"]["memory_gb"] == 1
    assert record["versions"]["numpy"]
    assert max(record["cell_seconds"].values()) >= 1.1


def test_what_passed_and_did_not_change_is_not_run_again(ran: tuple[Course, str]) -> None:
    course, _ = ran
    copy = course.root / "_build" / "executed" / "good.ipynb"
    before = copy.stat().st_mtime_ns
    again = _plain(course.pytest("-rA", "--color=no", "--changed", "notebooks/good.ipynb", "tests"))
    assert "1 chapter and 1 test file fresh" in again
    assert copy.stat().st_mtime_ns == before
    assert re.findall(r"PASSED tests/(\S+)", again) == ["test_green.py::fresh", "test_red.py::test_c"]
    (course.root / "tests" / "test_green.py").write_text("def test_a(): pass\ndef test_e(): pass")
    slower = _plain(course.pytest("-rA", "--color=no", "--changed", "--patience=0.01", "notebooks/good.ipynb", "tests"))
    assert "stopped: it passed its budget of 0.3 s" in slower, "a copy that took longer than it may now is no excuse"
    assert "PASSED tests/test_green.py::test_e" in slower
    assert " fresh:" not in slower


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in miniature, with a chapter that was executed, of which nothing changed since."""
    for name, text in {
        "course_utils/__init__.py": "",
        "course_utils/room/__init__.py": "from course_utils.room.shown import show",
        "course_utils/room/shown.py": "def show(name):\n    from course_utils.deep import text\n    text(f'{name}.js')",
        "course_utils/room/other.py": "import course_utils.unreached",
        "course_utils/room/votes.js": "",
        "course_utils/room/bits.js": "",
        "course_utils/deep.py": "SERVERS = ('course_utils.worker', 'torch.nn')",
        "course_utils/worker.py": "",
        "course_utils/unreached.py": "",
        "constraints.txt": "numpy==1\nno-such-package==1",
        **dict.fromkeys(execution.JUDGING, "judge"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    monkeypatch.setattr(execution, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(execution, "EXECUTED", tmp_path / "_build")
    execution.versions.cache_clear()
    chapter = tmp_path / "toy.ipynb"
    nbformat.write(notebook("from course_utils.room import show\n\nshow('votes')"), chapter)
    execution.record(chapter, execution.Run(nbformat.read(chapter, as_version=4), seconds=20), execution.stamp(chapter))
    return tmp_path


def test_a_chapter_stands_on_what_its_imports_reach_and_on_nothing_else(checkout: Path) -> None:
    chapter = checkout / "toy.ipynb"
    package = checkout / "course_utils"
    reached = {path.relative_to(package).as_posix() for path in closure.under_notebook(chapter, checkout)}
    room = {"room/__init__.py", "room/shown.py", "room/votes.js"}
    assert reached == {"__init__.py", "deep.py", "worker.py", *room}, "a room, what it reaches, what strings name"

    def fresh_after(name: str, text: str = "changed = 1") -> bool:
        path = checkout / name
        before = path.read_text() if path.is_file() else None
        path.write_text(text if name != "toy.ipynb" else (before or "").replace("votes", "bits"))
        execution.versions.cache_clear()
        fresh = execution.fresh(chapter)
        path.unlink() if before is None else path.write_text(before)
        execution.versions.cache_clear()
        assert execution.fresh(chapter), f"{name} is again what it was"
        return fresh

    for name in (*(f"course_utils/{name}" for name in reached), *execution.JUDGING, "toy.ipynb"):
        assert not fresh_after(name), name
    assert not fresh_after("constraints.txt", "pytest==1"), "other versions decide"
    for name in ("room/other.py", "unreached.py", "room/bits.js", "new.py"):
        assert fresh_after(f"course_utils/{name}"), name


def test_a_copy_that_took_too_long_for_now_or_has_no_record_is_not_fresh(checkout: Path) -> None:
    chapter = checkout / "toy.ipynb"
    assert execution.fresh(chapter, patience=1)  # 20 s of 30
    assert not execution.fresh(chapter, patience=0.5)
    execution.executed(chapter).with_suffix(".json").write_text("{}")
    assert not execution.fresh(chapter)


def test_a_test_file_stands_on_what_it_imports_and_one_that_knows_the_checkout_on_all_of_it() -> None:
    def reached(name: str) -> set[str]:
        return {path.relative_to(ROOT).as_posix() for path in closure.under_test(ROOT / "tests" / name)}

    formats = reached("exercises/test_float_formats.py")
    assert {f"notebooks/{folder}/float_formats.ipynb" for folder in ("solutions", "exercises")} <= formats
    assert {"tests/exercises/mutants.py", "course_utils/precision/formats.py"} <= formats
    assert not [name for name in formats if "pipeline" in name or name == "tools/contents.py"]
    assert "course_utils/data/embedded/news_train.jsonl" in reached("test_data_news.py")
    for name in ("test_execution.py", "book/test_every_page.py", "test_types.py"):
        assert "tools/contents.py" in reached(name)


def test_a_test_file_is_stale_when_something_under_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = {name: ROOT / "tests" / f"test_{name}.py" for name in ("precision_formats", "pipeline_schedule", "types")}
    passed._checkout.cache_clear()
    before = {name: passed.stamp(path) for name, path in tests.items()}
    assert before == {name: passed.stamp(path) for name, path in tests.items()}
    digest = passed._digest.__wrapped__
    monkeypatch.setattr(passed, "_digest", lambda path: "changed" if path.name == "formats.py" else digest(path))
    passed._checkout.cache_clear()
    assert [name for name, path in tests.items() if passed.stamp(path) != before[name]] == [
        "precision_formats",
        "types",
    ]
    passed._checkout.cache_clear()


def test_no_chapter_stands_on_an_exercise() -> None:
    exercises = ROOT / "course_utils" / "exercises"
    for chapter in CHAPTERS:
        reached = closure.under_notebook(chapter)
        assert ROOT / "course_utils" / "runtime.py" in reached
        assert not [path for path in reached if path.is_relative_to(exercises)], chapter.name
    for solutions in SOLUTIONS:
        own = {f"exercises/{solutions.stem}", "exercises"}
        rooms = {
            path.parent.relative_to(ROOT / "course_utils").as_posix() for path in closure.under_notebook(solutions)
        }
        assert {room for room in rooms if room.startswith("exercises")} == own


def test_a_file_that_the_imports_do_not_reach_is_named(tmp_path: Path) -> None:
    """By the kernel or by any process below it, as a module or as data: a stamp would not know of it."""
    cells = [
        "import importlib\n\nsealed = importlib.import_module('.'.join(['course_utils', 'sealed']))",
        "import subprocess\nimport sys",
        "code = 'from course_utils' + ' import data; open(data.__path__[0] + \"/embedded/news.md\").close()'",
        "done = subprocess.run([sys.executable, '-c', code], check=True)",
    ]
    nbformat.write(notebook(*cells), tmp_path / "toy.ipynb")
    run = execution.run(tmp_path / "toy.ipynb", patience=4)
    assert run.failing_cell is None
    named = {re.split(r" read |, which", fault)[1] for fault in judge.faults(run) if "do not reach" in fault}
    package = "course_utils/"
    assert {package + "sealed.py", package + "data/__init__.py", package + "data/embedded/news.md"} <= named


def test_a_notebook_without_a_budget_is_refused(tmp_path: Path) -> None:
    nb = notebook(WORK)
    del nb.metadata["course"]["seconds"]
    path = tmp_path / "toy.ipynb"
    nbformat.write(nb, path)
    with pytest.raises(ValueError, match="states no budget: put `seconds` and `memory_gb`"):
        execution.run(path)


def test_overwriting_chapters_is_refused(ran: tuple[Course, str]) -> None:
    done = ran[0].pytest("--overwrite")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "chapters are never written over" in done.stderr


def _stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return new_output("stream", name=name, text=text)


def _data(mime: str, text: str) -> dict[str, Any]:
    return new_output("display_data", data={mime: text})


def _error(line: str = "Cell In[2], line 1") -> dict[str, Any]:
    return new_output("error", ename="ValueError", evalue="no", traceback=[line, "ValueError: no"])


def _run_of(**changes: Any) -> execution.Run:
    """A faultless run of two cells; `changes` are made to its second cell."""
    nb = notebook("import math", "print(math.pi)")
    for number, cell in enumerate(nb.cells, start=1):
        cell.execution_count = number
    nb.cells[1].outputs = [_stream("3.14\n")]
    for name, value in changes.items():
        nb.cells[1][name] = value
    return execution.Run(nb, seconds=3, cell_seconds={cell.id: 1.0 for cell in nb.cells})


def test_a_faultless_run_has_no_faults() -> None:
    assert judge.faults(_run_of()) == []


HOME = os.path.expanduser("~")  # noqa: PTH111 - a string is meant
DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "stderr": ({"outputs": [_stream("hm", "stderr")]}, "wrote to stderr: 'hm'"),
    "warning printed": ({"outputs": [_stream("x.py:3: UserWarning: old\n")]}, "a warning"),
    "log warning": ({"outputs": [_stream("WARNING:root:old\n")]}, "a warning"),
    "bracketed warning": ({"outputs": [_stream("[2026-01-01] [WARNING] [accelerator.py:213] no GPU\n")]}, "a warning"),
    "traceback printed": ({"outputs": [_stream("Traceback (most recent call last):\n")]}, "holds a traceback"),
    "error": ({"outputs": [_error()]}, "tag the cell `raises-exception`"),
    "no error": ({"metadata": {"tags": ["raises-exception"]}}, "but nothing was raised"),
    "error with a file": (
        {"outputs": [_error("File ~/course/x.py:3")], "metadata": {"tags": ["raises-exception"]}},
        "path",
    ),
    "path in text": ({"outputs": [_stream("saved to /tmp/run/model.pt\n")]}, "an absolute path"),
    "path in html": ({"outputs": [_data("text/html", "<td>/home/ada/course</td>")]}, "an absolute path"),
    "path of Windows": ({"outputs": [_stream("C:\\Users\\ada\n")]}, "an absolute path"),
    "path of this machine": ({"outputs": [_data("text/plain", f"at {ROOT}")]}, "path"),
    "progress bar": ({"outputs": [_stream(" 40%|####      | 2/5\n")]}, "progress-bar debris"),
    "carriage return": ({"outputs": [_stream("step 1\rstep 2\n")]}, "progress-bar debris"),
    "widget": ({"outputs": [_data("application/vnd.jupyter.widget-view+json", "x")]}, "progress-bar debris"),
    "address": ({"outputs": [_data("text/plain", "<Model object at 0x7f2c10a3>")]}, "a memory address"),
    "out of order": ({"execution_count": 5}, "executed as number 5, expected 2"),
    "not executed": ({"execution_count": None}, "executed as number None, expected 2"),
    "wall of text": ({"outputs": [_stream("x\n" * 61)]}, "printed 61 lines"),
    "work skipped": ({"outputs": [], "source": "if False:\n    train()"}, "under an `if` that was not entered"),
}


def test_each_defect_of_an_output_is_named() -> None:
    for defect, (changes, words) in DEFECTS.items():
        found = judge.faults(_run_of(**{name: nbformat.from_dict(value) for name, value in changes.items()}))
        assert len(found) == 1, (defect, found)
        assert found[0].startswith("code cell 2 (")
        assert words in found[0], defect


def test_what_looks_like_a_path_and_is_none() -> None:
    for text in (
        "see https://example.org/home/ada",
        "2 tokens/s and/or 3",
        "</tmp>",
        "a/b",
        "ok / warning / blocked",
        "~/x",
    ):
        assert judge.faults(_run_of(outputs=[_stream(text)])) == [], text


def test_what_a_page_does_not_show_is_not_judged() -> None:
    table = new_output("display_data", data={"text/html": "<b>3</b>", "text/plain": "<Styler at 0x7f2c10a3>"})
    assert judge.faults(_run_of(outputs=[table])) == []


def test_what_is_wrong_with_a_whole_run_is_named() -> None:
    run = _run_of()
    run.cell_seconds[run.notebook.cells[1].id] = 0.0
    run.cell_seconds[run.notebook.cells[0].id] = 0.5
    run.leftovers = ["python -c x"]
    run.peak_bytes = 2 * execution.GB
    run.reached = {ROOT / "course_utils" / "runtime.py"}
    faults = judge.faults(run)
    for words in (
        "took 0.000 s",
        "at least 1 s of work",
        "budget of 1 GB",
        "python -c x",
        "course_utils from elsewhere",
    ):
        assert [words in fault for fault in faults].count(True) == 1, (words, faults)
    assert len(faults) == 5


def test_the_users_own_settings_do_not_reach_a_chapter(tmp_path: Path, monkeypatch: Any) -> None:
    """The planted mistakes: a list of fonts that has been spoilt (matplotlib then warned in every figure), threads."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 77\n")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    show = "print(matplotlib.rcParams['lines.linewidth'], os.environ['OMP_NUM_THREADS'])"
    cell = f"import os\nimport time\n\nimport matplotlib\n\ntime.sleep(1)\n{show}"
    course = Course(tmp_path / "course")
    course.add(notebook(cell, chapter="style"), "style.ipynb")
    run = execution.run(course.root / "notebooks" / "style.ipynb", threads=3)
    assert run.notebook.cells[-1].outputs[0].text == "1.5 3\n"
