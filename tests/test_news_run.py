"""Runs: training moves what it should, the best epoch is kept, a resumed run is the run, two processes are one; scores;
predictions; and the commands from any directory."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from news_base import make_base, one_thread, options, small, write_titles  # noqa: F401

from course_utils.data.news import LABELS, load_titles
from course_utils.launch import launch
from course_utils.news import evaluate as scoring
from course_utils.news import predict as predicting
from course_utils.news import train as training
from course_utils.news.config import TACTICS, Config
from course_utils.news.data import encode
from course_utils.news.evaluate import evaluate, picture, report
from course_utils.news.model import build
from course_utils.news.optimizer import make_optimizer
from course_utils.news.predict import logits, open_run, predict
from course_utils.news.train import train
from course_utils.training import run as running
from course_utils.training.folder import BEST, CARD, HISTORY, LAST
from course_utils.training.task import RunResult


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("news")
    make_base(folder / "base")
    small(folder)
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> RunResult:
    """A run of many epochs, in which the titles are learned by heart: they choose the best epoch, too."""
    choices = {"epochs": 12, "patience": 12, "batch_size": 16, "lr": 3e-2, "rank": 16, "head_lr": 3e-2}
    return train(small(folder, validation=str(folder / "train.json"), output=str(folder / "done"), **choices))


def weights(result: RunResult, name: str = "best") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(result.folder / f"{name}.safetensors")
    return {key: tensor for key, tensor in tensors.items() if key.startswith("model")}


def without_time(result: RunResult) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if "second" not in key} for row in result.epochs]


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tactic", TACTICS)
def test_every_tactic_learns(folder: Path, tmp_path: Path, tactic: str) -> None:
    result = train(small(folder, tactic=tactic, output=str(tmp_path), epochs=3, batch_size=16))
    losses = [row["loss"] for row in result.epochs]
    assert losses[-1] < losses[0]
    assert result.folder == tmp_path / tactic
    assert {path.name for path in result.folder.iterdir()} == {BEST, LAST, HISTORY, CARD}


def test_the_first_loss_is_that_of_guessing(folder: Path) -> None:
    """ln 18 = 2.890: the head has 18 outputs, and begins small (E0-68)."""
    built = build(small(folder, tactic="head"))
    data = encode(load_titles("validation"), built.tokenizer, built.pad)
    scores = logits(built.model, data)
    assert abs(torch.nn.functional.cross_entropy(scores, data.labels).item() - math.log(18)) < 0.3


def test_one_title_and_a_batch_larger_than_the_set(folder: Path, tmp_path: Path) -> None:
    """E0-77: the original divides by zero when an epoch has one batch."""
    result = train(small(folder, output=str(tmp_path), batch_size=1000, accumulate=3))
    assert len(result.epochs) == 2


def test_the_best_epoch_is_kept_and_patience_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E0-78: the original keeps the last. Here epoch 2 of 0.3, 0.5, 0.5, 0.4 is the best; two epochs later it ends."""
    accuracies = iter([0.3, 0.5, 0.5, 0.4, 0.9])
    real = running.evaluate

    def pretended(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        return type(found)(found.loss, next(accuracies), found.samples)

    monkeypatch.setattr(running, "evaluate", pretended)
    result = train(small(folder, output=str(tmp_path), epochs=9, patience=2))
    assert (result.best_epoch, result.validation.accuracy, len(result.epochs)) == (2, 0.5, 4)
    assert json.loads((result.folder / "history.json").read_text())["epochs"] == result.epochs
    assert any(not torch.equal(a, weights(result, "last")[name]) for name, a in weights(result).items())


@pytest.mark.parametrize("tactic", ["lora", "p_tuning"])
def test_a_resumed_run_is_the_run(folder: Path, tmp_path: Path, tactic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: dict[str, Any] = {"tactic": tactic, "epochs": 3, "patience": 9, "batch_size": 20}  # four steps an epoch
    if tactic == "lora":
        choices["lora_dropout"] = 0.2
    whole = train(small(folder, output=str(tmp_path / "whole"), **choices))
    real, calls = running.train_step, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(running, "train_step", interrupted)
    first = train(small(folder, output=str(tmp_path / "parts"), **choices))
    assert (first.stopped, first.steps) == (True, 6)
    monkeypatch.setattr(running, "train_step", real)
    torch.rand(5)
    parts = train(small(folder, output=str(tmp_path / "parts"), resume=True, **choices))
    assert without_time(whole) == without_time(parts)
    for name in ("best", "last"):
        assert all(torch.equal(a, weights(parts, name)[key]) for key, a in weights(whole, name).items())


def test_two_processes_are_one(folder: Path, tmp_path: Path) -> None:
    """The same batches, shared; the same weights, up to the order in which gradients are added."""
    alone = train(small(folder, output=str(tmp_path / "one")))
    results = launch(train, 2, small(folder, output=str(tmp_path / "two"), processes=2))
    assert without_time(results[0]) == without_time(results[1])
    for ours, theirs in zip(without_time(alone), without_time(results[0]), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(results[0])[name], tensor, rtol=1e-4, atol=1e-5)
    assert alone.validation == results[0].validation


def all_of(configs: list[Config]) -> list[RunResult]:
    return [train(config) for config in configs]


def test_deepspeed_is_data_parallelism(folder: Path, tmp_path: Path) -> None:
    """Stages 1 and 2 in two processes: losses, weights and checkpoint of the course's own data parallelism."""
    choices: dict[str, Any] = {"processes": 2, "accumulate": 2, "batch_size": 16}
    stages = [{"strategy": "deepspeed", "zero_stage": stage} for stage in (1, 2)]
    ways = [{}, *stages]
    configs = [small(folder, output=str(tmp_path / str(i)), **choices, **way) for i, way in enumerate(ways)]
    ours, *theirs = launch(all_of, 2, configs, timeout=240)[0]
    for result in theirs:
        assert (result.trainable, result.total) == (ours.trainable, ours.total)
        for one, other in zip(without_time(ours), without_time(result), strict=True):
            del one["lr"]  # DeepSpeed keeps its own
            assert one == pytest.approx(other, abs=1e-4)
        for name, tensor in weights(ours, "last").items():
            torch.testing.assert_close(weights(result, "last")[name], tensor, rtol=1e-3, atol=1e-5)
        assert predict(open_run(result.folder)[1], ["补时绝平"])[0].label in LABELS


def test_groups_of_the_optimizer(folder: Path) -> None:
    """The head has its own rate; biases and norms do not decay; every parameter that trains is there once."""
    for tactic in ("full", "lora", "head"):
        config = small(folder, tactic=tactic, head_lr=0.5)
        built = build(config)
        groups = make_optimizer(built.model, config).param_groups
        rates = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["param_names"]}
        assert len(rates) == len(list(built.trained()))
        for name, (lr, decay) in rates.items():
            assert lr == (0.5 if ".head." in name else config.tactic_lr), name
            assert (decay == 0) == (name.endswith("bias") or "norm" in name or "embedding" in name), name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits(folder: Path, tmp_path: Path, precision: str) -> None:
    result = train(
        small(folder, output=str(tmp_path), precision=precision, schedule="cosine", accumulate=2, batch_size=8)
    )
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]
    train(
        small(
            folder,
            output=str(tmp_path),
            precision=precision,
            schedule="cosine",
            accumulate=2,
            batch_size=8,
            resume=True,
        )
    )


def test_what_a_rank_says_reaches_the_command_line(folder: Path, tmp_path: Path) -> None:
    """No traceback of a rank, only the sentence."""
    words = options(small(folder, output=str(tmp_path), base=str(tmp_path / "nowhere"), processes=2))
    with pytest.raises(SystemExit, match=r"^error: there is no file or directory '.*nowhere': give the path"):
        training.main(list(words))


def test_a_run_is_not_overwritten_by_accident(folder: Path, done: RunResult) -> None:
    again = {"output": str(done.folder.parent), "epochs": 1}
    with pytest.raises(ValueError, match=r"holds a run already: resume it \(--resume\), replace it \(--overwrite\)"):
        train(small(folder, **again))
    with pytest.raises(ValueError, match=r"is another run: .*epochs was 12 and is 1.*rank was 16 and is 8"):
        train(small(folder, resume=True, **again))
    with pytest.raises(FileNotFoundError, match=r"there is nothing to resume: no .*last"):
        train(small(folder, resume=True, output=str(folder / "nowhere")))


def test_faults_of_the_titles_are_passed_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(
        '{"tag": "体育", "title": "补时"}\n{"tag": "天气", "title": "晴"}\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"bad\.json, line 2: unknown tag '天气'"):
        train(small(folder, validation=str(tmp_path / "bad.json"), output=str(tmp_path)))
    with pytest.raises(ValueError, match=r"titles is 65, but .*train\.json holds 64 to train on: choose fewer"):
        train(small(folder, titles=65, output=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        train(small(folder, validation=str(tmp_path / "nowhere.json"), output=str(tmp_path)))


# ---- scores ------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    """Ten titles of three labels: 0 three times (two right), 1 six times (all right), 2 once (wrong, as 1)."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    answers = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    found = report(labels, answers)
    assert found.accuracy == 0.8
    assert found.majority == 0.6
    first, second = found.by_label[LABELS[0]], found.by_label[LABELS[1]]
    assert (first["precision"], first["recall"], first["titles"]) == (1.0, pytest.approx(2 / 3), 3)
    assert (second["precision"], second["recall"]) == (0.75, 1.0)
    assert found.macro_f1 == pytest.approx(
        (0.8 + 6 / 7 + 0) / 3
    )  # over labels that occur; accuracy would hide the third
    assert [found.confusion[i][:3] for i in range(3)] == [[2, 1, 0], [0, 6, 0], [0, 1, 0]]
    low, high = found.interval
    assert low < 0.8 < high <= 1.0
    assert report(labels, answers) == found
    assert f"{LABELS[0]}          1.000" in str(found)


def test_the_interval_is_as_wide_as_the_binomial_one() -> None:
    """360 titles, 90 % right: the normal approximation says 3.1 points either way (E0-71)."""
    labels = torch.zeros(360, dtype=torch.long)
    found = report(labels, (torch.arange(360) < 36).long())
    low, high = found.interval
    assert low == pytest.approx(0.9 - 0.031, abs=0.006)
    assert high == pytest.approx(0.9 + 0.031, abs=0.006)


@pytest.mark.parametrize("sizes", [(0, 0), (3, 2)])
def test_scores_of_nothing(sizes: tuple[int, int]) -> None:
    labels, answers = (torch.zeros(size, dtype=torch.long) for size in sizes)
    with pytest.raises(ValueError, match="give at least one title, and one answer for each"):
        report(labels, answers)


def test_scores_do_not_depend_on_the_batch_and_leave_the_mode(folder: Path, done: RunResult) -> None:
    _, built = open_run(done.folder)
    data = encode(load_titles("validation")[:50], built.tokenizer, built.pad)
    built.model.train()
    assert evaluate(built.model, data, 7) == evaluate(built.model, data, 50)
    assert built.model.training


def test_the_picture(tmp_path: Path) -> None:
    labels = torch.arange(18)
    picture(report(labels, labels.roll(1)), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"


# ---- predictions -------------------------------------------------------------------------------------------------


def test_predictions(folder: Path, done: RunResult) -> None:
    _, built = open_run(done.folder)
    titles = load_titles(str(folder / "train.json"))
    found = predict(built, [title.title for title in titles], top=17)  # so many labels stand in the file
    assert all(sum(each.probabilities) == pytest.approx(1) and len(set(each.labels)) == 17 for each in found)
    assert all(list(each.probabilities) == sorted(each.probabilities, reverse=True) for each in found)
    right = sum(each.label == title.tag for each, title in zip(found, titles, strict=True)) / len(titles)
    assert right > 0.5  # learned by heart: the labels are those of the titles, in their order
    assert [each.label for each in predict(built, [titles[5].title])] == [found[5].label]


@pytest.mark.parametrize(
    ("titles", "top", "words"),
    [
        ([], 1, "there is no title to label"),
        (["补时", "  "], 1, "title 2 is empty"),
        (["补时", "\u200b"], 1, r"title 2 is empty \(only U\+200B\)"),
        (["补时\ud83d"], 1, r"title 1 holds U\+D83D as character 3, half of"),
        (["补时".encode("gbk").decode("utf-8", "surrogateescape")], 1, "title 1 .* byte 0xb2, .* GB18030"),
        (["补时", None], 1, "title 2 is None"),
        ("补时绝平", 1, r"titles is the text '补时绝平': give a list of titles"),
        (["补时"], 0, "top is 0, expected 1 to 17"),
        (["补时"], 19, "top is 19, expected 1 to 17"),
    ],
)
def test_titles_that_cannot_be_labelled(done: RunResult, titles: Any, top: int, words: str) -> None:
    _, built = open_run(done.folder)
    with pytest.raises(ValueError, match=words):
        predict(built, titles, top)


# ---- commands ----------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], command: Any, *words: str) -> str:
    command(list(words))
    return capsys.readouterr().out


def test_the_three_commands(
    folder: Path, done: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(done.folder)
    scores = json.loads(said(capsys, scoring.main, run, "--data", str(folder / "valid.json"), "--json"))
    assert scores["titles"] == 20
    table = said(capsys, scoring.main, run, "--picture", str(tmp_path / "c.svg"))
    assert "macro-F1" in table
    assert "20 titles (valid.json)" in table  # the run's test titles, by default
    assert (tmp_path / "c.svg").read_text().lstrip().startswith("<?xml")

    (tmp_path / "titles.txt").write_text("补时绝平\n\n油价今晚下调\n", encoding="utf-8")
    lines = said(capsys, predicting.main, "--run", run, "--file", str(tmp_path / "titles.txt")).splitlines()
    assert [line.partition("\t")[2] for line in lines] == ["补时绝平", "油价今晚下调"]
    with (tmp_path / "titles.txt").open(encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert said(capsys, predicting.main, "--run", run).splitlines() == lines
    found = json.loads(said(capsys, predicting.main, "--run", run, "补时绝平", "--top", "3", "--json"))
    assert found["title"] == "补时绝平"
    assert next(iter(found["labels"])) == lines[0].split()[0]
    assert len(found["labels"]) == 3


@pytest.mark.parametrize(
    ("command", "words", "error"),
    [
        (training.main, ["--rank", "0"], "error: the options: rank is '0', expected greater than or equal to 1"),
        (training.main, ["--config", "nowhere.yaml"], "error: there is no configuration file nowhere.yaml"),
        (scoring.main, ["nowhere"], "error: there is no run nowhere: train one with"),
        (scoring.main, ["RUN", "--data", "nowhere.json"], "error: there is no file nowhere.json"),
        (predicting.main, ["--run", "nowhere", "补时"], "error: there is no run nowhere"),
        (predicting.main, ["--run", "RUN", "--file", "nowhere.txt"], "error: there is no file nowhere.txt"),
        (predicting.main, ["--run", "RUN", "--file", "BROKEN"], "broken.txt, line 1: the byte 0xff is not UTF-8"),
        (scoring.main, ["RUN", "--picture", "confusion.xyz"], "error: the picture confusion.xyz is of no kind"),
        (scoring.main, ["nowhere", "--picture", "nowhere/c.png"], "error: the picture nowhere/c.png cannot be written"),
        (
            predicting.main,
            ["--run", "RUN", "--file", "BROKEN", "补时"],
            "error: titles came as arguments and in --file",
        ),
        (predicting.main, ["--run", "RUN", "补时", "--top", "20"], "error: top is 20, expected 1 to 17"),
    ],
)
def test_the_commands_say_what_is_wrong(
    done: RunResult, tmp_path: Path, command: Any, words: list[str], error: str
) -> None:
    (tmp_path / "broken.txt").write_bytes(b"\xff\xff\xff\n")
    places = {"RUN": str(done.folder), "BROKEN": str(tmp_path / "broken.txt")}
    with pytest.raises(SystemExit) as caught:
        command([places.get(word, word) for word in words])
    assert error in str(caught.value)


def test_two_processes_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rank 0 alone speaks."""
    out = said(capsys, training.main, *options(small(folder, output=str(tmp_path), epochs=1, processes=2)))
    assert "2 process(es) on cpu" in out
    assert out.count("epoch 1:") == 1
    assert "best epoch 1, validation accuracy" in out
    assert "[rank 1]" not in out


def test_from_any_directory(folder: Path, tmp_path: Path) -> None:
    """In an empty folder and a process of its own."""
    command = [sys.executable, "-m", "course_utils.news.train", *options(small(folder, output="output", epochs=1))]
    trained = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert trained.returncode == 0, trained.stderr
    assert "Warning" not in trained.stderr
    assert "best epoch 1, validation accuracy" in trained.stdout
    assert (tmp_path / "output" / "lora" / "best.safetensors").exists()


def test_the_embedded_default(tmp_path: Path) -> None:
    """The encoder and the titles of the course: after one epoch of 400 titles the head is far above the majority."""
    few = write_titles(tmp_path / "few.json", "train", slice(0, 400))
    held = write_titles(tmp_path / "held.json", "validation", slice(0, 100))
    titles = {"train": str(few), "validation": str(held)}
    config = Config(tactic="head", head_lr=1e-2, epochs=1, batch_size=8, output=str(tmp_path), **titles)
    result = train(config)
    assert 0.25 < result.validation.accuracy < 0.9
    found, built = open_run(result.folder)
    assert found == config
    assert predict(built, ["女足世预赛提前两轮出线"])[0].label in LABELS
