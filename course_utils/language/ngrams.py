"""What a language model has to beat: models that count which character followed which.

All of them give the probability of a character after the ``order - 1`` before it, and of the end of a text, which is
one character more. A context reaches back to the beginning of its document at most.

Sources: Kneser-Ney: Ney, Essen and Kneser 1994, *On structuring probabilistic dependences in
stochastic language modelling*; interpolated, with three discounts: Chen and Goodman 1999, *An empirical study of
smoothing techniques for language modeling*, who found it the best of those that only count.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

START, END = "\x02", "\x03"  # the control characters "start of text" and "end of text", which no document holds
KS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
MOST_ORDERS = 8


class NGrams(Protocol):
    """A model that counts."""

    order: int

    def probability(self, context: str, character: str) -> float:
        """Of ``character``, or :data:`END`, after ``context``, which begins with :data:`START` or is cut anywhere."""


class AddK:
    """``(count + k) / (count of the context + k V)``: each of the V characters counts k times more than it was seen.

    Args:
        documents: the texts that are counted.
        alphabet: all characters there are.
        order: characters of an n-gram; 1 knows no context.
    """

    def __init__(self, documents: Iterable[str], alphabet: Sequence[str], order: int, k: float) -> None:
        self.order, self.k, self.size = order, k, len(alphabet) + 1  # and END
        self.grams = Counter[str]()
        self.contexts = Counter[str]()
        for document in documents:
            text = START + document + END
            found = [text[max(0, i - order + 1) : i + 1] for i in range(1, len(text))]
            self.grams.update(found)
            self.contexts.update(gram[:-1] for gram in found)

    def probability(self, context: str, character: str) -> float:
        """See :class:`NGrams`."""
        context = last(context, self.order - 1)
        return (self.grams[context + character] + self.k) / (self.contexts[context] + self.k * self.size)


class KneserNey:
    """Interpolated Kneser-Ney with three discounts; :func:`kneser_ney` makes one of each order.

    Each count is lowered by a discount (by one of three: of counts of 1, of 2, and of more), and what that frees goes
    to the same question with a context that is one character shorter. In these shorter ones an n-gram counts as often
    as there are different characters *before* it: "Francisco" is common, but only after "San", so after anything else
    it is not to be expected.

    Args:
        levels: the n-grams of one character, of two, ...
        size: how many characters there are, :data:`END` among them.
    """

    def __init__(self, levels: Sequence[Level], size: int) -> None:
        self.levels, self.order, self.size = levels, len(levels), size

    def probability(self, context: str, character: str) -> float:
        """See :class:`NGrams`."""
        context = last(context, self.order - 1)
        p = 1 / self.size
        for n, level in enumerate(self.levels[: len(context) + 1]):
            p = level.probability(last(context, n), character, p)
        return p


def kneser_ney(documents: Iterable[str], alphabet: Sequence[str]) -> Iterator[KneserNey]:
    """Models of the orders 1, 2, 3, ... of the same texts."""
    texts = [START + document + END for document in documents]
    shorter = list[Level]()
    counts = Counter(character for text in texts for character in text[1:])
    for order in itertools.count(1):
        yield KneserNey([*shorter, Level(counts)], len(alphabet) + 1)
        longer = Counter(text[i : i + order + 1] for text in texts for i in range(len(text) - order))
        before = Counter(gram[1:] for gram in longer)  # how many different characters
        # What opens a text has nothing before it, and keeps its count.
        shorter.append(Level({gram: c if gram[0] == START else before[gram] for gram, c in counts.items()}))
        counts = longer


class Level:
    """The n-grams of one length, discounted."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = counts
        of = Counter(counts.values())  # how many n-grams were seen once, twice, ...
        # Ney's single discount; of very few n-grams it may be 0 or 1, and then a half is as good.
        one = of[1] / (of[1] + 2 * of[2]) if of[1] and of[2] else 0.5
        chen = [n - (n + 1) * one * of[n + 1] / of[n] if of[n] else 0.0 for n in (1, 2, 3)]
        self.discounts = [0.0, *(d if 0 < d < n else one for n, d in enumerate(chen, start=1))]
        self.totals, self.freed = defaultdict[str, int](int), defaultdict[str, float](float)
        for gram, count in counts.items():
            self.totals[gram[:-1]] += count
            self.freed[gram[:-1]] += self.discounts[min(count, 3)]

    def probability(self, context: str, character: str, shorter: float) -> float:
        """``shorter`` is the answer for the context that is one character shorter."""
        if not (total := self.totals.get(context)):
            return shorter
        count = self.counts.get(context + character, 0)
        return (count - self.discounts[min(count, 3)] + self.freed[context] * shorter) / total


def last(text: str, number: int) -> str:
    """Its last so many characters; a slice from ``-0`` on would be all of them."""
    return text[max(0, len(text) - number) :]


def nats(model: NGrams, documents: Iterable[str]) -> list[float]:
    """Of each document: minus the logarithm of its probability, its end included."""
    sums = []
    for document in documents:
        text = START + document + END
        sums.append(
            -sum(math.log(model.probability(text[max(0, i - model.order) : i], text[i])) for i in range(1, len(text)))
        )
    return sums


def best_add_k(train: Sequence[str], alphabet: Sequence[str], order: int, validation: Sequence[str]) -> AddK:
    """The k of :data:`KS` with which validation texts are most probable."""
    model = AddK(train, alphabet, order, KS[0])
    found = {}
    for k in KS:
        model.k = k
        found[k] = sum(nats(model, validation))
    model.k = min(found, key=found.__getitem__)
    return model


def best_kneser_ney(train: Sequence[str], alphabet: Sequence[str], validation: Sequence[str]) -> KneserNey:
    """Of the orders up to :data:`MOST_ORDERS`, the first after which validation texts are no more probable."""
    models = itertools.islice(kneser_ney(train, alphabet), MOST_ORDERS)
    best, least = next(models), math.inf
    for model in models:
        if (found := sum(nats(model, validation))) >= least:
            break
        best, least = model, found
    return best
