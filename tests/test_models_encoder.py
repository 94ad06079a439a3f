"""The encoder: equal to torch's own, its two attentions equal, and every field of its config really used."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import nn

from course_utils.models.encoder import (
    MLP,
    Attention,
    DropPath,
    Encoder,
    EncoderConfig,
    EncoderLayer,
    attention_maps,
    attention_weights,
)

SMALL = EncoderConfig(width=24, depth=3, heads=4, mlp_ratio=2.5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def padding(batch: int, tokens: int) -> torch.Tensor:
    """True for real tokens; sentence i has i tokens of padding at its end."""
    return torch.arange(tokens)[None] < tokens - torch.arange(batch)[:, None]


def torch_layer(layer: EncoderLayer, config: EncoderConfig) -> nn.TransformerEncoderLayer:
    """torch's own layer with the same weights."""
    theirs = nn.TransformerEncoderLayer(
        config.width, config.heads, config.mlp_width, 0.0, "gelu", config.norm_eps, True, config.norm_first
    )
    a: Any = layer.attention
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]),
            "self_attn.in_proj_bias": torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]),
            **{f"self_attn.out_proj.{n}": t for n, t in a.out_proj.state_dict().items()},
            **{f"linear1.{n}": t for n, t in layer.mlp.fc1.state_dict().items()},
            **{f"linear2.{n}": t for n, t in layer.mlp.fc2.state_dict().items()},
            **{f"norm1.{n}": t for n, t in layer.norm1.state_dict().items()},
            **{f"norm2.{n}": t for n, t in layer.norm2.state_dict().items()},
        }
    )
    return theirs


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "written_out"])
@pytest.mark.parametrize("masked", [True, False])
def test_layer_equals_torch(norm_first: bool, attention: str, masked: bool) -> None:
    config = replace(SMALL, norm_first=norm_first, attention=attention, norm_eps=1e-3)
    layer = EncoderLayer(config)
    for norm in (layer.norm1, layer.norm2):  # ones and zeros would hide a swap
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x, mask = torch.randn(3, 7, 24), padding(3, 7) if masked else None
    theirs = torch_layer(layer, config).train()(x, src_key_padding_mask=None if mask is None else ~mask)
    torch.testing.assert_close(layer(x, mask), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_written_out_equals_sdpa_in_value_and_gradient(masked: bool) -> None:
    fused = Attention(SMALL)
    written = Attention(replace(SMALL, attention="written_out"))
    written.load_state_dict(fused.state_dict())
    x, mask = torch.randn(3, 7, 24), padding(3, 7) if masked else None
    for attention in (fused, written):
        attention(x, mask).square().sum().backward()
    torch.testing.assert_close(fused(x, mask), written(x, mask), rtol=1e-5, atol=1e-6)
    for a, b in zip(fused.parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_attention_weights_are_a_scaled_softmax() -> None:
    q, k = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 7, 16)
    weights = attention_weights(q, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    torch.testing.assert_close(weights, (torch.einsum("bhmd,bhnd->bhmn", q, k) * 16**-0.5).softmax(-1))


def test_padding_changes_no_real_token() -> None:
    encoder, x = Encoder(SMALL).eval(), torch.randn(2, 5, 24)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[:, 5:] = False
    padded = torch.cat([x, 100 * torch.randn(2, 3, 24)], dim=1)
    torch.testing.assert_close(encoder(padded, mask)[:, :5], encoder(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(encoder(padded)[:, :5], encoder(x), atol=1e-2)


@pytest.mark.parametrize("norm_first", [True, False])
def test_attention_maps_are_those_of_the_forward_pass(norm_first: bool) -> None:
    encoder, x = Encoder(replace(SMALL, norm_first=norm_first)).eval(), torch.randn(2, 7, 24)
    maps = attention_maps(encoder, x, padding(2, 7))
    assert maps.shape == (3, 2, 4, 7, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 4, 7))
    assert (maps[:, 1, :, :, 6] == 0).all()  # the padding of sentence 1
    layer, x = encoder.layers[2], encoder.layers[1](encoder.layers[0](x, padding(2, 7)), padding(2, 7))
    asked = layer.norm1(x) if norm_first else x
    values = layer.attention.v_proj(asked).view(2, 7, 4, 6).transpose(1, 2)
    out = layer.attention.out_proj((maps[2] @ values).transpose(1, 2).reshape(2, 7, 24))
    torch.testing.assert_close(out, layer.attention(asked, padding(2, 7)), rtol=1e-5, atol=1e-5)


def test_another_kind_of_attention_and_mlp_can_be_put_in() -> None:
    class Blind(nn.Module):
        def __init__(self, config: EncoderConfig) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            return torch.zeros_like(x)

    class Gated(MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * x.sigmoid()

    encoder, x = Encoder(SMALL, attention=Blind, mlp=Gated), torch.randn(2, 7, 24)
    assert not [name for name, _ in encoder.named_parameters() if "attention" in name]
    expected = x
    for layer in encoder.layers:
        normed = layer.norm2(expected)
        expected = expected + layer.mlp.fc2(nn.functional.gelu(layer.mlp.fc1(normed))) * normed.sigmoid()
    torch.testing.assert_close(encoder(x), expected)


def test_every_field_reaches_every_layer() -> None:
    config = EncoderConfig(
        width=32, depth=5, heads=8, mlp_ratio=1.5, dropout=0.1, attention_dropout=0.2, drop_path=0.4, norm_eps=1e-4,
        qkv_bias=False, norm_first=False, attention="written_out",
    )  # fmt: skip
    encoder = Encoder(config)
    assert len(encoder.layers) == 5
    for i, layer in enumerate(encoder.layers):
        assert layer.norm_first is False
        assert layer.dropout.p == 0.1
        assert layer.drop_path.p == pytest.approx(0.1 * i)
        assert layer.attention.dropout == 0.2
        assert layer.attention.head_width == 4
        assert layer.attention.implementation == "written_out"
        assert layer.mlp.fc1.weight.shape == (48, 32)
        assert layer.mlp.fc2.weight.shape == (32, 48)
        for norm in (layer.norm1, layer.norm2):
            assert norm.eps == 1e-4
            assert norm.normalized_shape == (32,)
        for p in "qkv":
            assert getattr(layer.attention, f"{p}_proj").bias is None


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "drop_path"])
@pytest.mark.parametrize("attention", ["sdpa", "written_out"])
def test_dropouts_act_in_training_and_only_there(field: str, attention: str) -> None:
    encoder, x = Encoder(replace(SMALL, attention=attention, **{field: 0.5})), torch.randn(4, 7, 24)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))
    plain = Encoder(replace(SMALL, attention=attention)).eval()
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(x), plain(x))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    out = DropPath(0.25)(torch.ones(20_000, 2, 3))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(per_sample[:, 0].tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert out.mean().item() == pytest.approx(1, abs=0.02)  # standard error 0.004


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 100, "heads": 12}, "width 100 cannot be split over 12 heads: choose .* such as 96 or 108"),
        ({"width": 8, "heads": 12}, "width 8 cannot be split over 12 heads: .* such as 12,"),
        ({"depth": 0}, "depth 0 is no count"),
        ({"heads": 1.5}, "heads 1.5 is no count"),
        ({"dropout": 1.0}, "dropout 1.0 is no probability"),
        ({"attention_dropout": -0.1}, "attention_dropout -0.1 is no probability"),
        ({"drop_path": 2}, "drop_path 2 is no probability"),
        ({"mlp_ratio": 0}, "mlp_ratio 0 leaves the MLP no hidden unit"),
        ({"norm_eps": 0}, "norm_eps 0 must be above 0"),
        ({"attention": "flash"}, "attention 'flash' is unknown"),
    ],
)
def test_a_bad_config_says_what_to_change(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**fields)


def test_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.width = 48
