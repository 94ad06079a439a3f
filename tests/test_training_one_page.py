"""The training loop on one page is the run: the same losses to the bit, alone, on two processes, and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from course_utils.data import Splits
from course_utils.launch import distributed_from_environment, launch
from course_utils.training import one_page
from course_utils.training.task import RunResult
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.data import load_data, training_batches
from course_utils.vision.from_scratch.model import build_model
from course_utils.vision.from_scratch.train import train
from course_utils.vision.images import whole_batches

CONFIG = FromScratch(
    **{"data": "digits", "stem": (16, 16, 16), "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "epochs": 2},
    **{"batch_size": 64, "limit": 320, "precision": "fp32", "output": None, "optimizer": "adamw", "smoothing": 0.0},
    **{"validation": 0.2, "lr": 5e-2, "lr_batch": 64, "warmup": 0.3},
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_one_page(path: Path, **changes: Any) -> tuple[list[float], list[float]]:
    data: Splits = load_data(CONFIG)
    assert data.validation is not None
    model = build_model(CONFIG, (1, 8, 8), 10)
    with distributed_from_environment() as process:
        batches = partial(training_batches, CONFIG, data.train, process=process)
        held = partial(whole_batches, data.validation, process)
        options: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 5, "lr": 5e-2, "warmup": 3, **changes}
        return one_page.train(model, batches, held, path=path, **options)


def both(path: Path) -> tuple[tuple[list[float], list[float]], RunResult]:
    return on_one_page(path), train(CONFIG)


def test_one_page_is_the_run(tmp_path: Path) -> None:
    (losses, accuracies), run = both(tmp_path / "alone")
    assert len(losses) == 10
    assert losses == run.losses
    assert accuracies == [row["validation_accuracy"] for row in run.epochs]
    assert losses[-1] < losses[0]
    (shared, counted), run = launch(both, 2, tmp_path / "two", show=False)[1]
    assert shared == run.losses
    assert counted == [row["validation_accuracy"] for row in run.epochs] == accuracies
    torch.testing.assert_close(torch.tensor(shared), torch.tensor(losses), atol=2e-5, rtol=0)


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = on_one_page(tmp_path / "whole")
    real = torch.save

    def killed(state: Any, path: Path) -> None:
        real(state, path)
        if state["epochs"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        on_one_page(tmp_path / "parts")
    monkeypatch.undo()
    assert torch.load(tmp_path / "parts", weights_only=True)["epochs"] == 1
    assert on_one_page(tmp_path / "parts") == whole


@pytest.mark.parametrize("wrong", ["another rate", "the clip forgotten", "one rank's own loss"])
def test_what_is_nearly_the_same_is_noticed(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong == "another rate":
        rate = one_page.rate
        monkeypatch.setattr(one_page, "rate", lambda step, *rest: rate(step + 1, *rest))
    elif wrong == "the clip forgotten":
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: None)
    else:
        monkeypatch.setattr(one_page, "mean", lambda loss, many: loss.item() * 1.0001)
    assert on_one_page(tmp_path / "x")[0] != train(CONFIG).losses
