"""A run as other libraries open it: its adapter in peft's format, or the whole model, merged, as transformers' BERT.

    python -m course_utils.news.export output/lora --to shared            # an adapter, where peft has one
    python -m course_utils.news.export output/lora --to shared --merged   # encoder, head, tokenizer

Either is opened there with the same logits. A model whose head reads the mean of the tokens, as the embedded one's
does, is no classifier of transformers: its folder holds the encoder, and ``head.safetensors`` beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from course_utils.models.text import TextModel
from course_utils.models.writing import save_text
from course_utils.news.config import Config
from course_utils.news.model import Built
from course_utils.news.predict import open_run
from course_utils.training.folder import take_card
from course_utils.tuning import merge, tuned_layers, unload
from course_utils.tuning.peft_files import save_peft


def export(run: str | Path, folder: str | Path, *, merged: bool = False, **changes: Any) -> Path:
    """Write a run's adapter, or its merged model with the tokenizer.

    Args:
        changes: of the configuration, such as ``base`` if it lies elsewhere now.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: it cannot be written so; the message says how else.
        OSError: the folder cannot be written.
    """
    config, built = open_run(run, **changes)
    if merged:
        model = _merged(config, built)
        written = save_text(model.state_dict(), model.config, folder, built.labels)
        _tokenizer(built, written, model.config.max_length)
    else:
        written = _adapter(config, built, Path(folder))
    take_card(run, written)
    return written


def _adapter(config: Config, built: Built, folder: Path) -> Path:
    model: Any = built.model.model
    if config.library == "peft":
        model.save_pretrained(str(folder))
        return folder
    if not tuned_layers(model):
        raise ValueError(f"tactic {config.tactic} has no adapter, all weights were trained: export it --merged")
    if config.tactic == "head":
        raise ValueError("tactic head trains the head alone, for which peft has no format: export it --merged")
    if not isinstance(model, TextModel) or not model.config.pooler:
        raise ValueError(
            "the head of this run reads the mean of the tokens, or the first without BERT's pooler, and no classifier "
            "of transformers does: export it --merged"
        )
    return save_peft(model, folder, config.base)


def _merged(config: Config, built: Built) -> TextModel:
    """The bare encoder with what was tuned in its weights."""
    model: Any = built.model.model
    if config.library == "peft":
        raise ValueError("the run was trained through peft: export its adapter, and merge it with merge_and_unload()")
    if tuned_layers(model):
        try:
            merge(model)
        except ValueError as error:
            raise ValueError(f"tactic {config.tactic} cannot be merged ({error}): export its adapter") from None
        unload(model)
    assert isinstance(model, TextModel)
    return model


def _tokenizer(built: Built, folder: Path, longest: int) -> None:
    """The tokenizer as ``AutoTokenizer.from_pretrained(folder)`` opens it."""
    import transformers  # takes seconds

    pad = built.tokenizer.id_to_token(built.pad)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=built.tokenizer, pad_token=pad, model_max_length=longest
    )
    fast.save_pretrained(str(folder))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a run as peft or transformers opens it.")
    parser.add_argument("run", nargs="?", default="output/lora", help="a run's folder, or a checkpoint")
    parser.add_argument("--to", required=True, help="the folder to write")
    parser.add_argument("--merged", action="store_true", help="the whole model instead of its adapter")
    parser.add_argument("--base", help="where the base lies now, if it was moved since")
    options = parser.parse_args(arguments)
    try:
        more = {"base": options.base} if options.base else {}
        print(f"written: {export(options.run, options.to, merged=options.merged, **more)}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
