"""The same run through DeepSpeed's engine: stages 0 to 2 of ZeRO, with our own optimizer groups and schedule.

The engine takes over what the training loop does elsewhere: it scales the loss, adds gradients up over processes and
micro-batches, clips, steps and moves the schedule. Stage 3, which shards the weights as well, is not offered:
it gathers a layer's weights when the layer is called, and LoRA reads those of its base without calling it. Source: https://www.deepspeed.ai/docs/config-json/.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch.nn.functional as F

from course_utils.deepspeed.config import check_config, deepspeed_config
from course_utils.deepspeed.library import library
from course_utils.launch import Process
from course_utils.news.config import Config
from course_utils.news.model import Built
from course_utils.news.optimizer import make_optimizer, make_schedule
from course_utils.news.trainer import Batches


class DeepSpeedTrainer:
    """A :class:`~course_utils.news.trainer.Trainer` whose steps are DeepSpeed's.

    Raises:
        ImportError: deepspeed is not installed.
    """

    def __init__(self, built: Built, config: Config, steps: int, process: Process) -> None:
        self.batches = steps * config.accumulate  # of an epoch
        self.parts: dict[str, Any] = {}
        settings = deepspeed_config(
            stage=config.zero_stage,
            micro_batch=config.batch_size // process.world_size,
            ranks=process.world_size,
            accumulate=config.accumulate,
            precision=config.precision,
            clip=config.clip,
        )
        del settings["optimizer"]  # ours has a rate for the head, and no decay for biases and norms
        check_config(settings, process.world_size)
        self.model, *_ = library().initialize(
            model=built.model,
            model_parameters=[p for p in built.model.parameters() if p.requires_grad],
            optimizer=make_optimizer(built.model, config),
            lr_scheduler=lambda optimizer: make_schedule(optimizer, config, steps * config.epochs),
            config=settings,
            dist_init_required=False,
        )

    def epoch(self, batches: Batches) -> tuple[float, float]:
        """Train once on all batches: mean loss on this process, and seconds."""
        began, total = time.perf_counter(), 0.0
        self.model.train()
        for x, y in itertools.islice(batches(), self.batches):
            x, y = x.to(self.model.device), y.to(self.model.device)
            loss = F.cross_entropy(self.model(x).float(), y)
            self.model.backward(loss)
            self.model.step()  # the weights move after the last of ``accumulate`` batches; before, it only counts
            total += loss.item()
        return total / self.batches, time.perf_counter() - began

    def close(self) -> None:
        """Take the engine's hooks out of the model."""
        self.model.destroy()
