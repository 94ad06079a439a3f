"""LoRA, DoRA and rsLoRA: the same logits and gradients as peft with the same weights; what must and must not move."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from twins import CLASSES, DEPTH, HIDDEN, IDS, LABELS, MASK, WIDTH, bert, check_leaves_the_base, logits, ours

from course_utils.models import ViT, ViTConfig
from course_utils.precision.nf4 import NF4Linear
from course_utils.tuning import LoRA, LowRank, count_parameters, inject, merge, one_page, tuned_layers, unload, unmerge
from course_utils.tuning.updated_product import is_plain, updated_product

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def vit() -> nn.Module:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = ViT(ViTConfig(image_size=16, patch_size=4, width=WIDTH, depth=2, heads=4, num_classes=CLASSES))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


# make a model; run it; what to tune; what else to train; numbers of a rank
Case = tuple[Callable[[], nn.Module], Callable[[Any], Tensor], list[str], str, int]
PER_RANK = DEPTH * (2 * 2 * WIDTH + WIDTH + HIDDEN) + 60 + WIDTH
CASES: dict[str, Case] = {
    "transformers": (
        bert, logits, ["query", "value", "word_embeddings", "intermediate.dense"], "classifier", PER_RANK,
    ),
    "ours": (ours, logits, ["q_proj", "v_proj", "word_embedding", "fc1"], "head", PER_RANK),
    "vit": (
        vit, lambda m: m(IMAGES.to(m.positions.dtype)), ["q_proj", "fc2"], "head",
        2 * (2 * WIDTH + 5 * WIDTH),
    ),
}  # fmt: skip
METHODS = {
    "lora": LoRA(rank=4, alpha=12),
    "rslora": LoRA(rank=4, alpha=12, rslora=True),
    "dora": LoRA(rank=4, alpha=12, dora=True),
}
cases = pytest.mark.parametrize("case", CASES)
methods = pytest.mark.parametrize("method", METHODS)


def both(case: Case, method: LoRA) -> tuple[nn.Module, Any]:
    """Our tuned model and peft's, on the same base, with the same random A, B, magnitudes and head."""
    make, _, targets, head, _ = case
    base = make()
    config = peft.LoraConfig(
        r=method.rank, lora_alpha=method.alpha, target_modules=targets, modules_to_save=[head],
        use_rslora=method.rslora, use_dora=method.dora, lora_dropout=method.dropout,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy.deepcopy(base), config).eval()
    ours = base
    inject(ours, method, targets, train=[head])
    with torch.no_grad():
        for path, layer in tuned_layers(ours):
            other: Any = theirs.get_submodule(f"base_model.model.{path}")
            mine: Any = layer.adapters["default"]
            if path == head:
                for parameter in other.modules_to_save["default"].parameters():
                    parameter.normal_()
                mine.copy.load_state_dict(other.modules_to_save["default"].state_dict())
                continue
            mine.A.normal_(std=0.3)
            mine.B.normal_(std=0.3)
            if "embedding" in path:
                other.lora_embedding_A["default"].copy_(mine.A)
                other.lora_embedding_B["default"].copy_(mine.B)
            else:
                other.lora_A["default"].weight.copy_(mine.A)
                other.lora_B["default"].weight.copy_(mine.B)
            if mine.magnitude is not None:
                mine.magnitude.mul_(torch.rand_like(mine.magnitude) + 0.5)
                m = other.lora_magnitude_vector["default"].weight
                m.copy_(mine.magnitude.view_as(m))
    return ours, theirs


def gradients(model: nn.Module, theirs: bool) -> dict[str, list[Tensor]]:
    """Of each tuned layer, the gradients in the order A, B, magnitude, or those of the head."""
    found = {}
    if not theirs:
        return {path: [p.grad for p in layer.adapters.parameters()] for path, layer in tuned_layers(model)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = name.removeprefix("base_model.model.").split(".lora_")[0].split(".modules_to_save")[0]
            found.setdefault(path, []).append(parameter.grad)
    return found


@methods
@cases
def test_logits_gradients_and_count_equal_peft(case: str, method: str) -> None:
    make, run, _, _, per_rank = CASES[case]
    ours, theirs = both(CASES[case], METHODS[method])
    assert (run(ours) - run(make())).abs().max() > 0.1
    torch.testing.assert_close(run(ours), run(theirs), rtol=1e-5, atol=1e-5)
    for model in (ours.double(), theirs.double()):  # in float32 the order of sums alone makes 2e-5
        F.cross_entropy(run(model), LABELS).backward()
    mine, others = gradients(ours, False), gradients(theirs, True)
    assert mine.keys() == others.keys()
    for path in mine:
        assert len(mine[path]) == len(others[path])
        for a, b in zip(mine[path], others[path], strict=True):
            assert b.abs().max() > 1e-5, path
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-9, atol=1e-9)
    trained = count_parameters(ours).trainable
    assert trained == theirs.get_nb_trainable_parameters()[0]
    assert METHODS[method].dora or trained == 4 * per_rank + (WIDTH + 1) * CLASSES


def test_scaling_is_alpha_over_rank_or_its_root() -> None:
    assert LoRA(rank=8, alpha=32).scaling == 4
    assert LoRA(rank=8, alpha=32, rslora=True).scaling == pytest.approx(32 / math.sqrt(8))
    layer = nn.Sequential(nn.Linear(6, 5))
    inject(layer, LoRA(rank=2, alpha=3), "0")
    adapter: Any = layer[0].adapters["default"]
    nn.init.normal_(adapter.B)
    x = torch.randn(7, 6)
    expected = x @ (layer[0].base.weight + 3 / 2 * adapter.B @ adapter.A).T + layer[0].base.bias
    torch.testing.assert_close(layer(x), expected)


def test_at_b_zero_only_b_moves_and_then_both() -> None:
    model = ours()
    inject(model, LoRA(rank=4), ["q_proj", "v_proj", "fc1"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    pairs = [layer.adapters["default"] for _, layer in tuned_layers(model)]
    for step in range(2):
        before = [(pair.A.clone(), pair.B.clone()) for pair in pairs]
        F.cross_entropy(logits(model), LABELS).backward()
        if step == 0:
            assert all((pair.A.grad == 0).all() for pair in pairs)
        optimizer.step()
        optimizer.zero_grad()
        for pair, (a, b) in zip(pairs, before, strict=True):
            assert torch.equal(pair.A, a) == (step == 0)
            assert not torch.equal(pair.B, b)


def test_an_embedding_moves_the_tokens_it_has_seen_and_no_other() -> None:
    model = nn.Sequential(nn.Embedding(10, 6, padding_idx=0))
    inject(model, LoRA(rank=2, alpha=2), "0")
    before = model(torch.arange(10))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    (model(torch.tensor([0, 3, 3, 7])) - 1).square().sum().backward()
    optimizer.step()
    moved = (model(torch.arange(10)) != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [3, 7]  # and not 0, the padding


def with_patches(case: str) -> list[str]:
    """What to tune, a ViT's patch embedding too: a subclass of Conv2d, which peft refuses."""
    return [*CASES[case][2], *(["patch_embedding"] if case == "vit" else [])]


@cases
@methods
def test_training_leaves_the_base_bit_for_bit(case: str, method: str) -> None:
    make, run, _, head, _ = CASES[case]
    check_leaves_the_base(make, run, METHODS[method], with_patches(case), head)


@methods
@cases
def test_merge_equals_the_adapter_and_unmerge_is_exact(case: str, method: str) -> None:
    make, run, _, head, _ = CASES[case]
    model = make()
    inject(model, METHODS[method], with_patches(case), train=head)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = run(model)
    merge(model)
    torch.testing.assert_close(run(model), tuned, rtol=1e-5, atol=2e-5)
    with pytest.raises(RuntimeError, match="unmerge"):
        run(model.train())
    model.eval()
    unmerge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(run(model), tuned)
    merge(model)
    unload(model)  # now an ordinary model of the base's class, with the tuning in its weights
    assert not tuned_layers(model)
    torch.testing.assert_close(run(model), tuned, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_with_stride_padding_dilation_and_groups(groups: int, dora: bool) -> None:
    conv = nn.Conv2d(4, 8, (3, 2), stride=2, padding=(1, 3), dilation=(2, 1), groups=groups, padding_mode="reflect")
    model, x = nn.Sequential(conv).eval(), torch.randn(2, 4, 11, 9)
    before = model(x)
    inject(model, LoRA(rank=3, alpha=5, dora=dora), "0")
    assert torch.equal(model(x), before)
    assert count_parameters(model).trainable == 3 * groups * (4 // groups * 6) + 8 * 3 + 8 * dora
    adapter: Any = model[0].adapters["default"]
    nn.init.normal_(adapter.B)
    tuned = model(x)
    assert (tuned - before).abs().max() > 0.1
    merge(model)
    torch.testing.assert_close(model(x), tuned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_convolution_equals_peft(dora: bool) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1)), torch.randn(2, 3, 9, 9)
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["0"], use_dora=dora)
    theirs: Any = peft.get_peft_model(copy.deepcopy(model), config)
    inject(model, LoRA(rank=4, alpha=12, dora=dora), "0")
    adapter, other = model[0].adapters["default"], theirs.base_model.model[0]
    with torch.no_grad():
        adapter.B.normal_()
        other.lora_A["default"].weight.copy_(adapter.A.view(4, 3, 3, 3))
        other.lora_B["default"].weight.copy_(adapter.B.view(8, 4, 1, 1))
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_dropout_is_pefts_in_training() -> None:
    case = (ours, logits, ["q_proj", "fc2"], "head", 0)
    mine, theirs = both(case, LoRA(rank=4, alpha=12, dropout=0.4))
    outputs = []
    for model in (mine.train(), theirs.train()):
        torch.manual_seed(5)
        outputs.append(logits(model))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs[0], logits(mine.eval()), atol=1e-3)


def test_a_bfloat16_base_gets_float32_adapters_and_trains_under_autocast() -> None:
    model = ours().to(torch.bfloat16)
    inject(model, LoRA(rank=4), ["q_proj", "word_embedding"])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model(IDS, MASK).dtype == torch.bfloat16
    model = ours()
    inject(model, LoRA(rank=4), ["q_proj", "fc1"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        F.cross_entropy(model(IDS, MASK).float(), LABELS).backward()
    assert all(layer.adapters["default"].B.grad.abs().max() > 0 for _, layer in tuned_layers(model))


def test_on_a_base_in_four_bits_it_equals_lora_on_the_rounded_weights() -> None:
    model, rounded = ours(), ours()
    names = {"q_proj", "v_proj", "fc1"}
    one_page.inject(model.encoder, names, NF4Linear)
    for path, layer in model.encoder.named_modules():
        if isinstance(layer, NF4Linear):
            rounded.encoder.get_submodule(path).weight.data.copy_(layer.weight)
    for each in (model, rounded):
        torch.manual_seed(0)
        inject(each, LoRA(rank=4), sorted(names), train="head")
        for _, layer in tuned_layers(each):
            if isinstance(layer.adapters["default"], LowRank):
                nn.init.normal_(layer.adapters["default"].B, std=0.3)
        F.cross_entropy(logits(each), LABELS).backward()
    torch.testing.assert_close(logits(model), logits(rounded), rtol=1e-5, atol=1e-5)
    trained = [[p.grad for p in each.parameters() if p.requires_grad] for each in (model, rounded)]
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"fc1 .* NF4Linear|q_proj .* NF4Linear"):
        merge(model)


@pytest.mark.parametrize(("field", "value"), [("rank", 0), ("rank", 2.0), ("alpha", 0), ("dropout", 1)])
def test_wrong_numbers_are_told(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} {value!r}"):
        LoRA(**{field: value})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (0, 6)])
def test_the_step_written_out_is_that_of_autograd(bias: bool, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=bias)).double()
    inject(model, LoRA(rank=3, alpha=5), "0")
    base, adapter = model[0].base, model[0].adapters["default"]
    nn.init.normal_(adapter.B)
    x = torch.randn(*shape, dtype=torch.double, requires_grad=True)
    slope = torch.randn(*shape[:-1], 4, dtype=torch.double)
    slope = slope.transpose(0, -1).contiguous().transpose(0, -1)  # as it may come: not in one piece
    assert is_plain(base, x, adapter.A)
    outputs = [LowRank.forward(adapter, base, x), updated_product(base, x, adapter.A, adapter.B, adapter.scaling)]
    outputs.append(model(x))
    grads = [torch.autograd.grad((out * slope).sum(), (x, adapter.A, adapter.B)) for out in outputs]
    for out, grad in zip(outputs[1:], grads[1:], strict=True):
        torch.testing.assert_close(out, outputs[0])
        torch.testing.assert_close(grad, grads[0])
    assert torch.equal(outputs[2], outputs[1])


def test_the_step_written_out_keeps_to_frozen_linear_layers_of_one_dtype() -> None:
    linear, x, a = nn.Linear(6, 4).requires_grad_(False), torch.randn(5, 6), torch.randn(2, 6)

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert is_plain(linear, x, a)
    for other in (Doubled(6, 4).requires_grad_(False), nn.Linear(6, 4), nn.Conv2d(3, 4, 1).requires_grad_(False)):
        assert not is_plain(other, x, a)
    assert not is_plain(linear.bfloat16(), x.bfloat16(), a)
    with torch.autocast("cpu"):
        assert not is_plain(linear.float(), x, a)


def test_a_weight_that_was_woken_again_gets_its_gradient() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(5, 6)
    inject(model, LoRA(rank=3), "0")
    model.requires_grad_()
    model(x).sum().backward()
    torch.testing.assert_close(model[0].base.weight.grad, x.sum(0).expand(4, 6))
    torch.testing.assert_close(model[0].base.bias.grad, torch.full((4,), 5.0))
