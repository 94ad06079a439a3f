"""Write on with a trained model.

python -m course_utils.language.generate "明月" --count 4 --temperature 0.8 --top-p 0.95 --seed 1
python -m course_utils.language.generate --run output/language/shakespeare --tokens 120
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from course_utils.language.model import Built, open_run
from course_utils.models import generation


def write(
    built: Built,
    prompts: Sequence[str],
    *,
    tokens: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Each prompt with what the model writes after it, until it ends the text or the model's room is used up.

    Args:
        prompts: beginnings of texts; an empty one lets the model begin.
        tokens: the most that are added.
        temperature, top_p: as for :func:`course_utils.models.generation.generate`.
        seed: of the draws; the same gives the same texts.

    Raises:
        ValueError: a prompt that the tokenizer does not know or that leaves no room, or a temperature that is none.
    """
    end = built.tokenizer.end
    beginnings = [[end, *built.tokenizer.encode(prompt)] for prompt in prompts]
    drawn = generation.generate(
        built.decoder,
        beginnings,
        built.decoder.config.max_length if tokens is None else tokens,
        temperature=temperature,
        top_p=top_p,
        stop={end},
        generator=torch.Generator(next(built.decoder.parameters()).device).manual_seed(seed),
    )
    return [built.tokenizer.decode([*a, *b]) for a, b in zip(beginnings, drawn, strict=True)]


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write on with a trained language model.")
    parser.add_argument("prompt", nargs="?", default="", help="how the text begins; by default with nothing")
    parser.add_argument("--run", default="output/language/tang", help="a run's folder, a checkpoint, or 'embedded'")
    parser.add_argument("--count", type=int, default=1, help="texts to write")
    parser.add_argument(
        "--tokens", type=int, help="the most tokens to add; by default as many as the model has room for"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest token; 1: as it was trained")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this probability")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options = parser.parse_args(words)
    try:
        if options.count < 1:
            raise ValueError(f"count is {options.count}, expected 1 or more")
        _, built = open_run(options.run)
        choices = {key: getattr(options, key) for key in ("tokens", "temperature", "top_p", "seed")}
        texts = write(built, [options.prompt] * options.count, **choices)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print("\n\n".join(texts))


if __name__ == "__main__":
    main()
