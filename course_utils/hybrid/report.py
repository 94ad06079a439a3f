"""A plan as text: what one GPU holds, what it sends on each axis, what a step takes, and the layouts that are best."""

from __future__ import annotations

from course_utils.hybrid.axes import AXES
from course_utils.hybrid.cost import DAY, Cluster, grid_of, memory, step_flops_needed, step_time, traffic
from course_utils.hybrid.layouts import Layouts, rank
from course_utils.plan.machines import GIB
from course_utils.plan.plan import Plan
from course_utils.plan.transformer import utilisation

# How far the model of memory and time was from what published runs report, ours over theirs; a test of
# course_utils.published works both out anew.
MEMORY_ERROR = (0.77, 1.01)
TIME_ERROR = (0.58, 1.61)
ERRORS = (
    "These are estimates. Ours over what published runs report: memory "
    f"{MEMORY_ERROR[0]:.2f} to {MEMORY_ERROR[1]:.2f}, seconds of a step {TIME_ERROR[0]:.2f} to {TIME_ERROR[1]:.2f}."
)


def layout(plan: Plan) -> str:
    """``data 8 x tensor 8, micro-batch 2, ZeRO-1``: the axes that are divided, and the rest in a word each."""
    axes = [f"{axis} {plan.ranks(axis)}" for axis in grid_of(plan).sizes if plan.ranks(axis) > 1]
    words = [" x ".join(axes) or "one GPU", f"micro-batch {plan.micro_batch}", f"ZeRO-{plan.zero}"]
    words += [f"{plan.chunks} chunks a rank"] if plan.chunks > 1 else []
    words += ["sequence parallel"] if plan.sequence_parallel and plan.tensor > 1 else []
    return ", ".join([*words, f"recompute {plan.recompute}"])


def report(plan: Plan, cluster: Cluster, *, tokens: int = 10**12) -> str:
    """A plan on a cluster.

    Args:
        tokens: of the whole run, for its days.
    """
    model, held = plan.model, memory(plan)
    active = f", of which a token meets {model.active_parameters / 1e9:.2f}" if model.experts else ""
    verdict = "fits" if held.fits(cluster.gpu) else "does not fit with a tenth in reserve"
    time, step_tokens = step_time(plan, cluster), plan.batch * plan.tokens
    days = tokens / step_tokens * time.total / DAY
    mfu = utilisation(step_flops_needed(plan), time.total, plan.gpus, cluster.gpu.peak)
    narrow = ", FP8 in the layers" if cluster.fp8 else ""
    if plan.lora:
        verdict += f"; LoRA of rank {plan.lora.rank}"
    lines = [
        f"{model.name}: {model.parameters / 1e9:.2f} billion parameters{active}",
        f"{plan.gpus:,} x {cluster.gpu.name} ({cluster.name or 'cluster'}; {cluster.gpu.peak / 1e12:,.0f} TFLOP/s and "
        f"{cluster.gpu.bandwidth / 1e12:.2f} TB/s each); a step has {step_tokens:,} tokens: "
        f"{plan.batch:,} sequences of {plan.tokens:,}",
        layout(plan),
        "",
        f"The fullest GPU holds, in GiB ({plan.states.name}; {verdict}):",
        *(f"  {name.replace('_', ' '):<16}{size / GIB:10.2f}" for name, size in held._asdict().items() if size),
        f"  {'in all':<16}{held.total / GIB:10.2f} of {cluster.gpu.memory / GIB:.0f}",
        "",
        "In a step a GPU sends among so many ranks, in GB, and waits for, in seconds:",
        *_axes(plan, cluster),
        "",
        "A step takes, in seconds:",
        f"  {'products':<16}{time.compute:10.3f} at {cluster.busy:.0%} of the peak{narrow}",
        f"  {'bubble':<16}{time.bubble:10.3f}",
        f"  {'messages':<16}{sum(time.axes.values()):10.3f}",
        f"  {'in all':<16}{time.total:10.3f}",
        "",
        f"{step_tokens / time.total:,.0f} tokens/s, {step_tokens / time.total / plan.gpus:,.0f} a GPU; "
        f"MFU {mfu:.1%} of the 16-bit peak; {tokens / 1e9:,g} billion tokens in {days:,.1f} days",
        "",
        ERRORS,
    ]
    return "\n".join(lines)


def _axes(plan: Plan, cluster: Cluster) -> list[str]:
    sent, time, grid = traffic(plan, min(1, plan.pipeline - 1)), step_time(plan, cluster), grid_of(plan)
    rows = []
    for axis, size in sent.items():
        where = "between machines" if cluster.link(grid, axis) is cluster.between else "inside a machine"
        hidden = ", hidden behind products as far as possible" if AXES[axis].hides and cluster.overlap else ""
        ranks = plan.alike[0] if axis == "data" else plan.ranks(axis)
        rows.append(f"  {axis:<10}{ranks:>6}{size / 1e9:12.2f}{time.axes[axis]:10.3f} {where}{hidden}")
    return rows or ["  nothing: one GPU"]


def layouts_table(plan: Plan, cluster: Cluster, gpus: int, *, best: int = 5, tokens: int = 10**12) -> str:
    """The best layout in full, the next ones in a line each, and how many were excluded for which reason.

    Raises:
        ValueError: where none is possible; the message says why not, by kind.
    """
    found = rank(plan, cluster, gpus)
    excluded = excluded_by_reason(found)
    if not found.possible:
        raise ValueError(f"none of {found.tried} layouts on {gpus} x {cluster.gpu.name} is possible: {excluded}")
    lines = [_report_of(found, cluster, tokens), "", "The best layouts, with seconds of a step and GiB of a GPU:"]
    for candidate in found.possible[:best]:
        if candidate.plan and candidate.time:
            size = memory(candidate.plan).total / GIB
            lines.append(f"  {candidate.time.total:9.3f}{size:8.1f}  {layout(candidate.plan)}")
    lines += [f"{len(found.possible)} of {found.tried} grids are possible; {excluded}"]
    return "\n".join(lines)


def excluded_by_reason(found: Layouts) -> str:
    """How many grids were excluded, and for which reasons."""
    reasons = "; ".join(f"{count}: {reason}" for reason, count in found.excluded.most_common())
    return f"{found.excluded.total()} excluded ({reasons})" if reasons else "none is excluded"


def _report_of(found: Layouts, cluster: Cluster, tokens: int) -> str:
    plan = found.possible[0].plan
    assert plan is not None
    return report(plan, cluster, tokens=tokens)
