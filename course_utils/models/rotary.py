"""Rotary positions: queries and keys are turned by an angle that grows with their place in the text.

A head's numbers are taken in pairs, number i with number i + d/2. At position p a pair is turned by ``p f_i``; the
frequencies ``f_i = theta^(-2i/d)`` run from 1 turn in 6 tokens down to one in millions. A product of a query and a key
that are turned so depends on how far apart they stand, and not on where.

A model that is to read longer texts than it was trained on slows its low frequencies down, so that a long distance
looks like one that it knows. The ways to do so differ in which frequencies they slow down, and how much.

Sources: Su et al. 2021, arXiv:2104.09864 (rotary positions); Chen et al. 2023, arXiv:2306.15595 (``linear``); Peng et
al. 2023, arXiv:2309.00071 (``yarn``, which Qwen uses); Llama Team 2024, arXiv:2407.21783 (``llama3``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["none", "linear", "llama3", "yarn"]
SCALINGS: tuple[Scaling, ...] = ("none", "linear", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Which frequencies a model turns its queries and keys by.

    Args:
        theta: the base: the slowest pair takes about ``2 pi theta`` tokens for one turn.
        scaling: how the frequencies are slowed down for long texts.
        factor: by how much, at most.
        trained_length: tokens of a text before the scaling; ``"llama3"`` and ``"yarn"`` need it.
        slow, fast: turns within ``trained_length`` below which a pair is slowed down whole, and above which it is left
            alone; between them the two are mixed. Llama 3.1 has 1 and 4, YaRN 1 and 32.
        attention_factor: YaRN's factor for cosines and sines; by default ``0.1 ln(factor) + 1``.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    theta: float = 10_000.0
    scaling: Scaling = "none"
    factor: float = 1.0
    trained_length: int = 0
    slow: float = 1.0
    fast: float = 4.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling {self.scaling!r} is unknown: choose {', '.join(SCALINGS)}")
        if not self.theta > 1:
            raise ValueError(f"theta {self.theta!r} must be above 1: choose 10000 (Llama 2) or 500000 (Llama 3)")
        if not self.factor >= 1:
            raise ValueError(f"factor {self.factor!r} would speed the positions up: choose 1 or more")
        if self.scaling in ("llama3", "yarn") and self.trained_length < 1:
            raise ValueError(f"scaling {self.scaling!r} needs trained_length, the tokens that the model was trained on")
        if not 0 < self.slow <= self.fast:
            raise ValueError(f"slow {self.slow!r} and fast {self.fast!r} are turns: choose 0 < slow <= fast")

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by: 1 but for YaRN."""
        if self.scaling != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor

    def frequencies(self, head_width: int, device: torch.device | str | None = None) -> Tensor:
        """``[d/2]`` in FP32, in radians a token: from the fastest pair to the slowest."""
        pairs = torch.arange(0, head_width, 2, device=device, dtype=torch.float32)
        plain = 1.0 / (self.theta ** (pairs / head_width))
        match self.scaling:
            case "none":
                return plain
            case "linear":
                return plain / self.factor
            case "llama3":
                turns = self.trained_length * plain / (2 * math.pi)  # within the trained length
                left_alone = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
            case "yarn":
                first, last = self._pair_of(self.fast, head_width), self._pair_of(self.slow, head_width)
                first, last = max(math.floor(first), 0), min(math.ceil(last), head_width - 1)
                left_alone = 1 - ((pairs / 2 - first) / max(last - first, 0.001)).clamp(0, 1)
        return plain * left_alone + plain / self.factor * (1 - left_alone)

    def _pair_of(self, turns: float, head_width: int) -> float:
        """The pair, not rounded, that makes so many turns within the trained length."""
        return head_width * math.log(self.trained_length / (turns * 2 * math.pi)) / (2 * math.log(self.theta))


def rotations(positions: Tensor, rope: Rope, head_width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all pairs, worked out in FP32: positions ``[..., N]`` to two tensors ``[..., N, d/2]``."""
    angles = positions[..., None].float() * rope.frequencies(head_width, positions.device)
    return (angles.cos() * rope.amplitude).to(dtype), (angles.sin() * rope.amplitude).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of ``[B, h, N, d]`` by angles ``[B or 1, 1, N, d/2]``."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
