"""Our loss scaling against torch's, master weights, and FP8 products against the course's own formats."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.precision.formats import FP8_E4M3, FP8_E5M2
from course_utils.precision.scaling import (
    Float8Linear,
    LossScaler,
    MasterWeights,
    round_stochastically,
    round_to_float8,
    use_float8,
)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def test_scales_and_weights_equal_grad_scaler_step_by_step():
    ours, theirs = small_model(), small_model()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    scaler = LossScaler(growth_interval=3)
    reference = torch.amp.GradScaler("cpu", growth_interval=3)
    skipped = 0
    for step in range(20):
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
        x = x * float("inf") if step in (4, 11, 12) else x
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            if model is ours:
                scaler.scale_loss(loss).backward()
                finite = scaler.unscale(model.parameters())
                if finite:
                    optimizer.step()
                skipped += not finite
                scaler.update(finite)
            else:
                reference.scale(loss).backward()
                reference.step(optimizer)
                reference.update()
        assert scaler.scale == reference.get_scale()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert skipped == 3


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.0), (2.0**16, 1e-8)])
def test_scaling_brings_back_what_fp16_loses(scale, expected):
    model = nn.Linear(1, 1, bias=False).half()
    nn.init.ones_(model.weight)
    master = MasterWeights(model)
    scaler = LossScaler(scale)
    loss = model(torch.ones(1, 1).half()).float().sum() * 1e-8  # the FP16 product receives this 1e-8 as its gradient
    scaler.scale_loss(loss).backward()
    master.gradients_from_model()
    assert scaler.unscale(master.parameters)
    assert master.parameters[0].grad.item() == pytest.approx(expected, rel=1e-3)


def test_master_weights_learn_where_bf16_weights_do_not():
    torch.manual_seed(0)
    pure, mixed = (nn.Linear(1, 1, bias=False).to(torch.bfloat16) for _ in range(2))
    for layer in (pure, mixed):
        nn.init.ones_(layer.weight)
    master = MasterWeights(mixed)
    optimizers = torch.optim.SGD(pure.parameters(), lr=1e-4), torch.optim.SGD(master.parameters, lr=1e-4)
    for _ in range(1000):
        for layer in (pure, mixed):
            layer.weight.grad = torch.ones_like(layer.weight)
        master.gradients_from_model()
        assert mixed.weight.grad is None
        for optimizer in optimizers:
            optimizer.step()
        master.weights_to_model()
    assert pure.weight.item() == 1.0
    assert mixed.weight.item() == pytest.approx(0.9, abs=2**-9)
    assert master.parameters[0].item() == pytest.approx(0.9, abs=1e-4)


def bf16_run(folder, *, stop: int | None = None, resume: bool = False, masters: bool = True) -> list[torch.Tensor]:
    """Twenty steps of AdamW on a BF16 model; saved and left at `stop`, or taken up there, with the masters or not."""
    model = small_model().bfloat16()
    master = MasterWeights(model)
    optimizer = torch.optim.AdamW(master.parameters, lr=1e-3)
    if resume:
        saved = torch.load(folder / "run.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        master = MasterWeights(model)
        optimizer = torch.optim.AdamW(master.parameters, lr=1e-3)
        optimizer.load_state_dict(saved["optimizer"])
        if masters:
            master.load_state_dict(saved["masters"])
    for step in range(10 if resume else 0, 20 if stop is None else stop):
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(step)).bfloat16()
        model(x).float().square().mean().backward()
        master.gradients_from_model()
        optimizer.step()
        master.weights_to_model()
    run = {"model": model.state_dict(), "masters": master.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(run, folder / "run.pt")
    return [*master.parameters, *model.parameters()]


def test_a_resumed_run_goes_on_bit_for_bit_with_its_masters_and_not_without(tmp_path):
    whole = bf16_run(tmp_path)
    bf16_run(tmp_path, stop=10)
    assert all(map(torch.equal, bf16_run(tmp_path, resume=True), whole))
    bf16_run(tmp_path, stop=10)
    assert not all(map(torch.equal, bf16_run(tmp_path, resume=True, masters=False), whole))


def test_master_weights_of_another_model_are_refused_and_change_nothing():
    master, before = MasterWeights(small_model()), MasterWeights(small_model()).state_dict()
    for state, names in [
        ({**before, "0.weight": torch.zeros(2, 3)}, r"0\.weight is \[2, 3\] there, \[16, 8\] here"),
        ({"0.weight": before["0.weight"]}, r"0\.bias is absent there, \[16\] here; 2\.weight"),
        ({**before, "head.bias": torch.zeros(3)}, r"head\.bias is \[3\] there, absent here"),
    ]:
        with pytest.raises(ValueError, match=names):
            master.load_state_dict(state)
        assert all(map(torch.equal, master.state_dict().values(), before.values()))


@pytest.mark.parametrize(("dtype", "fmt"), [(torch.float8_e4m3fn, FP8_E4M3), (torch.float8_e5m2, FP8_E5M2)])
def test_float8_rounding_is_the_course_s_format_times_a_scale(dtype, fmt):
    x = torch.randn(33, 7, generator=torch.Generator().manual_seed(1)) * 1e-3
    scale = np.float32(x.abs().max().item()) / np.float32(fmt.max)
    expected = fmt.round((x.numpy() / scale).astype(np.float32)) * float(scale)
    np.testing.assert_allclose(round_to_float8(x, dtype).numpy(), expected, rtol=1e-6)
    assert torch.equal(round_to_float8(torch.zeros(3), dtype), torch.zeros(3))


def test_float8_layer_is_close_to_fp32_forward_and_backward_but_not_equal():
    layer = nn.Linear(64, 32)
    rounded = use_float8(copy.deepcopy(layer))
    assert type(rounded) is Float8Linear
    x = torch.randn(4, 10, 64)
    for model in (layer, rounded):
        model(x).square().sum().backward()

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return ((a - b).norm() / b.norm()).item()

    for ours, exact in [
        (rounded(x), layer(x)),
        (rounded.weight.grad, layer.weight.grad),
        (rounded.bias.grad, layer.bias.grad),
    ]:
        assert 1e-3 < distance(ours, exact) < 0.1


def test_use_float8_keeps_parameters_and_names_unknown_modules():
    model = small_model()
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    use_float8(model, skip=("2",))
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == before
    assert [type(m) for m in model] == [Float8Linear, nn.GELU, nn.Linear]
    with pytest.raises(ValueError, match=r"skip names \['head'\]"):
        use_float8(model, skip=("head",))


def test_stochastic_rounding_to_bf16_is_a_neighbour_and_right_on_average():
    x = torch.randn(50, generator=torch.Generator().manual_seed(2)) * 0.02
    generator = torch.Generator().manual_seed(3)
    n = 4000
    rounded = torch.stack([round_stochastically(x, generator) for _ in range(n)])  # [n, 50]
    assert rounded.dtype == torch.bfloat16
    low, high = rounded.double().amin(0), rounded.double().amax(0)
    assert torch.equal(torch.minimum(low, x.double()), low)
    assert torch.equal(torch.maximum(high, x.double()), high)
    gap = torch.from_numpy(np.exp2(np.floor(np.log2(np.abs(x.numpy()))) - 7).astype(np.float64))
    assert (high - low <= gap).all()
    assert ((rounded.double().mean(0) - x.double()).abs() <= 6 * 0.5 * gap / n**0.5).all()


def test_stochastic_rounding_keeps_what_bf16_holds_and_what_is_no_number():
    exact = torch.tensor([0.0, 1.0, -2.5, 2.0**-130, torch.inf, -torch.inf])
    assert torch.equal(round_stochastically(exact).float(), exact)
    assert round_stochastically(torch.tensor([torch.nan])).isnan().all()


def test_weights_rounded_at_random_learn_without_a_master_copy():
    weight = torch.ones(400, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        weight = round_stochastically(weight.float() - 1e-4, generator)
    assert weight.float().mean().item() == pytest.approx(0.9, abs=0.01)
