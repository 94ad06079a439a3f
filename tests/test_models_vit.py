"""The Vision Transformer: its parts against the operations they stand for, and sentences where an input is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.models import PRESETS, PatchEmbedding, ViT, ViTConfig, attention_maps, interpolate_positions, patchify

SMALL = ViTConfig(image_size=(12, 20), patch_size=4, width=24, depth=2, heads=4, num_classes=7)  # 3 x 5 patches


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(config: ViTConfig) -> ViT:
    """A model in evaluation whose weights are large enough that every part tells in the logits."""
    model = ViT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(
                std=parameter[0].numel() ** -0.5 if parameter.dim() in (2, 4) else 1
            )  # matrices by fan-in
    return model


@pytest.mark.parametrize("patch", [4, (4, 2), (2, 5)])
def test_patch_embedding_equals_convolution_and_unfold(patch: int | tuple[int, int]) -> None:
    config = ViTConfig(image_size=(8, 20), patch_size=patch, channels=5, width=24, heads=4)
    embedding, images = PatchEmbedding(config), torch.randn(3, 5, 8, 20)
    tokens = embedding(images)
    convolved = F.conv2d(images, embedding.weight, embedding.bias, stride=patch)  # [B, D, rows, columns]
    assert tokens.shape == (3, config.patches, 24)
    torch.testing.assert_close(tokens, convolved.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert torch.equal(patchify(images, patch), F.unfold(images, patch, stride=patch).transpose(1, 2))


@pytest.mark.parametrize(
    ("preset", "changes", "count"),
    [
        ("base16", {}, 86_567_656),
        ("base16", {"num_classes": 10}, 85_806_346),
        ("base16", {"num_classes": 0}, 85_798_656),
        ("base16", {"image_size": 384}, 86_859_496),
        ("tiny16", {}, 5_717_416),
        ("small16", {}, 22_050_664),
        ("large16", {}, 304_326_632),
        ("base32", {}, 88_224_232),
        ("tiny4", {"num_classes": 10}, 5_362_762),
        ("small4", {"num_classes": 10}, 21_342_346),
        ("base4", {"num_classes": 10}, 85_152_010),
    ],
)
def test_parameter_counts(preset: str, changes: dict, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ViT.preset(preset, **changes).parameters()) == count


def test_every_preset_is_a_valid_config() -> None:
    for name in PRESETS:
        assert ViTConfig.preset(name).prefix == 1


def test_initial_values() -> None:
    model = ViT.preset("micro4", width=256, registers=4, mask_token=True)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name
            assert abs(p.mean().item()) < 0.005, name


def test_forward_is_head_of_norm_of_class_token() -> None:
    model, images = lively(SMALL), torch.randn(3, 3, 12, 20)
    x = torch.cat([model.class_token.expand(3, -1, -1), model.patch_embedding(images)], dim=1) + model.positions
    x = model.norm(model.encoder(x))
    torch.testing.assert_close(model.tokens(images), x)
    torch.testing.assert_close(model(images), model.head(x[:, 0]), rtol=1e-4, atol=1e-4)
    assert model(images).shape == (3, 7)


def test_compiled_in_one_graph() -> None:
    """einops names the reshapes, and the compiler still sees through them."""
    model, images = lively(SMALL), torch.randn(3, 3, 12, 20)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))


def test_mean_pooling_reads_the_patches_alone() -> None:
    model, images = lively(replace(SMALL, pool="mean", registers=2)), torch.randn(3, 3, 12, 20)
    tokens = model.encoder(model.embed(images))
    assert tokens.shape == (3, 1 + 2 + 15, 24)
    torch.testing.assert_close(model.features(images), model.norm(tokens[:, 3:].mean(1)))


@pytest.mark.parametrize("class_position", [True, False])
@pytest.mark.parametrize("class_token", [True, False])
def test_registers_and_class_token_positions(class_position: bool, class_token: bool) -> None:
    config = replace(SMALL, registers=2, pool="mean", class_position=class_position, class_token=class_token)
    model, images = lively(config), torch.randn(3, 3, 12, 20)
    own = int(class_token and class_position)
    assert model.positions.shape == (1, own + 15, 24)
    tokens = model.embed(images)
    assert tokens.shape == (3, class_token + 2 + 15, 24)
    if class_token:
        expected = model.class_token[0, 0] + (model.positions[0, 0] if class_position else 0)
        torch.testing.assert_close(tokens[:, 0], expected.expand(3, -1))
    torch.testing.assert_close(tokens[:, int(class_token) : -15], model.registers.expand(3, -1, -1))
    torch.testing.assert_close(tokens[:, -15:], model.patch_embedding(images) + model.positions[:, own:])


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    config = replace(SMALL, image_size=16)
    model, images = lively(config), torch.randn(2, 3, 16, 16)
    turned = images.unflatten(-1, (4, 4))[..., [2, 0, 3, 1], :].flatten(-2)  # columns of patches change places
    assert not torch.allclose(model(images), model(turned), atol=1e-2)
    with torch.no_grad():
        model.positions.zero_()
    torch.testing.assert_close(model(images), model(turned), rtol=1e-4, atol=1e-4)


def test_mask_replaces_exactly_the_masked_patches() -> None:
    model, images = lively(replace(SMALL, mask_token=True)), torch.randn(2, 3, 12, 20)
    mask = torch.rand(2, 15) < 0.5
    plain, masked = model.embed(images)[:, 1:], model.embed(images, mask=mask)[:, 1:]
    assert torch.equal(plain[~mask], masked[~mask])
    torch.testing.assert_close(masked[mask], (model.mask_token + model.positions[:, 1:]).expand(2, -1, -1)[mask])
    hidden = images.clone()
    hidden.unflatten(2, (3, 4)).unflatten(4, (5, 4)).permute(0, 2, 4, 1, 3, 5)[mask.view(2, 3, 5)] = 99
    torch.testing.assert_close(model(images, mask=mask), model(hidden, mask=mask))  # what is masked is not seen


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((3, 5), (6, 4)), ((4, 4), (2, 8)), ((3, 5), (5, 3))])
def test_interpolation_equals_timm(old: tuple[int, int], new: tuple[int, int], antialias: bool) -> None:
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(1, 1 + old[0] * old[1], 8)
    theirs = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=1, antialias=antialias)
    ours = interpolate_positions(table, old, new, antialias)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert torch.equal(ours[:, 0], table[:, 0])
    assert not torch.allclose(ours, interpolate_positions(table, old, new, not antialias), atol=1e-3)


def test_interpolation_keeps_a_linear_slope_and_its_own_grid() -> None:
    table = torch.randn(1, 16, 8)
    assert interpolate_positions(table, (3, 5), (3, 5)) is table
    slope = torch.linspace(0, 1, 12).repeat(6, 1).reshape(1, 72, 1)  # grows to the right, is the same in every row
    wide = interpolate_positions(slope, (6, 12), (3, 24)).view(3, 24)
    torch.testing.assert_close(wide, wide[:1].expand(3, -1))
    assert (wide.diff(dim=1)[:, 4:-4] > 0).all()


def test_other_sizes_reach_the_top_level_forward() -> None:
    model = lively(SMALL)
    for height, width in [(20, 12), (16, 16), (8, 40)]:
        images = torch.randn(2, 3, height, width)
        with pytest.raises(ValueError, match=f"{height} x {width} pixels reach a model for 12 x 20.*interpolate=True"):
            model(images)
        assert model(images, interpolate=True).shape == (2, 7)
        assert model.tokens(images, interpolate=True).shape == (2, 1 + height * width // 16, 24)
    images = torch.randn(2, 3, 12, 20)
    assert torch.equal(model(images, interpolate=True), model(images))


def test_attention_maps() -> None:
    model, images = lively(replace(SMALL, registers=1)), torch.randn(2, 3, 12, 20)
    maps = attention_maps(model, images)
    assert maps.shape == (2, 2, 4, 17, 17)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 4, 17))
    x = model.embed(images)
    torch.testing.assert_close(maps[0], model.encoder.layers[0].attention.weights(model.encoder.layers[0].norm1(x)))


def test_config_propagates() -> None:
    config = replace(SMALL, width=32, heads=2, depth=3, mlp_ratio=3.0, dropout=0.1, norm_eps=1e-3, channels=1)
    model = ViT(config)
    assert model.encoder.layers[2].mlp.fc1.weight.shape == (96, 32)
    assert model.encoder.layers[0].attention.head_width == 16
    assert model.norm.eps == model.encoder.layers[1].norm2.eps == 1e-3
    assert model.dropout.p == model.encoder.layers[1].dropout.p == 0.1
    assert model(torch.randn(2, 1, 12, 20)).shape == (2, 7)


def test_no_head_returns_features() -> None:
    model, images = lively(replace(SMALL, num_classes=0)), torch.randn(2, 3, 12, 20)
    assert torch.equal(model(images), model.features(images))
    assert model(images).shape == (2, 24)


def test_another_stem_can_be_put_in() -> None:
    class Stem(nn.Module):
        def __init__(self, config: ViTConfig) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(config.channels, 8, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(8, config.width, 3, stride=2, padding=1),
            )  # fmt: skip

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images).flatten(2).transpose(1, 2)

    model = ViT(SMALL, patch_embedding=Stem)
    model(torch.randn(2, 3, 12, 20)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_every_parameter_learns() -> None:
    model = ViT(replace(SMALL, registers=2, mask_token=True))
    model(torch.randn(2, 3, 12, 20), mask=torch.rand(2, 15) < 0.5).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # a shift of all keys shifts all scores of a row: softmax does not see it
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 230}, "image height 230 is no multiple of the patch's 16: resize or pad it to 224 or 240"),
        ({"image_size": (224, 10)}, "image width 10 is no multiple of the patch's 16: resize or pad it to 16$"),
        ({"image_size": 0}, "image_size 0 is no size"),
        ({"patch_size": (16, 16, 16)}, "patch_size .* is no size"),
        ({"channels": 0}, "channels 0 is no count"),
        ({"num_classes": -1}, "num_classes -1 is no count"),
        ({"registers": -1}, "registers -1 is no count"),
        ({"pool": "max"}, "pool 'max' is unknown"),
        ({"class_token": False}, 'pool "cls" reads a class token'),
        ({"width": 100}, "width 100 cannot be split over 12 heads"),
    ],
)
def test_a_bad_config_says_what_to_change(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTConfig(**fields)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 12, 20), r"images of shape \[2, 1, 12, 20\] do not fit: give \[batch, 3, height, width\]"),
        ((3, 12, 20), "do not fit"),
        ((2, 3, 13, 20), "image height 13 is no multiple of the patch's 4: resize or pad it to 12 or 16"),
    ],
)
def test_bad_images_say_what_to_change(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViT(SMALL)(torch.zeros(shape), interpolate=True)


def test_bad_masks_say_what_to_change() -> None:
    images = torch.zeros(2, 3, 12, 20)
    with pytest.raises(ValueError, match="make it with mask_token=True"):
        ViT(SMALL)(images, mask=torch.zeros(2, 15, dtype=torch.bool))
    model = ViT(replace(SMALL, mask_token=True))
    for mask in (torch.zeros(2, 16, dtype=torch.bool), torch.zeros(2, 15)):
        with pytest.raises(ValueError, match=r"give a bool tensor of shape \[2, 15\]"):
            model(images, mask=mask)


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(ValueError, match="preset 'huge' is unknown: choose one of tiny16"):
        ViT.preset("huge")
