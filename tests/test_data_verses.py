"""The embedded verses and plays are what their cards say; a user's own text takes the same form."""

import bz2
import re
from collections import Counter
from pathlib import Path

import pytest

from course_utils.data import verses
from course_utils.data.own_text import load_own_text
from course_utils.data.verses import CORPORA, SPLITS, load_corpus, split_of
from tools.make_verses import distinct, scenes, strange_to

EMBEDDED = Path(verses.__file__).parent / "embedded"


@pytest.fixture(scope="module", params=list(CORPORA))
def corpus(request):
    return request.param, load_corpus(request.param)


def test_the_card_states_counts_bytes_and_digest(corpus):
    name, texts = corpus
    card = (EMBEDDED / f"{name}.md").read_text(encoding="utf-8")
    counts = [len(part) for part in texts] + [sum(map(len, part)) for part in texts]
    for number in (*counts, sum(map(len, texts)), (EMBEDDED / f"{name}.jsonl.bz2").stat().st_size):
        assert f"{number:,}" in card
    assert CORPORA[name] in card
    assert (EMBEDDED / f"{name}.jsonl.bz2").stat().st_size < 1_500_000
    assert (EMBEDDED / f"{name}.LICENSE").exists()


def test_the_text_alone_says_its_split_and_its_place(corpus):
    for split, part in zip(SPLITS, corpus[1], strict=True):
        places = [split_of(text) for text in part]
        assert {where for where, _ in places} == {split}
        assert places == sorted(places)


@pytest.mark.slow
def test_no_held_out_text_is_nearly_one_to_train_on(corpus):
    name, texts = corpus
    width = 20 if name == "shakespeare" else 3
    held = [*texts.validation, *texts.test]
    if name == "shakespeare":  # the plays are long: a part of them shows it
        held = held[::8]
    assert distinct([*texts.train[:: 4 if name == "shakespeare" else 1], *held], width)[1] == []


@pytest.mark.slow
def test_no_octave_holds_a_held_out_quatrain():
    quatrains, octaves = load_corpus("tang"), load_corpus("octaves").train
    held = [*quatrains.validation, *quatrains.test]
    assert strange_to(held, octaves, 3) == octaves
    assert strange_to(held, [f"{octaves[0]}\n{held[0]}", octaves[1]], 3) == octaves[1:2]


def test_near_duplicates_are_found_whatever_their_order():
    poem = "床前看月光\n疑是地上霜\n舉頭望山月\n低頭思故鄉"
    other = "空山不見人\n但聞人語響\n返景入深林\n復照青苔上"
    changed = poem.replace("看", "明")
    kept, pairs = distinct([poem, other, changed], 3)
    assert kept == [poem, other]
    assert pairs == [(poem, changed)]


@pytest.mark.parametrize(("name", "number"), [("tang", 4), ("octaves", 8)])
def test_poems_have_lines_of_one_length(name, number):
    for text in (text for part in load_corpus(name) for text in part):
        lengths = [len(line) for line in text.split("\n")]
        assert lengths in ([5] * number, [7] * number)


def test_a_scene_is_directions_and_speeches():
    texts = load_corpus("shakespeare")
    kinds = Counter(
        "direction" if part.startswith("[") else "speech" if re.match(r"[^a-z\n]+\.\n\S", part) else part
        for text in texts.test
        for part in text.split("\n\n")
    )
    assert set(kinds) == {"direction", "speech"}
    assert kinds["speech"] > 4 * kinds["direction"]


PLAY = """THE PLAY

Persons
ANN.
a lady

ACT I.

SCENE I. A room.

[Enter Ann.]

Ann.
  Who's there?
Stand.

A new thought.

BEN. Nobody.

SCENE II.

CARL
Farewell
"""


def test_a_play_is_cut_into_scenes(monkeypatch):
    monkeypatch.setattr("tools.make_verses.read", lambda folder, archive: [("a/play_gut.txt", PLAY)])
    found = [scene for scene in scenes(Path()) if scene]
    assert found == [
        "[Enter Ann.]\n\nANN.\nWho's there?\nStand.\nA new thought.\n\nBEN.\nNobody.",
        "CARL.\nFarewell",
    ]


def test_another_file_than_the_one_made_is_refused(monkeypatch, tmp_path):
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "tang.jsonl.bz2").write_bytes(bz2.compress(b'{"split": "train", "text": "a"}\n'))
    monkeypatch.setattr("course_utils.data.verses.resources.files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=CORPORA["tang"]):
        load_corpus("tang")
    with pytest.raises(ValueError, match="tang, octaves, shakespeare"):
        load_corpus("song")


def write(folder, content):
    file = folder / "my.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


POEMS = [f"poem {number}\nhas two lines and some more words to it" for number in range(40)]


def test_own_paragraphs_are_documents_each_in_one_split(tmp_path):
    file = write(tmp_path, "\ufeff" + "\r\n\r\n".join(poem.replace("\n", "\r\n") for poem in [*POEMS, POEMS[0]]))
    texts = load_own_text(file)
    assert [len(part) for part in texts] == [36, 2, 2]
    assert sorted(text for part in texts for text in part) == sorted(POEMS)
    assert load_own_text(file) == texts
    assert load_own_text(file, seed=1) != texts


def test_own_lines_and_a_whole_file(tmp_path):
    file = write(tmp_path, "\n\n".join(POEMS))
    assert sum(map(len, load_own_text(file, "lines"))) == 41  # 40 first lines; the second ones are all the same
    whole = load_own_text(file, "whole")
    assert "".join(text for part in whole for text in part) == "\n\n".join(POEMS)
    assert len(whole.train[0]) == pytest.approx(0.9 * len("\n\n".join(POEMS)), abs=1)


@pytest.mark.parametrize(
    ("content", "cut", "told"),
    [
        (b"", "paragraphs", "0 characters"),
        ("short" * 100, "paragraphs", "500 characters"),
        ("one line\n" * 300, "paragraphs", "1 different paragraphs"),
        ("word " * 300 + "\0", "paragraphs", "NUL"),
        ("word " * 300 + "\x07", "paragraphs", r"U\+0007"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2000), "paragraphs", "line 3"),
    ],
)
def test_what_is_no_text_or_too_little_is_refused(tmp_path, content, cut, told):
    with pytest.raises(ValueError, match=told):
        load_own_text(write(tmp_path, content), cut)


def test_own_text_in_the_encoding_of_older_programs(tmp_path):
    lines = [f"床前明月光{chr(0x4E00 + n)}" for n in range(300)]
    found = load_own_text(write(tmp_path, "\n".join(lines).encode("gb18030")), "lines")
    assert sorted(text for part in found for text in part) == lines


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_own_text(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="folder"):
        load_own_text(tmp_path)
