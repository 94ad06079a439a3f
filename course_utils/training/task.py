"""What goes into a run and what comes out of it: a project brings a :class:`Task`, and gets a :class:`RunResult`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from course_utils.precision import Precision
from course_utils.training.loop import Batch, LossFunction, Metrics, StepResult


class Engine(Protocol):
    """A library that takes over the optimizer's part of a run, such as DeepSpeed."""

    model: nn.Module

    def step(self, micro_batches: list[Batch]) -> StepResult: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a project brings to a run.

    Args:
        model: bare, on the process's device.
        batches: ``epoch -> this process's share of each batch``. Which samples a batch holds may depend on the epoch
            and the seed only, and nothing may be drawn from the global generators.
        steps_per_epoch: optimizer steps.
        optimizer: ``(stage, its steps) -> the optimizer and its schedule``; may freeze and wake parameters.
        precision: of matrix products.
        facts: what a run depends on besides its settings, such as the number of images; compared when it is resumed.
        loss_fn: of training.
        validation, test: make the batches of this process for :func:`~course_utils.training.loop.evaluate`.
        trained: ``model -> what a checkpoint holds of it``; by default the whole model.
        choose: whether the best epoch is that of the highest validation accuracy or of the lowest validation loss.
        judged: ``model -> what is evaluated``, such as the mean over an image and its mirror image.
        stages: first epochs of later stages, each with an optimizer of its own.
        sizes: parameters that train, and all; by default counted.
        noun, count: what is counted for the speed, ``count(x)`` of them in a batch.
        title: begins the log.
        data: what the data are called that are trained on, that choose (``"validation"``) and that judge (``"test"``).
            It stands in the log, the checkpoints and the history, and is compared when the run is resumed.
        files: what is to lie beside the run from its first step, such as a split that was drawn: name to text.
        licence: of what is trained further, for the run's card; empty where nothing is.
        reseed: when the generators, which dropout and drop path draw from, begin anew. At each step they need not be
            saved.
        engine: makes what takes the steps in place of ``optimizer``; all processes call it together. It keeps no state
            to resume from.
    """

    model: nn.Module
    batches: Callable[[int], Iterable[Batch]]
    steps_per_epoch: int
    optimizer: Callable[[int, int], tuple[torch.optim.Optimizer, LRScheduler]]
    precision: Precision
    facts: dict[str, Any] = field(default_factory=dict)
    loss_fn: LossFunction = F.cross_entropy
    validation: Callable[[], Iterable[Batch]] | None = None
    test: Callable[[], Iterable[Batch]] | None = None
    trained: Callable[[nn.Module], nn.Module] = lambda model: model
    choose: Literal["accuracy", "loss"] = "accuracy"
    judged: Callable[[nn.Module], nn.Module] = lambda model: model
    stages: tuple[int, ...] = ()
    sizes: tuple[int, int] | None = None
    noun: str = "images"
    count: Callable[[Tensor], int] = lambda x: x.shape[0]
    title: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    reseed: Literal["step", "epoch"] = "step"
    engine: Callable[[], Engine] | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        folder: its files; None if it wrote none.
        steps: done so far; fewer than planned if the run was ``stopped`` by a signal, or by its patience.
        losses: of each step, the mean over the targets of all processes.
        epochs: of each epoch: loss, rate at its end, seconds, speed, and what validation found.
        best_epoch: counted from 1, the first of the best by validation; None without validation.
        validation: after that epoch.
        test: at the end, of the best epoch's weights, or without validation of the last; None if the run was stopped.
        trainable, total: numbers of parameters.
    """

    folder: Path | None
    steps: int
    stopped: bool
    losses: list[float]
    epochs: list[dict[str, float]]
    best_epoch: int | None
    validation: Metrics | None
    test: Metrics | None
    trainable: int
    total: int
