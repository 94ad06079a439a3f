"""Prompt tuning: a few trained vectors in front of every text, and a model in which nothing else moves.

Source: Lester et al. 2021, arXiv:2104.08691.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from course_utils.tuning.layer import Adapter, Method, check_count, trained_dtype


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Method):
    """``l`` vectors before the words of a text: ``l d`` parameters for a model of width ``d``.

    ``inject(model, SoftPrompt(length=10), "word_embedding", train=["head"])`` tunes a
    :class:`~course_utils.models.text.TextModel`. Each text becomes ``l`` tokens longer, with all that this costs. The
    vectors stand in front of [CLS], at positions 0 to l - 1: with ``pool="cls"`` the head then reads the first of them.

    Args:
        length: number of vectors, ``l``.
        start: their first values: ``"vocabulary"``, rows of the word table drawn at random; ``"random"``, normal
            numbers of the table's standard deviation; or the token ids of a text, repeated or cut to ``length``.
        after_first: put them behind the first token, which stays where the head looks for it. That token must be real,
            as [CLS] is: texts are padded at their end.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    length: int = 10
    start: Literal["vocabulary", "random"] | tuple[int, ...] = "vocabulary"
    after_first: bool = False
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)

    def __post_init__(self) -> None:
        check_count("length", self.length, 10)
        if self.start not in ("vocabulary", "random") and not (isinstance(self.start, tuple) and self.start):
            raise ValueError(
                f'start {self.start!r} is no way to begin: choose "vocabulary", "random", or a tuple of token ids'
            )

    def adapter(self, base: nn.Module, name: str) -> PromptEmbedding:
        table = word_table(base, name)
        if self.start == "random":
            vectors = torch.randn(self.length, table.shape[1], device=table.device) * table.std()  # [l, D]
        elif self.start == "vocabulary":
            vectors = table[torch.randint(len(table), (self.length,), device=table.device)]
        else:
            if not 0 <= min(self.start) <= max(self.start) < len(table):
                raise ValueError(
                    f"start holds token ids from {min(self.start)} to {max(self.start)}, and {name} has rows 0 to "
                    f"{len(table) - 1}: use the tokenizer that belongs to this model"
                )
            ids = [self.start[i % len(self.start)] for i in range(self.length)]
            vectors = table[torch.tensor(ids, device=table.device)]
        return PromptEmbedding(vectors, self.after_first)


class Prompt(Adapter):
    """Wraps a table of words: ids ``[B, N]`` to vectors ``[B, l + N, D]``."""

    def __init__(self, after_first: bool) -> None:
        super().__init__()
        self.after_first = after_first

    def vectors(self) -> Tensor:
        """The prompt, ``[l, D]``."""
        raise NotImplementedError

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        words = base(*args, **kwargs)  # [B, N, D]
        prompt = self.vectors().to(words.dtype).expand(len(words), -1, -1)  # [B, l, D], the same for every text
        if self.after_first:
            return torch.cat([words[:, :1], prompt, words[:, 1:]], dim=1)
        return torch.cat([prompt, words], dim=1)


class PromptEmbedding(Prompt):
    """A prompt whose vectors are parameters themselves."""

    def __init__(self, vectors: Tensor, after_first: bool) -> None:
        super().__init__(after_first)
        self.prompt = nn.Parameter(vectors.detach().to(trained_dtype(vectors), copy=True))

    def vectors(self) -> Tensor:
        return self.prompt


def nearest_words(vectors: Tensor, table: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The rows of a word table that point most nearly where each vector points.

    Args:
        vectors: ``[l, D]``.
        table: ``[V, D]``.
        count: rows to find for each vector.

    Returns:
        cosines ``[l, count]``, the largest first, and the rows' ids ``[l, count]``.
    """
    unit = [each / each.norm(dim=1, keepdim=True).clamp_min(1e-12) for each in (vectors, table)]
    best = (unit[0] @ unit[1].T).topk(count, dim=1)
    return best.values, best.indices


def word_table(base: nn.Module, name: str) -> Tensor:
    """The weight of the word embedding, ``[V, D]``; ``ValueError`` for any other layer.

    Another table that grew longer would move positions or types away from their words. And a model that works out
    positions and mask before it looks words up, as those of transformers do, has no room for a longer text there.
    """
    if name.rpartition(".")[2] != "word_embedding":
        raise ValueError(f"a prompt cannot wrap {name}: it wraps the word_embedding of a course_utils.models.TextModel")
    assert isinstance(base, nn.Embedding)
    return base.weight.detach()
