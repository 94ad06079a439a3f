"""One door: every command is listed with a line, and runs from there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import __main__ as door


def test_every_command_is_listed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    door.main([])
    said = capsys.readouterr().out
    known = door.commands()
    assert {"news.train", "news.evaluate", "news.predict", "news.export", "bench", "exercises.grade"} <= known.keys()
    assert {"vision.fine_tune.train", "vision.from_scratch.predict", "vision.export"} <= known.keys()
    for name, line in known.items():
        assert importlib.util.find_spec(f"course_utils.{name}"), name
        assert 20 < len(line) < 200, f"the first line of {name} does not say what it does"
        assert f"{name} " in said


def test_a_command_runs_from_there_with_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "course_utils", "news.predict"]
    done, helped = (
        subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        for words in (["--run", "nowhere", "x"], ["--help"])
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no run nowhere: train one with python -m course_utils.news.train")
    assert helped.returncode == 0
    assert "--top" in helped.stdout


def test_a_name_that_is_no_command_is_answered_with_near_ones() -> None:
    with pytest.raises(SystemExit, match=r"there is no command 'news\.trian': did you mean news\.train"):
        door.main(["news.trian"])
