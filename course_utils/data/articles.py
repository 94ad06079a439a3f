"""Drawn articles of clothing: a thousand kinds that nobody ever made, and as many images of each as one likes.

A kind is one of 40 outlines, each symmetric about a vertical axis, times one of 25 fabrics (stripes, checks, rings, or
plain). Each image differs in place, tilt, size, proportions, contrast and light. The embedded ViT was trained on them
(``tools/make_vit.py``), so that every set of photographs is new to it. That drawn images can stand in for photographs
is the finding of Kataoka et al. 2020, arXiv:2101.08515, and for outlines of Kataoka et al. 2022, arXiv:2206.09132.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

OUTLINES, FABRICS, SIDE, WAVES = 40, 25, 28, 7


class Articles:
    """The thousand kinds.

    An outline is a distance from the centre for each direction: a sum of cosines, hence symmetric. A fabric is a
    brightness for each point of the plane.
    """

    def __init__(self, seed: int = 5) -> None:
        g = torch.Generator().manual_seed(seed)
        self.waves = torch.randn(OUTLINES, WAVES, generator=g) / torch.arange(1, WAVES + 1) ** 0.7 * 0.32
        self.radius = 0.5 + 0.15 * torch.rand(OUTLINES, generator=g)
        self.proportion = torch.exp(0.35 * torch.randn(OUTLINES, generator=g)).clamp(0.5, 2.0)
        turns = [math.radians(angle) for angle in (0, 45, 90, 135)]
        stripes = [(0, f, a) for f in (2.0, 3.0, 4.5, 6.5) for a in turns]  # kind, waves across the image, direction
        checks, rings = ([(kind, f, a) for f in (2.0, 3.0, 4.5, 6.5)] for kind, a in ((1, 0.3), (2, 0.0)))
        self.fabrics = torch.tensor([*stripes, *checks, *rings, (3, 1.0, 0.0)])  # [25, 3]; the last is plain

    def draw(self, outline: Tensor, fabric: Tensor, generator: torch.Generator) -> Tensor:
        """Outlines and fabrics, int64 [B] each, to images [B, 1, 28, 28] of 0 to 1."""

        def some(low: float, high: float) -> Tensor:  # [B, 1, 1]
            return torch.rand(len(outline), 1, 1, generator=generator) * (high - low) + low

        axis = (torch.arange(SIDE) + 0.5) / (SIDE / 2) - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")  # [28, 28]
        y, x = y + some(-0.15, 0.15), x + some(-0.15, 0.15)  # [B, 28, 28]
        tilt, scale = some(-0.2, 0.2), some(0.85, 1.2)
        stretch = (self.proportion[outline][:, None, None] * torch.exp(some(-0.12, 0.12))).sqrt()
        across = (x * tilt.cos() - y * tilt.sin()) * scale * stretch
        down = (x * tilt.sin() + y * tilt.cos()) * scale / stretch

        waves = self.waves[outline] * (0.8 + 0.4 * torch.rand(len(outline), WAVES, generator=generator))  # [B, 7]
        angle = torch.atan2(across, -down)  # 0 at the top
        ripple = torch.zeros_like(angle)
        for k in range(1, WAVES + 1):
            ripple = ripple + waves[:, k - 1, None, None] * torch.cos(k * angle)
        edge = self.radius[outline][:, None, None] * torch.exp(ripple)
        edge = edge / (1 + 0.2 * edge)
        inside = torch.sigmoid(14 * (edge - torch.hypot(across, down)))

        light = some(0.4, 0.8) + some(-0.2, 0.2) * x + some(-0.2, 0.2) * y
        cloth = light + some(0.1, 0.28) * self._weave(x, y, fabric, some)
        noise = 0.04 * torch.randn(inside.shape, generator=generator)
        return (inside * cloth + (1 - inside) * some(0, 0.15) + noise).clamp(0, 1)[:, None]

    def _weave(self, x: Tensor, y: Tensor, fabric: Tensor, some: Callable[[float, float], Tensor]) -> Tensor:
        kind, pitch, angle = (column[:, None, None] for column in self.fabrics[fabric].unbind(1))
        pitch, angle = math.pi * pitch * (1 + some(-0.1, 0.1)), angle + some(-0.15, 0.15)
        first = torch.sin(pitch * (x * angle.cos() + y * angle.sin()) + some(0, 2 * math.pi))
        second = torch.sin(pitch * (y * angle.cos() - x * angle.sin()) + some(0, 2 * math.pi))
        rings = torch.sin(pitch * torch.hypot(x, y) + some(0, 2 * math.pi))
        return first * (kind == 0) + first * second * (kind == 1) + rings * (kind == 2)
