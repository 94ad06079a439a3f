"""Draw who computes what and when: the timelines of pipeline schedules, simulated or reported by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch, Rectangle

from course_utils.figures.style import PALETTE, subplots
from course_utils.pipeline.schedule import Kind
from course_utils.pipeline.simulator import Span

# Kinds differ in colour, in the letter of their label, and in the strip at the foot of the block.
STYLES: dict[Kind, tuple[str, str, str]] = {  # colour, hatch of the strip, name
    Kind.FORWARD: (PALETTE["blue"], "", "F forward"),
    Kind.BACKWARD: (PALETTE["orange"], "//////", "B backward"),
    Kind.BACKWARD_INPUT: (PALETTE["red"], "||||||", "I backward for the input"),
    Kind.BACKWARD_WEIGHT: (PALETTE["green"], "------", "W backward for the weights"),
}
HEIGHT, STRIP = 0.86, 0.2  # of a block and of its strip; rows are 1 apart


def timeline(
    schedules: Mapping[str, Sequence[Span]], *, unit: str = "forwards of one rank", width: float = 7.2
) -> Figure:
    """One panel a schedule, one row a rank, all on the same clock; labels are micro-batches. Show it by `figures.show`.

    Later chunks of a rank are drawn paler. A block too narrow for its label is left without.

    Args:
        schedules: title -> spans, of `simulate(...)` or of a run.
        unit: of the times, for the axis.
        width: in inches; 7.2 is the width of the page.

    Raises:
        ValueError: when there is nothing to draw.
    """
    if not schedules or not all(schedules.values()):
        empty = ", ".join(repr(title) for title, spans in schedules.items() if not spans) or "no schedule at all"
        raise ValueError(f"there is nothing to draw for {empty}: give the spans of at least one action")
    rows = [1 + max(span.rank for span in spans) for spans in schedules.values()]
    height = 0.29 * sum(rows) + 0.33 * len(rows) + 0.75
    fig, axes = subplots(
        len(rows), 1, width=width, height=height, sharex=True, squeeze=False, gridspec_kw={"height_ratios": rows}
    )
    end = max(span.end for spans in schedules.values() for span in spans)
    points = (width - 0.8) * 72 / end  # per unit of time
    for ax, (title, spans), ranks in zip(axes.flat, schedules.items(), rows, strict=True):
        _panel(ax, title, spans, ranks, points)
    axes.flat[-1].set(xlabel=f"time ({unit})", xlim=(0, end))
    used = {span.action.kind for spans in schedules.values() for span in spans}
    kinds = [kind for kind in STYLES if kind in used]
    handles, labels = [_legend_patches(kind) for kind in kinds], [STYLES[kind][2] for kind in kinds]
    if any(len({s.action.stage for s in spans if s.rank == 0}) > 1 for spans in schedules.values()):
        handles.append((Patch(visible=False),))
        labels.append("paler: a rank's later stages")
    fig.legend(
        handles=handles,
        labels=labels,
        handler_map={tuple: HandlerTuple(ndivide=1, pad=0)},
        loc="outside lower center",
        ncols=2 if len(labels) == 4 else min(len(labels), 3),
        fontsize=9,
    )
    return fig


def _panel(ax: Axes, title: str, spans: Sequence[Span], ranks: int, points: float) -> None:
    """Draw one schedule; `points` is how wide a unit of time is on paper."""
    stages = [sorted({s.action.stage for s in spans if s.rank == rank}) for rank in range(ranks)]
    for rank, action, start, end in spans:
        colour, hatch, _ = STYLES[action.kind]
        chunk, chunks = stages[rank].index(action.stage), len(stages[rank])
        tint = 0.45 - 0.33 * chunk / max(chunks - 1, 1)
        top = rank - HEIGHT / 2
        block = Rectangle((start, top), end - start, HEIGHT, facecolor=(colour, tint), edgecolor=colour, linewidth=0.7)
        ax.add_patch(block)
        if hatch:
            foot = (start, top + HEIGHT - STRIP)
            strip = Rectangle(foot, end - start, STRIP, facecolor="none", edgecolor=colour, linewidth=0, hatch=hatch)
            ax.add_patch(strip)
        label, size = _label(action.kind, action.micro_batch, (end - start) * points)
        if label:
            ax.text((start + end) / 2, rank - STRIP / 2, label, ha="center", va="center", fontsize=size)
    ax.set(ylim=(ranks - 0.45, -0.55), yticks=range(ranks), yticklabels=[f"rank {r}" for r in range(ranks)])
    ax.set_title(title, fontsize=10.5)
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)


def _label(kind: Kind, micro_batch: int, room: float) -> tuple[str, float]:
    """The longest label that fits so many points, and its size: kind and micro-batch, the latter alone, or none."""
    for text, size in (
        (f"{kind.value}{micro_batch}", 8.5),
        (f"{kind.value}{micro_batch}", 7.0),
        (str(micro_batch), 7.0),
    ):
        if 0.62 * size * len(text) <= room:
            return text, size
    return "", 0.0


def _legend_patches(kind: Kind) -> tuple[Patch, ...]:
    """A tinted patch and, drawn over it, its hatch: as one patch, SVG would make the tint opaque behind the hatch."""
    colour, hatch, _ = STYLES[kind]
    tinted = Patch(facecolor=(colour, 0.45), edgecolor=colour)
    return (tinted, Patch(facecolor="none", edgecolor=colour, hatch=hatch)) if hatch else (tinted,)
