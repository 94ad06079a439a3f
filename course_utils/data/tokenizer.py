"""Text to token ids and back: one interface, two tokenizers, each saved as JSON.

:class:`Characters` has an id for each character; :class:`course_utils.data.bpe.BytePairs` for pieces that it learned.
The last id, :attr:`Tokenizer.end`, is the end of a text and stands for no character: as a model's input it opens a
document, as its target it closes one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from course_utils.files import atomic_write


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
        """All that it is, as JSON can hold it; :func:`from_content` makes it again."""


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


def from_content(content: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of what its ``content()`` gave. Raises ``ValueError`` for anything else."""
    from course_utils.data.bpe import BytePairs  # which imports this module

    kinds: dict[str, Any] = {"characters": Characters, "bpe": BytePairs}
    if (kind := content.get("kind")) not in kinds:
        raise ValueError(f"{kind!r} is no kind of tokenizer: expected one of {', '.join(kinds)}")
    tokenizer: Tokenizer = kinds[kind].of(content)
    return tokenizer


def save(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a tokenizer as JSON."""
    with atomic_write(path, "w") as file:
        json.dump(tokenizer.content(), file, ensure_ascii=False)


def load(path: str | Path) -> Tokenizer:
    """Read what :func:`save` wrote.

    Raises:
        FileNotFoundError: there is no such file.  ValueError: it holds no tokenizer.
    """
    if not (path := Path(path)).is_file():
        raise FileNotFoundError(f"there is no tokenizer {path}: check the path")
    try:
        return from_content(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} holds no tokenizer of this course ({error}): give a file that save wrote") from None
