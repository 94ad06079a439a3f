"""Training: the optimizer and its schedules, the loop, and checkpoints that resume bit for bit."""

from course_utils.training.checkpoint import Checkpoint, load, save
from course_utils.training.loop import (
    History,
    Metrics,
    Precision,
    StepResult,
    choose_precision,
    evaluate,
    make_scaler,
    train,
    train_step,
)
from course_utils.training.muon import Muon, muon_groups
from course_utils.training.optim import (
    RateSchedule,
    adamw,
    constant,
    parameter_groups,
    schedule_lr,
    warmup_cosine,
    warmup_linear,
)

__all__ = [
    "Checkpoint",
    "History",
    "Metrics",
    "Muon",
    "Precision",
    "RateSchedule",
    "StepResult",
    "adamw",
    "choose_precision",
    "constant",
    "evaluate",
    "load",
    "make_scaler",
    "muon_groups",
    "parameter_groups",
    "save",
    "schedule_lr",
    "train",
    "train_step",
    "warmup_cosine",
    "warmup_linear",
]
