"""The training loop of the course: one optimizer step in :func:`train_step`, many of them in :func:`train`.

It works for any ``model(x) -> logits``. Batches are pairs ``(x, y)``; an epoch is any iterable of them, so tensors in
memory, a ``DataLoader`` and a distributed sampler all fit::

    def epoch_batches(epoch):
        return batches(images, 128, shuffle=True, epoch=epoch)

    history = train(model, epoch_batches, optimizer, steps=500, precision="bf16", clip=1.0)
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from course_utils.precision import Precision
from course_utils.training.checkpoint import rng_state, set_rng_state

Batch = tuple[Tensor, Tensor]  # x [B, ...] and labels y [B]
LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits, y -> mean over the targets, see `divisor`

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_SKIPPED_IN_A_ROW = 40  # halves a scale of 2^16 down to 2^-24: no scale will help


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step saw: mean loss over its targets, the true gradient's norm, scale used, skipped or not."""

    loss: float
    grad_norm: float
    scale: float
    skipped: bool


@dataclass(frozen=True)
class Metrics:
    """Means over ``samples`` targets that count: the loss, and the share of correct answers (0 to 1)."""

    loss: float
    accuracy: float
    samples: int


@dataclass
class History:
    """One entry for each optimizer step, ready to plot: ``ax.plot(history.step, history.loss)``.

    ``seconds`` count from the start of ``train``, without the time spent in validation. ``validated_step``,
    ``validation_loss`` and ``validation_accuracy`` have one entry for each validation.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validated_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)


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


def choose_precision(
    wanted: Precision | Literal["auto"], device: torch.device, *, convolutions: bool = False
) -> Precision:
    """The precision asked for; ``"auto"`` is the fastest without a loss: BF16 on a GPU that multiplies it, FP16 (with
    loss scaling) on an older one, FP32 on a CPU, but BF16 for ``convolutions`` where it has matrix units (AMX)."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        # A T4 emulates BF16, slower than FP32, and says that it supports it unless it is asked so.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.10 cannot tell
    return "bf16" if convolutions and capabilities.get("amx_bf16") else "fp32"


def counted(loss_fn: LossFunction, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which targets the mean of ``loss_fn`` is over, and what it divides by.

    ``cross_entropy`` and ``nll_loss`` of torch divide by the sum of the class weights of the targets that are not
    ignored; without class weights, by the number of these targets. Soft targets (``[B, classes, ...]``, floats) all
    count one. Any other function is taken to divide by the number of targets.

    Returns:
        a mask in the shape of ``y`` (of soft targets, without the classes), and the divisor, a float64 scalar.
    """
    kind: Any = loss_fn
    options: dict[str, Any] = {}
    if isinstance(loss_fn, functools.partial):
        kind, options = loss_fn.func, loss_fn.keywords
    elif isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss):
        kind, options = F.cross_entropy, {"weight": loss_fn.weight, "ignore_index": loss_fn.ignore_index}
    targets = y[:, 0] if y.is_floating_point() and y.dim() > 1 else y
    mask = torch.ones_like(targets, dtype=torch.bool)
    if kind not in (F.cross_entropy, F.nll_loss) or y.is_floating_point():
        return mask, mask.sum(dtype=torch.float64)
    mask = y != options.get("ignore_index", -100)
    if (weight := options.get("weight")) is None:
        return mask, mask.sum(dtype=torch.float64)
    return mask, (weight.to(y.device)[y.where(mask, 0)] * mask).sum(dtype=torch.float64)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    *,
    scaler: torch.amp.GradScaler,
    loss_fn: LossFunction = F.cross_entropy,
    precision: Precision = "fp32",
    clip: float | None = None,
    processes: int = 1,
) -> StepResult:
    """One optimizer step over one or several micro-batches: scale, backward, unscale, clip, step, update.

    The gradient is that of the mean loss over *all* targets of the step, however they are cut into micro-batches and
    shared out. ``clip`` bounds the gradient's norm; with FP16 a gradient that holds inf or nan skips the step and
    halves the scale.

    Args:
        processes: how many take this step together; the model then is a ``DistributedDataParallel``, which *averages*
            their gradients. The loss that is returned is that of all of them.
    """
    device = next(model.parameters()).device
    divisors = torch.stack([counted(loss_fn, y)[1] for _, y in micro_batches]).to(device)
    whole = divisors.sum()
    if processes > 1:
        dist.all_reduce(whole)
    optimizer.zero_grad(set_to_none=True)
    mean_loss = torch.zeros((), device=device)
    for number, ((x, y), divisor) in enumerate(zip(micro_batches, divisors, strict=True), start=1):
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with _averaged_last(model, last=number == len(micro_batches)):
            with autocast(precision, device):
                logits = model(x)
            loss = loss_fn(logits.float(), y)
            # The micro-batch's share in the mean over all targets: 1/m would be wrong when one has fewer that count.
            # Where none counts, the mean is 0 / 0.
            loss = torch.where(divisor > 0, loss, 0.0) * (divisor / whole).to(loss.dtype)
            scaler.scale(loss * processes).backward()  # 1. scale  2. backward; gradients add up in p.grad
        mean_loss += loss.detach()
    if processes > 1:
        dist.all_reduce(mean_loss)

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


def _averaged_last(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[object]:
    """DDP averages gradients after the last micro-batch only; before, they add up on each process."""
    if last or not isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


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
            check_finite(result, step, in_a_row, scaler)
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
    processes: int = 1,
) -> Metrics:
    """Loss and accuracy, under the precision the model is trained in; every target counts as in the loss's own mean.

    (The mean of the batch means is another number whenever the last batch is smaller.) The model is in ``eval`` mode
    meanwhile; each of its modules is then put back into the mode it was in.

    With several ``processes`` each gives batches of its own, some one less or none, and all get the same answer.
    *Sums* meet, once, at the end, and right answers are counted in integers. So the accuracy is the same for any number
    of processes, as long as each batch is whole on one of them. Give the bare module, not its DDP wrapper: a wrapper's
    forward may want the other processes at its side.

    Raises:
        ValueError: no samples.
    """
    device = next(model.parameters()).device
    right_and_seen = torch.zeros(2, dtype=torch.int64, device=device)
    loss_and_divisor = torch.zeros(2, dtype=torch.float64, device=device)  # a long sum in float32 would stall
    with _eval_mode(model):
        for x, y in batches:
            mask, divisor = (part.to(device, non_blocking=True) for part in counted(loss_fn, y))
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with autocast(precision, device):
                logits = model(x)  # [B, classes, ...]
            loss = torch.where(divisor > 0, loss_fn(logits.float(), y).double(), 0.0)
            loss_and_divisor += torch.stack([loss * divisor, divisor])
            right_and_seen += torch.stack([((logits.argmax(1) == y) & mask).sum(), mask.sum()])
    if processes > 1:
        dist.all_reduce(right_and_seen)
        dist.all_reduce(loss_and_divisor)
    (right, seen), (total, whole) = right_and_seen.tolist(), loss_and_divisor.tolist()
    if seen == 0:
        raise ValueError(
            "nothing to evaluate: the batches hold no sample (a generator can be used only once: make it anew)"
        )
    return Metrics(total / whole, right / seen, seen)


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


def check_finite(result: StepResult, step: int, in_a_row: int, scaler: torch.amp.GradScaler) -> None:
    """Raise ``FloatingPointError`` for a loss of inf or nan; with FP16, for too many skipped steps in a row."""
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
