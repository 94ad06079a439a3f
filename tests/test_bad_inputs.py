"""What people type by mistake, over all commands: one sentence that names the mistake, exit code 1, nothing written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from news_base import make_base, one_thread, small  # noqa: F401
from PIL import Image

from course_utils.news import evaluate, export, predict
from course_utils.news import train as news
from course_utils.news.model import build
from course_utils.training import checkpoint
from course_utils.vision import export as vision_export
from course_utils.vision.fine_tune import predict as fine_tune_predict
from course_utils.vision.fine_tune import train as fine_tune
from course_utils.vision.from_scratch import predict as scratch_predict
from course_utils.vision.from_scratch import train as scratch

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "news": news.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "export": export.main,
    "tune": fine_tune.main,
    "scratch": scratch.main,
    "label tuned": fine_tune_predict.main,
    "label scratch": scratch_predict.main,
    "export images": vision_export.main,
}
GOOD = "".join(f"title {i}\t{label}\n" for i in range(60) for label in [("good", "bad")[i % 2]])
TITLES: dict[str, str | bytes] = {  # files of titles that are wrong, by their names
    "empty.csv": "",
    "blank.jsonl": "\n \n",
    "header.csv": "text,label\n",
    "one_column.csv": "text\na\nb\n",
    "no_names.csv": "x,y\na,1\n",
    "quote.csv": 'text,label\n"a,1\n',
    "wide.csv": "text,label\na,1,2\n",
    "twice.csv": "text,label,label\na,1,2\n",
    "no_text.csv": "text,label\n,1\n",
    "no_label.csv": "text,label\na,\n",
    "one_label.tsv": "a\tx\nb\tx\n",
    "few.tsv": "a\tx\nb\ty\n",
    "swapped.tsv": "".join(f"x{i % 2}\ttitle {i}\n" for i in range(20)),
    "looks.tsv": GOOD + "c\tｇood\n",
    "broken.json": '[{"text": "a", "label": "x"},',
    "nested.json": "[[1]]",
    "number.jsonl": '{"text": 3, "label": "x"}\n',
    "float.jsonl": '{"text": "a", "label": 1.5}\n',
    "null.jsonl": '{"text": null, "label": "x"}\n',
    "missing.jsonl": '{"body": "a", "label": "x"}\n',
    "double.jsonl": '{"text": "a", "text": "b", "label": "x"}\n',
    "surrogate.jsonl": '{"text": "\\ud83d half", "label": "x"}\n',
    "control.tsv": "a\x07b\tx\n",
    "bytes.txt": b"\xff\xff\xff\tx\n",
    "zeros.txt": bytes(1000),
    "sheet.xlsx": b"PK\x03\x04" + bytes(50),
    "cut.csv.gz": gzip.compress(GOOD.encode())[:-9],
    "mixed.txt": "好的标题不错\tx\n".encode() * 9 + "好\tx\n".encode("gbk"),
}
WRONG: list[tuple[str, str, str]] = [
    *[("news", f"--train {name}", name) for name in TITLES],
    *[("evaluate", f"RUN --data {name}", name) for name in ("empty.csv", "no_names.csv", "bytes.txt")],
    ("news", "--train nowhere.csv", "there is no file"),
    ("news", "--train FOLDER", "is a folder"),
    ("news", "--train good.tsv --test nowhere.csv", "there is no file"),
    ("news", "--train good.tsv --validation few.tsv", "unknown tag"),
    ("news", "--train good.tsv --validation test", "a part of the embedded titles"),
    ("news", "--train good.tsv --titles 1000", "titles is 1,000"),
    ("news", "--titles 100000", "titles is 100,000"),
    ("news", "--rank 100000 --max-length 24", "rank is 100000"),
    ("news", "--rank 0", "rank is '0'"),
    ("news", "--tactic prompt --length 600", "length is 600"),
    ("news", "--max-length 10000", "max_length is 10000"),
    ("news", "--lr nan", "lr is"),
    ("news", "--lr -1", "lr is"),
    ("news", "--lrr 1", "unknown key 'lrr'"),
    ("news", "--tactic lorra", "tactic is 'lorra'"),
    ("news", "--tactic head --rank 4", "rank is 4"),
    ("news", "--base nowhere/at/all", "no file or directory"),
    ("news", "--base model.safetensors", "no file or directory"),
    ("news", "--base FOLDER", "holds none of"),
    ("news", "--base good.tsv", "cannot be read"),
    ("news", "--base albert", "model_type 'albert'"),
    ("news", "--output good.tsv", "no run can be written"),
    ("news", "--output /proc/x", "no run can be written"),
    ("news", "--resume", "nothing to resume"),
    ("news", "--resume --overwrite", "choose one"),
    ("news", "--config nowhere.yaml", "no configuration file"),
    ("news", "--processes 3 --batch-size 32", "cannot be split over 3"),
    ("news", "--processes -1", "processes is"),
    ("evaluate", "nowhere", "there is no run"),
    ("evaluate", "good.tsv", "good.tsv"),
    ("evaluate", "RUN --data nowhere.csv", "there is no file"),
    ("evaluate", "RUN --data good.tsv", "unknown tag 'good'"),
    ("evaluate", "RUN --picture c.xyz", "of no kind"),
    ("evaluate", "RUN --picture no/c.png", "cannot be written"),
    ("predict", "--run nowhere x", "there is no run"),
    ("predict", "--run RUN --top 0 x", "top is 0"),
    ("predict", "--run RUN --top 99 x", "top is 99"),
    ("predict", "--run RUN --file nowhere.txt", "there is no file"),
    ("predict", "--run RUN --file bytes.txt", "not UTF-8"),
    ("predict", "--run RUN --file blank.jsonl", "no title to label"),
    ("predict", "--run RUN --base nowhere/at/all x", "no file or directory"),
    ("export", "nowhere --to out", "there is no run"),
    ("export", "RUN --to good.tsv/out", "good.tsv"),
    *[("tune", f"--data sets/{name}", name) for name in ("empty", "one", "broken", "text")],
    *[("scratch", f"--data sets/{name}", name) for name in ("empty", "one", "broken", "hollow")],
    ("scratch", "--data sets/nowhere", "there is no folder or file"),
    ("scratch", "--data sets/odd.npz", "odd.npz"),
    ("scratch", "--data sets/floats.npz", "float64"),
    ("scratch", "--data mnist", "there is no image set 'mnist'"),
    ("scratch", "--data digits --pixels 32", "for images of a path"),
    ("scratch", "--data cifar100", "needs data_dir"),
    ("scratch", "--data cifar10 --data-dir sets", "holds no folder"),
    ("scratch", "--data digits --limit 1000000", "limit is 1000000"),
    ("scratch", "--data digits --batch-size 100000", "make no batch"),
    ("scratch", "--preset giant", "preset is 'giant'"),
    ("scratch", "--data digits --output good.tsv", "no run can be written"),
    ("scratch", "--data digits --width 10 --heads 4", "width 10"),
    ("tune", "--data digits --per-class 100000", "fewer than 100000"),
    ("tune", "--base nowhere/at/all", "no file or directory"),
    ("tune", "--base albert", "albert"),
    ("tune", "--epochs 0", "epochs is '0'"),
    ("tune", "--tactic head --layer-decay 0.5", "layer_decay is 0.5"),
    ("tune", "--data digits --validation 1.5", "validation is '1.5'"),
    ("label tuned", "--run nowhere x.png", "there is no run"),
    ("label scratch", "--run nowhere x.png", "there is no run"),
    ("label scratch", "--run RUN x.png", "no run of this project"),
    ("export images", "nowhere --to out", "there is no run"),
    ("export images", "good.tsv --to out", "good.tsv"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that is wrong, and a run that is right."""
    place = tmp_path_factory.mktemp("wrong")
    for name, content in {**TITLES, "good.tsv": GOOD}.items():
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for folder in ("FOLDER", "albert", "sets/empty", "sets/one/cat", "sets/hollow/cat", "sets/hollow/dog"):
        (place / folder).mkdir(parents=True)
    make_base(place / "base")
    (place / "albert" / "config.json").write_text(json.dumps({"model_type": "albert"}))
    (place / "albert" / "model.safetensors").write_bytes((place / "base" / "model.safetensors").read_bytes())
    (place / "sets" / "text").write_text("no folder")
    Image.new("L", (16, 16)).save(place / "sets" / "one" / "cat" / "a.png")
    for name in ("cat", "dog"):
        (place / "sets" / "broken" / name).mkdir(parents=True)
        (place / "sets" / "broken" / name / "a.png").write_bytes(b"no picture")
    np.savez(place / "sets" / "odd.npz", z=np.zeros(3))
    np.savez(place / "sets" / "floats.npz", x=np.zeros((4, 8, 8)), y=np.arange(4))
    config = small(place)
    built = build(config)
    (place / "RUN").mkdir()
    more = {"config": config.model_dump(), "extra": {"facts": built.facts()}}
    checkpoint.save(place / "RUN" / "best.safetensors", model=built.trained(), **more)
    return place


@pytest.mark.parametrize(("command", "words", "named"), WRONG, ids=lambda value: value[:60])
def test_one_sentence_and_nothing_written(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: str,
    named: str,
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("the hub was asked"))
    before = sorted(place.rglob("*"))
    given = words.split()
    if command == "news" and "--base" not in given:
        given += ["--base", "base"]
    if command in ("news", "tune", "scratch") and "--processes" not in given:
        given += ["--processes", "1"]
    state = torch.get_rng_state()
    with pytest.raises(SystemExit) as caught:
        COMMANDS[command](given)
    sentence = str(caught.value)
    assert sentence.startswith("error: ")
    assert named in sentence
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert not any(word in sentence for word in ("Errno", "Traceback", "NoneType", "KeyError"))
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before
    torch.set_rng_state(state)


def test_there_are_as_many_as_were_promised() -> None:
    assert len({(command, words) for command, words, _ in WRONG}) == len(WRONG) >= 100
