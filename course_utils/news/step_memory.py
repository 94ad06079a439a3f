"""What a training step of the project holds in memory, measured tensor by tensor."""

from __future__ import annotations

from functools import cache

from course_utils.measure.live import LiveMemory
from course_utils.news.config import Config
from course_utils.news.loader import encode
from course_utils.news.main import titles_to_train_on
from course_utils.news.model import build
from course_utils.news.optimizer import make_optimizer
from course_utils.training import make_scaler
from course_utils.training.loop import train_step


@cache
def step_memory(config: Config) -> int:
    """The most bytes that tensors hold in a training step: weights, gradients, AdamW's moments, activations.

    The second step is measured, when the moments are there, with the longest titles of the set.
    """
    built = build(config)
    data = encode(titles_to_train_on(config), built.tokenizer, built.pad)
    rows = sorted(range(len(data)), key=lambda row: len(data.ids[row]))[-config.batch_size :]
    optimizer, scaler = make_optimizer(built.model, config), make_scaler(config.precision)
    built.model.train()
    train_step(built.model, optimizer, [data.batch(rows)], scaler=scaler, clip=config.clip)
    optimizer.zero_grad(set_to_none=True)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    with LiveMemory([*built.model.parameters(), *moments]) as live:
        train_step(built.model, optimizer, [data.batch(rows)], scaler=scaler, clip=config.clip)
    return live.peak
