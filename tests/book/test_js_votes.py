"""What the interactive figure counts, against the package's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from figure_page import figure_page
from playwright.sync_api import Browser, Page

from course_utils.data.news import LABELS_ENGLISH
from course_utils.news.evaluate import report
from course_utils.news.study import LETTERS

TITLES = 90


def drawn(seed: int) -> dict[str, list[int]]:
    """Answers of three ways that are often right and disagree often; labels 16 and 17 do not occur."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 16, TITLES)
    ways = {name: np.where(rng.random(TITLES) < 0.5, truth, rng.integers(0, 18, TITLES)) for name in "xyz"}
    return {"truth": truth.tolist(), **{name: way.tolist() for name, way in ways.items()}}


def letters(numbers: list[int]) -> str:
    return "".join(LETTERS[number] for number in numbers)


def voted(ways: list[list[int]]) -> list[int]:
    """The commonest answer to each title; in a tie, that of the first way that gave one of the commonest."""
    chosen = []
    for answers in zip(*ways, strict=True):
        counts = Counter(answers)
        chosen.append(next(answer for answer in answers if counts[answer] == max(counts.values())))
    return chosen


@pytest.fixture(scope="module")
def data() -> dict[str, list[int]]:
    return drawn(0)


@pytest.fixture(scope="module")
def figure(browser: Browser, data: dict[str, list[int]]) -> Iterator[Page]:
    answers = {name: letters(data[name]) for name in "xyz"}
    shown = {"answers": answers, "truth": letters(data["truth"]), "labels": LABELS_ENGLISH, "ticked": ["x", "y"]}
    with figure_page(browser, "votes", shown) as page:
        yield page


@pytest.mark.parametrize("chosen", ["x", "xy", "xyz", "zy"])
def test_the_script_counts_what_the_package_does(figure: Page, data: dict[str, list[int]], chosen: str) -> None:
    together = voted([data[name] for name in chosen])
    call = "([ways, truth, labels]) => { const a = vote(ways); return [a, scores(truth, a, labels)]; }"
    got, scores = figure.evaluate(call, [[letters(data[n]) for n in chosen], letters(data["truth"]), LABELS_ENGLISH])
    assert got == letters(together)
    want = report(torch.tensor(data["truth"]), torch.tensor(together))
    assert scores["accuracy"] == pytest.approx(want.accuracy)
    assert scores["macroF1"] == pytest.approx(want.macro_f1)
    assert scores["f1"] == pytest.approx([row["f1"] for row in want.by_label.values()])
    counts = {(c["label"], c["answer"]): c["count"] for c in scores["confused"]}
    table = np.array(want.confusion)
    np.fill_diagonal(table, 0)
    assert counts == {(i, j): int(table[i, j]) for i, j in zip(*table.nonzero(), strict=True)}
    assert scores["confused"][0]["count"] == table.max()


def test_it_answers_to_its_boxes(figure: Page, data: dict[str, list[int]]) -> None:
    def right(*names: str) -> int:
        return sum(a == b for a, b in zip(voted([data[n] for n in names]), data["truth"], strict=True))

    headline, boxes = figure.locator("output.value"), figure.locator("input").all()
    assert headline.inner_text().startswith(f"{right('x', 'y')} of 90 titles right")
    same = sum(a == b for a, b in zip(data["x"], data["y"], strict=True))
    assert f"All 2 give the same answer to {same} titles" in figure.locator("output.note").inner_text()
    boxes[2].focus()
    figure.keyboard.press("Space")
    assert headline.inner_text().startswith(f"{right('x', 'y', 'z')} of 90 titles right")
    assert figure.locator(".share").count() == 18
    for box in boxes:
        box.uncheck()
    assert headline.inner_text() == "choose at least one"
