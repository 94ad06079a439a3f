"""Tokenizers: back and forth without loss, the same merges and ids as the library's, and a file that keeps them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from course_utils.data.bpe import WORDS, BytePairs
from course_utils.data.tokenizer import Characters
from course_utils.data.tokenizer_files import from_content, load, save
from course_utils.data.verses import load_corpus

ENGLISH = "the cat sat on the mat, the hat is_on the cat's head; 12 cats  sat\n\nthat is that: 3.14"
CHINESE = "床前明月光\n疑是地上霜"


@pytest.fixture(scope="module")
def learned():
    return BytePairs.train([ENGLISH, CHINESE], 300)


def library(texts, size):
    """The same tokenizer, of ``tokenizers``."""
    made = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def as_pairs(merges, made):
    parts = (merge if isinstance(merge, list) else merge.split(" ") for merge in merges)
    return [tuple(map(made.token_to_id, pair)) for pair in parts]


@pytest.mark.parametrize(("name", "take", "size"), [("shakespeare", 30, 1200), ("tang", 300, 700)])
def test_merges_and_ids_are_the_librarys(name, take, size):
    texts = load_corpus(name)
    own, theirs = BytePairs.train(texts.train[:take], size), library(texts.train[:take], size - 1)
    assert own.vocab_size == size
    assert own.merges == as_pairs(json.loads(theirs.to_str())["model"]["merges"], theirs)
    for text in [*texts.test[:20], ENGLISH, CHINESE, "no\tsuch — 文 text…\r\n  "]:
        assert own.encode(text) == theirs.encode(text).ids


def test_learning_ends_where_no_pair_is_left():
    few = BytePairs.train(["aaaa", "b"], 1000)
    assert few.vocab_size == 256 + 2 + 1  # aa, then aaaa
    assert few.encode("aaaab") == [257, few.encode("b")[0]]
    with pytest.raises(ValueError, match="256 bytes"):
        BytePairs.train([ENGLISH], 256)


@given(st.text())
def test_any_text_comes_back_from_bytes(learned, text):
    text = text.encode(errors="replace").decode()  # halves of surrogate pairs are no text
    assert learned.decode(learned.encode(text)) == text


def test_characters_come_back_and_strangers_are_named():
    tokenizer = Characters("床前明月光\n")
    assert tokenizer.vocab_size == 7
    assert tokenizer.end == 6
    assert tokenizer.decode([*tokenizer.encode("明月\n光"), tokenizer.end]) == "明月\n光"
    with pytest.raises(ValueError, match=r"'霜'.*number 3"):
        tokenizer.encode("明月霜")
    with pytest.raises(ValueError, match="7 is no token"):
        tokenizer.decode([7])
    with pytest.raises(ValueError, match="single characters"):
        Characters(["ab", "c"])


def test_a_file_keeps_a_tokenizer(tmp_path, learned):
    for tokenizer, text in ((learned, ENGLISH), (Characters(CHINESE.replace("\n", "")), CHINESE[:5])):
        save(tokenizer, tmp_path / "tokenizer.json")
        again = load(tmp_path / "tokenizer.json")
        assert type(again) is type(tokenizer)
        assert again.encode(text) == tokenizer.encode(text)
        assert again.content() == tokenizer.content()


def test_a_file_that_holds_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")
    for content in ("", "[]", '{"kind": "words"}', '{"kind": "bpe"}', '{"kind": "bpe", "merges": [[1, 300]]}'):
        (tmp_path / "wrong.json").write_text(content)
        with pytest.raises(ValueError, match=r"wrong\.json"):
            load(tmp_path / "wrong.json")
    with pytest.raises(ValueError, match="None"):
        from_content({})
