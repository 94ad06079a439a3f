"""Data parallelism: every rank holds the whole model, computes on its own part of the batch, and averages gradients.

``N`` is the number of ranks. A rank's gradient is that of its own loss. The mean of these gradients is the gradient of
the mean of the ranks' losses. That is the loss of the whole batch when each rank's loss is a mean over equally many
samples. A weighted loss divides by a sum of weights, a loss with ``ignore_index`` by the targets that are left: these
differ between ranks, and so may numbers of samples. :func:`~course_utils.data_parallel.global_mean` is right for all.

Source: Li et al. 2020, PyTorch Distributed, arXiv:2006.15704 (buckets, hooks, overlap, no_sync).
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_utils.data_parallel.replicas import check_same_everywhere, make_equal

MB = 10**6


class Event(NamedTuple):
    """Something that happened to a bucket, at ``time`` (seconds of ``time.perf_counter``).

    ``gradient``: the gradient of ``parameter`` lies in the bucket; ``start``, ``done``: of the bucket's all-reduce.
    """

    kind: Literal["gradient", "start", "done"]
    bucket: int
    time: float
    parameter: str = ""


class Bucket:
    """Gradients of some parameters in one flat tensor, so that one collective carries them all.

    Attributes:
        flat: all gradients one after the other, and one number more: how many of them this rank has not got.
        views: parameter -> its part of ``flat``, in the parameter's shape. Its ``grad`` is this view.
        waiting: parameters whose gradient is not there yet.
        work: the all-reduce under way.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.flat = parameters[0].detach().new_zeros(sum(sizes) + 1)
        parts = self.flat[:-1].split(sizes)
        self.views = {p: part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}
        self.waiting = set(parameters)
        self.work: dist.Work | None = None

    def put(self, parameter: nn.Parameter, share: float) -> None:
        """Move a gradient in, times ``share``. Where ``grad`` is the view already, nothing is copied."""
        gradient = parameter.grad
        assert gradient is not None
        torch.mul(gradient, share, out=self.views[parameter])
        parameter.grad = self.views[parameter]
        self.waiting.remove(parameter)

    def put_nothing(self, parameter: nn.Parameter) -> None:
        """Fill a gap with zeros, and count it: the other ranks learn of it from the sum."""
        self.views[parameter].zero_()
        self.flat[-1] += 1
        self.waiting.remove(parameter)

    def reset(self) -> None:
        self.waiting, self.work = set(self.views), None
        self.flat[-1] = 0


class DataParallel(nn.Module):
    """A module whose gradients are averaged over all ranks by the time ``backward`` returns.

    ::

        model = DataParallel(module)
        loss_of(model(x), y).backward()  # x, y: this rank's part of the batch
        optimizer.step()  # the same on all ranks, so their weights stay equal, bit by bit

    When it is made, rank 0's parameters and buffers are copied to all, once. In backward each gradient goes into a
    bucket; a full bucket is all-reduced at once, while backward computes the next. Buckets hold the parameters in
    reverse order, in which gradients arrive if the model was written in the order of its use.

    Every parameter that requires a gradient must have got one on every rank when backward ends, else all ranks raise.
    Those shared by several layers count once. Freeze parameters before, not after; checkpoint with use_reentrant=False.
    Buffers, such as BatchNorm's running means, are each rank's own affair after the first copy.

    Args:
        module: stays as it is, and is ``.module`` here: save its ``state_dict``, not the wrapper's.
        bucket_mb: a bucket holds at most so many MB (10^6 bytes), or a single larger gradient.
        group: the ranks that hold replicas; by default all.
        trace: a list to which every :class:`Event` is added.

    Raises:
        ValueError: if ranks hold different models, nothing can be trained, or a bucket has no room.
        RuntimeError: from backward, if some rank has no gradient for some parameter; all ranks say which.
    """

    def __init__(
        self,
        module: nn.Module,
        bucket_mb: float = 25.0,
        group: dist.ProcessGroup | None = None,
        *,
        trace: list[Event] | None = None,
    ) -> None:
        super().__init__()
        if not bucket_mb > 0:
            raise ValueError(f"bucket_mb is {bucket_mb!r}: a bucket needs room, such as 25 MB; 1e-6 for one each")
        check_same_everywhere(module, group)
        make_equal(module, group)
        self.module = module
        self.group = group
        self.trace = trace
        self.names = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
        if not self.names:
            raise ValueError("no parameter requires a gradient: there is nothing to average; unfreeze some first")
        self.buckets = [Bucket(part) for part in make_buckets(reversed(self.names), bucket_mb * MB)]
        self._frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
        self._share = 1 / dist.get_world_size(group)
        self._started = 0  # buckets whose all-reduce has been started in this backward
        self._notes: list[torch.futures.Future[None]] = []
        self._in_backward = False
        self._synchronise = True
        for number, bucket in enumerate(self.buckets):
            for parameter in bucket.views:
                parameter.register_post_accumulate_grad_hook(self._hook(number, bucket))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward inside only adds to this rank's own gradients; the first one after it averages the whole sum.

        For all micro-batches but the last of an accumulated step. Only backward need be inside (torch's DDP also wants
        the forward there).
        """
        before, self._synchronise = self._synchronise, False
        try:
            yield
        finally:
            self._synchronise = before

    def _hook(self, number: int, bucket: Bucket) -> Callable[[Tensor], None]:
        """What autograd calls when it has added up a parameter's gradient; once in each backward."""

        def hook(parameter: Tensor) -> None:
            assert isinstance(parameter, nn.Parameter)
            if not self._synchronise:
                return
            if not self._in_backward:  # the first gradient: be called when the last has come
                self._in_backward = True
                torch.autograd.Variable._execution_engine.queue_callback(self._finish)
            if parameter not in bucket.waiting:
                raise RuntimeError(
                    f"{self.names[parameter]} got a second gradient in one backward, after its first was on its way: "
                    "checkpoint with use_reentrant=False"
                )
            bucket.put(parameter, self._share)
            self._note("gradient", number, self.names[parameter])
            self._start_full_buckets()

        return hook

    def _start_full_buckets(self) -> None:
        """Start all-reduces, in the order of the buckets: every rank must call the same collectives in one order."""
        while self._started < len(self.buckets) and not self.buckets[self._started].waiting:
            number, bucket = self._started, self.buckets[self._started]
            self._note("start", number)
            bucket.work = dist.all_reduce(bucket.flat, group=self.group, async_op=True)
            if self.trace is not None:  # called in the backend's thread, at the very moment
                self._notes.append(bucket.work.get_future().then(functools.partial(self._note_done, number)))
            self._started += 1

    def _finish(self) -> None:
        """The end of backward: see that nothing is missing, wait for the buckets."""
        missing = []
        for bucket in self.buckets:
            for parameter in [p for p in bucket.views if p in bucket.waiting]:
                if parameter.grad is None:
                    missing.append(self.names[parameter])
                    bucket.put_nothing(parameter)
                else:  # not in this backward, but in one before it, under no_sync
                    bucket.put(parameter, self._share)
        self._start_full_buckets()
        for bucket in self.buckets:
            assert bucket.work is not None
            bucket.work.wait()
        torch.futures.wait_all(self._notes)
        incomplete = any(bucket.flat[-1] for bucket in self.buckets)  # on this rank or another
        for bucket in self.buckets:
            bucket.reset()
        self._started, self._in_backward, self._notes = 0, False, []
        if incomplete:
            raise RuntimeError(self._say_who_lacks(missing))
        if late := [name for name, parameter in self._frozen.items() if parameter.requires_grad]:
            raise RuntimeError(f"{late[0]} was unfrozen after DataParallel was made, so nobody averages it: wrap again")

    def _say_who_lacks(self, missing: list[str]) -> str:
        """All ranks come here together."""
        by_rank: list[list[str]] = [[] for _ in range(dist.get_world_size(self.group))]
        dist.all_gather_object(by_rank, missing, group=self.group)
        who = "; ".join(f"rank {rank}: {_some(names)}" for rank, names in enumerate(by_rank) if names)
        return (
            f"no gradient in this backward for {who}. Every trained parameter needs one on every rank: freeze those "
            "that are never used before making DataParallel; where some batches use one, add 0 * p.sum() to the loss"
        )

    def _note(self, kind: Literal["gradient", "start", "done"], bucket: int, parameter: str = "") -> None:
        if self.trace is not None:
            self.trace.append(Event(kind, bucket, time.perf_counter(), parameter))

    def _note_done(self, bucket: int, _: object) -> None:
        self._note("done", bucket)


def make_buckets(parameters: Iterable[nn.Parameter], room: float) -> list[list[nn.Parameter]]:
    """Parameters in the given order, in buckets of at most ``room`` bytes, each of one dtype and device."""
    buckets: list[list[nn.Parameter]] = []
    used = 0
    for p in parameters:
        same_kind = buckets and (buckets[-1][0].dtype, buckets[-1][0].device) == (p.dtype, p.device)
        if not same_kind or used + p.nbytes > room:
            buckets.append([])
            used = 0
        buckets[-1].append(p)
        used += p.nbytes
    return buckets


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
