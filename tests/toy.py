"""A course in miniature, in a folder of its own: the real conftest and tools on notebooks made for a test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import sync

ROOT = Path(__file__).resolve().parent.parent


def notebook(
    *cells: str | NotebookNode, chapter: str = "toy", seconds: int = 30, memory_gb: float = 1.0
) -> NotebookNode:
    """A notebook of code cells (strings) or ready cells, with a budget."""
    course = {"chapter": chapter, "seconds": seconds, "memory_gb": memory_gb, "minutes_to_read": 5}
    course["licence"] = {"code": "MIT", "prose": "CC-BY-4.0"}
    nodes = [cell if isinstance(cell, NotebookNode) else new_code_cell(cell) for cell in cells]
    return new_notebook(cells=nodes, metadata={"kernelspec": dict(sync.KERNEL), "course": course})


def chapter_cells() -> list[NotebookNode]:
    """The three cells every chapter begins with, before `tools.sync` has written into them."""
    return [
        new_markdown_cell("# A toy\n\nTwo and two are four, and this chapter adds them up."),
        new_markdown_cell("**You will be able to** add.", metadata={"tags": ["card"]}),
        new_code_cell("", metadata={"tags": ["setup"]}),
    ]


class Course:
    """A copy of the checkout's machinery in `root`, with notebooks of its own and an empty package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chapters: list[dict[str, str]] = []
        shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("conftest.py", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, root / name)
        for folder in ("notebooks/solutions", "notebooks/exercises", "course_utils"):
            (root / folder).mkdir(parents=True)
        shutil.copy(ROOT / "notebooks" / "ruff.toml", root / "notebooks" / "ruff.toml")
        self._write_contents()

    def add(self, nb: NotebookNode, name: str = "toy.ipynb") -> Path:
        path = self.root / "notebooks" / name
        nbformat.write(nb, path)
        self.chapters.append({"file": f"notebooks/{path.stem}"})
        self._write_contents()
        return path

    def _write_contents(self) -> None:
        contents = {"parts": [{"caption": "Toys", "chapters": self.chapters}]}
        (self.root / "_toc.yml").write_text(yaml.safe_dump(contents))

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", *arguments]
        return self._run(command)

    def sync(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-m", "tools.sync", *arguments])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"}
        return subprocess.run(
            command, cwd=self.root, env=kept, capture_output=True, text=True, check=False, timeout=120
        )
