"""Whether a text has the form of those it was learned from: what can be seen without understanding a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple


class Form(NamedTuple):
    """What is checked, in words and as a function."""

    words: str
    holds: Callable[[str], bool]


def is_poem(text: str, lines: int) -> bool:
    """So many lines of equal length, five characters or seven."""
    return [len(line) for line in text.split("\n")] in ([5] * lines, [7] * lines)


def is_scene(text: str) -> bool:
    """Each part between blank lines is a direction, whose bracket is closed, or a speech under a name in capitals.

    The last part does not count: a text that is drawn ends somewhere.
    """
    parts = text.split("\n\n")[:-1]
    return bool(parts) and all(re.fullmatch(r"\[[^\[\]]+\]|[^a-z\n]{2,45}\.\n\S.*", part, re.DOTALL) for part in parts)


FORMS = {
    "tang": Form("four lines of equal length, 5 or 7 characters", partial(is_poem, lines=4)),
    "octaves": Form("eight lines of equal length, 5 or 7 characters", partial(is_poem, lines=8)),
    "shakespeare": Form("directions in brackets, and speeches under a name in capitals", is_scene),
}
