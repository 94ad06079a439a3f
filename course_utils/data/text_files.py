"""The text of a file as people have it: UTF-8 with or without a mark, UTF-16 and UTF-32, GB18030, any of them in gzip.

A file that is not UTF-8 is read all the same where its encoding is beyond doubt, and a warning says so. Where it is in
doubt, the file is refused: a wrong guess gives characters that look like a text and are none.
"""

from __future__ import annotations

import gzip
import logging
import re
import unicodedata
import zlib
from importlib.resources.abc import Traversable
from pathlib import Path

_MARKS = {  # the longer ones first: that of UTF-32 begins with that of UTF-16
    b"\xef\xbb\xbf": "UTF-8-SIG",
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_UNREADABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")  # controls, halves of pairs
_INVISIBLE = {"Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp"}  # categories of Unicode that show nothing by themselves
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"

log = logging.getLogger("course_utils.data")


def read_text(file: Traversable | Path) -> str:
    """The whole text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, damaged, or in an encoding that nothing tells. The message names the line.
    """
    content = file.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is a damaged gzip file ({error}): fetch it again") from None
    if content.startswith(b"PK\x03\x04"):
        raise ValueError(f"{file} is a zip archive or an Excel sheet: unzip it, or export the sheet as CSV in UTF-8")
    return decoded(content, str(file))


def decoded(content: bytes, where: str) -> str:
    """Bytes as text; ``where`` they come from begins what is said of them. Errors: those of :func:`read_text`."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return _as(encoding, content, where)
    if b"\0" in content:  # no text holds it in UTF-8
        for encoding in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"):
            text = content.decode(encoding, errors="ignore")
            if "\0" not in text and {'"', "\n"} & set(text):  # with bytes in the wrong order these are other characters
                return _as(encoding, content, where)
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise ValueError(f"{where}, line {line}: there are NUL bytes: the file is damaged or no text; fetch it again")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"{where}, line {line}: the byte {content[error.start]:#04x} is not UTF-8"
    sample = content.decode("utf-8", errors="replace")
    if (wrong := sample.count("\ufffd")) < sum(c > "\x7f" for c in sample) - wrong:
        raise ValueError(f"{found}, though the rest is: the line is damaged or comes from another file; write it anew")
    if _is_gb18030(content):
        return _as("GB18030", content, where)
    raise ValueError(
        f"{found}, and the file is not GB18030 either: it is of another encoding, damaged or no text; open it in an "
        "editor that names the encoding and save it as UTF-8, or fetch it again"
    )


def check_text(text: str) -> None:
    """Raise ``ValueError``, which says what and where, for a text in which there is something that no model can read.

    That is half of a surrogate pair, a control character other than white space, or nothing that can be seen.
    """
    if bad := _UNREADABLE.search(text):
        code = ord(bad[0])
        half = "half of a surrogate pair" if code >= 0xD800 else "a control character"
        mend = f"{half}: remove it, or write it anew"
        if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that it could not decode
            mend = f"the byte {code - 0xDC00:#04x}, which is not UTF-8: convert the text, for GBK with iconv -f GB18030"
        raise ValueError(f"holds U+{code:04X} as character {bad.start() + 1}, {mend}")
    if all(c in _BLANK_LETTERS or unicodedata.category(c) in _INVISIBLE for c in text):
        held = sorted({f"U+{ord(c):04X}" for c in text.strip()})
        raise ValueError(
            f"is empty{f' (only {shortened(chr(32).join(held))})' if held else ''}: write it, or remove the line"
        )


def shortened(text: str) -> str:
    """At most 40 characters of a text, for a message."""
    text = text.strip()
    return text if len(text) <= 40 else text[:39] + "…"


def _as(encoding: str, content: bytes, where: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{where}, line {line}: no {encoding}, though the file begins so: fetch it again") from None
    if encoding != "UTF-8-SIG":
        log.warning("%s is read as %s: other programs want UTF-8 (iconv -f %s -t UTF-8)", where, encoding, encoding)
    return text


def _is_gb18030(content: bytes) -> bool:
    """Whether the bytes are common Chinese characters in GBK. That they can be decoded says little: most bytes can."""
    try:
        characters = [c for c in content.decode("gb18030") if c > "\x7f"]
    except UnicodeDecodeError:
        return False
    # In GB 2312 the 3,755 characters that texts are made of begin with the bytes B0 to D7.
    common = sum(0xB0 <= c.encode("gb2312", "replace")[0] <= 0xD7 for c in characters)
    return common > len(characters) / 2
