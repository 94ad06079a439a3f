"""Builds the book: chapters are executed once (by the test run's machinery), then rendered with warnings as errors.

    python -m tools.book               # run the chapters that changed, then build _build/html
    python -m tools.book --no-execute  # build from the executed copies that are there

What is built is assembled in ``_build/src``: the book's own files, the executed chapters, and the pages that are made
from other things (coverage, corrections, the last run, one page of documentation for each folder of the package). The
site is swapped in only when all of it was built, so a failed build leaves the last good one in place.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import yaml

from course_utils.runtime import cores
from tools import contents, coverage, pages
from tools.api import api_pages
from tools.contents import CHAPTERS, ROOT
from tools.execution import executed, fresh

SOURCE = ROOT / "_build" / "src"
HTML = ROOT / "_build" / "html"
# The parts of MathJax that a page may ask for: TeX in, HTML out, its fonts, and what its context menu switches on.
MATHJAX = ("tex-chtml.js", "a11y", "input/tex", "output/chtml", "sre", "ui")
# The package has no __main__, and its command line no word for Sphinx's number of processes: this takes it first.
JUPYTER_BOOK = """
import sys
from functools import partial
from jupyter_book import sphinx
from jupyter_book.cli.main import main
sphinx.build_sphinx = partial(sphinx.build_sphinx, jobs=int(sys.argv.pop(1)))
main()
"""
# A page at an old address. It takes the section that the address may name along to the new one.
LEADS_ON = """<!doctype html>
<html lang="en"><title>This page has moved</title><link rel="icon" href="data:," />
<link rel="canonical" href="{new}" />
<meta http-equiv="refresh" content="1; url={new}" /><script>location.replace("{new}" + location.hash)</script>
<p>This page has moved: <a href="{new}">here it is</a>.</p></html>
"""
CHINESE_TERMS = "chinese_terms.txt"  # words that the search must not cut up
AT_ONCE = 2  # chapters that run at the same time: each may need 3 GB of memory


class BookError(Exception):
    """The book cannot be built; the message says what to do."""


def build(*, execute: bool = True) -> Path:
    """Runs the chapters that changed, assembles the sources, renders them; returns the site's folder.

    Raises:
        BookError: a chapter failed or was not run, or the build gave warnings.
    """
    if execute:
        run_chapters()
    assemble(SOURCE)
    return render(SOURCE)


def run_chapters() -> None:
    """Executes each chapter whose copy in ``_build/executed`` is out of date, as the tests do but with more patience.

    A slow machine gets its book too: whether chapters keep their budgets is for the tests to say.
    """
    stale = [str(chapter) for chapter in CHAPTERS if not fresh(chapter)]
    if not stale:
        return
    command = [sys.executable, "-m", "pytest", "--nbmake", *stale, "-q", "-p", "no:cacheprovider", "--patience", "4"]
    workers = ["-n", str(min(AT_ONCE, cores())), "--dist", "loadfile", "--no-loadscope-reorder"]
    if subprocess.run([*command, *workers], cwd=ROOT).returncode != 0:
        raise BookError("a chapter did not run through: mend what is reported above, then build again")


def assemble(target: Path) -> None:
    """Writes everything Jupyter Book reads into ``target``, which is emptied first."""
    missing = [chapter.name for chapter in CHAPTERS if not executed(chapter).is_file()]
    if missing:
        raise BookError(f"no executed copy of {', '.join(missing)}: leave out --no-execute, or run `pytest --nbmake`")
    for chapter in CHAPTERS:
        if not fresh(chapter):
            print(
                f"note: the executed copy of {chapter.name} is older than the chapter or the package", file=sys.stderr
            )

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "book", target / "book", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "_toc.yml", target)
    (target / "_config.yml").write_text(yaml.safe_dump(configuration(), allow_unicode=True, sort_keys=False), "utf8")
    titles = {chapter.stem: contents.title(chapter) for chapter in CHAPTERS}
    for chapter in CHAPTERS:
        exercises = contents.NOTEBOOKS / "exercises" / chapter.name  # stubs for the reader to fill in: shown, not run
        for source, copy in ((executed(chapter), Path("notebooks")), (exercises, Path("notebooks", "exercises"))):
            if source.is_file():
                (target / copy).mkdir(exist_ok=True)
                nb = contents.with_numbers(nbformat.read(source, as_version=4), chapter.stem, titles)
                nbformat.write(nb, target / copy / chapter.name)
    (target / CHINESE_TERMS).write_text("\n".join(pages.chinese_terms(ROOT / "book" / "glossary.md")) + "\n", "utf8")
    copy_mathjax(target / "book" / "_static" / "mathjax")
    for name, text in generated_pages().items():
        page = target / "book" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, "utf8")
    for page in (target / "book").glob("*.md"):
        page.write_text(contents.with_numbered_links(page.read_text("utf8"), titles), "utf8")


def configuration() -> dict[str, Any]:
    """_config.yml with the addresses that follow from the repository's, which only pyproject.toml states."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    url = repository_url()
    host, owner, name = url.removeprefix("https://").split("/")
    config["repository"]["url"] = url
    if host == "github.com":
        config["html"]["baseurl"] = f"https://{owner}.github.io/{name}/"
    config["sphinx"]["config"]["html_search_options"] = {"dict": str(SOURCE / CHINESE_TERMS)}
    return config


def repository_url() -> str:
    """Such as ``https://github.com/owner/name``, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    return str(project["urls"]["Repository"]).removesuffix(".git").rstrip("/")


def generated_pages() -> dict[str, str]:
    """The pages that are made from other things, wholly or in part: path below ``book/`` -> text."""
    claims, found, titles = coverage.load_claims(), coverage.places(CHAPTERS), coverage.chapter_titles(CHAPTERS)
    return {
        "coverage.md": coverage.coverage_page(claims, found, titles),
        "corrections.md": coverage.corrections_page(claims, found, titles),
        "last_run.md": pages.last_run_page([executed(chapter).with_suffix(".json") for chapter in CHAPTERS]),
        **pages.part_openers(ROOT),
        **{f"api/{name}.md": text for name, text in api_pages(ROOT / "course_utils").items()},
    }


def copy_mathjax(target: Path) -> None:
    """Copies what a page may ask of MathJax out of the installed package ``sphinx-mathjax-offline``."""
    package = importlib.metadata.distribution("sphinx-mathjax-offline")
    source = Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))
    for name in MATHJAX:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def render(source: Path) -> Path:
    """Runs Jupyter Book on assembled sources, every warning an error, and puts the site in ``_build/html``."""
    work = source.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", JUPYTER_BOOK, str(cores()), "build", str(source), "--path-output", str(work)]
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, "--all", "-W", "--keep-going", "-q"], cwd=ROOT, env={**os.environ, "PYTHONPATH": python_path}
    )
    if done.returncode != 0:
        raise BookError("the book was not built: each warning above is an error, named with its file and line")
    index = work / "_build" / "html" / "index.html"  # leads on to the first page
    # Without an icon of its own a browser asks for /favicon.ico, which is not there.
    index.write_text(f'<link rel="icon" href="_static/favicon.svg" />\n{index.read_text("utf8")}', "utf8")
    lead_on(index.parent)
    shutil.rmtree(HTML, ignore_errors=True)
    index.parent.rename(HTML)
    shutil.rmtree(work)
    return HTML


def lead_on(site: Path) -> None:
    """Writes a page at each old address of a chapter, and of its exercises, that leads to the new one."""
    for old, new in contents.MOVED.items():
        for folder in (site / "notebooks", site / "notebooks" / "exercises"):
            if (folder / f"{new}.html").is_file():
                (folder / f"{old}.html").write_text(LEADS_ON.format(new=f"{new}.html"), "utf8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.book", description="Build the book into _build/html.")
    parser.add_argument("--no-execute", action="store_true", help="take the executed chapters as they are")
    try:
        site = build(execute=not parser.parse_args().no_execute)
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the book is at {(site / 'index.html').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
