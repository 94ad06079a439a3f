"""Runs leave the course: adapters for peft, merged models for transformers and timm, with the logits that they had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from news_base import make_base, one_thread, small  # noqa: F401
from safetensors.torch import load_file
from test_models_writing import opened

from course_utils.data.news import Title, load_titles
from course_utils.news import export as exporting
from course_utils.news.config import Config
from course_utils.news.data import encode
from course_utils.news.model import build
from course_utils.news.predict import logits, open_run
from course_utils.training import checkpoint
from course_utils.vision import export as export_images
from course_utils.vision.fine_tune import predict as fine_tuned
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.train import train as fine_tune
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.predict import open_run as open_scratch
from course_utils.vision.from_scratch.train import train as from_scratch

TEXTS = ["补时绝平，门将头球破门", "油价今晚下调"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    make_base(folder / "base")
    model = transformers.BertModel.from_pretrained(folder / "base", add_pooling_layer=True)
    model.save_pretrained(folder / "base")
    return folder


def saved(config: Config, path: Path) -> torch.Tensor:
    """A run that was trained a little, and what it says of some titles."""
    built = build(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in built.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    path.mkdir()
    checkpoint.save(
        path / "best.safetensors", model=built.trained(), config=config.model_dump(), extra={"facts": built.facts()}
    )
    titles = [title for title in load_titles("test") if title.title][:6]
    return logits(built.model, encode(titles, built.tokenizer, built.pad))


def inputs(run: Path) -> dict[str, torch.Tensor]:
    _, built = open_run(run)
    x, _ = encode(load_titles("test")[:6], built.tokenizer, built.pad).batch(range(6))
    return {"input_ids": x[:, 0], "attention_mask": x[:, 1]}


@pytest.mark.parametrize("tactic", ["lora", "ia3", "prompt", "p_tuning"])
def test_an_adapter_is_opened_by_peft(folder: Path, tmp_path: Path, tactic: str) -> None:
    config = small(folder, tactic=tactic)
    wanted = saved(config, tmp_path / "run")
    exporting.main([str(tmp_path / "run"), "--to", str(tmp_path / "out")])
    base = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=18)
    found = peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(found(**inputs(tmp_path / "run")).logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tactic", ["full", "head", "lora", "ia3"])
def test_a_merged_run_is_a_classifier_of_transformers(folder: Path, tmp_path: Path, tactic: str) -> None:
    wanted = saved(small(folder, tactic=tactic), tmp_path / "run")
    exporting.main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--merged"])
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        torch.testing.assert_close(found(**inputs(tmp_path / "run")).logits, wanted, rtol=1e-5, atol=1e-5)
    pipeline: Any = transformers.pipeline("text-classification", str(tmp_path / "out"))
    _, built = open_run(tmp_path / "run")
    assert [each["label"] for each in pipeline(TEXTS)] == [
        built.labels[int(row.argmax())] for row in logits(built.model, encode_texts(built))
    ]


def encode_texts(built: Any) -> Any:
    return encode([Title(built.labels[0], text) for text in TEXTS], built.tokenizer, built.pad)


def test_the_embedded_encoder_leaves_with_its_head_and_tokenizer(tmp_path: Path) -> None:
    """Six lines are enough to use it without the course; its head reads the mean of the tokens."""
    config = Config(tactic="lora", seed=3)
    wanted = saved(config, tmp_path / "run")
    with pytest.raises(SystemExit, match="no classifier of transformers does: export it --merged"):
        exporting.main([str(tmp_path / "run"), "--to", str(tmp_path / "out")])
    exporting.main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--merged"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    head = load_file(tmp_path / "out" / "head.safetensors")
    texts = [title.title for title in load_titles("test")[:6]]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    with torch.inference_mode():
        x = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        found = ((x * mask).sum(1) / mask.sum(1)) @ head["weight"].T + head["bias"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "words", "said"),
    [
        ({"tactic": "full"}, [], "has no adapter, all weights were trained: export it --merged"),
        ({"tactic": "head"}, [], "for which peft has no format: export it --merged"),
        ({"tactic": "adapter"}, [], "peft has nothing for Bottleneck"),
        ({"tactic": "adapter"}, ["--merged"], "tactic adapter cannot be merged"),
        ({"tactic": "prompt"}, ["--merged"], "tactic prompt cannot be merged"),
        ({"tactic": "prefix"}, [], "counts positions from the prefix on"),
    ],
)
def test_what_cannot_leave_so_says_how_else(
    folder: Path, tmp_path: Path, choices: dict[str, Any], words: list[str], said: str
) -> None:
    saved(small(folder, **choices), tmp_path / "run")
    with pytest.raises(SystemExit, match=said):
        exporting.main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_fine_tuned_vit_leaves_merged(tmp_path: Path) -> None:
    """The embedded one reads the mean of its patches, as timm's can and transformers' cannot."""
    config = FineTune(
        data="digits", per_class=10, epochs=1, batch_size=32, tactic="lora", image_size=28, output=str(tmp_path / "run")
    )
    fine_tune(config)
    model, _ = fine_tuned.open_run(tmp_path / "run")
    assert_leaves(tmp_path, "timm", model, torch.randn(2, 1, 28, 28))
    assert (tmp_path / "out" / "README.md").read_text() == (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(SystemExit, match=r"error: a ViT of transformers reads a class token .*choose library timm"):
        export_images.main([str(tmp_path / "run"), "--to", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_vit_from_scratch_leaves(tmp_path: Path, library: Any) -> None:
    sizes: dict[str, Any] = {"stem": (), "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "pool": "cls"}
    more = {"data": "digits", "epochs": 1, "batch_size": 64, "limit": 128, "precision": "fp32", "augment": "none"}
    from_scratch(FromScratch(**sizes, **more, output=str(tmp_path / "run")))
    _, model = open_scratch(tmp_path / "run")
    assert_leaves(tmp_path, library, model, torch.randn(2, 1, 8, 8))


def assert_leaves(tmp_path: Path, library: Any, model: Any, x: torch.Tensor) -> None:
    export_images.main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--library", library])
    with torch.inference_mode():
        found = opened(library, tmp_path / "out")(x)
        torch.testing.assert_close(getattr(found, "logits", found), model(x), rtol=1e-5, atol=1e-5)
