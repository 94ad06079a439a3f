"""What must hold of a chapter that ran: one sentence for each fault, with the cell and the words that are wrong.

The run itself is `tools.execution.run`; pytest calls `faults` after it, and a chapter with a fault is not kept.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from tools.contents import ROOT
from tools.execution import GB, Run

STDOUT_LINES = 60
WORK_SECONDS = 1.0  # a chapter that computes less than this in all its cells after the set-up has not run its topic

ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/<~-])/(?:home|Users|root|tmp|var|usr|opt|etc|work|private|mnt|media|srv|content|workspaces?)/[\w.@-]"
    r"|(?<!\w)[A-Za-z]:\\{1,2}\w"
)
WARNING = re.compile(r"\b[A-Z]\w*Warning\b:|^WARNING\b|\bWARNING:|\[WARNING\]|\[W\d{6} ", re.M)
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
PROGRESS = re.compile(r"\r(?!\n)|\d%\|[ #█▏▎▍▌▋▊▉]|\d(?:it/s|s/it)\b|\bHBox\(children=|Loading widget")
ADDRESS = re.compile(r"<[^<>\n]* at 0x[0-9a-f]{6,}>")
_PATTERNS = {
    "an absolute path": ABSOLUTE_PATH,
    "a warning": WARNING,
    "a traceback": TRACEBACK,
    "progress-bar debris": PROGRESS,
    "a memory address": ADDRESS,
}


def faults(run: Run, *, work_seconds: float = WORK_SECONDS) -> list[str]:
    """Every fault of an executed notebook, in order of its cells; an empty list means it may go into the book."""
    found: list[str] = []
    nb = run.notebook
    code = [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    for place, (index, cell) in enumerate(code, start=1):
        where = describe(nb, index)
        tags = cell.metadata.get("tags", [])
        if cell.execution_count != place:
            found.append(
                f"{where}: executed as number {cell.execution_count}, expected {place}; every code cell must run "
                "once and in order (is it empty, or tagged skip-execution?)"
            )
            continue
        raised = any(output.output_type == "error" for output in cell.outputs)
        if raised and "raises-exception" not in tags:
            found.append(f"{where}: holds a traceback; tag the cell `raises-exception` if it shows an error on purpose")
        if "raises-exception" in tags and not raised:
            found.append(f"{where}: tagged `raises-exception`, but nothing was raised; remove the tag or mend the cell")
        found += [f"{where}: {fault}" for fault in _output_faults(cell)]
        if _work_skipped(cell):
            found.append(
                f"{where}: all its work stands under an `if` that was not entered: it gave no output in "
                f"{run.cell_seconds.get(cell.id, 0):.3f} s; a chapter shows what ran"
            )
        if run.cell_seconds.get(cell.id, 0.0) <= 0.0:
            found.append(f"{where}: took 0.000 s; it was not executed")
    setup = {cell.id for cell in nb.cells if "setup" in cell.metadata.get("tags", [])}
    worked = sum(seconds for name, seconds in run.cell_seconds.items() if name not in setup)
    if worked < work_seconds:
        found.append(
            f"the cells after the set-up took {worked:.3f} s in all; at least {work_seconds:g} s of work was expected"
        )
    budget = float(nb.metadata["course"]["memory_gb"])
    if run.peak_bytes > budget * GB:
        found.append(
            f"its processes held {run.peak_bytes / GB:.2f} GB at their peak, over the budget of {budget:g} GB: "
            "use less, or raise `memory_gb` in the notebook's metadata (6 at most)"
        )
    found += [f"a process was left running after the kernel ended: {name}" for name in run.leftovers]
    found += _beyond_reach(run)
    return found


def _beyond_reach(run: Run) -> Iterator[str]:
    """What the processes read of the package, and no stamp would know of."""
    for path in sorted(run.read - run.reached):
        yield (
            f"its processes read {path.relative_to(ROOT)}, which its imports do not reach: after a change there it "
            "would not be run again; name the module or the file where it is used (tools/closure.py)"
        )
    if run.reached and not run.read:
        yield "it takes course_utils from elsewhere: install the package of this checkout (`make` does)"


def describe(nb: NotebookNode, index: int) -> str:
    """The cell's place and first line of code, for a message."""
    lines = [line for line in nb.cells[index].source.splitlines() if line.strip()]
    number = sum(cell.cell_type == "code" for cell in nb.cells[: index + 1])
    return f"code cell {number} ({lines[0].strip()[:60] if lines else 'empty'})"


def _output_faults(cell: NotebookNode) -> Iterator[str]:
    lines = 0
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield f"wrote to stderr: {_shorten(output.text)}"
            continue
        if output.output_type == "stream":
            lines += output.text.count("\n")
        for text in _texts(output):
            for what, pattern in _PATTERNS.items():
                if match := pattern.search(text):
                    yield f"its output holds {what}: {_shorten(text, match)}"
            for path in _paths_of_this_machine():
                if path in text and not ABSOLUTE_PATH.search(text):
                    yield f"its output holds a path of this machine: {_shorten(text, re.search(re.escape(path), text))}"
    if lines > STDOUT_LINES:
        yield f"printed {lines} lines; more than {STDOUT_LINES} is a wall of text: summarise, or show a table"


def _texts(output: NotebookNode) -> list[str]:
    """All that a reader could see of an output as text. Pictures (PNG) hold none."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":  # shown on purpose: its frames must not name files of this machine
        frames = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback)).replace("~/", f"{Path.home()}/")
        return [TRACEBACK.sub("", frames)]
    found = []
    data = output.get("data", {})
    for mime, value in data.items():
        if mime == "text/plain" and len(data) > 1:
            continue  # a page shows the richer form
        if mime.startswith("text/") or mime in ("image/svg+xml", "application/javascript"):
            found.append("".join(value))
        elif "widget-view" in mime:
            found.append("Loading widget")  # what a static page shows in its place
    return found


def _paths_of_this_machine() -> set[str]:
    return {path for path in map(str, (ROOT, Path.home(), Path(sys.prefix))) if path.count("/") + path.count("\\") > 1}


def _work_skipped(cell: NotebookNode) -> bool:
    """True for a cell that showed nothing and holds `if` statements, imports and definitions alone."""
    if cell.outputs or "setup" in cell.metadata.get("tags", []):
        return False
    try:
        statements = ast.parse(TransformerManager().transform_cell(cell.source)).body
    except SyntaxError:
        return False  # the run itself tells of it
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    work = [statement for statement in statements if not isinstance(statement, quiet)]
    return bool(work) and all(isinstance(statement, ast.If) for statement in work)


def _shorten(text: str, match: re.Match[str] | None = None, width: int = 100) -> str:
    """One line of at most `width` characters around the words that are wrong."""
    start = max(0, match.start() - width // 3) if match else 0
    return repr(" ".join(re.sub(r"\x1b\[[\d;]*m", "", text[start : start + 3 * width]).split())[:width])
