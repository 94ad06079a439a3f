"""What one parameter costs in memory while it is trained: the ledgers of 8, 16, 18 and 20 bytes, and what each counts.

The published figures differ because they count different copies, not because one of them is wrong:
16 bytes is FP32 training with Adam, and also the count of ZeRO for mixed precision (Rajbhandari et al. 2020);
18 keeps the gradients in FP32 (Megatron-LM's default); 20 keeps a 16-bit gradient and an FP32 sum of gradients beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Ledger:
    """Bytes per parameter, by what they hold. Activations are not model state and are not counted here."""

    name: str
    weights: int
    gradients: int
    master_weights: int
    moments: int
    gradient_sum: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.master_weights + self.moments + self.gradient_sum

    def model_states(self, parameters: int) -> int:
        """Bytes of the model states of so many parameters."""
        return self.total * parameters


FP32_ADAM = Ledger("FP32", weights=4, gradients=4, master_weights=0, moments=8)
AUTOCAST_ADAM = Ledger("autocast", weights=4, gradients=4, master_weights=0, moments=8)
MASTER_ADAM = Ledger("16-bit weights, FP32 master copy", weights=2, gradients=2, master_weights=4, moments=8)
MASTER_ADAM_FP32_GRADIENTS = Ledger(
    "16-bit weights, FP32 master copy and gradients", weights=2, gradients=4, master_weights=4, moments=8
)
MASTER_ADAM_GRADIENT_SUM = Ledger(
    "16-bit weights and gradients, FP32 master copy and sum of gradients",
    weights=2,
    gradients=2,
    master_weights=4,
    moments=8,
    gradient_sum=4,
)
PURE_BF16_ADAM = Ledger("pure BF16", weights=2, gradients=2, master_weights=0, moments=4)

LEDGERS = (
    FP32_ADAM,
    AUTOCAST_ADAM,
    MASTER_ADAM,
    MASTER_ADAM_FP32_GRADIENTS,
    MASTER_ADAM_GRADIENT_SUM,
    PURE_BF16_ADAM,
)


def measure_model_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes that a model and its optimizer really hold after a step: weights, gradients, master weights, moments.

    Shared tensors count once. Parameters that the optimizer holds and the model does not are the master weights.
    """
    parameters = {id(p): p for p in model.parameters()}
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    masters = [p for key, p in held.items() if key not in parameters]
    everything = [*parameters.values(), *masters]
    return {
        "weights": sum(p.nbytes for p in parameters.values()),
        "gradients": sum(p.grad.nbytes for p in everything if p.grad is not None),
        "master_weights": sum(p.nbytes for p in masters),
        "moments": sum(
            v.nbytes
            for state in optimizer.state.values()
            for v in state.values()
            if torch.is_tensor(v) and v.numel() > 1
        ),
    }
