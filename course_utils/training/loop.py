"""The training loop of the course: one optimizer step in :func:`train_step`, many of them in :func:`train`.

It works for any ``model(x) -> logits``. Batches are pairs ``(x, y)``; an epoch is any iterable of them, so tensors in
memory, a ``DataLoader`` and a distributed sampler all fit::

    def epoch_batches(epoch):
        return batches(images, 128, shuffle=True, epoch=epoch)

    history = train(model, epoch_batches, optimizer, steps=500, precision="bf16", clip=1.0)
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from course_utils.training.history import History, Metrics, StepResult
from course_utils.training.rng import rng_state, set_rng_state

Precision = Literal["fp32", "bf16", "fp16"]
Batch = tuple[Tensor, Tensor]  # x [B, ...] and labels y [B]
LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits, y -> mean over the samples

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_SKIPPED_IN_A_ROW = 40  # halves a scale of 2^16 down to 2^-24: no scale will help


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Matrix products in the 16-bit type, weights left as they are; for ``"fp32"`` nothing at all."""
    if precision not in AUTOCAST:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(AUTOCAST)}")
    dtype = AUTOCAST[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def make_scaler(precision: Precision, device: torch.device | str = "cpu", **options: Any) -> torch.amp.GradScaler:
    """A loss scaler that works for FP16 and lets everything pass unchanged for the precisions that need none.

    ``options`` go to :class:`torch.amp.GradScaler` (``init_scale=2.0**16, growth_interval=2000``, ...).
    """
    return torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16", **options)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    *,
    scaler: torch.amp.GradScaler,
    loss_fn: LossFunction = F.cross_entropy,
    precision: Precision = "fp32",
    clip: float | None = None,
) -> StepResult:
    """One optimizer step over one or several micro-batches: scale, backward, unscale, clip, step, update.

    The gradient is that of the mean loss over *all* samples of the step, however they are cut into micro-batches.
    ``clip`` bounds the gradient's norm; with FP16 a gradient that holds inf or nan skips the step and halves the scale.
    """
    device = next(model.parameters()).device
    samples = sum(len(y) for _, y in micro_batches)
    optimizer.zero_grad(set_to_none=True)
    mean_loss = torch.zeros((), device=device)
    for x, y in micro_batches:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with autocast(precision, device):
            logits = model(x)
        # The share of this micro-batch in the mean over all samples: 1/m would be wrong when the last one is smaller.
        loss = loss_fn(logits.float(), y) * (len(y) / samples)
        scaler.scale(loss).backward()  # 1. scale  2. backward; gradients add up in p.grad
        mean_loss += loss.detach()

    scaler.unscale_(optimizer)  # 3. unscale: from here on p.grad is the true gradient
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip is not None:
        clip_grads_with_norm_(parameters, clip, norm)  # 4. clip the true gradient
    scale = scaler.get_scale()
    scaler.step(optimizer)  # 5. step, unless a gradient is inf or nan
    scaler.update()  # 6. update: halve the scale after a skipped step, double it after many good ones
    # .item() waits for the device: once for each step, not for each micro-batch.
    return StepResult(mean_loss.item(), norm.item(), scale, skipped=scaler.get_scale() < scale)


def train(
    model: nn.Module,
    epoch_batches: Callable[[int], Iterable[Batch]],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    start: int = 0,
    scheduler: LRScheduler | None = None,
    scaler: torch.amp.GradScaler | None = None,
    loss_fn: LossFunction = F.cross_entropy,
    precision: Precision = "fp32",
    accumulate: int = 1,
    clip: float | None = None,
    validate: Callable[[], Iterable[Batch]] | None = None,
    validate_every: int | None = None,
    after_step: Callable[[int], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Train up to optimizer step ``steps``; the order of everything depends on the seeds alone.

    Args:
        epoch_batches: ``epoch -> batches of that epoch``. Their order may depend on the epoch only; then a resumed run
            sees the batches the first one would have seen.
        start: optimizer steps already done (``load(path).step``); their batches are passed over.
        scheduler: stepped after each step that moved the weights (a step skipped by the scaler does not count).
        scaler: give your own to save it with a checkpoint; else one is made when ``precision`` is ``"fp16"``.
        accumulate: micro-batches to a step; they run on across the end of an epoch.
        clip: largest norm of the gradient of a step.
        validate: ``() -> held-out batches``, evaluated every ``validate_every`` steps and after the last.
        after_step: called with the number of steps done, after each: save a checkpoint there, for instance.
        progress: a bar on or off; by default on in a terminal, off elsewhere, so that no saved output holds one.

    Raises:
        FloatingPointError: the loss became inf or nan (FP16: whatever the scale).
        ValueError: no batches, a ``start`` beyond ``steps``, or an optimizer or a scaler that does not belong here.
    """
    if not 0 <= start <= steps:
        raise ValueError(
            f"start is step {start}, expected between 0 and steps = {steps}: steps counts from the first run's start"
        )
    device = next(model.parameters()).device
    scaler = make_scaler(precision, device) if scaler is None else scaler
    _check_scaler(scaler, precision)
    _check_optimizer(optimizer, model)
    stream = _stream(epoch_batches)
    before = rng_state()
    next(itertools.islice(stream, start * accumulate, start * accumulate), None)  # pass over what was seen
    set_rng_state(before)  # whatever making those batches drew

    history, in_a_row, spent = History(), 0, 0.0
    model.train()
    with tqdm(total=steps, initial=start, unit="step", disable=None if progress is None else not progress) as bar:
        for step in range(start + 1, steps + 1):
            began = time.perf_counter()
            lr = optimizer.param_groups[0]["lr"]
            micro_batches = list(itertools.islice(stream, accumulate))
            result = train_step(
                model, optimizer, micro_batches, scaler=scaler, loss_fn=loss_fn, precision=precision, clip=clip
            )
            in_a_row = in_a_row + 1 if result.skipped else 0
            _check_finite(result, step, in_a_row, scaler)
            if scheduler is not None and not result.skipped:
                scheduler.step()
            spent += time.perf_counter() - began

            _record(history, step, lr, spent, result)
            if validate is not None and (step == steps or (validate_every and step % validate_every == 0)):
                metrics = evaluate(model, validate(), loss_fn=loss_fn, precision=precision)
                history.validated_step.append(step)
                history.validation_loss.append(metrics.loss)
                history.validation_accuracy.append(metrics.accuracy)
            if after_step is not None:
                after_step(step)
            bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)
            bar.update()
    return history


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss_fn: LossFunction = F.cross_entropy,
    precision: Precision = "fp32",
) -> Metrics:
    """Loss and accuracy, under the precision the model is trained in; every sample counts the same.

    (The mean of the batch means is another number whenever the last batch is smaller.) The model is in ``eval`` mode
    meanwhile; each of its modules is then put back into the mode it was in.

    Raises:
        ValueError: no samples.
    """
    device = next(model.parameters()).device
    loss, correct, samples = 0.0, 0, 0  # Python's floats are float64: a long sum does not stall
    with _eval_mode(model):
        for x, y in batches:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with autocast(precision, device):
                logits = model(x)  # [B, classes]
            loss += loss_fn(logits.float(), y).item() * len(y)  # the sum over the batch, not its mean
            correct += int((logits.argmax(-1) == y).sum())
            samples += len(y)
    if samples == 0:
        raise ValueError(
            "nothing to evaluate: the batches hold no sample (a generator can be used only once: make it anew)"
        )
    return Metrics(loss / samples, correct / samples, samples)


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:  # one by one: a frozen part may have been in eval mode before
            module.training = mode


def _stream(epoch_batches: Callable[[int], Iterable[Batch]]) -> Iterator[Batch]:
    for epoch in itertools.count():
        empty = True
        for batch in epoch_batches(epoch):
            empty = False
            yield batch
        if empty:
            raise ValueError(f"epoch {epoch} holds no batch: epoch_batches(epoch) must make its batches anew each time")


def _record(history: History, step: int, lr: float, seconds: float, result: StepResult) -> None:
    history.step.append(step)
    history.loss.append(result.loss)
    history.lr.append(lr)
    history.grad_norm.append(result.grad_norm)
    history.scale.append(result.scale)
    history.skipped.append(result.skipped)
    history.seconds.append(seconds)


def _check_scaler(scaler: torch.amp.GradScaler, precision: Precision) -> None:
    if scaler.is_enabled() != (precision == "fp16"):
        kind = "an enabled" if scaler.is_enabled() else "a disabled"
        raise ValueError(
            f"{kind} scaler was given for precision {precision!r}: make it with make_scaler({precision!r})"
        )


def _check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    own = {id(p) for p in model.parameters()}
    if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer holds parameters that are not the model's, so training would not move the model: make the "
            "optimizer from this very model, after it is built, moved and wrapped"
        )


def _check_finite(result: StepResult, step: int, in_a_row: int, scaler: torch.amp.GradScaler) -> None:
    if in_a_row > MOST_SKIPPED_IN_A_ROW:
        raise FloatingPointError(
            f"step {step}: {in_a_row} steps in a row were skipped and the loss scale fell to {scaler.get_scale():.3g}; "
            "the gradient is inf or nan whatever the scale. Look for inf or nan in the data, or train in bf16 or fp32"
        )
    if not math.isfinite(result.loss) and not scaler.is_enabled():
        raise FloatingPointError(
            f"the loss is {result.loss} at step {step}: lower the learning rate, add warm-up "
            "or clip the gradient (clip=1.0)"
        )
