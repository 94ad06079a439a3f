"""NF4: its published levels, the nearest of them for every number, and a layer that keeps no unpacked weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.measure import Ledger
from course_utils.precision.nf4 import BLOCK, NF4Linear, nf4_levels, pack_nf4, unpack_nf4

# As the paper prints them (appendix E).
PUBLISHED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
             -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
             0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
             0.7229568362236023, 1.0]  # fmt: skip


def test_the_levels_are_the_published_ones() -> None:
    torch.testing.assert_close(nf4_levels(), torch.tensor(PUBLISHED), rtol=0, atol=1e-6)


def test_every_number_becomes_the_nearest_level_of_its_block() -> None:
    values = torch.randn(7, 3 * BLOCK, generator=torch.Generator().manual_seed(0))
    values[0, :BLOCK] = 0
    codes, scales = pack_nf4(values)
    assert (codes.dtype, codes.numel(), scales.numel()) == (torch.uint8, values.numel() // 2, 7 * 3)
    blocks = values.view(-1, BLOCK)
    assert torch.equal(scales.flatten(), blocks.abs().amax(1))
    choices = scales[:, :, None] * torch.tensor(PUBLISHED)  # [blocks, 1, 16]
    nearest = (blocks[:, :, None] - choices).abs().amin(-1)
    found = unpack_nf4(codes, scales).view_as(blocks)
    torch.testing.assert_close((found - blocks).abs(), nearest, rtol=1e-4, atol=1e-6)
    assert torch.equal(unpack_nf4(*pack_nf4(found)), found.flatten())  # what is on a level stays there


def test_other_numbers_of_values_are_told() -> None:
    with pytest.raises(ValueError, match=f"{BLOCK}, .* 65 values"):
        pack_nf4(torch.zeros(65))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_as_linear_with_the_rounded_weight_and_keeps_nothing(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32, bias=bias).requires_grad_(False)
    layer = NF4Linear(linear)
    rounded = unpack_nf4(*pack_nf4(linear.weight)).view(32, 64)
    assert 0.05 < (rounded - linear.weight).norm() / linear.weight.norm() < 0.15
    held = sum(buffer.nbytes for buffer in layer.buffers())
    assert held == 64 * 32 * (4 + 32 / BLOCK) / 8
    assert [name for name, _ in layer.named_parameters()] == ["bias"] * bias
    x = torch.randn(3, 5, 64, requires_grad=True)
    with Ledger(layer) as ledger:
        y = layer(x)
    assert ledger.saved_peak == 0
    wanted = F.linear(x, rounded, linear.bias)
    torch.testing.assert_close(y, wanted)
    slope = torch.randn_like(y)
    got, expected = (torch.autograd.grad((out * slope).sum(), x) for out in (y, wanted))
    torch.testing.assert_close(got, expected)
    copied = NF4Linear(nn.Linear(64, 32, bias=bias))
    copied.load_state_dict(layer.state_dict())
    assert torch.equal(copied(x), y)
    with torch.autocast("cpu"):
        assert layer(x).dtype == linear(x).dtype == torch.bfloat16
        torch.autograd.grad(layer(x).float().sum(), x)
