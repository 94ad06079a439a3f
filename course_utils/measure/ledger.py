"""What a rank sends and holds: every call is observed, whoever makes it, and charged with the bytes it sends.

A :class:`Ledger` stands below torch's own parallelism as well as ours: DistributedDataParallel, DTensor, FSDP2 and
pipelining all end in operators of the ``c10d`` namespaces, and the ledger reads each one before it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils.measure.operators import Call, is_communication, is_dtensor, local, read_call, sequence_number

if TYPE_CHECKING:
    import pandas as pd


class Sent(NamedTuple):
    """One row: all calls of an operation on a group, with the bytes that they were charged with, as in ``Call``."""

    operation: str
    group: str
    calls: int
    payload: int
    wire: float


class Held(NamedTuple):
    """Bytes that a rank holds for a model, by what they are: measured or predicted. Of sharded tensors its shard alone
    counts."""

    parameters: int
    gradients: int
    master_weights: int
    optimizer_state: int

    @property
    def total(self) -> int:
        return sum(self)


class SavedTensor(NamedTuple):
    """A storage that autograd kept for backward."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int
    weight_copy: bool  # of 16 bits and in the shape of a matrix of the model: a copy that autocast made of it


class Ledger:
    """Charges what this rank sends, and measures what autograd saves for backward, while its ``with`` block runs.

    ::

        with Ledger() as ledger:
            loss = model(x).sum()
            loss.backward()
        ledger  # prints itself

    Calls are charged when they are made, also those of ``async_op=True`` and of hooks in backward. Calls from another
    Python thread do not pass here; the backends count calls too, and the block ends with an error when the counts
    differ.

    Args:
        model: its parameters are no activations, however they are saved; ``nn.Parameter`` never is.

    Attributes:
        calls: all calls in order.
        saved: bytes saved for backward at this moment: each storage once, without parameters. On the meta device too,
            so also for models that no memory here could hold.
        saved_peak: the largest that ``saved`` has been.
        saved_tensors: all that was saved, in order.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.calls: list[Call] = []
        self.saved = 0
        self.saved_peak = 0
        self.saved_tensors: list[SavedTensor] = []
        self._users: dict[int, int] = {}  # address of a storage -> how often it is saved
        self._model = model
        self._own: frozenset[int] = frozenset()
        self._inside: ExitStack | None = None

    def __enter__(self) -> Ledger:
        if self._inside is not None:
            raise RuntimeError("this ledger is already counting: make another one for the inner block")
        own = list(self._model.parameters()) if self._model is not None else []
        self._own = frozenset(_address(local(p)) for p in own)
        matrices = {shape for p in own if p.dim() > 1 for shape in (p.shape, p.flatten(1).shape)}
        self._matrices = matrices | {shape[::-1] for shape in matrices}
        self._seen: dict[dist.ProcessGroup, int] = {}
        self._before = {group: sequence_number(group) for group in _groups()}
        self._inside = ExitStack()
        self._inside.enter_context(saved_tensors_hooks(self._save, _Saved.restore))
        self._inside.enter_context(_Watch(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._inside is not None
        self._inside.close()
        self._inside = None
        if error is None:
            self._compare_with_backends()

    def sent(self) -> list[Sent]:
        """The calls added up, one row for each operation and group, in the order of first use."""
        return add_up([Sent(call.operation, call.group, 1, call.payload, call.wire) for call in self.calls])

    def wire_bytes(self, operation: str | None = None, group: str | None = None) -> float:
        """Bytes that this rank was charged with; of one operation or group, if asked."""
        return sum(
            call.wire for call in self.calls if operation in (None, call.operation) and group in (None, call.group)
        )

    def table(self) -> pd.DataFrame:
        """The rows of :meth:`sent` as a table."""
        import pandas as pd  # a second that ranks need not spend

        return pd.DataFrame(self.sent(), columns=["operation", "group", "calls", "payload bytes", "wire bytes"])

    def __str__(self) -> str:
        return self.table().to_string(**_PRINTED) if self.calls else "nothing was sent"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self.calls:
            return f"<p>{self}</p>"
        return str(self.table().to_html(classes="course-table", border=0, **_PRINTED))

    def __getstate__(self) -> dict[str, Any]:
        """A ledger that a rank returns carries its numbers, not the model."""
        return {name: getattr(self, name) for name in ("calls", "saved", "saved_peak", "saved_tensors")}

    def _compare_with_backends(self) -> None:
        for group in _groups():
            ran = sequence_number(group) - self._before.get(group, 0)
            if missed := ran - self._seen.get(group, 0):
                raise RuntimeError(
                    f"{missed} of {ran} calls on the group {group.group_name} were made outside the ledger's thread, "
                    "so its figures are too low: make them in the thread that entered the ledger, or enter one there"
                )

    def _save(self, tensor: Tensor) -> _Saved | Tensor:
        """Called by autograd for each tensor that it keeps for backward."""
        base = tensor if tensor._base is None else tensor._base
        address = _address(local(tensor))
        if isinstance(base, nn.Parameter) or address in self._own:
            return tensor
        return _Saved(self, tensor, address)


class _Watch(TorchDispatchMode):
    """Sees every operator of this thread, and of the backward threads that autograd starts for it."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_dtensor, types)):
            return NotImplemented  # DTensor first turns it into operators on shards, and these come by here
        if not is_communication(func):
            return func(*args, **(kwargs or {}))
        call, group = read_call(func, args, kwargs or {})
        before = sequence_number(group)
        result = func(*args, **(kwargs or {}))
        self.ledger.calls.append(call)
        seen = self.ledger._seen
        seen[group] = seen.get(group, 0) + sequence_number(group) - before
        return result


class _Saved:
    """A tensor that autograd keeps; as long as this object lives, its storage counts."""

    def __init__(self, ledger: Ledger, tensor: Tensor, address: int) -> None:
        # Detached, for an operator that saves its own result would hold itself alive; autograd attaches it again.
        self.ledger, self.tensor, self.address = ledger, tensor.detach(), address
        self.size = local(tensor).untyped_storage().nbytes()
        users = ledger._users
        users[address] = users.get(address, 0) + 1
        if users[address] == 1:
            ledger.saved += self.size
            ledger.saved_peak = max(ledger.saved_peak, ledger.saved)
            copy = tensor.dtype.itemsize == 2 and tensor.shape in ledger._matrices
            ledger.saved_tensors.append(SavedTensor(tensor.dtype, tuple(tensor.shape), self.size, copy))

    def __del__(self) -> None:
        users = self.ledger._users
        users[self.address] -= 1
        if users[self.address] == 0:
            del users[self.address]
            self.ledger.saved -= self.size

    @staticmethod
    def restore(saved: _Saved | Tensor) -> Tensor:
        return saved.tensor if isinstance(saved, _Saved) else saved


def add_up(rows: Iterable[Sent]) -> list[Sent]:
    """Rows of one ledger or of several ranks' ledgers, summed by operation and group."""
    sums: dict[tuple[str, str], Sent] = {}
    for row in rows:
        key = row.operation, row.group
        old = sums.get(key, Sent(*key, 0, 0, 0))
        sums[key] = Sent(*key, old.calls + row.calls, old.payload + row.payload, old.wire + row.wire)
    return list(sums.values())


def held(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Held:
    """Measure the bytes that this rank holds now. Counters of steps, one number per parameter, are left out.

    Parameters that the optimizer has and the model has not are master weights. Buffers that a library keeps for itself,
    such as DDP's buckets, are not seen.
    """
    own = _unique(model.parameters())
    groups = optimizer.param_groups if optimizer is not None else []
    names = {id(p) for p in own}
    masters = [p for p in _unique(p for group in groups for p in group["params"]) if id(p) not in names]
    state = optimizer.state.values() if optimizer is not None else ()
    moments = [value for entry in state for value in entry.values() if isinstance(value, Tensor) and value.numel() > 1]
    return Held(
        parameters=sum(local(p).nbytes for p in own),
        gradients=sum(local(p.grad).nbytes for p in (*own, *masters) if p.grad is not None),
        master_weights=sum(local(p).nbytes for p in masters),
        optimizer_state=sum(local(m).nbytes for m in moments),
    )


def _unique(tensors: Iterable[Tensor]) -> Sequence[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _address(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    return storage.data_ptr() or storage._cdata  # on the meta device no storage has an address of its own


def _groups() -> list[dist.ProcessGroup]:
    """All groups that this rank is in."""
    return list(dist.distributed_c10d._world.pg_map) if dist.is_initialized() else []


_PRINTED: dict[str, Any] = {
    "index": False,
    "float_format": "{:,.0f}".format,
    "formatters": {"payload bytes": "{:,}".format},
}
