"""The runs on news titles that the course compares: rates chosen on validation titles, three seeds, learning curves.

They take half an hour of one core, so they are kept: ``study.jsonl`` has a line for each with the answers it gave, from
which every figure is worked out anew. One command makes the lines that are missing, and does nothing when none is::

    python -m course_utils.news.study

A line carries the key of what it was made from: the configuration, the titles, the encoder. Change one of them, and the
line counts no longer. All runs are of one thread, so that they can be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from course_utils.data.news import load_titles
from course_utils.files import atomic_write
from course_utils.measure.live import LiveMemory
from course_utils.models.embedded import ENCODER_SHA256
from course_utils.news.config import TACTICS, Config
from course_utils.news.data import Encoded, encode
from course_utils.news.evaluate import Report, report
from course_utils.news.model import Built, build
from course_utils.news.optimizer import make_optimizer
from course_utils.news.predict import logits, open_run
from course_utils.news.titles import title_set
from course_utils.news.train import train
from course_utils.training import make_scaler, train_step
from course_utils.training.folder import BEST

FILE = Path(str(resources.files("course_utils.news") / "study.jsonl"))
SEEDS = (987, 1, 2)
EPOCHS = {107: 8, 213: 6, 426: 5, 1706: 4}  # titles to train on -> passes over them: few titles make short epochs
COMPARED = 213  # titles that every tactic is trained on
CURVE = ("head", "lora", "full")  # the tactics that are trained on the other numbers of titles as well
RATES: dict[str, tuple[float, ...]] = {  # learning rates tried, on validation titles and with two seeds
    "full": (1e-4, 3e-4, 1e-3),
    "head": (1e-2, 3e-2, 1e-1, 3e-1),  # the head's own
    "prompt": (1e-2, 3e-2, 1e-1, 3e-1),
    "prefix": (1e-3, 3e-3, 1e-2),
    "p_tuning": (1e-3, 3e-3, 1e-2, 3e-2),
    "p_tuning_v2": (1e-2, 3e-2, 1e-1, 3e-1),
    "adapter": (1e-3, 3e-3, 1e-2),
    "lora": (1e-3, 2e-3, 5e-3, 1e-2),
    "ia3": (1e-2, 3e-2, 1e-1, 3e-1),
}
ALL = max(EPOCHS)  # on as many titles as there are, those of the curve are tried as well; the mean decides
FIRST_HEAD_RATES = {"prompt": 1e-2, "p_tuning_v2": 1e-2}  # the head's, while these were tried; the others': 3e-3
RATES_ON_ALL = {"head": (3e-2, 1e-1), "lora": (1e-3, 2e-3, 5e-3), "full": (1e-4, 3e-4, 1e-3)}
LETTERS = "abcdefghijklmnopqr"  # one for each label
# What does not say what is computed.
OF_THE_MACHINE = {"output", "resume", "overwrite", "processes", "strategy", "zero_stage", "save_every", "tensorboard"}
LATER = {
    "ema": 0.0,
    "compile": False,
    "text_field": None,
    "label_field": None,
    "split_seed": 0,
}  # keys that the first lines' version did not have, as it ran

Part = Literal["rates", "heads", "compared", "curve", "untrained"]


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        key: what it was made from, see :func:`key`.
        tactic, titles, seed, base, lr: of the configuration; ``lr`` is the head's when nothing else trains.
        validation: accuracy on the validation titles of the epoch that was kept, ``best_epoch``.
        answers: a letter for each test title, a to r; empty if the run only served to choose a rate.
        trainable, total: parameters.
        file_bytes: size of the checkpoint.
        step_bytes: most memory that tensors held in a training step, see :func:`step_memory`.
        cpu_seconds: of training and validating, on the machine that made the line.
    """

    key: str
    tactic: str
    titles: int
    seed: int
    base: str
    lr: float
    validation: float
    best_epoch: int
    answers: str
    trainable: int
    total: int
    file_bytes: int
    step_bytes: int
    cpu_seconds: float

    def guesses(self) -> Tensor:
        """The answers as ``[titles of the test split]`` integers, 0 to 17."""
        return torch.tensor([LETTERS.index(letter) for letter in self.answers])

    def report(self) -> Report:
        """Accuracy, intervals, confusions on the test titles, worked out from the answers."""
        return report(labels_of_test(), self.guesses())


def plan() -> dict[Part, list[Config]]:
    """The configurations of the study. Those that try a rate never see the test titles."""
    rates = [
        _config(tactic, size, seed, **_rates(tactic, rate))
        for size, seed, grid in (*((COMPARED, seed, RATES) for seed in SEEDS[:2]), (ALL, SEEDS[0], RATES_ON_ALL))
        for tactic, tried in grid.items()
        for rate in tried
    ]
    compared = [_config(tactic, COMPARED, seed) for seed in SEEDS for tactic in TACTICS]
    heads = [config for config in compared if config.seed in SEEDS[:2] and config.tactic != "head"]
    sizes = [size for size in EPOCHS if size != COMPARED]
    curve = [_config(tactic, size, seed) for size in sizes for seed in SEEDS for tactic in CURVE]
    untrained = [_config("lora", COMPARED, seed, base="untrained") for seed in SEEDS]
    return {"rates": rates, "heads": heads, "compared": compared, "curve": curve, "untrained": untrained}


def _rates(tactic: str, rate: float) -> dict[str, float]:
    """The keys of a trial: a tactic's rate, with the first head's; or of the head alone."""
    return {"head_lr": rate} if tactic == "head" else {"lr": rate, "head_lr": FIRST_HEAD_RATES.get(tactic, 3e-3)}


def _config(tactic: str, titles: int, seed: int, **more: Any) -> Config:
    choices = {"tactic": tactic, "titles": titles, "seed": seed, "epochs": EPOCHS[titles], "batch_size": 16, **more}
    return Config.model_validate(choices)


def best_rates() -> dict[str, float]:
    """The rate of each tactic with the best accuracy on validation, of those that were tried at each of its sizes."""
    tried: dict[str, dict[float, list[float]]] = {}
    for row in part("rates"):
        tried.setdefault(row.tactic, {}).setdefault(row.lr, []).append(row.validation)
    best = {}
    for name, found in tried.items():
        sizes = max(map(len, found.values()))
        means = {lr: sum(each) / len(each) for lr, each in found.items() if len(each) == sizes}
        best[name] = max(means, key=lambda lr: means[lr])
    return best


def heads_compared() -> dict[str, tuple[float, float]]:
    """Of each tactic at its own rate: mean accuracy on validation with the first rate of the head, and with its own."""
    rates = best_rates()
    first, own = (
        [row for row in part(name) if row.titles == COMPARED and row.lr == rates[row.tactic]]
        for name in ("rates", "heads")
    )
    means = [
        {name: sum(each) / len(each) for name in rates if (each := [r.validation for r in rows if r.tactic == name])}
        for rows in (first, own)
    ]
    return {name: (means[0][name], means[1][name]) for name in means[1]}


def key(config: Config) -> str:
    """What a run is made from, as 16 hexadecimal digits: what is computed, with which titles and which encoder. A rate
    left to its default and the same rate given are the same run."""
    known = config.model_dump(exclude=OF_THE_MACHINE)
    choices = {name: value for name, value in known.items() if LATER.get(name, ...) != value} | {
        "lr": config.tactic_lr,
        "head_lr": config.head_rate,
    }
    sources = [ENCODER_SHA256, *(titles_digest(name) for name in (config.train, config.validation, config.test))]
    return hashlib.sha256(json.dumps([choices, sources], sort_keys=True).encode()).hexdigest()[:16]


@cache
def titles_digest(source: str) -> str:
    """SHA-256 of labels and titles, in their order."""
    text = "\n".join(f"{title.tag} {title.title}" for title in load_titles(source))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def labels_of_test() -> Tensor:
    """The labels of the embedded test titles, ``[517]``."""
    return torch.tensor([title.label for title in load_titles("test")])


def run(config: Config, *, answer: bool = True) -> Row:
    """Train a configuration in a temporary folder, in this thread, and ask the epoch that was best on validation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            result = train(config.model_copy(update={"output": folder}))
            seconds = time.process_time() - began
            assert result.folder is not None
            assert result.validation is not None
            assert result.best_epoch is not None
            size = (result.folder / BEST).stat().st_size
            answers = "".join(LETTERS[guess] for guess in _answers(result.folder)) if answer else ""
        held = step_memory(config.model_copy(update={"seed": 0}))  # no seed changes it
    finally:
        torch.set_num_threads(threads)
    return Row(
        key=key(config),
        tactic=config.tactic,
        titles=config.titles or len(load_titles(config.train)),
        seed=config.seed,
        base=config.base,
        lr=config.tactic_lr,
        validation=round(result.validation.accuracy, 6),
        best_epoch=result.best_epoch,
        answers=answers,
        trainable=result.trainable,
        total=result.total,
        file_bytes=size,
        step_bytes=held,
        cpu_seconds=round(seconds, 1),
    )


@cache
def step_memory(config: Config) -> int:
    """The most bytes that tensors hold in a training step: weights, gradients, AdamW's moments, activations.

    The second step is measured, when the moments are there, with the longest titles of the set.
    """
    built = build(config)
    data = encode(title_set(config).train.titles, built.tokenizer, built.pad)
    rows = sorted(range(len(data)), key=lambda row: len(data.ids[row]))[-config.batch_size :]
    optimizer, scaler = (
        make_optimizer(built.model, config),
        make_scaler("fp32"),
    )
    built.model.train()
    train_step(built.model, optimizer, [data.batch(rows)], scaler=scaler, clip=config.clip)
    optimizer.zero_grad(set_to_none=True)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    with LiveMemory([*built.model.parameters(), *moments]) as live:
        train_step(built.model, optimizer, [data.batch(rows)], scaler=scaler, clip=config.clip)
    return live.peak


def _answers(folder: Path) -> list[int]:
    _, built = open_run(folder)
    return logits(built.model, _test(built)).argmax(-1).tolist()


def _test(built: Built) -> Encoded:
    return encode(load_titles("test"), built.tokenizer, built.pad)


def rows(file: Path = FILE) -> dict[str, Row]:
    """The lines of the file by their key. Raises ``ValueError`` for a line that is none."""
    found = {}
    if file.exists():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = Row(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{file}, line {number}: {error}: remove the line, and make it anew") from None
            found[row.key] = row
    return found


def part(name: Part) -> list[Row]:
    """The runs of a part of the plan, in its order.

    Raises:
        ValueError: some are missing, because the plan, the titles or the encoder were changed since.
    """
    there = rows()
    keys = [key(config) for config in plan()[name]]
    if missing := [each for each in keys if each not in there]:
        raise ValueError(
            f"{len(missing)} of {len(keys)} runs of the part {name!r} are not in {FILE.name}: "
            "make them with python -m course_utils.news.study"
        )
    return [there[each] for each in keys]


def missing(file: Path = FILE) -> Iterator[tuple[Config, bool]]:
    """The configurations without a line, and whether they are to answer the test titles."""
    done = rows(file)
    parts = plan()
    asked = {key(config): config for name, configs in parts.items() if name != "rates" for config in configs}
    tried = {key(config): config for config in parts["rates"]}
    for name, config in {**tried, **asked}.items():
        if name not in done or (name in asked and not done[name].answers):
            yield config, name in asked


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the runs of the chapter Sorting news titles that are missing.")
    parser.add_argument("--file", type=Path, default=FILE, help="where the lines are kept (default: in the package)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    try:
        waiting = list(missing(options.file))
        for number, (config, answer) in enumerate(waiting):
            if time.monotonic() > end:
                print(f"{len(waiting) - number} runs are still to be made: start this command again")
                return
            row = run(config, answer=answer)
            _write({**rows(options.file), row.key: row}, options.file)
            print(f"{row.tactic} on {row.titles} titles, seed {row.seed}, rate {row.lr:g}: {row.validation:.3f}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"all {sum(map(len, plan().values()))} runs of the plan are there")


def _write(found: dict[str, Row], file: Path) -> None:
    """In the order of the plan, and nothing that is not in it."""
    order = dict.fromkeys(key(config) for configs in plan().values() for config in configs)
    with atomic_write(file, "w") as stream:
        for name in order:
            if name in found:
                stream.write(json.dumps(asdict(found[name])) + "\n")


if __name__ == "__main__":
    main()
