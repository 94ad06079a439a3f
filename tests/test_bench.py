"""The benchmarks' one door: it interleaves, judges, prints JSON lines, and fails when a goal is missed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_utils.bench import __main__ as door
from course_utils.bench import decoder, vit
from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.models import ViTConfig

TINY = ViTConfig(image_size=(16, 24), patch_size=8, width=24, depth=2, heads=4, num_classes=5)


def test_compare_takes_medians_and_the_best_reference() -> None:
    wall = {"ours": [3.0, 1.0, 90.0], "slow": [5.0, 6.0, 7.0], "fast": [2.0, 4.0, 2.0]}
    cpu = {"ours": [1.0, 1.0, 8.0], "slow": [2.0, 2.0, 2.0], "fast": [9.0, 4.0, 4.0]}
    runs = {who: list(map(Run, wall[who], cpu[who])) for who in wall}
    result = compare("x", runs, 1.0, seed=3)
    assert (result.ours, result.reference, result.ratio, result.ok) == (3.0, 2.0, 1.5, False)
    line = json.loads(result.json())
    assert line["name"] == "x"
    assert {"ours", "reference", "ratio", "goal", "ok", "best_reference", "seed"} <= set(line)
    assert (line["best_reference"], line["ok"], line["repetitions"]) == ("fast", False, 3)
    assert line["cpu_ratio"] == 0.5  # medians 1 and 2
    assert Result("y", 2.0, 2.0, 1.0).ok  # a goal that is just met is met
    assert "missed" in str(result)


def test_interleave_takes_turns_and_leaves_warm_ups_out(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    runs = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 4, warm_ups=1, title="t")
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 15, 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca"]
    assert {name: len(own) for name, own in runs.items()} == {"a": 4, "b": 4, "c": 4}
    naps = interleave({"nap": lambda: time.sleep(0.05), "work": lambda: sum(range(10**6))}, 3)
    assert all(run.wall >= 0.05 > 5 * run.cpu for run in naps["nap"])
    assert all(run.cpu > 0 for run in naps["work"])
    assert capsys.readouterr().out == ""  # progress is for standard error: the output is JSON lines


@pytest.mark.parametrize("good", [True, False])
def test_door_prints_lines_and_returns_the_verdict(
    good: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(repetitions: int) -> Iterator[Result]:
        yield Result("first", 1.0 if good else 3.0, 2.0, 1.0, details={"repetitions": repetitions})
        yield Result("second", 1.0, 2.0, 1.0)

    monkeypatch.setattr(door, "find", lambda name: SimpleNamespace(run=run))
    assert door.main(["anything", "--json", "--repetitions", "9"]) == (0 if good else 1)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["name"], first["ok"], first["repetitions"], second["ok"]) == ("first", good, 9, True)
    assert door.main(["anything"]) == (0 if good else 1)
    assert capsys.readouterr().out.startswith("first ")


def test_door_says_what_it_wants_and_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, word in ((["bert"], "'bert'"), ([], "vit_small"), (["vit", "--repetitions", "3"], "at least 7")):
        assert door.main(arguments) == 2
        assert word in capsys.readouterr().err
    assert door.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(door.BENCHMARKS)
    modules = {path.stem for path in Path(door.__file__).parent.glob("*.py") if "\ndef run(" in path.read_text("utf8")}
    assert set(door.BENCHMARKS) == modules
    assert all(len(line.split()) > 5 for line in lines), "each says what it compares"


def test_vit_benchmark_runs_on_equal_models() -> None:
    before = torch.get_num_threads()
    try:
        results = vit.measure(TINY, threads=1, repetitions=2, name="tiny", goal=100.0)
    finally:
        torch.set_num_threads(before)
    assert [result.name for result in results] == ["tiny_forward_1_thread", "tiny_training_step_1_thread"]
    for result in results:
        assert result.ok
        assert set(result.details["medians"]) == {"ours", "timm", "transformers"}
        assert result.details["best_reference"] in ("timm", "transformers")


@pytest.mark.parametrize("spoil", ["head", "gradient"])
def test_vit_benchmark_refuses_to_compare_different_computations(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = vit.contestants

    def spoiled(config: ViTConfig) -> tuple[dict[str, nn.Module], dict[str, vit.Forward]]:
        models, forwards = honest(config)
        if spoil == "head":
            with torch.no_grad():
                models["ours"].head.bias[0] += 0.01
        else:
            models["ours"].encoder.requires_grad_(False)
        return models, forwards

    monkeypatch.setattr(vit, "contestants", spoiled)
    with pytest.raises(AssertionError, match="not the same computation"):
        vit.measure(TINY, threads=torch.get_num_threads(), repetitions=1, name="tiny", goal=1.0)


def test_decoder_benchmark_runs_on_equal_models() -> None:
    config = replace(
        decoder.CONFIG, vocab_size=50, width=32, depth=2, heads=4, head_width=8, mlp_width=48, max_length=9
    )
    results = decoder.measure(config, 1, False, 1, texts=2)
    assert [result.name for result in results] == ["decoder_forward_1_thread", "decoder_training_step_1_thread"]
    assert all(result.details["best_reference"] == "transformers" for result in results)
