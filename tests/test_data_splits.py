"""A set cut in two: by label, seeded, and never through the same text."""

from __future__ import annotations

from collections import Counter

import pytest

from course_utils.data.splits import rare, stratified


def test_each_label_gives_its_share_from_a_file_sorted_by_label() -> None:
    labels = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    texts = [f"text {i}" for i in range(1000)]
    drawn = stratified(texts, labels, 100, seed=0)
    assert Counter(labels[row] for row in drawn) == {"a": 60, "b": 30, "c": 10}
    assert drawn == sorted(set(drawn)) == stratified(texts, labels, 100, seed=0)
    assert drawn != stratified(texts, labels, 100, seed=1)


@pytest.mark.parametrize(("each", "wanted"), [(3, 600), (5, 1000), (2, 400)])
def test_two_thousand_labels_with_few_texts_each_give_the_number_asked_for(each: int, wanted: int) -> None:
    """Rounded label by label a tenth of three would be none at all."""
    labels = [str(i) for i in range(2000) for _ in range(each)]
    drawn = stratified([str(i) for i in range(len(labels))], labels, wanted, seed=3)
    assert len(drawn) == wanted
    assert max(Counter(labels[row] for row in drawn).values()) == 1


def test_a_label_keeps_one_text_at_least() -> None:
    drawn = stratified(list("abcdef"), ["x", "x", "y", "y", "z", "z"], 6, seed=0)
    assert Counter("xxyyzz"[row] for row in drawn) == {"x": 1, "y": 1, "z": 1}
    assert stratified(list("ab"), ["x", "y"], 1, seed=0) == []


def test_a_text_is_on_one_side_with_all_its_rows() -> None:
    texts = [f"text {i % 50}" for i in range(200)]
    labels = ["a" if i % 50 < 25 else "b" for i in range(200)]
    drawn = set(stratified(texts, labels, 40, seed=0))
    assert len(drawn) == 40
    assert not {texts[row] for row in drawn} & {texts[row] for row in range(200) if row not in drawn}


def test_the_rows_of_one_label_do_not_move_those_of_another() -> None:
    labels = ["a"] * 50 + ["b"] * 50
    texts = [str(i) for i in range(100)]
    first = stratified(texts, labels, 20, seed=0)
    other = stratified([*texts, "new"], [*labels, "b"], 20, seed=0)
    assert [row for row in first if row < 50] == [row for row in other if row < 50]


def test_labels_that_are_rare_are_counted() -> None:
    assert rare(["a", "b", "a", "c", "a"], 2) == {"b": 1, "c": 1}
    with pytest.raises(ValueError, match="expected 0 to 2"):
        stratified(["a", "b"], ["x", "x"], 3, seed=0)
