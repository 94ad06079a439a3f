"""Train the language model that comes with the course, and write it with its card.

    python -m tools.make_language                                             # three seeds: two hours of a core
    python -m tools.make_language --before 0 --epochs 2 --seeds 0 --to FOLDER # a try, in 200 seconds of a core

It learns from octaves and quatrains of the Tang together, then from quatrains alone. Everything but the numbers below
is the default of ``python -m course_utils.language.train``. Each run keeps its best epoch by validation; of the seeds,
the one that is best by validation is written, its weights in FP16. The test poems are looked at once, after that.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from course_utils.data.verses import Texts
from course_utils.files import atomic_write
from course_utils.language.config import Config
from course_utils.language.data import load_texts
from course_utils.language.evaluate import Score, baselines, evaluate, table
from course_utils.language.form import FORMS
from course_utils.language.generate import write
from course_utils.language.model import MODEL, Built, open_run, seal
from course_utils.language.train import train

SEEDS, BEFORE, EPOCHS = (0, 1, 2), 4, 2
BOTH: dict[str, Any] = {"processes": 1, "extra": ("octaves",)}
ALONE: dict[str, Any] = {"processes": 1}
AFTER: dict[str, Any] = {"dropout": 0.2}  # where the second run goes on from the first
SAMPLES = 500


def pretrain(seed: int, before: int, epochs: int, folder: Path) -> tuple[Config, Built, float]:
    """One seed: its settings, the model, and the seconds of a core that it took."""
    began = time.process_time()
    last: dict[str, Any] = {"seed": seed, "epochs": epochs, "output": str(folder / f"{seed}"), **ALONE}
    if before:
        first = train(Config(seed=seed, epochs=before, output=str(folder / f"{seed} before"), **BOTH))
        last |= {"base": str(first.folder), **AFTER}
    config, built = open_run(str(train(Config(**last)).folder))
    learned = {"base": None, "output": None, "extra": BOTH.get("extra", ()) if before else ()}  # from which texts
    return config.model_copy(update=learned), built, time.process_time() - began


def card(
    config: Config, built: Built, before: int, seconds: list[float], scores: list[Score], seeds: list[Score], file: Path
) -> str:
    """The model card; ``scores`` on the test poems: of the model as it is stored, then of those that count."""
    content = file.read_bytes()
    sizes, parameters = built.decoder.config, sum(p.numel() for p in built.decoder.parameters())
    nats = ", ".join(f"{s.nats:.3f}" for s in seeds)
    spread = f" (standard deviation {statistics.stdev(s.nats for s in seeds):.3f})" if len(seeds) > 1 else ""
    poems = "\n\n".join("\n".join(f"    {line}" for line in text.split("\n")) for text in write(built, [""] * 3))
    return f"""# Model card: the embedded language model

| | |
|---|---|
| What | a decoder that writes Tang quatrains, character by character: width {sizes.width}, {sizes.depth} layers, \
{sizes.heads} query heads, {sizes.kv_heads} heads of keys and values, {sizes.vocab_size:,} tokens, {parameters:,} \
parameters |
| File | `{file.name}`, {len(content):,} bytes: all weights in FP16; tokenizer and settings as JSON in the header |
| SHA-256 | `{hashlib.sha256(content).hexdigest()}` |
| Trained on | {f"octaves and quatrains, {before} times, then " if before else ""}quatrains alone, at most \
{config.epochs} times: the training poems of `course_utils/data/embedded/tang.md` and `octaves.md` |
| Licence | MIT, as the course's code; the poems are in the public domain |
| Made by | `python -m tools.make_language`: seed {config.seed} of {len(seeds)}, chosen by validation; \
{sum(seconds):,.0f} seconds of a core for all. The same machine and torch give the same bytes |
| Read by | `course_utils.language.model.open_run("embedded")` |

## What it reaches

On the test poems, looked at once; a character more for the end of each poem. The interval resamples poems.

```text
{table(scores)}
```

Nats a character on the validation poems, of each seed's best epoch in FP32: {nats}{spread}.
Well-formed: {FORMS["tang"].words}; of {SAMPLES} poems drawn at temperature 1.

Three poems that it writes, the first of seed 0:

{poems}

## Good for, and not

**Good for** showing, without a network, what a trained decoder is and how one is adapted. **Not good for** poetry: it
knows what stands beside what, and the form; it was never told what a rhyme, a tone or a meaning is, and it may repeat a
line that it read.
"""


def choose(texts: Texts, seeds: list[int], before: int, epochs: int) -> tuple[Config, Built, list[float], list[Score]]:
    """The best seed by validation, the seconds that each took, and what each reached there."""
    runs, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            config, built, seconds = pretrain(seed, before, epochs, Path(folder))
            runs.append((config, built, seconds))
            found.append(evaluate(built, texts.validation))
            print(
                f"seed {seed}: {found[-1].nats:.4f} nats a character on validation, {seconds:.0f} seconds", flush=True
            )
    config, built, _ = runs[min(range(len(runs)), key=lambda number: found[number].nats)]
    return config, built, [seconds for _, _, seconds in runs], found


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded language model.")
    parser.add_argument("--before", type=int, default=BEFORE, help="passes over octaves and quatrains; 0: none")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over quatrains alone, after that")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="one run for each")
    parser.add_argument("--to", type=Path, default=MODEL.parent, help="the folder to write to")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)  # with two, sums are split in another way, and the last digits differ
    texts = load_texts(Config(**ALONE))
    config, built, seconds, seeds = choose(texts, options.seeds, options.before, options.epochs)
    options.to.mkdir(parents=True, exist_ok=True)
    file = options.to / MODEL.name
    seal(built, config, file)
    for p in built.decoder.parameters():
        p.data = p.data.half().float()  # as it is stored
    scores = [evaluate(built, texts.test, form=FORMS["tang"], samples=SAMPLES)]
    counted = load_texts(config)  # all that the model has seen
    scores += baselines(counted.train, counted.alphabet, counted.validation, counted.test)
    with atomic_write(options.to / f"{MODEL.stem}.md", "w") as page:
        page.write(card(config, built, options.before, seconds, scores, seeds, file))
    print(table(scores))


if __name__ == "__main__":
    main()
