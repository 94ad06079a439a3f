"""The decoder: equal to transformers' own of four families, with cache, padding, packed documents and windows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from course_utils.models.decoder import Cache, Decoder
from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.decoder_files import load_decoder, save_decoder
from course_utils.models.rotary import Rope

SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 2.0, "original_max_position_embeddings": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama with its scaling": ("Llama", {"rope_parameters": LLAMA_3}),
    "llama with linear scaling": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2}},
    ),
    "llama with all biases, tied": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "mistral, wide heads": ("Mistral", {"head_dim": 20, "sliding_window": None}),
    "mistral with a window": ("Mistral", {"sliding_window": 5}),
    "qwen2": ("Qwen2", {}),
    "qwen2 with yarn, tied": ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen2 with a window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 with biases, tied": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
}


def library_model(name: str, seed: int = 0) -> Any:
    """A model of transformers with random weights, also where they would start as zeros or ones."""
    kind, changes = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (1.0 if p.dim() == 1 else 0.0))
    return model


def words(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))  # type: ignore[call-overload, no-any-return]


def small(**changes: Any) -> DecoderConfig:
    config = DecoderConfig(
        vocab_size=101,
        width=48,
        depth=3,
        heads=6,
        kv_heads=2,
        head_width=8,
        mlp_width=80,
        max_length=64,
        rope=Rope(theta=1e4),
    )
    return replace(config, **changes)


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    """The library's model, and ours from what it saved in several files."""
    folder, theirs = tmp_path_factory.mktemp("theirs"), library_model(request.param)
    theirs.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").exists()
    return theirs, load_decoder(folder).eval()


@torch.no_grad()
def test_logits_and_parameters_are_the_librarys(pair: tuple[Any, Decoder]) -> None:
    theirs, ours = pair
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ids = words(3, 40)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing_that_is_read(pair: tuple[Any, Decoder]) -> None:
    theirs, ours = pair
    ids, mask = words(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[0, :4], mask[1, 9:] = 0, 0
    theirs_out = theirs(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for given in (mask, mask.bool()):
        out = ours(ids, given)
        torch.testing.assert_close(out[mask == 1], theirs_out[mask == 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[0, 4:], ours(ids[:1, 4:])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1, :9], ours(ids[1:2, :9])[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_with_a_cache_the_logits_are_the_same(pair: tuple[Any, Decoder]) -> None:
    theirs, ours = pair
    ids, mask = words(2, 14), torch.ones(2, 14, dtype=torch.long)
    mask[1, :3] = 0  # shorter texts of a batch stand at the right, so that all go on together
    whole, cache = ours(ids, mask), Cache()
    parts = [ours(ids[:, a:b], mask[:, :b], cache=cache) for a, b in ((0, 6), (6, 7), (7, 11), (11, 14))]
    assert cache.length == 14
    torch.testing.assert_close(torch.cat(parts, 1)[mask == 1], whole[mask == 1], atol=1e-5, rtol=1e-5)
    step = theirs(ids[:1, :13], use_cache=True)
    last = theirs(ids[:1, 13:], past_key_values=step.past_key_values).logits
    torch.testing.assert_close(last[0, -1], whole[0, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_written_by_us_it_opens_there_and_comes_back_bit_for_bit(pair: tuple[Any, Decoder], tmp_path: Path) -> None:
    theirs, ours = pair
    for name, most in (("one", 10**9), ("many", 60_000)):
        save_decoder(ours, tmp_path / name, shard_bytes=most)
        opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        no_window = opened.config.model_type == "llama"  # a Mistral without a window is a Llama
        assert type(opened) is type(theirs) or (no_window and theirs.config.sliding_window is None)
        ids = words(2, 33)
        torch.testing.assert_close(opened(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
        again = load_decoder(tmp_path / name)
        assert replace(again.config, rope=ours.config.rope) == ours.config
        for (name_there, p), (name_here, q) in zip(again.state_dict().items(), ours.state_dict().items(), strict=True):
            assert name_there == name_here
            assert torch.equal(p, q)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 4])
def test_documents_of_a_row_do_not_see_each_other(window: int | None) -> None:
    torch.manual_seed(0)
    model = Decoder(small(sliding_window=window, qk_norm=True)).eval()
    texts = [words(1, n, seed=n) for n in (5, 1, 9, 3)]
    documents = torch.cat([torch.full((1, t.shape[1]), i) for i, t in enumerate(texts)], 1)
    packed = model(torch.cat(texts, 1), documents=documents)
    torch.testing.assert_close(packed, torch.cat([model(t) for t in texts], 1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(packed, model(torch.cat(texts, 1)), atol=1e-3)


def test_gradients_are_the_librarys(tmp_path: Path) -> None:
    theirs = library_model("qwen3")
    theirs.save_pretrained(tmp_path)
    ours, ids = load_decoder(tmp_path), words(2, 20)
    theirs(ids, labels=ids).loss.backward()
    torch.nn.functional.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    norms = {name.split("model.")[-1]: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        if name.endswith("attention.k_norm.weight"):
            torch.testing.assert_close(
                p.grad, norms[f"layers.{name.split('.')[2]}.self_attn.k_norm.weight"], atol=1e-5, rtol=1e-4
            )
    torch.testing.assert_close(ours.word_embedding.weight.grad, norms["embed_tokens.weight"], atol=1e-5, rtol=1e-4)


def test_a_tied_head_is_the_table(tmp_path: Path) -> None:
    model = Decoder(small(tied=True))
    assert model.head.weight is model.word_embedding.weight
    save_decoder(model, tmp_path)
    again = load_decoder(tmp_path)
    assert again.head.weight is again.word_embedding.weight


def test_weights_are_kept_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    save_decoder(Decoder(small()), tmp_path, dtype=torch.bfloat16)
    assert load_decoder(tmp_path, dtype=None).norm.weight.dtype == torch.bfloat16
    assert load_decoder(tmp_path).norm.weight.dtype == torch.float32
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["torch_dtype"] == "bfloat16"


def test_a_smaller_model_saved_over_a_larger_one_leaves_nothing_of_it(tmp_path: Path) -> None:
    save_decoder(Decoder(small()), tmp_path, shard_bytes=60_000)
    model = Decoder(small(depth=1))
    save_decoder(model, tmp_path)
    assert torch.equal(load_decoder(tmp_path).head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kv_heads": 4}, "1, 2, 3, 6"),
        ({"head_width": 7}, "head_width 7"),
        ({"width": 0}, "width 0"),
        ({"sliding_window": 0}, "sliding_window 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"norm_eps": 0.0}, "norm_eps 0.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scaling": "ntk"}, "ntk"),
        ({"theta": 1.0}, "theta 1.0"),
        ({"factor": 0.5}, "0.5"),
        ({"scaling": "yarn"}, "yarn"),
    ],
)
def test_rotary_positions_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rope(**changes)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model, ids = Decoder(small()), words(2, 6)
    cache = Cache()
    model(ids, cache=cache)
    for call, said in (
        (lambda: model(ids + 100), "vocab_size is 101"),
        (lambda: model(ids.float()), "torch.float32"),
        (lambda: model(ids[:, :0]), r"\[2, 0\]"),
        (lambda: model(words(1, 65)), "65 tokens"),
        (lambda: model(ids, torch.ones(2, 5)), r"\[2, 5\]"),
        (lambda: model(ids, documents=ids, cache=cache), "6 tokens of a cache"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"num_hidden_layers": 2}, "decoder.layers.2"),
        ({"hidden_size": 24}, "where"),
        ({"num_hidden_layers": 4}, "decoder.layers.3.norm1.weight is missing"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    save_decoder(Decoder(small()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        load_decoder(tmp_path)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_decoder(tmp_path / "no such folder")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_decoder(tmp_path)
    save_decoder(Decoder(small()), tmp_path, shard_bytes=60_000)
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    content = first.read_bytes()
    first.write_bytes(content[:200])
    with pytest.raises(ValueError, match=first.name):
        load_decoder(tmp_path)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=first.name):
        load_decoder(tmp_path)
    with pytest.raises(ValueError, match="qk_norm, qkv_bias"):
        save_decoder(Decoder(small(qk_norm=True, qkv_bias=True)), tmp_path)


def test_half_a_mixed_window_is_refused(tmp_path: Path) -> None:
    kind = transformers.Qwen2Config(
        **{**SIZES, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
    )
    transformers.Qwen2ForCausalLM(kind).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="some of its layers"):
        load_decoder(tmp_path)
