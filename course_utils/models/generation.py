"""Write on: a decoder's guesses, drawn one after another, for a batch of prompts at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from course_utils.models.decoder import Cache, Decoder


@torch.no_grad()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue each prompt.

    Shorter prompts are padded on the left, so that all texts go on in the same column. Each token is read once: of the
    earlier ones the cache keeps what the later need.

    Args:
        prompts: token ids, one or more for each text.
        max_new: the most tokens to add to each; the model's ``max_length`` ends a text too.
        temperature: logits are divided by it: below 1 the likely words become likelier; 0 takes the likeliest.
        top_p: draw only from the likeliest words that have this much probability together (nucleus sampling, Holtzman
            et al. 2020, arXiv:1904.09751).
        stop: ids that end a text; the id itself belongs to it.
        generator: draws the numbers; by default torch's own.

    Returns:
        the ids added to each prompt.

    Raises:
        ValueError: an empty prompt, one that fills the model, a temperature or probability that is none.
    """
    _check(model, prompts, max_new, temperature, top_p)
    training, device = model.training, model.word_embedding.weight.device
    model.eval()
    ids, real = _padded(prompts, device)  # [B, N]
    added, ended = ids[:, :0], torch.zeros(len(ids), dtype=torch.bool, device=device)
    cache, last = Cache(), torch.tensor(sorted(stop), device=device)
    try:
        while added.shape[1] < max_new and real.shape[1] <= model.config.max_length and not ended.all():
            x = model.embed(ids)
            x = model.decoder(x, model.context(x, real, cache=cache))
            ids = draw(model.forward_head(x[:, -1:])[:, 0], temperature, top_p, generator)[:, None]  # [B, 1]
            added = torch.cat([added, ids], dim=1)
            real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
            ended |= torch.isin(ids[:, 0], last)
    finally:
        model.train(training)
    return [_until_stop(row, stop) for row in added.tolist()]


def draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None = None) -> Tensor:
    """One word for each text: logits ``[B, V]`` to ids ``[B]``."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    weights, order = (logits.float() / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = weights.cumsum(dim=-1) - weights  # what the likelier words have together
    weights = weights.masked_fill(before >= top_p, 0)  # the likeliest has nothing before it, and stays
    return order.gather(-1, weights.multinomial(1, generator=generator))[:, 0]


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """``[B, N]`` ids that end together, and which of them are real."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


def _until_stop(ids: list[int], stop: Collection[int]) -> list[int]:
    end = next((place for place, word in enumerate(ids, 1) if word in stop), len(ids))
    return ids[:end]


def _check(model: Decoder, prompts: Sequence[Sequence[int]], max_new: int, temperature: float, top_p: float) -> None:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("an empty prompt gives nothing to go on from: begin each with one token at least")
    if (longest := max(map(len, prompts))) >= model.config.max_length:
        raise ValueError(
            f"a prompt of {longest} tokens leaves no room in a model for {model.config.max_length}: shorten it"
        )
    if max_new < 1:
        raise ValueError(f"max_new {max_new!r} is no number of tokens: choose 1 or more")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature {temperature!r} is none: choose 0 for the likeliest word, 1 to draw as trained")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p!r} is no probability: choose a number above 0, and 1 for all words")
