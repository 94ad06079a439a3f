"""What the monthly run with the newest versions found: `python -m tools.drift table` and `python -m tools.drift stamp`.

`table` prints, as Markdown, which installed versions differ from the tested ones in constraints.txt. `stamp` prints the
JSON that the README's "last verified" badge shows.
"""

import datetime
import importlib.metadata
import json
import re
import sys

from tools.contents import ROOT

PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)", re.M)


def drifted() -> dict[str, tuple[str, str]]:
    """Distributions whose installed version is not the tested one: name -> (tested, installed)."""
    found = {}
    for name, tested in PIN.findall((ROOT / "constraints.txt").read_text(encoding="utf-8")):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # no longer needed by the newest versions
        if installed.split("+")[0] != tested:
            found[name] = (tested, installed)
    return found


def table() -> str:
    rows = [f"| {name} | {tested} | {installed} |" for name, (tested, installed) in drifted().items()]
    if not rows:
        return "Nothing has drifted."
    return "\n".join(["| package | tested | newest |", "| --- | --- | --- |", *rows])


def stamp(today: datetime.date) -> str:
    message = f"{today.isoformat()}, torch {importlib.metadata.version('torch').split('+')[0]}"
    return json.dumps({"schemaVersion": 1, "label": "last verified", "message": message, "color": "blue"})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["table"]:
            print(table())
        case ["stamp"]:
            print(stamp(datetime.datetime.now(datetime.UTC).date()))
        case other:
            sys.exit(f"expected `table` or `stamp`, got {' '.join(other) or 'nothing'}: python -m tools.drift table")
