"""What soft prompts cost, in closed form: the parameters that train, and the arithmetic of a training step.

``l`` length of the prompt, ``d`` width, ``L`` layers, ``h`` hidden units of a network that writes the prompt, ``N``
tokens of a text. Arithmetic is counted in multiply-accumulates (MACs) of matrix products, as in
:mod:`course_utils.plan.flops`, for a BERT with pooler and a head that trains.
"""

from __future__ import annotations

from typing import Literal

from course_utils.models.text import TextConfig
from course_utils.plan.flops import layer_macs, linear_macs

Tuning = Literal["full", "head", "prompt", "prefix"]


def prompt_parameters(length: int, width: int) -> int:
    """Prompt tuning: ``l d``. For BERT base and l = 10: 7,680."""
    return length * width


def prefix_parameters(length: int, width: int, depth: int, hidden: int | None = None) -> int:
    """Prefix tuning and P-tuning v2: keys and values of each layer, ``2 L l d`` (184,320); with the MLP of the training
    ``l d + (d + 1) h + (h + 1) 2 L d`` (14,772,480 for h = d)."""
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


def step_macs(config: TextConfig, tokens: int, method: Tuning, length: int = 0) -> dict[str, int]:
    """MACs of a training step for one text of ``tokens`` tokens: ``forward`` and ``backward``.

    Backward through a product costs one more product for its input and, if its weights train, one for these; a product
    of two activations, as in attention, always has two inputs. So training everything costs three times the forward
    pass, and a frozen body twice, unless there is nothing below it to train. The small network of a reparameterised
    prompt is left out.

    Args:
        method: ``"full"``; ``"head"`` alone; ``"prompt"``, ``length`` more tokens; ``"prefix"``, ``length`` more keys
            and values in each layer. All train the head.
    """
    prompt, prefix = (length if method == name else 0 for name in ("prompt", "prefix"))
    layer = layer_macs(tokens + prompt, config.width, config.mlp_width)
    linear = layer["qkv"] + layer["out"] + layer["mlp"]
    scores = 2 * linear_macs(tokens + prompt, config.width, tokens + prompt + prefix)
    pooler = linear_macs(1, config.width, config.width)
    head = linear_macs(1, config.width, config.num_classes)
    forward = config.depth * (linear + scores) + pooler + head
    if method == "full":
        return {"forward": forward, "backward": 2 * forward}
    if method == "head":
        return {"forward": forward, "backward": head}
    backward = config.depth * (linear + 2 * scores) + pooler + 2 * head
    if method == "prefix":  # below the first layer nothing trains: its queries, and what they are made of, need nothing
        backward -= layer["qkv"] + scores // 2
    return {"forward": forward, "backward": backward}
