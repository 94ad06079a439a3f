"""The benchmarks of tuning methods, on a model small enough for a test: only equal computations are timed."""

from __future__ import annotations

import pytest
import torch

from course_utils.bench import adapter, lora, prefix
from course_utils.bench.runner import Result
from course_utils.bench.tuning import compare_steps
from course_utils.models import TextConfig, TextModel
from course_utils.tuning import LoRA, inject

TINY = TextConfig(vocab_size=90, width=32, depth=2, heads=4, mlp_ratio=1.5, max_length=32, num_classes=5)


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("benchmark", "rivals"), [
    (lora, {"peft", "peft_transformers"}), (prefix, {"peft_transformers"}), (adapter, {"full"}),
])  # fmt: skip
def test_each_runs_and_trains_as_much_as_its_rivals(benchmark: object, rivals: set[str]) -> None:
    result: Result = benchmark.measure(TINY, 1, "tiny", 1.0)  # type: ignore[attr-defined]
    trained = result.details["trained"]
    assert trained.keys() == {"ours", *rivals}
    assert benchmark is adapter or len(set(trained.values())) == 1
    assert result.ours > 0
    assert result.goal == 1.0


def test_another_computation_is_not_timed() -> None:
    torch.manual_seed(0)
    one, other = TextModel(TINY), TextModel(TINY)
    with pytest.raises(AssertionError, match="logits of other differs from ours"):
        compare_steps("x", {"ours": (one, one), "other": (other, other)}, 1, None)
    other.load_state_dict(one.state_dict())
    inject(other, LoRA(rank=2), "q_proj")
    with pytest.raises(AssertionError, match="gradient norm of other differs"):
        compare_steps("x", {"ours": (one, one), "other": (other, other)}, 1, None)
