"""The ViT on one page computes what the package's ViT computes: logits and gradients, with the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.models import ViT, ViTConfig, one_page


def in_the_names_of_the_page(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The page has no encoder and no MLP of their own, and multiplies patches by a flat matrix."""
    return {
        name.replace("encoder.", "").replace("mlp.", ""): tensor.flatten(1) if tensor.dim() == 4 else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("attention", ["sdpa", "written_out"])
def test_equal_to_the_hardened_vit(attention: str) -> None:
    torch.manual_seed(0)
    sizes = {"width": 48, "depth": 3, "heads": 4, "mlp_ratio": 2.5, "num_classes": 7}
    vit = ViT(ViTConfig(image_size=20, patch_size=4, channels=2, attention=attention, **sizes)).double()  # type: ignore[arg-type]
    page = one_page.ViT(image=20, patch=4, channels=2, width=48, depth=3, heads=4, hidden=120, classes=7).double()
    with torch.no_grad():
        for parameter in vit.parameters():  # fresh biases and norms are zeros and ones: a mistake would not show
            parameter.normal_(std=0.3)
    page.load_state_dict(in_the_names_of_the_page(vit.state_dict()))
    images, labels = torch.randn(5, 2, 20, 20, dtype=torch.float64), torch.arange(5)
    logits = vit(images)
    assert logits.std() > 0.1  # a model that says the same of every image would prove nothing
    torch.testing.assert_close(page(images), logits, rtol=1e-12, atol=1e-12)
    for model in (vit, page):
        F.cross_entropy(model(images), labels).backward()
    gradients = {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}
    for name, gradient in in_the_names_of_the_page(gradients).items():
        torch.testing.assert_close(page.get_parameter(name).grad, gradient, rtol=1e-10, atol=1e-12)
