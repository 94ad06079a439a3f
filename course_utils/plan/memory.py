"""What one parameter costs in memory while it is trained: the ledgers of 8, 16, 18 and 20 bytes, and what each counts.

The published figures differ because they count different copies, not because one of them is wrong:
16 bytes is FP32 training with Adam, and also the count of ZeRO for mixed precision (Rajbhandari et al. 2020);
18 keeps the gradients in FP32 (Megatron-LM's default); 20 keeps a 16-bit gradient and an FP32 sum of gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from course_utils.models.encoder import EncoderConfig


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
MASTER_ADAM = Ledger("16-bit, master copy", weights=2, gradients=2, master_weights=4, moments=8)
MASTER_ADAM_FP32_GRADIENTS = Ledger(
    "16-bit, master copy, FP32 gradients", weights=2, gradients=4, master_weights=4, moments=8
)
MASTER_ADAM_GRADIENT_SUM = Ledger(
    "16-bit, master copy, FP32 gradient sum",
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


@dataclass
class SavedForBackward:
    """Bytes that autograd keeps between forward and backward: activations, and 16-bit copies of weights."""

    activations: int = 0
    weight_copies: int = 0
    shapes: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)  # dtype, shape, bytes

    @property
    def total(self) -> int:
        return self.activations + self.weight_copies


@contextlib.contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[SavedForBackward]:
    """Count, within the ``with`` block, what a forward pass saves for its backward pass. Shared memory counts once.

    Works on the meta device too, so also for models that no memory here could hold; but there are no fused kernels
    there, and attention saves what it saves when written out.

    The parameters themselves are model state and are left out. A 16-bit tensor that has the shape of a parameter, or of
    its transpose, is taken for a copy that autocast made of it.
    """
    own = {_address(p) for p in model.parameters()}
    matrices = {shape for p in model.parameters() if p.dim() > 1 for shape in (p.shape, p.flatten(1).shape)}
    matrices |= {shape[::-1] for shape in matrices}
    kept: dict[int, Tensor] = {}  # holding on to them, so that no address is used twice
    saved = SavedForBackward()

    def pack(tensor: Tensor) -> Tensor:
        storage, address = tensor.untyped_storage(), _address(tensor)
        if address not in own and address not in kept:
            kept[address] = tensor
            saved.shapes.append((str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), storage.nbytes()))
            if tensor.dtype.itemsize == 2 and tensor.shape in matrices:
                saved.weight_copies += storage.nbytes()
            else:
                saved.activations += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
    kept.clear()


def _address(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    return storage.data_ptr() or storage._cdata  # on the meta device no storage has an address of its own


def encoder_layer_activations(config: EncoderConfig, tokens: int, *, autocast: bool = False) -> int:
    """Bytes that one pre-norm encoder layer saves for its backward pass, for so many tokens (batch times length).

    Per token, with width D, MLP ratio r and h heads. FP32 everywhere, 4 bytes each: the input of both norms (2D) and
    their output (2D), queries, keys and values (3D), the attended values (D), and the MLP before and after GELU (2rD).
    Under autocast, the norms' inputs stay FP32 and the rest takes 2 bytes; but the first norm's output is cast anew for
    each of the three projections, so it is kept three times. To both come, in FP32, mean and deviation of both
    norms (4) and the fused attention's log-sum-exp (h).
    """
    width, hidden = config.width, config.mlp_width
    small = 4 * (4 + config.heads)
    if autocast:
        return tokens * (4 * 2 * width + 2 * (3 + 1 + 3 + 1) * width + 2 * 2 * hidden + small)
    return tokens * (4 * (2 + 2 + 3 + 1) * width + 4 * 2 * hidden + small)
