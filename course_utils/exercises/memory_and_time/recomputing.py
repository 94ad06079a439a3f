"""01.2: recomputation, also of functions that draw random numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check
from course_utils.exercises.memory_and_time.threads import one_thread
from course_utils.measure.live import LiveMemory

Rng = np.random.Generator

check_recompute = Check("memory_and_time.2", "recompute", parameters=("function", "x"), seconds=20.0)


class _Result(NamedTuple):
    output: Tensor
    gradients: list[Tensor | None]  # of x, then of the parameters


def _network(rng: Rng, width: int, depth: int = 3, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(int(rng.integers(2**31)))
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)]
    return nn.Sequential(*parts)


def _tensor(rng: Rng, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def _run(
    apply: Callable[[nn.Module, Tensor], Tensor], network: nn.Module, x: Tensor, arriving: Tensor, draws: int = 0
) -> _Result:
    """Forward and backward of a copy of the network; in between something else draws numbers."""
    network = copy.deepcopy(network)
    leaf = x.clone().requires_grad_()
    output = apply(network, leaf * 1)  # not a leaf, as inside a model
    if not isinstance(output, Tensor):
        raise NotOk(("expected", "a tensor, what function(x) gives"), ("got", type(output).__name__))
    if output.shape != arriving.shape:
        raise NotOk(("expected", f"shape {tuple(arriving.shape)}"), ("got", f"shape {tuple(output.shape)}"))
    if not output.requires_grad:
        raise NotOk(
            ("expected", "an output that autograd can go back from"), ("got", "one without a graph"),
            hint="Return what YourFunction.apply(...) returns; a result made under no_grad has no way back.",
        )  # fmt: skip
    torch.rand(draws)
    try:
        output.backward(arriving)
    except RuntimeError as error:
        raise NotOk(
            ("raised", f"in the backward pass: {error}".splitlines()[0]),
            hint="In backward() gradients are off: run function(x) there under torch.enable_grad(), on an x that "
            "requires a gradient, and call output.backward(grad).",
        ) from None
    return _Result(output.detach(), [leaf.grad, *(p.grad for p in network.parameters())])


def _plainly(network: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = network(x)
    return out


def _compare(got: _Result, want: _Result, given: str, *, of_x: str = "", of_parameters: str = "") -> None:
    if not torch.equal(got.output, want.output):
        raise NotOk(("given", given), ("expected", "the output of function(x)"), ("got", "another output"))
    for k, (g, w) in enumerate(zip(got.gradients, want.gradients, strict=True)):
        what = f"parameter {k - 1}" if k else "x"
        if g is None:
            hint = "Call backward on the output of the second forward pass: it reaches x *and* the parameters."
            raise NotOk(("given", given), ("expected", f"a gradient of {what}"), ("got", "None"), hint=hint)
        assert w is not None
        if not torch.equal(g, w):
            raise NotOk(
                ("given", given), ("expected", f"the gradient of {what}, bit for bit"),
                ("got", f"one that differs by {((g - w).norm() / w.norm()).item():.2g} of its length"),
                hint=of_parameters if k else of_x,
            )  # fmt: skip


@check_recompute.point(
    "the output and all gradients of function(x), bit for bit",
    hint="backward receives the gradient of the output: pass it on, output.backward(grad), and return x's gradient.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    for shape in ((5, 12), (2, 3, 8), (7, 4)):
        network, x, arriving = _network(rng, shape[-1]), _tensor(rng, *shape), _tensor(rng, *shape)
        want = _run(_plainly, network, x, arriving)
        ones = _run(_plainly, network, x, torch.ones_like(arriving)).gradients[0]
        got = _run(answer, network, x, arriving)
        g = got.gradients[0]
        hint = ""
        if g is not None and ones is not None and torch.equal(g, ones):
            hint = "The gradient that arrives is not used here: output.backward(grad), not output.sum().backward()."
        _compare(got, want, f"a network and x of shape {shape}", of_x=hint)


@check_recompute.point(
    "between forward and backward only x is kept",
    hint="Run the function under torch.no_grad() and save x alone: ctx.save_for_backward(x).",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    network, x = _network(rng, 32, depth=6), _tensor(rng, 256, 32).requires_grad_()
    with LiveMemory([*network.parameters(), x]) as plain:
        kept = network(x * 1)
        plain.mark("forward")
    with LiveMemory([*network.parameters(), x]) as live:
        output = answer(network, x * 1)
        live.mark("forward")
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise NotOk(("expected", "an output that autograd can go back from"), ("got", type(output).__name__))
    if not torch.equal(output, kept):
        raise NotOk(("expected", "the output of function(x)"), ("got", "another output"))
    del kept
    before, now = (m.marks[0][2] - m.trace[0] for m in (plain, live))
    bound = 2 * x.nbytes + 20_000  # x * 1, the output, the state of the generators
    if now > bound:
        raise NotOk(
            ("given", f"a network of 12 layers and x of {x.nbytes:,} bytes"),
            ("expected", f"x, the output and the generator's state: at most {bound:,} bytes"),
            ("got", f"{now:,} bytes are alive after the forward pass ({before:,} without recomputation)"),
        )


@check_recompute.point(
    "the function runs once in the forward pass and once more in the backward pass",
    hint="Run it again in backward, from the saved x; once is enough.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    network, x = _network(rng, 6), _tensor(rng, 4, 6).requires_grad_()
    calls: list[bool] = []

    def counted(z: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        out: Tensor = network(z)
        return out

    output = answer(counted, x * 1)
    forward = len(calls)
    if isinstance(output, Tensor) and output.requires_grad:
        output.backward(torch.ones_like(output))
    if (forward, len(calls) - forward) != (1, 1):
        raise NotOk(
            ("expected", "1 call, and 1 more in the backward pass"),
            ("got", f"{forward}, and {len(calls) - forward} more"),
        )


@check_recompute.point(
    "dropout: the second pass draws the random numbers of the first",
    hint="state = torch.get_rng_state() before the first pass; torch.set_rng_state(state) before the second.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    network, x, arriving = _network(rng, 16, dropout=0.5), _tensor(rng, 9, 16), _tensor(rng, 9, 16)
    seed = int(rng.integers(2**31))

    def seeded(apply: Callable[[nn.Module, Tensor], Tensor]) -> _Result:
        torch.manual_seed(seed)
        return _run(apply, network, x, arriving)

    want, got = seeded(_plainly), seeded(answer)
    hint = "The second pass dropped other numbers than the first. Play the generator's state back."
    _compare(got, want, "a network with dropout 0.5", of_x=hint, of_parameters=hint)


@check_recompute.point(
    "afterwards the generator goes on from where it was",
    hint="Look at the state before you play the old one back, and set it again afterwards: "
    "else all layers behind draw the same numbers twice. `with torch.random.fork_rng():` does both.",
)
@one_thread
def _(answer: Answer, rng: Rng) -> None:
    network, x, arriving = _network(rng, 8, dropout=0.3), _tensor(rng, 5, 8), _tensor(rng, 5, 8)
    seed, after = int(rng.integers(2**31)), list[Tensor]()
    results = []
    for apply in (_plainly, answer):
        torch.manual_seed(seed)
        results.append(_run(apply, network, x, arriving, draws=3))
        after.append(torch.rand(4))
    _compare(results[1], results[0], "a network with dropout 0.3")
    if not torch.equal(*after):
        raise NotOk(
            ("given", "numbers drawn between forward and backward of a network with dropout, and behind"),
            ("expected", "the numbers that come without recomputation"), ("got", "others"),
        )  # fmt: skip
