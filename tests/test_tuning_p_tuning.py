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

from course_utils.tuning import (
    Prefix,
    PTuning,
    PTuningV2,
    SoftPrompt,
    count_parameters,
    fold,
    inject,
    load,
    save,
    set_adapter,
)
from course_utils.tuning.cost import p_tuning_parameters

HEAD = (WIDTH + 1) * CLASSES
L, UNITS = 6, 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def written(model: Any) -> Any:
    return model.get_submodule("word_embedding.adapters.default")


@pytest.mark.parametrize(("network", "layers"), [("mlp", 2), ("lstm", 2), ("lstm", 1)])
def test_equal_to_peft_and_folded(network: Any, layers: int) -> None:
    config = peft.PromptEncoderConfig(
        task_type="SEQ_CLS", num_virtual_tokens=L, encoder_hidden_size=UNITS, encoder_num_layers=layers,
        encoder_reparameterization_type=network.upper(), encoder_dropout=0.0,
    )  # fmt: skip
    theirs, model = with_peft(config), ours()
    method = PTuning(length=L, network=network, hidden=UNITS, lstm_layers=layers)
    inject(model, method, "word_embedding", train="head")
    expected = p_tuning_parameters(L, WIDTH, UNITS, network, layers) + HEAD
    assert count_parameters(model).trainable == theirs.get_nb_trainable_parameters()[0] == expected
    copy_head(model, theirs)
    mine, other = written(model), theirs.prompt_encoder["default"]
    names = {"embedding": "embedding.weight"} | {n: n.replace("lstm.", "lstm_head.").replace("mlp.", "mlp_head.")
                                            for n, _ in mine.named_parameters() if n != "embedding"}  # fmt: skip
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
    assert count_parameters(model).trainable == L * WIDTH + HEAD
    kept = theirs.get_prompt_embedding_to_save("default")  # what peft writes into its file
    torch.testing.assert_close(written(model).prompt.data, kept, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_saved_before_and_after_folding(network: Any, tmp_path: Path) -> None:
    path, model = tmp_path / "prompt.safetensors", ours()
    method = PTuning(length=L, network=network, hidden=UNITS, dropout=0.5 * (network == "lstm"), after_first=True)
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
    set_adapter(model, None)
    assert torch.equal(logits(model), logits(ours()))


def test_version_two_is_the_prefix_computation() -> None:
    """Same parameters, same logits; peft has one class for both as well."""
    models = []
    for method in (Prefix(length=3), PTuningV2(length=3)):
        torch.manual_seed(5)
        models.append(ours())
        inject(models[-1], method, "attention", train="head")
    assert count_parameters(models[0]) == count_parameters(models[1])
    assert torch.equal(logits(models[0]), logits(models[1]))
    upper = ours()
    inject(upper, PTuningV2(length=3), ["layers.[12].attention"])  # at several layers, not all
    assert count_parameters(upper).trainable == 2 * 2 * 3 * WIDTH
    assert "P_TUNING_V2" not in [kind.name for kind in peft.PeftType]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"length": -1}, "length -1"),
        ({"network": "gru"}, "network 'gru'"),
        ({"hidden": 0}, "hidden 0"),
        ({"lstm_layers": 0}, "lstm_layers 0"),
        ({"dropout": 1.0, "network": "lstm"}, "dropout 1.0"),
        ({"dropout": 0.1}, "dropout 0.1 .* LSTM"),
        ({"dropout": 0.1, "network": "lstm", "lstm_layers": 1}, "dropout 0.1 .* LSTM"),
    ],
)
def test_wrong_numbers_are_told(fields: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        PTuning(**fields)


def test_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="token_type_embedding"):
        inject(ours(), PTuning(), "token_type_embedding")
