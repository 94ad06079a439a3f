"""RoBERTa, ELECTRA and DistilBERT through the course's one encoder: hidden states equal to transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_models_checkpoints import lively
from torch import Tensor, nn

from course_utils.models import TextConfig, TextModel, load_text

SIZES = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80,
    "max_position_embeddings": 26,
}  # fmt: skip
DISTIL = {"vocab_size": 97, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80, "max_position_embeddings": 26}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", SIZES),
    "RoBERTa": ("Roberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "RoBERTa, other padding": ("Roberta", {**SIZES, "type_vocab_size": 2, "pad_token_id": 4}),
    "XLM-RoBERTa": ("XLMRoberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "ELECTRA": ("Electra", {**SIZES, "embedding_size": 48}),
    "small ELECTRA": ("Electra", {**SIZES, "embedding_size": 32}),
    "DistilBERT": ("DistilBert", DISTIL),
}
HEADED = ("Model", "ForSequenceClassification", "ForMaskedLM")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def theirs(family: str, kind: str = "Model", **more: Any) -> Any:
    name, sizes = FAMILIES[family]
    config = getattr(transformers, name + "Config")(**sizes, **more)
    return lively(getattr(transformers, name + kind)(config))


def batch(pad: int) -> tuple[Tensor, Tensor]:
    """Five texts of up to 20 tokens, padded on the right."""
    ids = torch.randint(5, 97, (5, 20))
    mask = (torch.arange(20) < torch.tensor([20, 3, 11, 1, 19])[:, None]).long()
    return ids.where(mask.bool(), pad), mask


def assert_same_states(ours: TextModel, model: Any) -> None:
    ids, mask = batch(ours.config.pad_token)
    body = getattr(model, getattr(model, "base_model_prefix", ""), model)
    with torch.inference_mode():
        expected = body(input_ids=ids, attention_mask=mask).last_hidden_state
        found = ours.eval().tokens(ids, mask)
    assert expected.std() > 0.1
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HEADED)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    """From a folder; whatever stands on the body, a fresh head takes its place."""
    model = theirs(family, kind)
    model.save_pretrained(tmp_path)
    ours = load_text(tmp_path, num_classes=7, replace_head=True)
    assert_same_states(ours, model)
    assert ours(*batch(ours.config.pad_token)).shape == (5, 7)
    offset = {"RoBERTa": 2, "XLM-RoBERTa": 2, "RoBERTa, other padding": 5}.get(family, 0)
    assert ours.config.max_length == 26 - offset


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if "ELECTRA" not in family and "Distil" not in family]
)
def test_a_classifier_with_a_tanh_comes_over_whole(family: str, tmp_path: Path) -> None:
    model = theirs(family, "ForSequenceClassification", num_labels=6)
    model.save_pretrained(tmp_path)
    ours = load_text(tmp_path)
    ids, mask = batch(ours.config.pad_token)
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(ours.eval()(ids, mask), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["small ELECTRA", "DistilBERT"])
def test_a_head_that_computes_otherwise_is_never_taken_for_ours(family: str, tmp_path: Path) -> None:
    model = theirs(family, "ForSequenceClassification", num_labels=6)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a head with another activation .*pass num_classes="):
        load_text(tmp_path)
    assert load_text(tmp_path, num_classes=6).config.num_classes == 6


def test_nothing_tells_a_bare_roberta_from_a_bert(tmp_path: Path) -> None:
    """Their names are the same, and its first positions would be read for its last."""
    model = theirs("RoBERTa")
    with pytest.raises(ValueError, match=r"may be a BERT or a RoBERTa.* give the folder with its config\.json"):
        load_text(model.state_dict(), heads=4)
    headed = theirs("RoBERTa", "ForSequenceClassification")
    assert_same_states(load_text(headed.state_dict(), heads=4, num_classes=3, replace_head=True), headed)


def test_their_configs_say_what_weights_do_not(tmp_path: Path) -> None:
    more = {"dropout": 0.3, "attention_dropout": 0.2, "seq_classif_dropout": 0.4}
    theirs("DistilBERT", **more).save_pretrained(tmp_path)
    found = load_text(tmp_path).config
    assert (found.dropout, found.attention_dropout, found.head_dropout, found.heads) == (0.3, 0.2, 0.4, 4)
    assert (found.token_types, found.pooler) == (1, False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"activation": "relu"}))
    with pytest.raises(ValueError, match="hidden_act 'relu'"):
        load_text(tmp_path)


def test_a_projection_stands_behind_narrow_embeddings() -> None:
    model = TextModel(TextConfig(vocab_size=50, width=16, depth=1, heads=2, embedding_width=8, max_length=9))
    assert isinstance(model.embedding_projection, nn.Linear)
    assert model.embed(torch.ones(2, 3).long()).shape == (2, 3, 16)
    assert model(inputs_embeds=torch.zeros(2, 3, 8)).shape == (2, 16)
    with pytest.raises(ValueError, match=r"give \[texts, tokens, 8\]"):
        model(inputs_embeds=torch.zeros(2, 3, 16))
    with pytest.raises(ValueError, match="embedded_width 0 is no count"):
        TextConfig(embedding_width=0)
    again = load_text(model.state_dict(), heads=2)
    assert again.config.embedding_width == 8
    wide = TextModel(TextConfig(vocab_size=50, width=16, depth=1, heads=2, max_length=9))
    assert isinstance(wide.embedding_projection, nn.Identity)
    assert not [name for name in wide.state_dict() if "projection" in name]
