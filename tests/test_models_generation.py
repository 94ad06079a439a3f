"""Sampling: equal to the library's greedy search, alone as in a batch, and drawn as often as the model says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from course_utils.models import one_page_decoder
from course_utils.models.decoder import Decoder
from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.decoder_files import save_decoder
from course_utils.models.generation import draw, generate
from course_utils.models.rotary import Rope


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=61,
        width=32,
        depth=2,
        heads=4,
        kv_heads=2,
        head_width=8,
        mlp_width=48,
        max_length=40,
        rope=Rope(theta=100.0),
    )
    model = Decoder(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)  # else all words are equally likely
    return model


PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6]]


def test_the_likeliest_words_are_the_librarys(model: Decoder, tmp_path: Any) -> None:
    save_decoder(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    found = generate(model, PROMPTS, 12, temperature=0)
    for prompt, ours in zip(PROMPTS, found, strict=True):
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert ours == out[0, len(prompt) :].tolist()


def test_a_text_is_the_same_alone_and_in_a_batch(model: Decoder) -> None:
    together = generate(model, PROMPTS, 20, temperature=0)
    assert together == [generate(model, [prompt], 20, temperature=0)[0] for prompt in PROMPTS]


def test_a_seed_repeats_and_the_models_mode_stays(model: Decoder) -> None:
    model.train()
    runs = [
        generate(model, PROMPTS, 15, temperature=0.9, top_p=0.8, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert model.training


def test_a_text_ends_at_a_stop_word_and_at_the_models_length(model: Decoder) -> None:
    plain = generate(model, PROMPTS, 100, temperature=0)
    assert [len(text) for text in plain] == [36] * 3  # 5 and 36 are 41: the last is guessed, and never read
    stop = plain[0][4]
    ended = generate(model, PROMPTS, 100, temperature=0, stop=[stop])
    for whole, text in zip(plain, ended, strict=True):
        assert text == (whole[: whole.index(stop) + 1] if stop in whole else whole)


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log().expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float) -> torch.Tensor:
        return torch.bincount(draw(logits, temperature, top_p, generator), minlength=4) / len(logits)

    def close(found: torch.Tensor, wanted: list[float]) -> bool:
        return torch.allclose(
            found, torch.tensor(wanted, dtype=found.dtype), atol=0.015
        )  # four deviations of 20,000 draws

    assert close(shares(1.0, 1.0), [0.1, 0.4, 0.3, 0.2])
    assert close(shares(0.5, 1.0), [1 / 30, 16 / 30, 9 / 30, 4 / 30])  # squares
    assert close(shares(1.0, 0.65), [0, 4 / 7, 3 / 7, 0])
    assert close(shares(1.0, 0.75), [0, 4 / 9, 3 / 9, 2 / 9])  # the word that passes the bound belongs to it
    assert close(shares(1.0, 0.001), [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": []}, "empty prompt"),
        ({"prompts": [[1], []]}, "empty prompt"),
        ({"prompts": [[1] * 40]}, "40 tokens"),
        ({"max_new": 0}, "max_new 0"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0.0}, r"top_p 0\.0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(model: Decoder, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generate(model, **{"prompts": PROMPTS, "max_new": 3, **changes})


@torch.no_grad()
def test_the_page_is_the_decoder(model: Decoder) -> None:
    page = one_page_decoder.Decoder(61, 32, 2, 4, 2, 48, 100.0)
    page.load_state_dict({name.removeprefix("decoder."): p for name, p in model.state_dict().items()})
    ids = torch.randint(61, (3, 17))
    torch.testing.assert_close(page(ids), model(ids), atol=1e-5, rtol=1e-5)
