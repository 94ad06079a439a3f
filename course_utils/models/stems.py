"""Another way from pixels to tokens than the paper's single matrix: a few convolutions first, for small images.

Source: Xiao et al. 2021, arXiv:2106.14881 (early convolutions); Hassani et al. 2021, arXiv:2104.05704 (compact ViTs).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from course_utils.models.vit_config import ViTConfig, pair

GROUP = 16  # channels that GroupNorm normalises together
HALVINGS = 4  # the stem's own stride: its first two convolutions are each followed by a pooling over 2 x 2


class ConvBlock(nn.Sequential):
    """Convolution over 3 x 3, pooling if wanted, GroupNorm, GELU: ``[B, C, H, W]`` to ``[B, channels, H', W']``.

    GroupNorm and not BatchNorm: it reads nothing of the other images, so a batch may lie on any number of processes.
    """

    def __init__(self, channels_in: int, channels: int, *, pool: bool) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, kernel_size=3, padding=1, bias=False),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.GroupNorm(channels // GROUP, channels),
            nn.GELU(),
        )


class ConvStem(nn.Module):
    """Patches that overlap: ``[B, C, H, W]`` to ``[B, P, D]``, a token for each ``patch_size`` x ``patch_size`` pixels.

    Three convolutions, the first two with pooling, and a fourth around which the third's output is carried; then every
    ``patch_size / 4`` x ``patch_size / 4`` of what they made becomes a token. ::

        ViT(config, lambda config: ConvStem(config, channels=(48, 96, 192)))

    Raises:
        ValueError: channels that GroupNorm cannot group, or a patch that is no multiple of 4 pixels.
    """

    def __init__(self, config: ViTConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        if len(channels) != 3 or any(c < GROUP or c % GROUP for c in channels):
            raise ValueError(f"channels {channels} of the stem: give three multiples of {GROUP}, such as 48, 96, 192")
        patch = pair(config.patch_size)
        if any(side % HALVINGS for side in patch):
            raise ValueError(
                f"a patch of {patch[0]} x {patch[1]} pixels behind a stem of stride 4: choose 4, 8, 12 ..."
            )
        first, second, third = channels
        self.convolutions = nn.Sequential(
            ConvBlock(config.channels, first, pool=True),
            ConvBlock(first, second, pool=True),
            ConvBlock(second, third, pool=False),
        )
        self.residual = ConvBlock(third, third, pool=False)
        token = (patch[0] // HALVINGS, patch[1] // HALVINGS)  # rows and columns that become one token
        self.projection = nn.Conv2d(third, config.width, kernel_size=token, stride=token)
        # Channels last in memory, which convolutions on a CPU want: in bfloat16 they are two to three times as fast.
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def initialise(module: nn.Module) -> None:
        """Weights as He et al. 2015 draw them, arXiv:1502.01852: smaller the more numbers a sum is over, so that what
        leaves each layer is about as large as what enters it.

        The 0.02 of a ViT's matrices would be a fourteenth of that for the first convolution, whose sums are over 27
        numbers: an Adam step of 0.001 would change such weights by a twentieth.
        """
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolutions(images.contiguous(memory_format=torch.channels_last))  # [B, third, H/4, W/4]
        return self.projection(x + self.residual(x)).flatten(2).transpose(1, 2)  # [B, D, rows, columns] -> [B, P, D]


def stem_macs(config: ViTConfig, channels: tuple[int, ...]) -> int:
    """Multiply-accumulates of one image through a :class:`ConvStem`: for each output pixel 9 C_in C_out."""
    pixels = math.prod(pair(config.image_size))
    first, second, third = channels
    macs = 9 * (pixels * config.channels * first + pixels // 4 * first * second)
    macs += 9 * pixels // 16 * (second * third + third * third)
    return macs + pixels // 16 * third * config.width  # the projection reads every number once
