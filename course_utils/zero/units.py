"""A layer's parameters as one flat vector that can be cut into equal shards, given away, and brought back.

``N`` ranks, ``P`` numbers in a unit, padded with zeros so that ``N`` divides them. Rank ``r`` owns the ``r``-th of N
equal parts, wherever that cuts through a matrix: nobody has to look at shapes to share the work evenly.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054; Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277 (flat units).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor, nn

# torch 2.14 renamed both; the old names warn there.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Unit:
    """Parameters that are sent, gathered and released together: the trained or the frozen ones of a layer.

    Attributes:
        name: of the layer; ``""`` for what belongs to no layer.
        shapes: parameter's name -> its shape, in the order in which they lie in the vector.
        flat: ``[padded]``, of which the parameters are views. Its storage is empty while the unit is released.
        shard: ``[padded / N]``, this rank's own part of the weights: a view of ``flat``, until :meth:`give_away`.
        gradient: ``[padded]``, this rank's gradients; None while there are none.
        gradient_shard: ``[padded / N]``, where a stage keeps no more than that.
        master: the FP32 weights that this rank's optimizer updates; None for frozen units.
        gathering, reducing: the collectives under way, of weights and of gradients.
    """

    def __init__(self, name: str, parameters: Mapping[str, nn.Parameter], rank: int, ranks: int) -> None:
        self.name = name
        self.parameters = list(parameters.values())
        self.shapes = {key: p.shape for key, p in parameters.items()}
        self.trained = self.parameters[0].requires_grad
        self.size = sum(p.numel() for p in self.parameters)
        self.part = -(-self.size // ranks)  # rounded up
        self.mine = slice(rank * self.part, (rank + 1) * self.part)
        ends = accumulate(p.numel() for p in self.parameters)
        self._places = {p: slice(end - p.numel(), end) for p, end in zip(self.parameters, ends, strict=True)}
        flat = torch.zeros(self.part * ranks, device=self.parameters[0].device)
        for p, view in zip(self.parameters, self.views(flat), strict=True):
            view.copy_(p.detach())
        self.become(flat)
        self.gradient: Tensor | None = None
        self.gradient_shard: Tensor | None = None
        self.master: nn.Parameter | None = None
        self.waiting: set[Tensor] = set(self.parameters)  # for a gradient in this backward
        self._gaps: set[nn.Parameter] = set()
        self.gathering: dist.Work | None = None
        self.reducing: dist.Work | None = None

    def become(self, flat: Tensor) -> None:
        """Let the parameters be views of another vector. They stay the same objects: no module, tie or hook notices."""
        self.flat, self.shard = flat, flat[self.mine]
        self._bytes = flat.nbytes
        self._show()

    def _show(self) -> None:
        for p, view in zip(self.parameters, self.views(self.flat), strict=True):
            p.data = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parts of a flat vector, in the parameters' shapes."""
        return [
            flat[place].view(shape) for place, shape in zip(self._places.values(), self.shapes.values(), strict=True)
        ]

    def put(self, parameter: nn.Parameter, share: float) -> None:
        """Add a gradient, times ``share``, to the flat one, and let go of it."""
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
        """Where no gradient has come, and in the padding, there is zero."""
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.flat)
            return
        for parameter in self._gaps:
            self.gradient[self._places[parameter]].zero_()
        self.gradient[self.size :].zero_()

    def gather(self, group: dist.ProcessGroup | None) -> None:
        """Start to fill the whole vector from everybody's shards."""
        self.gathering = all_gather(self.flat, self.shard, group=group, async_op=True)

    def wait(self) -> None:
        """Until the weights are complete."""
        if self.gathering is not None:
            self.gathering.wait()
            self.gathering = None

    # What stage 3 adds: weights that come and go ----------------------------------------------------------------------

    @property
    def is_here(self) -> bool:
        """Whether the whole vector has memory: gathered, or about to be."""
        return self.flat.untyped_storage().nbytes() > 0

    def give_away(self) -> None:
        """Keep a copy of the own shard, and release the rest."""
        self.shard = self.shard.clone()
        self.release()

    def take_back(self, group: dist.ProcessGroup | None) -> None:
        """Make room, and start to gather."""
        self.flat.untyped_storage().resize_(self._bytes)
        self.gather(group)

    def show(self) -> None:
        """When the weights are complete: the parameters are views of them again."""
        self.wait()
        self._show()

    def release(self) -> None:
        """Free the memory of the vector. What autograd saved of it stays valid: it refers to the same storage.

        The parameters become empty, for a view of freed memory would crash the process that reads it.
        """
        self.wait()
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
