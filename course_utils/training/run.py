"""One run, for every project: begin or resume, train together, validate, keep the best, stop when told, report.

A project gives a :class:`~course_utils.training.task.Task` (a model, its optimizer, its batches) and gets from
:func:`run`: a folder that no run is lost in; any number of processes, under ``launch``, torchrun or srun; an end at a
signal; checkpoints from which a run goes on bit for bit; the best epoch by validation, and early stopping; averaged
weights; a history as JSON, and for TensorBoard. :func:`course_utils.training.processes.command_line` makes a program.

The folder then holds ``last.safetensors`` (to resume from), ``best.safetensors`` (the weights of the best epoch, where
there is validation), ``history.json``, and at the end ``README.md``, a card for people.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from course_utils.files import atomic_write
from course_utils.launch import Process, distributed_from_environment
from course_utils.launch.agree import agree
from course_utils.training import checkpoint
from course_utils.training.alone import alone_in
from course_utils.training.card import card
from course_utils.training.checkpoint import Checkpoint
from course_utils.training.folder import BEST, CARD, HISTORY, LAST, check_same_run, open_folder
from course_utils.training.loop import (
    Batch,
    Metrics,
    check_finite,
    evaluate,
    make_scaler,
    train_step,
)
from course_utils.training.optim import averaging
from course_utils.training.processes import Stop, stop_on_signal
from course_utils.training.settings import RunSettings
from course_utils.training.sound import check_loss, check_weights, strict
from course_utils.training.speed import peak, training_flops
from course_utils.training.task import Engine, RunResult, Task

Config = TypeVar("Config", bound=RunSettings)
log = logging.getLogger("course_utils.run")
PROGRESS = 15.0  # seconds between two lines, where no bar is shown


def run(config: RunSettings, prepare: Callable[[Process], Task]) -> RunResult:
    """Train in this process; under torchrun, srun or ``launch`` together with the others.

    Args:
        prepare: makes the task; everything that can fail is read and checked there, before a file is written.

    Raises:
        FileNotFoundError, OSError: data, base or the checkpoint to resume are not there, or nothing can be written.
        ValueError: any of them is broken or does not fit the settings, or a run is there already, or under way.
        FloatingPointError: a loss or a weight became inf or nan; what was saved before is kept.
    """
    with distributed_from_environment() as process, stop_on_signal(process) as stop:
        gpus = [process.device] if process.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), contextlib.ExitStack() as stack:
            folder = config.folder if process.rank == 0 else None
            agree(lambda: stack.enter_context(alone_in(folder)))
            this = stack.enter_context(contextlib.closing(agree(lambda: _Run(config, process, prepare))))
            this.begin()
            stopped = False
            try:
                while not stopped and not this.finished:
                    stopped = this.train_epoch(stop)
                return this.result(stopped)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {this.kept()}") from error


class _Run:
    """A run under way: everything that a checkpoint has to hold, and what it is made from."""

    def __init__(self, config: RunSettings, process: Process, prepare: Callable[[Process], Task]) -> None:
        """All that can fail on one process alone. So nothing here may wait for another process."""
        found = open_folder(config)
        self.task = task = prepare(process)
        self.config, self.process = config, process
        self.facts = {**task.facts, **{f"{part} data": name for part, name in task.data.items()}}
        if config.batch_size % process.world_size:
            world = process.world_size
            raise ValueError(
                f"batch_size {config.batch_size} cannot be split over {world} processes: choose a multiple"
            )
        steps = task.steps_per_epoch * config.epochs
        parameters = [(p.numel(), p.requires_grad) for p in task.model.parameters()]
        self.sizes = task.sizes or (sum(n for n, trains in parameters if trains), sum(n for n, _ in parameters))
        self.averaged = averaging(task.model, config.ema, steps)
        self.step, self.losses, self.epochs = 0, list[float](), list[dict[str, float]]()
        self.best: Mapping[str, Tensor] | None = None
        self.validated = 0  # samples
        self.saved: int | None = None  # the step of the last checkpoint
        self.replica: nn.Module | None = None
        self.engine: Engine | None = None
        self.parts: dict[str, Any] = {}
        self.skipped = 0  # steps in a row
        self.flops: float | None = None  # of one sample, counted at the first step
        if config.compile:
            task.model.compile()  # in place: no name changes
        if found is not None:
            self._resume(found)
        self.writer_of: Any = _tensorboard(config)
        self.writer: Any = None

    def begin(self) -> None:
        """What all processes do together before the first step."""
        if self.task.engine is not None:
            self.engine = self.task.engine()
        folder = self.config.folder
        if self.process.rank == 0 and folder is not None and not self.config.resume:
            (folder / BEST).unlink(missing_ok=True)  # overwrite: the old run's
        agree(self._write_files)
        if self.process.rank == 0 and folder is not None and self.writer_of is not None:
            self.writer = self.writer_of(folder / "tensorboard", purge_step=self.step)
        self._say_begin()

    @property
    def finished(self) -> bool:
        """All epochs are done, or so many of them brought nothing that the patience is over."""
        done, patience = len(self.epochs), self.config.patience
        waited = done - (best_epoch(self.epochs, self.task.choose) or done)
        return done >= self.config.epochs or (patience is not None and waited >= patience)

    def train_epoch(self, stop: Stop) -> bool:
        """The rest of the epoch that the run stands in; True if it was stopped before its end."""
        task, config, began, items = self.task, self.config, time.perf_counter(), 0
        epoch = len(self.epochs)
        done = self.step - epoch * task.steps_per_epoch  # all, if it was stopped before it was validated
        if done == 0:
            if epoch in (0, *task.stages):
                self._begin_stage(epoch)
            if task.reseed == "epoch":
                torch.manual_seed(hash((config.seed, epoch, self.process.rank)))
        if self.replica is None:
            self.replica = self._make_replica()
        task.model.train()
        stream = islice(task.batches(epoch), done * config.accumulate, None)
        told, first = began, self.step
        hidden = self.process.rank > 0 or None  # by default a bar is shown in a terminal alone
        with tqdm(total=task.steps_per_epoch, initial=done, unit="step", leave=False, disable=hidden) as bar:
            while self.step < (epoch + 1) * task.steps_per_epoch:
                micro_batches = list(islice(stream, config.accumulate))
                self._step(micro_batches)
                items += sum(task.count(x) for x, _ in micro_batches)
                bar.update()
                if bar.disable and (now := time.perf_counter()) - told > PROGRESS:  # no terminal shows the bar
                    left = (now - began) / (self.step - first) * (task.steps_per_epoch * config.epochs - self.step)
                    what = (self.step, task.steps_per_epoch * config.epochs, self.losses[-1], epoch + 1, left / 60)
                    self._say("step %d of at most %d: loss %.4g, epoch %d, at most %.0f min left", *what)
                    told = now
                stopped = stop.everywhere()
                if stopped or self.step % config.save_every == 0:
                    self._save()
                if stopped:
                    self._say("stopped after step %d: resume goes on from there", self.step)
                    return True
        self._end_epoch(epoch, items, time.perf_counter() - began)
        return False

    def _step(self, micro_batches: list[Batch]) -> None:
        """One step of all processes together."""
        task, config = self.task, self.config
        if self.flops is None and task.precision != "fp32" and peak(self.process.device):
            x, y = (part.to(self.process.device) for part in micro_batches[0])
            self.flops = training_flops(task.model, x, y, task.loss_fn, task.precision) / task.count(x)
        if task.reseed == "step":  # the same in a resumed run, another on each process
            torch.manual_seed(hash((config.seed, self.step, self.process.rank)))
        if self.engine is not None:
            result = self.engine.step(micro_batches)
        else:
            assert self.replica is not None
            result = train_step(
                self.replica,
                self.parts["optimizer"],
                micro_batches,
                scaler=self.parts["scaler"],
                loss_fn=task.loss_fn,
                precision=task.precision,
                clip=config.clip,
                processes=self.process.world_size,
            )
            self.skipped = self.skipped + 1 if result.skipped else 0
            if not result.skipped:
                self.parts["scheduler"].step()
        # An engine scales the loss by itself.
        scaler = self.parts["scaler"] if self.parts else make_scaler(task.precision, self.process.device)
        check_finite(result, self.step + 1, self.skipped, scaler)
        if self.averaged is not None:
            self.averaged.update_parameters(task.model)
        self.step += 1
        self.losses.append(result.loss)
        if self.writer is not None:
            self.writer.add_scalar("loss", result.loss, self.step)

    def _end_epoch(self, epoch: int, items: int, seconds: float) -> None:
        """Validate, keep the best, write what the epoch came to."""
        losses = self.losses[epoch * self.task.steps_per_epoch - self.step :]
        if self.process.world_size > 1:
            total = torch.tensor(items, dtype=torch.int64, device=self.process.device)
            dist.all_reduce(total)
            items = int(total)
        row = {"epoch": epoch + 1, "loss": sum(losses) / len(losses)}
        if self.parts:
            row["lr"] = self.parts["optimizer"].param_groups[0]["lr"]
        row |= {"seconds": seconds, f"{self.task.noun}_per_second": items / seconds}
        if self.flops is not None and (most := peak(self.process.device)):
            row["mfu"] = self.flops * items / seconds / (most * self.process.world_size)
        if self.task.validation is not None:
            found = self._evaluate(self.task.validation, self._judged_model())
            check_loss(found, f"validation, after epoch {epoch + 1},")
            self.validated = found.samples
            row |= {"validation_loss": found.loss, "validation_accuracy": found.accuracy}
        self.epochs.append(row)
        if self.task.validation is not None and best_epoch(self.epochs, self.task.choose) == epoch + 1:
            kept = self.task.model if self.averaged is None else self.averaged.module
            weights = self.task.trained(kept).state_dict()
            self.best = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
            self._write(BEST, kept, extra={"facts": self.facts, "accuracy": row["validation_accuracy"]})
        self._save()
        self._write_history(None)
        told = list(row.items())[1:]
        self._say("epoch %d: %s", epoch + 1, ", ".join(f"{key} {value:.4g}" for key, value in told))
        if self.writer is not None:
            for key, value in told:
                self.writer.add_scalar(key, value, self.step)

    def result(self, stopped: bool) -> RunResult:
        """Go back to the best epoch, look at the test data once, and report."""
        chosen, validation, test = best_epoch(self.epochs, self.task.choose), None, None
        if self.best is not None and not stopped:
            self.task.trained(self.task.model).load_state_dict(dict(self.best))
        if self.task.test is not None and not stopped:
            test = self._evaluate(self.task.test, self._judged_model() if self.best is None else self.task.model)
            check_loss(test, "test")
            judges = self.task.data.get("test", f"{test.samples:,} samples")
            self._say("test: accuracy %.4f, loss %.4f (%s)", test.accuracy, test.loss, judges)
        if chosen is not None:
            row = self.epochs[chosen - 1]
            validation = Metrics(row["validation_loss"], row["validation_accuracy"], self.validated)
            chose = f" on {self.task.data['validation']}" if "validation" in self.task.data else ""
            where = "" if self.config.folder is None else f": {self.config.folder / BEST}"
            self._say("best epoch %d, validation accuracy %.4f%s%s", chosen, validation.accuracy, chose, where)
        self._write_history(test)
        if not stopped:
            self._write_card(chosen, validation, test)
        if self.process.world_size > 1:
            dist.barrier()  # what the others do next may be to read the files
        progress = (self.step, stopped, self.losses, self.epochs)
        return RunResult(self.config.folder, *progress, chosen, validation, test, *self.sizes)

    def kept(self) -> str:
        """What is left of a run that cannot go on."""
        if self.config.folder is None:
            return "Nothing was saved: the run has no output"
        if self.saved is None:
            return f"No checkpoint was written to {self.config.folder} yet"
        return f"{self.config.folder / LAST} is kept as it was after step {self.saved}"

    def close(self) -> None:
        """Let go of what outlives the run."""
        if self.writer is not None:
            self.writer.close()
        if self.engine is not None:
            self.engine.close()

    def _begin_stage(self, epoch: int) -> None:
        """The optimizer of the stage that ``epoch`` is in."""
        if self.task.engine is not None:
            return
        edges = (0, *self.task.stages, self.config.epochs)
        number = max(i for i, first in enumerate(edges[:-1]) if first <= epoch)
        steps = (edges[number + 1] - edges[number]) * self.task.steps_per_epoch
        optimizer, scheduler = self.task.optimizer(number, steps)
        scaler = make_scaler(self.task.precision, self.process.device)
        self.parts = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
        self.replica = None  # its hooks are on the parameters that train in this stage

    def _make_replica(self) -> nn.Module:
        if self.process.world_size == 1 or self.engine is not None:
            return self.task.model
        own = None if self.process.device.type == "cpu" else [self.process.device]
        return DistributedDataParallel(self.task.model, device_ids=own, gradient_as_bucket_view=True)

    def _resume(self, found: Checkpoint) -> None:
        """Put everything back to where the run stood."""
        check_same_run(found, self.config, self.facts)
        extra = found.extra
        self.step, self.saved, self.validated = found.step, found.step, extra.get("validated", 0)
        self.losses = list(extra.get("losses", []))
        self.epochs = list(extra["epochs"] if "epochs" in extra else extra["history"])
        epoch = len(self.epochs)
        done = self.step - epoch * self.task.steps_per_epoch
        model = self.task.trained(self.task.model)
        self._begin_stage(epoch)
        # Where a stage begins anew, and at the end, the optimizer in the file has done its work.
        over = done == 0 and epoch in (*self.task.stages, self.config.epochs)
        found.restore(model, **({} if over else self.parts))
        if self.averaged is not None:
            self.averaged.load_state_dict(extra["averaged"])
        if len(states := extra.get("generators", [])) == self.process.world_size:
            _set_generators(states[self.process.rank])
        assert self.config.folder is not None  # the settings were checked
        if self.task.validation is not None and self.epochs:
            self.best = checkpoint.load(self.config.folder / BEST).parts["model"]

    def _judged_model(self) -> nn.Module:
        """The model that is evaluated and kept: with averaged weights, if there are any."""
        if self.engine is not None:
            return self.engine.model
        return self.task.model if self.averaged is None else self.averaged.module

    def _evaluate(self, batches: Callable[[], Iterable[Batch]], model: nn.Module) -> Metrics:
        options: dict[str, Any] = {"precision": self.task.precision, "processes": self.process.world_size}
        return evaluate(self.task.judged(model), batches(), **options)

    def _save(self) -> None:
        """The run as it stands. Process 0 writes for all: after a step they all hold the same, and raise the same."""
        check_weights(self.task.trained(self.task.model), self.step)
        extra: dict[str, Any] = {"facts": self.facts, "losses": self.losses, "epochs": self.epochs}
        extra |= {"validated": self.validated}
        extra |= {"averaged": None if self.averaged is None else dict(self.averaged.state_dict())}
        if self.task.reseed == "epoch":
            extra["generators"] = _gather_generators(self.process)
        self._write(LAST, self.task.model, extra=extra, **self.parts)
        self.saved = self.step

    def _write(self, name: str, model: nn.Module, **more: Any) -> None:
        if self.config.folder is not None and self.process.rank == 0:
            more |= {"model": self.task.trained(model), "step": self.step, "config": self.config.model_dump()}
            checkpoint.save(self.config.folder / name, **more)

    def _write_files(self) -> None:
        """What the project wants to lie beside the run."""
        if self.config.folder is not None and self.process.rank == 0:
            for name, text in self.task.files.items():
                with atomic_write(self.config.folder / name, "w") as file:
                    file.write(text)

    def _write_history(self, test: Metrics | None) -> None:
        """The numbers of the run as JSON, for figures."""
        if self.config.folder is not None and self.process.rank == 0:
            content = {"epochs": self.epochs, "test": None if test is None else asdict(test), "losses": self.losses}
            content |= {"data": dict(self.task.data)}
            content = strict(content | {"config": self.config.model_dump()})
            with atomic_write(self.config.folder / HISTORY, "w") as file:
                json.dump(content, file, indent=1, allow_nan=False)

    def _write_card(self, chosen: int | None, validation: Metrics | None, test: Metrics | None) -> None:
        """What the run came to, for people."""
        if self.config.folder is not None and self.process.rank == 0:
            text = card(
                self.config,
                title=self.task.title,
                data=self.task.data,
                files=list(self.task.files),
                sizes=self.sizes,
                machine=f"{self.process.world_size} process(es), {self.process.device.type}",
                chosen=None if chosen is None or validation is None else (chosen, validation),
                test=test,
                licence=self.task.licence,
            )
            with atomic_write(self.config.folder / CARD, "w") as file:
                file.write(text)

    def _say_begin(self) -> None:
        trainable, total = self.sizes
        self._say(
            "%s%s of %s parameters train (%.2f %%); %d steps of %d %s; %s on %d process(es) on %s%s",
            *(f"{self.task.title}: " if self.task.title else "", f"{trainable:,}", f"{total:,}"),
            *(100 * trainable / total, self.task.steps_per_epoch * self.config.epochs),
            *(self.config.batch_size * self.config.accumulate, "samples", self.task.precision),
            *(self.process.world_size, self.process.device.type, f", from step {self.step}" if self.step else ""),
        )
        if self.task.data:
            self._say("data: %s", "; ".join(f"{part}: {name}" for part, name in self.task.data.items()))

    def _say(self, words: str, *values: Any) -> None:
        if self.process.rank == 0:
            log.info(words, *values)


def best_epoch(epochs: list[dict[str, float]], choose: Literal["accuracy", "loss"] = "accuracy") -> int | None:
    """Counted from 1: the epoch of the best validation; of several, the first. None without validation."""
    sign = 1 if choose == "accuracy" else -1
    found = [sign * row[f"validation_{choose}"] for row in epochs if f"validation_{choose}" in row]
    return found.index(max(found)) + 1 if found else None


def _tensorboard(config: RunSettings) -> Any:
    """torch's writer, the class, if it is asked for."""
    if not config.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"tensorboard is not installed ({error}): python -m pip install tensorboard, or leave out --tensorboard"
        ) from None
    return SummaryWriter


def _gather_generators(process: Process) -> list[list[Tensor]]:
    """The states of torch's generators of each process."""
    own = [torch.get_rng_state()]
    if process.device.type == "cuda":
        own.append(torch.cuda.get_rng_state(process.device))
    everybody: list[Any] = [own]
    if process.world_size > 1:
        everybody *= process.world_size
        dist.all_gather_object(everybody, own)
    return everybody


def _set_generators(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[1])
