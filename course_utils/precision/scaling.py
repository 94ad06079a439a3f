"""Mixed precision by hand: loss scaling, master weights, stochastic rounding, and linear layers that compute in FP8.

Sources: Micikevicius et al. 2017 (loss scaling, master weights) and 2022 (FP8: E4M3 forward, E5M2 backward).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class LossScaler:
    """Dynamic loss scaling: multiply the loss, divide the gradients, and let overflow choose the factor.

    The same rule and the same defaults as ``torch.amp.GradScaler``. One step reads::

        scaler.scale_loss(loss).backward()
        finite = scaler.unscale(model.parameters())   # then clip, if at all
        if finite:
            optimizer.step()
        scaler.update(finite)

    Args:
        scale: the factor, a power of two so that scaling rounds nothing.
        growth_interval: after so many good steps in a row the factor is tried ``growth`` times larger.
        backoff: what the factor is multiplied by after a step with an infinite or undefined gradient.
    """

    scale: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    growth_interval: int = 2000
    good_steps: int = 0

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss times the scale, of the loss's shape."""
        return loss * self.scale

    def unscale(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Divide the gradients by the scale, in place; True when all of them are finite.

        The quotient is formed in the gradient's own dtype: unscale FP32 gradients, or what was saved is lost again.
        """
        finite = True
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.scale)
                finite = finite and bool(parameter.grad.isfinite().all())
        return finite

    def update(self, finite: bool) -> None:
        """Choose the scale of the next step."""
        if not finite:
            self.scale, self.good_steps = self.scale * self.backoff, 0
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * self.growth, 0


class MasterWeights:
    """FP32 copies of a 16-bit model's parameters. The optimizer works on the copies; the model gets them back rounded.

    A checkpoint needs :meth:`state_dict` beside the model and the optimizer. Copies made anew from the 16-bit model
    would lack the bits that rounding took, which are all that small updates have changed.

    Args:
        model: a module whose parameters are in FP16 or BF16.
    """

    def __init__(self, model: nn.Module) -> None:
        self.of_model = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = [nn.Parameter(p.detach().float()) for p in self.of_model.values()]

    def gradients_from_model(self) -> None:
        """Move the model's gradients into the copies, in FP32, and clear them in the model."""
        for master, parameter in zip(self.parameters, self.of_model.values(), strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def weights_to_model(self) -> None:
        """Round the copies into the model, after ``optimizer.step()``."""
        for master, parameter in zip(self.parameters, self.of_model.values(), strict=True):
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Tensor]:
        """The copies, FP32, by the names of the model's parameters."""
        return {name: master.detach() for name, master in zip(self.of_model, self.parameters, strict=True)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the copies in place, so that an optimizer keeps its hold on them, and round them into the model.

        Raises:
            ValueError: the names or shapes are not those of this model; nothing is changed then.
        """
        here = self.state_dict()
        wrong = [name for name in {**here, **state} if _shape(here, name) != _shape(state, name)]
        if wrong:
            few = "; ".join(f"{name} is {_shape(state, name)} there, {_shape(here, name)} here" for name in wrong[:3])
            raise ValueError(f"these master weights are of another model ({few}): build the model that was saved")
        for name, master in here.items():
            master.copy_(state[name])
        self.weights_to_model()


def round_stochastically(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """x, FP32 of any shape, rounded to BF16 up or down at random, so that the mean of many roundings is x.

    A BF16 is the upper half of an FP32. A random 16-bit number is added to the lower half: it carries into the upper
    half with just the probability that rounding up must have. Then the lower half is cut off.
    """
    bits = x.contiguous().view(torch.int32)
    noise = torch.empty_like(bits).random_(2**16, generator=generator)
    rounded = (bits + noise).bitwise_and(-(2**16)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)  # inf and nan stay


def round_to_float8(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, of any shape, as an FP8 tensor with one scale would hold it, given back in x's own dtype.

    The scale is the largest magnitude over the format's largest number, so nothing overflows.
    """
    largest = x.detach().abs().amax().float()
    scale = torch.where(largest > 0, largest / torch.finfo(dtype).max, 1.0)
    return ((x.float() / scale).to(dtype).float() * scale).to(x.dtype)


class _Float8Product(torch.autograd.Function):
    """y = x w^T with every factor of the three products rounded to FP8, sums in FP32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # [..., in], [out, in] -> [..., out]
        x8 = round_to_float8(x, torch.float8_e4m3fn)
        weight8 = round_to_float8(weight, torch.float8_e4m3fn)
        ctx.save_for_backward(x8, weight8)
        return F.linear(x8, weight8)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x8, weight8 = ctx.saved_tensors
        g8 = round_to_float8(gradients[0], torch.float8_e5m2)  # gradients spread wider than they need to be fine
        return g8 @ weight8, g8.flatten(0, -2).T @ x8.flatten(0, -2)


class Float8Linear(nn.Linear):
    """A linear layer that computes as FP8 hardware would, forward in E4M3 and backward in E5M2; weights stay FP32."""

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = _Float8Product.apply(input, self.weight)
        return y if self.bias is None else y + self.bias


def use_float8(model: nn.Module, *, skip: tuple[str, ...] = ()) -> nn.Module:
    """Let every linear layer of the model compute in FP8, in place, keeping its parameters. Returns the model.

    Args:
        skip: names of modules to leave alone; the last layer of a network is usually left in higher precision.

    Raises:
        ValueError: for a name in ``skip`` that the model has not.
    """
    names = {name for name, _ in model.named_modules()}
    if unknown := sorted(set(skip) - names):
        known = ", ".join(sorted(names - {""}))
        raise ValueError(f"skip names {unknown}, which this model has not; it has {known}")
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name not in skip:
            module.__class__ = Float8Linear  # the same parameters, another forward
    return model


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(list(state[name].shape)) if name in state else "absent"
