"""The order of the book, which `_toc.yml` alone states: its chapters, and the number that each has by its place.

A chapter is named by its topic (`notebooks/pipeline_parallelism.ipynb`), and so are its exercises. Numbers are put in
when the book is built: into titles, into the headings of exercises, and behind links whose text is a chapter's title.
"""

import re
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def parts(root: Path = ROOT) -> list[tuple[list[str], list[Path]]]:
    """Of each part of the book: its pages (such as ``book/part_2_parallelism``), and its chapters in their order."""
    found = []
    for part in yaml.safe_load((root / "_toc.yml").read_text("utf8"))["parts"]:
        files = [entry["file"] for entry in part["chapters"]]
        chapters = [root / f"{file}.ipynb" for file in files if file.startswith("notebooks/")]
        found.append(([file for file in files if not file.startswith("notebooks/")], chapters))
    return found


CHAPTERS = [chapter for _, chapters in parts() for chapter in chapters]
SOLUTIONS = [path for path in (NOTEBOOKS / "solutions" / chapter.name for chapter in CHAPTERS) if path.is_file()]
NUMBERS = {chapter.stem: number for number, chapter in enumerate(CHAPTERS, start=1)}

# Addresses of the published book that were given away: a chapter's name then, and its name now. They lead on for ever.
MOVED = {
    "01_memory_and_time": "memory_and_time",
    "02_data_parallelism": "data_parallelism",
    "03_pipeline_parallelism": "pipeline_parallelism",
    "04_tensor_parallelism": "tensor_parallelism",
    "05_hybrid_parallelism": "hybrid_parallelism",
    "06_float_formats": "float_formats",
    "07_mixed_precision": "mixed_precision",
    "08_zero_from_scratch": "zero_from_scratch",
    "09_deepspeed_and_fsdp": "deepspeed_and_fsdp",
    "10_soft_prompts": "soft_prompts",
    "11_adapters_and_lora": "adapters_and_lora",
    "12_news_classification": "news_classification",
    "13_vit_from_scratch": "vit_from_scratch",
    "14_vit_fine_tuning": "vit_fine_tuning",
    "15_vit_ddp_training": "vit_ddp_training",
}


def title(chapter: Path) -> str:
    """The chapter's title as it stands in its first heading, without a number."""
    cells = nbformat.read(chapter, as_version=4).cells
    lines = (line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    if (heading := next((line for line in lines if line.startswith("# ")), None)) is None:
        raise ValueError(f"{chapter.name} has no title: begin its first cell with one, such as `# Data parallelism`")
    return str(heading.removeprefix("# "))


def with_numbers(nb: NotebookNode, name: str, titles: dict[str, str]) -> NotebookNode:
    """A copy of the chapter ``name``, or of its exercises, in which every chapter is named with its number.

    Args:
        titles: name of each chapter -> its title.
    """
    copy = nbformat.from_dict(nb)  # a deep copy
    number = NUMBERS[name]
    copy.cells[0].source = re.sub(r"^# ", f"# {number}. ", copy.cells[0].source)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"^(#+ Exercise )(?=\d)", rf"\g<1>{number}.", cell.source, flags=re.M)
            cell.source = with_numbered_links(cell.source, titles)
    return copy


def with_numbered_links(text: str, titles: dict[str, str]) -> str:
    """Markdown in which a link whose text is a chapter's title says the chapter's number too."""

    def numbered(link: re.Match[str]) -> str:
        said, address, name = link.groups()
        known = titles.get(name) == said
        return f"[{said}, chapter {NUMBERS[name]}]({address})" if known else link[0]

    return re.sub(r"\[([^\[\]]+)\]\(((?:\.\./notebooks/)?(\w+)\.ipynb)\)", numbered, text)
