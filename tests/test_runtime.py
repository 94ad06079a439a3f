import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from course_utils import runtime


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_setup_seeds_everything_and_reports(capsys):
    first_report, first = runtime.setup("float_formats", seed=3), draws()
    _, second = runtime.setup("float_formats", seed=3), draws()
    _, third = runtime.setup("float_formats", seed=4), draws()
    assert first == second
    assert all(a != b for a, b in zip(first, third, strict=True))
    assert repr(first_report).startswith("float_formats: ok")
    assert capsys.readouterr().out == ""  # the cell shows the value; nothing is printed twice


def test_threads_are_two_unless_something_else_was_asked_for():
    ask = "import torch; from course_utils import runtime; runtime.setup('toy'{}); print(torch.get_num_threads())"

    def threads(more: str = "", **environment: str) -> int:
        kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
        command = [sys.executable, "-c", ask.format(more)]
        return int(subprocess.run(command, env=kept, capture_output=True, text=True, check=True).stdout)

    assert threads() == min(2, runtime.cores())
    assert threads(OMP_NUM_THREADS="1") == 1
    assert threads(", threads=3", OMP_NUM_THREADS="1") == 3


def test_too_little_memory_is_a_warning_not_the_end():
    report = runtime.setup("float_formats", memory_gb=1e6)
    assert report.status == "warning"
    assert "needs 1000000.0 GB" in repr(report)


def test_old_torch_blocks_with_a_sentence(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.13.0+cpu")
    with pytest.raises(RuntimeError, match=r"blocked +torch +1\.13\.0\+cpu, needs 2\.9 or newer"):
        runtime.setup("float_formats")
