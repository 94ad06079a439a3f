"""Pipeline parallelism: one runtime that executes any schedule, rank by rank.

A :class:`~course_utils.pipeline.schedule.Schedule` lists what each rank computes and, by that, what it sends and
receives. The runtime goes through the list. Which schedule it is, it never asks.

Letters used for shapes: ``B`` samples in a batch, ``m`` micro-batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from course_utils.pipeline.messages import PointToPoint
from course_utils.pipeline.schedule import Action, B, F, I, Receive, Schedule, Send
from course_utils.pipeline.simulator import Span
from course_utils.pipeline.stages import Stage, split_into_stages
from course_utils.pipeline.zero_bubble import SplitBackward

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Live(NamedTuple):
    """What a backward needs of a forward. Autograd keeps the activations until it is dropped.

    The stage's result is not kept: its place in the graph suffices, so its memory is free as soon as it has been sent.
    """

    x: Tensor  # the stage's input, a leaf that requires a gradient unless it is the model's
    result: GradientEdge | None  # None where nothing needs a gradient, as in a frozen first stage
    split: SplitBackward | None  # for schedules that go backward in two parts

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Add to the weights' gradients; return that of the input."""
        if self.result is not None:
            torch.autograd.backward(self.result, gradient)
        return self.x.grad

    def backward_input(self, gradient: Tensor) -> Tensor | None:
        """Return the gradient of the input; those of the weights follow later."""
        if self.result is None or self.split is None:
            return None
        return self.split.backward_input(self.x, self.result, gradient)


class Pipeline:
    """This rank's stages of a model, and the schedule by which they are trained.

    ::

        pipeline = Pipeline(model, one_f_one_b(4, 8), F.cross_entropy)
        optimizer = torch.optim.AdamW(pipeline.parameters())
        loss = pipeline.run(images, labels)  # forward and backward of the whole batch
        optimizer.step()  # once, when all micro-batches are through

    Args:
        model: for :func:`split_into_stages`, the same on every rank; or a list of its stages. This rank keeps its own.
        schedule: who computes what, in which order.
        loss_fn: from an output and a target to the *mean* loss of a micro-batch.
        layers: of each stage; by default as even as can be.
        group: the ranks of the pipeline; by default all.

    Attributes:
        stages: this rank's, by number.
        spans: the actions of the last run, in seconds of this machine's clock; see :func:`on_one_clock`.
        peak_live: the most stage activations that this rank held at once in the last run.

    Raises:
        ValueError: when schedule, group and model do not fit each other; the message says what to change.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        schedule: Schedule,
        loss_fn: LossFunction,
        *,
        layers: Sequence[int] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        stages = split_into_stages(model, layers or schedule.stages) if isinstance(model, nn.Module) else model
        _check_fit(schedule, len(stages), dist.get_world_size(group))
        self.schedule, self.loss_fn, self.rank = schedule, loss_fn, dist.get_rank(group)
        self.stages = {stage: stages[stage] for stage in schedule.stages_of(self.rank)}
        self._split = {action.stage for action in schedule.programs[self.rank] if action.kind is I}
        self._messages = PointToPoint(schedule, group)
        self.spans: list[Span] = []
        self.peak_live = 0

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters, under the names that they have in the whole model."""
        for stage in self.stages.values():
            yield from (stage.part if isinstance(stage, Stage) else stage).named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, for its optimizer."""
        return (parameter for _, parameter in self.named_parameters())

    def run(self, inputs: Tensor | None = None, targets: Tensor | None = None, **extra: Tensor) -> Tensor | None:
        """Forward and backward of one batch: adds its gradients to ``.grad``, as ``loss.backward()`` does.

        Args:
            inputs: ``[B, ...]``; the rank of the first stage needs them, others may leave them out.
            targets: ``[B, ...]``; the rank of the last stage needs them.
            extra: what every stage takes besides, ``[B, ...]`` on every rank, such as ``attention_mask``.

        Returns:
            the mean loss of the batch, on the rank of the last stage; None on all others.

        Raises:
            ValueError: when a batch is missing, cannot be cut evenly, or has another shape than in the first run.
        """
        self._begin(inputs, targets, extra)
        operations = list(self.schedule.operations(self.rank))
        receives = (operation.message for operation in operations if isinstance(operation, Receive))
        ahead = next(receives, None)
        for operation in operations:
            match operation:
                case Receive(message):
                    self._waiting[message[:3]] = self._messages.recv(message)
                    ahead = next(receives, None)
                case Send(message):
                    self._messages.isend(message, self._waiting.pop(message[:3]))
                case Action():
                    if ahead is not None:
                        self._messages.irecv(ahead)
                    start = time.perf_counter()
                    self._compute(operation)
                    self.spans.append(Span(self.rank, operation, start, time.perf_counter()))
        self._messages.wait()
        return torch.stack(self._losses).mean() if self._losses else None

    def _begin(self, inputs: Tensor | None, targets: Tensor | None, extra: dict[str, Tensor]) -> None:
        """Split the batch into micro-batches, and forget the last one."""
        self._inputs = self._micro_batches("inputs", inputs, needed=0 in self.stages)
        self._targets = self._micro_batches("targets", targets, needed=self.schedule.stages - 1 in self.stages)
        self._extra = {name: self._micro_batches(name, tensor, needed=True) for name, tensor in extra.items()}
        self._waiting: dict[tuple[str, int, int], Tensor] = {}  # (content, stage that made it, micro-batch)
        self._live: dict[tuple[int, int], Live] = {}  # (stage, micro-batch)
        self._losses: list[Tensor] = []
        self.spans, self.peak_live = [], 0

    def _compute(self, action: Action) -> None:
        kind, stage, micro_batch = action
        if kind is F:
            self._live[stage, micro_batch] = self._forward(stage, micro_batch)
            self.peak_live = max(self.peak_live, len(self._live))
            return
        live = self._live[stage, micro_batch]
        if kind in (B, I):
            gradient = self._gradient(stage, micro_batch)
            of_input = live.backward(gradient) if kind is B else live.backward_input(gradient)
            if of_input is not None:  # the first stage's input needs none
                self._waiting["gradient", stage, micro_batch] = of_input
        elif live.split is not None:
            live.split.backward_weight()
        if kind is not I:
            del self._live[stage, micro_batch]  # and with it the activations

    def _forward(self, stage: int, micro_batch: int) -> Live:
        """Run one micro-batch through one stage, in the last one as far as the loss."""
        first, last = stage == 0, stage == self.schedule.stages - 1
        x = self._inputs[micro_batch] if first else self._waiting.pop(("activation", stage - 1, micro_batch))
        x = x if first else x.requires_grad_()
        extra = {name: parts[micro_batch] for name, parts in self._extra.items()}
        module = self.stages[stage]
        with SplitBackward(module) if stage in self._split else nullcontext() as split:
            output = module(x, **extra)
            result = _loss(self.loss_fn, output, self._targets[micro_batch]) if last else _checked(output, stage)
        if last:
            self._losses.append(result.detach())
        else:
            self._waiting["activation", stage, micro_batch] = result.detach()
        return Live(x, get_gradient_edge(result) if result.requires_grad else None, split)

    def _gradient(self, stage: int, micro_batch: int) -> Tensor:
        """The gradient of a stage's result: from the next stage, or, at the end, that of the mean of all losses."""
        if stage == self.schedule.stages - 1:
            return self._losses[0].new_tensor(1 / self.schedule.micro_batches)
        return self._waiting.pop(("gradient", stage + 1, micro_batch))

    def _micro_batches(self, name: str, batch: Tensor | None, *, needed: bool) -> Sequence[Tensor]:
        """``[B, ...]`` in m parts ``[B / m, ...]``, of equal size: so the mean of their losses is the batch's."""
        m = self.schedule.micro_batches
        if not needed:
            return ()
        if batch is None:
            stage = 0 if name == "inputs" else self.schedule.stages - 1
            raise ValueError(f"rank {self.rank} holds stage {stage} and got no {name}: pass them to run()")
        if len(batch) == 0 or len(batch) % m:
            near = f"{len(batch) // m * m} or " if len(batch) > m else ""
            raise ValueError(
                f"{name} of {len(batch)} samples cannot be cut into {m} equal micro-batches: choose a batch of "
                f"{near}{(len(batch) // m + 1) * m}, and drop_last=True for the end of an epoch"
            )
        return batch.chunk(m)


def on_one_clock(ranks: Iterable[Sequence[Span]]) -> list[Span]:
    """The spans of all ranks of one machine, whose clock they share, counted from the first one's start."""
    spans = [span for own in ranks for span in own]
    zero = min(span.start for span in spans)
    return sorted(
        (Span(rank, action, start - zero, end - zero) for rank, action, start, end in spans), key=lambda s: s.start
    )


def _check_fit(schedule: Schedule, stages: int, ranks: int) -> None:
    if schedule.ranks != ranks:
        raise ValueError(
            f"schedule {schedule.name!r} was made for {schedule.ranks} ranks, but the group has {ranks}: make it for "
            f"{ranks}, or start {schedule.ranks} processes"
        )
    if schedule.stages != stages:
        raise ValueError(
            f"schedule {schedule.name!r} has {schedule.stages} stages, but the model was split into {stages}: they "
            "must be as many"
        )


def _checked(output: Tensor, stage: int) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"stage {stage} returned {found}: a stage hands on one tensor of floats, through which a gradient can come "
            "back. Split elsewhere, or give what all stages need to run() by name"
        )
    return output


def _loss(loss_fn: LossFunction, output: Tensor, target: Tensor) -> Tensor:
    loss = loss_fn(output, target)
    if loss.dim():
        raise ValueError(
            f"loss_fn returned a tensor of shape {list(loss.shape)}: it must return one number, the mean loss of a "
            "micro-batch"
        )
    return loss
