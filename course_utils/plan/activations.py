"""What a Transformer layer keeps for its backward pass: the formulas of Korthikanti et al. 2022, arXiv:2205.05198.

``s`` tokens, ``b`` sequences of a micro-batch, ``h`` width, ``a`` heads, ``t`` tensor-parallel ranks. The paper counts
2 bytes a number and 1 byte for each element of a dropout mask; both are arguments here, so that the same formulas hold
for FP32 and for models without dropout. Statistics of the norms and biases are too small to count.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from course_utils.plan.transformer import RECOMPUTE, Decoder, Recompute

Kernel = Literal["written_out", "fused"]
KERNELS: tuple[Kernel, ...] = ("written_out", "fused")


class LayerActivations(NamedTuple):
    """Bytes that one rank keeps of one layer, by the region of the layer that keeps them."""

    norms: float  # the norms, what they feed, and dropout masks: tensor parallelism leaves these whole
    products: float  # queries, keys, values, attended values, both sides of GELU: divided over the ranks
    scores: float  # attention weights: divided by heads, and the only part that grows with s^2

    @property
    def total(self) -> float:
        return sum(self)


def layer_activations(
    length: int,
    sequences: int,
    width: int,
    heads: int,
    *,
    tensor: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = "none",
    kernel: Kernel = "written_out",
    dropout: bool = True,
    number: int = 2,
) -> LayerActivations:
    """Bytes of one layer, on one of ``tensor`` ranks: Table 2 of the paper.

    With 2-byte numbers and dropout: ``none`` sbh(10 + 24/t + 5as/ht), with sequence parallelism sbh(34 + 5as/h)/t;
    ``selective`` drops the last term; ``full`` keeps the layer's input alone, 2sbh.

    Args:
        sequence_parallel: whether the norm regions too are divided over the ranks, by tokens.
        kernel: ``"fused"`` attention never stores the scores (of them, 4 bytes per head and token remain).
        dropout: whether there is dropout, on the scores and behind attention and MLP.
        number: bytes of a number.
    """
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute {recompute!r} is unknown: choose {' or '.join(RECOMPUTE)}")
    if heads % tensor:
        raise ValueError(f"{heads} heads cannot be divided over {tensor} ranks: choose a divisor")
    sbh, around = length * sequences * width, tensor if sequence_parallel else 1
    if recompute == "full":
        return LayerActivations(number * sbh / around, 0, 0)

    norms = (4 * number + 2 * dropout) * sbh  # two norms: in and out; two masks of dropout
    products = 12 * number * sbh  # queries, keys, values, attended: 4; the MLP: 2 x 4
    if recompute == "selective":
        scores = 0
    elif kernel == "fused":
        scores = 4 * sequences * heads * length  # one number a row
    else:  # softmax; with dropout its mask and its result, too
        scores = sequences * heads * length**2 * (2 * number + 1 if dropout else number)
    return LayerActivations(norms / around, products / tensor, scores / tensor)


def head_activations(model: Decoder, length: int, sequences: int, *, tensor: int = 1, number: int = 2) -> float:
    """Bytes behind the last layer: the last norm's input and output, and the logits in FP32, divided over the ranks."""
    return length * sequences * (2 * number * model.width + 4 * model.vocab) / tensor
