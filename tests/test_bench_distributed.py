"""The benchmark of all-reduces compares two that give the same."""

from __future__ import annotations

import json

import pytest
import torch

from course_utils.bench import allreduce
from course_utils.launch import RankFailed, launch


def test_reports_both_times_and_the_bytes() -> None:
    result = allreduce.measure(2, 400_000, 3, "small")
    line = json.loads(result.json())
    assert set(line["medians"]) == {"ours", "gloo"}
    assert line["best_reference"] == "gloo"
    assert line["bytes_sent_per_rank"] == 400_000
    assert result.ok


def test_refuses_to_time_a_wrong_sum() -> None:
    def spoiled() -> None:
        allreduce.ring_all_reduce = lambda x: torch.Tensor.add_(x, 1)
        allreduce.time_both(10, 1)

    with pytest.raises(RankFailed, match="ours does not add up: the sum of all ranks is 1"):
        launch(spoiled, 2)
