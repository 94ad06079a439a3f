"""The card beside a run: its data, its figures with intervals, and a command that is the run's own."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_training_run import _one_thread, fine_tune  # noqa: F401

from course_utils.news.config import Config
from course_utils.training.card import command, wilson
from course_utils.training.folder import CARD
from course_utils.vision.fine_tune.config import FineTune


def test_a_card_names_data_figures_and_licence(tmp_path: Path) -> None:
    result = fine_tune(tmp_path)
    text = (tmp_path / CARD).read_text()
    assert result.test is not None
    assert result.validation is not None
    for part, found in (("validation accuracy, best epoch", result.validation), ("test accuracy", result.test)):
        low, high = wilson(found.accuracy, found.samples)
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {part}")]
        assert f"{found.accuracy:.4f} | {low:.3f} to {high:.3f} ({found.samples} examples)" in line
    assert f"| test loss | {result.test.loss:.4f} |" in text
    assert "| test | test part of digits (45 images, SHA-256" in text
    assert f"{result.trainable:,} of {result.total:,}" in text
    assert "Licence of what was trained further: MIT" in text


def test_a_run_that_was_stopped_has_no_card(tmp_path: Path) -> None:
    from test_training_run import stopped

    stopped(tmp_path, 7)
    assert not (tmp_path / CARD).exists()
    fine_tune(tmp_path, resume=True)
    assert (tmp_path / CARD).exists()


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        (Config, {"tactic": "lora", "targets": ("q_proj", "fc1"), "rank": 4, "clip": None, "train": "a title's.csv"}),
        (Config, {"tactic": "head", "tensorboard": True, "patience": None}),
        (FineTune, {"augment": "none", "per_class": 5, "lr": 3e-4, "mirrored": False}),
    ],
)
def test_the_command_is_the_run(kind: Any, choices: dict[str, Any]) -> None:
    config = kind(**choices, overwrite=True)
    words = shlex.split(command(config))
    assert words[:3] == ["python", "-m", kind.__module__.removesuffix("config") + "train"]
    assert kind.from_command_line(words[3:], "") == kind(**choices)


def test_the_interval_is_wilsons() -> None:
    """By the formula, at 80 % of 50; and within 0 and 1 where the normal one is not."""
    n, p, z = 50, 0.8, 1.959964
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert wilson(p, n) == pytest.approx((centre - half, centre + half), abs=1e-6)
    low, high = wilson(1.0, 20)
    assert 0.8 < low < high <= 1.0
