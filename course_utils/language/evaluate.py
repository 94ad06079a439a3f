"""Score a run on held-out texts, beside models that only count.

    python -m course_utils.language.evaluate
    python -m course_utils.language.evaluate output/language/shakespeare --split validation --json

The end of a document counts as one character, and as one token: it has to be guessed too. So nats for each character
are comparable whatever the tokens are. Documents longer than a row are judged in parts, each from a new beginning.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.data.packing import IGNORED, pad
from course_utils.data.verses import SPLITS
from course_utils.language import ngrams
from course_utils.language.data import Encoded, batch, encode, load_texts
from course_utils.language.form import FORMS, Form
from course_utils.language.generate import write
from course_utils.language.model import Built, LanguageModel, open_run

RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """What a model says of held-out texts.

    Args:
        name: of the model.
        nats: for each character.
        interval: 95 % of the means of resampled documents lie in it; it says nothing of other seeds or other training.
        perplexity: ``exp(nats)``: so many equally likely characters would be as hard to guess between.
        nats_per_token, token_perplexity: the same for each token; None for models that know characters alone.
        well_formed: the share of texts, drawn from the model, that have the form of the corpus; None where it is not
            known.
    """

    name: str
    nats: float
    interval: tuple[float, float]
    perplexity: float
    nats_per_token: float | None = None
    token_perplexity: float | None = None
    well_formed: float | None = None


@torch.inference_mode()
def document_nats(built: Built, data: Encoded, size: int = 32) -> list[float]:
    """Minus the logarithm of the probability of each document, its end included, in the order of the documents."""
    model, device = LanguageModel(built.decoder).eval(), next(built.decoder.parameters()).device
    order = sorted(range(len(data.ids)), key=lambda number: len(data.ids[number]))
    sums = torch.zeros(len(data.ids), dtype=torch.float64)
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        rows = pad([data.ids[number] for number in numbers], data.end, data.length)
        parts = [-(-(len(data.ids[number]) + 1) // data.length) for number in numbers]  # rows of each document
        owners = torch.tensor(numbers).repeat_interleave(torch.tensor(parts))
        for i in range(0, len(owners), size):
            x, y = batch(type(rows)(*(column[i : i + size] for column in rows)))
            losses = F.cross_entropy(model(x.to(device)).float(), y.to(device), ignore_index=IGNORED, reduction="none")
            sums.index_add_(0, owners[i : i + size], losses.view(len(x), -1).sum(1).double().cpu())
    return sums.tolist()


def score(name: str, sums: Sequence[float], texts: Sequence[str], tokens: int | None = None, *, seed: int = 0) -> Score:
    """The figures of a model.

    Args:
        sums: nats of each document.
        texts: the documents.
        tokens: how many there are, each document's end among them.
        seed: of the resampling.
    """
    nats, characters = np.array(sums), np.array([len(text) + 1 for text in texts])
    draws = np.random.default_rng(seed).integers(len(texts), size=(RESAMPLES, len(texts)))
    low, high = np.quantile(nats[draws].sum(1) / characters[draws].sum(1), [0.025, 0.975])
    mean, by_token = nats.sum() / characters.sum(), None if tokens is None else float(nats.sum() / tokens)
    return Score(
        name=name,
        nats=float(mean),
        interval=(float(low), float(high)),
        perplexity=math.exp(mean),
        nats_per_token=by_token,
        token_perplexity=None if by_token is None else math.exp(by_token),
    )


def evaluate(
    built: Built,
    texts: Sequence[str],
    *,
    name: str = "decoder",
    form: Form | None = None,
    samples: int = 100,
    seed: int = 0,
) -> Score:
    """The score of a decoder on texts; with a ``form``, also how many of ``samples`` texts that it writes have it."""
    data = encode(texts, built.tokenizer, built.decoder.config.max_length)
    found = score(name, document_nats(built, data), texts, data.tokens, seed=seed)
    if form is None or not samples:
        return found
    share = sum(map(form.holds, write(built, [""] * samples, seed=seed))) / samples
    return Score(**{**asdict(found), "interval": found.interval, "well_formed": share})


def baselines(
    train: Sequence[str], alphabet: Sequence[str], validation: Sequence[str], texts: Sequence[str]
) -> list[Score]:
    """Models that count in ``train``, their k and order chosen by ``validation``, judged on ``texts``."""
    models: dict[str, ngrams.NGrams] = {}
    for order, word in enumerate(("unigram", "bigram", "trigram"), start=1):
        model = ngrams.best_add_k(train, alphabet, order, validation)
        models[f"{word}, add-{model.k:g}"] = model
    best = ngrams.best_kneser_ney(train, alphabet, validation)
    models[f"Kneser-Ney, order {best.order}"] = best
    return [score(name, ngrams.nats(model, texts), texts) for name, model in models.items()]


def table(scores: Sequence[Score]) -> str:
    """The scores in columns."""
    head = ("", "nats/char", "95 % interval", "perplexity", "nats/token", "perplexity", "well-formed")
    rows = [head]
    for s in scores:
        token = ("-", "-") if s.nats_per_token is None else (f"{s.nats_per_token:.3f}", f"{s.token_perplexity:.1f}")
        form = "-" if s.well_formed is None else f"{s.well_formed:.0%}"
        interval = f"{s.interval[0]:.3f} to {s.interval[1]:.3f}"
        rows.append((s.name, f"{s.nats:.3f}", interval, f"{s.perplexity:.1f}", *token, form))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score a language model on held-out texts.")
    parser.add_argument(
        "run", nargs="?", default="output/language/tang", help="a run's folder, a checkpoint, or 'embedded'"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="of the run's own texts")
    parser.add_argument("--samples", type=int, default=100, help="texts drawn to see their form; 0: none")
    parser.add_argument("--no-baselines", action="store_true", help="leave out the models that count")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling and the samples")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    options = parser.parse_args(words)
    try:
        config, built = open_run(options.run)
        texts = load_texts(config)
        judged = getattr(texts, options.split)
        form = FORMS.get(config.corpus) if config.text is None else None
        scores = [evaluate(built, judged, form=form, samples=options.samples, seed=options.seed)]
        if not options.no_baselines:
            scores += baselines(texts.train, texts.alphabet, texts.validation, judged)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps({"texts": config.name, "split": options.split, "scores": [asdict(s) for s in scores]}))
        return
    print(f"{config.name}, {options.split}: {len(judged):,} texts")
    print(table(scores))
    if form is not None and options.samples:
        print(f"well-formed: {form.words}; of {options.samples} texts drawn at temperature 1")


if __name__ == "__main__":
    main()
