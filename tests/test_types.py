"""Types: what `make lint` says of them, among the tests, where another worker has the other core meanwhile."""

import subprocess
import sys

import pytest

from tools.contents import ROOT


@pytest.mark.once
@pytest.mark.timeout(900)  # without its cache mypy reads all of torch first
def test_types_are_clean() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
