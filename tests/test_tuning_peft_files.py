"""Adapters in peft's own format: opened by peft with equal logits, peft's opened here, the same names in the files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers
from test_models_writing import LABELS, batch, bert

from course_utils.models import TextModel, load_text
from course_utils.models.writing import save_text
from course_utils.tuning import IA3, Bottleneck, LoRA, Method, Prefix, PTuning, PTuningV2, SoftPrompt, inject
from course_utils.tuning.peft_files import load_peft, save_peft

Q_AND_FC = [f"bert.encoder.layer.{i}.{part}" for i in (0, 1) for part in ("attention.self.query", "output.dense")]
PREFIX = ["attention", "position_embedding"]
METHODS: dict[str, tuple[Method, list[str]]] = {
    "LoRA": (LoRA(rank=3, alpha=5), ["q_proj", "fc2"]),
    "LoRA of words": (LoRA(rank=3, alpha=5), ["q_proj", "word_embedding"]),
    "rsLoRA": (LoRA(rank=4, alpha=5, rslora=True), ["v_proj"]),
    "DoRA": (LoRA(rank=3, alpha=5, dora=True), ["q_proj", "fc1"]),
    "IA3": (IA3(), ["k_proj", "v_proj", "fc2"]),
    "prompt": (SoftPrompt(length=4), ["word_embedding"]),
    "P-tuning": (PTuning(length=4, hidden=8), ["word_embedding"]),
    "prefix": (Prefix(length=4), PREFIX),
    "prefix by a network": (Prefix(length=4, hidden=8), PREFIX),
    "P-tuning v2": (PTuningV2(length=4), PREFIX),
}
CLASSIFY: dict[str, Any] = {"task_type": "SEQ_CLS"}
THEIRS: dict[str, Any] = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=["query", "output.dense"], **CLASSIFY),
    "rsLoRA": lambda: peft.LoraConfig(r=4, lora_alpha=5, target_modules=["value"], use_rslora=True, **CLASSIFY),
    "DoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=["query"], use_dora=True, **CLASSIFY),
    "IA3": lambda: peft.IA3Config(
        target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"], **CLASSIFY
    ),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=4, **CLASSIFY),
    "P-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, **CLASSIFY),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, **CLASSIFY),
    "prefix by a network": lambda: peft.PrefixTuningConfig(
        num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=8, **CLASSIFY
    ),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=FutureWarning)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A BERT with a head for three classes, as transformers and this course open it."""
    model = bert()
    return save_text(model.state_dict(), model.config, tmp_path / "base", LABELS)


def disturb(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def logits(model: Any) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ids, mask = batch()
    with torch.inference_mode():
        found = model.eval()(input_ids=ids[:, :15], attention_mask=mask[:, :15])
    return getattr(found, "logits", found)


def theirs_on(base: Path) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(base)


@pytest.mark.parametrize("name", METHODS)
def test_peft_opens_ours_and_so_do_we(base: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    model = load_text(base)
    method, targets = METHODS[name]
    bare = logits(model)
    inject(model, method, targets, train=["head"])
    disturb(model)
    wanted = logits(model)
    assert (wanted - bare).abs().max() > 1e-2
    save_peft(model, tmp_path / "adapter", str(base))
    torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)
    opened = peft.PeftModel.from_pretrained(theirs_on(base), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(opened), wanted, rtol=1e-5, atol=1e-5)
    again = load_text(base)
    load_peft(again, tmp_path / "adapter")
    torch.testing.assert_close(logits(again), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", THEIRS)
def test_we_open_peft_s(base: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(theirs_on(base), THEIRS[name]())
    disturb(model)
    model.eval()
    wanted = logits(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    ours = load_text(base)
    bare = logits(ours)
    load_peft(ours, tmp_path / "adapter")
    assert (wanted - bare).abs().max() > 1e-2
    torch.testing.assert_close(logits(ours), wanted, rtol=1e-5, atol=1e-5)
    save_peft(ours, tmp_path / "again", str(base))
    files = [
        safetensors.torch.load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("adapter", "again")
    ]
    assert {key: t.shape for key, t in files[0].items()} == {key: t.shape for key, t in files[1].items()}


def test_what_peft_has_not_or_computes_otherwise_is_refused(base: Path, tmp_path: Path) -> None:
    for method, targets, words in (
        (Bottleneck(width=4), ["fc2"], "peft has nothing for Bottleneck"),
        (Prefix(length=4), ["attention"], "counts positions from the prefix on"),
        (SoftPrompt(length=4, after_first=True), ["word_embedding"], "peft has nothing for SoftPrompt"),
    ):
        model: TextModel = load_text(base)
        inject(model, method, targets, train=["head"])
        with pytest.raises(ValueError, match=words):
            save_peft(model, tmp_path / "out", "base")
    with pytest.raises(ValueError, match="the model has no adapter 'default'"):
        save_peft(load_text(base), tmp_path / "out", "base")
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_right_are_named(base: Path, tmp_path: Path) -> None:
    model = load_text(base)
    inject(model, LoRA(rank=3), ["q_proj"], train=["head"])
    folder = save_peft(model, tmp_path / "adapter", "base")
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, words in (
        ({"peft_type": "VERA"}, "of the kind VERA, which is not read here"),
        ({"rank_pattern": {"query": 2}}, "has rank_pattern"),
        ({"r": 5}, r"shape|size"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises((ValueError, RuntimeError), match=words):
            load_peft(load_text(base), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_peft(load_text(base), folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
        load_peft(load_text(base), folder)
