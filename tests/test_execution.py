"""One execution for test and book: what a chapter may do, how it is stopped, judged and kept."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_output
from toy import Course, notebook

from tools import execution, judge
from tools.contents import ROOT

WORK = "import time\n\ntime.sleep(1.1)\nprint('done')"

# Name of the chapter -> its cells, its budget, and what pytest must say of it (None: it passes).
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
    "slow": (["x = 1", "while True:\n    pass"], {"seconds": 3}, "stopped: it passed its budget of 3 s"),
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
    "asks": (
        ["import urllib.request", "urllib.request.urlopen('http://example.org')"],
        {},
        "asked for example.org:80, but a chapter must run without a network",
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
    "warns": (["import warnings\n\nwarnings.warn('deep water')"], {}, "wrote to stderr"),
    "idle": (["x = 1", "y = 2"], {}, "at least 1 s of work was expected"),
    "wrong": (["1 / 0"], {}, "ZeroDivisionError: division by zero"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, str]:
    """All the toys, run once by `pytest --nbmake`, and what it printed."""
    course = Course(tmp_path_factory.mktemp("course"))
    for name, (cells, budget, _) in TOYS.items():
        course.add(notebook(*cells, chapter=name, **budget), f"{name}.ipynb")
    (course.root / "notebooks" / "exercises" / "good.ipynb").write_text("not even JSON")
    done = course.pytest("-rA", "--color=no")
    return course, re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


@pytest.mark.parametrize("name", TOYS)
def test_each_toy_gets_its_verdict(ran: tuple[Course, str], name: str) -> None:
    course, printed = ran
    said = TOYS[name][2]
    copy = course.root / "_build" / "executed" / f"{name}.ipynb"
    if said is None:
        assert f"PASSED notebooks/{name}.ipynb" in printed
        assert copy.is_file()
    else:
        section = re.split(rf"\n_+ \S*{name}\.ipynb _+\n", printed)[1]
        section = re.split(r"\n[_=]+ ", section)[0]
        assert said in section
        assert not copy.exists(), "a chapter that failed must not reach the book"


def test_the_stopped_chapter_names_its_cell(ran: tuple[Course, str]) -> None:
    assert "it was in code cell 2 (while True:)" in ran[1]


def test_a_chapter_sees_nothing_but_itself(ran: tuple[Course, str]) -> None:
    copy = nbformat.read(ran[0].root / "_build" / "executed" / "good.ipynb", as_version=4)
    assert copy.cells[1].outputs[0].text == "['good.ipynb']\n"
    assert [cell.execution_count for cell in copy.cells] == [1, 2, 3]


def test_exercises_are_not_run(ran: tuple[Course, str]) -> None:
    assert "exercises" not in ran[1]


def test_the_record(ran: tuple[Course, str]) -> None:
    kept = json.loads((ran[0].root / "_build" / "executed" / "good.json").read_text())
    assert 1.1 < kept["seconds"] < 30
    assert 0.01 < kept["peak_memory_gb"] < 1
    assert kept["versions"]["numpy"]
    assert max(kept["cell_seconds"].values()) >= 1.1


FRESHNESS = """
from pathlib import Path
from tools import execution

chapter = Path("notebooks/good.ipynb").resolve()
print("untouched", execution.fresh(chapter))
for path, text in [("course_utils/new.py", "x = 1"), ("constraints.txt", "torch==0"), (chapter, None)]:
    path = Path(path)
    before = path.read_text() if path.exists() else ""
    path.write_text(before.replace("done", "finished") if text is None else text)
    execution.versions.cache_clear()
    print(path.name, "changed", execution.fresh(chapter))
    path.write_text(before) if before else path.unlink()
    execution.versions.cache_clear()
    print(path.name, "restored", execution.fresh(chapter))
"""


def test_what_makes_an_executed_copy_stale(ran: tuple[Course, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESHNESS], cwd=ran[0].root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "untouched True",
        "new.py changed False",
        "new.py restored True",
        "constraints.txt changed False",  # other versions decide
        "constraints.txt restored True",
        "good.ipynb changed False",
        "good.ipynb restored True",
    ]


BOOK = """
import sys
from tools import book
book.CHAPTERS = [chapter for chapter in book.CHAPTERS if chapter.stem in sys.argv[1:]]
book.run_chapters()
"""


def test_the_book_runs_what_is_stale_and_passes_over_what_is_fresh(ran: tuple[Course, str]) -> None:
    def run(*chapters: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BOOK, *chapters]
        return subprocess.run(command, cwd=ran[0].root, capture_output=True, text=True, timeout=120)

    stale = run("good", "idle")
    assert "FAILED notebooks/idle.ipynb" in stale.stdout
    assert "good.ipynb" not in stale.stdout
    assert "BookError: a chapter did not run through" in stale.stderr
    fresh = run("good")
    assert (fresh.returncode, fresh.stdout) == (0, ""), fresh.stderr


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


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_of_an_output_is_named(defect: str) -> None:
    changes, words = DEFECTS[defect]
    found = judge.faults(_run_of(**{name: nbformat.from_dict(value) for name, value in changes.items()}))
    assert len(found) == 1, found
    assert found[0].startswith("code cell 2 (")
    assert words in found[0]


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


def test_a_cell_that_was_not_timed_and_a_process_left_over() -> None:
    run = _run_of()
    run.cell_seconds[run.notebook.cells[1].id] = 0.0
    run.leftovers = ["python -c x"]
    assert [sentence.split(": ")[1] for sentence in judge.faults(run)] == [
        "took 0.000 s; it was not executed",
        "python -c x",
    ]


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
