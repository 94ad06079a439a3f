"""A recipe made concrete: the images, the model, the optimizer with its schedule, and what is done to each batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2

from course_utils.data import Images, Splits, batches, load_splits
from course_utils.data.loading import prefetched
from course_utils.data.transforms import Augment, Mix, chain, erase, from_torchvision, mixup_cutmix
from course_utils.data.transforms import rand_augment as rand
from course_utils.launch import Process
from course_utils.models import ViT, ViTConfig
from course_utils.models.stems import ConvStem
from course_utils.training import (
    Muon,
    Precision,
    adamw,
    constant,
    muon_groups,
    parameter_groups,
    schedule_lr,
    warmup_cosine,
)
from course_utils.training.loop import LossFunction
from course_utils.vision.recipes import FromScratch


def load_data(config: FromScratch) -> Splits:
    """The images to train on, those held out of them, and the test images, which nothing is chosen by.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as :func:`course_utils.data.load_splits`.
    """
    # The same part is held out whatever the seed of the run.
    splits = load_splits(config.data, root=config.data_dir, download=config.download, validation=config.validation)
    train, held, test = (part and _with_border(part, config) for part in splits)
    assert train is not None
    assert test is not None
    if config.limit is not None:
        if config.limit > len(train):
            raise ValueError(f"limit is {config.limit}, but there are {len(train)} images to train on: choose fewer")
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: config.limit]
        train = train.take(chosen.sort().values)
    return Splits(train, held, test)


def _with_border(images: Images, config: FromScratch) -> Images:
    """Where patches do not fill the images, a border does: black, as the ground is. A shift may use it up."""
    if config.image_size:
        return images
    bottom, right = (-side % config.patch_size for side in images.x.shape[2:])
    sides = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
    padding = None if images.padding is None else images.padding + right // 2
    return replace(images, x=F.pad(images.x, sides), padding=padding)


def build_model(config: FromScratch, shape: tuple[int, int, int], classes: int, precision: Precision = "fp32") -> ViT:
    """A fresh model for images of ``shape`` (channels, height, width); its weights depend on the recipe's seed alone.

    Raises:
        ValueError: the images cannot be cut into the recipe's patches; the message says what fits.
    """
    channels, height, width = shape
    sizes = ViTConfig(
        image_size=(height, width) if config.image_size is None else config.image_size,
        patch_size=config.patch_size,
        channels=channels,
        num_classes=classes,
        **{key: getattr(config, key) for key in ("width", "depth", "heads", "mlp_ratio", "pool", "drop_path")},
        class_token=config.pool == "cls",
        # torch 2.14's fused attention needs a hundred times longer for its backward pass in bfloat16 on a CPU.
        attention="written_out" if precision == "bf16" and not torch.cuda.is_available() else "sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if not config.stem:
            return ViT(sizes)
        return ViT(sizes, partial(ConvStem, channels=config.stem))


def make_optimizer(
    config: FromScratch, model: ViT, steps: int, precision: Precision = "fp32"
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer, and the rate of each of ``steps`` steps."""
    optimizer: torch.optim.Optimizer
    if config.optimizer == "muon":
        hidden = [model.encoder, model.patch_embedding] if config.stem else [model.encoder]
        groups = muon_groups(parameter_groups(model, config.weight_decay), hidden, config.muon_factor)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizer = Muon(groups, config.rate, dtype=dtype)
    elif config.optimizer == "adamw":
        optimizer = adamw(model, config.rate, weight_decay=config.weight_decay)
    else:  # decays biases and norms as well, through the gradient: for comparison
        optimizer = torch.optim.Adam(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    if config.schedule == "cosine":
        # At least one step: the first one, at a rate of zero, only fills the optimizer's averages.
        warmup = min(max(1, round(config.warmup * steps)), steps - 1) if config.warmup else 0
        schedule = warmup_cosine(config.rate, steps=steps, warmup=warmup, lr_min=config.lr_min)
    else:
        schedule = constant(config.rate, warmup=round(config.warmup * steps))
    return optimizer, schedule_lr(optimizer, schedule)


def training_batches(
    config: FromScratch, images: Images, epoch: int, process: Process
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every batch of an epoch. What each batch holds does not depend on how many share it."""
    own = batches(
        images,
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        epoch=epoch,
        device=process.device,
        augment=_augment(config, images),
        mix=_mix(config, images),
        size=config.image_size,
        drop_last=True,
        rank=process.rank,
        world_size=process.world_size,
    )
    return prefetched(own, process.device)


def loss_function(config: FromScratch) -> LossFunction:
    """Cross-entropy with smoothed labels (of mixed images, whose labels are soft already, as they are)."""
    smoothing = 0.0 if config.mixup or config.cutmix else config.smoothing
    return partial(F.cross_entropy, label_smoothing=smoothing)


def choose_precision(config: FromScratch, device: torch.device) -> Precision:
    """The recipe's precision, or the one in which this processor trains fastest without a loss."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # Only processors with matrix units for it (AMX) multiply bfloat16 faster. torch before 2.10 cannot tell: fp32.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if config.stem and capabilities.get("amx_bf16") else "fp32"


def _augment(config: FromScratch, images: Images) -> Augment | None:
    match config.augment:
        case "crop":
            return images.shift_and_mirror
        case "strong":
            return chain(images.shift_and_mirror, rand(), erase)
        case "tutorial":
            # Its crop of 224 pixels after a padding of 4 shifts an image of 32 by half a pixel: left out.
            turn = [v2.RandomHorizontalFlip(0.5 * images.may_be_mirrored), v2.RandomRotation(15)]
            return from_torchvision(v2.Compose([*turn, v2.ColorJitter(0.2, 0.2, 0.2, 0.1)]))
    return None


def _mix(config: FromScratch, images: Images) -> Mix | None:
    if not (config.mixup or config.cutmix):
        return None
    return mixup_cutmix(len(images.classes), mixup=config.mixup, cutmix=config.cutmix, smoothing=config.smoothing)
