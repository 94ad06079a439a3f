"""What one parameter costs in memory while it is trained: the counts of 8, 16, 18 and 20 bytes, and what each counts.

The published figures differ because they count different copies, not because one of them is wrong:
16 bytes is FP32 training with Adam, and also the count of ZeRO for mixed precision (Rajbhandari et al. 2020);
18 keeps the gradients in FP32 (Megatron-LM's default); 20 keeps a 16-bit gradient and an FP32 sum of gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.models.encoder import EncoderConfig


@dataclass(frozen=True)
class ModelStates:
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


FP32_ADAM = ModelStates("FP32", weights=4, gradients=4, master_weights=0, moments=8)
AUTOCAST_ADAM = ModelStates("autocast", weights=4, gradients=4, master_weights=0, moments=8)
MASTER_ADAM = ModelStates("16-bit, master copy", weights=2, gradients=2, master_weights=4, moments=8)
MASTER_ADAM_FP32_GRADIENTS = ModelStates(
    "16-bit, master copy, FP32 gradients", weights=2, gradients=4, master_weights=4, moments=8
)
MASTER_ADAM_GRADIENT_SUM = ModelStates(
    "16-bit, master copy, FP32 gradient sum",
    weights=2,
    gradients=2,
    master_weights=4,
    moments=8,
    gradient_sum=4,
)
PURE_BF16_ADAM = ModelStates("pure BF16", weights=2, gradients=2, master_weights=0, moments=4)

MODEL_STATES = (
    FP32_ADAM,
    AUTOCAST_ADAM,
    MASTER_ADAM,
    MASTER_ADAM_FP32_GRADIENTS,
    MASTER_ADAM_GRADIENT_SUM,
    PURE_BF16_ADAM,
)


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
