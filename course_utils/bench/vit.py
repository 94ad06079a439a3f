"""ViT-B/16, batch 8, 224 pixels: forward and training step, one thread and two, against timm and transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.bench.runner import Result, compare, in_own_process, interleave
from course_utils.models import ViT, ViTConfig
from course_utils.models.layouts import VIT_LAYOUTS
from course_utils.models.vit_config import pair

BATCH = 8
GOAL = 1.0
LEARNING_RATE = 1e-4

Forward = Callable[[Tensor], Tensor]  # images to logits


def run(repetitions: int) -> Iterator[Result]:
    """Measure forward and training step at one thread and at two, each setting in a process of its own."""
    for threads in (1, 2):
        yield from in_own_process(measure, ViTConfig.preset("base16"), threads, repetitions, "vit_b16", GOAL)


def measure(
    config: ViTConfig, threads: int, repetitions: int, name: str, goal: float, batch: int = BATCH
) -> list[Result]:
    """Time three models of equal weights on ``batch`` images, after showing that they compute the same.

    Raises:
        AssertionError: if logits or gradients differ.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.randn(batch, config.channels, *pair(config.image_size))
    labels = torch.randint(config.num_classes, (batch,))
    models, forwards = contestants(config)
    steps = {who: training_step(models[who], forwards[who], images, labels) for who in models}

    for who, step in steps.items():
        step()
        assert_equal(f"gradient norm of {who}", gradient_norm(models[who]), gradient_norm(models["ours"]))

    def inference(who: str) -> Callable[[], Tensor]:
        return torch.inference_mode()(lambda: forwards[who](images))

    suffix = f"{threads} thread{'s' if threads > 1 else ''}"
    for who, model in models.items():
        model.eval()
        assert_equal(f"logits of {who}", inference(who)(), inference("ours")())
    forward = interleave({who: inference(who) for who in models}, repetitions, title=f"forward, {suffix}")
    for model in models.values():
        model.train()
    train = interleave(steps, repetitions, title=f"training step, {suffix}")
    facts: dict[str, Any] = {"threads": threads, "batch": batch, "torch": torch.__version__}
    ending = suffix.replace(" ", "_")
    return [
        compare(f"{name}_forward_{ending}", forward, goal, **facts),
        compare(f"{name}_training_step_{ending}", train, goal, **facts),
    ]


def contestants(config: ViTConfig) -> tuple[dict[str, nn.Module], dict[str, Forward]]:
    """Our model, timm's and transformers' with the same weights, and how each is called for logits."""
    import timm
    import transformers

    height, width = pair(config.image_size)
    ours = ViT(config)
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=(height, width),
        patch_size=pair(config.patch_size),
        in_chans=config.channels,
        num_classes=config.num_classes,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
    )
    fields: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.norm_eps,  # its default is another: without this it would compute something else
        "image_size": (height, width),
        "patch_size": pair(config.patch_size),
        "num_channels": config.channels,
        "num_labels": config.num_classes,
        "attn_implementation": "sdpa",
    }
    hugging_face = transformers.ViTForImageClassification(transformers.ViTConfig(**fields))
    models: dict[str, nn.Module] = {"ours": ours, "timm": theirs, "transformers": hugging_face}
    for model in (theirs, hugging_face):
        model.load_state_dict(in_their_names(ours.state_dict(), model.state_dict()))
    forwards: dict[str, Forward] = {
        "ours": ours,
        "timm": theirs,
        "transformers": lambda images: hugging_face(pixel_values=images).logits,
    }
    return models, forwards


def in_their_names(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the keys of another library's state dict."""
    layout = next(layout for layout in VIT_LAYOUTS.values() if layout.fits(theirs))

    def weight(key: str) -> Tensor:
        name = layout.translate(key)
        assert name is not None, key
        if ".qkv." in name:
            return torch.cat([ours[name.replace(".qkv.", f".{p}_proj.")] for p in "qkv"])
        return ours[name]

    return {key: weight(key) for key in theirs}


def training_step(model: nn.Module, forward: Forward, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Forward, loss, backward and a step of plain SGD, whose cost is small and the same for all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(images), labels).backward()
        optimizer.step()

    return step


def gradient_norm(model: nn.Module) -> Tensor:
    """The length of all gradients as one vector, which is the same however parameters are named, fused or ordered."""
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def assert_equal(what: str, theirs: Tensor, ours: Tensor) -> None:
    difference = (theirs - ours).abs().max().item()
    if not difference < 1e-4 * ours.abs().max().item():
        raise AssertionError(f"the {what} differs from ours by {difference:.2g}: not the same computation is compared")
