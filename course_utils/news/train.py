"""Train a run: the tactic's parameters, validation after each epoch, best and last checkpoint, early stop, resume.

    python -m course_utils.news.train --tactic lora --epochs 3
    python -m course_utils.news.train --config run.yaml --processes 2
    torchrun --nproc-per-node 4 -m course_utils.news.train --train titles.csv --base bert-base-chinese
    deepspeed --no_local_rank --module course_utils.news.train --strategy deepspeed --zero_stage 2

A checkpoint in ``output/<tactic>`` holds what was trained, and how to rebuild the rest. What else is written:
:mod:`course_utils.training.run`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from course_utils.launch import Process
from course_utils.news.config import Config
from course_utils.news.data import batches, encode, in_order
from course_utils.news.model import build, count
from course_utils.news.optimizer import make_optimizer, make_schedule
from course_utils.news.titles import title_set
from course_utils.training import choose_precision
from course_utils.training.checkpoint import parameters_named
from course_utils.training.processes import command_line
from course_utils.training.run import run
from course_utils.training.task import RunResult, Task

LICENCES = {  # of the bases that come with the course
    "embedded": "MIT (multilingual-e5-small), see course_utils/models/embedded_files/encoder.md",
    "untrained": "",
}


def train(config: Config) -> RunResult:
    """Train in this process; under torchrun, srun or ``launch`` together with the others.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`course_utils.training.run.run`.
    """
    return run(config, lambda process: make_task(config, process))


def make_task(config: Config, process: Process) -> Task:
    """The run of a configuration."""
    titles = title_set(config)
    built = build(config, titles.labels)
    built.model.to(process.device)
    data, kept = (
        encode(part.titles, built.tokenizer, built.pad, built.labels) for part in (titles.train, titles.validation)
    )
    names, precision = set(dict(built.trained())), choose_precision(config.precision, process.device)
    share = {"rank": process.rank, "world_size": process.world_size}
    if len(data) < process.world_size:
        raise ValueError(f"{len(data)} titles cannot be shared by {process.world_size} processes: start fewer")
    whole, rest = divmod(len(data), config.batch_size)
    steps = max(1, (whole + (rest >= process.world_size)) // config.accumulate)

    def optimizer(stage: int, steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
        made = make_optimizer(built.model, config)
        return made, make_schedule(made, config, steps)

    def trained(model: nn.Module) -> nn.ParameterDict:
        return parameters_named(model.get_submodule("model"), {name.replace("/", ".") for name in names})

    engine = None
    if config.strategy == "deepspeed":
        from course_utils.news.with_deepspeed import DeepSpeedEngine  # deepspeed takes seconds to import

        engine = partial(DeepSpeedEngine, built, config, steps * config.epochs, process, precision)
    return Task(
        model=built.model,
        batches=lambda epoch: batches(data, config.batch_size, seed=config.seed, epoch=epoch, **share),
        steps_per_epoch=steps,
        optimizer=optimizer,
        precision=precision,
        facts=built.facts(),
        validation=partial(in_order, kept, 2 * config.batch_size, **share),
        trained=trained,
        sizes=count(built.model),
        noun="tokens",
        count=lambda x: int(x[:, 1].sum()),  # the mask: padding is no token
        title=f"{config.tactic} on {config.base}, {len(data):,} titles, {data.cut} cut at {config.max_length} tokens",
        data=titles.names(),
        files=titles.files(),
        licence=LICENCES.get(config.base, f"that of {config.base}: see where it was published"),
        reseed="epoch",  # as the runs that the chapter compares were made
        engine=engine,
    )


def main(words: list[str] | None = None) -> None:
    """The command line."""
    command_line(Config, train, words, "Train a classifier of titles, or of other short texts.")


if __name__ == "__main__":
    main()
