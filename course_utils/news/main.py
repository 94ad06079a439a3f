"""Train a run: the tactic's parameters, validation after each epoch, best and last checkpoint, early stop, resume.

    python -m course_utils.news.main --tactic lora --epochs 3
    python -m course_utils.news.main --config run.yaml --processes 2
    torchrun --nproc-per-node 4 -m course_utils.news.main --train train_tag_news.json --base bert-base-chinese
    deepspeed --no_local_rank --module course_utils.news.main --strategy deepspeed --zero_stage 2

The folder ``output/<tactic>`` then holds ``best.safetensors`` and ``last.safetensors`` (what was trained, and how to
rebuild the rest) and ``history.json``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from course_utils.data.news import Title, load_titles
from course_utils.files import atomic_write
from course_utils.launch import Process, RankFailed, distributed_from_environment, launch
from course_utils.news.config import Config
from course_utils.news.loader import Encoded, batches, encode, in_order
from course_utils.news.model import Built, build, count
from course_utils.news.runs import BEST, LAST, check_folder, resume, save_run
from course_utils.news.trainer import Trainer
from course_utils.training import evaluate as validate

if TYPE_CHECKING:
    from course_utils.news.with_deepspeed import DeepSpeedTrainer

log = logging.getLogger("course_utils.news")
WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        folder: its files.
        best_epoch: counted from 1.
        accuracy: on the validation titles, after that epoch.
        trainable, total: numbers of parameters.
        history: of each epoch: mean training loss, validation loss and accuracy, seconds of training.
    """

    folder: Path
    best_epoch: int
    accuracy: float
    trainable: int
    total: int
    history: list[dict[str, float]]


def train(config: Config) -> Result:
    """Train in this process; under torchrun, srun or ``launch`` together with the others.

    Raises:
        FileNotFoundError, OSError: titles, base or the checkpoint to resume are not there, or nothing can be written.
        ValueError: any of them is broken, or a run is there already.
    """
    check_folder(config)
    with distributed_from_environment() as process, contextlib.ExitStack() as stack:
        first = process.rank == 0
        built = build(config)
        built.model.to(process.device)
        shown = titles_to_train_on(config)
        data, held = (encode(titles, built.tokenizer, built.pad) for titles in (shown, load_titles(config.validation)))
        steps = _steps_of_an_epoch(data, config, process)
        numbers = count(built.model)
        trainer = stack.enter_context(contextlib.closing(_trainer(built, config, steps, process)))
        history: list[dict[str, float]] = resume(config, built, **trainer.parts) if config.resume else []
        if first:
            config.folder.mkdir(parents=True, exist_ok=True)
            _say_begin(config, numbers, data.cut, len(data), process)

        for epoch in range(len(history), config.epochs):
            if _waited(history) >= config.patience:
                break
            torch.manual_seed(hash((config.seed, epoch, process.rank)))  # dropout: the same again in a resumed run
            share = {"rank": process.rank, "world_size": process.world_size}
            shuffled = partial(batches, data, config.batch_size, seed=config.seed, epoch=epoch, **share)
            loss, seconds = trainer.epoch(shuffled)
            found = validate(trainer.model, in_order(held, 2 * config.batch_size), precision=config.precision)
            loss = _mean_over_processes(loss, process)
            row = {"loss": loss, "validation_loss": found.loss, "validation_accuracy": found.accuracy}
            history.append({"epoch": epoch + 1, **row, "seconds": seconds})
            if first:
                log.info("epoch %d: %s", epoch + 1, ", ".join(f"{key} {value:.4f}" for key, value in row.items()))
                _save(built, config, steps, history, trainer.parts)
        if process.world_size > 1:
            dist.barrier()  # what the others do next may be to read the files
        chosen = history[_best(history)]
        result = Result(config.folder, int(chosen["epoch"]), chosen["validation_accuracy"], *numbers, history)
        if first:
            log.info(
                "best epoch %d, validation accuracy %.4f: %s", result.best_epoch, result.accuracy, config.folder / BEST
            )
    return result


def _trainer(built: Built, config: Config, steps: int, process: Process) -> Trainer | DeepSpeedTrainer:
    if config.strategy == "ddp":
        return Trainer(built, config, steps, process)
    from course_utils.news.with_deepspeed import DeepSpeedTrainer  # deepspeed takes seconds to import

    return DeepSpeedTrainer(built, config, steps, process)


def _save(built: Built, config: Config, steps: int, history: list[dict[str, float]], parts: dict[str, Any]) -> None:
    """The run so far: the best epoch if this was it, the last with all that going on needs, and the history."""
    if _waited(history) == 0:
        save_run(built, config, config.folder / BEST, extra={"history": history})
    save_run(built, config, config.folder / LAST, step=steps * len(history), extra={"history": history}, **parts)
    with atomic_write(config.folder / "history.json", "w") as file:
        json.dump(history, file, indent=1)


def titles_to_train_on(config: Config) -> list[Title]:
    """All titles of ``config.train``, or the first ``config.titles`` of them. Raises ``ValueError`` for too few."""
    found = load_titles(config.train)
    if config.titles is not None and config.titles > len(found):
        raise ValueError(
            f"titles is {config.titles:,}, but {config.train} holds {len(found):,}: choose fewer, or leave the key out"
        )
    return found[: config.titles]


def _steps_of_an_epoch(data: Encoded, config: Config, process: Process) -> int:
    world = process.world_size
    if config.batch_size % world:
        raise ValueError(f"batch_size {config.batch_size} cannot be split over {world} processes: choose a multiple")
    if len(data) < world:
        raise ValueError(f"{len(data)} titles to train on cannot be shared by {world} processes: start fewer")
    whole, rest = divmod(len(data), config.batch_size)
    return max(1, (whole + (rest >= world)) // config.accumulate)


def _mean_over_processes(value: float, process: Process) -> float:
    total = torch.tensor(value, dtype=torch.float64, device=process.device)
    dist.all_reduce(total)
    return float(total) / process.world_size


def _best(history: list[dict[str, float]]) -> int:
    """The epoch of the best validation accuracy; of several, the first."""
    return max(range(len(history)), key=lambda i: (history[i]["validation_accuracy"], -i))


def _waited(history: list[dict[str, float]]) -> int:
    return len(history) - 1 - _best(history) if history else 0


def _say_begin(config: Config, numbers: tuple[int, int], cut: int, titles: int, process: Process) -> None:
    trainable, total = numbers
    log.info(
        "%s on %s: %s of %s parameters train (%.2f %%); %s titles, %d cut at %d tokens; %d process(es) on %s",
        *(config.tactic, config.base, f"{trainable:,}", f"{total:,}", 100 * trainable / total, f"{titles:,}"),
        *(cut, config.max_length, process.world_size, process.device.type),
    )


def _run(config: Config) -> Result:
    """What a process of the command line does."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    return train(config)


def main(arguments: list[str] | None = None) -> None:
    try:
        config = Config.from_command_line(arguments, "Train a classifier of Chinese news titles.")
        if config.processes > 1:
            launch(_run, config.processes, config, timeout=WEEK)
        else:
            _run(config)
    except RankFailed as error:
        sys.exit(f"error: {error.sentence}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
