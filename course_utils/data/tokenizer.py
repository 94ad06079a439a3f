"""Text to token ids and back: one interface, two tokenizers.

:class:`Characters` has an id for each character; :class:`course_utils.data.bpe.BytePairs` for pieces that it learned.
:mod:`course_utils.data.tokenizer_files` keeps them as JSON.
The last id, :attr:`Tokenizer.end`, is the end of a text and stands for no character: as a model's input it opens a
document, as its target it closes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self


class Tokenizer(Protocol):
    """What every tokenizer can do."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, :attr:`end` among them."""

    @property
    def end(self) -> int:
        """The id of the end of a text: the last one."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without :attr:`end`. Raises ``ValueError`` for a character that has none."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; :attr:`end` gives nothing. Raises ``ValueError`` for what is no id."""

    def content(self) -> dict[str, Any]:
        """All that it is, as JSON can hold it."""


class Characters:
    """One id for each character, in the order of Unicode: 0, 1, 2, ...; then the end of a text.

    Args:
        alphabet: the characters; each once.
    """

    def __init__(self, alphabet: Sequence[str]) -> None:
        self.alphabet = sorted(alphabet)
        self._ids = {character: number for number, character in enumerate(self.alphabet)}
        if len(self._ids) < len(self.alphabet) or any(len(character) != 1 for character in self.alphabet):
            raise ValueError(f"the alphabet {self.alphabet[:9]} is no set of single characters: give sorted(set(text))")

    @property
    def vocab_size(self) -> int:
        """See :class:`Tokenizer`."""
        return len(self.alphabet) + 1

    @property
    def end(self) -> int:
        """See :class:`Tokenizer`."""
        return len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        """See :class:`Tokenizer`."""
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            where = text.index(error.args[0]) + 1
            raise ValueError(
                f"the character {error.args[0]!r} (number {where} of the text) is none of {len(self.alphabet):,} in "
                "this tokenizer: write the text without it, or use a tokenizer of bytes (bpe)"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """See :class:`Tokenizer`."""
        return "".join(self.alphabet[number] for number in known(ids, self) if number != self.end)

    def content(self) -> dict[str, Any]:
        """See :class:`Tokenizer`."""
        return {"kind": "characters", "alphabet": "".join(self.alphabet)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`content`."""
        return cls(content["alphabet"])


def known(ids: Iterable[int], tokenizer: Tokenizer) -> list[int]:
    """The ids as a list, each of them checked."""
    ids = list(ids)
    if wrong := [number for number in ids if not 0 <= number < tokenizer.vocab_size]:
        raise ValueError(f"{wrong[0]} is no token id: expected 0 to {tokenizer.vocab_size - 1}")
    return ids
