"""A GPT-like decoder on paper: its parameters, the FLOPs of a training step, and the share of the peak it reaches.

``s`` tokens a sequence, ``B`` sequences a step, ``l`` layers, ``h`` width, ``V`` vocabulary. Matrix products only, two
FLOPs to a multiply-accumulate. Scores are counted for all pairs of tokens, as the papers do, also where a kernel skips
the half that a causal mask hides.

Sources: Narayanan et al. 2021, arXiv:2104.04473, appendix (FLOPs with full recomputation); Korthikanti et al. 2022,
arXiv:2205.05198, appendix A (without); Kaplan et al. 2020, arXiv:2001.08361 (6 N per token); Chowdhery et al. 2022,
arXiv:2204.02311, appendix B (model FLOPs utilisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from course_utils.plan.flops import FLOPS_PER_MAC, layer_macs, linear_macs

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The sizes of a GPT-like model: pre-norm layers with biases, an MLP of four times the width.

    Args:
        vocab: rows of the token table as trained, so with the rows that pad it.
        length: tokens of a sequence, ``s``; with ``positions="learned"`` also the rows of the position table.
        positions: ``"learned"`` (GPT) or ``"alibi"`` (BLOOM), which has no parameters.
        embedding_norm: whether a LayerNorm follows the embedding (BLOOM).
        tied: whether the head shares the token table.

    Raises:
        ValueError: for a width that does not divide into the heads, or a size below 1.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocab: int
    length: int
    positions: Literal["learned", "alibi"] = "learned"
    embedding_norm: bool = False
    tied: bool = True

    def __post_init__(self) -> None:
        for field in ("layers", "width", "heads", "vocab", "length"):
            if (value := getattr(self, field)) < 1:
                raise ValueError(f"{field} {value!r} of {self.name} is no count: choose a whole number of at least 1")
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} of {self.name} cannot be split over {self.heads} heads: choose a multiple"
            )

    @property
    def layer_parameters(self) -> int:
        """12 h^2 + 13 h: attention 4 h^2 + 4 h, MLP 8 h^2 + 5 h, two norms 4 h."""
        return 12 * self.width**2 + 13 * self.width

    @property
    def embedding_parameters(self) -> int:
        """Token table, position table, norm behind them: what the first pipeline stage holds besides layers."""
        rows = self.vocab + (self.length if self.positions == "learned" else 0)
        return (rows + 2 * self.embedding_norm) * self.width

    @property
    def head_parameters(self) -> int:
        """The last norm, and the head if it has a table of its own."""
        return (2 + (0 if self.tied else self.vocab)) * self.width

    @property
    def parameters(self) -> int:
        """``N``, all of them; BLOOM-176B has 176,247,271,424."""
        return self.layers * self.layer_parameters + self.embedding_parameters + self.head_parameters


GPT2_SMALL = Decoder(name="GPT-2 small", layers=12, width=768, heads=12, vocab=50257, length=1024)
GPT2_XL = Decoder(name="GPT-2 XL", layers=48, width=1600, heads=25, vocab=50257, length=1024)
GPT3_6B = Decoder(name="GPT-3 6.7B", layers=32, width=4096, heads=32, vocab=50257, length=2048)
GPT3 = Decoder(name="GPT-3", layers=96, width=12288, heads=96, vocab=51200, length=2048)
BLOOM = Decoder(
    name="BLOOM", layers=70, width=14336, heads=112, vocab=250880, length=2048, positions="alibi", embedding_norm=True
)
MT_NLG = Decoder(name="MT-NLG", layers=105, width=20480, heads=128, vocab=51200, length=2048)
DECODERS = (GPT2_SMALL, GPT2_XL, GPT3_6B, GPT3, BLOOM, MT_NLG)


def forward_flops(model: Decoder, sequences: int = 1, length: int | None = None) -> dict[str, int]:
    """FLOPs of a forward pass, by part: qkv, scores, out, mlp (all layers together) and head.

    Their sum is B (l (24 s h^2 + 4 s^2 h) + 2 s h V).
    """
    s = length or model.length
    layer = layer_macs(s, model.width, 4 * model.width)
    parts = {part: sequences * model.layers * FLOPS_PER_MAC * macs for part, macs in layer.items()}
    return parts | {"head": sequences * FLOPS_PER_MAC * linear_macs(s, model.width, model.vocab)}


def step_flops(model: Decoder, sequences: int, recompute: Recompute = "none", length: int | None = None) -> int:
    """FLOPs of a training step: forward, backward at twice that, and what is computed a second time.

    ``"none"``: 72 B s l h^2 (1 + s/6h + V/12lh), the *model* FLOPs, which utilisation is measured by.
    ``"selective"``: the scores again, 4 B l s^2 h more.
    ``"full"``: all layers again, but not the head: 96 B s l h^2 (1 + s/6h + V/16lh).
    """
    parts = forward_flops(model, sequences, length)
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute {recompute!r} is unknown: choose {' or '.join(RECOMPUTE)}")
    again = {"none": 0, "selective": parts["scores"], "full": sum(parts.values()) - parts["head"]}
    return 3 * sum(parts.values()) + again[recompute]


def six_n(parameters: int, tokens: int) -> int:
    """6 N D: two FLOPs per parameter and token forward, four backward. Leaves out the scores, and counts tables that
    are looked up, not multiplied, as if they were. With full recomputation it is 8 N D."""
    return 6 * parameters * tokens


def utilisation(flops: float, seconds: float, devices: int, peak: float) -> float:
    """FLOPs reached as a share of the peak: with a step's *model* FLOPs the MFU, with recomputation added the HFU.

    Args:
        peak: FLOP/s of one device, for the number format that the products use.
    """
    return flops / (seconds * devices * peak)
