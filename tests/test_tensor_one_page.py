"""Tensor and sequence parallelism on one page do what the room's layers do: values, gradients and bytes of a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models import Encoder, EncoderConfig
from course_utils.tensor import one_page
from course_utils.tensor import tensor_parallel as parallel

TOKENS, WIDTH, HEADS = 8, 24, 4


def encoder(depth: int) -> nn.Sequential:
    """Layers in which biases and norms tell, too."""
    torch.manual_seed(0)
    model = nn.Sequential(Encoder(EncoderConfig(width=WIDTH, depth=depth, heads=HEADS, mlp_ratio=2.0)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def heads_apart(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of the heads in these columns: ``[N, D/t]`` each to ``[N, D/t]``."""
    q, k, v = (x.unflatten(1, (-1, WIDTH // HEADS)).transpose(0, 1) for x in (q, k, v))  # [h/t, N, d]
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


class LayerOfThePage(nn.Module):
    """An encoder layer made of the page's blocks, with the parameters and names that the package gives it."""

    def __init__(self, layer: Any, sequence: bool) -> None:
        super().__init__()
        self.block = one_page.sequence_parallel if sequence else one_page.tensor_parallel
        self.sequence, self.norm1, self.norm2 = sequence, layer.norm1, layer.norm2
        self.attention, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj"):
            self.attention.add_module(name, one_page.by_columns(getattr(layer.attention, name)))
        self.attention.add_module("out_proj", one_page.by_rows(layer.attention.out_proj))
        self.mlp.add_module("fc1", one_page.by_columns(layer.mlp.fc1))
        self.mlp.add_module("fc2", one_page.by_rows(layer.mlp.fc2))

    def norm(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        weight, bias = norm.weight, norm.bias
        if self.sequence:  # each rank sees its own tokens
            weight, bias = (one_page.Collective.apply(p, one_page.nothing, one_page.all_reduce) for p in (weight, bias))
        return F.layer_norm(x, (WIDTH,), weight, bias, norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, out = self.attention.children()
        x = x + self.block(self.norm(self.norm1, x), [q, k, v], heads_apart, out)  # type: ignore[arg-type, list-item]
        fc1, fc2 = self.mlp.children()
        return x + self.block(self.norm(self.norm2, x), [fc1], F.gelu, fc2)  # type: ignore[arg-type, list-item]


def compare(sequence: bool) -> tuple[dict[str, float], tuple[float, float]]:
    """The largest differences, and the bytes that a layer sends: by the page, and by the package."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    x, weights = torch.randn(2, TOKENS, WIDTH)
    page = LayerOfThePage(encoder(1)[0].layers[0], sequence)  # type: ignore[index]
    mine = (x.chunk(ranks)[rank] if sequence else x).clone().requires_grad_()
    with Ledger() as ledger:
        out = page(mine)
        (out * (weights.chunk(ranks)[rank] if sequence else weights)).sum().backward()
    sent, hardened = [], {}
    for depth in (1, 2):  # the difference is a layer, without what the encoder sends at its ends
        model, whole = parallel(encoder(depth), sequence_parallel=sequence, gather_again=False), x[None].clone()
        with Ledger() as other:
            result = model(whole.requires_grad_())
            (result[0] * weights).sum().backward()
        sent.append(other.wire_bytes())
        hardened.setdefault("out", result[0].detach())
        hardened.setdefault("x", whole.grad[0])  # type: ignore[index]
        if depth == 1:
            hardened |= {name.removeprefix("0.layers.0."): p.grad for name, p in model.named_parameters()}
    if sequence:
        hardened |= {name: hardened[name].chunk(ranks)[rank] for name in ("out", "x")}
    seen = {"out": out, "x": mine.grad} | {name: p.grad for name, p in page.named_parameters()}
    assert seen.keys() == hardened.keys()
    return {k: (seen[k] - hardened[k]).abs().max().item() for k in seen}, (ledger.wire_bytes(), sent[1] - sent[0])


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_equal_to_the_hardened_layers(ranks: int, sequence: bool) -> None:
    for differences, (page, package) in launch(compare, ranks, sequence):
        assert len(differences) == 2 + 16
        assert max(differences.values()) < 1e-12, differences
        assert page == package > 0
