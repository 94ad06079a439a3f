"""How fast a run is against what its device could do: model FLOPs utilisation (MFU)."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from course_utils.plan import machines
from course_utils.precision import Precision
from course_utils.training.loop import LossFunction, autocast

PEAKS = {  # FLOP/s of 16-bit products, dense, by a word of the device's name; from the makers' data sheets
    "H100 PCIe": 756e12,
    "A100": machines.A100.peak,
    **{gpu.name.removesuffix(" 80 GB"): gpu.peak for gpu in reversed(machines.GPUS)},
}


def peak(device: torch.device) -> float | None:
    """FLOP/s of a GPU's 16-bit products, where they are known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for word, flops in PEAKS.items() if re.search(rf"\b{word}\b", name)), None)


def training_flops(model: nn.Module, x: Tensor, y: Tensor, loss_fn: LossFunction, precision: Precision) -> int:
    """FLOPs of one forward and backward pass, as torch counts them: matrix products, convolutions and attention."""
    training = model.training
    model.eval()  # nothing is drawn, and no running statistics move
    with FlopCounterMode(display=False) as counter, autocast(precision, x.device):
        loss_fn(model.forward(x).float(), y).backward()
    model.train(training).zero_grad(set_to_none=True)
    return int(counter.get_total_flops())
