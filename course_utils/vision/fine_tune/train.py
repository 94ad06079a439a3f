"""Fine-tune a pretrained ViT on new images: the epoch is chosen on held-out images, the test images are looked at once.

::

    python -m course_utils.vision.fine_tune.train --tactic lora --per-class 50
    python -m course_utils.vision.fine_tune.train --config run.yaml --processes 2
    torchrun --nproc-per-node 4 -m course_utils.vision.fine_tune.train --data cifar10 --data-dir PATH \\
        --base google/vit-base-patch16-224 --lr 5e-5 --head-lr 1e-3 --layer-decay 0.75 --batch-size 128

A checkpoint holds what was trained, and not the base. What else is written: :mod:`course_utils.training.run`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from course_utils.data import Images
from course_utils.launch import Process
from course_utils.runtime import seed_everything
from course_utils.training import choose_precision
from course_utils.training.checkpoint import parameters_named
from course_utils.training.processes import command_line
from course_utils.training.run import run
from course_utils.training.task import RunResult, Task
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.data import Data, load_data, seen_by, training_batches
from course_utils.vision.fine_tune.model import Classifier, build, prepare
from course_utils.vision.fine_tune.optimizer import make_optimizer
from course_utils.vision.images import names, split_file, whole_batches


def train(config: FineTune, data: Data | None = None, model: Classifier | None = None) -> RunResult:
    """Train in this process, or together with others; ``data`` and ``model`` in place of the configuration's own. The
    model is left with the weights of the best epoch.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`course_utils.training.run.run`.
    """
    return run(config, lambda process: make_task(config, process, data, model))


def make_task(config: FineTune, process: Process, data: Data | None, model: Classifier | None) -> Task:
    """The run of a configuration."""
    if model is None:
        seed_everything(config.seed)  # the head is drawn
    data = data or load_data(config)
    model = (model or build(config, data.classes, pretrained=config.start == "pretrained")).to(process.device)
    prepare(model, config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole, rest = divmod(len(data.train), config.batch_size)
    precision = choose_precision(config.precision, process.device)

    def optimizer(stage: int, steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
        head_alone = config.head_epochs > 0 and stage == 0
        for name, parameter in trained.items():
            parameter.requires_grad_(name.startswith(model.head_name + ".") or not head_alone)
        return make_optimizer(model, config, steps)

    def evaluated(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        seen, size = seen_by(model, images)
        return whole_batches(seen, process, 512, size=size)

    for images in (data.train, data.validation, data.test):
        seen_by(model, images)  # refuses what the model cannot read
    return Task(
        model=model,
        batches=lambda epoch: training_batches(config, model, data.train, epoch, process),
        steps_per_epoch=max(1, (whole + (rest >= process.world_size)) // config.accumulate),
        optimizer=optimizer,
        loss_fn=partial(F.cross_entropy, label_smoothing=config.smoothing),
        precision=precision,
        facts={"classes": list(data.train.classes), "images": len(data.train), "precision": precision},
        validation=partial(evaluated, data.validation),
        test=partial(evaluated, data.test),
        trained=partial(parameters_named, names=trained.keys()),
        stages=(config.head_epochs,) if config.head_epochs else (),
        title=f"{config.tactic} on {config.base}, {len(data.train):,} images",
        data=names(data.train, data.validation, data.test),
        files=split_file(data.train, data.validation, data.test),
        licence=_licence(config),
    )


def _licence(config: FineTune) -> str:
    if config.start == "scratch":
        return ""
    if config.base == "embedded":
        return "MIT, that of the course: see course_utils/models/embedded_files/vit.md"
    return f"that of {config.base}: see where it was published"


def main(words: list[str] | None = None) -> None:
    """The command line."""
    command_line(FineTune, train, words, "Fine-tune a Vision Transformer on a set of images.")


if __name__ == "__main__":
    main()
