"""The planner: its arithmetic is that of the package, plan by plan, and it answers to the keyboard."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.figures import planner
from course_utils.pipeline.simulator import bubble_overhead
from course_utils.pipeline.stages import stage_layers
from course_utils.plan.machines import A100, GPU, GPUS
from course_utils.plan.memory import MASTER_ADAM, MASTER_ADAM_GRADIENT_SUM
from course_utils.plan.plan import Plan
from course_utils.plan.planner import gpu_memory
from course_utils.plan.transformer import BLOOM, DECODERS, RECOMPUTE, step_flops, utilisation


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    start = {"model": "GPT-3", "gpu": "A100 80 GB", "states": MASTER_ADAM.name, "batch": 1536}
    with figure_page(browser, "planner", planner.answers() | {"start": start}) as page:
        yield page


def described(plan: Plan, gpu: GPU, busy: float) -> dict[str, Any]:
    fields = {
        name: getattr(plan, name) for name in Plan.__dataclass_fields__ if name not in ("model", "states", "lora")
    }
    states = asdict(plan.states) | {"unit": plan.states.unit}
    fields |= {"model": planner.described(plan.model), "states": states, "length": plan.tokens}
    return fields | {"gpu": asdict(gpu), "busy": busy}


def drawn(rng: random.Random) -> tuple[Plan, GPU, float]:
    """A plan that is possible: drawn until one is."""
    while True:
        model, data, micro_batch = rng.choice(DECODERS), rng.choice((1, 2, 8, 6)), rng.choice((1, 2, 3))
        expert = rng.choice((1, 1, 2, 8)) if model.experts else 1
        sizes = {"pipeline": rng.randint(1, 12), "tensor": rng.randint(1, 16), "context": rng.choice((1, 1, 2, 4))}
        with contextlib.suppress(ValueError):
            plan = Plan(
                model=model,
                batch=data * expert * micro_batch * rng.randint(1, 40),
                micro_batch=micro_batch,
                length=rng.choice((None, 512, 100_000)),
                states=rng.choice(planner.STATES),
                recompute=rng.choice(RECOMPUTE),
                kernel=rng.choice(("written_out", "fused")),
                dropout=rng.random() < 0.5,
                data=data,
                expert=expert,
                chunks=rng.choice((1, 1, 2)),
                sequence_parallel=rng.random() < 0.5,
                zero=rng.randint(0, 3),
                **sizes,
            )
            return plan, rng.choice(GPUS), rng.choice((0.3, 0.5, 0.65))


def test_the_arithmetic_is_that_of_the_package(page: Page) -> None:
    rng = random.Random(0)
    plans = [drawn(rng) for _ in range(300)]
    found = page.evaluate(
        """(plans) => plans.map(p => ({memory: gpuMemory(p), problem: planProblem(p), time: planTime(p),
            flops: stepFlops(p, p.recompute)}))""",
        [described(*one) for one in plans],
    )
    for (plan, gpu, busy), got in zip(plans, found, strict=True):
        assert got["problem"] == ""
        assert got["memory"] == pytest.approx(gpu_memory(plan)._asdict(), rel=1e-12)
        assert got["flops"] == pytest.approx(step_flops(plan.model, plan.batch, plan.recompute, plan.length), rel=1e-12)
        overhead = bubble_overhead(plan.pipeline, plan.micro_batches, plan.chunks)
        seconds = got["flops"] / (plan.gpus * gpu.peak * busy) * (1 + overhead)
        assert got["time"]["seconds"] == pytest.approx(seconds, rel=1e-12)
        needed = step_flops(plan.model, plan.batch, length=plan.length)
        assert got["time"]["mfu"] == pytest.approx(utilisation(needed, seconds, plan.gpus, gpu.peak), rel=1e-12)
        assert got["time"]["gpus"] == plan.gpus


def test_layers_are_divided_as_in_the_package(page: Page) -> None:
    sizes = [(layers, stages) for stages in range(1, 14) for layers in range(stages, 40)]
    assert page.evaluate("(s) => s.map(a => stageLayers(...a))", sizes) == [stage_layers(*size) for size in sizes]


@pytest.mark.parametrize(
    "change",
    [
        *({"tensor": 5}, {"pipeline": 71}, {"batch": 10, "data": 4}, {"batch": 1, "micro_batch": 2}, {"data": 0}),
        *({"context": 3}, {"expert": 2}, {"pipeline": 2, "chunks": 36}, {"pipeline": 3, "chunks": 2}, {"length": 0}),
    ],
)
def test_it_refuses_in_the_words_of_the_package(page: Page, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        Plan(**{"model": BLOOM, "batch": 64} | change)
    plan = described(Plan(model=BLOOM, batch=64), A100, 0.5) | change
    assert page.evaluate("(p) => planProblem(p)", plan) == str(raised.value)


def test_it_answers(page: Page) -> None:
    figure = page.locator(".course-interactive")
    value, note = figure.locator("output.value"), figure.locator("output.note")
    expect(value).to_contain_text("does not fit")
    assert figure.locator(".stack div").count() == 9  # eight parts and the limit

    for label, number in (("data", "8"), ("× pipeline", "12"), ("× tensor", "4"), ("micro-batch", "2")):
        figure.get_by_label(label, exact=True).fill(number)
    figure.get_by_role("combobox", name="model").select_option("BLOOM")
    figure.get_by_label("sequences a step").fill("2048")
    figure.get_by_role("combobox", name="precision").select_option(MASTER_ADAM_GRADIENT_SUM.name)
    figure.get_by_role("combobox", name="ZeRO").select_option("1")
    expect(value).to_contain_text("does not fit")
    figure.get_by_role("combobox", name="recompute").focus()
    page.keyboard.press("End")
    expect(value).to_have_text("43.7 GiB of 80.0 GiB: fits")
    expect(figure).to_contain_text("384 GPUs")
    before = figure.inner_text()
    figure.get_by_role("slider", name="busy").focus()
    page.keyboard.press("ArrowRight")
    assert figure.inner_text() != before

    figure.get_by_label("× tensor", exact=True).fill("5")
    expect(note).to_have_text("112 heads cannot be divided over 5 tensor-parallel ranks")
    figure.get_by_label("× tensor", exact=True).fill("")
    expect(note).to_have_text("give whole numbers of at least 1")
