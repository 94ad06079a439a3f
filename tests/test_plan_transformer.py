"""Parameters and FLOPs of a decoder against a real GPT-2 and BLOOM that torch counts, and against published figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from course_utils.plan.transformer import (
    BLOOM,
    GPT2_SMALL,
    GPT2_XL,
    GPT3,
    MT_NLG,
    Decoder,
    forward_flops,
    six_n,
    step_flops,
    utilisation,
)

ODD = Decoder(name="odd", layers=3, width=24, heads=4, vocab=37, length=11)


def real(model: Decoder) -> torch.nn.Module:
    """The same sizes in transformers, without memory for its weights."""
    with torch.device("meta"):
        if model.positions == "alibi":
            config = transformers.BloomConfig(
                vocab_size=model.vocab, hidden_size=model.width, n_layer=model.layers, n_head=model.heads
            )
            return transformers.BloomForCausalLM(config)
        sizes = {"n_embd": model.width, "n_layer": model.layers, "n_head": model.heads}
        config = transformers.GPT2Config(vocab_size=model.vocab, n_positions=model.length, **sizes)
        config.tie_word_embeddings = model.tied
        config._attn_implementation = "eager"
        return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("model", [ODD, replace(ODD, tied=False), GPT2_SMALL, GPT2_XL, BLOOM], ids=lambda m: m.name)
def test_parameters_are_those_of_a_real_model(model: Decoder) -> None:
    assert model.parameters == sum(p.numel() for p in real(model).parameters())


def test_published_parameters() -> None:
    assert BLOOM.parameters == 176_247_271_424
    assert BLOOM.layer_parameters == 2_466_437_120
    assert BLOOM.vocab * BLOOM.width == 3_596_615_680
    assert round(GPT3.parameters / 1e9) == 175
    assert round(MT_NLG.parameters / 1e9) == 530


@pytest.mark.parametrize("model", [ODD, replace(ODD, tied=False, width=40, layers=1)], ids=lambda m: m.name)
@pytest.mark.parametrize("sequences", [1, 3])
def test_flops_are_those_torch_counts(model: Decoder, sequences: int) -> None:
    network = real(model).to_empty(device="cpu")
    ids = torch.zeros(sequences, model.length, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = network(ids, use_cache=False).logits
    assert forward.get_total_flops() == sum(forward_flops(model, sequences).values())
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() + backward.get_total_flops() == step_flops(model, sequences)


@pytest.mark.parametrize("model", [ODD, GPT3, BLOOM, MT_NLG], ids=lambda m: m.name)
def test_closed_forms(model: Decoder) -> None:
    s, l, h, v = model.length, model.layers, model.width, model.vocab  # noqa: E741
    none, full = step_flops(model, 7), step_flops(model, 7, "full")
    assert none == pytest.approx(72 * 7 * s * l * h**2 * (1 + s / (6 * h) + v / (12 * l * h)), rel=1e-12)
    assert full == pytest.approx(96 * 7 * s * l * h**2 * (1 + s / (6 * h) + v / (16 * l * h)), rel=1e-12)
    assert step_flops(model, 7, "selective") == none + 7 * l * 4 * s**2 * h


def test_bloom_as_logged() -> None:
    """104.70 s a step on 384 GPUs, which the project logged as 149.77 TFLOP/s each."""
    reached = utilisation(step_flops(BLOOM, 2048, "full"), 104.7, 384, 1e12)
    assert reached == pytest.approx(149.76, abs=0.005)
    assert 8 / 6 * six_n(BLOOM.parameters, 2048 * 2048) / 384 / 104.7 / 1e12 == pytest.approx(147.1, abs=0.05)


def test_six_n_is_a_little_low_for_long_sequences_and_never_far_off() -> None:
    for model in (GPT3, BLOOM, MT_NLG):
        assert 1 < step_flops(model, 1) / six_n(model.parameters, model.length) < 1.03
    assert step_flops(ODD, 2, length=1000) / six_n(ODD.parameters, 2000) > 5


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="width 25 of odd cannot be split over 4 heads"):
        replace(ODD, width=25)
    with pytest.raises(ValueError, match="layers 0 of odd is no count"):
        replace(ODD, layers=0)
    with pytest.raises(ValueError, match="recompute 'some' is unknown: choose none or selective or full"):
        step_flops(ODD, 1, "some")  # type: ignore[arg-type]
