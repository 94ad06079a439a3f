"""A tokenizer as JSON: in a file of its own, or inside a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils.data.bpe import BytePairs
from course_utils.data.tokenizer import Characters, Tokenizer
from course_utils.files import atomic_write

KINDS: dict[str, Any] = {"characters": Characters, "bpe": BytePairs}


def from_content(content: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of what its ``content()`` gave. Raises ``ValueError`` for anything else."""
    if (kind := content.get("kind")) not in KINDS:
        raise ValueError(f"{kind!r} is no kind of tokenizer: expected one of {', '.join(KINDS)}")
    tokenizer: Tokenizer = KINDS[kind].of(content)
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
