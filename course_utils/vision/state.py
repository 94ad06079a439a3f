"""A run under way, and its way to the disk and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from course_utils.data import Images
from course_utils.files import atomic_write
from course_utils.launch import Process
from course_utils.models import ViT
from course_utils.training import Metrics, Precision, checkpoint
from course_utils.vision.recipes import FromScratch
from course_utils.vision.runs import HISTORY, LAST, check_same_run, facts


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        steps: done so far; fewer than planned if the run was ``stopped`` by a signal.
        losses: of each step, the mean over the images of all processes.
        epochs: of each epoch: loss, rate at its end, seconds, images per second, validation loss and accuracy if asked.
        test: on the test images, at the end; None if the run was stopped.
    """

    steps: int
    stopped: bool
    losses: list[float]
    epochs: list[dict[str, float]]
    test: Metrics | None


@dataclass
class State:
    """A run under way: everything that a checkpoint has to hold, and what it is made from."""

    config: FromScratch
    process: Process
    precision: Precision
    images: Images
    model: ViT
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    steps_per_epoch: int
    step: int
    losses: list[float]
    epochs: list[dict[str, float]]


def save(state: State) -> None:
    """Process 0 writes for all: after a step they all hold the same."""
    folder = state.config.folder
    if folder is None or state.process.rank > 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        folder / LAST,
        model=state.model,
        optimizer=state.optimizer,
        scheduler=state.scheduler,
        scaler=state.scaler,
        step=state.step,
        config=state.config.model_dump(),
        extra={
            "facts": facts(state.images, state.precision),
            "averaged": None if state.averaged is None else dict(state.averaged.state_dict()),
            "losses": state.losses,
            "epochs": state.epochs,
        },
    )


def resume(state: State) -> None:
    """Put everything back to where the run stood.

    Raises:
        ValueError: the checkpoint is broken, or of another run.
    """
    assert state.config.folder is not None  # the recipe was checked
    path = state.config.folder / LAST
    check_same_run(path, state.config, facts(state.images, state.precision))
    found = checkpoint.load(
        path, model=state.model, optimizer=state.optimizer, scheduler=state.scheduler, scaler=state.scaler
    )
    state.step, state.losses, state.epochs = found.step, list(found.extra["losses"]), list(found.extra["epochs"])
    if state.averaged is not None:
        state.averaged.load_state_dict(found.extra["averaged"])


def write_history(state: State, test: Metrics | None) -> None:
    """The numbers of the run as JSON, for figures."""
    if state.config.folder is not None:
        state.config.folder.mkdir(parents=True, exist_ok=True)
        content = {"epochs": state.epochs, "test": None if test is None else asdict(test), "losses": state.losses}
        with atomic_write(state.config.folder / HISTORY, "w") as file:
            json.dump(content | {"config": state.config.model_dump()}, file, indent=1)
