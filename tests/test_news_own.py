"""Titles and labels of one's own: what is held out of a file, what is said of it, and the three commands."""

from __future__ import annotations

import io
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from news_base import make_base, one_thread, small  # noqa: F401

from course_utils.data.news import LABELS, load_titles
from course_utils.news import evaluate as scoring
from course_utils.news import predict as predicting
from course_utils.news import train as training
from course_utils.news.config import Config
from course_utils.news.evaluate import picture, report
from course_utils.news.predict import open_run, predict
from course_utils.news.titles import title_set
from course_utils.news.train import train
from course_utils.training import checkpoint

WORDS = {"good": "好 新 美", "bad": "老 旧 慢", "neutral": "天 地 人"}  # characters that the base has pieces for


def rows(count: int) -> list[tuple[str, str]]:
    """Sorted by label; a word in each text gives its label away."""
    per_label = count // 3
    return [
        (f"number {i} was {words.split()[i % 3]} {'so ' * (i % 4)}", label)
        for label, words in WORDS.items()
        for i in range(per_label)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    make_base(folder / "base")
    lines = ["review,stars", *(f"{text},{label}" for text, label in rows(300))]
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def own(folder: Path, **choices: Any) -> Config:
    given = {"train": str(folder / "reviews.csv"), "text_field": "review", "label_field": "stars", "epochs": 3}
    more = {"validation": "validation", "test": "test", "batch_size": 16, "lr": 1e-2, "head_lr": 3e-2}
    return small(folder, **{**given, **more, **choices})


def test_a_tenth_chooses_and_a_fifth_judges_of_each_label(folder: Path) -> None:
    found = title_set(own(folder))
    assert found.labels == ("bad", "good", "neutral")
    for part, each in ((found.train, 70), (found.validation, 10), (found.test, 20)):
        assert Counter(title.tag for title in part.titles) == dict.fromkeys(found.labels, each)
    texts = [{title.title for title in part.titles} for part in (found.train, found.validation, found.test)]
    assert len(set.union(*texts)) == 300
    assert title_set(own(folder, seed=9)) == found, "the run's seed moves no title"
    assert title_set(own(folder, split_seed=1)) != found


def test_embedded_titles_never_stand_in_for_those_of_a_file(folder: Path) -> None:
    embedded = {title.title for split in ("train", "validation", "test") for title in load_titles(split)}
    found = title_set(own(folder))
    assert not embedded & {title.title for part in (found.validation, found.test) for title in part.titles}
    with pytest.raises(ValueError, match=r"validation is 'test', a part of the embedded titles: give a file"):
        title_set(own(folder, validation="test"))
    assert title_set(Config()).labels == LABELS
    assert [len(part) for part in (title_set(Config()).validation, title_set(Config()).test)] == [241, 517]


def test_a_file_sorted_by_label_is_cut_by_label(folder: Path) -> None:
    found = title_set(own(folder, titles=60))
    assert Counter(title.tag for title in found.train.titles) == {"bad": 20, "good": 20, "neutral": 20}
    more = title_set(own(folder, titles=90))
    assert (more.validation, more.test) == (found.validation, found.test)
    with pytest.raises(ValueError, match=r"titles is 2, fewer than the 3 labels"):
        title_set(own(folder, titles=2))
    assert title_set(Config(titles=213)).train.titles == load_titles("train")[:213], "a fair sample already"


@pytest.fixture
def done(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> tuple[Path, list[str]]:
    caplog.set_level("INFO")
    result = train(own(folder, output=str(tmp_path)))
    assert result.folder is not None
    return result.folder, caplog.messages


def test_every_number_is_told_with_its_data(done: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, said = done
    (best,) = [line for line in said if line.startswith("best epoch")]
    assert "on 10% of reviews.csv, held out (30 titles" in best
    names = json.loads((folder / "history.json").read_text())["data"]
    facts = checkpoint.load(folder / "best.safetensors").extra["facts"]
    assert facts["labels"] == ["bad", "good", "neutral"]
    for part in ("train", "validation", "test"):
        assert names[part] == facts[f"{part} data"]
        assert any(names[part] in line for line in said)
        assert len(load_titles(folder / f"{part}.jsonl", None)) == int(re.findall(r"(\d+) titles", names[part])[0])
    scoring.main([str(folder)])
    assert "60 titles (the test part of reviews.csv)" in capsys.readouterr().out


def test_three_commands_from_an_empty_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (folder / "reviews.csv").read_text()
    Path("mine.csv").write_text(text.replace("review,stars", "text,label"))
    words = "--train mine.csv --max-length 24 --tactic full --epochs 6 --batch-size 16 --head-lr 1e-2 --lr 3e-3 --base"
    training.main([*words.split(), str(folder / "base")])
    scoring.main(["output/full", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["titles"] == 60
    assert found["accuracy"] > 0.9
    assert found["data"] == "the test part of mine.csv"
    assert list(found["by_label"]) == ["bad", "good", "neutral"]
    predicting.main(["number 3 was 好", "number 7 was 旧", "--top", "3", "--run", "output/full"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["good", "bad"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("number 9 was 好补\n".encode("gbk"))))
    predicting.main(["--run", "output/full"])
    assert capsys.readouterr().out.rstrip().endswith("number 9 was 好补")
    Path("mine.csv").unlink()
    scoring.main(["output/full", "--picture", "c.svg"])
    assert "60 titles (the test part of mine.csv)" in capsys.readouterr().out
    Path("output/full/test.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"error: the test titles of this run were held out of .*mine\.csv and are"):
        scoring.main(["output/full"])


def test_files_of_the_tutorials_kind_with_ten_of_the_labels_as_numbers(folder: Path, tmp_path: Path) -> None:
    """title<TAB>number, two files; the model has ten outputs, in the order of the numbers."""
    for name, split in (("train.txt", "train"), ("test.txt", "test")):
        ten = [title for title in load_titles(split) if title.label < 10]
        (tmp_path / name).write_text("".join(f"{title.title}\t{title.label + 5}\n" for title in ten), encoding="utf-8")
    config = small(
        folder, train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), validation="validation",
        tactic="head", output=str(tmp_path), epochs=1,
    )  # fmt: skip
    train(config)
    assert {path.name for path in (tmp_path / "head").glob("*.jsonl")} == {
        f"{p}.jsonl" for p in ("train", "validation", "test")
    }
    _, built = open_run(tmp_path / "head")
    assert built.labels == tuple(map(str, range(5, 15)))
    assert built.model.model.head.base.out_features == 10  # type: ignore[union-attr]
    assert predict(built, ["补时绝平"], top=10)[0].label in built.labels


def test_two_thousand_labels(folder: Path, tmp_path: Path) -> None:
    lines = [f"title {n} of the label {i}\tlabel-{i}\n" for i in range(2000) for n in range(4)]
    (tmp_path / "many.tsv").write_text("".join(lines), encoding="utf-8")
    found = title_set(small(folder, train=str(tmp_path / "many.tsv"), validation="validation", test="test"))
    assert len(found.labels) == 2000
    assert [len(part) for part in (found.train, found.validation, found.test)] == [5600, 800, 1600]
    assert {title.tag for title in found.train.titles} == set(found.labels)


@pytest.mark.parametrize(
    ("lines", "choices", "words"),
    [
        (["a\tx", "b\tx"], {}, "holds the label 'x' alone"),
        (["a\tx", "b\ty"], {}, "holds 2 titles, too few to hold 20% out for test"),
        ([f"t{i}\t{'xy'[i % 2]}" for i in range(4)], {"test": "FILE"}, "too few to hold 10% out for validation"),
    ],
)
def test_what_cannot_be_held_out(
    folder: Path, tmp_path: Path, lines: list[str], choices: dict[str, str], words: str
) -> None:
    (tmp_path / "few.txt").write_text("\n".join(lines), encoding="utf-8")
    given = {"validation": "validation", "test": "test"} | {key: str(tmp_path / "few.txt") for key in choices}
    with pytest.raises(ValueError, match=words):
        train(small(folder, train=str(tmp_path / "few.txt"), output=str(tmp_path / "run"), **given))
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_with_the_parts_is_said_before_the_first_step(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other.csv").write_text("review,stars\nnumber 1,awful\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.csv, line 2: unknown tag 'awful': write one of bad good neutral"):
        train(own(folder, test=str(tmp_path / "other.csv"), output=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.csv"):
        train(own(folder, test=str(tmp_path / "nowhere.csv"), output=str(tmp_path)))
    assert not (tmp_path / "lora").exists()
    title_set(own(folder, test=str(folder / "reviews.csv")))
    assert any("270 of the 300 titles of reviews.csv are also trained on" in line for line in caplog.messages)
    caplog.clear()
    text = (folder / "reviews.csv").read_text() + "one of its kind,excellent\n"
    (tmp_path / "slip.csv").write_text(text, encoding="utf-8")
    title_set(own(folder, train=str(tmp_path / "slip.csv")))
    assert any("fewer than 3 titles to train on (excellent)" in line for line in caplog.messages)


def test_other_titles_are_another_run(folder: Path, tmp_path: Path) -> None:
    text = (folder / "reviews.csv").read_text()
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    config = own(folder, train=str(tmp_path / "mine.csv"), output=str(tmp_path), epochs=1)
    train(config)
    (tmp_path / "mine.csv").write_text(text.replace("number 5 was", "number 5 is"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is another run: .*train data was 'the rest of mine\.csv"):
        train(config.model_copy(update={"resume": True}))


def test_a_report_of_own_labels(tmp_path: Path) -> None:
    import torch

    y = torch.tensor([0, 1, 1, 2])
    found = report(y, torch.tensor([0, 1, 2, 2]), names=("好评", "a much longer label", "x"), data="mine.csv")
    table = str(found).splitlines()
    assert {len(line) for line in table[1:4]} == {len(table[0]) - 2, len(table[0])}, "columns stand below each other"
    assert "4 titles (mine.csv)" in str(found)
    assert found.confusion == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    picture(found, tmp_path / "c.png")
    many = report(torch.arange(500), torch.arange(500), names=[str(i) for i in range(500)])
    picture(many, tmp_path / "many.png")
