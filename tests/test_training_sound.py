"""No run misleads its owner: numbers that are none end it and replace nothing; a folder is one run's alone."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_run import TINY, _one_thread, digits, fine_tune, tensors, tiny  # noqa: F401

from course_utils.training import run
from course_utils.training.alone import LOCK, alone_in
from course_utils.training.folder import BEST, CARD, HISTORY, LAST
from course_utils.training.sound import strict
from course_utils.vision.fine_tune import train as training
from course_utils.vision.fine_tune.config import FineTune

# ---- numbers -----------------------------------------------------------------------------------------------------


def after_steps(monkeypatch: pytest.MonkeyPatch, steps: int, spoil: Any) -> None:
    """Something happens to the model in a step."""
    real, calls = run.train_step, []

    def spoiled(model: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
        result = real(model, *arguments, **named)
        calls.append(1)
        if len(calls) == steps:
            with torch.no_grad():
                spoil(model)
        return result

    monkeypatch.setattr(run, "train_step", spoiled)


def spoil_weight(model: torch.nn.Module) -> None:
    next(p for p in model.parameters() if p.requires_grad).view(-1)[0] = float("nan")


def test_nan_keeps_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 7 spoils a weight; a save is due after step 8, whose loss shows it."""
    after_steps(monkeypatch, 7, spoil_weight)
    words = rf"the loss is nan at step 8: .*{LAST} is kept as it was after step 6"
    with pytest.raises(FloatingPointError, match=words):
        fine_tune(tmp_path)
    for name in (LAST, BEST):
        assert all(
            tensor.isfinite().all() for tensor in tensors(tmp_path / name).values() if tensor.is_floating_point()
        )


@pytest.mark.parametrize("step", [2, 8])
def test_a_step_that_spoils_the_weights_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Its own loss is still a number. With one step to a run, nothing else would tell."""
    after_steps(monkeypatch, step, spoil_weight)
    with pytest.raises(FloatingPointError, match=rf"holds inf or nan after step {step}: "):
        fine_tune(tmp_path)
    if step == 2:
        assert not (tmp_path / LAST).exists()
    else:
        assert all(t.isfinite().all() for t in tensors(tmp_path / LAST).values() if t.is_floating_point())


@pytest.mark.parametrize(("number", "words"), [(1, "the validation, after epoch 1, loss is inf"), (4, "test loss is")])
def test_an_evaluation_that_is_no_number_chooses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    real, calls = run.evaluate, []

    def evaluated(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        found = real(*arguments, **named)
        return replace(found, loss=float("inf")) if len(calls) == number else found

    monkeypatch.setattr(run, "evaluate", evaluated)
    with pytest.raises(FloatingPointError, match=words):
        fine_tune(tmp_path)
    assert (tmp_path / BEST).exists() == (number > 1)


def test_the_command_exits_with_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--data digits --base embedded --per-class 10 --lr 1e30 --epochs 3 --batch-size 8 --augment none --output"
    with pytest.raises(SystemExit) as caught:
        training.main([*words.split(), str(tmp_path / "run")])
    assert str(caught.value).startswith("error: ")
    assert any(word in str(caught.value) for word in ("nan", "inf")), str(caught.value)
    assert "Traceback" not in capsys.readouterr().err


def test_a_history_is_json_whatever_the_losses_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In FP16 a step with a loss of inf is skipped, and the run goes on."""
    real, calls = run.train_step, []

    def skipped(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        found = real(*arguments, **named)
        return replace(found, loss=float("inf"), skipped=True) if len(calls) == 2 else found

    monkeypatch.setattr(run, "train_step", skipped)
    fine_tune(tmp_path, precision="fp16")

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    found = json.loads((tmp_path / HISTORY).read_text(), parse_constant=refuse)
    assert found["losses"][1] is None
    assert None not in found["losses"][2:]
    assert strict({"a": (1.0, float("nan")), "b": {"c": -float("inf")}}) == {"a": [1.0, None], "b": {"c": None}}


# ---- the folder --------------------------------------------------------------------------------------------------


def test_a_second_run_into_one_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    words = rf"another run is writing to .*run \(process {os.getpid()} on "
    with alone_in(tmp_path / "run"), pytest.raises(ValueError, match=words):
        fine_tune(tmp_path / "run")
    fine_tune(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LAST, BEST, HISTORY, CARD}


HOLDER = """
import sys, time
from pathlib import Path
from course_utils.training.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("there", flush=True)
    time.sleep(60)
"""
SAVER = """
import sys, time
from course_utils.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(bytes(100))
    print("there", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def started(program: str, *words: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has come to what it does; killed at the end, if it was not before."""
    command = [sys.executable, "-c", program, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with (
        started(HOLDER, tmp_path) as holder,
        pytest.raises(ValueError, match=f"process {holder.pid} on"),
        alone_in(tmp_path),
    ):
        pass
    assert (tmp_path / LOCK).exists(), "nobody came to remove it"
    with alone_in(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_what_a_killed_save_left_is_swept_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    names = [tmp_path / name for name in (".hidden", "notes.tmp", ".my.tmp", "last.safetensors.1-00000000.tmp")]
    for path in names:
        path.write_text("mine")
    with started(SAVER, tmp_path / LAST) as saver:
        saver.kill()
    (half,) = set(tmp_path.iterdir()) - set(names)
    with alone_in(tmp_path):
        assert not half.exists()
    assert set(tmp_path.iterdir()) == set(names)
    assert any("removed 1 files" in line for line in caplog.messages)


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "read-only": Path("/proc/run")}
    monkeypatch.setattr(training, "make_task", lambda *_: pytest.fail("data and model were read"))
    with pytest.raises(OSError, match=r"no run can be written to .*: choose another folder \(--output\)"):
        training.train(FineTune(output=str(places[kind])))


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per_class"):
        training.train(FineTune(data="digits", per_class=10**6, output=str(tmp_path / "a" / "b")))
    assert not (tmp_path / "a").exists()


# ---- progress ----------------------------------------------------------------------------------------------------


def test_progress_is_told_where_no_bar_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(run, "PROGRESS", 0.0)
    fine_tune(tmp_path)
    lines = [line for line in caplog.messages if line.startswith("step ")]
    assert lines[0].startswith("step 1 of at most 15: loss ")
    assert len(lines) == 15
