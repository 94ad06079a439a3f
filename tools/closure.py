"""What a notebook or a test stands on: the files that its imports reach, however deep, and the data they load.

Read from the sources by ``ast``; nothing is run. An import counts wherever it stands, in a function too. So does a
module that is named in a string, as for ``python -m`` or for the launcher, and each that an f-string may name
(``f"course_utils.bench.{name}"``: all of that folder). A data file counts when its name is said,
whole or by an f-string whose gaps are filled by strings that are said (``f"{name}.js"`` and ``"votes"``).

What such a look may miss, the run itself tells: `tools.judge` compares with all that a chapter's processes really read.
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
FOLDER = re.compile(rf"{PACKAGE}\.(?:\w+\.)*")


@dataclass(frozen=True)
class Said:
    """What a source says: dotted names it may import, its strings, and its f-strings as regular expressions."""

    modules: frozenset[str]
    strings: frozenset[str]
    patterns: frozenset[str]


def under_notebook(notebook: Path, root: Path = ROOT) -> set[Path]:
    """The files of ``root / "course_utils"`` that decide what the cells of ``notebook`` do."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [str(cell.source) for cell in cells if cell.cell_type == "code"]
    listed = {file for source in code for file in _listed(source, root)}
    found, heard = _follow([said(source, "") for source in code], [root], f"{PACKAGE}.")
    return listed | found | set(_data(heard, (root / PACKAGE).rglob("*.*")))


def under_test(test: Path, root: Path = ROOT) -> set[Path]:
    """The files of ``root`` on which a test file stands: itself, what it imports, the data of the rooms it reaches.

    With the checks of exercises come their notebooks. A test that reaches ``tools.contents``, which knows
    the checkout, stands on ``tools/contents.py`` as a sign that it stands on everything.
    """
    folders = [root / "tests", *({test.parent} - {root / "tests"})]
    sources = [test, *(folder / "conftest.py" for folder in folders if (folder / "conftest.py").is_file())]
    found, _ = _follow([said(source.read_text("utf8"), "") for source in sources], [root, *folders])
    checks = {file.parent.name for file in found if file.parent.parent == root / PACKAGE / "exercises"}
    solved = {file for file in (root / "notebooks").glob("*/*.ipynb") if file.stem in checks}
    rooms = {file.parent for file in found if file.is_relative_to(root / PACKAGE)} - {root / PACKAGE}
    data = {file for room in rooms for file in room.rglob("*.*") if file.suffix not in {".py", ".pyc"}}
    return {*sources, *solved, *found, *(file for file in data if file.is_file())}


def _follow(heard: list[Said], bases: list[Path], only: str = "") -> tuple[set[Path], list[Said]]:
    """The modules that ``heard`` imports from ``bases``, and those that they import; and all that was heard in them."""
    found: set[Path] = set()
    seen: set[str] = set()
    heard = list(heard)
    waiting = [name for one in heard for name in one.modules]
    while waiting:
        name = waiting.pop()
        if name in seen or not f"{name}.".startswith(only):
            continue
        seen.add(name)
        for file in set(_modules(name, bases)) - found:
            found.add(file)
            base = next(base for base in bases if file.is_relative_to(base))
            heard.append(said(file.read_text("utf8"), ".".join(file.parent.relative_to(base).parts)))
            waiting += heard[-1].modules
    return found, heard


@functools.lru_cache(maxsize=4096)
def said(source: str, package: str) -> Said:
    """What a source says that stands in ``package`` (such as ``course_utils.models``; "" for a notebook's cell)."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell that shows an error on purpose
        return Said(frozenset(), frozenset(), frozenset())
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    modules = set(imported(nodes, package)) | {text for text in strings if DOTTED.fullmatch(text)}
    if not package:  # a cell or a test may hold a program as text
        modules |= {name for text in strings if "import" in text for name in DOTTED.findall(text)}
    patterns = {_pattern(node) for node in nodes if isinstance(node, ast.JoinedStr)}
    modules |= {match[0] + "*" for text in patterns if (match := FOLDER.match(text.replace("\\", "")))}
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


def _modules(name: str, bases: list[Path]) -> Iterator[Path]:
    """The files that ``import name`` executes: each folder's ``__init__`` on the way, then the module, if it is one."""
    for base in bases:
        place = base
        for part in name.split("."):
            if part == "*":
                yield from (*place.glob("*.py"), *place.glob("*/__init__.py"))
            place /= part
            if (place / "__init__.py").is_file():
                yield place / "__init__.py"
            else:
                if place.with_suffix(".py").is_file():
                    yield place.with_suffix(".py")
                break


def _listed(source: str, root: Path) -> Iterator[Path]:
    """A cell that goes through a folder of the package stands on each file in it."""
    if "iterdir(" in source or "glob(" in source:
        for name in DOTTED.findall(source):
            yield from (file for file in root.joinpath(*name.split(".")).glob("*.*") if file.is_file())


def _data(heard: list[Said], files: Iterable[Path]) -> Iterator[Path]:
    """The files other than modules whose names are said."""
    strings = {text.rsplit("/", 1)[-1] for one in heard for text in one.strings}
    patterns = {re.compile(text) for one in heard for text in one.patterns if r"\." in text}
    for file in files:
        if file.is_file() and file.suffix not in {".py", ".pyc"}:
            matches = (pattern.fullmatch(file.name) for pattern in patterns)
            if file.name in strings or any(match and strings.issuperset(match.groups()) for match in matches):
                yield file


def _pattern(node: ast.JoinedStr) -> str:
    """An f-string as a regular expression, each gap a group."""
    parts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else "(.+)" for part in node.values)
    return "".join(parts)
