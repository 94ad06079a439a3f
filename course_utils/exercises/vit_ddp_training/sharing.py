"""15.1: a rank's share of each batch of an epoch, such that no batch depends on the number of ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Indices = NDArray[np.int64]

check_my_images = Check("vit_ddp_training.1", "my_images", parameters=("order", "batch", "ranks", "rank"))


def _shares(answer: Answer, order: Indices, batch: int, ranks: int) -> list[Indices]:
    """What each rank gets, of the right shape and made of images of the epoch: [steps, batch / ranks] each."""
    shape, shares = (len(order) // batch, batch // ranks), []
    for rank in range(ranks):
        got = answer(order, batch, ranks, rank)
        given = ("given", f"{len(order)} images, batch {batch}, ranks {ranks}, rank {rank}")
        if not isinstance(got, np.ndarray) or got.shape != shape:
            found = f"shape {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
            hint = ""
            if isinstance(got, np.ndarray) and got.ndim == 2 and got.shape[1] == batch and ranks > 1:
                hint = "`batch` is that of all ranks together: each has batch // ranks images of it."
            elif isinstance(got, np.ndarray) and got.ndim == 2 and got.shape[0] > shape[0]:
                hint = "The last batch is not full: it is left out, so that all ranks take equally many steps."
            raise NotOk(given, ("expected", f"an array of shape {shape}"), ("got", found), hint=hint)
        if strange := sorted(set(got.ravel().tolist()) - set(order.tolist())):
            raise NotOk(
                given, ("expected", "images of this epoch, from `order`"), ("got", str(strange[0])),
                hint="Return the images, order[i], and not their places i.",
            )  # fmt: skip
        shares.append(got)
    return shares


def _same_batches(answer: Answer, order: Indices, batch: int, ranks: int) -> None:
    """At every step the ranks together hold the batch that one rank would."""
    shares = _shares(answer, order, batch, ranks)
    for step in range(len(order) // batch):
        want = sorted(order[step * batch : (step + 1) * batch].tolist())
        got = sorted(image for share in shares for image in share[step].tolist())
        if got == want:
            continue
        hint = "In step s the ranks together must hold order[s * batch : (s + 1) * batch], however many they are."
        if len(set(got)) < len(got):
            hint = "Some image is on two ranks: give rank r another part of the batch than the others."
        raise NotOk(
            ("given", f"{len(order)} images, batch {batch}, ranks {ranks}, step {step}"),
            ("expected", f"together the images {_short(want)}"),
            ("got", _short(got)),
            hint=hint,
        )


def _short(images: list[int]) -> str:
    return str(images) if len(images) <= 12 else f"{str(images[:12])[:-1]}, ...]"


def _order(rng: Rng, images: int) -> Indices:
    return rng.permutation(images * 3)[:images] + 1000


@check_my_images.point(
    "one rank: the batches of the epoch, in order", hint="order[: steps * batch] in rows of `batch`."
)
def _(answer: Answer, rng: Rng) -> None:
    batch, steps = int(rng.integers(3, 8)), int(rng.integers(2, 6))
    order = _order(rng, batch * steps)
    (share,) = _shares(answer, order, batch, 1)
    if not np.array_equal(share, order.reshape(steps, batch)):
        raise NotOk(
            ("given", f"order = {_short(order.tolist())}, batch {batch}, 1 rank"),
            ("expected", f"first batch {order[:batch].tolist()}"),
            ("got", str(share[0].tolist())),
        )


@check_my_images.point(
    "two and four ranks: together the same batches, step by step",
    hint="Cut the epoch into batches first, and then each batch into the shares of the ranks.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (2, 4):
        batch = ranks * int(rng.integers(2, 5))
        _same_batches(answer, _order(rng, batch * int(rng.integers(2, 6))), batch, ranks)


@check_my_images.point(
    "images that fill no batch are left out",
    hint="steps = len(order) // batch. The rest of the epoch is not used; the next epoch has another order.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (1, 3):
        batch = ranks * int(rng.integers(2, 5))
        _same_batches(answer, _order(rng, batch * int(rng.integers(2, 6)) + int(rng.integers(1, batch))), batch, ranks)
