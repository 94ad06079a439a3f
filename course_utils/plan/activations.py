"""What a Transformer layer keeps for its backward pass.

``s`` tokens, ``b`` sequences of a micro-batch, ``h`` width, ``a`` heads, ``t`` tensor-parallel ranks. For GPT's layer
there are the closed formulas of Korthikanti et al. 2022, arXiv:2205.05198 (:func:`layer_activations`). For any other,
what autograd keeps of its parts is added up (:func:`kept_activations`), and for GPT's that is the same. The paper
counts 2 bytes a number and 1 byte for each element of a dropout mask; both are arguments here, so that the same
formulas hold for FP32 and for models without dropout. Statistics of the norms and biases are too small to count. A norm
that is no fused kernel, as RMSNorm of transformers, keeps 4 bytes more for each number that it reads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from course_utils.plan.decoder import Decoder
from course_utils.plan.layer import Layer
from course_utils.plan.transformer import RECOMPUTE, Recompute

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
    recompute: Literal["none", "selective", "full"] = "none",
    kernel: Kernel = "written_out",
    dropout: bool = True,
    number: int = 2,
) -> LayerActivations:
    """Bytes of one layer of GPT, on one of ``tensor`` ranks: Table 2 of the paper.

    With 2-byte numbers and dropout: ``none`` sbh(10 + 24/t + 5as/ht), with sequence parallelism sbh(34 + 5as/h)/t;
    ``selective`` drops the last term; ``full`` keeps the layer's input alone, 2sbh.

    Args:
        sequence_parallel: whether the norm regions too are divided over the ranks, by tokens.
        kernel: ``"fused"`` attention never stores the scores (of them, 4 bytes per head and token remain).
        dropout: whether there is dropout, on the scores and behind attention and MLP.
        number: bytes of a number.
    """
    if recompute not in ("none", "selective", "full"):
        raise ValueError(f"recompute {recompute!r} is unknown: choose none or selective or full")
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


def kept_activations(
    model: Decoder,
    layer: Layer,
    length: int,
    sequences: int,
    *,
    tensor: int = 1,
    context: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = "none",
    kernel: Kernel = "written_out",
    dropout: bool = True,
    number: int = 2,
) -> LayerActivations:
    """Bytes of one layer of any decoder, on one rank: what autograd keeps of its parts.

    Args:
        context: ranks that share the ``length`` tokens of a sequence.
        recompute: ``none`` keeps everything; ``selective`` all but the scores; ``pointwise`` the layer's input and what
            products and attention return, so not what norms, activation functions and masks do; ``alternate`` the
            input, what attention returns and every second matrix product, as torchtitan's selective mode; ``full`` the
            input alone.
        tensor, sequence_parallel, kernel, dropout, number: as in :func:`layer_activations`.
    """
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute {recompute!r} is unknown: choose {' or '.join(RECOMPUTE)}")
    tokens, around = length // context * sequences, tensor if sequence_parallel else 1

    def kept(origins: tuple[str, ...]) -> tuple[float, float]:
        found = {"norms": 0.0, "products": 0.0}
        for tensors in layer.kept:
            if tensors.origin in origins:
                size = (1 if dropout else 0) if tensors.origin == "mask" else number
                ranks = around if tensors.region == "norms" else min(tensor, tensors.pieces)
                found[tensors.region] += tokens * tensors.numbers * size / ranks
        return found["norms"], found["products"]

    rows = 4 * tokens * model.heads / tensor  # of a fused kernel: one FP32 number for each token and head
    if recompute == "full":
        return LayerActivations(*kept(("input",)), 0)
    if recompute == "pointwise":
        return LayerActivations(*kept(("input", "product")), rows)
    if recompute == "alternate":
        outputs = {True: 0.0, False: model.heads * layer.value / tensor}  # by whether the norms' region has them
        for matrix in layer.matrices[::2]:
            ranks = min(tensor, matrix.pieces) if matrix.cut == "columns" else around
            outputs[matrix.cut != "columns"] += matrix.active * matrix.outputs / ranks
        inputs, _ = kept(("input",))
        return LayerActivations(inputs + number * tokens * outputs[True], number * tokens * outputs[False], rows)
    if recompute == "selective":
        scores = 0.0
    elif kernel == "fused":
        scores = rows
    else:
        scores = tokens * model.heads * length * (2 * number + 1 if dropout else number) / tensor
    return LayerActivations(*kept(("input", "product", "pointwise", "mask")), scores)


def head_activations(model: Decoder, length: int, sequences: int, *, tensor: int = 1, number: int = 2) -> float:
    """Bytes behind the last layer when backward begins, divided over the ranks: see :func:`logits`, and the last norm's
    input and output."""
    return length * sequences * 2 * number * model.width / tensor + sum(
        logits(model, length, sequences, tensor=tensor, number=number)
    )


def logits(model: Decoder, length: int, sequences: int, *, tensor: int = 1, number: int = 2) -> tuple[float, float]:
    """Bytes of the logits in their own format, and of what the loss makes of them: FP32 tensors of their size.

    Cross-entropy keeps the logarithms of the probabilities; backward makes their gradient and, while that is alive, the
    gradient of the logits. Where the vocabulary is divided, torch's ``loss_parallel`` is made of single operations and
    has a fourth.
    """
    numbers = length * sequences * model.vocab / tensor
    return number * numbers, (3 if tensor == 1 else 4) * 4 * numbers
