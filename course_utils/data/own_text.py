"""A user's own text file, as the embedded corpora are: documents in three splits."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Literal

from course_utils.data.text_files import read_text
from course_utils.data.verses import Texts

Cut = Literal["paragraphs", "lines", "whole"]
HELD_OUT = 0.05  # of the text for validation, and as much for the test
FEWEST = 1000  # characters: less teaches nothing, and holds out nothing

# What no text has: control characters but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def load_own_text(path: str | Path, cut: Cut = "paragraphs", *, seed: int = 0) -> Texts:
    """A text file divided into documents: 90 % to train on, 5 % to choose by, 5 % to report on.

    Args:
        cut: what a document is: what blank lines divide (``paragraphs``), a line, or the whole file. Documents are
            shuffled before they are divided; a whole file is divided where it stands, its end held out. A document
            that stands twice is kept once, so that none is in two splits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, is no text, or is too short to hold anything out.
    """
    path = Path(path)
    text = _read(path)
    if len(text) < FEWEST:
        raise ValueError(f"{path} holds {len(text):,} characters, expected at least {FEWEST:,}: give a longer text")
    if cut == "whole":
        first, second = (round(len(text) * share) for share in (1 - 2 * HELD_OUT, 1 - HELD_OUT))
        return Texts([text[:first]], [text[first:second]], [text[second:]])
    parts = text.split("\n") if cut == "lines" else re.split(r"\n\s*\n", text)
    documents = list(dict.fromkeys(part.strip("\n") for part in parts if part.strip()))
    held = round(len(documents) * HELD_OUT)
    if not held:
        other = "lines or whole" if cut == "paragraphs" else "whole"
        raise ValueError(
            f"{path} has {len(documents)} different {cut}, expected at least {round(0.5 / HELD_OUT) + 1}, so that some "
            f"can be held out: give a longer text, or cut it otherwise ({other})"
        )
    random.Random(f"{seed} {path.name}").shuffle(documents)
    return Texts(documents[2 * held :], documents[:held], documents[held : 2 * held])


def _read(path: Path) -> str:
    """The text with line feeds alone at the ends of its lines."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one text file; several can be joined with cat *.txt > all.txt")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}: check the path")
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n\n")
    if bad := _CONTROL.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise ValueError(
            f"{path}, line {line}: there is a control character U+{ord(bad[0]):04X}: it is no text, or one of another "
            "encoding; export it as plain text in UTF-8"
        )
    return text
