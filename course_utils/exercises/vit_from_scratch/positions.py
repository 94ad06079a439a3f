"""13.3: stretch a position table from one grid to another."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check
from course_utils.models import interpolate_positions

Rng = np.random.Generator
Grid = tuple[int, int]

check_stretch_positions = Check("vit_from_scratch.3", "stretch_positions", parameters=("table", "old", "new"))
TOLERANCE = 1e-5


def _table(rng: Rng, grid: Grid, width: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=(1, 1 + grid[0] * grid[1], width)).astype(np.float32))


def _resize(picture: Tensor, new: Grid, **options: object) -> Tensor:
    mode = {"mode": "bicubic", "align_corners": False, **options}
    if mode["mode"] == "nearest":
        mode.pop("align_corners")
    return F.interpolate(picture, size=new, **mode)  # type: ignore[arg-type]


def _mistakes(table: Tensor, old: Grid, new: Grid) -> dict[str, Tensor]:
    """What known mistakes make of the table: the sentence that explains each -> its result."""
    token, patches = table[:, :1], table[:, 1:]
    width = table.shape[-1]
    picture = patches.unflatten(1, old).permute(0, 3, 1, 2)  # [1, D, rows, columns]

    def joined(picture: Tensor) -> Tensor:
        return torch.cat([token, picture.flatten(2).transpose(1, 2)], dim=1)

    mixed = _resize(patches.reshape(1, width, *old), new)
    mistakes = {
        "reshape(1, D, rows, columns) mixes the channels: the table is [rows * columns, D]. Split the rows first, "
        "then permute D to the front.": joined(mixed),
        "Reshaping in and out keeps the shape, but not what belongs together: split, then permute.":
            torch.cat([token, mixed.reshape(1, -1, width)], dim=1),
        "The channels are mixed on the way back: flatten the grid, then transpose.": torch.cat(
            [token, _resize(picture, new).reshape(1, -1, width)], dim=1
        ),
        "That is bilinear interpolation; the task asks for bicubic.": joined(_resize(picture, new, mode="bilinear")),
        "That is the nearest neighbour; the task asks for bicubic.": joined(_resize(picture, new, mode="nearest")),
        "The corners are aligned here: align_corners must be False.": joined(_resize(picture, new, align_corners=True)),
        "This is antialiased; the task asks for the plain interpolation.": joined(
            _resize(picture, new, antialias=True)
        ),
        "The class token's row has become part of the picture, or was lost: take it off first, put it back in front.":
            torch.cat([joined(_resize(picture, new))[:, 1:], token], dim=1),
        "The class token's row comes back as zeros: it must stay as it was.":
            torch.cat([torch.zeros_like(token), joined(_resize(picture, new))[:, 1:]], dim=1),
    }  # fmt: skip
    if old[0] != old[1]:
        swapped = patches.unflatten(1, (old[1], old[0])).permute(0, 3, 1, 2)
        mistakes["Rows and columns of the old grid are swapped here: it is (down, across)."] = joined(
            _resize(swapped, new)
        )
    return mistakes


def _stretches(answer: Answer, table: Tensor, old: Grid, new: Grid) -> None:
    want = interpolate_positions(table, old, new, antialias=False)
    given = f"{answer.name}(table of shape {tuple(table.shape)}, {old}, {new})"
    suspects = _mistakes(table, old, new)
    answer.expect(want, table, old, new, given=given, suspects=suspects, rtol=TOLERANCE, atol=TOLERANCE)


@check_stretch_positions.point(
    "from a square grid to a larger one",
    hint="Read the patches' rows as a picture [1, D, rows, columns], stretch it with F.interpolate, and go back.",
)
def _(answer: Answer, rng: Rng) -> None:
    side = int(rng.integers(3, 6))
    _stretches(answer, _table(rng, (side, side), 6), (side, side), (side + 4, side + 4))


@check_stretch_positions.point(
    "grids that are not square",
    hint="Take rows and columns from old and new; a square root finds neither.",
)
def _(answer: Answer, rng: Rng) -> None:
    for old, new in (((3, 5), (6, 4)), ((2, 8), (5, 5)), ((4, 4), (3, 9))):
        _stretches(answer, _table(rng, old, int(rng.integers(3, 8))), old, new)


@check_stretch_positions.point(
    "to a smaller grid, and to one of equal size but other shape",
    hint="Shrinking is interpolation too. A grid of as many patches may still be another grid: compare the pairs.",
)
def _(answer: Answer, rng: Rng) -> None:
    for old, new in (((6, 6), (4, 4)), ((4, 9), (6, 6)), ((3, 4), (4, 3))):
        _stretches(answer, _table(rng, old, 5), old, new)


@check_stretch_positions.point(
    "each channel is a picture of its own",
    hint="A channel that is the same everywhere must stay so. Permute, do not reshape, to bring D before the grid.",
)
def _(answer: Answer, rng: Rng) -> None:
    table = _table(rng, (4, 4), 3)
    table[:, 1:] = table[:, 1:2]  # three channels, each the same at all patches
    _stretches(answer, table, (4, 4), (7, 5))
    _stretches(answer, _table(rng, (5, 5), 1), (5, 5), (8, 8))
