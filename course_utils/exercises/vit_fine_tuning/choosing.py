"""14.3: which epoch is reported, and with which accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = NDArray[np.float64]

check_report_best = Check("vit_fine_tuning.3", "report_best", parameters=("validation", "test"))


def _look(answer: Answer, validation: Array, test: Array) -> None:
    best = int(validation.argmax())
    want = (best + 1, float(test[best]))
    peak = int(test.argmax())
    last_tie = int(np.flatnonzero(validation == validation.max())[-1])
    suspects: dict[str, tuple[float, float]] = {
        "The test images chose this epoch. They may only report.": (peak + 1, test[peak]),
        "The epoch is right, and the accuracy is another epoch's: the best on the test images.": (best + 1, test[peak]),
        "This is the validation accuracy. It chose, so it flatters: report the test accuracy of that epoch.":
            (best + 1, validation[best]),
        "Of several best epochs take the first: the later ones cost more and gained nothing.":
            (last_tie + 1, test[last_tie]),
        "Epochs are counted from 1.": (best, test[best]),
        "That is the last epoch, not the best on the validation images.": (len(test), test[-1]),
        "The two numbers chose together. Only the validation images may choose.":
            (int((validation + test).argmax()) + 1, test[int((validation + test).argmax())]),
        "That is the worst epoch on the validation images.": (int(validation.argmin()) + 1, test[validation.argmin()]),
    }  # fmt: skip
    got: Any = answer(validation, test)
    if not isinstance(got, tuple) or len(got) != 2 or any(np.ndim(part) != 0 or isinstance(part, str) for part in got):
        raise NotOk(
            ("expected", "a pair: (epoch, accuracy)"),
            ("got", f"{type(got).__name__} {brief(got)}"),
            hint="Return both: return epoch, accuracy.",
        )

    def equal(value: tuple[float, float]) -> bool:
        return int(got[0]) == int(value[0]) and bool(np.isclose(float(got[1]), float(value[1]), rtol=1e-9))

    if not (all(np.isfinite(float(part)) for part in got) and equal(want)):
        finite = all(np.isfinite(float(part)) for part in got)
        hint = next((s for s, value in suspects.items() if finite and equal(value)), "")
        shown = [f"{answer.name}({', '.join(str(np.round(a, 3).tolist()) for a in (validation, test))})"]
        raise NotOk(
            ("given", shown[0]),
            ("expected", f"({want[0]}, {want[1]:.3f})"),
            ("got", f"({brief(got[0])}, {brief(got[1])})"),
            hint=hint,
        )


def _curves(rng: Rng, epochs: int, best: int, peak: int) -> tuple[Array, Array]:
    """Accuracies of which validation is best at ``best``, test at ``peak``, and their sum at a third; none is last."""
    validation, test = (rng.choice(np.arange(300, 700), epochs, replace=False) / 1000 for _ in range(2))
    validation[best], test[peak] = 0.81, 0.93
    third = next(epoch for epoch in range(epochs) if epoch not in (best, peak))
    validation[third], test[third] = 0.80, 0.92
    return validation, test


@check_report_best.point(
    "the validation images choose",
    hint="Find the epoch of the largest validation accuracy; report the test accuracy of that epoch.",
)
def _(answer: Answer, rng: Rng) -> None:
    _look(answer, *_curves(rng, 6, best=1, peak=4))


@check_report_best.point(
    "any number of epochs, any place",
    hint="Look at the validation accuracies alone until the epoch is chosen.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        epochs = int(rng.integers(5, 20))
        best, peak = (int(n) for n in rng.choice(epochs - 1, 2, replace=False))
        _look(answer, *_curves(rng, epochs, best, peak))


@check_report_best.point(
    "of equally good epochs the first",
    hint="argmax returns the first of several largest.",
)
def _(answer: Answer, rng: Rng) -> None:
    validation, test = _curves(rng, 9, best=2, peak=4)
    validation[6] = validation[2]
    _look(answer, validation, test)
