"""Models that count: probabilities that sum to one, by hand, and chosen on validation."""

import itertools
import math

import pytest

from course_utils.data.verses import load_corpus
from course_utils.language.ngrams import (
    END,
    START,
    AddK,
    best_add_k,
    best_kneser_ney,
    kneser_ney,
    nats,
)

SMALL = ["ab", "ab", "ac"]


@pytest.fixture(scope="module")
def tang():
    texts = load_corpus("tang")
    return texts._replace(train=texts.train[:1500], validation=texts.validation[:100])


def orders(documents, alphabet, most):
    return list(itertools.islice(kneser_ney(documents, alphabet), most))


@pytest.mark.parametrize("context", [START, "", "月", "明月", START + "明月", "\n", "床前明月光", "龘龘"])
def test_probabilities_sum_to_one(tang, context):
    every = [*tang.alphabet, END]
    counted = [AddK(tang.train, tang.alphabet, order, k) for order, k in ((1, 1.0), (3, 0.01))]
    for model in (*counted, *orders(tang.train, tang.alphabet, 4)):
        shares = [model.probability(context, character) for character in every]
        assert math.fsum(shares) == pytest.approx(1, abs=1e-9)
        assert min(shares) > 0


def test_add_k_by_hand():
    unigram, bigram = (AddK(SMALL, "abc", order, 0.5) for order in (1, 2))
    assert unigram.probability("a", "b") == 2.5 / (9 + 2)  # nine characters are guessed, three ends among them
    assert bigram.probability(START, "a") == 3.5 / (3 + 2)
    assert bigram.probability("xa", "b") == 2.5 / (3 + 2)
    assert bigram.probability("b", END) == 2.5 / (2 + 2)


def test_kneser_ney_by_hand():
    """Pairs: ^a 3, ab 2, b$ 2, ac 1, c$ 1: n1 = n2 = 2, n3 = 1. Before a, b, c stands one character; before $, two."""
    model = orders(SMALL, "abc", 2)[1]
    assert model.levels[1].discounts == [0.0, pytest.approx(1 / 3), 1.5, pytest.approx(1 / 3)]
    assert model.levels[0].discounts == pytest.approx([0.0, 0.6, 0.6, 0.6])
    shorter = (1 - 0.6 + 2.4 / 4) / 5  # of a, b or c, without a context
    assert model.probability("a", "b") == pytest.approx((2 - 1.5 + (1.5 + 1 / 3) * shorter) / 3)
    assert model.probability("a", "a") == pytest.approx((1.5 + 1 / 3) * shorter / 3)
    assert model.probability("never", "b") == pytest.approx(shorter)


def test_what_follows_one_character_only_is_not_expected_elsewhere():
    """y is as common as x, and only ever after q; after something new, x is the better guess."""
    documents = [f"{letter}x" for letter in "abcdefgh"] + ["qy"] * 8
    model = orders(documents, "abcdefghqxyz", 2)[1]
    assert model.probability("z", "x") > 3 * model.probability("z", "y")
    assert model.probability("q", "y") > 0.5


def test_nats_are_those_of_all_characters_and_the_end():
    model = AddK(SMALL, "abc", 2, 0.5)
    expected = -math.log(3.5 / 5) - math.log(1.5 / 5) - math.log(1.5 / 3)
    assert nats(model, ["ac"]) == [pytest.approx(expected)]


def test_k_and_order_are_those_of_the_fewest_nats(tang):
    found = best_add_k(tang.train, tang.alphabet, 2, tang.validation)
    least = sum(nats(found, tang.validation))
    for k in (10 * found.k, found.k / 10):
        assert sum(nats(AddK(tang.train, tang.alphabet, 2, k), tang.validation)) > least
    best = best_kneser_ney(tang.train, tang.alphabet, tang.validation)
    sums = [sum(nats(model, tang.validation)) for model in orders(tang.train, tang.alphabet, best.order + 1)]
    assert sums[best.order - 1] == pytest.approx(min(sums))
    assert min(sums) < least
