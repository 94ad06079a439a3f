"""01.3: the gradient of a batch, in pieces."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check
from course_utils.exercises.memory_and_time.threads import one_thread
from course_utils.measure.live import LiveMemory

Rng = np.random.Generator
Loss = Callable[[Tensor, Tensor], Tensor]

check_accumulate = Check(
    "memory_and_time.3", "accumulate", parameters=("model", "loss_fn", "x", "y", "micro_batch"), seconds=20.0
)


def _network(rng: Rng, inputs: int, classes: int) -> nn.Module:
    torch.manual_seed(int(rng.integers(2**31)))
    hidden = int(rng.integers(20, 60))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()


def _batch(rng: Rng, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and samples whose last ones are unlike the others, so that their weight in the mean shows."""
    inputs, classes = int(rng.integers(5, 12)), int(rng.integers(3, 7))
    x = torch.from_numpy(rng.normal(size=(samples, inputs)))
    x[-max(1, samples // 8) :] *= 4
    return _network(rng, inputs, classes), x, torch.from_numpy(rng.integers(0, classes, samples))


def _gradient(model: nn.Module) -> Tensor:
    """All gradients in one vector; NaN where there is none."""
    return torch.cat(
        [(torch.full_like(p, torch.nan) if p.grad is None else p.grad).flatten() for p in model.parameters()]
    )


def _weighted(model: nn.Module, x: Tensor, y: Tensor, size: int, weights: list[float]) -> Tensor:
    """The gradient of a sum of the pieces' mean losses, each with a weight."""
    model = copy.deepcopy(model)
    model.zero_grad()
    for px, py, weight in zip(x.split(size), y.split(size), weights, strict=True):
        (F.cross_entropy(model(px), py) * weight).backward()
    return _gradient(model)


def _mistakes(model: nn.Module, x: Tensor, y: Tensor, size: int, before: Tensor) -> dict[str, Tensor]:
    sizes = [len(piece) for piece in x.split(size)]
    k, n = len(sizes), len(x)
    right = _weighted(model, x, y, size, [s / n for s in sizes])
    means = _weighted(model, x, y, size, [1 / k] * k)
    return {
        "The loss of each piece is a mean already; here they are added up. Weigh each by its share of the samples.":
            _weighted(model, x, y, size, [1.0] * k),
        "That is the mean of the pieces' means. Their sizes differ, so their weights must: len(piece) / len(x).": means,
        "The last piece counts as if it were full here: weigh it by its own length.":
            _weighted(model, x, y, size, [size / n] * k),
        "Here only the last piece is left: did you clear the gradients between the pieces?":
            _weighted(model, x, y, size, [0.0] * (k - 1) + [sizes[-1] / n]),
        "Here the last piece of the batch is missing. It may be smaller than the others.":
            _weighted(model, x, y, size, [*(s / n for s in sizes[:-1]), 0.0]),
        "These are the new gradients on top of old ones: clear the gradients before the first piece.": right + before,
    }  # fmt: skip


def _right(answer: Answer, rng: Rng, samples: int, size: int, *, stale: bool = False) -> None:
    model, x, y = _batch(rng, samples)
    before = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    if stale:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        before += 1
    given = (
        "given",
        f"{samples} samples, micro_batch {size}" + (", and gradients of the step before" if stale else ""),
    )
    want = _weighted(model, x, y, size, [len(piece) / samples for piece in x.split(size)])
    mistakes = _mistakes(model, x, y, size, before)
    loss = answer(model, F.cross_entropy, x, y, size)
    got = _gradient(model)
    if got.isnan().any():
        raise NotOk(given, ("got", "parameters without a gradient"), hint="Call backward() on the loss of each piece.")
    if not torch.allclose(got, want, rtol=1e-9, atol=1e-12):
        error = ((got - want).norm() / want.norm()).item()
        hint = next((s for s, m in mistakes.items() if torch.allclose(got, m, rtol=1e-9, atol=1e-12)), "")
        raise NotOk(given, ("expected", "the gradient of the mean over all samples"),
                    ("got", f"one that differs by {error:.2g} of its length"), hint=hint)  # fmt: skip
    if not isinstance(loss, float):
        hint = "A loss that is still a tensor holds on to its graph: add up loss.item()."
        raise NotOk(given, ("expected", "a float"), ("got", type(loss).__name__), hint=hint)
    mean = F.cross_entropy(model(x), y).item()
    Answer(lambda: loss, answer.name).expect(mean, given=given[1] + "; the loss that is returned", rtol=1e-9)


@check_accumulate.point(
    "pieces of equal size: the gradient and the loss of the whole batch",
    hint="For each piece: loss_fn(model(px), py), times its share of the samples, backward. Return the sum as a float.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    size = int(rng.integers(2, 6))
    _right(answer, rng, size * int(rng.integers(3, 7)), size)


@check_accumulate.point(
    "a last piece that is smaller: every sample counts the same",
    hint="The weight of a piece is len(piece) / len(x). x.split(micro_batch) gives the small last piece too.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    for size in (4, 7):
        _right(answer, rng, size * int(rng.integers(2, 5)) + int(rng.integers(1, size - 1)), size)


@check_accumulate.point(
    "gradients of the step before are cleared first",
    hint="backward() adds to .grad: call model.zero_grad() once, before the first piece.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    _right(answer, rng, 12, 4, stale=True)


@check_accumulate.point(
    "the model never sees more than micro_batch samples, and each of them once",
    hint="Call the model on pieces, never on x.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    model, x, y = _batch(rng, 23)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    answer(model, F.cross_entropy, x, y, 5)
    given = ("given", "23 samples, micro_batch 5")
    most = max((len(piece) for piece in seen), default=0)
    if most > 5:
        raise NotOk(given, ("expected", "at most 5 samples at a time"), ("got", f"a call with {most}"))
    if len(seen) == 0 or not torch.equal(torch.cat(seen), x):
        raise NotOk(given, ("expected", "calls with all samples, in order"), ("got", f"{sum(map(len, seen))} samples"))


@check_accumulate.point(
    "one piece's activations at a time",
    hint="Call backward() inside the loop: it frees the piece's activations. A sum of losses keeps the graphs of all.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    model, x, y = _batch(rng, 4096)
    other = copy.deepcopy(model)
    with LiveMemory([*other.parameters(), x, y]) as whole:
        F.cross_entropy(other(x), y).backward()
    with LiveMemory([*model.parameters(), x, y]) as live:
        answer(model, F.cross_entropy, x, y, 256)
    _gradients_there(model)
    if live.peak > 0.35 * whole.peak:
        raise NotOk(
            ("given", "4096 samples, micro_batch 256"),
            ("expected", f"about a tenth of the {whole.peak / 1e6:.1f} MB of the whole batch"),
            ("got", f"{live.peak / 1e6:.1f} MB at the peak"),
        )


def _gradients_there(model: nn.Module) -> None:
    if _gradient(model).isnan().any():
        raise NotOk(("got", "parameters without a gradient"))
