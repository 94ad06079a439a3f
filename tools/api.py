"""The pages that document ``course_utils``: one for each folder of the package, made from its files and docstrings.

Which names a module defines is read from its source, without importing it; Sphinx's autodoc writes out the docstrings.
A name is public when it is defined in the module, has no leading underscore and has a docstring.
"""

from __future__ import annotations

import ast
from pathlib import Path


def api_pages(package: Path) -> dict[str, str]:
    """Name of the page -> its text: one for each of the package's own modules and one for each of its folders."""
    pages = {}
    for module in sorted(package.glob("*.py")):
        if module.stem != "__init__" and public_names(module):
            pages[module.stem] = _page(f"{package.name}.{module.stem}", [module])
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        modules = sorted(folder.rglob("*.py"), key=lambda path: (path.stem != "__init__", path))
        if any(public_names(module) for module in modules):
            pages[folder.name] = _page(f"{package.name}.{folder.name}", modules)
    return pages


def public_names(module: Path) -> list[str]:
    """The documented functions and classes that a file itself defines, in its order."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        node.name
        for node in ast.parse(module.read_text("utf8")).body
        if isinstance(node, definitions) and not node.name.startswith("_") and ast.get_docstring(node)
    ]


def _page(title: str, modules: list[Path]) -> str:
    lines = ["---", "generated: true", "---", "", f"# `{title}`", ""]
    for module in modules:
        parts = module.with_suffix("").parts
        name = ".".join(parts[len(parts) - parts[::-1].index("course_utils") - 1 :]).removesuffix(".__init__")
        if module.stem.startswith("_") and module.stem != "__init__":
            continue
        names = public_names(module)
        if name == title or names:
            lines += [] if name == title else [f"## `{name.removeprefix(title + '.')}`", ""]
            lines += ["```{eval-rst}", f".. automodule:: {name}"]
            lines += [f"   :members: {', '.join(names)}"] if names else []
            lines += ["```", ""]
    return "\n".join(lines)
