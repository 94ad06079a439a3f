"""P-tuning: the vectors of a prompt written by a small network (v1), and prompts at every layer (v2).

The network is needed in training alone. What it writes does not depend on the text, so that after training its output,
``l d`` numbers, is all that is kept: ``fold(model)``.

Sources: Liu et al. 2021, arXiv:2103.10385 (v1); Liu et al. 2022, arXiv:2110.07602 (v2).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from course_utils.tuning.layer import Method, check_count, check_share, trained_dtype
from course_utils.tuning.prefix import Prefix
from course_utils.tuning.soft_prompt import Prompt, PromptEmbedding, SoftPrompt, word_table


@dataclass(frozen=True, kw_only=True)
class PTuning(Method):
    """A prompt of ``l`` vectors that a network writes, so that they move together.

    ``inject(model, PTuning(length=10), "word_embedding", train=["head"])`` trains ``l d`` numbers and the network, of
    ``2 d h + h^2 + 2 h + d`` (MLP). The LSTM, run over the prompt in both directions, is many times larger.

    Args:
        length: number of vectors, ``l``.
        network: ``"mlp"``, three ``Linear`` with ReLU between, or ``"lstm"``, a bidirectional LSTM and two ``Linear``.
        hidden: units of the network, ``h``; by default the model's width ``d``.
        lstm_layers, dropout: of the LSTM; dropout stands between its layers.
        after_first: put the prompt behind the first token, as for :class:`SoftPrompt`.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    length: int = 10
    network: Literal["mlp", "lstm"] = "mlp"
    hidden: int | None = None
    lstm_layers: int = 2
    dropout: float = 0.0
    after_first: bool = False
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)

    def __post_init__(self) -> None:
        check_count("length", self.length, 10)
        check_count("lstm_layers", self.lstm_layers, 2)
        if self.hidden is not None:
            check_count("hidden", self.hidden, 128)
        if self.network not in ("mlp", "lstm"):
            raise ValueError(f'network {self.network!r} is unknown: choose "mlp" or "lstm"')
        check_share("dropout", self.dropout)
        if self.dropout and (self.network != "lstm" or self.lstm_layers < 2):
            raise ValueError(f"dropout {self.dropout!r} stands between layers of an LSTM: choose 0, or two such layers")

    def adapter(self, base: nn.Module, name: str) -> PromptEncoder:
        return PromptEncoder(self, word_table(base, name))

    def folded(self) -> SoftPrompt:
        return SoftPrompt(length=self.length, after_first=self.after_first)


class PromptEncoder(Prompt):
    """A prompt that a network writes: it reads ``l`` vectors of an embedding of its own, and makes ``l`` others."""

    def __init__(self, method: PTuning, table: Tensor) -> None:
        super().__init__(method.after_first)
        width = table.shape[1]
        hidden = method.hidden or width
        self.embedding = nn.Parameter(torch.randn(method.length, width))  # [l, D]
        self.lstm: nn.LSTM | None = None
        sizes = [width, hidden, hidden, width]
        if method.network == "lstm":
            self.lstm = nn.LSTM(width, hidden, method.lstm_layers, dropout=method.dropout, bidirectional=True)
            sizes = [2 * hidden, 2 * hidden, width]  # both directions side by side
        linears = [nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes)]
        self.mlp = nn.Sequential(*(part for linear in linears for part in (linear, nn.ReLU())))[:-1]
        self.to(table.device, trained_dtype(table))

    def vectors(self) -> Tensor:
        read = self.embedding if self.lstm is None else self.lstm(self.embedding)[0]  # [l, D], or [l, 2 h]
        return self.mlp(read)

    def folded(self) -> PromptEmbedding:
        return PromptEmbedding(self.vectors(), self.after_first)


@dataclass(frozen=True, kw_only=True)
class PTuningV2(Prefix):
    """P-tuning v2: trained keys and values at every layer, ``2 L l d`` parameters, with a linear head.

    The computation is that of :class:`Prefix`, in the paper's own code as here. The paper's part is to make it work
    for classifying and labelling with models of ordinary size: a head in the place of the words that stand for labels,
    a length chosen for the task (under 20 for easy ones, about 100 for labelling every word), the network (``hidden``)
    only where it helps, and, if there are several tasks, a common prompt to begin from.
    """
