"""What the interactive figures look up, against what it stands for: simulations, papers, counted models, real runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from course_utils.data.news import LABELS_ENGLISH
from course_utils.data_parallel import Move
from course_utils.data_parallel import ring_all_reduce as all_reduce
from course_utils.figures import (
    best_of,
    gradient_range,
    lora_costs,
    patch_grid,
    planner,
    prompt_costs,
    rank_grid,
    ring_all_reduce,
    schedule_area,
    tensor_shards,
    votes,
    zero_choice,
    zero_stages,
)
from course_utils.hybrid.cost import JEAN_ZAY, traffic
from course_utils.launch import launch
from course_utils.news.evaluate import report
from course_utils.plan.activations import kept_activations
from course_utils.plan.plan import Plan
from course_utils.plan.planner import rank_parameters
from course_utils.plan.transformer import BLOOM, DECODERS, GPT3, forward_flops
from course_utils.precision.formats import BF16, FP8_E4M3, FP8_E5M2, FP16, Format
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.model import build_model
from course_utils.vision.from_scratch.optimizer import make_optimizer
from course_utils.zero.choice import CHOICES, Machine, choose, states, step


def entry(table: dict[str, Any], **chosen: Any) -> Any:
    """An answer of a table by its fields, or the sentence that stands for it."""
    found = table["entries"]
    for name, values in table["arguments"].items():
        found = found[values.index(chosen[name])]
    return found if isinstance(found, str) else dict(zip(table["fields"], found, strict=True))


def test_the_largest_of_several_normals() -> None:
    known = [0, np.pi**-0.5, 1.5 * np.pi**-0.5]  # in closed form
    assert [best_of.largest_of_normals(k) for k in (1, 2, 3)] == pytest.approx(known, abs=1e-6)
    drawn = np.random.default_rng(0).standard_normal((40_000, 100))
    found = [best_of.largest_of_normals(k) for k in (20, 100)]
    assert found == pytest.approx([drawn[:, :20].max(1).mean(), drawn.max(1).mean()], abs=0.01)


@pytest.mark.parametrize(("images", "candidates", "accuracy"), [(2000, 20, 80), (100, 5, 60), (10_000, 100, 98)])
def test_the_best_of_several_is_as_flattering_as_in_a_simulation(images: int, candidates: int, accuracy: int) -> None:
    found = entry(best_of.answers()["flattery"], images=images, accuracy=accuracy)
    hits = 100 * np.random.default_rng(1).binomial(images, accuracy / 100, (20_000, candidates)) / images
    assert found["error"] == pytest.approx(hits.std(), rel=0.02)
    points = found["points"][best_of.CANDIDATES.index(candidates)]
    assert points == pytest.approx(hits.max(1).mean() - accuracy, abs=0.01 + 0.06 * found["error"])


@pytest.mark.parametrize("fmt", [FP16, BF16, FP8_E5M2, FP8_E4M3], ids=lambda f: f.name)
def test_limits_are_where_rounding_decides(fmt: Format) -> None:
    zero, normal, end = np.exp2(gradient_range.limits(fmt))
    below, above = (
        fmt.round(np.array([zero, end * (1 - 1e-12)])),
        fmt.round(np.array([zero * 1.001, end * (1 + 1e-12)])),
    )
    assert below.tolist() == [0, fmt.max]
    assert above[0] == fmt.smallest_subnormal
    assert not np.isfinite(above[1])
    assert normal == fmt.smallest_normal


def test_ways_to_tune_cost_what_is_published_of_them() -> None:
    assert [prompt_costs.parameters(m) for m in prompt_costs.MODELS.values()] == [102_281_490, 325_540_882]
    found = entry(prompt_costs.answers()["costs"], model="BERT base", length=10, tokens=20)
    head = 769 * 18
    numbers = {name: (trained - head, kept - head) for name, (trained, kept, _) in found.items()}
    assert numbers == {
        "full fine-tuning": (102_281_490 - head, 102_281_490 - head),
        "head alone": (0, 0),
        "prompt tuning": (7_680, 7_680),
        "P-tuning, MLP": (1_779_456, 7_680),
        "P-tuning, LSTM": (27_166_464, 7_680),
        "prefix, P-tuning v2": (184_320, 184_320),
        "prefix with MLP": (14_772_480, 184_320),
    }
    steps = {name: round(arithmetic, 2) for name, (_, _, arithmetic) in found.items()}
    assert (steps["full fine-tuning"], steps["head alone"]) == (1, 0.33)
    assert steps["prompt tuning"] == steps["P-tuning, LSTM"] == 1.01  # half as many tokens again, at two thirds
    assert steps["prefix, P-tuning v2"] == 0.66


def test_lora_costs_what_is_published_of_it() -> None:
    data, queries_keys_values = lora_costs.answers(), 0b000111
    chosen = {"model": "BERT base", "rank": 8, "tokens": 20, "matrices": queries_keys_values}
    assert entry(data["numbers"], **chosen) == {"added": 442_368, "trained": 456_210}
    step = entry(data["macs"], **chosen)
    assert step["step"] == 0.67 == round(step["forward"] + step["backward"], 2)  # full fine-tuning without its weights'
    assert entry(data["numbers"], **{**chosen, "matrices": 0}) == {"added": 0, "trained": 13_842}
    assert entry(data["macs"], **{**chosen, "matrices": 0})["step"] == 0.33
    more = [entry(data["macs"], **{**chosen, "rank": rank})["step"] for rank in lora_costs.RANKS]
    assert more == sorted(more)
    assert data["full"]["BERT base"] == 102_281_490


def test_vision_transformers_cost_what_is_published_of_them() -> None:
    table = patch_grid.answers()["costs"]
    base = entry(table, model="ViT-B", image=224, patch=16)
    assert (base["side"], base["tokens"], base["parameters"]) == (14, 197, 86_567_656)
    assert base["macs"] / 1e9 == pytest.approx(17.56, abs=0.005)
    assert base["scores"] == pytest.approx(4 * 12 * 12 * 197**2, rel=1e-5)
    assert sum(base["shares"]) == pytest.approx(100, abs=0.3)
    assert base["shares"][list(patch_grid.PARTS).index("mlp")] == pytest.approx(64, abs=1)
    large = entry(table, model="ViT-B", image=384, patch=16)
    assert (large["parameters"], round(large["macs"] / 1e9, 1)) == (86_859_496, 55.5)
    assert "resize or pad it to 84 or 98" in entry(table, model="ViT-B", image=96, patch=14)


def test_the_planner_is_told_models_by_the_parts_that_divide_them() -> None:
    """Put together again they are the model: its parameters, FLOPs and activations."""
    data = planner.answers()
    assert {model["name"] for model in data["models"]} >= {"Llama 3.1 8B", "DeepSeek-V3", "GPT-3"}
    assert {gpu["name"] for gpu in data["gpus"]} >= {"H200", "B200", "GB200"}
    for model, told in zip(DECODERS, data["models"], strict=True):
        found, flops, kept = told["rest"] + told["norm"] + model.vocab * model.width * (1 if model.tied else 2), 0, 0
        for layer, count in zip(told["kinds"], (told["dense"], told["layers"] - told["dense"]), strict=True):
            each = [layer["whole"][expert] + sum(n for _, n in layer["divided"][expert]) for expert in (0, 1)]
            found += count * (each[0] + told["experts"] * each[1])
            flops += count * (layer["flops"]["products"] + 100 * layer["flops"]["pairs"])
            kept += count * sum(n for origin, _, _, n in layer["kept"] if origin != "mask")
        assert found == told["parameters"] == model.parameters
        parts = forward_flops(model, length=100)
        assert 100 * flops == sum(parts.values()) - parts["head"]
        layers = [kept_activations(model, one, 1, 1, recompute="selective", dropout=False) for one, _ in model.kinds]
        counts = [count for _, count in model.kinds]
        assert 2 * kept == sum(count * one.total for count, one in zip(counts, layers, strict=True))


@pytest.mark.parametrize("sizes", [{"data": 8, "pipeline": 12, "tensor": 4}, {"data": 4, "tensor": 8}, {"pipeline": 7}])
def test_each_stage_of_any_axes_has_what_the_package_says(sizes: dict[str, int]) -> None:
    plans = [Plan(model=BLOOM, batch=2048, micro_batch=2, recompute="full"), Plan(model=GPT3, batch=1536)]
    data = rank_grid.answers(plans, JEAN_ZAY, **{axis: (1, 3, n) for axis, n in sizes.items()})
    assert [axis["name"] for axis in data["axes"]] == list(sizes)
    found = entry(data["sent"], model="BLOOM", **sizes)
    plan = Plan(model=BLOOM, batch=2048, micro_batch=2, recompute="full", **sizes)
    assert found["micro_batches"] == plan.micro_batches
    assert len(found["stages"]) == plan.pipeline
    for stage, row in enumerate(found["stages"]):
        layers, held, *sent = found["rows"][row]
        ends = {"first": stage == 0, "last": stage == plan.pipeline - 1}
        assert held * 1e9 == pytest.approx(rank_parameters(BLOOM, layers, tensor=plan.tensor, **ends), rel=1e-5)
        want = traffic(plan, stage)
        assert sent == pytest.approx([want[axis] / 1e9 for axis in sizes], rel=1e-5)
    assert sum(found["rows"][row][0] for row in found["stages"]) == BLOOM.layers


def test_a_grid_that_the_plan_refuses_has_its_sentence() -> None:
    data = rank_grid.answers([Plan(model=BLOOM, batch=64)], JEAN_ZAY, data=(1, 3), tensor=(1, 3))
    assert "112 heads" in entry(data["sent"], model="BLOOM", data=1, tensor=3)
    assert "a batch of 64" in entry(data["sent"], model="BLOOM", data=3, tensor=1)


@pytest.mark.parametrize("ranks", [2, 4, 5])
def test_the_ring_moves_as_the_real_one_does(ranks: int) -> None:
    def run() -> list[Move]:
        trace: list[Move] = []
        all_reduce(torch.ones(ranks), trace=trace)
        return trace

    real = {tuple(move[:5]) for trace in launch(run, ranks) for move in trace}
    half, steps = ranks - 1, ring_all_reduce.moves(ranks)
    assert len(steps) == 2 * half
    phases = [("reduce", step) for step in range(half)] + [("gather", step) for step in range(half)]
    assert {(*phase, *move) for phase, moves in zip(phases, steps, strict=True) for move in moves} == real


@pytest.mark.parametrize(
    "changes", [{}, {"ranks": 1, "per_rank": 128, "epochs": 1, "warmup": 0.05}, {"ranks": 32, "tied": False}]
)
def test_areas_are_those_of_a_run(changes: dict[str, Any]) -> None:
    chosen = {"ranks": 4, "per_rank": 32, "epochs": 5, "lr": 5e-4, "warmup": 0.1, "tied": True, **changes}
    data, batch = schedule_area.answers(), chosen["ranks"] * chosen["per_rank"]
    run, area = entry(data["runs"], **chosen), entry(data["areas"], **chosen)
    keys = {"lr_batch": data["lr_batch"] if chosen["tied"] else batch, "batch_size": batch}
    config = FromScratch.model_validate({**keys, **{name: chosen[name] for name in ("epochs", "lr", "warmup")}})
    steps = 50_000 // batch * chosen["epochs"]
    optimizer, scheduler = make_optimizer(config, build_model(config, (1, 8, 8), 10), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert (run["batch"], run["steps"], run["per_epoch"] * chosen["epochs"]) == (batch, steps, steps)
    assert rates.index(max(rates)) == run["rising"]
    assert area["peak"] == pytest.approx(max(rates), rel=1e-5)
    assert area["area"] == pytest.approx(sum(rates), rel=1e-5)
    shape = entry(data["shapes"], **chosen)["rates"]
    places = np.linspace(0, steps, len(shape))
    assert shape == pytest.approx(np.interp(places, range(steps + 1), [*rates, 0]) / max(rates), abs=0.03)


def test_layers_are_shared_as_in_the_papers() -> None:
    table = tensor_shards.answers()["layer"]
    h, s, a, b, t = 14_336, 2048, 112, 2, 4
    found = {mode: entry(table, model="BLOOM", ranks=t, sequences=b, mode=mode) for mode in tensor_shards.MODES}
    sbh = s * b * h
    kept = {  # Korthikanti et al. 2022, Table 2; with the two inputs of a rank's neighbours where they are kept
        "tensor": sbh * (10 + 24 / t + 5 * a * s / (h * t)),
        "kept": sbh * (34 + 5 * a * s / h) / t + 2 * 2 * sbh * (t - 1) / t,
        "again": sbh * (34 + 5 * a * s / h) / t,
    }
    for mode, each in found.items():
        assert each["held"] == pytest.approx(((12 * h * h + 7 * h) / t + 6 * h) / 1e6, rel=1e-5)
        assert each["whole"] == pytest.approx((12 * h * h + 13 * h) / 1e6, rel=1e-5)
        assert each["kept"] == pytest.approx(kept[mode] / 2**30, rel=1e-5)
        assert each["sent"] == pytest.approx((10 if mode == "again" else 8) * 2 * sbh * (t - 1) / t / 1e9, rel=1e-5)
        assert each["sent_by_all"] == pytest.approx(70 * each["sent"], rel=1e-5)
        assert each["products"] == pytest.approx(1e3 * 72 * sbh * h * (1 + s / (6 * h)) / t / (0.6 * 312e12), rel=1e-5)
    one_ring = 1e3 * 2 * (t - 1) * (5e-6 + 2 * sbh / t / 300e9)
    assert found["kept"]["messages"] == pytest.approx(4 * one_ring, rel=1e-5)
    assert found["again"]["messages"] == pytest.approx(5 * one_ring, rel=1e-5)
    assert "112 heads cannot be divided over 32" in entry(table, model="BLOOM", ranks=32, sequences=1, mode="tensor")


def test_votes_are_counted_as_the_report_counts() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 16, 90)  # labels 16 and 17 do not occur
    given = {name: np.where(rng.random(90) < 0.5, truth, rng.integers(0, 18, 90)) for name in "xyz"}
    data = votes.answers(torch.tensor(truth), {n: torch.tensor(g) for n, g in given.items()}, LABELS_ENGLISH)
    assert entry(data["votes"], ticked=0) == "choose at least one"
    for ticked, chosen in {0b001: "x", 0b011: "xy", 0b111: "xyz", 0b110: "yz"}.items():
        found, want = (
            entry(data["votes"], ticked=ticked),
            report(torch.tensor(truth), voted([given[n] for n in chosen])),
        )
        assert found["right"] / 90 == pytest.approx(want.accuracy)
        assert found["macro_f1"] == round(want.macro_f1, 3)
        assert found["f1"] == [round(100 * row["f1"]) for row in want.by_label.values()]
        assert found["same"] == sum(len(set(answers)) == 1 for answers in zip(*(given[n] for n in chosen), strict=True))
        mistakes = np.array(want.confusion)
        np.fill_diagonal(mistakes, 0)
        assert [times for _, _, times in found["mistakes"]] == sorted(mistakes.flatten())[:-4:-1]
        assert all(mistakes[label, answer] == times for label, answer, times in found["mistakes"])


def voted(ways: list[np.ndarray]) -> Tensor:
    """The commonest answer to each title; in a tie, that of the first way that gave one of the commonest."""
    chosen = []
    for answers in zip(*ways, strict=True):
        counts = Counter(answers)
        chosen.append(next(answer for answer in answers if counts[answer] == max(counts.values())))
    return torch.tensor(np.array(chosen))


def test_stages_hold_and_send_what_is_published_of_them() -> None:
    data, chosen = zero_stages.answers(), {"ranks": 64, "precision": "bf16", "micro_batches": 1}
    held = entry(data["held"], **chosen, offload=False)
    total = [7.5 * sum(kinds) for kinds in held["device"]]
    assert total == pytest.approx([120, 31.4, 16.6, 1.88], rel=0.01)  # GB for 7.5 billion parameters, as in the paper
    assert held["host"] == [0, 0, 0, 0]
    moved = entry(data["held"], **chosen, offload=True)
    both = [sum(device) + host for device, host in zip(moved["device"], moved["host"], strict=True)]
    assert both == pytest.approx([sum(kinds) for kinds in held["device"]])
    assert moved["host"][0] == 0 < moved["host"][1] < moved["host"][2]
    sent = entry(data["sent"], **chosen)["stages"]
    assert sent == pytest.approx([factor * 2 * 63 / 64 for factor in (2, 2, 2, 3)], rel=1e-5)
    assert entry(data["sent"], **{**chosen, "micro_batches": 8})["stages"][:2] == sent[:2]


def test_amounts_over_rates_are_the_seconds_of_each_choice() -> None:
    data, chosen = zero_choice.answers(), set()
    for machine in (
        Machine(7e10, 6.4e10, 1.5e14, 2e12, 1e11, 2.5e10, 2.5e10),
        Machine(2e10, 3e11, 5e13, 1e12, 3e9, 1e10, 5e10),
    ):
        for parameters, ranks, tokens in [(1.3e8, 1, 512), (7.5e9, 8, 8192), (1.75e11, 64, 512)]:
            for choice, row in zip(CHOICES, entry(data["amounts"], ranks=ranks)["rows"], strict=True):
                *held, operations, link, host_link, update, on_host = row
                assert [parameters * each for each in held] == pytest.approx(
                    states(choice, parameters, ranks), rel=1e-5
                )
                seconds = [operations * tokens / machine.flops, link / machine.link, host_link / machine.host_link]
                seconds.append(update / (machine.host if on_host else machine.device))
                want = step(choice, parameters, ranks, tokens, machine)
                assert [parameters * each for each in seconds] == pytest.approx(want, rel=1e-5)
            chosen.add(choose(parameters, ranks, tokens, machine))
    assert len(chosen) >= 3  # these models ask for different choices
    assert data["choices"] == [choice.name for choice in CHOICES]
