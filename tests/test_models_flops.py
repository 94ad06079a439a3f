"""Formula and measurement: what plan.flops predicts is what torch counts in a forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from course_utils.models import ViT, ViTConfig
from course_utils.plan.flops import FLOPS_PER_MAC, vit_macs, vit_parameters

ODD = ViTConfig(
    image_size=(12, 20), patch_size=(4, 2), channels=2, width=24, depth=3, heads=4, mlp_ratio=1.5, num_classes=7,
    registers=3, mask_token=True,
)  # fmt: skip
CONFIGS = {
    "base16": ViTConfig.preset("base16"),
    "base16 at 384": ViTConfig.preset("base16", image_size=384),
    "odd": ODD,
    "odd, mean": replace(ODD, pool="mean", class_token=False, num_classes=0, qkv_bias=False),
    "odd, no class position": replace(ODD, class_position=False, attention="written_out"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_formula_equals_count(config: ViTConfig) -> None:
    with torch.device("meta"):
        model = ViT(config)
        size = config.image_size if isinstance(config.image_size, tuple) else (config.image_size, config.image_size)
        images = torch.empty(2, config.channels, *size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() == 2 * FLOPS_PER_MAC * sum(vit_macs(config).values())
    assert sum(vit_parameters(config).values()) == sum(p.numel() for p in model.parameters())


def test_published_figures() -> None:
    at_224 = vit_macs(ViTConfig.preset("base16"))
    at_384 = vit_macs(ViTConfig.preset("base16", image_size=384))
    assert round(sum(at_224.values()) / 1e9, 3) == 17.564
    assert round(sum(at_384.values()) / 1e9, 3) == 55.484
    assert {part: round(macs / 1e9, 3) for part, macs in at_224.items()} == {
        "patch": 0.116, "qkv": 4.183, "scores": 0.715, "out": 1.394, "mlp": 11.155, "head": 0.001,
    }  # fmt: skip
    assert at_384["scores"] / sum(at_384.values()) == pytest.approx(0.111, abs=0.0005)
    assert sum(vit_parameters(ViTConfig.preset("base16")).values()) == 86_567_656
