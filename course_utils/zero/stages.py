"""ZeRO, stage by stage: each class shards one thing more than the class before it, and inherits the rest.

``N`` ranks; ``P`` trained parameters. :class:`Zero` is stage 0 and keeps everything on every rank; :class:`Stage1`
shards the optimizer's state, :class:`Stage2` the gradients too, ``Stage3`` (:mod:`course_utils.zero.stage_3`) the
parameters as well. All of them take the same step, up to the order of additions.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054; offload: Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from course_utils.data_parallel.replicas import check_same_everywhere, make_equal
from course_utils.measure import Held
from course_utils.precision import Precision
from course_utils.zero.units import Unit, all_gather, bytes_held, cut_into_units, reduce_scatter

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HOST = torch.device("cpu")


class Zero(nn.Module):
    """Stage 0, plain data parallelism: a forward, a backward that averages as it goes, a step over flat vectors.

    Made by :func:`course_utils.zero.zero`, which has the arguments.

    Attributes:
        module: the module as it was.
        layers: layer -> its units. ``units``: all of them; ``trained``: those with gradients.
        optimizer: over the FP32 vectors that this rank updates, one for each trained unit. Set its learning rate, or
            give it to a scheduler, as ever.
    """

    stage = 0
    reduces_each_micro_batch = False  # gradients add up on this rank, and are averaged once a step

    def __init__(
        self,
        module: nn.Module,
        optimizer: MakeOptimizer,
        *,
        precision: Precision = "fp32",
        offload: bool = False,
        clip: float | None = None,
        layers: Iterable[nn.Module] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        check_same_everywhere(module, group)
        make_equal(module, group)
        self.module, self.group, self.clip = module, group, clip
        self.ranks = dist.get_world_size(group)
        self.dtype, self.offload = DTYPES[precision], offload
        self._apart = offload or self.dtype != torch.float32  # else the weights are their own master copy
        self.names = {p: name for name, p in module.named_parameters()}
        self.layers = cut_into_units(module, layers, dist.get_rank(group), self.ranks)
        self.units = [unit for units in self.layers.values() for unit in units]
        self.trained = [unit for unit in self.units if unit.trained]
        for unit in self.units:
            self._prepare(unit)
        for buffer in module.buffers():
            buffer.data = self._cast(buffer.data)
        self.optimizer = optimizer([unit.master for unit in self.trained if unit.master is not None])
        self._queue = self.trained[::-1]  # about the order in which backward reaches them
        self._started = 0
        self._in_backward = self._accumulating = self._complete = False

    def _prepare(self, unit: Unit) -> None:
        """The unit in its final precision and place, and the FP32 weights that the optimizer will update."""
        place = HOST if self.offload else unit.flat.device
        copy = self.own_weights(unit).to(place, copy=True) if self._apart else None
        if self.dtype != torch.float32:
            unit.set_flat(unit.flat.to(self.dtype))
        self.reshard(unit)
        if unit.trained:
            unit.master = nn.Parameter(self.own_weights(unit) if copy is None else copy)
            for p in unit.parameters:
                p.register_post_accumulate_grad_hook(functools.partial(self._on_gradient, unit))

    # What the stages do differently -----------------------------------------------------------------------------------

    def reshard(self, unit: Unit) -> None:
        """Free the weights that this rank does not keep: none."""

    def own_weights(self, unit: Unit) -> Tensor:
        """The part of the weights that this rank updates: all, as every other rank does."""
        return unit.flat

    def own_gradient(self, unit: Unit) -> Tensor:
        """The averaged gradient of that part."""
        assert unit.gradient is not None
        return unit.gradient

    def reduce(self, unit: Unit) -> None:
        """Start to average the gradient over ranks."""
        assert unit.gradient is not None
        unit.reducing = dist.all_reduce(unit.gradient, group=self.group, async_op=True)

    def reshard_gradient(self, unit: Unit) -> None:
        """The gradient is averaged. Free what this rank does not keep of it: nothing."""

    def all_gather(self, unit: Unit) -> None:
        """Start to send this rank's new weights to the others. All ranks have computed the same: nothing to send."""

    def sum_over_ranks(self, squares: Tensor) -> None:
        """Make the sum over this rank's gradients that over all gradients, in place: it is that already."""

    # Forward and backward ---------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*self._cast(args), **self._cast(kwargs))

    @contextlib.contextmanager
    def accumulating(self) -> Iterator[None]:
        """For the forward and backward of all micro-batches of a step but the last."""
        before, self._accumulating = self._accumulating, True
        try:
            yield
        finally:
            self._accumulating = before

    def _on_gradient(self, unit: Unit, parameter: Tensor) -> None:
        """What autograd calls when it has added up a parameter's gradient; once in each backward."""
        self._begin_backward()
        assert isinstance(parameter, nn.Parameter)
        unit.accumulate(parameter, 1 / self.ranks)
        self._reduce_full_units()

    def _begin_backward(self) -> None:
        if self._in_backward:
            return
        if self._complete:
            raise RuntimeError(
                "the gradients of this step are averaged already: call step() before the next backward, or put all "
                "micro-batches of a step but the last inside `with model.accumulating():`"
            )
        self._in_backward = True
        torch.autograd.Variable._execution_engine.queue_callback(self._end_backward)

    def _reduce_full_units(self) -> None:
        """Average the units whose gradients are all there, in one order on all ranks; one at a time under way."""
        while self._started < len(self._queue) and not self._queue[self._started].waiting:
            unit = self._queue[self._started]
            if self.reduces_each_micro_batch or not self._accumulating:
                if self._started:
                    self._finish(self._queue[self._started - 1])
                unit.fill_gaps()
                self.reduce(unit)
            self._started += 1

    def _finish(self, unit: Unit) -> None:
        if unit.reducing is not None:
            unit.reducing.wait()
            unit.reducing = None
            self.reshard_gradient(unit)

    def _end_backward(self) -> None:
        """What a loss does not depend on has the gradient zero; it may depend on it on another rank."""
        for unit in self._queue[self._started :]:
            unit.waiting.clear()
        self._reduce_full_units()
        self._finish(self._queue[-1])
        for unit in self._queue:
            unit.waiting.update(unit.parameters)
        self._started, self._in_backward, self._complete = 0, False, not self._accumulating
        frozen = [p for unit in self.units if not unit.trained for p in unit.parameters]
        if late := [self.names[p] for p in frozen if p.requires_grad]:
            raise RuntimeError(f"{late[0]} was unfrozen after zero() was called, so no rank updates it: wrap again")

    # The step ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> float | None:
        """Clip, update this rank's part of the weights, send it to the others, and free the gradients.

        Returns:
            the norm of the whole model's averaged gradient, before clipping; None without ``clip``, because it costs a
            pass over the gradients and an exchange.

        Raises:
            RuntimeError: before any backward, or when all of them were in ``accumulating``.
        """
        if not self._complete:
            raise RuntimeError(
                "step() has no averaged gradient: call backward on a loss of model(x) first, and leave the last "
                "micro-batch of a step outside `accumulating`"
            )
        self._complete = False
        norm, scale = None, 1.0
        if self.clip is not None:
            norm = self._gradient_norm()
            scale = min(1.0, self.clip / (norm + 1e-6))  # as torch's clip_grad_norm_
        for unit in self.trained:
            assert unit.master is not None
            gradient = self.own_gradient(unit).to(unit.master.device, torch.float32)
            unit.gradient = unit.gradient_shard = None
            unit.master.grad = gradient.mul_(scale) if scale < 1 else gradient
            self.optimizer.step()  # passes over the parameters that have no gradient: all units but this
            unit.master.grad = None
            self._send(unit)
        for unit in self.trained:
            unit.wait()
        return norm

    @torch.no_grad()
    def send_weights(self) -> None:
        """Make the master weights the weights of all ranks: for who has changed them, as by loading a checkpoint."""
        for unit in self.trained:
            self._send(unit)
        for unit in self.trained:
            unit.wait()

    def _send(self, unit: Unit) -> None:
        if self._apart and unit.master is not None:
            self.own_weights(unit).copy_(unit.master)
        self.all_gather(unit)

    def _gradient_norm(self) -> float:
        parts = [torch.linalg.vector_norm(self.own_gradient(unit), dtype=torch.float32) for unit in self.trained]
        squares = torch.stack(parts).square().sum().to(self.trained[0].flat.device)
        self.sum_over_ranks(squares)
        return float(squares.sqrt())

    # To look at -------------------------------------------------------------------------------------------------------

    def full_state_dict(self) -> dict[str, Tensor]:
        """The whole model by its module's names: FP32 weights, as the optimizer knows them. All ranks call it."""
        whole = {name: tensor for unit in self.units for name, tensor in self._whole(unit).items()}
        state = self.module.state_dict(keep_vars=True)  # names a tied parameter twice
        return {key: whole[self.names[t]].clone() if t in self.names else t.clone() for key, t in state.items()}

    @torch.no_grad()
    def _whole(self, unit: Unit) -> dict[str, Tensor]:
        own = unit.master if unit.master is not None else self.own_weights(unit)
        flat = own.detach().to(unit.flat.device, torch.float32)
        if flat.numel() < unit.flat.numel():
            flat, shard = flat.new_empty(unit.flat.shape), flat
            all_gather(flat, shard, group=self.group)
        return dict(zip(unit.shapes, unit.views(flat), strict=True))

    def held(self) -> Held:
        """Bytes that this rank holds on its device."""
        return bytes_held(self.units, self.optimizer, computing=True, updating=not self.offload)

    def held_on_host(self) -> Held:
        """Bytes that offload holds in host memory. Without a GPU that is the same memory, counted by who uses it."""
        return bytes_held(self.units, self.optimizer, computing=False, updating=self.offload)

    def _cast(self, value: Any) -> Any:
        """Floating-point tensors in the precision of the model."""
        if self.dtype == torch.float32:
            return value
        return tree_map_only(Tensor, lambda t: t.to(self.dtype) if t.is_floating_point() else t, value)


class Stage1(Zero):
    """Each rank updates one N-th of the weights, and so holds the optimizer's state for one N-th.

    A reduce-scatter brings the averaged gradient of its shard, an all-gather carries the new weights to the others: the
    two halves of the all-reduce, with the optimizer's step between them.
    """

    stage = 1

    def own_weights(self, unit: Unit) -> Tensor:
        return unit.shard

    def own_gradient(self, unit: Unit) -> Tensor:
        assert unit.gradient is not None
        return unit.gradient[unit.owned]

    def reduce(self, unit: Unit) -> None:
        assert unit.gradient is not None
        unit.reducing = reduce_scatter(unit.gradient[unit.owned], unit.gradient, group=self.group, async_op=True)

    def all_gather(self, unit: Unit) -> None:
        unit.all_gather(self.group)

    def sum_over_ranks(self, squares: Tensor) -> None:
        dist.all_reduce(squares, group=self.group)


class Stage2(Stage1):
    """Each rank also keeps only its N-th of the gradients: as soon as a unit is averaged, the rest is freed.

    So nothing whole can wait for the last micro-batch: every backward averages, and its shards add up.
    """

    stage = 2
    reduces_each_micro_batch = True

    def own_gradient(self, unit: Unit) -> Tensor:
        assert unit.gradient_shard is not None
        return unit.gradient_shard

    def reshard_gradient(self, unit: Unit) -> None:
        assert unit.gradient is not None
        shard = unit.gradient[unit.owned].to(HOST if self.offload else unit.flat.device, copy=True)
        unit.gradient = None
        unit.gradient_shard = shard if unit.gradient_shard is None else unit.gradient_shard.add_(shard)
