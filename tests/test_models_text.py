"""The text encoder: equal to transformers' BERT with the same weights, padded batches included; clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn

from course_utils.models import TextConfig, TextModel, attention_maps, load_text

SIZES = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80,
    "max_position_embeddings": 24,
}  # fmt: skip
SMALL = TextConfig(
    vocab_size=97, width=48, depth=2, heads=4, mlp_ratio=80 / 48, max_length=24, num_classes=5, pooler=True
)
HEADS = 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(model: nn.Module) -> Any:
    """Random weights in which every parameter tells: fresh ones have zero biases and norms that do nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 0.5)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def bert(classes: int = 0, **more: Any) -> Any:
    config = transformers.BertConfig(**(SIZES | more))
    if classes:
        config.num_labels = classes
        return lively(transformers.BertForSequenceClassification(config))
    return lively(transformers.BertModel(config))


def batch(rows: int = 5, tokens: int = 11) -> dict[str, Tensor]:
    """Texts of different lengths, padded; two sentence types."""
    ids, types = torch.randint(1, 97, (rows, tokens)), torch.randint(0, 2, (rows, tokens))
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1))
    mask[0] = True
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "token_type_ids": types}


def ours(model: TextModel, texts: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return texts["input_ids"], texts["attention_mask"], texts["token_type_ids"]


def assert_same(model: TextModel, theirs: Any, texts: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        expected, arguments = theirs(**texts), ours(model.eval(), texts)
        if hasattr(expected, "logits"):
            assert expected.logits.std() > 0.1  # a model that says the same of every text would prove nothing
            torch.testing.assert_close(model(*arguments), expected.logits, rtol=1e-5, atol=1e-5)
            return
        real = texts["attention_mask"].bool()
        tokens = model.tokens(*arguments)
        torch.testing.assert_close(tokens[real], expected.last_hidden_state[real], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.features(*arguments), expected.pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("classes", [0, 7])
def test_equal_to_transformers(classes: int, implementation: str) -> None:
    theirs = bert(classes, attn_implementation=implementation)
    model = load_text(theirs.state_dict(), heads=HEADS)
    assert model.config.num_classes == classes
    for rows, tokens in [(5, 11), (1, 1), (3, 24)]:
        assert_same(model, theirs, batch(rows, tokens))


def test_equal_gradients() -> None:
    theirs, texts, labels = bert(7), batch(), torch.randint(0, 7, (5,))
    model = load_text(theirs.state_dict(), heads=HEADS).eval()
    nn.functional.cross_entropy(model(*ours(model, texts)), labels).backward()
    theirs(**texts, labels=labels).loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    as_ours = load_text(gradients, heads=HEADS)  # renames gradients as it renames weights
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, as_ours.get_parameter(name).data, rtol=1e-4, atol=1e-6)


def test_padding_does_not_change_a_text() -> None:
    for pool, pooler in [("cls", True), ("cls", False), ("mean", False)]:
        model = lively(TextModel(replace(SMALL, pool=pool, pooler=pooler)))
        ids = torch.randint(1, 97, (2, 7))
        padded = torch.cat([ids, torch.zeros(2, 5, dtype=torch.long)], dim=1)
        mask = torch.arange(12).expand(2, 12) < 7
        torch.testing.assert_close(model(ids), model(padded, mask), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(padded, mask), model(padded, mask.int()), rtol=0, atol=0)
        assert not torch.allclose(model(ids), model(padded), atol=1e-3)  # without a mask the padding is read


def test_mean_pooling_is_the_mean_of_real_tokens() -> None:
    model, texts = lively(TextModel(replace(SMALL, pool="mean", pooler=False))), batch()
    tokens, arguments = model.tokens(*ours(model, texts)), ours(model, texts)
    expected = torch.stack([t[m].mean(0) for t, m in zip(tokens, texts["attention_mask"].bool(), strict=True)])
    torch.testing.assert_close(model.features(*arguments), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(*arguments), model.head(expected), rtol=1e-5, atol=1e-5)


def test_parameter_counts_of_bert_base_chinese() -> None:
    with torch.device("meta"):
        model = TextModel(TextConfig())
        assert sum(p.numel() for p in model.parameters()) == 102_267_648
        assert sum(p.numel() for p in model.encoder.layers.parameters()) == 85_054_464
        assert model.word_embedding.weight.numel() == 16_226_304
        assert sum(p.numel() for p in TextModel(TextConfig(num_classes=18)).parameters()) == 102_281_490
        assert sum(p.numel() for p in TextModel(TextConfig(vocab_size=30522)).parameters()) == 109_482_240


def test_same_parameters_as_transformers_on_the_default_sizes() -> None:
    with torch.device("meta"):
        theirs = transformers.BertModel(transformers.BertConfig(vocab_size=21128))
        assert sum(p.numel() for p in theirs.parameters()) == sum(
            p.numel() for p in TextModel(TextConfig()).parameters()
        )


def test_inputs_embeds_and_positions_are_seams_for_soft_prompts() -> None:
    theirs, texts, prompt = bert(7), batch(), torch.randn(5, 4, 48)
    model = load_text(theirs.state_dict(), heads=HEADS).eval()
    vectors = torch.cat([prompt, model.word_embedding(texts["input_ids"])], dim=1)
    mask = torch.cat([torch.ones(5, 4, dtype=torch.long), texts["attention_mask"]], dim=1)
    expected = theirs(inputs_embeds=vectors, attention_mask=mask).logits
    torch.testing.assert_close(model(None, mask, inputs_embeds=vectors), expected, rtol=1e-5, atol=1e-5)
    shifted = torch.arange(4, 15)
    expected = theirs(**texts, position_ids=shifted[None]).logits
    torch.testing.assert_close(model(*ours(model, texts), positions=shifted), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(*ours(model, texts)), expected, atol=1e-3)


def test_attention_maps_leave_padding_out() -> None:
    model, texts = lively(TextModel(SMALL)), batch()
    maps = attention_maps(model, *ours(model, texts))
    assert maps.shape == (2, 5, 4, 11, 11)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 5, 4, 11))
    padding = ~texts["attention_mask"].bool()
    assert (maps.permute(1, 4, 0, 2, 3)[padding] == 0).all()


def test_initial_values() -> None:
    model = TextModel(SMALL)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.25), name
    assert (model.word_embedding.weight[0] == 0).all()
    model(torch.zeros(2, 5, dtype=torch.long)).sum().backward()
    assert (model.word_embedding.weight.grad[0] == 0).all()  # the padding's row is not trained


def test_prenorm_encoder_ends_in_a_norm_and_comes_back_from_its_own_state() -> None:
    model = lively(TextModel(replace(SMALL, norm_first=True)))
    again = load_text(model.state_dict(), heads=HEADS).eval()
    assert again.config == model.config
    assert torch.equal(again(*ours(model, texts := batch())), model(*ours(model, texts)))


# checkpoints


def test_directory_of_transformers_states_its_config(tmp_path: Path) -> None:
    theirs = bert(7, layer_norm_eps=1e-3, hidden_dropout_prob=0.15, classifier_dropout=0.3, pad_token_id=2)
    theirs.save_pretrained(tmp_path)
    model = load_text(tmp_path)
    assert model.config == TextConfig(
        vocab_size=97, width=48, depth=3, heads=4, mlp_ratio=80 / 48, max_length=24, num_classes=7, norm_eps=1e-3,
        dropout=0.15, attention_dropout=0.1, head_dropout=0.3, pad_token=2,
    )  # fmt: skip
    assert model.head_dropout.p == 0.3
    assert_same(model, theirs, batch())


def test_old_names_prefix_and_pretraining_heads() -> None:
    theirs = lively(transformers.BertForPreTraining(transformers.BertConfig(**SIZES)))
    state = theirs.state_dict()
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in state.items()
    } | {"bert.embeddings.position_ids": torch.arange(24)[None]}
    assert any("gamma" in key for key in old)
    for checkpoint in (state, old):
        assert_same(load_text(checkpoint, heads=HEADS), theirs.bert, batch())
    with pytest.raises(ValueError, match=r"no place for \(\d+\): cls.predictions"):
        load_text(state, heads=HEADS, ignore=())


def test_file_of_torch_save_and_safetensors(tmp_path: Path) -> None:
    theirs = bert(7)
    torch.save(theirs.state_dict(), tmp_path / "a.bin")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "b.safetensors")
    for name in ("a.bin", "b.safetensors"):
        assert_same(load_text(tmp_path / name, heads=HEADS), theirs, batch())


def test_heads_fresh_kept_or_refused() -> None:
    state, state7 = bert().state_dict(), bert(7).state_dict()
    assert load_text(state, heads=HEADS, num_classes=18).head.weight.shape == (18, 48)
    assert load_text(state7, heads=HEADS, num_classes=7).head.weight.equal(state7["classifier.weight"])
    with pytest.raises(ValueError, match=r"a head for 7 classes, and num_classes=18 .* replace_head=True"):
        load_text(state7, heads=HEADS, num_classes=18)
    fresh = load_text(state7, heads=HEADS, num_classes=7, replace_head=True)
    assert not fresh.head.weight.equal(state7["classifier.weight"])
    with pytest.raises(ValueError, match="replace_head=True needs num_classes="):
        load_text(state7, heads=HEADS, replace_head=True)


def test_mean_pooling_leaves_the_pooler_out_only_when_asked() -> None:
    state = bert().state_dict()
    with pytest.raises(ValueError, match="the pooler reads the first token"):
        load_text(state, heads=HEADS, pool="mean")
    model = load_text(state, heads=HEADS, pool="mean", pooler=False)
    assert model.pooler is None
    assert model(torch.ones(2, 3, dtype=torch.long)).shape == (2, 48)


def test_nothing_is_silently_missing_or_left_over() -> None:
    state = bert(7).state_dict()
    for key in state:
        cut = {k: t for k, t in state.items() if k != key}
        if key == "bert.encoder.layer.0.attention.self.query.bias":
            with pytest.raises(ValueError, match=r"attention.k_proj.bias is left over"):
                load_text(cut, heads=HEADS)
            continue
        with pytest.raises(ValueError, match=r"missing|lacks|left over|no BERT in a layout"):
            load_text(cut, heads=HEADS)
    headless = {k: t for k, t in state.items() if not k.startswith("classifier")}
    assert load_text(headless, heads=HEADS).config.num_classes == 0
    with pytest.raises(ValueError, match=r"no place for \(1\): bert.encoder.layer.0.crossattention"):
        load_text(state | {"bert.encoder.layer.0.crossattention": torch.ones(1)}, heads=HEADS)
    with pytest.raises(ValueError, match=r"mlp.fc2.weight has shape \[48, 70\] where \[48, 80\]"):
        load_text(state | {"bert.encoder.layer.1.output.dense.weight": torch.ones(48, 70)}, heads=HEADS)


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing tells over how many heads"):
        load_text(bert().state_dict())
    with pytest.raises(ValueError, match=r"no BERT in a layout known here .* first keys are a.weight"):
        load_text({"a.weight": torch.ones(2)})
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        load_text(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds none of model.safetensors, pytorch_model.bin"):
        load_text(tmp_path)
    bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [
        ({"model_type": "albert"}, "model_type 'albert', and this encoder reads bert, roberta, .*choose such a base"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "describes a decoder"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load_text(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_text(tmp_path)
    (tmp_path / "config.json").unlink()
    blob = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(ValueError, match="truncated, damaged"):
        load_text(tmp_path)
    positions = {"embeddings.position_ids": torch.arange(2, 26)[None]}
    with pytest.raises(ValueError, match="numbers its positions otherwise"):
        load_text(bert().state_dict() | positions, heads=HEADS)


# wrong inputs


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((), {}, "either input_ids or inputs_embeds: none"),
        ((torch.ones(1, 2).long(),), {"inputs_embeds": torch.ones(1, 2, 48)}, "both came in"),
        ((torch.ones(3).long(),), {}, r"shape \[3\] do not fit: give integers of shape \[texts, tokens\]"),
        ((torch.ones(1, 3),), {}, "torch.float32"),
        ((torch.full((1, 3), 97),), {}, "input_ids run from 97 to 97, but vocab_size is 97: use the tokenizer"),
        ((torch.ones(1, 25).long(),), {}, "25 tokens does not fit a model for 1 to 24: truncate"),
        ((torch.ones(1, 0).long(),), {}, "0 tokens does not fit"),
        ((torch.ones(2, 3).long(), torch.ones(2, 4)), {}, r"attention_mask of shape \[2, 4\] .* \[2, 3\]"),
        ((torch.ones(2, 3).long(), torch.tensor([[1, 1, 0], [0, 0, 0]])), {}, "text 1 of the batch has no real token"),
        (
            (torch.ones(2, 3).long(), None, torch.full((2, 3), 2)),
            {},
            "token_types run from 2 to 2, but token_types is 2",
        ),
        ((torch.ones(2, 3).long(),), {"positions": torch.arange(22, 25)}, "positions run from 22 to 24"),
        ((), {"inputs_embeds": torch.ones(2, 3, 47)}, r"give \[texts, tokens, 48\]"),
    ],
)
def test_wrong_inputs_are_told(arguments: tuple, keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextModel(SMALL)(*arguments, **keywords)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size 0 is no count"),
        ({"max_length": 1.5}, "max_length 1.5 is no count"),
        ({"num_classes": -1}, "num_classes -1 is no count"),
        ({"pad_token": 97}, "pad_token 97 is no token id: choose one from 0 to 96"),
        ({"pool": "max"}, "pool 'max' is unknown"),
        ({"pool": "mean"}, "the pooler reads the first token"),
        ({"head_dropout": 1.0}, "head_dropout 1.0 is no probability"),
        ({"heads": 5}, "width 48 cannot be split over 5 heads"),
    ],
)
def test_wrong_configs_are_told(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)
