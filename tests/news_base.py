"""A BERT of two thin layers with a tokenizer of characters, in a folder: what the project's tests train on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from course_utils.data.news import load_titles
from course_utils.news.config import Config

WIDTH, DEPTH, HIDDEN, PLACES = 32, 2, 64, 40


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on two threads, and much slower where others use the cores as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_base(folder: Path, seed: int = 0) -> Path:
    """transformers' own files: config.json, model.safetensors, vocab.txt."""
    characters = sorted({c for title in load_titles("train") for c in title.title.lower() if not c.isspace()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    transformers.BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=4,
        intermediate_size=HIDDEN, max_position_embeddings=PLACES, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


def write_titles(path: Path, split: str, rows: slice) -> Path:
    """Some of the embedded titles as a JSON Lines file."""
    lines = [json.dumps({"tag": t.tag, "title": t.title}, ensure_ascii=False) for t in load_titles(split)[rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small(folder: Path, **choices: Any) -> Config:
    """A run of two short epochs on 64 titles; ``folder`` holds ``base`` and takes the run."""
    if not (folder / "train.json").exists():
        write_titles(folder / "train.json", "train", slice(0, 64))
        write_titles(folder / "valid.json", "validation", slice(0, 20))
    given: dict[str, Any] = {
        "base": str(folder / "base"),
        "train": str(folder / "train.json"),
        "validation": str(folder / "valid.json"),
        "test": str(folder / "valid.json"),
        "output": str(folder / "output"),
        "epochs": 2,
        "max_length": 24,
        "seed": 3,
    }
    return Config(**{**given, **choices})


def options(config: Config) -> Sequence[str]:
    """The same on the command line."""
    changed = {key: value for key, value in config.model_dump().items() if value != Config.model_fields[key].default}
    words = []
    for key, value in changed.items():
        words += (
            [f"--{key}"] if value is True else [f"--{key}", *map(str, value if isinstance(value, tuple) else [value])]
        )
    return words
