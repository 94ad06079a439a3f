"""Every published number beside ours; what was said not to close does not, and the page is made of them."""

from __future__ import annotations

import pytest

from course_utils.hybrid.report import MEMORY_ERROR, TIME_ERROR
from course_utils.published import Check, all_checks, page
from course_utils.published.memory import peaks, playbook
from course_utils.published.speed import times
from tools.contents import ROOT

CHECKS = all_checks()


@pytest.mark.parametrize("check", CHECKS, ids=[check.what for check in CHECKS])
def test_a_published_number_closes_or_does_not_as_is_said(check: Check) -> None:
    assert check.source
    assert check.agrees == check.closes, f"{check.ours} for {check.published}: {check.ratio:.4f}"
    assert check.closes or check.remark, "what does not close is explained"


def test_no_number_stands_twice() -> None:
    assert len({check.what for check in CHECKS}) == len(CHECKS) > 80


def test_plots_agree_to_every_digit() -> None:
    exact = [check for check in playbook() if not check.within]
    assert len(exact) == 16
    assert all(check.ours == check.published for check in exact)


def test_the_errors_that_the_command_prints_are_those_of_the_page() -> None:
    for printed, checks in ((MEMORY_ERROR, peaks()), (TIME_ERROR, times())):
        ratios = [check.ratio for check in checks]
        assert min(ratios) - 0.01 < printed[0] <= min(ratios)
        assert max(ratios) <= printed[1] < max(ratios) + 0.01


def test_the_page_of_the_book_is_what_the_package_says() -> None:
    """Made by ``python -m course_utils.published > book/other_peoples_numbers.md``."""
    text = (ROOT / "book" / "other_peoples_numbers.md").read_text("utf8")
    assert text == page()
    assert text.count("\n| ") == len(CHECKS) + 9  # a heading for each table
