"""A Vision Transformer from scratch, on one process or many, on one machine or many.

    python -m course_utils.vision.from_scratch.train                             # the embedded images, on this machine
    python -m course_utils.vision.from_scratch.train --data cifar10 --data-dir PATH --preset compact --epochs 5
    torchrun --nproc-per-node 4 -m course_utils.vision.from_scratch.train --data cifar10 --data-dir PATH --preset deit

What a batch holds, and the learning rate, depend on the global batch alone: the same run on 1, 2 or 4 processes has the
same losses, but for the rounding of sums. What it writes: :mod:`course_utils.training.run`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from course_utils.data import Images, Splits, hold_out
from course_utils.launch import Process
from course_utils.training import choose_precision
from course_utils.training.processes import command_line
from course_utils.training.run import run
from course_utils.training.task import RunResult, Task
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.data import load_data, training_batches
from course_utils.vision.from_scratch.model import Mirrored, build_model
from course_utils.vision.from_scratch.optimizer import make_optimizer
from course_utils.vision.images import names, split_file, whole_batches


def train(config: FromScratch, images: Images | None = None, test: Images | None = None) -> RunResult:
    """Train in this process, or together with others; ``images`` to train on and to ``test`` in place of the recipe's.
    What ``config.validation`` holds out, it holds out of ``images``.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`course_utils.training.run.run`.
    """
    return run(config, lambda process: make_task(config, process, images, test))


def make_task(config: FromScratch, process: Process, images: Images | None, test: Images | None) -> Task:
    """The run of a recipe."""
    data = load_data(config) if images is None or test is None else Splits(images, None, test)
    if images is not None:
        train, held = hold_out(images, config.validation) if config.validation else (images, None)
        data = Splits(train, held, data.test)
    images, test = data.train, test or data.test
    per_epoch = len(images) // config.batch_size
    if not per_epoch:
        raise ValueError(f"{len(images)} images make no batch of {config.batch_size}: choose a smaller batch_size")
    precision = choose_precision(config.precision, process.device, convolutions=bool(config.stem))
    channels, height, width = shape = tuple(images.x.shape[1:])
    classes = len(images.classes)
    model = build_model(config, (channels, height, width), classes, precision).to(process.device)

    def evaluated(part: Images) -> Iterator[tuple[Tensor, Tensor]]:
        # Normalised as the images that it learned from, whatever else these were loaded with.
        return whole_batches(replace(part, statistics=images.mean_and_std), process, size=config.image_size)

    return Task(
        model=model,
        batches=lambda epoch: training_batches(config, images, epoch, process),
        steps_per_epoch=per_epoch // config.accumulate,
        optimizer=lambda stage, steps: make_optimizer(config, model, steps, precision),
        # Labels of mixed images are soft already.
        loss_fn=partial(F.cross_entropy, label_smoothing=0.0 if config.mixup or config.cutmix else config.smoothing),
        precision=precision,
        facts={
            **{"classes": classes, "shape": list(shape), "images": len(images), "precision": precision},
            **{"names": list(images.classes), "statistics": [part.tolist() for part in images.mean_and_std]},
        },
        validation=None if data.validation is None else partial(evaluated, data.validation),
        test=partial(evaluated, test),
        judged=Mirrored if config.mirror and images.may_be_mirrored else lambda model: model,
        title=f"{config.preset} on {len(images):,} images",
        data=names(images, data.validation, test),
        files=split_file(images, data.validation, test),
    )


def main(words: list[str] | None = None) -> None:
    """The command line."""
    command_line(FromScratch, train, words, "Train a Vision Transformer from scratch.")


if __name__ == "__main__":
    main()
