"""Muon: steps that turn every direction of a matrix by as much, however small its share of the gradient.

The gradient of a weight matrix is dominated by a few directions (its largest singular values); Adam, which looks at
each number alone, follows them. Muon keeps the singular vectors of the averaged gradient and sets the singular values
to about one. What is no matrix between hidden numbers (biases, norms, positions, the classifier) is left to AdamW.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; weight decay beside it: Liu et al. 2025,
arXiv:2502.16982. ``torch.optim.Muon`` takes matrices alone; this one takes convolutions as well, as ``[out, rest]``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial; they bring 0.01 to about 1 in five rounds


def orthogonalise(matrices: Tensor, *, rounds: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """``U V^T`` of each matrix ``U S V^T``, nearly: singular values between about 0.7 and 1.2 take the place of ``S``.

    A polynomial of the matrix, a X + b (X X^T) X + c (X X^T)^2 X, works on the singular values alone, x to
    a x + b x^3 + c x^5: a few matrix products in place of a decomposition (Newton-Schulz iteration). Five rounds lift
    what is at least a hundredth of the matrix's norm so far; smaller singular values stay below.

    Args:
        matrices: ``[..., m, n]``.
        dtype: of the products; bfloat16 is enough, where it is fast.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype).reshape(-1, *matrices.shape[-2:])
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # now no singular value is above 1
    wide = x if (flat := x.shape[-2] <= x.shape[-1]) else x.mT.contiguous()
    for _ in range(rounds):
        gram = wide @ wide.mT  # [k, m, m], m the smaller side
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram gram, without a second pass
        wide = torch.baddbmm(wide, polynomial, wide, beta=a)
    return (wide if flat else wide.mT).reshape(matrices.shape).to(matrices.dtype)


def muon_groups(
    groups: Iterable[dict[str, Any]], hidden: Iterable[nn.Module], muon_factor: float
) -> list[dict[str, Any]]:
    """Groups of :func:`~course_utils.training.optim.parameter_groups`, with the matrices of some modules set apart.

    Args:
        hidden: modules between the input and the head; their parameters of two and more dimensions are for Muon.
        muon_factor: the rate of these, as a multiple of the others'.
    """
    matrices = {id(p) for module in hidden for p in module.parameters() if p.dim() > 1}
    split: list[dict[str, Any]] = []
    for group in groups:
        for muon in (True, False):
            params = [(name, p) for name, p in group["params"] if (id(p) in matrices) == muon]
            if params:
                split.append({**group, "params": params, "muon": muon, "factor": muon_factor if muon else 1.0})
    return split


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say ``"muon": True``, AdamW for the others.

    Args:
        groups: as :func:`muon_groups` makes them; ``factor`` times ``lr`` is a group's rate.
        momentum: of Muon's average; the step looks ahead along it (Nesterov).
        betas, eps: of AdamW.
        dtype: of Muon's matrix products.
    """

    needs_matrices = True  # zero(), which gives an optimizer flat shards, refuses it

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, {**defaults, "muon": False, "factor": 1.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            rate = group["lr"] * group["factor"]
            for p, direction in zip(params, self._directions(params, group), strict=True):
                p.mul_(1 - rate * group["weight_decay"]).add_(direction, alpha=-rate)

    def _directions(self, params: list[nn.Parameter], group: dict[str, Any]) -> list[Tensor]:
        if not group["muon"]:
            return [self._adam(p, group) for p in params]
        same = defaultdict(list)  # matrices of one shape go through the products together
        for place, p in enumerate(params):
            same[p.flatten(1).shape].append((place, self._average(p, group["momentum"])))
        directions: dict[int, Tensor] = {}
        for (rows, columns), some in same.items():
            places, averages = zip(*some, strict=True)
            turned = orthogonalise(torch.stack(averages), dtype=self.dtype)
            turned *= max(1, rows / columns) ** 0.5  # so that outputs, however many, change by as much
            directions |= {place: each.view_as(params[place]) for place, each in zip(places, turned, strict=True)}
        return [directions[place] for place in range(len(params))]

    def _average(self, p: nn.Parameter, momentum: float) -> Tensor:
        """The average of the gradients with one step more along it, ``[out, rest]``."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["average"] = torch.zeros_like(p)
        state["average"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["average"], momentum).flatten(1)

    def _adam(self, p: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """Adam's direction: the average of the gradients over the root of the average of their squares."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state |= {"step": 0, "average": torch.zeros_like(p), "squares": torch.zeros_like(p)}
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["average"].lerp_(p.grad, 1 - beta1)
        state["squares"].lerp_(p.grad**2, 1 - beta2)
        deviation = (state["squares"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        return state["average"] / (1 - beta1 ** state["step"]) / deviation
