"""P-tuning: both of its networks equal to peft's, folded away after training; version 2 is the prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from twins import CLASSES, LABELS, WIDTH, bert, check_learns, copy_head, disturb, logits, ours, with_peft

from course_utils.models.text import TextConfig, TextModel
from course_utils.tuning import Prefix, PTuning, PTuningV2, SoftPrompt, count, fold, inject, load, save, switch

HEAD = (WIDTH + 1) * CLASSES
L, HIDDEN = 6, 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def written(model: Any) -> Any:
    return model.get_submodule("word_embedding.adapters.default")


def formula(network: str, d: int, h: int, length: int, layers: int = 2) -> int:
    if network == "mlp":
        return length * d + (d + 1) * h + (h + 1) * h + (h + 1) * d
    inputs = [d] + [2 * h] * (layers - 1)
    lstm = sum(2 * (4 * h * (i + h) + 8 * h) for i in inputs)  # two directions, four gates, two biases each
    return length * d + lstm + (2 * h + 1) * 2 * h + (2 * h + 1) * d


@pytest.mark.parametrize(("network", "layers"), [("mlp", 2), ("lstm", 2), ("lstm", 1)])
def test_equal_to_peft_and_folded(network: Any, layers: int) -> None:
    config = peft.PromptEncoderConfig(
        task_type="SEQ_CLS", num_virtual_tokens=L, encoder_hidden_size=HIDDEN, encoder_num_layers=layers,
        encoder_reparameterization_type=network.upper(), encoder_dropout=0.0,
    )  # fmt: skip
    theirs, model = with_peft(config), ours()
    method = PTuning(length=L, network=network, hidden=HIDDEN, lstm_layers=layers)
    inject(model, method, "word_embedding", train="head")
    expected = formula(network, WIDTH, HIDDEN, L, layers) + HEAD
    assert count(model).trainable == theirs.get_nb_trainable_parameters()[0] == expected
    copy_head(model, theirs)
    mine, other = written(model), theirs.prompt_encoder["default"]
    names = {"seed": "embedding.weight"} | {n: n.replace("lstm.", "lstm_head.").replace("mlp.", "mlp_head.")
                                            for n, _ in mine.named_parameters() if n != "seed"}  # fmt: skip
    with torch.no_grad():
        for ours_name, their_name in names.items():
            other.get_parameter(their_name).copy_(mine.get_parameter(ours_name))
    assert (logits(model) - logits(bert())).abs().max() > 0.05
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    for each in (model.double(), theirs.double()):
        F.cross_entropy(logits(each), LABELS).backward()
    for ours_name, their_name in names.items():
        gradient = other.get_parameter(their_name).grad
        assert gradient.abs().max() > 1e-7, ours_name
        torch.testing.assert_close(mine.get_parameter(ours_name).grad, gradient, rtol=1e-7, atol=1e-9)

    before = logits(model)
    fold(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-12, atol=1e-12)
    assert count(model).trainable == L * WIDTH + HEAD
    kept = theirs.get_prompt_embedding_to_save("default")  # what peft writes into its file
    torch.testing.assert_close(written(model).prompt.data, kept, rtol=1e-9, atol=1e-9)


def test_peft_cannot_run_it_on_the_courses_encoder() -> None:
    with pytest.raises(TypeError, match="argument of type 'TextConfig' is not"):
        peft.get_peft_model(ours(), peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=L))


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_saved_before_and_after_folding(network: Any, tmp_path: Path) -> None:
    path, model = tmp_path / "prompt.safetensors", ours()
    method = PTuning(length=L, network=network, hidden=HIDDEN, dropout=0.5 * (network == "lstm"), after_first=True)
    inject(model, method, "word_embedding", train="head")
    disturb(model)
    model.eval()
    whole = logits(model)
    save(model, path)
    fresh = ours()
    assert load(fresh, path).method == method
    assert torch.equal(logits(fresh), whole)
    model.train()  # the dropout of the LSTM must not be folded in
    fold(model)
    model.eval()
    torch.testing.assert_close(logits(model), whole, rtol=1e-5, atol=1e-5)
    save(model, path)
    held = sum(tensor.numel() for tensor in safetensors.torch.load_file(path).values())
    assert held == L * WIDTH + HEAD
    fresh = ours()
    assert load(fresh, path).method == SoftPrompt(length=L, after_first=True)
    assert torch.equal(logits(fresh), logits(model))


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_training_moves_the_network_and_the_head_alone(network: Any) -> None:
    model = ours()
    inject(model, PTuning(length=L, network=network), "word_embedding", train="head")
    check_learns(model, 1e-2)
    switch(model, None)
    assert torch.equal(logits(model), logits(ours()))


def test_bert_base_counts() -> None:
    for method, expected in [
        (PTuning(length=10), 1_779_456),
        (PTuning(length=10, network="lstm"), 27_166_464),
        (PTuning(length=10, hidden=128), formula("mlp", 768, 128, 10)),
    ]:
        with torch.device("meta"):
            model = TextModel(TextConfig())
            inject(model, method, "word_embedding")
        assert count(model).trainable == expected == formula(method.network, 768, method.hidden or 768, 10)
        fold(model)
        assert count(model).trainable == 7_680


def test_version_two_is_the_prefix_computation() -> None:
    """Same parameters, same logits; peft has one class for both as well."""
    models = []
    for method in (Prefix(length=3), PTuningV2(length=3)):
        torch.manual_seed(5)
        models.append(ours())
        inject(models[-1], method, "attention", train="head")
    assert count(models[0]) == count(models[1])
    assert torch.equal(logits(models[0]), logits(models[1]))
    upper = ours()
    inject(upper, PTuningV2(length=3), ["layers.[12].attention"])  # at several layers, not all
    assert count(upper).trainable == 2 * 2 * 3 * WIDTH
    assert "P_TUNING_V2" not in [kind.name for kind in peft.PeftType]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": -1}, "length -1 is no count"),
        ({"network": "gru"}, "network 'gru' is unknown"),
        ({"hidden": 0}, "hidden 0 is no count"),
        ({"lstm_layers": 0}, "lstm_layers 0 is no count"),
        ({"dropout": 1.0, "network": "lstm"}, "dropout 1.0 is no share"),
        ({"dropout": 0.1}, "dropout 0.1 stands between layers of an LSTM"),
        ({"dropout": 0.1, "network": "lstm", "lstm_layers": 1}, "dropout 0.1 stands between layers of an LSTM"),
    ],
)
def test_wrong_numbers_are_told(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PTuning(**fields)


def test_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be put round token_type_embedding"):
        inject(ours(), PTuning(), "token_type_embedding")
