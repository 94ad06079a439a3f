"""Files in the encodings that people keep them in: read where nothing is in doubt, refused where something is."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from course_utils.data.text_files import read_text

TEXT = '{"tag": "体育", "title": "一球定胜负"}\n{"tag": "股票", "title": "半年线得而复失"}\n'
TRADITIONAL = (
    '{"tag": "體育", "title": "補時進球扳平比分，觀眾歡聲雷動"}\n{"tag": "股票", "title": "臺灣上市公司獲利創新高"}'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "titles.json"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_or_without_a_mark_and_nothing_is_said(
    file: Path, caplog: pytest.LogCaptureFixture, encoding: str, packed: bool
) -> None:
    content = TEXT.encode(encoding)
    file.write_bytes(gzip.compress(content) if packed else content)
    assert read_text(file) == TEXT
    assert not caplog.messages


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("text", [TEXT, "title,tag\n一二三四五,体育\n"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("gbk", "GB18030"),
        ("gb18030", "GB18030"),
        *((name, name) for name in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")),
    ],
)
def test_other_encodings_are_read_with_a_word_that_names_them(
    file: Path, caplog: pytest.LogCaptureFixture, encoding: str, said: str, text: str, packed: bool
) -> None:
    """The command in the word does mend it: it gives the very text."""
    content = text.encode(encoding)
    file.write_bytes(gzip.compress(content) if packed else content)
    assert read_text(file) == text
    (word,) = caplog.messages
    assert f"titles.json is read as {said}:" in word
    named = re.search(r"iconv -f (\S+) -t UTF-8", word)
    assert named is not None
    assert content.decode(named[1]) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("gbk") + b"\n\xff\xff\xff", ("line 1", "0xcc", "not GB18030 either")),
        (TRADITIONAL.encode("big5"), ("line 1", "0xc5", "not GB18030 either")),
        ('{"tag": "体育", "title": "世界新記録"}'.encode("shift-jis", "ignore"), ("not GB18030 either",)),
        ("Markets’ “quiet” day – it’s over".encode("cp1252"), ("0x92", "not GB18030 either")),
        (TEXT.encode() + b"\xe9\x97", ("line 3", "0xe9", "though the rest is")),
        ((TEXT * 9).encode() + TEXT.encode("gbk"), ("line 19", "0xcc", "though the rest is")),
        (b"\xff\xfe" + TEXT.encode("utf-16-le")[:-1], ("UTF-16", "fetch it again")),
        (gzip.compress(TEXT.encode())[:-9], ("damaged gzip",)),
        (b"\x1f\x8b\x08" + bytes(20), ("damaged gzip",)),
        (b"PK\x03\x04" + bytes(20), ("a zip archive or an Excel sheet",)),
        (TEXT.encode() + b"\n" + bytes(4096), ("line 4", "NUL bytes")),
    ],
)
def test_what_is_in_doubt_is_refused_with_the_line(file: Path, content: bytes, words: tuple[str, ...]) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
        read_text(file)
    assert all(word in str(caught.value) for word in words), str(caught.value)
