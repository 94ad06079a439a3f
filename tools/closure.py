"""What a notebook stands on: the files of the package that its imports reach, however deep, and the data they load.

Read from the sources by ``ast``; nothing is run. An import counts wherever it stands, in a function too. So does a
module that is named in a string, as for ``python -m`` or for the launcher. A data file counts when its name is said,
whole or by an f-string whose gaps are filled by strings that are said (``f"{name}.js"`` and ``"votes"``).

What such a look may miss, the run itself tells: `tools.judge` compares with all that the processes really read.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from tools.contents import ROOT

PACKAGE = "course_utils"
DOTTED = re.compile(rf"\b{PACKAGE}(?:\.\w+)+\b")


@dataclass(frozen=True)
class Said:
    """What a source says: dotted names it may import, its strings, and its f-strings as regular expressions."""

    modules: frozenset[str]
    strings: frozenset[str]
    patterns: frozenset[str]


def reached(notebook: Path, root: Path = ROOT) -> set[Path]:
    """The files of ``root / "course_utils"`` that decide what the cells of ``notebook`` do."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    heard = [said(source, "") for source in code]
    listed = {file for source in code for file in _listed(source, root)}  # read as text: their imports do not count
    found: set[Path] = set()
    waiting = [name for one in heard for name in one.modules]
    while waiting:
        for file in set(_modules(waiting.pop(), root)) - found:
            found.add(file)
            heard.append(said(file.read_text("utf8"), ".".join(file.parent.relative_to(root).parts)))
            waiting += heard[-1].modules
    return found | listed | set(_data(heard, root / PACKAGE))


@functools.lru_cache(maxsize=4096)
def said(source: str, package: str) -> Said:
    """What a source says that stands in ``package`` (such as ``course_utils.models``; "" for a notebook's cell)."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell that shows an error on purpose
        return Said(frozenset(), frozenset(), frozenset())
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    modules = {name for name in imported(nodes, package) if name.split(".")[0] == PACKAGE}
    modules |= {text for text in strings if DOTTED.fullmatch(text)}
    if not package:  # a cell may hold a program as text
        modules |= {name for text in strings if "import" in text for name in DOTTED.findall(text)}
    patterns = {_pattern(node) for node in nodes if isinstance(node, ast.JoinedStr)}
    return Said(frozenset(modules), frozenset(strings), frozenset(patterns))


def imported(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """The dotted names in import statements: ``from a import b`` names ``a.b``, whether that is a module or not."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _modules(name: str, root: Path) -> Iterator[Path]:
    """The files that ``import name`` executes: each folder's ``__init__`` on the way, then the module, if it is one."""
    place = root
    for part in name.split("."):
        place /= part
        if (place / "__init__.py").is_file():
            yield place / "__init__.py"
        elif place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")
            return


def _listed(source: str, root: Path) -> Iterator[Path]:
    """A cell that goes through a folder of the package stands on each file in it."""
    if "iterdir(" in source or "glob(" in source:
        for name in DOTTED.findall(source):
            yield from (file for file in root.joinpath(*name.split(".")).glob("*.*") if file.is_file())


def _data(heard: list[Said], package: Path) -> Iterator[Path]:
    """The files other than modules whose names are said."""
    strings = {text.rsplit("/", 1)[-1] for one in heard for text in one.strings}
    patterns = {re.compile(text) for one in heard for text in one.patterns if r"\." in text}
    for file in package.rglob("*.*"):
        if file.is_file() and file.suffix not in {".py", ".pyc"}:
            matches = (pattern.fullmatch(file.name) for pattern in patterns)
            if file.name in strings or any(match and strings.issuperset(match.groups()) for match in matches):
                yield file


def _pattern(node: ast.JoinedStr) -> str:
    """An f-string as a regular expression, each gap a group."""
    parts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else "(.+)" for part in node.values)
    return "".join(parts)
