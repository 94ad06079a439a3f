"""The page of other people's numbers: ``python -m course_utils.published > book/other_peoples_numbers.md``."""

from __future__ import annotations

from collections.abc import Callable

from course_utils.published import memory, parameters, speed
from course_utils.published.check import Check

SECTIONS: dict[str, tuple[str, list[Callable[[], list[Check]]]]] = {
    "Parameters": ("Counted by the parts of a layer.", [parameters.models]),
    "What is trained beside a frozen model": ("", [parameters.tuned]),
    "Model states": ("Bytes per parameter times parameters, over the ranks that share them.", [memory.states]),
    "Plots of the Ultra-Scale Playbook": (
        "The numbers behind its plots. Where the difference is 0, every digit agrees.",
        [memory.playbook],
    ),
    "Peaks of memory": (
        "The planner counts tensors. A run reports what its allocator has reserved, which is more.",
        [memory.peaks],
    ),
    "Utilisation": ("Model FLOPs over seconds, devices and the dense peak.", [speed.utilisations]),
    "Bubbles": ("From the simulator, schedule by schedule.", [speed.bubbles]),
    "Days and hours": ("", [speed.budgets]),
    "Seconds of a step": (
        "The model of time: products at 55 % (H100) or 60 % (A100) of the peak, messages by their bytes, the bubble. "
        "The shares were set by BLOOM's row and by the first of Llama 3. It knows nothing of kernels, compilers or "
        "power limits, and this table shows how wide its error is.",
        [speed.times],
    ),
}  # fmt: skip


def all_checks() -> list[Check]:
    """Every published number, beside ours."""
    return [check for _, makers in SECTIONS.values() for make in makers for check in make()]


def page() -> str:
    """The page, as Markdown."""
    checks = all_checks()
    agree = sum(check.agrees for check in checks)
    lines = [
        "# Other people's numbers",
        "",
        f"{len(checks)} numbers that papers, logs and model cards print, and what the formulas of this course make of",
        f"them. {agree} agree. Where one does not, the last column says why. The table is made by the package",
        "(`course_utils.published`), and a test runs every line.",
        "",
    ]
    for title, (words, makers) in SECTIONS.items():
        lines += [f"## {title}", "", *([words, ""] if words else [])]
        lines += ["| what | printed | ours | difference | source | remark |", "|---|---:|---:|---:|---|---|"]
        lines += [_row(check) for make in makers for check in make()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(check: Check) -> str:
    difference = check.ratio - 1
    shown = "0" if not difference else f"{difference:+.2%}"
    mark = "" if check.agrees else "**"
    cells = [check.what, _number(check.published, check.unit), _number(check.ours, check.unit)]
    return f"| {' | '.join([*cells, f'{mark}{shown}{mark}', check.source, check.remark])} |"


def _number(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.4g}"
    return f"{digits} {unit}".strip()
