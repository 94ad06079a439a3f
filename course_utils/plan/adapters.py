"""What adapters and LoRA cost, in closed form: the parameters that train, and the arithmetic of a training step.

``r`` rank of an update or width of a bottleneck, ``d`` width, ``f`` hidden width of the MLP, ``N`` tokens of a text.
Arithmetic is counted as in :mod:`course_utils.plan.tuning`. Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA);
Houlsby et al. 2019, arXiv:1902.00751; Liu et al. 2022, arXiv:2205.05638 (IA3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from course_utils.models.text import TextConfig
from course_utils.plan.flops import linear_macs

MATRICES = ("q", "k", "v", "out", "fc1", "fc2")  # of an encoder layer, in the order in which a text meets them


def lora_parameters(rank: int, inputs: int, outputs: int, *, dora: bool = False) -> int:
    """``A`` and ``B`` of one matrix: ``r (in + out)``, and ``out`` lengths for DoRA. BERT base, r = 8: 12,288."""
    return rank * (inputs + outputs) + (outputs if dora else 0)


def lora_model_parameters(config: TextConfig, rank: int, matrices: Iterable[str]) -> int:
    """``A`` and ``B`` of the matrices named (see :data:`MATRICES`) of all layers. BERT base, r = 8 on q, k, v: 442,368.

    Raises:
        ValueError: a name that no matrix has.
    """
    shapes = matrix_shapes(config)
    return config.depth * sum(lora_parameters(rank, *shapes[name]) for name in _known(matrices))


def bottleneck_parameters(width: int, bottleneck: int) -> int:
    """One adapter, two matrices and their biases: ``2 d r + r + d``. BERT base, r = 64: 99,136."""
    return 2 * width * bottleneck + bottleneck + width


def ia3_parameters(width: int, mlp_width: int) -> int:
    """The factors of one layer, for keys, values and hidden units: ``2 d + f``. BERT base: 4,608."""
    return 2 * width + mlp_width


def matrix_shapes(config: TextConfig) -> dict[str, tuple[int, int]]:
    """``(in, out)`` of each of the :data:`MATRICES`."""
    d, f = config.width, config.mlp_width
    return dict(zip(MATRICES, [(d, d)] * 4 + [(d, f), (f, d)], strict=True))


def tuned_step_macs(
    config: TextConfig,
    tokens: int,
    *,
    lora: Mapping[str, int] | None = None,
    bottlenecks: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """MACs of a training step for one text with a frozen body: ``forward`` and ``backward``. The head trains too.

    A product with a weight costs, backward, one more product if its *input* moves, which it does as soon as anything
    below it trains, and one more if its *weight* trains. A frozen weight saves the second and never the first.

    Args:
        lora: the rank at each of the :data:`MATRICES` that has an update.
        bottlenecks: the width of the adapter behind each of the :data:`MATRICES` that has one.

    Raises:
        ValueError: a name that no matrix has.
    """
    lora, bottlenecks = lora or {}, bottlenecks or {}
    _known([*lora, *bottlenecks])
    shapes = matrix_shapes(config)
    forward = backward = 0

    def product(rows: int, inputs: int, outputs: int, first_moves: bool, second_moves: bool) -> None:
        nonlocal forward, backward
        macs = linear_macs(rows, inputs, outputs)
        forward += macs
        backward += macs * (first_moves + second_moves)

    def linear(name: str, moves: bool) -> bool:  # returns whether the output moves
        inputs, outputs = shapes[name]
        product(tokens, inputs, outputs, moves, False)
        if rank := lora.get(name, 0):
            product(tokens, inputs, rank, moves, True)
            product(tokens, rank, outputs, True, True)
        moves = moves or rank > 0
        if narrow := bottlenecks.get(name, 0):
            product(tokens, outputs, narrow, moves, True)
            product(tokens, narrow, outputs, True, True)
        return moves or narrow > 0

    moves = False  # nothing below the first layer trains
    for _ in range(config.depth):
        q, k, v = (linear(name, moves) for name in ("q", "k", "v"))
        product(tokens, config.width, tokens, q, k)  # scores
        product(tokens, tokens, config.width, q or k, v)  # and what they weigh
        moves |= linear("out", q or k or v)
        moves |= linear("fc2", linear("fc1", moves))
    if config.pooler:
        product(1, config.width, config.width, moves, False)
    product(1, config.width, config.num_classes, moves, True)
    return {"forward": forward, "backward": backward}


def _known(names: Iterable[str]) -> list[str]:
    names = list(names)
    for name in names:
        if name not in MATRICES:
            raise ValueError(f"an encoder layer has no matrix {name!r}: choose among {', '.join(MATRICES)}")
    return names
