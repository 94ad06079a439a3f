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
    """Bytes per parameter, by what they hold. Activations are not model state and are not counted here.

    Args:
        number: bytes of an activation.
        gathered: bytes of a weight that ZeRO-3 gathers, by default as many as of one that it holds.
    """

    name: str
    weights: int
    gradients: int
    master_weights: int
    moments: float
    gradient_sum: int = 0
    number: int = 2
    gathered: int | None = None

    @property
    def unit(self) -> int:
        """Bytes of a gathered weight."""
        return self.weights if self.gathered is None else self.gathered

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.master_weights + self.moments + self.gradient_sum


FP32_ADAM = ModelStates("FP32", weights=4, gradients=4, master_weights=0, moments=8, number=4)
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
# FSDP2's mixed precision: each rank's shard is FP32, and the layers at work are gathered in 16 bits.
FSDP_ADAM = ModelStates("FP32 shards, 16-bit layers", weights=4, gradients=4, master_weights=0, moments=8, gathered=2)
# DeepSeek-V3 (arXiv:2412.19437, section 3.3): moments in 16 bits, gradients and master weights in 32.
BF16_MOMENTS_ADAM = ModelStates(
    "16-bit, master copy, BF16 moments", weights=2, gradients=4, master_weights=4, moments=4
)
# Two moments of a byte, and an FP32 scale for each block of 256 (Dettmers et al. 2021, arXiv:2110.02861; bitsandbytes).
EIGHT_BIT_ADAM = ModelStates(
    "16-bit, master copy, 8-bit moments", weights=2, gradients=2, master_weights=4, moments=2 * (1 + 4 / 256)
)

MODEL_STATES = (
    FP32_ADAM,
    AUTOCAST_ADAM,
    MASTER_ADAM,
    MASTER_ADAM_FP32_GRADIENTS,
    MASTER_ADAM_GRADIENT_SUM,
    PURE_BF16_ADAM,
)
FURTHER_STATES = (FSDP_ADAM, BF16_MOMENTS_ADAM, EIGHT_BIT_ADAM)


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
