"""A layer's parameters as one flat vector in N equal shards: resharded, unsharded, and filled with gradients.

``N`` ranks, ``P`` numbers in a unit, padded with zeros so that ``N`` divides them. Rank ``r`` owns the ``r``-th of N
equal shards, wherever that cuts through a matrix: nobody has to look at shapes to share the work evenly.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054; Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277 (flat units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_utils.measure import Held

# torch 2.14 renamed both; the old names warn there.
all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Unit:
    """Parameters that are sent, unsharded and resharded together: the trained or the frozen ones of a layer.

    Attributes:
        name: of the layer; ``""`` for what belongs to no layer.
        shapes: parameter's name -> its shape, in the order in which they lie in the vector.
        flat: ``[padded]``, of which the parameters are views. Its storage is empty while the unit is resharded.
        owned: which numbers of ``flat`` are this rank's shard.
        shard: ``[padded / N]``, this rank's own part of the weights: a view of ``flat``, until :meth:`reshard`.
        gradient: ``[padded]``, this rank's gradients; None while there are none.
        gradient_shard: ``[padded / N]``, where a stage keeps no more than that.
        master: the FP32 weights that this rank's optimizer updates; None for frozen units.
        waiting: parameters whose gradient has not come in this backward.
        gathering, reducing: the collectives under way, of weights and of gradients.
    """

    def __init__(self, name: str, parameters: Mapping[str, nn.Parameter], rank: int, ranks: int) -> None:
        self.name = name
        self.parameters = list(parameters.values())
        self.shapes = {key: p.shape for key, p in parameters.items()}
        self.trained = self.parameters[0].requires_grad
        self.size = sum(p.numel() for p in self.parameters)
        length = -(-self.size // ranks)  # of a shard: rounded up
        self.owned = slice(rank * length, (rank + 1) * length)
        ends = accumulate(p.numel() for p in self.parameters)
        self._places = {p: slice(end - p.numel(), end) for p, end in zip(self.parameters, ends, strict=True)}
        flat = torch.zeros(length * ranks, device=self.parameters[0].device)
        for p, view in zip(self.parameters, self.views(flat), strict=True):
            view.copy_(p.detach())
        self.set_flat(flat)
        self.gradient: Tensor | None = None
        self.gradient_shard: Tensor | None = None
        self.master: nn.Parameter | None = None
        self.waiting: set[Tensor] = set(self.parameters)
        self._gaps: set[nn.Parameter] = set()
        self.gathering: dist.Work | None = None
        self.reducing: dist.Work | None = None

    def set_flat(self, flat: Tensor) -> None:
        """Let the parameters be views of this vector. They stay the same objects: no module, tie or hook notices."""
        self.flat, self.shard = flat, flat[self.owned]
        self._bytes = flat.nbytes
        self._point_at_flat()

    def _point_at_flat(self) -> None:
        for p, view in zip(self.parameters, self.views(self.flat), strict=True):
            p.data = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parts of a flat vector, in the parameters' shapes."""
        return [
            flat[place].view(shape) for place, shape in zip(self._places.values(), self.shapes.values(), strict=True)
        ]

    def accumulate(self, parameter: nn.Parameter, share: float) -> None:
        """Add a parameter's gradient, times ``share``, to the flat one, and free it."""
        assert parameter.grad is not None
        if self.gradient is None:
            self.gradient = torch.empty_like(self.flat)
            self._gaps = set(self.parameters)
        place = self.gradient[self._places[parameter]].view(parameter.grad.shape)
        if parameter in self._gaps:
            torch.mul(parameter.grad, share, out=place)
            self._gaps.remove(parameter)
        else:
            place.add_(parameter.grad, alpha=share)
        parameter.grad = None
        self.waiting.discard(parameter)

    def fill_gaps(self) -> None:
        """Where no gradient has come, and in the padding, the flat gradient is zero."""
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.flat)
            return
        for parameter in self._gaps:
            self.gradient[self._places[parameter]].zero_()
        self.gradient[self.size :].zero_()

    def all_gather(self, group: dist.ProcessGroup | None) -> None:
        """Start to fill the whole vector from all ranks' shards."""
        self.gathering = all_gather(self.flat, self.shard, group=group, async_op=True)

    def wait(self) -> None:
        """Until the all-gather under way has ended."""
        if self.gathering is not None:
            self.gathering.wait()
            self.gathering = None

    # What stage 3 adds: weights that come and go ----------------------------------------------------------------------

    @property
    def is_unsharded(self) -> bool:
        """Whether the whole vector has memory: gathered, or about to be."""
        return self.flat.untyped_storage().nbytes() > 0

    def unshard(self, group: dist.ProcessGroup | None) -> None:
        """Make room for the whole vector, and start to gather it."""
        self.flat.untyped_storage().resize_(self._bytes)
        self.all_gather(group)

    def wait_for_unshard(self) -> None:
        """Until the weights are whole; from then on the parameters are views of them."""
        self.wait()
        self._point_at_flat()

    def reshard(self) -> None:
        """Keep this rank's shard, and free the vector. What autograd saved of it refers to the same storage.

        The parameters become empty, for a view of freed memory would crash the process that reads it.
        """
        self.wait()
        if self.shard._base is self.flat:  # the first time: a shard that is a view would lose its memory too
            self.shard = self.shard.clone()
        for p in self.parameters:
            p.data = p.data.new_empty(0)
        self.flat.untyped_storage().resize_(0)


def cut_into_units(
    module: nn.Module, layers: Iterable[nn.Module] | None, rank: int, ranks: int
) -> dict[nn.Module, list[Unit]]:
    """Layer -> its units: trained parameters, frozen ones. What belongs to none, or to several, is the module's own.

    Args:
        layers: by default the elements of the outermost ``ModuleList`` and ``Sequential``.
    """
    names = {layer: name for name, layer in module.named_modules()}
    chosen = list(dict.fromkeys(find_layers(module) if layers is None else layers))
    if strange := [layer for layer in chosen if layer not in names or layer is module]:
        raise ValueError(f"{type(strange[0]).__name__} is no layer inside the module: name submodules of it")
    users: dict[nn.Parameter, list[nn.Module]] = {}
    for layer in chosen:
        for p in layer.parameters():
            users.setdefault(p, []).append(layer)
    inside = {child for layer in chosen for child in layer.modules()}
    for child in names:
        if child not in inside:
            for p in child.parameters(recurse=False):
                users.setdefault(p, []).append(module)
    units: dict[nn.Module, list[Unit]] = {module: [], **{layer: [] for layer in chosen}}
    for owner, own in units.items():
        for trained in (True, False):
            part = {
                name: p
                for name, p in module.named_parameters()
                if p.requires_grad == trained and (users[p][0] if len(users[p]) == 1 else module) is owner
            }
            if part:
                own.append(Unit(names[owner], part, rank, ranks))
    return {owner: own for owner, own in units.items() if own}


def find_layers(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost lists of modules, in order; of the module itself, if it is one."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            found.append(child)
        else:
            found += find_layers(child)
    return found


def bytes_held(units: Iterable[Unit], optimizer: torch.optim.Optimizer, *, computing: bool, updating: bool) -> Held:
    """Bytes of all storages, each once, under the first thing that it is; a freed storage counts nothing.

    Master weights that are the weights themselves, as in FP32, therefore count as parameters. Counters of steps, one
    number for each unit, are left out.

    Args:
        computing: count what forward and backward use.
        updating: count what the optimizer uses.
    """
    parameters: list[Tensor | None] = []
    gradients: list[Tensor | None] = []
    masters: list[Tensor | None] = []
    state: list[Tensor | None] = []
    for unit in units:
        if computing:
            parameters += [unit.flat, unit.shard]
            gradients += [unit.gradient, *(p.grad for p in unit.parameters)]
        if updating and unit.master is not None:
            gradients += [unit.gradient_shard, unit.master.grad]
            masters.append(unit.master)
            own = optimizer.state.get(unit.master, {}).values()
            state += [v for v in own if isinstance(v, Tensor) and v.dim()]
    seen: set[int] = set()
    return Held(*(_bytes(tensors, seen) for tensors in (parameters, gradients, masters, state)))


def _bytes(tensors: Iterable[Tensor | None], seen: set[int]) -> int:
    """Of the storages behind these tensors that were not seen before."""
    total = 0
    for tensor in tensors:
        if tensor is not None and tensor.untyped_storage()._cdata not in seen:
            seen.add(tensor.untyped_storage()._cdata)
            total += tensor.untyped_storage().nbytes()
    return total
