"""What trains an epoch: the course's own loop, alone or under data parallelism. DeepSpeed's stands in its own file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from course_utils.data_parallel import DataParallel
from course_utils.launch import Process
from course_utils.news.config import Config
from course_utils.news.model import Built
from course_utils.news.optimizer import make_optimizer, make_schedule
from course_utils.training import make_scaler
from course_utils.training import train as train_steps

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # makes an epoch's batches


class Trainer:
    """A model, an optimizer and a schedule that moves its rates.

    Args:
        built: its model is on the process's device already.
        steps: optimizer steps of an epoch.

    Attributes:
        model: what is asked for validation.
        parts: what must be saved to go on later.
    """

    def __init__(self, built: Built, config: Config, steps: int, process: Process) -> None:
        self.config, self.steps, self.first = config, steps, process.rank == 0
        self.model: nn.Module = built.model
        self.trained = DataParallel(built.model) if process.world_size > 1 else built.model
        optimizer = make_optimizer(built.model, config)
        scheduler = make_schedule(optimizer, config, steps * config.epochs)
        scaler = make_scaler(config.precision, process.device)
        self.parts: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}

    def epoch(self, batches: Batches) -> tuple[float, float]:
        """Train once on all batches: mean loss on this process, and seconds."""
        run = train_steps(
            self.trained,
            lambda _: batches(),
            steps=self.steps,
            precision=self.config.precision,
            accumulate=self.config.accumulate,
            clip=self.config.clip,
            progress=None if self.first else False,
            **self.parts,
        )
        return sum(run.loss) / self.steps, run.seconds[-1]

    def close(self) -> None:
        """Nothing is held that outlives the run."""
