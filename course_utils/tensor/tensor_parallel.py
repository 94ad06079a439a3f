"""Tensor parallelism: every matrix of a Transformer cut over the ranks of a group, which work on the same tokens.

The model stays as it is written. A table says which of its layers is cut how (:data:`PLANS`); :func:`tensor_parallel`
returns a copy with these layers replaced, which is trained like any other model: the same batch on all ranks,
``loss.backward()``, ``optimizer.step()``.

Sources: Shoeybi et al. 2019, arXiv:1909.08053; Korthikanti et al. 2022, arXiv:2205.05198 (sequence parallelism).
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_utils.data_parallel.replicas import make_equal
from course_utils.models.decoder import Decoder
from course_utils.models.encoder import Attention, EncoderLayer
from course_utils.models.layers import Layers
from course_utils.models.text import TextModel
from course_utils.models.vit import ViT
from course_utils.tensor.collectives_with_gradient import Group, all_gather, shard
from course_utils.tensor.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    blocks_of,
    copy_input,
    draw_own_numbers,
    generator_of,
    shards_of,
    sum_gradients,
)
from course_utils.tensor.sequence import GatheringAgainLinear, SequenceParallelLayers
from course_utils.tensor.vocabulary import VocabularyParallelEmbedding, VocabularyParallelHead

# "heads": not cut, but used on this rank's heads alone, so that its gradient is summed over the ranks.
How = Literal["column", "row", "vocabulary", "heads"]
Plan = tuple[tuple[str, How], ...]  # the end of a layer's name, and how it is cut

ENCODER: Plan = (
    ("attention.q_proj", "column"),
    ("attention.k_proj", "column"),
    ("attention.v_proj", "column"),
    ("attention.out_proj", "row"),
    ("mlp.fc1", "column"),
    ("mlp.fc2", "row"),
)
DECODER: Plan = (
    ("word_embedding", "vocabulary"),
    ("attention.q_proj", "column"),
    ("attention.k_proj", "column"),
    ("attention.v_proj", "column"),
    ("attention.q_norm", "heads"),
    ("attention.k_norm", "heads"),
    ("attention.out_proj", "row"),
    ("mlp.gate", "column"),
    ("mlp.up", "column"),
    ("mlp.down", "row"),
    ("head", "vocabulary"),
)
PLANS: dict[type[nn.Module], Plan] = {
    ViT: ENCODER,
    TextModel: (("word_embedding", "vocabulary"), *ENCODER),
    Decoder: DECODER,
    EncoderLayer: ENCODER,  # whatever else is made of them
}

Model = TypeVar("Model", bound=nn.Module)


def tensor_parallel(
    model: Model,
    group: Group = None,
    *,
    plan: Plan | None = None,
    sequence_parallel: bool = False,
    gather_again: bool = True,
) -> Model:
    """A copy of ``model`` that has ``1/t`` of each matrix of its plan, on each of the group's ``t`` ranks.

    What no row of the plan names stays whole: norms, positions, the patch embedding, the head. All ranks get their
    shards of the first rank's weights. A layer of the encoder takes four all-reduces of ``[B, N, D]`` a step: one in
    forward and one in backward, for attention and for the MLP.

    Args:
        model: the same on all ranks.
        group: the ranks that share it; by default all.
        plan: by default that of :data:`PLANS` for the model, or for what it holds. A module that holds column-parallel
            layers, such as ``attention``, is a block: its input is copied to the ranks once for all of them, and must
            be its first argument. Dropout inside a block drops different numbers on each rank only in ``Attention``.
        sequence_parallel: whether the norm regions are shared out too, by tokens; needs the model's ``Layers``.
        gather_again: whether attention and MLP throw all tokens away after forward and gather them a second time in
            backward: then all that a layer keeps is divided by ``t``, for two more all-gathers a layer.

    Raises:
        ValueError: heads or hidden units that the ranks do not divide, a plan that does not fit the model, a rank
            outside the group, random generators that differ where there is dropout.
        RuntimeError: when there is no process group.
    """
    cuts = _check(model, group, plan, sequence_parallel)
    with torch.no_grad():
        model = copy.deepcopy(model)
        make_equal(model, group)
        cut: dict[nn.Parameter, nn.Parameter] = {}  # what is tied in the whole model stays tied
        for name, how in cuts.items():
            whole: Any = model.get_submodule(name)
            if how == "heads":
                if not sequence_parallel:  # which sums all that is whole
                    sum_gradients(whole, group)
                continue
            part = _part(whole, how, group, sequence_parallel, gather_again)
            part.weight = cut.setdefault(whole.weight, part.weight)
            model.set_submodule(name, part)
        for block in blocks_of(model):
            if isinstance(block, Attention):
                draw_own_numbers(block, "dropout", group)
            if not sequence_parallel:
                copy_input(block, group)
        for name, row in _rows(model).items() if sequence_parallel else ():
            model.set_submodule(name, SequenceParallelLayers(row, group))
    return model


def _part(whole: Any, how: How, group: Group, sequence_parallel: bool, gather_again: bool) -> Any:
    """This rank's part of a layer, in the layer's place."""
    if how == "vocabulary" and isinstance(whole, nn.Linear):
        return VocabularyParallelHead(whole, group)
    if how == "vocabulary":
        return VocabularyParallelEmbedding(whole, group)
    if how == "row":
        return RowParallelLinear(whole, group, by_tokens=sequence_parallel)
    return (GatheringAgainLinear if sequence_parallel and gather_again else ColumnParallelLinear)(whole, group)


def full_state_dict(model: nn.Module, group: Group = None) -> dict[str, Tensor]:
    """The state dict of the whole model, on every rank: all ranks of the group have to call this."""
    shards = shards_of(model)
    return {
        key: all_gather(value, shards[key].length, group, shards[key].dim) if key in shards else value.clone()
        for key, value in model.state_dict().items()
    }


def shard_state_dict(model: nn.Module, whole: Mapping[str, Tensor], group: Group = None) -> dict[str, Tensor]:
    """This rank's shards of a whole state dict, for ``model.load_state_dict``: also one saved with another ``t``."""
    shards = shards_of(model)
    return {key: shard(value, group, shards[key].dim) if key in shards else value for key, value in whole.items()}


def _rows(model: nn.Module) -> dict[str, Layers]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Layers) and name}


def _check(model: nn.Module, group: Group, plan: Plan | None, sequence_parallel: bool) -> dict[str, How]:
    """Which layers are cut how, by name. Says what is wrong before anything is sent."""
    if not dist.is_initialized():
        raise RuntimeError(
            "tensor_parallel needs several processes: call it in a function that launch(fn, 4) or torchrun runs"
        )
    ranks = dist.get_world_size(group)
    if ranks < 1:
        raise ValueError(f"rank {dist.get_rank()} is not in the group: give each rank a group that it belongs to")
    cuts = _layers_to_cut(model, plan)
    for name, how in cuts.items():
        layer = model.get_submodule(name)
        kinds = {"vocabulary": (nn.Embedding, nn.Linear), "heads": (type(layer),)}.get(how, (nn.Linear,))
        if type(layer) not in kinds:
            raise ValueError(
                f"{name} is a {type(layer).__name__} where the plan wants a {kinds[0].__name__}: give a model that is "
                "still whole, or a plan that fits it"
            )
        if isinstance(layer, nn.Linear) and how in ("column", "row"):
            _check_divides(model, name, layer.out_features if how == "column" else layer.in_features, ranks)
            if sequence_parallel and not name.startswith(tuple(f"{row}." for row in _rows(model))):
                raise ValueError(f"sequence_parallel shares out the tokens of `Layers`, and {name} stands in none")
    _check_random(model, group)
    return cuts


def _layers_to_cut(model: nn.Module, plan: Plan | None) -> dict[str, How]:
    known = [plan for module in model.modules() for kind, plan in PLANS.items() if isinstance(module, kind)]
    if plan is None and not known:
        raise ValueError(
            f"no plan says how a {type(model).__name__} is cut: pass plan=, with rows such as "
            '("mlp.fc1", "column"), ("mlp.fc2", "row")'
        )
    cuts: dict[str, How] = {}
    for end, how in plan or known[0]:
        names = [name for name, _ in model.named_modules() if f".{name}".endswith(f".{end}")]
        if not names:
            raise ValueError(f"the plan cuts {end!r}, and {type(model).__name__} has no module of that name")
        cuts |= dict.fromkeys(names, how)
    return cuts


def _check_divides(model: nn.Module, name: str, columns: int, ranks: int) -> None:
    """Columns of a block with heads are cut by heads."""
    block = name.rpartition(".")[0]
    head_width = getattr(model.get_submodule(block), "head_width", None)
    count, what = (columns, "hidden units") if head_width is None else (columns // head_width, "attention heads")
    if count % ranks:
        near = ", ".join(str(n) for n in range(1, min(count, 64) + 1) if count % n == 0)
        raise ValueError(f"{count} {what} cannot be shared by {ranks} ranks ({block}): make a group of {near} ranks")


def _check_random(model: nn.Module, group: Group) -> None:
    """Dropout on what is whole must drop the same on all ranks, and nothing later would notice if it did not."""
    probabilities = [getattr(module, name, 0) for module in model.modules() for name in ("p", "dropout")]
    if not any(isinstance(p, float) and p > 0 for p in probabilities):
        return
    # Dropout draws from the generator of the model's device; the seeds of draw_own_numbers from the CPU's.
    devices = (torch.device("cpu"), next(model.parameters()).device)
    mine = [zlib.crc32(generator_of(device).get_state().numpy().tobytes()) for device in devices]
    states: list[list[int]] = [[]] * dist.get_world_size(group)
    dist.all_gather_object(states, mine, group=group)  # over the device that the group's backend can reach
    if different := [rank for rank, state in enumerate(states) if state != states[0]]:
        raise ValueError(
            f"rank {different[0]} of the group draws other random numbers than rank 0, and this model has dropout: on "
            "what is whole all ranks must drop the same. Call torch.manual_seed with the same seed on all of them"
        )
