"""11.2: a batch in which each row has its own adapter."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.adapters_and_lora.low_rank import normal
from course_utils.exercises.adapters_and_lora.multiplications import multiplications
from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

check_row_by_row = Check("adapters_and_lora.2", "row_by_row", parameters=("x", "weight", "a", "b", "which"))
TOLERANCE = 1e-4


def _arguments(rng: Rng, which: list[int], adapters: int, inputs: int, outputs: int, rank: int) -> Arguments:
    x, weight = normal(rng, len(which), inputs), normal(rng, outputs, inputs)
    a, b = normal(rng, adapters, rank, inputs), normal(rng, adapters, outputs, rank)
    return x, weight, a, b, torch.tensor(which)


def _right(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, which: Tensor) -> Tensor:
    rows = [x[i] @ weight.T + (x[i] @ a[k].T @ b[k].T if k >= 0 else 0) for i, k in enumerate(which.tolist())]
    return torch.stack(rows)


def _serves(answer: Answer, arguments: Arguments) -> None:
    x, weight, a, b, which = arguments
    order = which.argsort(stable=True)
    suspects = {
        "Every row gets the adapter of the first row here.": _right(x, weight, a, b, which[:1].expand(len(x))),
        "A row with -1 gets the last adapter here, because -1 counts from the end: it wants none.":
            _right(x, weight, a, b, which % len(a)),
        "Every row gets all adapters here.": x @ weight.T + sum(x @ a[k].T @ b[k].T for k in range(len(a))),
        "No row gets an adapter here.": x @ weight.T,
        "The rows come back sorted by adapter: they must stand where they stood.": _right(*arguments)[order],
        "The frozen layer is missing: every row goes through it.": _right(*arguments) - x @ weight.T,
        "Rows with -1 come back as zeros: they still go through the frozen layer.":
            _right(*arguments) * (which >= 0)[:, None],
    }  # fmt: skip
    given = f"{answer.name} with x {tuple(x.shape)}, a {tuple(a.shape)}, b {tuple(b.shape)}, which={which.tolist()}"
    answer.expect(_right(*arguments), *arguments, given=given, suspects=suspects, rtol=TOLERANCE, atol=TOLERANCE)


@check_row_by_row.point(
    "one adapter for all rows",
    hint="x @ weight.T, and x through a[k] and b[k].",
)
def _(answer: Answer, rng: Rng) -> None:
    _serves(answer, _arguments(rng, [1, 1, 1], 2, 6, 5, 2))


@check_row_by_row.point(
    "each row its own, in any order",
    hint="a[which] is [M, r, in]: one matrix for each row. Then torch.einsum, or a matmul with x[..., None].",
)
def _(answer: Answer, rng: Rng) -> None:
    _serves(answer, _arguments(rng, [2, 0, 1, 0, 2], 3, 6, 5, 2))
    which = [int(k) for k in rng.integers(0, 4, 9)]
    _serves(answer, _arguments(rng, [*which, 3, 0], 4, 7, 3, int(rng.integers(1, 5))))


@check_row_by_row.point(
    "rows with -1 get the frozen layer alone",
    hint="Index with which.clamp(min=0), and multiply by (which >= 0), so that nothing is added to these rows.",
)
def _(answer: Answer, rng: Rng) -> None:
    _serves(answer, _arguments(rng, [1, -1, 0, -1, 2], 3, 6, 5, 2))
    _serves(answer, _arguments(rng, [-1, -1], 2, 6, 5, 2))


@check_row_by_row.point(
    "the frozen product is worked out once for each row, whatever the number of adapters",
    hint="One x @ weight.T for the whole batch; only the thin products depend on the row's adapter.",
)
def _(answer: Answer, rng: Rng) -> None:
    which = [int(k) for k in rng.integers(0, 6, 12)]
    arguments = _arguments(rng, [*which, 0, 5], 6, 64, 48, 2)
    _serves(answer, arguments)
    most, macs = 14 * (64 * 48 + 2 * (64 + 48)), multiplications(lambda: answer(*arguments))
    if macs > most:
        raise NotOk(("expected", f"at most {most:,} multiplications for 14 rows"), ("got", f"{macs:,}"))
