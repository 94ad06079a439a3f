"""What tensor parallelism sends: ``t`` ranks share every matrix of a layer and work on the same tokens.

Messages are activations ``[b, s, h]`` of ``size`` bytes, whatever the size of the weights.

Sources: Shoeybi et al. 2019, arXiv:1909.08053, section 3; Korthikanti et al. 2022, arXiv:2205.05198, section 4.2
(sequence parallelism).
"""

from __future__ import annotations

from course_utils.measure.communication import all_gather_bytes, reduce_scatter_bytes, ring_all_reduce_bytes


def layer_all_reduces(recompute: bool = False) -> int:
    """Of a layer, for one micro-batch: two forward, two backward, and the two of forward again if it is recomputed."""
    return 6 if recompute else 4


def layer_bytes(
    size: float, ranks: int, *, sequence_parallel: bool = False, gather_again: bool = False, recompute: bool = False
) -> float:
    """Bytes that one rank sends for one layer in a training step.

    Four all-reduces, two forward and two backward: 8 bsh (t-1)/t numbers. Recomputing the layer in backward sends those
    of forward again. With sequence parallelism each all-reduce is a reduce-scatter and an all-gather, of the same
    bytes (and the gradients of norms and biases, 6 h numbers, are added up; they are not counted here).

    Args:
        size: bytes of the layer's input ``[b, s, h]``.
        gather_again: whether the inputs of attention and MLP are gathered a second time in backward.
        recompute: whether activations are recomputed in full.
    """
    sums = layer_all_reduces(recompute)
    if not sequence_parallel:
        return sums * ring_all_reduce_bytes(size, ranks)
    gathers = sums + (2 if gather_again else 0)
    return sums * reduce_scatter_bytes(size, ranks) + gathers * all_gather_bytes(size, ranks)


def loss_bytes(targets: int, words: int, ranks: int, *, gathered: bool, number: int = 4) -> float:
    """Bytes that one rank sends for the loss of ``targets`` tokens over a vocabulary of ``words``.

    ``gathered``: all ranks get all logits. Otherwise three numbers a target are all-reduced, whatever the vocabulary.
    """
    if gathered:
        return all_gather_bytes(targets * words * number, ranks)
    return ring_all_reduce_bytes(3 * targets * number, ranks)
