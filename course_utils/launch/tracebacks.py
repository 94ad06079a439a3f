"""Tracebacks and stacks of a rank, made short and the same on every machine."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Both forms: `File "a.py", line 3, in f` of a traceback and `File "a.py", line 3 in f` of faulthandler.
FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+),? in (?P<name>.+)$')
MACHINERY = (
    "<string>",
    "multiprocessing/",
    "course_utils/launch/worker.py",
)  # frames that say nothing about the reader's code


class Frame(NamedTuple):
    """One line of a stack: where, in which function, and what stands there."""

    file: str
    line: int
    name: str
    source: str

    def __str__(self) -> str:
        return f'  File "{self.file}", line {self.line}, in {self.name}' + (
            f"\n    {self.source}" if self.source else ""
        )


def short_name(file: str) -> str:
    """A file's name as a reader knows it: ``Cell In[3]``, ``torch/nn/functional.py``, or a script's own name."""
    if cell := _cell_name(file):
        return cell
    path = Path(file)
    top = path.parent
    while (top / "__init__.py").exists():
        top = top.parent
    return path.relative_to(top).as_posix() if top != path.parent else path.name


def _cell_name(file: str) -> str | None:
    """How IPython calls the cell that it compiled under this name; None for any other file."""
    if "IPython" not in sys.modules:
        return None
    shell = sys.modules["IPython"].get_ipython()
    number = getattr(getattr(shell, "compile", None), "_filename_map", {}).get(file)
    return None if number is None else f"Cell In[{number}]"


def frame(match: re.Match[str]) -> Frame:
    """A frame with its source line, which only the caller's process can look up when it is a notebook's cell."""
    file, line = match["file"], int(match["line"])
    return Frame(short_name(file), line, match["name"], linecache.getline(file, line).strip())


def readable_traceback(text: str) -> str:
    """A rank's traceback without the launcher's own frames, without absolute paths, and with the source of cells."""
    lines: list[str] = []
    inside = False  # the lines under a frame are its source and marks below it; they are replaced
    for line in text.splitlines():
        if match := FRAME.match(line):
            inside = True
            found = frame(match)
            if not found.file.startswith(MACHINERY):
                lines += str(found).splitlines()
        elif not (inside and line.startswith("    ")):
            inside = False
            lines.append(line)
    return "\n".join(lines)


def stack(dump: str) -> list[Frame]:
    """The frames of what faulthandler wrote, the innermost last as in a traceback, without the launcher's own."""
    last = dump.rpartition("(most recent call first):")[2]
    frames = [frame(match) for line in last.splitlines() if (match := FRAME.match(line))]
    return [found for found in reversed(frames) if not found.file.startswith(MACHINERY)]


def waits_for_others(frames: Sequence[Frame]) -> bool:
    """Whether a stack ends in a collective, so that the rank is held up by another one."""
    if not frames:
        return False
    inner = frames[-1]
    library = inner.file.startswith(("torch/distributed/", "torch/autograd/"))  # a hook of backward may communicate
    return library or re.search(r"\.wait\(\)", inner.source) is not None


def listed(ranks: Sequence[int]) -> str:
    """``[1]`` -> ``"rank 1"``, ``[0, 2, 3]`` -> ``"ranks 0, 2 and 3"``."""
    numbers = [str(rank) for rank in ranks]
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"
