"""The Vision Transformer: an image cut into patches, read by the course's one encoder.

Letters used for shapes: ``B`` images, ``C`` channels, ``H x W`` pixels, ``P`` patches (rows times columns of the
grid), ``T`` tokens (class token, registers, patches, in this order), ``D`` width.

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929 (ViT); Beyer et al. 2022, arXiv:2205.01580 (mean pooling);
Darcet et al. 2024, arXiv:2309.16588 (registers); Xie et al. 2022, arXiv:2111.09886 (mask token).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from course_utils.models.encoder import Encoder, initialise
from course_utils.models.vit_config import Size, ViTConfig, pair, patch_grid


def patchify(images: Tensor, patch_size: Size) -> Tensor:
    """Cut images into patches, row by row: ``[B, C, H, W]`` to ``[B, P, C * patch height * patch width]``.

    The numbers of a patch are in the order of a convolution's weight, so that patchify and a matrix product with
    ``weight.flatten(1)`` equal the convolution whose kernel and stride are the patch.
    """
    ph, pw = pair(patch_size)
    patch_grid((images.shape[-2], images.shape[-1]), (ph, pw))  # says what to do about a size that does not fit
    return rearrange(images, "b c (row ph) (column pw) -> b (row column) (c ph pw)", ph=ph, pw=pw)


class PatchEmbedding(nn.Conv2d):
    """``[B, C, H, W]`` to ``[B, P, D]``. A convolution (its weight is ``[D, C, patch height, patch width]``) worked out
    as one matrix product, which is the same and somewhat faster when kernels do not overlap."""

    def __init__(self, config: ViTConfig) -> None:
        patch = pair(config.patch_size)
        super().__init__(config.channels, config.width, kernel_size=patch, stride=patch)
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(patchify(images, self.patch), self.weight.flatten(1), self.bias)


def interpolate_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], antialias: bool = True) -> Tensor:
    """Stretch a position table from one grid to another, bicubically.

    Args:
        table: ``[1, rows, D]``. The last ``old[0] * old[1]`` rows belong to the patches; those before (the class
            token's) have no place in the image and are kept.
        old, new: patches down and across.
        antialias: see :class:`ViTConfig`. True equals ``timm.layers.resample_abs_pos_embed``.

    Returns:
        ``[1, rows before + new[0] * new[1], D]``, or ``table`` itself if the grids are equal.
    """
    if old == new:
        return table
    prefix, patches = table.split((table.shape[1] - old[0] * old[1], old[0] * old[1]), dim=1)
    picture = rearrange(patches, "one (row column) d -> one d row column", row=old[0])  # D channels of an image
    picture = F.interpolate(picture.float(), size=new, mode="bicubic", align_corners=False, antialias=antialias)
    stretched = rearrange(picture, "one d row column -> one (row column) d")
    return torch.cat([prefix, stretched.to(table.dtype)], dim=1)


class ViT(nn.Module):
    """Patches, class token and positions in; encoder; LayerNorm; head out.

    Args:
        config: the sizes and options.
        patch_embedding: makes the module that turns ``[B, C, H, W]`` into ``[B, P, D]``, given the config: another
            stem than the paper's goes in here. If it has a method ``initialise``, that gives its weights their
            first values, in place of :func:`~course_utils.models.encoder.initialise`.
    """

    def __init__(self, config: ViTConfig, patch_embedding: Callable[[ViTConfig], nn.Module] = PatchEmbedding) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = patch_embedding(config)
        self.class_token = self._token(1) if config.class_token else None
        self.registers = self._token(config.registers) if config.registers else None
        self.mask_token = self._token(1) if config.mask_token else None
        self.positions = self._token(config.position_rows)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        for part in self.children():
            part.apply(getattr(part, "initialise", initialise))

    def _token(self, rows: int) -> nn.Parameter:
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, rows, self.config.width), std=0.02))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ViT:
        """A model of a named size (see ``vit_config.PRESETS``) with fresh weights, some fields changed."""
        return cls(ViTConfig.preset(name, **changes))

    def forward(self, images: Tensor, *, mask: Tensor | None = None, interpolate: bool = False) -> Tensor:
        """Classify.

        Args:
            images: ``[B, C, H, W]``, normalised as for training.
            mask: ``[B, P]`` bool, True where the mask token takes the place of the patch; needs ``mask_token=True``.
            interpolate: allow another image size than the config's, by interpolating the positions.

        Returns:
            logits ``[B, num_classes]``; with ``num_classes=0`` the features ``[B, D]``.

        Raises:
            ValueError: for a wrong number of channels, a wrong size, or a mask that does not fit.
        """
        return self.forward_head(self.encoder(self.embed(images, mask=mask, interpolate=interpolate)))

    def forward_head(self, x: Tensor) -> Tensor:
        """What follows the encoder: its tokens ``[B, T, D]`` to what :meth:`forward` returns."""
        return self.head(self._pooled(x))

    def features(self, images: Tensor, *, mask: Tensor | None = None, interpolate: bool = False) -> Tensor:
        """What the head reads, ``[B, D]``; arguments as for :meth:`forward`."""
        return self._pooled(self.encoder(self.embed(images, mask=mask, interpolate=interpolate)))

    def _pooled(self, x: Tensor) -> Tensor:
        return self.norm(x[:, self.config.prefix :].mean(dim=1) if self.config.pool == "mean" else x[:, 0])

    def tokens(self, images: Tensor, *, mask: Tensor | None = None, interpolate: bool = False) -> Tensor:
        """All tokens after the last LayerNorm, ``[B, T, D]``: class token, registers, patches."""
        return self.norm(self.encoder(self.embed(images, mask=mask, interpolate=interpolate)))

    def embed(self, images: Tensor, *, mask: Tensor | None = None, interpolate: bool = False) -> Tensor:
        """The tokens that enter the encoder, ``[B, T, D]``."""
        grid = self._checked_grid(images, interpolate)
        patches = self.patch_embedding(images)  # [B, P, D]
        if mask is not None:
            patches = self._masked(patches, mask)
        positions = interpolate_positions(self.positions, self.config.grid, grid, self.config.antialias)
        own, of_patches = positions.split((positions.shape[1] - patches.shape[1], patches.shape[1]), dim=1)
        parts = [patches + of_patches]
        if self.registers is not None:
            parts.insert(0, self.registers.expand(len(images), -1, -1))
        if self.class_token is not None:
            token = self.class_token + own if own.shape[1] else self.class_token
            parts.insert(0, token.expand(len(images), -1, -1))
        return self.dropout(torch.cat(parts, dim=1))

    def _checked_grid(self, images: Tensor, interpolate: bool) -> tuple[int, int]:
        if images.dim() != 4 or images.shape[1] != self.config.channels:
            wanted = f"[batch, {self.config.channels}, height, width]"
            raise ValueError(f"images of shape {list(images.shape)} do not fit: give {wanted}, or change `channels`")
        size, trained = (images.shape[2], images.shape[3]), pair(self.config.image_size)
        grid = patch_grid(size, pair(self.config.patch_size))
        if size != trained and not interpolate:
            raise ValueError(
                f"images of {size[0]} x {size[1]} pixels reach a model for {trained[0]} x {trained[1]}: resize them, "
                "or pass interpolate=True to stretch the positions to their grid"
            )
        return grid

    def _masked(self, patches: Tensor, mask: Tensor) -> Tensor:
        if self.mask_token is None:
            raise ValueError("a mask needs a mask token, and this model has none: make it with mask_token=True")
        if mask.shape != patches.shape[:2] or mask.dtype != torch.bool:
            wanted = f"a bool tensor of shape {list(patches.shape[:2])}, one entry per patch"
            raise ValueError(f"mask of {mask.dtype} and shape {list(mask.shape)} does not fit: give {wanted}")
        return torch.where(mask[..., None], self.mask_token, patches)
