"""Prompt tuning: equal to peft on transformers' BERT, a prompt that is a text is that text, and nothing else moves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from twins import (
    CLASSES,
    DEPTH,
    IDS,
    LABELS,
    MASK,
    ROWS,
    TYPES,
    WIDTH,
    bert,
    check_learns,
    copy_head,
    disturb,
    logits,
    ours,
    with_peft,
)

from course_utils.models.encoder import attention_maps
from course_utils.models.vit import ViT
from course_utils.models.vit_config import ViTConfig
from course_utils.tuning import (
    LoRA,
    SoftPrompt,
    count_parameters,
    fold,
    inject,
    load,
    merge,
    nearest_words,
    save,
    set_adapter,
    unload,
)

HEAD = (WIDTH + 1) * CLASSES


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def prompt_of(model: nn.Module, name: str = "default") -> Any:
    return model.get_submodule(f"word_embedding.adapters.{name}")


def test_equal_to_peft() -> None:
    theirs = with_peft(peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=7))
    model = ours()
    inject(model, SoftPrompt(length=7, start="random"), "word_embedding", train="head")
    assert count_parameters(model).trainable == theirs.get_nb_trainable_parameters()[0] == 7 * WIDTH + HEAD
    copy_head(model, theirs)
    disturb(prompt_of(model))
    table = theirs.prompt_encoder["default"].embedding.weight
    table.data.copy_(prompt_of(model).prompt)
    assert (logits(model) - logits(bert())).abs().max() > 0.1
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    for each in (model.double(), theirs.double()):  # in float32 the order of sums alone makes 1e-5
        F.cross_entropy(logits(each), LABELS).backward()
    assert table.grad.abs().max() > 1e-4
    torch.testing.assert_close(prompt_of(model).prompt.grad, table.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", [peft.PromptTuningConfig, peft.PromptEncoderConfig, peft.PrefixTuningConfig])
def test_peft_cannot_run_a_prompt_on_the_courses_encoder(config: type[peft.PeftConfig]) -> None:
    """It reads sizes out of a transformers config, and hands a prefix over as a cache, which ours does not take."""
    with pytest.raises(TypeError, match="TextConfig"):
        peft.get_peft_model(ours(), config(task_type="SEQ_CLS", num_virtual_tokens=7))
    with pytest.raises(TypeError, match="past_key_values"):
        ours()(IDS, MASK, past_key_values=None)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("after_first", [False, True])
def test_a_prompt_that_starts_as_a_text_is_that_text(pool: Any, after_first: bool) -> None:
    """The soft prompt is the hard one at the start, to the bit; token types, mask and positions run along."""
    model, text = ours(pool=pool, pooler=pool == "cls"), (17, 4, 33)
    words = torch.tensor(text).expand(ROWS, -1)
    front = [IDS[:, :1], words, IDS[:, 1:]] if after_first else [words, IDS]
    types = torch.cat([torch.zeros_like(words), TYPES], 1)
    hard = model(torch.cat(front, 1), F.pad(MASK, (3, 0), value=True), types)
    inject(model, SoftPrompt(length=3, start=text, after_first=after_first), "word_embedding", train="head")
    assert torch.equal(model(IDS, MASK, TYPES), hard)
    assert torch.equal(model(IDS, MASK.int(), TYPES), hard)
    assert model.tokens(IDS, MASK).shape == (ROWS, 9 + 3, WIDTH)
    assert attention_maps(model, IDS, MASK).shape == (DEPTH, ROWS, 4, 12, 12)
    assert (attention_maps(model, IDS, MASK)[:, 3, :, :, 4:] == 0).all()  # the padding of the one-token text


def test_the_head_reads_the_first_prompt_vector_or_with_after_first_the_first_token() -> None:
    """Which token the pooler reads, seen by its residual path: move one token at the input of a depth-0 encoder."""
    for after_first, place in [(False, 0), (True, 3)]:
        model = ours()
        model.encoder.layers = nn.ModuleList()  # nothing mixes tokens: the head sees what stands at position 0
        inject(model, SoftPrompt(length=3, after_first=after_first), "word_embedding")
        before = model(IDS)
        with torch.no_grad():
            prompt_of(model).prompt[0] += 1
        assert torch.equal(model(IDS), before) == after_first
        assert place == 0 or torch.equal(model.embed(IDS)[:, 0], ours().embed(IDS)[:, 0])


def test_starts() -> None:
    table = ours().word_embedding.weight
    for start, length in [("vocabulary", 50), ((7, 8), 5), ((7, 8, 9), 2)]:
        model = ours()
        inject(model, SoftPrompt(length=length, start=start), "word_embedding")
        cosines, ids = nearest_words(prompt_of(model).prompt, table, 1)
        torch.testing.assert_close(prompt_of(model).prompt, table[ids[:, 0]], rtol=0, atol=0)
        torch.testing.assert_close(cosines, torch.ones_like(cosines))
        if isinstance(start, tuple):
            assert ids[:, 0].tolist() == [start[i % len(start)] for i in range(length)]
        else:
            assert len(set(ids[:, 0].tolist())) > 20
    model = ours()
    inject(model, SoftPrompt(length=400, start="random"), "word_embedding")
    assert prompt_of(model).prompt.std().item() == pytest.approx(table.std().item(), rel=0.05)


def test_nearest_words_are_those_of_the_largest_cosine() -> None:
    table = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.1, 0.1], [0.0, -3.0]])
    cosines, ids = nearest_words(torch.tensor([[5.0, 1.0], [0.0, -1.0]]), table, 2)
    assert ids.tolist() == [[1, 2], [3, 1]] or ids.tolist() == [[1, 2], [3, 0]]
    assert cosines[0].tolist() == pytest.approx([5 / 26**0.5, 6 / 52**0.5])


def test_training_moves_the_prompt_and_the_head_alone() -> None:
    model = ours()
    bare = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inject(model, SoftPrompt(length=4), "word_embedding", train="head")
    check_learns(model, 3e-2)
    set_adapter(model, None)
    assert torch.equal(logits(model), logits(ours()))
    with pytest.raises(ValueError, match="set_adapter"):
        merge(model)
    set_adapter(model, "default")
    with pytest.raises(ValueError, match=r"PromptEmbedding .* Embedding"):
        merge(model)
    fold(model)  # nothing to leave out: the same
    unload(model)
    assert all(torch.equal(tensor, bare[name]) for name, tensor in model.state_dict().items())


def test_saved_loaded_and_of_the_promised_size(tmp_path: Path) -> None:
    path, model = tmp_path / "prompt.safetensors", ours()
    inject(model, SoftPrompt(length=6, start=(1, 2, 3), after_first=True), "word_embedding", train="head")
    disturb(model)
    save(model, path, extra=["体育"])
    fresh = ours()
    loaded = load(fresh, path)
    assert loaded == ("default", SoftPrompt(length=6, start=(1, 2, 3), after_first=True), ["体育"])
    assert torch.equal(logits(fresh), logits(model))
    held = sum(tensor.numel() for tensor in safetensors.torch.load_file(path).values())
    assert held == 6 * WIDTH + HEAD
    other = ours(seed=9)
    with pytest.raises(ValueError, match="another base"):
        load(other, path)


def test_a_batch_of_several_tasks_in_one_pass() -> None:
    """Prompts of equal length: each row has its own, and the encoder runs once for all of them."""
    model = ours()
    for name, seed in [("news", 4), ("mood", 5)]:
        inject(model, SoftPrompt(length=3), "word_embedding", train="head", name=name)
        disturb(model, seed)
    calls: list[tuple[int, ...]] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(tuple(inputs[0].shape)))
    names = ["mood", "news", "mood", "news"]
    alone = []
    for row, name in enumerate(names):
        set_adapter(model, name)
        alone.append(model(IDS[row : row + 1], MASK[row : row + 1]))
    calls.clear()
    set_adapter(model, names)
    torch.testing.assert_close(model(IDS, MASK), torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert calls == [(ROWS, 9 + 3, WIDTH)]


def test_beside_lora_and_in_sixteen_bits() -> None:
    model = ours().to(torch.bfloat16)
    inject(model, SoftPrompt(length=2), "word_embedding")
    assert prompt_of(model).prompt.dtype == torch.float32
    assert model(IDS, MASK).dtype == torch.bfloat16
    model = ours()
    inject(model, LoRA(rank=2), "q_proj", name="lora")
    inject(model, SoftPrompt(length=2), "word_embedding", name="prompt")
    assert model(IDS, MASK).shape == (ROWS, CLASSES)


@pytest.mark.parametrize(("field", "value"), [("length", 0), ("length", 2.0), ("start", "text"), ("start", ())])
def test_wrong_numbers_are_told(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field} {value!r}")):
        SoftPrompt(**{field: value})


def test_places_and_lengths_that_do_not_fit_are_told() -> None:
    for target in ("position_embedding", "*_embedding"):
        with pytest.raises(ValueError, match="position_embedding"):
            inject(ours(), SoftPrompt(), target)
    with pytest.raises(ValueError, match=r"bert\.embeddings\.word_embeddings"):
        inject(bert(), SoftPrompt(), "word_embeddings")
    with pytest.raises(ValueError, match="Embedding"):
        inject(ViT(replace(ViTConfig.preset("tiny16"), depth=1)), SoftPrompt(), "patch_embedding")
    with pytest.raises(ValueError, match=r"3 to 60, .* word_embedding .* 0 to 59"):
        inject(ours(), SoftPrompt(start=(3, 60)), "word_embedding")
    model = ours()
    inject(model, SoftPrompt(length=16), "word_embedding")
    with pytest.raises(ValueError, match=r"25 tokens .* 24"):
        model(IDS)
    inject(model, SoftPrompt(length=5), "word_embedding", name="shorter")
    with pytest.raises(ValueError, match=r"\[4, 14\] .* \[4, 9\]"):
        model(IDS, F.pad(MASK, (5, 0), value=True))  # the model makes room for the prompt in the mask itself
