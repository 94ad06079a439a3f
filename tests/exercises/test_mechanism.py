"""What every check does, whatever it asks: explain, stop, replay, and leave the learner's things alone."""

import random
import signal
import threading
import time

import numpy as np
import pytest
import torch

from course_utils.exercises import Answer, Check, CheckFailed, NotOk
from course_utils.exercises.limits import OutOfTime, run_limited
from course_utils.exercises.report import KEY

negate = Check("example.1", "negate", parameters=("x",), seconds=0.5)


@negate.point("every element changes its sign", hint="Look at the minus sign.")
def _(answer: Answer, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 1, 5))
    answer.expect(-x, x, suspects={"That is |x|.": abs(x), "That is x <again>.": x})


@negate.point("a tensor gives a tensor", hint="Use no function of NumPy.")
def _(answer: Answer, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=7).astype(np.float32))
    answer.expect(-x, x)


def right(x):
    return -x


def test_success_is_one_friendly_line():
    report = negate(right)
    assert repr(report) == "Exercise 1, negate: all 2 points. Well done."
    assert report.score == 1.0
    assert "<details>" in report._repr_html_()


def test_failure_says_what_is_right_what_is_not_and_where_to_look():
    with pytest.raises(CheckFailed) as failed:
        negate(lambda x: -np.asarray(x), seed=7)
    report = failed.value.report
    assert [outcome.status for outcome in report.outcomes] == ["ok", "not ok"]
    assert (report.points, report.score) == (1, 0.5)
    assert str(failed.value).splitlines() == [
        "Exercise 1, negate: 1 of 2 points",
        "  ok           every element changes its sign",
        "  not ok       a tensor gives a tensor",
        "               given     negate(tensor of shape (7,))",
        "               expected  a torch tensor of shape (7,)",
        "               got       ndarray",
        "               look at   Use no function of NumPy.",
        "  The inputs are new each time; check_negate(negate, seed=7) repeats these.",
    ]


def test_a_known_mistake_is_named_and_html_is_escaped():
    report = negate.report(lambda x: x * 1.0)
    assert report.outcomes[0].hint == "That is x <again>."
    assert "That is x &lt;again&gt;." in report._repr_html_()


def test_the_seed_replays_the_inputs_and_no_seed_gives_new_ones():
    def given(seed):
        return negate.report(abs, seed=seed).outcomes[0].details

    assert given(3) == given(3)
    assert len({given(None) for _ in range(4)}) > 1


def test_the_learners_line_is_shown():
    def wrong(x):
        first = x.sum()
        return first / undefined  # type: ignore[name-defined]  # noqa: F821

    line = wrong.__code__.co_firstlineno + 2
    details = dict(negate.report(wrong).outcomes[0].details)
    assert details["raised"] == "NameError: name 'undefined' is not defined"
    assert details["where"].startswith(f"line {line} of your code: return first / undefined")


@pytest.mark.parametrize("swallow", [False, True], ids=["plain", "with a bare except"])
def test_an_endless_loop_is_stopped_and_located(swallow):
    def plain(x):
        while True:
            time.sleep(0.001)

    def stubborn(x):
        turns = 0
        while turns < 2:  # the first alarm is swallowed, a later one is not
            try:
                while True:
                    time.sleep(0.001)
            except:  # noqa: E722
                turns += 1
        time.sleep(60)

    started = time.monotonic()
    report = negate.report(stubborn if swallow else plain)
    assert time.monotonic() - started < 10
    assert [outcome.status for outcome in report.outcomes] == ["not ok", "not reached"]
    details = dict(report.outcomes[0].details)
    assert details["took"] == "more than 0.5 s, then it was stopped"
    assert "of your code" in details["where"]


def test_an_endless_loop_is_stopped_outside_the_main_thread_too():
    stopped = []

    def body():
        try:
            run_limited(lambda: [time.sleep(0.001) for _ in iter(int, 1)], 0.3)
        except OutOfTime:
            stopped.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(10)
    assert stopped == [True]


def test_in_a_thread_results_and_errors_come_through():
    seen = []

    def body():
        seen.append(run_limited(lambda: 5, 5))
        try:
            run_limited(lambda: 1 / 0, 5)
        except ZeroDivisionError:
            seen.append("error")

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(10)
    assert seen == [5, "error"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm")
def test_somebody_elses_alarm_goes_on():
    handler_before = signal.getsignal(signal.SIGALRM)
    left_before, interval = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        negate(right)
        assert signal.getsignal(signal.SIGALRM) == handler_before
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] < 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_before, interval)


def test_arguments_must_be_left_alone():
    def in_place(x):
        x *= -1
        return x

    report = negate.report(in_place)
    assert report.points == 0
    assert ("changed", "argument 1") in report.outcomes[0].details
    assert ("changed", "argument 1") in report.outcomes[1].details  # a tensor


def test_prints_pass_through_warnings_do_not_and_the_global_seed_is_left_alone(capfd):
    def talkative(x):
        print("looking at", x.shape)
        np.array([1.0]) / np.array([0.0])
        return -x

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    report = negate(talkative)
    out, err = capfd.readouterr()
    assert out == "looking at (3, 1, 5)\nlooking at torch.Size([7])\n"
    assert err == ""  # nbgrader would take any for a failure
    assert report.warnings == ("RuntimeWarning: divide by zero encountered in divide",)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (3.0, "Give the check the function itself, without calling it: check_negate(negate)."),
        (lambda: 0, "The check calls negate(x), with its arguments in this order."),
        (lambda x: print(end=""), "Does negate end with `return`?"),
        (lambda x: [1.0], "got       list"),
        (lambda x: (-x)[0], "got       shape (1, 5)"),
        (lambda x: (-x).astype(np.float32), "got       dtype float32"),
        (lambda x: exit(), "raised    SystemExit"),
    ],
)
def test_what_cannot_be_compared_is_explained(answer, says):
    assert says in str(negate.report(answer))


def test_a_result_of_a_kind_the_check_did_not_expect_is_the_answers_fault():
    doubled = Check("example.2", "doubled", parameters=("x",))

    @doubled.point("twice", hint="")
    def _(answer: Answer, rng: np.random.Generator) -> None:
        if answer(2) + 1 != 5:
            raise NotOk(("got", "other"))

    assert "Is it of the kind the task asks for?" in str(doubled.report(lambda x: "4"))


def test_nbgrader_reads_the_number_of_points(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    report = negate(lambda x: -np.asarray(x))  # raises nothing here
    data, metadata = report._repr_mimebundle_()
    assert data["text/plain"] == "1"
    assert metadata[KEY]["points"] == 1


def test_tolerances_are_only_what_the_exercise_grants():
    def half(answer):
        check = Check("example.3", "half", parameters=("x",))

        @check.point("within 1e-6", hint="")
        def _(half: Answer, rng: np.random.Generator) -> None:
            half.expect(np.array([0.5, np.nan]), np.array([1.0, np.nan]), rtol=1e-6)

        return check.report(answer).passed

    assert half(lambda x: x / 2 * (1 + 1e-7))
    assert not half(lambda x: x / 2 * (1 + 1e-5))
    assert not half(lambda x: np.nan_to_num(x / 2))


def test_the_same_error_is_told_once():
    def broken(x):
        raise ValueError("no")

    first, second = negate.report(broken).outcomes
    assert ("raised", "ValueError: no") in first.details
    assert second.details == (("raised", "the same as above, in the same line"),)
    assert (first.status, second.status) == ("not ok", "not ok")
