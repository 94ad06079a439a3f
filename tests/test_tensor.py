"""Tensor parallelism computes what one process computes, on 1/t of the weights, with four all-reduces a layer."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from course_utils.bench import tensor as bench
from course_utils.launch import RankFailed, launch
from course_utils.measure import Ledger
from course_utils.models import TextConfig, TextModel, ViT, ViTConfig
from course_utils.models.encoder import attention_maps, initialise
from course_utils.plan.activations import layer_activations
from course_utils.plan.planner import layer_share
from course_utils.tensor import (
    PLANS,
    full_state_dict,
    layers,
    shard_state_dict,
    shards_of,
    tensor_parallel,
    vocabulary_parallel_cross_entropy,
)
from course_utils.tensor.collectives_with_gradient import (
    all_gather,
    copy_to_ranks,
    gather,
    gather_to_ranks,
    scatter,
    scatter_sum,
    sum_over_ranks,
)
from course_utils.tensor.cost import layer_bytes, loss_bytes
from course_utils.tensor.sequence import CopyTogether
from course_utils.tensor.vocabulary import VocabularyParallelEmbedding

WIDTH, HEADS, DEPTH, BATCH, WORDS = 32, 8, 2, 4, 101
MODES: dict[str, dict[str, bool]] = {
    "tensor": {},
    "sequence": {"sequence_parallel": True},
    "sequence, gathered once": {"sequence_parallel": True, "gather_again": False},
}


def vit(**changes: Any) -> ViT:
    """17 tokens: a number that no group divides."""
    torch.manual_seed(0)
    fields = {"image_size": 16, "patch_size": 4, "channels": 1, "num_classes": 10, "width": WIDTH, "depth": DEPTH}
    return ViT(ViTConfig(**{**fields, "heads": HEADS, **changes}))  # type: ignore[arg-type]


def text(**changes: Any) -> TextModel:
    """Post-norm, and a vocabulary that no group divides."""
    torch.manual_seed(0)
    fields = {"vocab_size": WORDS, "max_length": 16, "num_classes": 5, "width": WIDTH, "depth": DEPTH, "heads": HEADS}
    return TextModel(TextConfig(**{**fields, **changes}))  # type: ignore[arg-type]


def data(model: nn.Module) -> tuple[Tensor, ...]:
    """Inputs and labels, the same on all ranks; of the texts one is padded."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(5, (BATCH,), generator=generator)
    if isinstance(model, ViT):
        return torch.randn(BATCH, 1, 16, 16, generator=generator), labels
    ids, mask = torch.randint(1, WORDS, (BATCH, 11), generator=generator), torch.ones(BATCH, 11, dtype=torch.bool)
    mask[1, 7:], ids[1, 7:] = False, 0
    return ids, mask, labels


class Trained:
    """A model after some steps: logits and losses, the gradients of the first step, the weights, whole."""

    def __init__(self, model: nn.Module, steps: int = 2) -> None:
        *inputs, labels = data(model)
        # eps: where the true gradient is 0 (biases of keys), Adam would blow up what rounding leaves of it.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-4)
        self.losses, self.gradients = [], {}
        with Ledger(model) as self.ledger:
            for step in range(steps):
                optimizer.zero_grad()
                self.logits = model(*inputs)
                loss = F.cross_entropy(self.logits, labels)
                loss.backward()
                if step == 0:
                    self.gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
                optimizer.step()
                self.losses.append(loss.item())
        shards = shards_of(model)
        for key, shard in shards.items():
            self.gradients[key] = all_gather(self.gradients[key], shard.length, dim=shard.dim)
        self.weights = full_state_dict(model) if shards else model.state_dict()

    def differs(self, other: Trained) -> float:
        """The largest difference anywhere."""
        assert self.weights.keys() == other.weights.keys()
        assert self.gradients.keys() == other.gradients.keys()
        pairs = [(self.logits, other.logits), (torch.tensor(self.losses), torch.tensor(other.losses))]
        pairs += [(self.gradients[k], other.gradients[k]) for k in self.gradients]
        pairs += [(self.weights[k], other.weights[k]) for k in self.weights]
        return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_equal_to_one_process(ranks: int) -> None:
    def run() -> dict[str, float]:
        worst, modes = {}, list(MODES.items())[: 3 if dist.get_world_size() == 2 else 2]
        for make in (vit, text):
            torch.set_default_dtype(torch.float64)
            one = Trained(make())
            for mode, options in modes:
                worst[f"{make.__name__} {mode}"] = Trained(tensor_parallel(make(), **options)).differs(one)
            torch.set_default_dtype(torch.float32)
            worst[f"{make.__name__} float32"] = Trained(tensor_parallel(make())).differs(Trained(make()))
        return worst

    for worst in launch(run, ranks):
        assert len(worst) == (8 if ranks == 2 else 6)
        for case, difference in worst.items():
            assert difference < (2e-5 if "float32" in case else 1e-12), (case, difference)


def test_other_models_and_attention_maps() -> None:
    """Mean pooling, attention written out, no biases on queries, a post-norm ViT; and attention_maps."""

    def run() -> float:
        torch.set_default_dtype(torch.float64)
        models: list[Callable[[], nn.Module]] = [
            lambda: vit(pool="mean", class_token=False, attention="written_out", qkv_bias=False),
            lambda: text(pool="mean", pooler=False, norm_first=True),
            lambda: vit(norm_first=False, mlp_ratio=2.0),
        ]
        worst = 0.0
        for make in models:
            one, *inputs = make(), *data(make())[:-1]
            for options in MODES.values():
                worst = max(worst, Trained(tensor_parallel(make(), **options)).differs(Trained(make())))
                ours = attention_maps(tensor_parallel(make(), **options), *inputs)  # of this rank's heads
                ours = all_gather(ours, HEADS, dim=2)
                worst = max(worst, (ours - attention_maps(one, *inputs)).abs().max().item())
        return worst

    assert max(launch(run, 2)) < 1e-12


class GatedMLP(nn.Module):
    """Not of this house: two matrices up, one down, by other names."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(12, 24, bias=bias), nn.Linear(12, 24, bias=bias)
        self.down = nn.Linear(24, 12, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Words(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(17, 12)
        self.blocks = nn.ModuleList(GatedMLP(bias) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_foreign_model_by_a_plan_of_its_own() -> None:
    def run() -> tuple[float, int]:
        torch.set_default_dtype(torch.float64)
        plan, worst = (("table", "vocabulary"), ("gate", "column"), ("up", "column"), ("down", "row")), 0.0
        for bias in (True, False):
            torch.manual_seed(0)
            one, ids = Words(bias), torch.randint(17, (3, 5))
            parts = tensor_parallel(one, plan=plan)  # type: ignore[arg-type]
            one(ids).square().sum().backward()
            with Ledger() as ledger:
                parts(ids).square().sum().backward()
            shards = shards_of(parts)
            for name, p in parts.named_parameters():
                mine, whole = p.grad, one.get_parameter(name).grad
                assert mine is not None
                assert whole is not None
                if name in shards:
                    mine = all_gather(mine, shards[name].length, dim=shards[name].dim)
                worst = max(worst, (mine - whole).abs().max().item())
        return worst, len(ledger.calls)

    for worst, calls in launch(run, 2):
        assert worst < 1e-12
        assert calls == 1 + 2 * 2  # the table's sum, and for each block one forward and one backward


def test_a_copy_of_a_parallel_model_is_one_too() -> None:
    def run() -> float:
        images, worst = data(vit())[0], 0.0
        for options in MODES.values():
            parts = tensor_parallel(vit(), **options)
            again, expected = copy.deepcopy(parts), parts(images)
            with torch.no_grad():
                parts.positions.zero_()  # the copy must read nothing of the original
            parts(images[:, :, :8, :8], interpolate=True)  # nor the number of its tokens
            worst = max(worst, (again(images) - expected).abs().max().item())
        return worst

    assert max(launch(run, 2)) == 0


# Properties: what makes it tensor parallelism, and pretenders that lack one of them --------------------------------


def assert_properties(parallel: Callable[..., nn.Module], options: dict[str, bool]) -> None:
    """Weights, bytes, number of calls, kept activations and gradients are those of tensor parallelism, on each rank."""
    ranks, layers = dist.get_world_size(), 3
    model, smaller = (vit(depth=depth, class_token=False, pool="mean") for depth in (layers, 1))
    tokens, sequence = 16, "sequence_parallel" in options
    parts, fewer = parallel(model, **options), parallel(smaller, **options)

    def kept_and_sent(part: nn.Module) -> tuple[int, Ledger]:
        images = data(model)[0]
        with Ledger(part) as ledger:
            out = part(images)
            kept = ledger.saved
            out.sum().backward()
        return kept, ledger

    def per_layer(many: float, one: float) -> float:
        return (many - one) / (layers - 1)

    (kept, ledger), (kept_one, ledger_one) = kept_and_sent(parts), kept_and_sent(fewer)
    counts = [sum(_local(p).numel() for p in m.parameters()) for m in (parts, fewer)]
    assert per_layer(*counts) == layer_share(WIDTH, ranks), "weights are not shared out"
    calls = {name: per_layer(_calls(ledger, name), _calls(ledger_one, name)) for name in ("all_reduce", "all_gather")}
    again = sequence and options.get("gather_again", True)
    assert calls == (
        {"all_reduce": 1, "all_gather": 6 if again else 4} if sequence else {"all_reduce": 4, "all_gather": 0}
    )
    size = 4 * BATCH * tokens * WIDTH
    small = 2 * (ranks - 1) / ranks * 4 * 6 * WIDTH if sequence else 0  # norms and biases
    formula = layer_bytes(size, ranks, sequence_parallel=sequence, gather_again=again) + small
    assert abs(per_layer(ledger.wire_bytes(), ledger_one.wire_bytes()) - formula) < 1e-6 * formula, "bytes"
    statistics = 16 * BATCH * tokens / (ranks if sequence else 1)  # mean and deviation of two norms
    by_formula = layer_activations(
        tokens, BATCH, WIDTH, HEADS, tensor=ranks, sequence_parallel=sequence, kernel="fused", dropout=False, number=4
    ).total
    whole = 2 * size * (1 - 1 / ranks) if sequence and not again else 0
    assert per_layer(kept, kept_one) == by_formula + statistics + whole, "activations"
    if not any(type(p) is not nn.Parameter for p in parts.parameters()):
        assert Trained(parallel(vit(), **options), steps=1).differs(Trained(vit(), steps=1)) < 2e-5, "gradients differ"


def _calls(ledger: Ledger, operation: str) -> int:
    return sum(call.operation == operation for call in ledger.calls)


def _local(p: Tensor) -> Tensor:
    return p.to_local() if hasattr(p, "to_local") else p  # type: ignore[operator]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_properties(ranks: int) -> None:
    def run() -> None:
        for options in list(MODES.values())[: 2 if dist.get_world_size() == 8 else 3]:
            assert_properties(tensor_parallel, options)

    launch(run, ranks)


def replicated(model: nn.Module) -> nn.Module:
    return model


STYLES = {"column": ColwiseParallel, "row": RowwiseParallel}


def by_dtensor(model: nn.Module) -> nn.Module:
    """As torch's tutorial does it: each of q, k and v sums up the gradient of its own input."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan: dict[str, Any] = {name: STYLES[how]() for name, how in PLANS[ViT]}
    for layer in model.encoder.layers:  # type: ignore[union-attr, operator]
        parallelize_module(layer, mesh, plan)
    return model


def summed_apart(model: nn.Module) -> nn.Module:
    """Copies the input anew for each projection."""

    def copy_inputs(block: nn.Module, group: None) -> None:
        for column in [child for child in block.children() if isinstance(child, layers.ColumnParallelLinear)]:
            column.register_forward_pre_hook(lambda _, args: (copy_to_ranks(args[0]),))

    sys.modules["course_utils.tensor.tensor_parallel"].copy_input = copy_inputs  # type: ignore[attr-defined]
    return tensor_parallel(model)


def norm_gradients_forgotten(model: nn.Module, **options: bool) -> nn.Module:
    """Each rank keeps the gradient of its own tokens."""

    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dist.all_reduce(torch.cat([g.flatten() for g in gradients]))  # sent, and not used
        return None, *gradients

    CopyTogether.backward = staticmethod(backward)  # type: ignore[method-assign]
    return tensor_parallel(model, **options)


def biases_added_by_every_rank(model: nn.Module) -> nn.Module:
    model = tensor_parallel(model)
    ranks = dist.get_world_size()
    for name, p in model.named_parameters():
        if name.endswith(("out_proj.bias", "fc2.bias")):
            p.data.add_(0.5 * (ranks - 1))
    return model


@pytest.mark.parametrize(
    ("pretender", "options", "says"),
    [
        (replicated, {}, "weights are not shared out"),
        (by_dtensor, {}, "'all_reduce': 6.0"),
        (summed_apart, {}, "'all_reduce': 6.0"),
        (norm_gradients_forgotten, {"sequence_parallel": True}, "gradients differ"),
        (biases_added_by_every_rank, {}, "gradients differ"),
    ],
)
def test_a_pretender_is_found(pretender: Callable[..., nn.Module], options: dict[str, bool], says: str) -> None:
    with pytest.raises(RankFailed, match=re.escape(says)):
        launch(lambda: assert_properties(pretender, options), 2)


# Vocabulary --------------------------------------------------------------------------------------------------------


def assert_loss(loss_of: Callable[..., Tensor], words: int = WORDS) -> None:
    """The loss is torch's, with its gradients, on columns of huge logits; and logits are not sent."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(words, (3, 7), generator=generator)
    targets[0, 2] = targets[2, 6] = -100
    for scale, offset in ((1.0, 0.0), (100.0, 5000.0)):
        logits = (torch.randn(3, 7, words, generator=generator) * scale + offset).requires_grad_()
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        expected.backward()
        padded = F.pad(logits.detach(), [0, -words % ranks], value=1e9)  # what stands in padding must not matter
        mine = padded.chunk(ranks, -1)[rank].clone().requires_grad_()
        with Ledger() as ledger:
            loss = loss_of(mine, targets, words)
            (2 * loss).backward()
        whole = all_gather(mine.grad, words, dim=-1)
        assert abs(loss - expected) <= 2e-6 * abs(expected)
        assert (whole - 2 * logits.grad).abs().max() < 1e-6, "gradient"
        assert abs(ledger.wire_bytes() - loss_bytes(21, words, ranks, gathered=False)) < 1e-6, "bytes of the loss"


def gathers_the_logits(logits: Tensor, targets: Tensor, words: int) -> Tensor:
    return F.cross_entropy(gather(logits, words, dim=-1).flatten(0, 1), targets.flatten())


def subtracts_nothing(logits: Tensor, targets: Tensor, words: int) -> Tensor:
    dist.all_reduce(torch.zeros(targets.shape))
    return vocabulary_parallel_cross_entropy(logits.exp().log(), targets, words)


def own_maximum(logits: Tensor, targets: Tensor, words: int) -> Tensor:
    return vocabulary_parallel_cross_entropy(logits - logits.detach().amax(-1, keepdim=True), targets, words)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_loss_over_a_vocabulary_in_parts(ranks: int) -> None:
    def run() -> None:
        for words in (WORDS, 96, 9):  # 9 over 8 ranks: 2, 2, 2, 2, 1 and three ranks of padding
            assert_loss(vocabulary_parallel_cross_entropy, words)

    launch(run, ranks)


@pytest.mark.parametrize(
    ("pretender", "says"), [(gathers_the_logits, "bytes of the loss"), (subtracts_nothing, ""), (own_maximum, "")]
)
def test_a_pretended_loss_is_found(pretender: Callable[..., Tensor], says: str) -> None:
    with pytest.raises(RankFailed, match=f"AssertionError.*{says}"):
        launch(lambda: assert_loss(pretender), 2)


def test_embedding_and_tied_logits() -> None:
    def run() -> tuple[float, float, list[str]]:
        torch.manual_seed(0)
        whole = nn.Embedding(WORDS, 6, padding_idx=60)
        part = VocabularyParallelEmbedding(whole, None)
        ids = torch.randint(WORDS, (3, 7))
        ids[1, :3] = 60  # on the second rank

        def loss(x: Tensor, logits: Tensor, cross_entropy: Callable[..., Tensor], *words: int) -> Tensor:
            return cross_entropy(logits.flatten(0, 1), ids.flatten(), *words) + (x**2).sum()

        x, y = whole(ids), part(ids)
        loss(x, x @ whole.weight.T, F.cross_entropy).backward()
        loss(y, part.logits(y), vocabulary_parallel_cross_entropy, WORDS).backward()
        difference = (all_gather(part.weight.grad, WORDS, dim=0) - whole.weight.grad).abs().max().item()
        says = []
        for wrong in (WORDS, -1):
            for call in (part, lambda ids: vocabulary_parallel_cross_entropy(torch.zeros(1, 51), ids, WORDS)):
                try:
                    call(torch.tensor([wrong]))
                except IndexError as error:
                    says.append(str(error))
        return (x - y).abs().max().item(), difference, says

    for forward, backward, says in launch(run, 2):
        assert forward == 0  # every other addend of the sum is 0
        assert backward < 1e-5
        assert (
            says
            == ["ids run from 101 to 101, but words from 0 to 100"] * 2
            + ["ids run from -1 to -1, but words from 0 to 100"] * 2
        )


def test_a_word_beyond_the_vocabulary_is_named_by_the_model() -> None:
    def run() -> None:
        tensor_parallel(text())(torch.tensor([[3, WORDS]]))

    with pytest.raises(RankFailed, match=r"input_ids run from 3 to 101, but vocab_size is 101"):
        launch(run, 2)


# Dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_is_the_same_on_what_is_whole_and_differs_on_what_is_in_parts() -> None:
    def run() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        torch.manual_seed(3)
        images = torch.randn(BATCH, 1, 16, 16)
        for mode, options in MODES.items():
            model = tensor_parallel(vit(dropout=0.3, attention_dropout=0.3, drop_path=0.3), **options)
            torch.manual_seed(7)
            first, state = model(images), torch.get_rng_state()
            seen[mode] = (first.tolist(), torch.rand(3).tolist())
            torch.manual_seed(7)
            assert torch.equal(model(images), first), "a run is repeated by seeding alone"
            assert torch.equal(torch.get_rng_state(), state)
        return seen

    a, b = launch(run, 2)
    assert a == b  # logits, and what the shared generator draws next


def test_generators_of_cpu_and_device_are_compared() -> None:
    """Without a GPU here, a model on the meta device and a generator of ours stand for it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("No backend type associated with device type cpu")  # as nccl says of a tensor of the CPU

    def run(seed_of_rank: Callable[[int], int]) -> tuple[str, list[str]]:
        of_device, asked = torch.Generator().manual_seed(seed_of_rank(dist.get_rank())), []

        def generator_of(device: torch.device) -> torch.Generator:
            asked.append(device.type)
            return torch.default_generator if device.type == "cpu" else of_device

        sys.modules["course_utils.tensor.tensor_parallel"].generator_of = generator_of  # type: ignore[attr-defined]
        dist.all_gather = refuse  # what is sent has to go by torch, which knows the device of the group's backend
        torch.manual_seed(0)
        try:
            tensor_parallel(vit(dropout=0.1).to("meta"))
        except Exception as error:  # a meta tensor cannot be broadcast, which comes next
            return str(error), asked
        return "", asked

    for said, asked in launch(run, 2, lambda rank: 7):
        assert asked == ["cpu", "meta"]
        assert "random numbers" not in said
    for said, _ in launch(run, 2, lambda rank: 7 + rank):
        assert "rank 1 of the group draws other random numbers than rank 0" in said


def test_own_numbers_come_from_the_generator_of_the_input_s_device() -> None:
    def run() -> tuple[list[int], list[str], bool]:
        generator, asked, seen = torch.Generator().manual_seed(5), [], []
        layers.generator_of = lambda device: asked.append(device.type) or generator

        class Drops(nn.Module):
            p = 0.5

            def forward(self, x: Tensor) -> None:
                seen.append(generator.initial_seed())
                if len(x) > 2:
                    raise KeyError

        module, before = Drops(), generator.get_state()
        layers.draw_own_numbers(module, "p")
        torch.manual_seed(0)
        module(torch.zeros(2, device="meta"))
        restored = torch.equal(generator.get_state(), before)
        with pytest.raises(KeyError):
            module(torch.zeros(3))
        restored &= torch.equal(generator.get_state(), before)
        module.eval()(torch.zeros(2))  # drops nothing, so draws nothing
        return seen, asked, restored

    (first, asked, restored), (second, _, restored_too) = launch(run, 2)
    assert restored
    assert restored_too
    assert asked == ["meta", "cpu"]
    assert [b - a for a, b in zip(first, second, strict=True)] == [1, 1, 0]
    assert first[2] == 5


def heads_of(attention_dropout: float, implementation: str) -> list[list[float]]:
    """What a rank's heads give when all heads of all ranks have the same weights."""
    torch.manual_seed(0)
    model = vit(depth=1, heads=2, attention_dropout=attention_dropout, attention=implementation)
    attention = model.encoder.layers[0].attention
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[WIDTH // 2 :] = projection.weight[: WIDTH // 2]
    model = tensor_parallel(model)
    seen: list[list[float]] = []
    model.encoder.layers[0].attention.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    model(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)))
    return seen


@pytest.mark.parametrize("implementation", ["sdpa", "written_out"])
def test_each_rank_drops_attention_weights_of_its_own(implementation: str) -> None:
    def run() -> tuple[Any, Any]:
        return heads_of(0.0, implementation), heads_of(0.5, implementation)

    (without, dropped), (without_too, dropped_too) = launch(run, 2)
    assert without == without_too
    assert dropped != dropped_too


def test_in_parts_of_tokens_dropout_differs_and_drop_path_does_not() -> None:
    def run() -> tuple[Tensor, Tensor]:
        kept = []
        for options in ({"dropout": 0.5}, {"drop_path": 0.9}):
            model = tensor_parallel(vit(pool="mean", class_token=False, **options), sequence_parallel=True)
            layer = model.encoder.layers[-1]
            torch.manual_seed(1)
            kept.append(layer._branch(torch.ones(64, 8, WIDTH)) == 0)  # type: ignore[operator]
        return kept[0], kept[1]

    (dropout, path), (dropout_too, path_too) = launch(run, 2)
    assert not torch.equal(dropout, dropout_too)
    assert torch.equal(path, path_too)
    assert 0 < path.float().mean() < 1


# In use ------------------------------------------------------------------------------------------------------------


def test_state_dicts_go_from_one_number_of_ranks_to_another() -> None:
    def run() -> bool:
        pairs, same = [dist.new_group([0, 1]), dist.new_group([2, 3])], True
        pair = pairs[dist.get_rank() // 2]
        for make in (vit, text):
            trained = tensor_parallel(make())
            with torch.no_grad():
                for p in trained.parameters():
                    p.add_(1.0)
            whole = full_state_dict(trained)
            assert list(whole) == list(make().state_dict())
            by_two = tensor_parallel(make(), pair)
            by_two.load_state_dict(shard_state_dict(by_two, whole, pair))
            again = full_state_dict(by_two, pair)
            same &= all(torch.equal(again[key], value) for key, value in whole.items())
            make().load_state_dict(whole)
        return same

    assert all(launch(run, 4))


def test_all_ranks_get_the_first_rank_s_weights_and_the_model_stays_as_it_was() -> None:
    def run() -> tuple[dict[str, Tensor], bool]:
        torch.manual_seed(dist.get_rank())
        model = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, width=16, depth=1, heads=4))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        whole = full_state_dict(tensor_parallel(model))
        same = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return {key: value - before[key] if not dist.get_rank() else value for key, value in whole.items()}, same

    (differs, first), (_, second) = launch(run, 2)
    assert first
    assert second
    assert all(not value.any() for value in differs.values())


def test_frozen_weights_bfloat16_and_a_second_backward() -> None:
    def run() -> list[float]:
        seen = []
        images, labels = data(vit())
        for options in MODES.values():
            one, parts = vit(), tensor_parallel(vit(), **options)
            for model in (one, parts):
                for name, p in model.named_parameters():
                    p.requires_grad_(not any(n in name for n in ("q_proj", "norm1", "fc2.bias", "positions")))
            frozen = tensor_parallel(one, **options)  # frozen before it is cut: stays frozen
            assert {n for n, p in frozen.named_parameters() if p.requires_grad} == {
                n for n, p in parts.named_parameters() if p.requires_grad
            }
            for model in (one, parts):
                loss = F.cross_entropy(model(images), labels)
                loss.backward(retain_graph=True)
                loss.backward()
            seen.append(
                max(
                    (p.grad - q.grad).abs().max().item()
                    for (n, p), q in zip(one.named_parameters(), parts.parameters(), strict=True)
                    if p.grad is not None and n not in shards_of(parts)
                )
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = [F.cross_entropy(model(images), labels) for model in (one, parts)]
            losses[1].backward()
            assert abs(losses[0] - losses[1]) < 0.02
        return seen

    assert max(max(seen) for seen in launch(run, 2)) < 1e-5


def test_each_operation_and_the_way_back() -> None:
    """Rank r has r + 1 in its tensors; the gradients that come back are (r + 1) times 10."""

    def run() -> dict[str, tuple[list[float], list[float]]]:
        mine, seen = float(dist.get_rank() + 1), {}
        for name, function, length in (
            ("copy", copy_to_ranks, 3),
            ("sum", sum_over_ranks, 3),
            ("gather to ranks", lambda x: gather_to_ranks(x, 3, dim=0), 2),
            ("scatter sum", lambda x: scatter_sum(x, dim=0), 3),
            ("scatter", lambda x: scatter(x, dim=0), 3),
            ("gather", lambda x: gather(x, 3, dim=0), 2),
        ):
            x = torch.full((length,), mine, requires_grad=True)
            y = function(x)
            y.backward(torch.full_like(y, 10 * mine))
            seen[name] = y.tolist(), x.grad.tolist()
        return seen

    first, second = launch(run, 2)
    assert first["copy"] == ([1, 1, 1], [30, 30, 30])
    assert second["sum"] == ([3, 3, 3], [20, 20, 20])
    assert first["gather to ranks"] == ([1, 1, 2], [30, 30])
    assert second["gather to ranks"] == ([1, 1, 2], [30, 0])  # its second number is padding
    assert first["scatter sum"] == ([3, 3], [10, 10, 20])
    assert second["scatter sum"] == ([3, 0], [10, 10, 20])
    assert second["scatter"] == ([2, 0], [10, 10, 20])
    assert second["gather"] == ([1, 1, 2], [20, 0])


# Messages ----------------------------------------------------------------------------------------------------------


def test_sentences_come_before_anything_is_sent() -> None:
    class Other(nn.Module):
        pass

    def run() -> dict[str, str]:
        pair = dist.new_group([0, 1])
        wrong: dict[str, tuple[nn.Module, dict[str, Any]]] = {
            "heads": (vit(heads=2), {}),
            "hidden": (vit(mlp_ratio=0.3125), {}),
            "other": (Other(), {}),
            "twice": (tensor_parallel(vit()), {}),
            "plan": (vit(), {"plan": (("mlp.up", "column"),)}),
            "tokens": (nn.Sequential(vit().encoder.layers[0]), {"sequence_parallel": True}),
            "group": (vit(), {"group": pair}),
        }
        said = {}
        if dist.get_rank() < 2:
            del wrong["group"]  # these are in it
        for name, (model, options) in wrong.items():
            with Ledger() as ledger:
                try:
                    tensor_parallel(model, **options)
                except ValueError as error:
                    said[name] = str(error)
            assert ledger.calls == []
        torch.manual_seed(dist.get_rank())
        tensor_parallel(vit())  # without dropout no harm is done
        model = vit(drop_path=0.1)
        torch.manual_seed(dist.get_rank())
        try:
            tensor_parallel(model)
        except ValueError as error:
            said["random"] = str(error)
        return said

    *_, said = launch(run, 4)
    words = {
        "heads": ["2 attention heads", "4 ranks", "encoder.layers.0.attention", "a group of 1, 2 ranks"],
        "hidden": ["10 hidden units", "4 ranks", "encoder.layers.0.mlp", "a group of 1, 2, 5, 10 ranks"],
        "other": ["Other", "pass plan="],
        "twice": ["encoder.layers.0.attention.q_proj is a ColumnParallelLinear", "still whole"],
        "plan": ["'mlp.up'", "ViT"],
        "tokens": ["0.attention.q_proj", "stands in none"],
        "group": ["rank 3 is not in the group"],
        "random": ["rank 1", "torch.manual_seed"],
    }
    assert said.keys() == words.keys()
    for case, sentence in said.items():
        assert all(word in sentence for word in words[case]), sentence
    with pytest.raises(RuntimeError, match=r"needs several processes: call it in a function that launch\(fn, 4\)"):
        tensor_parallel(vit())


def test_the_benchmark_compares_two_that_compute_the_same() -> None:
    config = ViTConfig.preset("micro4", width=32, depth=1, num_classes=10)
    result = bench.measure(config, 3, "small", None)
    assert set(result.details["medians"]) == {"ours", "dtensor"}
    assert result.details["all_reduces"] == {"ours": 4, "dtensor": 6}

    def spoiled() -> None:
        right = bench.by_dtensor
        bench.by_dtensor = lambda whole: right(whole.apply(initialise))
        bench.time_both(config, 1)

    with pytest.raises(RankFailed, match="the two compute different things"):
        launch(spoiled, 2)
