"""The one door: ``python -m course_utils`` lists every command, ``python -m course_utils NAME ...`` runs one.

A command is a module that can be run, and its line here is the first of its docstring. So a new one is listed as soon
as it is there.
"""

from __future__ import annotations

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent
RUNS = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)


def commands() -> dict[str, str]:
    """The names of all commands, without the package's own, and a line on each."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if file != Path(__file__) and RUNS.search(text):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__main__" else parts)
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")
    return found


def main(words: list[str]) -> None:
    """List the commands, or run the one that is named."""
    known = commands()
    if not words or words[0] in ("-h", "--help", "list"):
        width = max(map(len, known))
        print("python -m course_utils NAME ... runs a command; NAME --help tells its options.\n")
        for name, line in known.items():
            print(f"{name:<{width}}  {line}")
        return
    name, *rest = words
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        sys.exit(f"error: there is no command {name!r}: did you mean {', '.join(near)}? Without a name, all are listed")
    sys.argv = [f"python -m course_utils {name}", *rest]
    runpy.run_module(f"course_utils.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
