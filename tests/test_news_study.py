"""The kept runs on news titles: what a line is made from, what it holds, and what is said when lines are missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from news_base import WIDTH, make_base, one_thread, small  # noqa: F401

from course_utils.data.news import load_titles
from course_utils.news import study
from course_utils.news.config import TACTICS, Config
from course_utils.news.evaluate import report
from course_utils.news.model import build, count


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("news")
    make_base(folder / "base")
    return small(folder, tactic="head", train="train", titles=32, epochs=1, batch_size=16, max_length=30)


def test_the_plan_is_what_the_chapter_says() -> None:
    plan = study.plan()
    keys = {name: [study.key(config) for config in configs] for name, configs in plan.items()}
    assert all(len(set(each)) == len(each) for each in keys.values())
    assert {(c.tactic, c.seed) for c in plan["compared"]} == {(t, s) for t in TACTICS for s in study.SEEDS}
    assert {c.titles for c in plan["compared"]} == {study.COMPARED}
    assert {c.titles for c in plan["curve"]} == set(study.EPOCHS) - {study.COMPARED}
    assert max(study.EPOCHS) == len(load_titles("train"))
    assert {c.base for c in plan["untrained"]} == {"untrained"}
    tried = list(zip(keys["rates"], plan["rates"], strict=True))
    for name, rates in study.RATES.items():  # the rate that is taken is one of those tried: no run is made twice
        of_tactic = [(each, config) for each, config in tried if config.tactic == name]
        assert len(of_tactic) == 2 * len(rates) + len(study.RATES_ON_ALL.get(name, ()))
        assert Config(tactic=name).tactic_lr in rates
    assert set(keys["heads"]) <= set(keys["compared"])
    assert {(c.tactic, c.seed) for c in plan["heads"]} == {
        (t, s) for t in TACTICS if t != "head" for s in study.SEEDS[:2]
    }
    assert set(study.RATES) == set(TACTICS)
    assert set(study.RATES_ON_ALL) == set(study.CURVE)


def test_the_key_is_of_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = Config(tactic="lora")
    same = [Config(tactic="lora", lr=lora.tactic_lr), Config(output="elsewhere"), Config(processes=2)]
    assert {study.key(each) for each in same} == {study.key(lora)}
    others = [{"seed": 1}, {"rank": 4}, {"titles": 100}, {"lr": 1e-4}, {"tactic": "full"}, {"base": "untrained"}]
    assert len({study.key(lora), *(study.key(Config.model_validate(each)) for each in others)}) == 7
    before = study.key(lora)
    monkeypatch.setattr(study, "titles_digest", lambda name: "a title was mended")
    assert study.key(lora) != before
    monkeypatch.undo()
    monkeypatch.setattr(study, "ENCODER_SHA256", "another encoder")
    assert study.key(lora) != before


def test_a_run_and_its_line(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command makes what is missing, keeps it, and does nothing a second time."""
    monkeypatch.setattr(
        study, "plan", lambda: {"rates": [], "heads": [], "compared": [tiny], "curve": [], "untrained": []}
    )
    file = tmp_path / "study.jsonl"
    study.main(["--file", str(file)])
    study.main(["--file", str(file)])
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["all 1 runs of the plan are there"] * 2
    assert len([line for line in said if line.startswith("head on 32 titles, seed 3")]) == 1
    row = study.rows(file)[study.key(tiny)]
    assert len(row.answers) == len(load_titles("test"))
    assert row.report() == report(study.labels_of_test(), row.guesses())
    assert (row.trainable, row.best_epoch) == (18 * WIDTH + 18, 1)
    assert row.file_bytes > 4 * row.trainable
    assert row.step_bytes > 4 * row.total
    assert 0 < row.validation < 1
    again = study.run(tiny)
    assert dataclasses.replace(again, cpu_seconds=row.cpu_seconds) == row


def test_a_run_that_chooses_never_sees_the_test(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_answers", lambda folder: pytest.fail("the test titles were answered"))
    assert study.run(tiny, answer=False).answers == ""


def test_full_fine_tuning_holds_gradients_and_moments_of_all(tiny: Config) -> None:
    configs = {name: tiny.model_copy(update={"tactic": name}) for name in ("full", "lora", "head")}
    total = count(build(configs["full"]).model)[1]
    sizes = {name: study.step_memory(config) for name, config in configs.items()}
    assert sizes["full"] > sizes["lora"] + 2 * 4 * total  # of gradients and two moments; activations peak earlier
    assert sizes["lora"] > sizes["head"] > 4 * total


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "rows", lambda: {})
    with pytest.raises(ValueError, match=r"27 of 27 runs of the part 'compared' .*python -m course_utils\.news\.study"):
        study.part("compared")
    monkeypatch.undo()
    for line in ("{", json.dumps({"key": "0"})):
        (tmp_path / "study.jsonl").write_text(line + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"study\.jsonl, line 1: .*: remove the line, and make it anew"):
            study.rows(tmp_path / "study.jsonl")


def test_the_file_is_in_step_with_the_plan() -> None:
    """Every line of the plan is there and no other; the rates that are taken are the best tried; a line agrees with
    what its configuration builds."""
    plan = study.plan()
    assert set(study.rows()) == {study.key(config) for configs in plan.values() for config in configs}
    assert study.best_rates() == {name: Config(tactic=name).tactic_lr for name in TACTICS}
    for name in ("compared", "curve", "untrained"):
        for config, row in zip(plan[name], study.part(name), strict=True):
            assert (row.tactic, row.titles, row.seed, row.base) == (
                config.tactic,
                config.titles,
                config.seed,
                config.base,
            )
            assert len(row.answers) == len(load_titles("test"))
            assert 1 <= row.best_epoch <= config.epochs
            assert row.validation * 241 == pytest.approx(round(row.validation * 241), abs=1e-3)
    for row in study.part("compared")[: len(TACTICS)]:
        assert (row.trainable, row.total) == count(build(Config(tactic=row.tactic)).model)
