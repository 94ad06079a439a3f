"""Tensor parallelism: every matrix of the encoder cut over the ranks of a group, which work on the same tokens.

The model stays as it is written; :func:`tensor_parallel` returns one whose attention, MLP and token embedding are
parallel, and which is trained like any other: the same batch on all ranks, ``loss.backward()``, ``optimizer.step()``.

Sources: Shoeybi et al. 2019, arXiv:1909.08053; Korthikanti et al. 2022, arXiv:2205.05198 (sequence parallelism).
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.models.encoder import MLP, Attention, Encoder, EncoderLayer
from course_utils.models.text import TextModel
from course_utils.tensor.collectives_with_gradient import Group, gather, join_parts, part, take_part
from course_utils.tensor.layers import Cut, OwnDropout, ParallelAttention, ParallelMLP
from course_utils.tensor.sequence import CopyTogether, Sequence
from course_utils.tensor.vocabulary import VocabularyParallelEmbedding

Model = TypeVar("Model", bound=nn.Module)


def tensor_parallel(
    model: Model, group: Group = None, *, sequence_parallel: bool = False, gather_again: bool = True
) -> Model:
    """A copy of ``model`` that has ``1/t`` of each matrix of its encoder, on each of the group's ``t`` ranks.

    Attention is cut by heads, the MLP by hidden units, the token embedding by words. Norms, positions, the patch
    embedding and the head stay whole. All ranks get their part of the first rank's weights. Four all-reduces of
    ``[B, N, D]`` a layer and step: one in forward and one in backward, for attention and for the MLP.

    Args:
        model: ViT, TextModel, or any module with the course's ``EncoderLayer`` in it, the same on all ranks.
        group: the ranks that share it; by default all.
        sequence_parallel: whether the norm regions are shared out too, by tokens; needs the whole ``Encoder``.
        gather_again: see :class:`course_utils.tensor.sequence.Sequence`.

    Raises:
        ValueError: heads or hidden units that the ranks do not divide, a model without a layer to cut, a rank outside
            the group, random generators that differ where there is dropout.
        RuntimeError: when there is no process group.
    """
    _check(model, group)
    with torch.no_grad():
        model = copy.deepcopy(model)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, group=group, group_src=0)
        sequence = Sequence(group, gather_again) if sequence_parallel else None
        _replace(model, Attention, lambda whole: ParallelAttention(whole, group, sequence))
        _replace(model, MLP, lambda whole: ParallelMLP(whole, group, sequence))
        for text in [module for module in model.modules() if isinstance(module, TextModel)]:
            text.word_embedding = VocabularyParallelEmbedding(text.word_embedding, group)
        if sequence is not None:
            _replace(model, Encoder, lambda whole: SequenceParallelEncoder(whole, sequence))
    return model


class SequenceParallelEncoder(Encoder):
    """An encoder whose layers see only this rank's tokens; attention and MLP gather them. Tokens go in and come out
    whole, padded in between to a number that the ranks divide."""

    def __init__(self, whole: Encoder, sequence: Sequence) -> None:
        nn.Module.__init__(self)
        self.layers, self.sequence = whole.layers, sequence
        for layer in self.layers:
            layer.dropout = OwnDropout(layer.dropout.p, sequence.group)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        length = x.shape[1]
        x = self._enter(x)  # [B, N, D] -> [B, N/t, D]
        for layer in self.layers:
            x = functional_call(layer, self._copied(layer), (x, attention_mask))
        return join_parts(x, length, self.sequence.group)

    def _enter(self, x: Tensor) -> Tensor:
        self.sequence.length = x.shape[1]
        return take_part(x, self.sequence.group)

    def _copied(self, layer: nn.Module) -> dict[str, Tensor]:
        """The layer's norms and row-parallel biases, with gradients that are summed over the ranks."""
        cuts = cuts_of(layer)
        whole = {name: p for name, p in layer.named_parameters() if name not in cuts and p.requires_grad}
        return dict(zip(whole, CopyTogether.apply(self.sequence.group, *whole.values()), strict=True)) if whole else {}


def cuts_of(model: nn.Module) -> dict[str, Cut]:
    """The parameters of which this rank has a part: name -> how it is cut. All others are whole."""
    return {
        f"{prefix}.{name}".removeprefix("."): cut
        for prefix, module in model.named_modules()
        for name, cut in getattr(module, "cuts", {}).items()
        if getattr(module, name) is not None
    }


def full_state_dict(model: nn.Module, group: Group = None) -> dict[str, Tensor]:
    """The state dict of the whole model, on every rank: all ranks of the group have to call this."""
    cuts = cuts_of(model)
    return {
        key: gather(value, cuts[key].length, group, cuts[key].dim) if key in cuts else value.clone()
        for key, value in model.state_dict().items()
    }


def cut_state_dict(model: nn.Module, whole: Mapping[str, Tensor], group: Group = None) -> dict[str, Tensor]:
    """This rank's parts of a whole state dict, for ``model.load_state_dict``: also one saved with another ``t``."""
    cuts = cuts_of(model)
    return {key: part(value, group, cuts[key].dim) if key in cuts else value for key, value in whole.items()}


def _replace(model: nn.Module, kind: type[Any], make: Callable[[Any], nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is kind:
                setattr(module, name, make(child))


def _check(model: nn.Module, group: Group) -> None:
    """Say what is wrong before anything is sent."""
    if not dist.is_initialized():
        raise RuntimeError(
            "tensor_parallel needs several processes: call it in a function that launch(fn, 4) or torchrun runs"
        )
    ranks = dist.get_world_size(group)
    if ranks < 1:
        raise ValueError(f"rank {dist.get_rank()} is not in the group: give each rank a group that it belongs to")
    layers = [module for module in model.modules() if isinstance(module, EncoderLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no EncoderLayer, so there is nothing to cut: give a ViT or TextModel"
        )
    for layer in layers:
        if type(layer.attention) is not Attention or type(layer.mlp) is not MLP:
            kinds = f"{type(layer.attention).__name__} and {type(layer.mlp).__name__}"
            raise ValueError(
                f"a layer has {kinds} where Attention and MLP are wanted: give a model that is still whole"
            )
        heads = layer.attention.q_proj.out_features // layer.attention.head_width
        _divides(heads, "attention heads", ranks)
        _divides(layer.mlp.fc1.out_features, "hidden units of the MLP", ranks)
    _check_random(model, group)


def _divides(count: int, what: str, ranks: int) -> None:
    if count % ranks:
        near = ", ".join(str(n) for n in range(1, min(count, 64) + 1) if count % n == 0)
        raise ValueError(f"{count} {what} cannot be shared by {ranks} ranks: make a group of {near} ranks")


def _check_random(model: nn.Module, group: Group) -> None:
    """Dropout on what is whole must drop the same on all ranks, and nothing later would notice if it did not."""
    shares = [getattr(module, name, 0) for module in model.modules() for name in ("p", "dropout", "share")]
    if not any(isinstance(share, float) and share > 0 for share in shares):
        return
    states = [torch.empty(1, dtype=torch.long) for _ in range(dist.get_world_size(group))]
    dist.all_gather(states, torch.tensor([zlib.crc32(torch.get_rng_state().numpy().tobytes())]), group=group)
    if different := [rank for rank, state in enumerate(states) if state != states[0]]:
        raise ValueError(
            f"rank {different[0]} of the group draws other random numbers than rank 0, and this model has dropout: on "
            "what is whole all ranks must drop the same. Call torch.manual_seed with the same seed on all of them"
        )
