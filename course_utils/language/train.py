"""Train a language model, on one process or many: from nothing, or on from another run's weights.

    python -m course_utils.language.train                                       # the quatrains of the Tang
    python -m course_utils.language.train --text my.txt --cut lines --epochs 20
    python -m course_utils.language.train --base output/language/my --text more.txt
    torchrun --nproc-per-node 4 -m course_utils.language.train --corpus shakespeare

The loss is in nats for each token: the sum over all tokens of a step, divided by their number, on however many
processes. What is written: :mod:`course_utils.training.run`.
"""

from __future__ import annotations

from functools import partial

from course_utils.language.config import Config
from course_utils.language.data import batches, encode, files, in_order, load_texts, names
from course_utils.language.model import LanguageModel, build
from course_utils.language.optimizer import make_optimizer
from course_utils.launch import Process
from course_utils.training import choose_precision
from course_utils.training.processes import command_line
from course_utils.training.run import run
from course_utils.training.task import RunResult, Task


def train(config: Config) -> RunResult:
    """Train in this process; under torchrun, srun or ``launch`` together with the others.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`course_utils.training.run.run`.
    """
    return run(config, lambda process: make_task(config, process))


def make_task(config: Config, process: Process) -> Task:
    """The run of a configuration."""
    texts = load_texts(config)
    built = build(config, texts)
    data, held, kept = (encode(part, built.tokenizer, config.length) for part in texts)
    share = {"rank": process.rank, "world_size": process.world_size}
    rows = data.rows(config.packed)
    if rows < process.world_size:
        raise ValueError(
            f"{rows} rows of {config.length} tokens cannot be shared by {process.world_size} processes: start fewer, "
            "or choose a smaller length"
        )
    model = LanguageModel(built.decoder).to(process.device)
    return Task(
        model=model,
        batches=lambda epoch: batches(
            data, config.batch_size, packed=config.packed, seed=config.seed, epoch=epoch, **share
        ),
        steps_per_epoch=max(1, max(1, rows // config.batch_size) // config.accumulate),
        optimizer=lambda stage, steps: make_optimizer(config, built.decoder, steps),
        precision=choose_precision(config.precision, process.device),
        facts={**built.facts(), "tokens": data.tokens},
        validation=partial(in_order, held, config.batch_size, **share),
        test=partial(in_order, kept, config.batch_size, **share),
        trained=lambda model: model.get_submodule("decoder"),
        choose="loss",
        noun="tokens",
        count=lambda x: int((x[:, 2] > 0).sum()),  # the documents' numbers: padding has none
        title=f"{config.name}, {len(data.ids):,} texts of {data.tokens:,} tokens",
        data=names(config, texts),
        files=files(config, texts),
        licence="" if config.base is None else f"that of {config.base}",
    )


def main(words: list[str] | None = None) -> None:
    """The command line."""
    command_line(Config, train, words, "Train a small language model.")


if __name__ == "__main__":
    main()
