"""Prefix tuning: equal to peft in both conventions of positions, keys and values by hand, the MLP folded away."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from twins import (
    CLASSES,
    DEPTH,
    HEADS,
    IDS,
    LABELS,
    MASK,
    ROWS,
    TOKENS,
    WIDTH,
    bert,
    check_learns,
    copy_head,
    disturb,
    logits,
    ours,
)
from twins import with_peft as _with_peft

from course_utils.models.encoder import Attention, attention_maps
from course_utils.models.vit import ViT
from course_utils.models.vit_config import ViTConfig
from course_utils.tuning import (
    LoRA,
    Prefix,
    PTuningV2,
    count_parameters,
    fold,
    inject,
    load,
    merge,
    save,
    set_adapter,
    tuned_layers,
)

L, HIDDEN = 5, 12
HEAD = (WIDTH + 1) * CLASSES
SHIFTED = ["attention", "position_embedding"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def parts(model: nn.Module, name: str = "default") -> list[Any]:
    """The prefixes of all layers, in order."""
    layers = [layer for path, layer in tuned_layers(model) if path.endswith("attention") and name in layer.adapters]
    return [layer.adapters[name] for layer in layers]


def with_peft(**more: Any) -> Any:
    return _with_peft(peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=L, **more))


def in_pefts_order(model: nn.Module, read: Any) -> Tensor:
    """One number per key and value as peft keeps them: [l, 2 L D], key and value of each layer in turn."""
    return torch.cat([rows for part in parts(model) for rows in read(part)], dim=-1)


def test_equal_to_peft_with_its_shifted_positions() -> None:
    theirs, model = with_peft(), ours()
    inject(model, Prefix(length=L), SHIFTED, train="head")
    assert count_parameters(model).trainable == theirs.get_nb_trainable_parameters()[0] == 2 * DEPTH * L * WIDTH + HEAD
    copy_head(model, theirs)
    table = theirs.prompt_encoder["default"].embedding.weight
    table.data.copy_(in_pefts_order(model, lambda part: (part.keys, part.values)))
    assert (logits(model) - logits(bert())).abs().max() > 0.1
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    for each in (model.double(), theirs.double()):
        F.cross_entropy(logits(each), LABELS).backward()
    mine = in_pefts_order(model, lambda part: (part.keys.grad, part.values.grad))
    assert mine.abs().max() > 1e-4
    torch.testing.assert_close(mine, table.grad, rtol=1e-9, atol=1e-9)


def test_equal_to_peft_with_the_texts_own_positions() -> None:
    """The positions are the only difference: hand peft's cache to BERT with positions 0 to N - 1, or ours with l on."""
    theirs, model = with_peft(), ours()
    inject(model, Prefix(length=L), "attention", train="head")
    copy_head(model, theirs)
    table = theirs.prompt_encoder["default"].embedding.weight
    table.data.copy_(in_pefts_order(model, lambda part: (part.keys, part.values)))
    unshifted = theirs.base_model(
        input_ids=IDS, attention_mask=F.pad(MASK, (L, 0), value=True).long(), past_key_values=theirs.get_prompt(ROWS),
        position_ids=torch.arange(TOKENS).expand(ROWS, -1),
    ).logits  # fmt: skip
    torch.testing.assert_close(model(IDS, MASK), unshifted, rtol=1e-5, atol=1e-5)
    shifted = theirs(input_ids=IDS, attention_mask=MASK.long()).logits
    torch.testing.assert_close(model(IDS, MASK, positions=torch.arange(L, L + TOKENS)), shifted, rtol=1e-5, atol=1e-5)
    assert (shifted - unshifted).abs().max() > 0.01


def test_equal_to_peft_with_the_mlp_and_folded() -> None:
    theirs, model = with_peft(prefix_projection=True, encoder_hidden_size=HIDDEN), ours()
    inject(model, Prefix(length=L, hidden=HIDDEN), SHIFTED, train="head")
    formula = L * WIDTH + (WIDTH + 1) * HIDDEN + (HIDDEN + 1) * 2 * DEPTH * WIDTH
    assert count_parameters(model).trainable == theirs.get_nb_trainable_parameters()[0] == formula + HEAD
    copy_head(model, theirs)
    network, trunk = theirs.prompt_encoder["default"], parts(model)[0].trunk
    pairs = [
        (network.embedding.weight, lambda: [trunk.embedding]),
        (network.transform[0].weight, lambda: [trunk.linear.weight]),
        (network.transform[0].bias, lambda: [trunk.linear.bias]),
        (network.transform[2].weight, lambda: [part.out.weight for part in parts(model)]),
        (network.transform[2].bias, lambda: [part.out.bias for part in parts(model)]),
    ]
    for other, mine in pairs:
        other.data.copy_(torch.cat([p.detach() for p in mine()]))
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    for each in (model.double(), theirs.double()):
        F.cross_entropy(logits(each), LABELS).backward()
    for other, mine in pairs:
        assert other.grad.abs().max() > 1e-5
        torch.testing.assert_close(torch.cat([p.grad for p in mine()]), other.grad, rtol=1e-8, atol=1e-9)
    before = logits(model)
    fold(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-12, atol=1e-12)
    assert count_parameters(model).trainable == 2 * DEPTH * L * WIDTH + HEAD
    kept = theirs.get_prompt_embedding_to_save("default")  # what peft writes into its file
    mine = in_pefts_order(model, lambda part: (part.keys, part.values))
    torch.testing.assert_close(mine, kept, rtol=1e-9, atol=1e-9)


def test_one_layer_by_hand() -> None:
    """A prefix is l more columns of the scores: nothing asks in its place, and every text looks at all of it."""
    model, bare = ours(), ours().encoder.layers[1].attention
    assert isinstance(bare, Attention)
    inject(model, Prefix(length=L), ["layers.1.attention"])
    x = torch.randn(ROWS, TOKENS, WIDTH)
    (part,) = parts(model)
    q, k, v = bare.q_proj(x), bare.k_proj(x), bare.v_proj(x)
    k, v = (torch.cat([rows.expand(ROWS, -1, -1), t], 1) for rows, t in [(part.keys, k), (part.values, v)])
    out = []
    for head in range(HEADS):
        cut = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        scores = q[..., cut] @ k[..., cut].transpose(1, 2) / (WIDTH // HEADS) ** 0.5  # [B, N, l + N]
        scores[..., L:].masked_fill_(~MASK[:, None, :], -torch.inf)
        out.append(scores.softmax(-1) @ v[..., cut])
    expected = bare.out_proj(torch.cat(out, -1))
    layer = model.encoder.layers[1].attention
    torch.testing.assert_close(layer(x, MASK), expected, rtol=1e-5, atol=1e-5)
    assert layer(x).shape == x.shape


def test_a_prefix_of_zeros_is_not_nothing() -> None:
    """exp(0) = 1: keys of zeros still take their share of every softmax, away from the text."""
    model = ours()
    inject(model, Prefix(length=L), "attention")
    for part in parts(model):
        nn.init.zeros_(part.keys)
        nn.init.zeros_(part.values)
    assert (logits(model) - logits(ours())).abs().max() > 0.01
    x, attention = torch.randn(1, TOKENS, WIDTH), copy.deepcopy(ours().encoder.layers[0].attention)
    assert isinstance(attention, nn.Module)
    nn.init.zeros_(attention.q_proj.weight)  # all scores alike: every token takes the mean of what it sees
    nn.init.zeros_(attention.q_proj.bias)
    prefixed = nn.ModuleDict({"attention": copy.deepcopy(attention)})
    inject(prefixed, Prefix(length=L), "attention")
    for part in parts(prefixed):
        part.values.data.fill_(0)
    shrunk = (attention(x) - attention.out_proj.bias) * TOKENS / (L + TOKENS) + attention.out_proj.bias
    torch.testing.assert_close(prefixed.attention(x), shrunk, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [None, 7])
def test_training_moves_the_prefix_and_the_head_alone(hidden: int | None) -> None:
    model = ours()
    inject(model, Prefix(length=L, hidden=hidden), "attention", train="head")
    assert {name.rpartition("adapters.default.")[2] for name, p in model.named_parameters() if p.requires_grad} <= {
        "keys", "values", "trunk.embedding", "trunk.linear.weight", "trunk.linear.bias", "out.weight", "out.bias",
        "copy.weight", "copy.bias",
    }  # fmt: skip
    check_learns(model, 2e-2)
    with pytest.raises(ValueError, match="Attention"):
        merge(model)
    set_adapter(model, None)
    assert torch.equal(logits(model), logits(ours()))


@pytest.mark.parametrize("method", [Prefix(length=3), Prefix(length=3, hidden=7), PTuningV2(length=3, hidden=7)])
def test_saved_loaded_and_of_the_promised_size(method: Prefix, tmp_path: Path) -> None:
    path, model = tmp_path / "prefix.safetensors", ours()
    inject(model, method, SHIFTED, train="head")
    disturb(model)
    for folded in (False, True):
        if folded:
            fold(model)
        save(model, path)
        held = sum(tensor.numel() for tensor in safetensors.torch.load_file(path).values())
        assert held == count_parameters(model).trainable  # the trunk is in the file once
        fresh = ours()
        assert load(fresh, path).method == (replace(method, hidden=None) if folded else method)
        assert torch.equal(logits(fresh), logits(model))
        assert all(p.requires_grad for part in parts(model) for p in part.parameters())
    assert held == 2 * DEPTH * 3 * WIDTH + HEAD
    twin = copy.deepcopy(fresh)
    disturb(twin)
    assert not torch.equal(logits(twin), logits(fresh))


def test_copies_of_a_model_share_no_trunk() -> None:
    model = ours()
    inject(model, Prefix(length=L, hidden=HIDDEN), "attention")
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    with torch.no_grad():
        parts(twin)[0].trunk.embedding.add_(1)
    assert all(not torch.equal(*pair) for a, b in zip(parts(twin), parts(model), strict=True)
               for pair in zip(a.keys_and_values(), b.keys_and_values(), strict=True))  # fmt: skip


def test_each_row_its_own_prefix_of_its_own_length() -> None:
    model = ours()
    for name, length, seed in [("news", 3, 4), ("mood", 6, 5)]:
        inject(model, Prefix(length=length), "attention", train="head", name=name)
        disturb(model, seed)
    names, alone = ["mood", "news", None, "news"], []
    for row, name in enumerate(names):
        set_adapter(model, name)
        alone.append(model(IDS[row : row + 1], MASK[row : row + 1]))
    set_adapter(model, names)
    torch.testing.assert_close(model(IDS, MASK), torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_fold_needs_an_adapter_and_leaves_others_alone() -> None:
    model = ours()
    inject(model, LoRA(rank=2), "q_proj", name="lora")
    inject(model, Prefix(length=2, hidden=4), "attention", name="prefix")
    set_adapter(model, None)
    fold(model, "lora")
    fold(model, "prefix")
    assert not any(p.requires_grad for p in model.parameters())  # nothing was chosen, and nothing wakes
    with pytest.raises(ValueError, match="'other'"):
        fold(model, "other")


def test_a_vit_takes_a_prefix_too() -> None:
    config = ViTConfig(image_size=16, patch_size=4, width=32, depth=2, heads=4, num_classes=3)
    model, images = ViT(config).eval(), torch.randn(2, 3, 16, 16)
    before = model(images)
    inject(model, Prefix(length=L), "attention", train="head")
    assert count_parameters(model).trainable == 2 * 2 * L * 32 + 33 * 3
    assert not torch.allclose(model(images), before, atol=1e-3)


def test_a_lora_inside_the_attention_and_sixteen_bits() -> None:
    model = ours()
    inject(model, LoRA(rank=2), ["k_proj", "v_proj"], name="lora")
    inject(model, Prefix(length=2), "attention", name="prefix")  # reads sizes through the tuned layers
    assert model(IDS, MASK).shape == (ROWS, CLASSES)
    model = ours().to(torch.bfloat16)
    inject(model, Prefix(length=2, hidden=4), "attention")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model(IDS, MASK).dtype == torch.bfloat16


def test_dropout_of_attention_works_in_training_alone() -> None:
    model = ours(attention_dropout=0.5)
    inject(model, Prefix(length=2), "attention")
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_fresh_keys_and_values_are_as_large_as_the_layers_own() -> None:
    model, bare = ours(), ours()
    inject(model, Prefix(length=200), "attention")
    x = bare.embed(IDS)
    x = F.layer_norm(x, (WIDTH,))
    for part, layer in zip(parts(model), bare.encoder.layers, strict=True):
        own = F.linear(x, layer.attention.k_proj.weight).std().item()
        assert part.keys.std().item() == pytest.approx(own, rel=0.25)


@pytest.mark.parametrize("field", ["length", "hidden"])
def test_wrong_numbers_are_told(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} 0"):
        Prefix(**{field: 0})


def test_attention_maps_of_a_prefixed_model_are_refused() -> None:
    model = ours()
    inject(model, Prefix(length=L), "attention", train=["head"])
    with pytest.raises(ValueError, match=r"encoder.layers.0.attention.base was not called"):
        attention_maps(model, IDS, MASK)


def test_places_and_lengths_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="attention"):
        inject(ours(), Prefix(), "position_embedding")
    with pytest.raises(ValueError, match=r"word_embedding.*attention"):
        inject(ours(), Prefix(), ["attention", "word_embedding"])
    with pytest.raises(ValueError, match="Attention, Embedding"):
        inject(bert(), Prefix(), "attention")
    model = ours()
    inject(model, Prefix(length=16), SHIFTED)
    with pytest.raises(ValueError, match=r"9 tokens .* 16 .* 24 positions"):
        model(IDS)
    model = ours()
    inject(model, Prefix(length=16), "attention")
    assert model(IDS).shape == (ROWS, CLASSES)
