"""Checkpoints in several files, and from the hub: tried against a local stand-in that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from news_base import make_base, one_thread  # noqa: F401

from course_utils.models import load_text
from course_utils.models.checkpoint_files import read_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base")


def resaved(base: Path, folder: Path, kind: str) -> Path:
    """The same model as one file or several, as safetensors or pickled tensors."""
    import transformers

    model = transformers.AutoModel.from_pretrained(base)
    if kind == "one":
        model.save_pretrained(folder)
    elif kind == "shards":
        model.save_pretrained(folder, max_shard_size="40KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    else:
        model.save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        state = model.state_dict()
        if kind == "bin":
            torch.save(state, folder / "pytorch_model.bin")
        else:
            parts = {"pytorch_model-1.bin": list(state)[::2], "pytorch_model-2.bin": list(state)[1::2]}
            for name, keys in parts.items():
                torch.save({key: state[key].clone() for key in keys}, folder / name)
            placed = {key: name for name, keys in parts.items() for key in keys}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (base / name).exists():
            (folder / name).write_bytes((base / name).read_bytes())
    return folder


KINDS = ("one", "shards", "bin", "several bins")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_one_whatever_files_it_lies_in(base: Path, tmp_path: Path, kind: str) -> None:
    folder = resaved(base, tmp_path / "model", kind)
    whole = load_text(base).state_dict()
    named = next(folder.glob("*.index.json"), None) or next(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")
    )
    for source in (folder, named):  # by itself, a file reads the config.json beside it
        found = load_text(source).state_dict()
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("lose a shard", FileNotFoundError, "names model-00002-of-.*, which is not beside it: download all"),
        ("lose a line", ValueError, "do not fit: .* is in none of its lines"),
        ("another line", ValueError, "do not fit: what.ever is missing"),
        ("elsewhere", ValueError, r"names the file '\.\./model\.safetensors', expected one of its own folder"),
        ("no map", ValueError, "says of no tensor where it lies"),
        ("no json", ValueError, "says of no tensor where it lies"),
    ],
)
def test_an_index_that_does_not_fit_its_files(
    base: Path, tmp_path: Path, change: str, error: type[Exception], words: str
) -> None:
    folder = resaved(base, tmp_path / "model", "shards")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    placed = content["weight_map"]
    if change == "lose a shard":
        next(folder.glob("model-00002*")).unlink()
    elif change == "lose a line":
        del placed[next(iter(placed))]
    elif change == "another line":
        placed["what.ever"] = next(iter(placed.values()))
    elif change == "elsewhere":
        placed[next(iter(placed))] = "../model.safetensors"
    elif change == "no map":
        content = {}
    index.write_text("{" if change == "no json" else json.dumps(content))
    with pytest.raises(error, match=words):
        load_text(folder)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch PWNED",)


def test_a_pickle_that_runs_code_is_refused_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds more than weights, .*take a \.safetensors file"):
        read_checkpoint(Path("pytorch_model.bin"))
    assert not Path("PWNED").exists()


# ---- the hub -----------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Files below ``root`` as ``/owner/model/resolve/main/file``; a name without an owner is redirected to the new one,
    as the hub does; anything else is not there."""

    root: Path
    moved: ClassVar = {"bert-base-chinese": "google-bert/bert-base-chinese"}

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        name, found, file = self.path.partition("?")[0].strip("/").partition("/resolve/main/")
        if not found:
            name = name.removeprefix("api/models/").partition("/")[0]
        if name in self.moved:
            self.reply(307, {"Location": self.path.replace(name, self.moved[name], 1)})
        elif not (self.root / name).is_dir():
            self.reply(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif not found or not (self.root / name / file).is_file():
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        else:
            content = (self.root / name / file).read_bytes()
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            more = {"ETag": etag, "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
            self.reply(200, more, content if body else b"")

    def reply(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def hub(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("hub")
    for name, kind in (("google-bert/bert-base-chinese", "one"), ("some/shards", "shards"), ("some/bin", "bin")):
        resaved(base, root / name, kind)
    resaved(base, root / "some/flax", "bin")
    (root / "some/flax/pytorch_model.bin").rename(root / "some/flax/flax_model.msgpack")
    handler = type("Handler", (Hub,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import sys
from course_utils.news.config import Config
from course_utils.news.model import build
for name in sys.argv[1:]:
    try:
        built = build(Config(base=name, max_length=24))
        print(built.base, built.tokenizer.get_vocab_size())
    except (ValueError, OSError) as error:
        print(f"error: {error}")
"""
NAMES = ("bert-base-chinese", "google-bert/bert-base-chinese", "some/shards", "some/bin")


def ask(hub: str, cache: Path, *names: str, **more: str) -> list[str]:
    """In a process of its own: where the hub is, its client asks the environment once, when it is imported."""
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    kept = {key: value for key, value in os.environ.items() if "OFFLINE" not in key and "proxy" not in key.lower()}
    command = [sys.executable, "-c", PROGRAM, *names]
    done = subprocess.run(
        command, env={**kept, **own, **more}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def answers(base: Path, hub: str, cache: Path) -> list[str]:
    return ask(hub, cache, str(base), *NAMES, "some/flax", "some/nothing", "bert/model.safetensors")


def test_a_name_on_the_hub_with_or_without_an_owner(answers: list[str]) -> None:
    here, *there = answers[: 1 + len(NAMES)]
    assert there == [here] * len(NAMES)


def test_what_was_fetched_is_found_without_a_network(answers: list[str], cache: Path) -> None:
    assert ask("http://127.0.0.1:9", cache, *NAMES, HF_HUB_OFFLINE="1") == answers[1 : 1 + len(NAMES)]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (-3, "'some/flax' has on the Hugging Face Hub none of model.safetensors"),
        (-2, "'some/nothing' is no local path and could not be fetched"),
        (-1, "there is no file or directory 'bert/model.safetensors'"),
    ],
)
def test_what_the_hub_has_not(answers: list[str], place: int, words: str) -> None:
    assert answers[place].startswith(f"error: {words}")
