"""``python -m course_utils.plan``: what it prints is what the package says, and nonsense is refused in sentences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from course_utils.hybrid.clusters import CLUSTERS
from course_utils.hybrid.cost import memory, step_time
from course_utils.hybrid.layouts import rank
from course_utils.plan.__main__ import MODELS, main
from course_utils.plan.memory import MASTER_ADAM_FP32_GRADIENTS
from course_utils.plan.plan import Plan
from course_utils.plan.transformer import DEEPSEEK_V3, LLAMA_8B, LLAMA_70B, MIXTRAL

EIGHT = Plan(model=LLAMA_8B, batch=64, states=MASTER_ADAM_FP32_GRADIENTS, kernel="fused", dropout=False)


def test_a_layout_of_ones_own_is_printed_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model llama-3.1-8b --gpus 16 --batch-tokens 512k --data 4 --tensor 4 --recompute full --tokens 15T"
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    plan = Plan(
        model=LLAMA_8B, batch=64, data=4, tensor=4, recompute="full", zero=1, sequence_parallel=True, kernel="fused",
        dropout=False, states=MASTER_ADAM_FP32_GRADIENTS,
    )  # fmt: skip
    time = step_time(plan, CLUSTERS["h100"])
    days = 15e12 / (64 * 8192) * time.total / 86400
    for words in ("8.03 billion", "16 x H100", "data 4 x tensor 4", f"{memory(plan).total / 2**30:.2f} of 80"):
        assert words in said
    assert f"{time.total:.3f}" in said
    assert f"15,000 billion tokens in {days:,.1f} days" in said


def test_without_a_layout_the_fastest_that_fits_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "llama-3.1-8b", "--gpus", "8", "--batch-tokens", "512k", "--layouts", "3"]) == 0
    said = capsys.readouterr().out
    found = rank(EIGHT, CLUSTERS["h100"], 8)
    listed = [
        float(seconds) for seconds in re.findall(r"^ +([\d.]+) +[\d.]+  (?:data|context|pipeline|tensor)", said, re.M)
    ]
    assert listed == [round(one.time.total, 3) for one in found.possible[:3]] == sorted(listed)
    assert f"{len(found.possible)} of {found.tried} grids are possible; {found.excluded.total()} excluded" in said


def test_a_configuration_file_takes_the_place_of_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = transformers.LlamaConfig(
        hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=1024
    )
    config.save_pretrained(tmp_path)
    assert main(["--config", str(tmp_path / "config.json"), "--gpus", "1", "--batch-tokens", "64k"]) == 0
    assert "0.04 billion" in capsys.readouterr().out


def test_lora_in_four_bits_fits_where_full_training_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "llama-3.1-8b", "--gpus", "1", "--gpu", "rtx4090", "--batch-tokens", "32k", "--length", "2048"]
    assert main(words) == 2
    assert main([*words, "--lora", "16", "--base-bits", "4.127"]) == 0
    said = capsys.readouterr()
    assert "does not fit" in said.err
    assert "LoRA of rank 16" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model llama-3.1-405b --gpus 8", "does not fit"),
        ("--model llama-3.1-8b --gpus 8 --data 3", "3 x 1 x 1 x 1 x 1 = 3 ranks, but there are 8 GPUs"),
        ("--model llama-3.1-8b --gpus 8 --data 8 --batch-tokens 8k", "multiple of 8"),
        ("--model llama-3.1-8b --gpus 3 --tensor 3 --batch-tokens 8k", "32 heads"),
        ("--model llama-3.1-8b --gpus 1 --batch-tokens 100", "no whole sequence of 8,192"),
        ("--model llama-3.1-8b --gpus 1 --busy 2", "busy 2"),
        ("--model llama-3.1-8b --gpus 8 --gpu a100 --fp8", "no 8-bit floats"),
        ("--model llama-3.1-8b --gpus 1 --lora 8 --base-bits 99", "base-bits 99"),
        ("--config nowhere/config.json --gpus 1", "nowhere"),
        ("--model llama-3.1-8b --gpus 8 --expert 8", "no experts of Llama 3.1 8B"),
        ("--model mixtral-8x7b --gpus 1 --context 1", ""),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == (2 if said else 0)
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert not (said and printed.out)


NO_OPTIONS = [
    *("--gpus 8", "--model llama-3.1-8b", "--model gpt-9 --gpus 8", "--model bloom --config c --gpus 8"),
    *(f"--model bloom --gpus {count}" for count in ("none", "0", "-1", "1e400", "")),
    *(
        f"--model bloom --gpus 8 {word}"
        for word in ("--gpu abacus", "--zero 4", "--busy much", "--tokens -1", "--odd 3")
    ),
]


@pytest.mark.parametrize("words", NO_OPTIONS)
def test_what_is_no_option_ends_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert main(["--config", str(tmp_path), "--gpus", "1"]) == 2
    assert "mamba" in capsys.readouterr().err


def test_it_runs_as_a_module() -> None:
    command = [
        sys.executable,
        "-m",
        "course_utils.plan",
        "--model",
        "llama-3.2-1b",
        "--gpus",
        "1",
        "--batch-tokens",
        "8k",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1.24 billion" in done.stdout
    assert {"llama-3.1-70b", "qwen3-235b-a22b", "deepseek-v3", "mixtral-8x7b", "gpt-2-xl"} <= set(MODELS)


@pytest.mark.parametrize(
    ("model", "gpus"), [(LLAMA_70B, 64), (MIXTRAL, 32)], ids=lambda one: str(getattr(one, "name", one))
)
def test_layouts_fit_are_ordered_and_every_grid_is_accounted_for(model: Any, gpus: int) -> None:
    plan = Plan(model=model, batch=128, length=8192, states=MASTER_ADAM_FP32_GRADIENTS, kernel="fused", dropout=False)
    cluster = CLUSTERS["h100"]
    found = rank(plan, cluster, gpus, micro_batches=(1, 2))
    axes = 4 + (model.experts is not None)
    assert found.tried == {4: 84, 5: 126}[axes]  # ways to write 2^6, or 2^5, as a product of so many numbers
    assert [one.time.total for one in found.possible] == sorted(one.time.total for one in found.possible)
    for one in found.possible:
        assert memory(one.plan).total <= 0.9 * cluster.gpu.memory
        assert one.plan.gpus == gpus
        assert one.plan.context == 1 or one.plan.tokens / one.plan.context >= 4096
        assert one.plan.chunks == 1 or one.plan.zero <= 1
    assert any(reason.startswith("fewer than 4096 tokens") for reason in found.excluded)


def test_llama_405b_is_laid_out_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """8,192 H100: eight tensor ranks and sixteen stages (arXiv:2407.21783, Table 4), or a layout within 5 % of it."""
    from course_utils.plan.transformer import LLAMA_405B

    plan = Plan(model=LLAMA_405B, batch=2048, states=MASTER_ADAM_FP32_GRADIENTS, kernel="fused", dropout=False)
    found = rank(plan, CLUSTERS["h100"], 8192, micro_batches=(1,), recomputes=("none", "pointwise"))
    ran = next(one for one in found.possible if str(one.grid) == "64 x 16 x 1 x 8")
    assert ran.time.total < 1.15 * found.possible[0].time.total


def test_experts_of_a_huge_model_need_their_axis() -> None:
    plan = Plan(model=DEEPSEEK_V3, batch=4096, states=MASTER_ADAM_FP32_GRADIENTS, kernel="fused", dropout=False)
    choices = {"micro_batches": (1,), "recomputes": ("full",), "interleaved": (1,), "zeros": (1,)}
    found = rank(plan, CLUSTERS["h100"], 256, **choices)
    assert found.possible
    assert all(one.plan.expert * one.plan.pipeline * one.plan.tensor >= 64 for one in found.possible)
