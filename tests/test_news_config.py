"""The configuration: files, command line and Python agree, every key is read, what is wrong is said in a sentence."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from course_utils.news import config as module
from course_utils.news.config import LEARNING_RATES, READ_BY, TACTICS, Config
from course_utils.training import settings


def test_no_argument_is_the_embedded_default() -> None:
    assert Config.from_command_line([], "") == Config.load() == Config()
    assert (Config().base, Config().train, Config().tactic, Config().library) == ("embedded", "train", "lora", "ours")


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().rank = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "tactic: lora\nrank: 4\nlr: 1e-3\ntargets: [q_proj, fc1]\nresume: yes\nclip: null\n"),
        (
            "run.json",
            '{"tactic": "lora", "rank": 4, "lr": 0.001, "targets": ["q_proj", "fc1"], "resume": true, "clip": null}',
        ),
    ],
)
def test_file_command_line_and_python_agree(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    wanted = Config(tactic="lora", rank=4, lr=1e-3, targets=("q_proj", "fc1"), resume=True, clip=None)
    assert Config.load(tmp_path / name) == wanted
    words = ["--rank", "4", "--lr", "1e-3", "--targets", "q_proj", "fc1", "--resume", "--clip", "none"]
    assert Config.from_command_line(words, "") == wanted
    assert Config.from_command_line(["--config", str(tmp_path / name), "--rank", "2", "--no-resume"], "").rank == 2
    assert Config.load(tmp_path / name, rank=2).rank == 2


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Config.from_command_line(["--help"], "")
    said = capsys.readouterr().out
    assert all(f"--{key.replace('_', '-')} " in said for key in Config.model_fields)


def test_every_key_is_read_somewhere_beyond_its_definition() -> None:
    """`config.key` stands in the project's code for each key (E0-58: five keys of the original were read by nobody)."""
    read: set[str] = set()
    for path in (*Path(module.__file__).parent.glob("*.py"), *Path(settings.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("config", "self", "self.config"):
                read.add(node.attr)
    assert set(Config.model_fields) <= read


def test_every_tactic_has_its_learning_rate() -> None:
    assert set(LEARNING_RATES) == set(TACTICS)
    assert {tactic for tactic, lr in LEARNING_RATES.items() if lr is None} == {"head"}
    assert Config(tactic="full").tactic_lr == LEARNING_RATES["full"]
    assert Config(tactic="full", lr=1.0).tactic_lr == 1.0
    assert Config(tactic="head").tactic_lr == Config(tactic="head").head_rate > Config(tactic="full").tactic_lr
    assert READ_BY.keys() <= Config.model_fields.keys()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tactik": "lora"}, "unknown key 'tactik': did you mean tactic or train?"),
    ({"xyz": 1}, "train, validation, test, titles"),
    ({"tactic": "finetuing"}, "tactic is 'finetuing', expected 'full', 'head', 'prompt'"),
    ({"tactic": "lora", "rank": 0}, "rank is 0, expected greater than or equal to 1 (of LoRA)"),
    ({"rank": "eight"}, "rank is 'eight', expected a valid integer"),
    ({"rank": 2.5}, "rank is 2.5, expected a valid integer"),
    ({"tactic": "head", "rank": 4}, "rank is 4, but tactic head does not read it: only lora do"),
    ({"tactic": "head", "lr": 1e-3}, "lr is 0.001, but tactic head does not read it: only full, prompt"),
    ({"tactic": "lora", "hidden": 64}, "hidden is 64, but tactic lora does not read it: only prefix, p_tuning do"),
    ({"lr": -1e-3}, "lr is -0.001, expected greater than 0 (learning rate of the tactic"),
    ({"lr": float("nan")}, "lr is nan, expected a finite number"),
    ({"precision": "fp8"}, "precision is 'fp8', expected 'auto', 'fp32', 'bf16' or 'fp16'"),
    ({"epochs": 0}, "epochs is 0, expected greater than or equal to 1"),
    ({"warmup": 1}, "warmup is 1, expected less than 1 (share of all steps"),
    ({"targets": []}, "targets is [], "),
    ({"library": "peft", "tactic": "adapter"}, "peft has nothing for tactic adapter: choose library ours"),
    ({"library": "adapters"}, "library is 'adapters', expected 'ours' or 'peft'"),
    ({"resume": True, "overwrite": True}, "resume goes on with the run that overwrite would remove: choose one"),
    ({"zero_stage": 1}, "zero_stage is 1, but strategy ddp does not read it"),
    ({"strategy": "deepspeed", "zero_stage": 3}, "zero_stage is 3, expected less than or equal to 2 (of DeepSpeed"),
    ({"strategy": "deepspeed", "resume": True}, "strategy deepspeed keeps no optimizer state to resume from: begin"),
    ({"strategy": "fsdp"}, "strategy is 'fsdp', expected 'ddp' or 'deepspeed'"),
    (
        {"titles": 0},
        "titles is 0, expected greater than or equal to 1 (train on so many alone, of each label its share)",
    ),
    ({"processes": 3}, "batch_size 32 cannot be split over 3 processes: choose a multiple, such as 33"),
    ({"max_length": 2}, "max_length is 2, expected greater than or equal to 3"),
    ({"pool": "max"}, "pool is 'max', expected 'own', 'cls' or 'mean'"),
]


@pytest.mark.parametrize(("choices", "words"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        Config.load(**choices)
    assert str(caught.value).startswith("the options: ")
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"epochs is 0.*; .*rank is 0"):
        Config.load(rank=0, epochs=0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.yaml", "tactic: [lora", "run.yaml is no YAML or JSON (while parsing a flow sequence"),
        ("run.json", '{"tactic": [lora}', "run.json is no YAML or JSON"),
        ("run.yaml", "", "lines such as tactic: lora"),
        ("run.yaml", "- lora", "run.yaml holds a list, expected keys with values"),
        ("run.yaml", "tactic: lora\nbatchsize: 8", "run.yaml: unknown key 'batchsize': did you mean batch_size"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)):
        Config.load(tmp_path / name)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no configuration file nowhere\.yaml: check the path"):
        Config.load("nowhere.yaml")
