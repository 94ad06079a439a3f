"""The same run through DeepSpeed's engine: stages 0 to 2 of ZeRO, with our own optimizer groups and schedule.

The engine takes over what the training loop does elsewhere: it scales the loss, adds gradients up over processes and
micro-batches, clips, steps and moves the schedule. Stage 3, which shards the weights as well, is not offered:
it gathers a layer's weights when the layer is called, and LoRA reads those of its base without calling it. Source: https://www.deepspeed.ai/docs/config-json/.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from course_utils.deepspeed.config import check_config, deepspeed_config
from course_utils.deepspeed.library import library
from course_utils.launch import Process
from course_utils.news.config import Config
from course_utils.news.model import Built
from course_utils.news.optimizer import make_optimizer, make_schedule
from course_utils.training import Precision, StepResult
from course_utils.training.loop import Batch


class DeepSpeedEngine:
    """Takes the steps of a run (:class:`course_utils.training.run.Engine`).

    Args:
        steps: of the whole run.

    Raises:
        ImportError: deepspeed is not installed.
    """

    def __init__(self, built: Built, config: Config, steps: int, process: Process, precision: Precision) -> None:
        settings = deepspeed_config(
            stage=config.zero_stage,
            micro_batch=config.batch_size // process.world_size,
            ranks=process.world_size,
            accumulate=config.accumulate,
            precision=precision,
            clip=config.clip,
        )
        del settings["optimizer"]  # ours has a rate for the head, and no decay for biases and norms
        check_config(settings, process.world_size)
        self.model: Any
        self.model, *_ = library().initialize(
            model=built.model,
            model_parameters=[p for p in built.model.parameters() if p.requires_grad],
            optimizer=make_optimizer(built.model, config),
            lr_scheduler=lambda optimizer: make_schedule(optimizer, config, steps),
            config=settings,
            dist_init_required=False,
        )

    def step(self, micro_batches: list[Batch]) -> StepResult:
        """Forward and backward over each batch; the weights move after the last of ``accumulate``, before it the engine
        only counts. The loss is the mean over all processes."""
        self.model.train()
        total = torch.zeros((), device=self.model.device)
        for x, y in micro_batches:
            x, y = x.to(self.model.device), y.to(self.model.device)
            loss = F.cross_entropy(self.model(x).float(), y)
            self.model.backward(loss)
            self.model.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / len(micro_batches) / dist.get_world_size()
        return StepResult(mean, float("nan"), 1.0, skipped=False)

    def close(self) -> None:
        """Take the engine's hooks out of the model."""
        self.model.destroy()
