"""What tuning few parameters costs, in closed form: the numbers that train, and the arithmetic of a training step.

``d`` width, ``L`` layers, ``f`` hidden width of the MLP, ``N`` tokens of a text; ``l`` length of a prompt or prefix,
``h`` hidden units of the network that writes it; ``r`` rank of an update, or width of a bottleneck. Arithmetic is
counted in multiply-accumulates (MACs) of matrix products, as in :mod:`course_utils.plan.flops`.

Sources: Lester et al. 2021, arXiv:2104.08691 (prompt tuning); Li and Liang 2021, arXiv:2101.00190 (prefix tuning);
Liu et al. 2021, arXiv:2103.10385 (P-tuning); Houlsby et al. 2019, arXiv:1902.00751 (adapters); Hu et al. 2021,
arXiv:2106.09685 (LoRA); Liu et al. 2022, arXiv:2205.05638 (IA3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from course_utils.models.text import TextConfig
from course_utils.plan.flops import linear_macs

MATRICES = ("q", "k", "v", "out", "fc1", "fc2")  # of an encoder layer, in the order in which a text meets them
NONE: Mapping[str, int] = MappingProxyType({})


def prompt_parameters(length: int, width: int) -> int:
    """Prompt tuning: ``l d``. BERT base, l = 10: 7,680."""
    return length * width


def prefix_parameters(length: int, width: int, depth: int, hidden: int | None = None) -> int:
    """Prefix tuning and P-tuning v2: keys and values of each layer, ``2 L l d`` (184,320). With the MLP that writes
    them in training ``l d + (d + 1) h + (h + 1) 2 L d`` (14,772,480 for h = d)."""
    if hidden is None:
        return 2 * depth * length * width
    return length * width + (width + 1) * hidden + (hidden + 1) * 2 * depth * width


def p_tuning_parameters(
    length: int, width: int, hidden: int | None = None, network: Literal["mlp", "lstm"] = "mlp", lstm_layers: int = 2
) -> int:
    """P-tuning v1: ``l d`` and the network that reads them. An MLP of three ``Linear`` (1,779,456 for h = d), or a
    bidirectional LSTM, of four gates with two biases each, and two ``Linear`` (27,166,464)."""
    hidden = hidden or width
    if network == "mlp":
        return length * width + (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * width
    inputs = [width] + [2 * hidden] * (lstm_layers - 1)
    lstm = sum(2 * 4 * hidden * (i + hidden + 2) for i in inputs)
    return length * width + lstm + (2 * hidden + 1) * 2 * hidden + (2 * hidden + 1) * width


def bottleneck_parameters(width: int, bottleneck: int) -> int:
    """One adapter, two matrices and their biases: ``2 d r + r + d``. BERT base, r = 64: 99,136."""
    return 2 * width * bottleneck + bottleneck + width


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


def ia3_parameters(width: int, mlp_width: int) -> int:
    """The factors of one layer, for keys, values and hidden units: ``2 d + f``. BERT base: 4,608."""
    return 2 * width + mlp_width


def matrix_shapes(config: TextConfig) -> dict[str, tuple[int, int]]:
    """``(in, out)`` of each of the :data:`MATRICES`."""
    d, f = config.width, config.mlp_width
    return dict(zip(MATRICES, [(d, d)] * 4 + [(d, f), (f, d)], strict=True))


def step_macs(
    config: TextConfig,
    tokens: int,
    *,
    full: bool = False,
    prompt: int = 0,
    prefix: int = 0,
    lora: Mapping[str, int] = NONE,
    bottlenecks: Mapping[str, int] = NONE,
) -> dict[str, int]:
    """MACs of a training step for one text: ``forward`` and ``backward``. The head always trains.

    Backward, a product costs one more product for each of its two factors that *moves*. A weight moves if it trains.
    An input moves if anything below it trains. So a frozen weight saves its own product, and not that of its input.

    Args:
        config: of a BERT, with a pooler.
        tokens: of the text, ``N``.
        full: everything trains; without any of these the head alone does.
        prompt: tokens of a soft prompt. The network that may write it is left out, as for the prefix.
        prefix: keys and values in front of those of each layer.
        lora: the rank at each of the :data:`MATRICES` that has an update.
        bottlenecks: the width of the adapter behind each of the :data:`MATRICES` that has one.

    Raises:
        ValueError: a name that no matrix has.
    """
    _known([*lora, *bottlenecks])
    shapes, width = matrix_shapes(config), config.width
    forward = backward = 0

    def product(rows: int, inputs: int, outputs: int, first_moves: bool, second_moves: bool) -> None:
        nonlocal forward, backward
        macs = linear_macs(rows, inputs, outputs)
        forward += macs
        backward += macs * (first_moves + second_moves)

    def linear(name: str, moves: bool) -> bool:  # returns whether the output moves
        inputs, outputs = shapes[name]
        product(tokens, inputs, outputs, moves, full)
        if rank := lora.get(name, 0):
            product(tokens, inputs, rank, moves, True)
            product(tokens, rank, outputs, True, True)
            moves = True
        if narrow := bottlenecks.get(name, 0):
            product(tokens, outputs, narrow, moves, True)
            product(tokens, narrow, outputs, True, True)
            moves = True
        return moves

    tokens += prompt
    moves = full or prompt > 0  # what enters the first layer
    for _ in range(config.depth):
        q, k, v = (linear(name, moves) for name in ("q", "k", "v"))
        k, v = k or prefix > 0, v or prefix > 0
        product(tokens, width, tokens + prefix, q, k)  # scores
        product(tokens, tokens + prefix, width, q or k, v)  # and what they weigh
        moves |= linear("out", q or k or v)
        moves |= linear("fc2", linear("fc1", moves))
    if config.pooler:
        product(1, width, width, moves, full)
    product(1, width, config.num_classes, moves, True)
    return {"forward": forward, "backward": backward}


def _known(names: Iterable[str]) -> list[str]:
    names = list(names)
    for name in names:
        if name not in MATRICES:
            raise ValueError(f"an encoder layer has no matrix {name!r}: choose among {', '.join(MATRICES)}")
    return names
