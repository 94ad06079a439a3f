r"""Byte-pair encoding: pieces of bytes that a text taught, the commonest pair of neighbours merged again and again.

Every text has a spelling, for every byte has an id. A text is first cut into words, which no piece reaches across: runs
of letters, of digits or of other marks, each with one space before it if there is one, and runs of spaces. Merges and
ids are those of the library ``tokenizers`` (``tests/test_data_tokenizers.py``).

Source: Sennrich, Haddow and Birch 2016, arXiv:1508.07909; on bytes: Radford et al. 2019, *Language Models are
Unsupervised Multitask Learners* (GPT-2).
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

from course_utils.data.tokenizer import known

Pair = tuple[int, int]
WORDS = r" ?[^\W\d_]+| ?\d+| ?[^\w\s]+| ?_+|\s+"
# GPT-2's order of the bytes, which decides between pairs that are equally common: those that Latin-1 can print first.
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTES = (*PRINTABLE, *(value for value in range(256) if value not in PRINTABLE))
IDS = bytes(BYTES.index(value) for value in range(256))  # the id of each byte


class BytePairs:
    """Ids 0 to 255 are the bytes in GPT-2's order, then one for each merge in its order; then the end of a text.

    Args:
        merges: pairs of ids; the first makes the id 256, the next 257, ...
    """

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.merges = [(int(a), int(b)) for a, b in merges]
        self._made = {pair: 256 + number for number, pair in enumerate(self.merges)}
        self._bytes = [bytes([value]) for value in BYTES]
        for number, (a, b) in enumerate(self.merges):
            if not 0 <= min(a, b) <= max(a, b) < 256 + number:
                raise ValueError(
                    f"merge {number} is of {a} and {b}, expected ids that are made before, 0 to {255 + number}"
                )
            self._bytes.append(self._bytes[a] + self._bytes[b])
        self._word = lru_cache(maxsize=1 << 16)(self._encode_word)  # the same words come again and again

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn from texts: merge the commonest pair (of equally common ones, that of the smallest ids), count again.

        Only words in which the merged pair stood are counted anew.

        Args:
            vocab_size: bytes, merges and the end of a text together; fewer come out if no pair is left to merge.
        """
        if vocab_size < 257:
            raise ValueError(f"vocab_size is {vocab_size}, expected 257 or more: 256 bytes and the end of a text")
        times = Counter(word for text in texts for word in re.findall(WORDS, text))
        words = [list(word.encode().translate(IDS)) for word in times]
        weights = list(times.values())
        counts, where = Counter[Pair](), defaultdict[Pair, set[int]](set)  # pair -> how often, and in which words
        for number, (word, weight) in enumerate(zip(words, weights, strict=True)):
            for pair in pairwise(word):
                counts[pair] += weight
                where[pair].add(number)
        merges = list[Pair]()
        heap = [(-count, pair) for pair, count in counts.items()]
        heapq.heapify(heap)
        while len(merges) < vocab_size - 257 and heap:
            count, best = heapq.heappop(heap)
            if -count != counts[best]:  # it was merged, or its count has changed since: a later entry holds the new one
                continue
            change = Counter[Pair]()
            for number in where.pop(best):
                before, after = words[number], merge(words[number], best, 256 + len(merges))
                if len(after) < len(before):
                    for pair in pairwise(before):
                        change[pair] -= weights[number]
                    for pair in pairwise(after):
                        change[pair] += weights[number]
                        where[pair].add(number)
                    words[number] = after
            for pair, difference in change.items():
                counts[pair] += difference
                if difference and counts[pair]:
                    heapq.heappush(heap, (-counts[pair], pair))
            merges.append(best)
        return cls(merges)

    @property
    def vocab_size(self) -> int:
        """See :class:`~course_utils.data.tokenizer.Tokenizer`."""
        return len(self._bytes) + 1

    @property
    def end(self) -> int:
        """See :class:`~course_utils.data.tokenizer.Tokenizer`."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """See :class:`~course_utils.data.tokenizer.Tokenizer`. Every text has ids."""
        return [piece for word in re.findall(WORDS, text) for piece in self._word(word)]

    def _encode_word(self, word: str) -> list[int]:
        """The earliest merge that fits, everywhere in the word, until none does."""
        pieces = list(word.encode().translate(IDS))
        while len(pieces) > 1:
            first = min(pairwise(pieces), key=lambda pair: self._made.get(pair, len(self._bytes)))
            if first not in self._made:
                break
            pieces = merge(pieces, first, self._made[first])
        return pieces

    def decode(self, ids: Iterable[int]) -> str:
        """See :class:`~course_utils.data.tokenizer.Tokenizer`. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes[i] for i in known(ids, self) if i != self.end).decode(errors="replace")

    def content(self) -> dict[str, Any]:
        """See :class:`~course_utils.data.tokenizer.Tokenizer`."""
        return {"kind": "bpe", "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`content`."""
        return cls(content["merges"])


def merge(pieces: Sequence[int], pair: Pair, made: int) -> list[int]:
    """``pieces`` with each ``pair`` of neighbours, from the left, replaced by the id ``made``."""
    merged = list[int]()
    i = 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            merged.append(made)
            i += 2
        else:
            merged.append(pieces[i])
            i += 1
    return merged
