"""A Vision Transformer from scratch, on one process or many, on one machine or many.

    python -m course_utils.vision.train_ddp                                   # the embedded images, on this machine
    python -m course_utils.vision.train_ddp --data cifar10 --data-dir PATH --preset compact --epochs 5
    torchrun --nproc-per-node 4 -m course_utils.vision.train_ddp --data cifar10 --data-dir PATH --preset deit

What a batch holds, and the learning rate, depend on the global batch alone: the same run on 1, 2 or 4 processes has the
same losses, but for the rounding of sums. The folder ``output`` then holds ``last.safetensors``, from which a run goes
on at any number of processes, and ``history.json``.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from itertools import islice
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from course_utils.data import Images
from course_utils.launch import Process, RankFailed, distributed_from_environment, launch
from course_utils.runtime import cores
from course_utils.training import Metrics, make_scaler, train_step
from course_utils.vision.assembly import (
    build_model,
    choose_precision,
    load_data,
    loss_function,
    make_optimizer,
    training_batches,
)
from course_utils.vision.recipes import FromScratch
from course_utils.vision.runs import averaging, check_folder
from course_utils.vision.state import Result, State, resume, save, write_history
from course_utils.vision.together import Stop, agree, evaluate, mean_over_processes, stop_on_signal

log = logging.getLogger("course_utils.vision")
WEEK = 7 * 24 * 3600.0


def train(config: FromScratch, images: Images | None = None, test: Images | None = None) -> Result:
    """Train in this process; under torchrun, srun or ``launch`` together with the others.

    Args:
        images, test: to train on and to report; by default those the recipe names.

    Raises:
        FileNotFoundError, OSError: the images or the checkpoint to resume are not there, or nothing can be written.
        ValueError: any of them is broken or does not fit the recipe, or a run is there already.
    """
    with distributed_from_environment() as process, stop_on_signal(process) as stop:
        state, held, to_report = agree(lambda: _assemble(config, process, images, test), process)
        replica: nn.Module = state.model
        if process.world_size > 1:
            device_ids = None if process.device.type == "cpu" else [process.device]
            replica = DistributedDataParallel(state.model, device_ids=device_ids, gradient_as_bucket_view=True)
        if process.rank == 0:
            _say_begin(state)
        stopped = False
        while len(state.epochs) < config.epochs and not stopped:
            stopped = _epoch(state, replica, stop, held)
        metrics = None if stopped else _evaluate(state, to_report)
        if process.rank == 0:
            write_history(state, metrics)
            if metrics is not None:
                seen = f"{metrics.samples:,} images" + ", each with its mirror image" * config.mirror
                log.info("test: accuracy %.4f, loss %.4f (%s)", metrics.accuracy, metrics.loss, seen)
        if process.world_size > 1:
            dist.barrier()  # what the others do next may be to read the files
        return Result(state.step, stopped, state.losses, state.epochs, metrics)


def _assemble(
    config: FromScratch, process: Process, images: Images | None, test: Images | None
) -> tuple[State, Images | None, Images]:
    """Everything that can fail before the first step, without a file written; and the images held out and to report."""
    check_folder(config)
    held = None
    if images is None or test is None or config.validation:
        train, held, theirs = load_data(config)
        images, test = images or train, test or theirs
    if config.batch_size % process.world_size:
        raise ValueError(f"batch_size {config.batch_size} cannot be split over {process.world_size} processes")
    per_epoch = len(images) // config.batch_size
    if not per_epoch:
        raise ValueError(f"{len(images)} images make no batch of {config.batch_size}: choose a smaller batch_size")
    precision = choose_precision(config, process.device)
    channels, height, width = images.x.shape[1:]
    model = build_model(config, (channels, height, width), len(images.classes), precision).to(process.device)
    optimizer, scheduler = make_optimizer(config, model, per_epoch * config.epochs, precision)
    scaler = make_scaler(precision, process.device)
    averaged = averaging(model, config.ema, per_epoch * config.epochs)
    state = State(
        config, process, precision, images, model, optimizer, scheduler, scaler, averaged, per_epoch, 0, [], []
    )
    if config.resume:
        resume(state)
    return state, held, test


def _epoch(state: State, replica: nn.Module, stop: Stop, held: Images | None) -> bool:
    """The rest of the epoch that the run stands in; True if it was stopped before its end."""
    process, began, own = state.process, time.perf_counter(), []
    epoch, done = divmod(state.step, state.steps_per_epoch)
    bar = tqdm(total=state.steps_per_epoch, initial=done, unit="step", leave=False, disable=process.rank > 0 or None)
    seen = training_batches(state.config, state.images, epoch, process)
    for x, y in islice(seen, done, None):  # x [B / N, C, H, W]: this process's share of the batch
        own.append(_step(state, replica, x, y))
        bar.update()
        stopped = stop.everywhere()
        if stopped or state.step % state.config.save_every == 0:
            state.losses += mean_over_processes(own, process)
            own.clear()
            save(state)
        if stopped:
            log.info("stopped after step %d: resume goes on from there", state.step)
            return True
    bar.close()
    state.losses += mean_over_processes(own, process)
    state.epochs.append(_row(state, epoch, done, time.perf_counter() - began, held))
    save(state)
    return False


def _step(state: State, replica: nn.Module, x: Tensor, y: Tensor) -> float:
    """One step of all processes together; the loss of this one's images."""
    # For drop path, which draws from torch's own generator: the same in a resumed run, another on each process.
    torch.manual_seed(hash((state.config.seed, state.step, state.process.rank)))
    result = train_step(
        replica,
        state.optimizer,
        [(x, y)],
        scaler=state.scaler,
        loss_fn=loss_function(state.config),
        precision=state.precision,
        clip=state.config.clip,
    )
    if not result.skipped:
        state.scheduler.step()
    if state.averaged is not None:
        state.averaged.update_parameters(state.model)
    state.step += 1
    return result.loss


def _row(state: State, epoch: int, done: int, seconds: float, held: Images | None) -> dict[str, float]:
    """What the history says of an epoch; logged by the first process."""
    losses = state.losses[-state.steps_per_epoch :]
    images = (state.steps_per_epoch - done) * state.config.batch_size
    row = {
        "epoch": epoch + 1,
        "loss": sum(losses) / len(losses),
        "lr": state.optimizer.param_groups[0]["lr"],
        "seconds": seconds,
        "images_per_second": images / seconds,
    }
    if held is not None:
        found = _evaluate(state, held)
        row |= {"validation_loss": found.loss, "validation_accuracy": found.accuracy}
    if state.process.rank == 0:
        log.info("epoch %d: %s", epoch + 1, ", ".join(f"{key} {value:.4g}" for key, value in list(row.items())[1:]))
    return row


def _evaluate(state: State, images: Images) -> Metrics:
    model = state.model if state.averaged is None else state.averaged.module
    # Normalised as the images that it learned from, whatever else these were loaded with.
    images = replace(images, statistics=state.images.mean_and_std)
    config = state.config
    return evaluate(
        model, images, state.process, precision=state.precision, size=config.image_size, mirror=config.mirror
    )


def _say_begin(state: State) -> None:
    parameters = sum(p.numel() for p in state.model.parameters())
    log.info(
        "%s: %s parameters, %s images, %d steps of %d images; %s on %d process(es)%s",
        *(state.config.preset, f"{parameters:,}", f"{len(state.images):,}"),
        *(state.steps_per_epoch * state.config.epochs, state.config.batch_size, state.precision),
        *(state.process.world_size, f", from step {state.step}" if state.step else ""),
    )


def _run(config: FromScratch) -> Result:
    """What a process of the command line does."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return train(config)


def count_processes(config: FromScratch) -> int:
    """How many processes to start here; 1, this very one, where torchrun or srun has started them already."""
    if "WORLD_SIZE" in os.environ or "SLURM_STEP_ID" in os.environ:
        return 1
    available = torch.cuda.device_count() or min(2, cores())
    return config.processes or max(n for n in range(1, available + 1) if config.batch_size % n == 0)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's first lines."""
    try:
        config = FromScratch.from_command_line(arguments, "Train a Vision Transformer from scratch.")
        if (processes := count_processes(config)) > 1:
            backend: Literal["nccl", "gloo"] = "nccl" if torch.cuda.is_available() else "gloo"
            launch(_run, processes, config, backend=backend, threads=max(1, cores() // processes), timeout=WEEK)
        else:
            _run(config)
    except RankFailed as error:
        sys.exit(f"error: {error.sentence}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
