"""Live memory against tensors whose bytes are known, and the meta device against real memory."""

from __future__ import annotations

import gc
import itertools

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from course_utils.measure import Ledger
from course_utils.measure.live import LiveMemory
from course_utils.models.encoder import Encoder, EncoderConfig


def test_tensors_count_from_birth_to_end() -> None:
    already = torch.zeros(10)  # 40 bytes
    with LiveMemory([already]) as live:
        assert live.now == 40
        a = torch.zeros(100)
        view, alias = a.view(10, 10), a.detach()  # the same memory
        assert live.now == 440
        b = a + 1
        assert (live.now, live.peak) == (840, 840)
        del b
        live.mark("freed")
        a.add_(1)  # in place: nothing new
        assert live.now == 440
        del a, view
        assert live.now == 440  # alias still holds it
        del alias
        assert live.now == 40
    assert live.peak == 840
    assert live.marks == [("freed", live.marks[0][1], 440)]
    assert max(live.trace) == 840


def test_an_inplace_operation_on_a_tensor_from_before_is_seen() -> None:
    before = torch.zeros(50)
    with LiveMemory() as live:
        before.add_(1)
    assert live.now == 200


def test_an_operation_that_resizes_a_tensor_is_seen() -> None:
    a = torch.ones(100)
    with LiveMemory([a]) as live:
        out = torch.empty(0)
        torch.add(a, a, out=out)
        assert live.now == 800
        out.resize_(1000)
        assert (live.now, live.peak) == (4400, 4400)
        del out
        assert live.now == 400


def test_the_peak_is_that_of_the_allocator() -> None:
    """torch's profiler is told of each allocation by the allocator itself, and knows nothing of tensors."""
    encoder, x = Encoder(EncoderConfig(width=64, heads=4, depth=2)), torch.randn(8, 16, 64)
    optimizer = torch.optim.AdamW(encoder.parameters())

    def step() -> None:
        encoder(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the moments are there
    moments = [t for state in optimizer.state.values() for t in state.values()]
    with LiveMemory([*encoder.parameters(), x, *moments]) as live:
        step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = list(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    assert live.peak == max(live.trace) == live.trace[0] + max(allocated)


def test_a_training_step_is_followed_through_forward_backward_and_optimizer() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    n = 4 * sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(128, 64)
    with LiveMemory([*model.parameters(), x]) as live:
        loss = model(x).square().mean()
        live.mark("forward")
        loss.backward()
        live.mark("backward")
        optimizer.step()
        live.mark("step")
        del loss
        optimizer.zero_grad()
        gc.collect()
        live.mark("zero")
    at = {name: size - x.nbytes for name, _, size in live.marks}
    hidden, output = 128 * 256 * 4, 128 * 64 * 4
    assert at["forward"] == n + 2 * hidden + output + 4  # both sides of GELU, the output that square() saves, the loss
    assert at["backward"] == 2 * n + 4
    steps = sum(4 for _ in model.parameters())  # Adam counts its steps for each parameter
    assert at["step"] == 4 * n + 4 + steps
    assert at["zero"] == 3 * n + steps
    assert live.peak - x.nbytes > at["forward"]


def test_meta_tensors_are_counted_as_real_ones() -> None:
    config = EncoderConfig(width=24, heads=3, depth=2, attention="written_out")
    counted = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            encoder = Encoder(config)
            x = torch.empty(5, 17, 24, requires_grad=True)
        with Ledger(encoder) as ledger:
            encoder(x)
        counted.append((ledger.saved_peak, len(ledger.saved_tensors)))
    assert counted[0] == counted[1]
