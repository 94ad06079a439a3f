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
import transformers
from torch import Tensor, nn

from course_utils.models import ViT, ViTConfig
from course_utils.models.text import TextConfig, TextModel
from course_utils.tuning import LoRA, count_parameters, inject, merge, set_adapter, tuned_layers, unload, unmerge

CLASSES = 5
IDS = torch.randint(1, 60, (4, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(9) < torch.tensor([[9], [4], [7], [1]])
LABELS = torch.tensor([0, 3, 4, 1])
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return lively(transformers.BertForSequenceClassification(config))


def text() -> nn.Module:
    config = TextConfig(vocab_size=60, width=32, depth=2, heads=4, mlp_ratio=1.5, max_length=16, num_classes=CLASSES)
    return lively(TextModel(config))


def vit() -> nn.Module:
    config = ViTConfig(image_size=16, patch_size=4, width=32, depth=2, heads=4, num_classes=CLASSES)
    return lively(ViT(config))


# make a model; run it; what to tune; what else to train; factors of `rank` in the number of parameters
Case = tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor], list[str], str, int]
CASES: dict[str, Case] = {
    "transformers": (
        bert, lambda m: m(input_ids=IDS, attention_mask=MASK.long()).logits,
        ["query", "value", "word_embeddings", "intermediate.dense"], "classifier",
        2 * (2 * (32 + 32) + 32 + 48) + 60 + 32,
    ),
    "ours": (
        text, lambda m: m(IDS, MASK),
        ["q_proj", "v_proj", "word_embedding", "fc1"], "head",
        2 * (2 * (32 + 32) + 32 + 48) + 60 + 32,
    ),
    "vit": (
        vit, lambda m: m(IMAGES.to(m.positions.dtype)),
        ["q_proj", "fc2", "patch_embedding"], "head",
        2 * (32 + 32 + 128 + 32) + 48 + 32,
    ),
}  # fmt: skip
METHODS = {
    "lora": LoRA(rank=4, alpha=12),
    "rslora": LoRA(rank=4, alpha=12, rslora=True),
    "dora": LoRA(rank=4, alpha=12, dora=True),
}


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
            if "embedding" in path and "patch" not in path:
                other.lora_embedding_A["default"].copy_(mine.A)
                other.lora_embedding_B["default"].copy_(mine.B)
            else:
                a, b = other.lora_A["default"].weight, other.lora_B["default"].weight
                a.copy_(mine.A.view_as(a))
                b.copy_(mine.B.view_as(b))
            if mine.magnitude is not None:
                mine.magnitude.mul_(torch.rand_like(mine.magnitude) + 0.5)
                m = other.lora_magnitude_vector["default"].weight
                m.copy_(mine.magnitude.view_as(m))
    return ours, theirs


def gradients(model: nn.Module, theirs: bool, head: str) -> dict[str, list[Tensor]]:
    """Of each tuned layer, the gradients in the order A, B, magnitude, or those of the head."""
    found = {}
    if not theirs:
        return {path: [p.grad for p in layer.adapters.parameters()] for path, layer in tuned_layers(model)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = name.removeprefix("base_model.model.").split(".lora_")[0].split(".modules_to_save")[0]
            found.setdefault(path, []).append(parameter.grad)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_and_count_equal_peft(case: str, method: str) -> None:
    make, run, targets, head, per_rank = CASES[case]
    targets = [t for t in targets if t != "patch_embedding"]  # peft refuses a subclass of Conv2d
    case_: Case = (make, run, targets, head, per_rank)
    ours, theirs = both(case_, METHODS[method])
    bare = run(CASES[case][0]())
    assert (run(ours) - bare).abs().max() > 0.1
    torch.testing.assert_close(run(ours), run(theirs), rtol=1e-5, atol=1e-5)
    for model in (ours.double(), theirs.double()):  # in float32 the order of sums alone makes 2e-5
        F.cross_entropy(run(model), LABELS).backward()
    mine, others = gradients(ours, False, head), gradients(theirs, True, head)
    assert mine.keys() == others.keys()
    for path in mine:
        assert len(mine[path]) == len(others[path])
        for a, b in zip(mine[path], others[path], strict=True):
            assert b.abs().max() > 1e-4, path
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-9, atol=1e-9)
    assert count_parameters(ours).trainable == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("case", CASES)
def test_trainable_count_is_the_formula(case: str) -> None:
    make, _, targets, head, per_rank = CASES[case]
    for rank in (1, 3, 8):
        model = make()
        base = sum(p.numel() for p in model.parameters())
        inject(model, LoRA(rank=rank), targets)
        assert count_parameters(model) == (rank * per_rank, base + rank * per_rank)
        model = make()
        inject(model, LoRA(rank=rank), targets, train=head)
        assert count_parameters(model) == (
            rank * per_rank + 33 * CASES[case][0]().get_submodule(head).out_features,
            base + rank * per_rank,
        )


def test_counts_of_bert_base_chinese() -> None:
    """The chapter's table: r = 8 on q, k, v; q, v; all linear layers of the encoder; with an 18-way head."""
    for targets, train, expected in [
        (["q_proj", "k_proj", "v_proj"], [], 442_368),
        (["q_proj", "v_proj"], [], 294_912),
        (["encoder.layers.*"], [], 1_327_104),
        (["encoder.layers.*", "pooler"], [], 1_339_392),
        (["q_proj", "k_proj", "v_proj"], ["head"], 456_210),
    ]:
        with torch.device("meta"):
            model = TextModel(TextConfig(num_classes=18))
            inject(model, LoRA(rank=8), targets, train=train)
        assert count_parameters(model).trainable == expected
    assert count_parameters(model).total == 102_723_858
    assert round(count_parameters(model).percent, 3) == 0.444


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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_adapter_changes_not_one_bit(case: str, method: str) -> None:
    make, run, targets, head, _ = CASES[case]
    model = make()
    before = run(model)
    inject(model, METHODS[method], targets, train=head)
    assert torch.equal(run(model), before)


def test_at_b_zero_only_b_moves_and_then_both() -> None:
    model = text()
    inject(model, LoRA(rank=4), ["q_proj", "v_proj", "fc1"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    pairs = [layer.adapters["default"] for _, layer in tuned_layers(model)]
    for step in range(2):
        before = [(pair.A.clone(), pair.B.clone()) for pair in pairs]
        F.cross_entropy(model(IDS, MASK), LABELS).backward()
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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_training_leaves_the_base_bit_for_bit(case: str, method: str) -> None:
    make, run, targets, head, _ = CASES[case]
    model, bare = make(), make()
    bare.load_state_dict(model.state_dict())
    inject(model, METHODS[method], targets, train=head)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)  # all of them: the frozen ones have no gradient
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(run(model), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    model.eval()
    set_adapter(model, None)
    assert torch.equal(run(model), run(bare))
    unload(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), bare.state_dict().values(), strict=True))
    assert model.state_dict().keys() == bare.state_dict().keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_merge_equals_the_adapter_and_unmerge_is_exact(case: str, method: str) -> None:
    make, run, targets, head, _ = CASES[case]
    model = make()
    inject(model, METHODS[method], targets, train=head)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = run(model)
    merge(model)
    torch.testing.assert_close(run(model), tuned, rtol=1e-5, atol=2e-5)
    with pytest.raises(RuntimeError, match="merged into this layer and would not be trained"):
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


def test_convolution_equals_peft() -> None:
    for dora in (False, True):
        model, x = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1)), torch.randn(2, 3, 9, 9)
        theirs: Any = peft.get_peft_model(
            copy.deepcopy(model), peft.LoraConfig(r=4, lora_alpha=12, target_modules=["0"], use_dora=dora)
        )
        inject(model, LoRA(rank=4, alpha=12, dora=dora), "0")
        adapter, other = model[0].adapters["default"], theirs.base_model.model[0]
        with torch.no_grad():
            adapter.B.normal_()
            other.lora_A["default"].weight.copy_(adapter.A.view(4, 3, 3, 3))
            other.lora_B["default"].weight.copy_(adapter.B.view(8, 4, 1, 1))
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_dropout_is_pefts_in_training() -> None:
    case = (CASES["ours"][0], CASES["ours"][1], ["q_proj", "fc2"], "head", 0)
    ours, theirs = both(case, LoRA(rank=4, alpha=12, dropout=0.4))
    outputs = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(5)
        outputs.append(model(IDS, MASK))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs[0], ours.eval()(IDS, MASK), atol=1e-3)


def test_a_bfloat16_base_gets_float32_adapters_and_trains_under_autocast() -> None:
    model = text().to(torch.bfloat16)
    inject(model, LoRA(rank=4), ["q_proj", "word_embedding"])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model(IDS, MASK).dtype == torch.bfloat16
    model = text()
    inject(model, LoRA(rank=4), ["q_proj", "fc1"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        F.cross_entropy(model(IDS, MASK).float(), LABELS).backward()
    assert all(layer.adapters["default"].B.grad.abs().max() > 0 for _, layer in tuned_layers(model))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank 0 is no count"),
        ({"rank": 2.0}, "rank 2.0 is no count"),
        ({"alpha": 0}, "alpha 0 must be above 0"),
        ({"dropout": 1}, "dropout 1 is no share"),
    ],
)
def test_wrong_numbers_are_told(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**fields)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (0, 6)])
def test_the_gradients_written_out_are_those_of_autograd(bias: bool, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=bias)).double()
    inject(model, LoRA(rank=3, alpha=5), "0")
    adapter: Any = model[0].adapters["default"]
    nn.init.normal_(adapter.B)
    x = torch.randn(*shape, dtype=torch.double, requires_grad=True)
    base = model[0].base
    slope = torch.randn(*shape[:-1], 4, dtype=torch.double)
    slope = slope.transpose(0, -1).contiguous().transpose(0, -1)  # as it may come: not in one piece
    wanted = F.linear(x, base.weight, base.bias) + adapter.branch(base, x)  # what LowRank.forward computes
    expected = torch.autograd.grad((wanted * slope).sum(), (x, adapter.A, adapter.B))
    out = model(x)
    assert "UpdatedProduct" in type(out.grad_fn).__name__ or "View" in type(out.grad_fn).__name__
    torch.testing.assert_close(out, wanted)
    got = torch.autograd.grad((out * slope).sum(), (x, adapter.A, adapter.B))
    torch.testing.assert_close(got, expected)


def test_a_weight_that_was_woken_again_gets_its_gradient() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(5, 6)
    inject(model, LoRA(rank=3), "0")
    model.requires_grad_()
    model(x).sum().backward()
    torch.testing.assert_close(model[0].base.weight.grad, x.sum(0).expand(4, 6))
    torch.testing.assert_close(model[0].base.bias.grad, torch.full((4,), 5.0))
