"""13.1: cut images into patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check
from course_utils.models import patchify

Rng = np.random.Generator

check_cut_into_patches = Check(
    "vit_from_scratch.1", "cut_into_patches", parameters=("images", "patch_height", "patch_width")
)


def _images(rng: Rng, *shape: int) -> Tensor:
    """Every pixel another whole number, so that a misplaced one cannot pass for its neighbour."""
    return torch.from_numpy(rng.permutation(int(np.prod(shape))).astype(np.float32)).view(shape)


def _mistakes(images: Tensor, ph: int, pw: int) -> dict[str, Tensor]:
    """What known mistakes make of the images: the sentence that explains each -> its result."""
    batch, channels, height, width = images.shape
    rows, columns = height // ph, width // pw
    cells = images.view(batch, channels, rows, ph, columns, pw)
    inner, numbers = (rows * columns, channels * ph * pw), images.numel() // batch
    return {
        "A reshape alone cuts the image into strips: the pixels of a patch do not lie side by side in memory. "
        "Split height and width first, then permute.": images.reshape(batch, *inner),
        "Within a patch the channels come last here. A convolution's weight is [D, C, ph, pw]: channel first.":
            cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, *inner),
        "The patches are in the order of columns here. Number them row by row.":
            cells.permute(0, 4, 2, 1, 3, 5).reshape(batch, *inner),
        "Each patch is transposed here: its own rows come before its columns.":
            cells.permute(0, 2, 4, 1, 5, 3).reshape(batch, *inner),
        "This is unfold's [B, C * ph * pw, P] read as [B, P, C * ph * pw]: transpose it, do not reshape it.":
            cells.permute(0, 1, 3, 5, 2, 4).reshape(batch, numbers).reshape(batch, *inner),
    }  # fmt: skip


def _cuts(answer: Answer, images: Tensor, ph: int, pw: int) -> None:
    given = f"{answer.name}(images of shape {tuple(images.shape)}, {ph}, {pw})"
    answer.expect(patchify(images, (ph, pw)), images, ph, pw, given=given, suspects=_mistakes(images, ph, pw))


@check_cut_into_patches.point(
    "one grey image: patches row by row, and so are the pixels in each",
    hint="Patch 1 lies to the right of patch 0, and patch 0 holds the upper left corner.",
)
def _(answer: Answer, rng: Rng) -> None:
    patch = int(rng.integers(2, 5))
    _cuts(answer, _images(rng, 1, 1, 3 * patch, 4 * patch), patch, patch)


@check_cut_into_patches.point(
    "several channels: the numbers of a patch are in the order of a convolution's weight",
    hint="All numbers of channel 0, then all of channel 1: a patch is [C, ph, pw], flattened.",
)
def _(answer: Answer, rng: Rng) -> None:
    patch, channels = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    _cuts(answer, _images(rng, 1, channels, 2 * patch, 3 * patch), patch, patch)


@check_cut_into_patches.point(
    "patches that are higher than wide, and wider than high",
    hint="Height goes with patch_height, width with patch_width: do not use one for both.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ph, pw in ((2, 5), (3, 1), (1, 4)):
        _cuts(answer, _images(rng, 1, 3, 5 * ph, 2 * pw), ph, pw)


@check_cut_into_patches.point(
    "a batch: each image keeps its own patches",
    hint="Leave the first dimension alone in every step.",
)
def _(answer: Answer, rng: Rng) -> None:
    batch = int(rng.integers(2, 6))
    _cuts(answer, _images(rng, batch, 2, 4, 6), 2, 3)
    _cuts(answer, _images(rng, batch, 2, 6, 4).transpose(2, 3), 2, 3)  # pixels that do not lie in order in memory


@check_cut_into_patches.point(
    "an image that the patches do not fill is a ValueError that names its size",
    hint="Where height % patch_height or width % patch_width is not 0, raise ValueError with the size that is wrong.",
)
def _(answer: Answer, rng: Rng) -> None:
    for height, width, wrong in ((31, 12, 31), (12, 35, 35)):
        images = _images(rng, 2, 3, height, width)
        given = ("given", f"{answer.name}(images of shape {tuple(images.shape)}, 4, 6)")
        try:
            got = answer.function(images, 4, 6)
        except ValueError as error:
            if str(wrong) not in str(error):
                said = ("raised", f"ValueError: {error}")
                raise NotOk(given, said, hint=f"Name the size that is wrong: {wrong}.") from None
        except Exception as error:
            raise NotOk(given, ("expected", "ValueError"), ("raised", f"{type(error).__name__}: {error}")) from None
        else:
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise NotOk(given, ("expected", "ValueError"), ("got", f"a result, {shape}: pixels were dropped or moved"))
