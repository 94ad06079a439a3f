"""Whether a text has the form of those it was learned from: what can be seen without understanding a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Form(NamedTuple):
    """What is checked, in words and as a function."""

    words: str
    holds: Callable[[str], bool]


def is_quatrain(text: str) -> bool:
    """Four lines of equal length, five characters or seven."""
    return _lengths(text) in ([5] * 4, [7] * 4)


def is_octave(text: str) -> bool:
    """Eight lines of equal length, five characters or seven."""
    return _lengths(text) in ([5] * 8, [7] * 8)


def _lengths(text: str) -> list[int]:
    return [len(line) for line in text.split("\n")]


def is_scene(text: str) -> bool:
    """Each part between blank lines is a direction, whose bracket is closed, or a speech under a name in capitals.

    The last part does not count: a text that is drawn ends somewhere.
    """
    parts = text.split("\n\n")[:-1]
    return bool(parts) and all(re.fullmatch(r"\[[^\[\]]+\]|[^a-z\n]{2,45}\.\n\S.*", part, re.DOTALL) for part in parts)


FORMS = {
    "tang": Form("four lines of equal length, 5 or 7 characters", is_quatrain),
    "octaves": Form("eight lines of equal length, 5 or 7 characters", is_octave),
    "shakespeare": Form("directions in brackets, and speeches under a name in capitals", is_scene),
}
