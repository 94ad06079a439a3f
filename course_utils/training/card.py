"""A card beside each run: what was trained, on which data, what it reaches and how surely, and how to repeat it."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from course_utils.training.loop import Metrics
from course_utils.training.settings import RunSettings

NOT_SAID = {"resume", "overwrite"}  # of how often it was started, not of what was run


def card(
    config: RunSettings,
    *,
    title: str,
    data: Mapping[str, str],
    files: Sequence[str],
    sizes: tuple[int, int],
    machine: str,
    chosen: tuple[int, Metrics] | None,
    test: Metrics | None,
    licence: str,
) -> str:
    """The card as Markdown.

    Args:
        data: what the data are called, by part.
        files: what lies beside the run, such as the parts that were drawn.
        sizes: parameters that trained, and all.
        chosen: the best epoch and what validation found.
        test: of the chosen weights, if they were tested.
        licence: of what was trained further.
    """
    trained, total = sizes
    lines = [f"# {title or 'A run'}", "", "| data | |", "|---|---|"]
    lines += [f"| {part} | {name} |" for part, name in data.items()]
    if files:
        lines += ["", f"The parts were drawn, and lie beside this card: {', '.join(files)}."]
    lines += ["", "| figure | value | 95 % interval |", "|---|---|---|"]
    if chosen is not None:
        epoch, found = chosen
        lines.append(f"| validation accuracy, best epoch ({epoch}) | {_figure(found)} |")
        lines.append(f"| validation loss, best epoch ({epoch}) | {found.loss:.4f} | |")
    lines.append("| test accuracy | not looked at yet | |" if test is None else f"| test accuracy | {_figure(test)} |")
    if test is not None:
        lines.append(f"| test loss | {test.loss:.4f} | |")
    lines += [f"| parameters trained, of all | {trained:,} of {total:,} | |", ""]
    lines += [
        "The interval is Wilson's, of the examples alone: another seed adds to it. The best epoch was chosen by the "
        "validation figure, which is therefore a little too high.",
        "",
        "```",
        command(config),
        "```",
        "",
        f"Trained with torch {torch.__version__}, Python {platform.python_version()}, on {machine}.",
        f"Licence of what was trained further: {licence or 'nothing was, the weights are new'}.",
    ]
    return "\n".join(lines) + "\n"


def wilson(accuracy: float, samples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of right answers.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # takes a while, and a run needs it once

    found = binomtest(round(accuracy * samples), samples).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def command(config: RunSettings) -> str:
    """What to type to run it again: all that differs from the defaults."""
    program = type(config).__module__.removesuffix(".config") + ".train"
    words = ["python", "-m", program]
    for key, value in config.model_dump(exclude=NOT_SAID).items():
        if value != type(config).model_fields[key].default:
            words += _words(key.replace("_", "-"), value)
    return shlex.join(words)


def _words(key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{key}", *("none" if each is None else str(each) for each in values)]


def _figure(found: Metrics) -> str:
    if not found.samples:  # a run that an older version began, and did not say how many there were
        return f"{found.accuracy:.4f} | "
    low, high = wilson(found.accuracy, found.samples)
    return f"{found.accuracy:.4f} | {low:.3f} to {high:.3f} ({found.samples:,} examples)"
