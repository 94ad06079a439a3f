"""Texts to train a language model on: three embedded corpora, each in three splits.

``tang``: quatrains, four lines of five or seven characters each. ``octaves``: poems of the same time, of eight such
lines. ``shakespeare``: the scenes of his plays. Where they come from and what was done to them stands in their cards,
``embedded/tang.md`` and so on; the script that made them is ``tools/make_verses.py``. Your own file:
:mod:`course_utils.data.own_text`.
"""

from __future__ import annotations

import bz2
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

SPLITS = ("train", "validation", "test")
CORPORA: Mapping[str, str] = {  # name -> SHA-256 of the unpacked file, as tools/make_verses prints it
    "tang": "d85a68ef0be219044053079afba57a5bb64d0bac372f7ff37fd7bf41ad8a178f",
    "octaves": "ebeb7010c1f4885fdc8249131b07064773c6eca406b1a461db678ff0bb95e869",
    "shakespeare": "f25b5ae42e7a346dc801bdcc7bd688821e3594a41bc401d69380f5700977344c",
}


class Texts(NamedTuple):
    """The documents of a corpus: to train on, to choose by, and to report on."""

    train: list[str]
    validation: list[str]
    test: list[str]

    @property
    def alphabet(self) -> list[str]:
        """Every character that occurs in any split, sorted. A model that spells in characters needs one row for each.

        That a character occurs in a held-out text is told here, and nothing else of it.
        """
        return sorted({character for texts in self for text in texts for character in text})


def load_corpus(name: str) -> Texts:
    """An embedded corpus. The documents of a split stand in the order of a hash: the first n are a fair sample.

    Raises:
        ValueError: there is no such corpus, or the file that was installed is not the one that was made.
    """
    if name not in CORPORA:
        raise ValueError(f"there is no corpus {name!r}: choose one of {', '.join(CORPORA)}")
    file = resources.files("course_utils.data") / "embedded" / f"{name}.jsonl.bz2"
    content = bz2.decompress(file.read_bytes())
    if (found := hashlib.sha256(content).hexdigest()) != CORPORA[name]:
        raise ValueError(
            f"the embedded corpus {file} has SHA-256 {found}, expected {CORPORA[name]}: install course_utils again"
        )
    rows = [json.loads(line) for line in content.splitlines()]
    return Texts(*([row["text"] for row in rows if row["split"] == split] for split in SPLITS))


def split_of(text: str) -> tuple[str, str]:
    """The split a text belongs to (90 % train, 5 % validation, 5 % test), and the hash that says so.

    The text alone decides: one more text moves no other, and none can be moved to where a model does better.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    share = int(digest[:16], 16) / 2**64  # uniform in [0, 1)
    return "train" if share < 0.9 else "validation" if share < 0.95 else "test", digest
