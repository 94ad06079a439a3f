"""Every way to divide a run takes the decoder as it is, and five steps end where one process's do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from course_utils.data_parallel import DataParallel
from course_utils.deepspeed.config import deepspeed_config
from course_utils.deepspeed.engine import deepspeed_engine
from course_utils.hybrid.hybrid import HybridParallel
from course_utils.hybrid.mesh import Mesh
from course_utils.launch import launch
from course_utils.measure import Ledger, held
from course_utils.measure.communication import ring_all_reduce_bytes
from course_utils.models.decoder import Decoder
from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.rotary import Rope
from course_utils.pipeline.pipeline import Pipeline
from course_utils.pipeline.recipes import interleaved, one_f_one_b, zero_bubble_h1
from course_utils.pipeline.simulator import Costs, simulate
from course_utils.tensor import full_state_dict, tensor_parallel, vocabulary_parallel_cross_entropy
from course_utils.tensor.cost import layer_bytes, loss_bytes
from course_utils.tensor.tensor_parallel import DECODER
from course_utils.tuning import LoRA, inject
from course_utils.zero import zero

STEPS, BATCH, TOKENS, WORDS, WIDTH, DEPTH = 5, 8, 11, 37, 24, 4
Outcome = dict[str, Any]


def decoder(**changes: Any) -> Decoder:
    """Grouped queries, normalised, with biases: everything that a family may have. The words are odd in number."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "vocab_size": WORDS,
        "width": WIDTH,
        "depth": DEPTH,
        "heads": 8,
        "kv_heads": 4,
        "head_width": 6,
        "mlp_width": 40,
        "max_length": 16,
        "rope": Rope(theta=100.0),
        "qk_norm": True,
        "qkv_bias": True,
        "mlp_bias": True,
    }
    return Decoder(DecoderConfig(**{**fields, **changes}))


def batch(step: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Tokens, those that follow, and the documents to which they belong; the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(WORDS, (BATCH, TOKENS + 1), generator=generator)
    documents = (torch.arange(TOKENS) >= torch.randint(1, TOKENS, (BATCH, 1), generator=generator)).long()
    return ids[:, :-1], ids[:, 1:], {"documents": documents}


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def adamw(parameters: Any) -> torch.optim.Optimizer:
    # eps: where a gradient is 0 in truth (biases of keys), Adam would blow up what rounding leaves of it.
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-4)


def whole(tensor: Any) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def train(
    parameters: Any,
    step_of: Callable[[Tensor, Tensor, dict[str, Tensor]], float],
    weights_of: Callable[[], dict[str, Tensor]],
) -> Outcome:
    """Five steps: the losses, the weights after them, what the last step sent."""
    optimizer, losses = adamw(parameters), []
    for step in range(STEPS):
        optimizer.zero_grad()
        with Ledger() as ledger:
            losses.append(step_of(*batch(step)))
        optimizer.step()
    return {"losses": losses, "weights": weights_of(), "sent": ledger.wire_bytes()}


def plain(model: nn.Module) -> Outcome:
    def step_of(x: Tensor, y: Tensor, extra: dict[str, Tensor]) -> float:
        loss = loss_of(model(x, **extra), y)
        loss.backward()
        return loss.item()

    return train(model.parameters(), step_of, lambda: {k: whole(v) for k, v in model.state_dict().items()})


def mine(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def mean(loss: float) -> float:
    total = torch.tensor(loss, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def on_parts(model: nn.Module, module: nn.Module) -> Outcome:
    """Each rank has its part of the batch."""

    def step_of(x: Tensor, y: Tensor, extra: dict[str, Tensor]) -> float:
        loss = loss_of(model(mine(x), **{name: mine(t) for name, t in extra.items()}), mine(y))
        loss.backward()
        return loss.item()

    found = train(model.parameters(), step_of, lambda: {k: whole(v) for k, v in module.state_dict().items()})
    return found | {"losses": [mean(loss) for loss in found["losses"]]}


def data_parallel() -> Outcome:
    model = decoder()
    return on_parts(DataParallel(model), model)


def fsdp2(tied: bool) -> Outcome:
    model = decoder(tied=tied)
    for layer in model.decoder.layers:
        fully_shard(layer)
    # Tied weights are one parameter, which one group has to own: the module around both.
    fully_shard(model)
    return on_parts(model, model)


def lora() -> Outcome:
    model = decoder()
    inject(model, LoRA(rank=2), ["q_proj", "v_proj"], train=["norm"])
    return on_parts(DataParallel(model), model)


def lora_alone() -> Outcome:
    model = decoder()
    inject(model, LoRA(rank=2), ["q_proj", "v_proj"], train=["norm"])
    return plain(model)


def tensors(**options: Any) -> Outcome:
    model = tensor_parallel(decoder(tied=options.pop("tied", False)), **options)
    return plain(model) | {"weights": full_state_dict(model), "held": held(model).parameters}


def own_words_alone() -> Outcome:
    """Each rank has the logits of its own words, and the loss is worked out from these."""
    model = tensor_parallel(decoder())
    head: Any = model.head
    head.gather_logits = False

    def step_of(x: Tensor, y: Tensor, extra: dict[str, Tensor]) -> float:
        loss = vocabulary_parallel_cross_entropy(model(x, **extra), y, WORDS)
        loss.backward()
        return loss.item()

    found = train(model.parameters(), step_of, lambda: full_state_dict(model))
    return found | {"held": held(model).parameters}


def pipelined(schedule: Any) -> Outcome:
    pipeline = Pipeline(decoder(), schedule, loss_of)

    def step_of(x: Tensor, y: Tensor, extra: dict[str, Tensor]) -> float:
        loss = pipeline.run(x, y, **extra)
        return 0.0 if loss is None else loss.item()

    def weights() -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = [{}] * dist.get_world_size()
        dist.all_gather_object(parts, {name: p.detach() for name, p in pipeline.named_parameters()})
        return {name: p for part in parts for name, p in part.items()}

    found = train(pipeline.parameters(), step_of, weights)
    message = BATCH // schedule.micro_batches * TOKENS * WIDTH * 8
    losses = [mean(loss) * dist.get_world_size() for loss in found["losses"]]  # the last stage's
    return found | {"losses": losses, "promised": simulate(schedule, Costs(message_bytes=message)).bytes_sent}


def hybrid() -> Outcome:
    model = HybridParallel(decoder(), Mesh(data=2, pipeline=2, tensor=2), one_f_one_b(2, 2), loss_of)

    def step_of(x: Tensor, y: Tensor, extra: dict[str, Tensor]) -> float:
        return model.step(x, y)

    return train(model.parameters(), step_of, model.full_state_dict)


def sharded(stage: int) -> Outcome:
    """ZeRO takes modules in FP32."""
    model = zero(decoder(), adamw, stage)
    losses = []
    for step in range(STEPS):
        x, y, extra = batch(step)
        loss = loss_of(model(mine(x), **{name: mine(t) for name, t in extra.items()}), mine(y))
        loss.backward()
        model.step()
        losses.append(mean(loss.item()))
    return {"losses": losses, "weights": model.full_state_dict()}


def deepspeed(stage: int) -> list[float]:
    config = deepspeed_config(stage=stage, micro_batch=BATCH // 2, ranks=2, lr=1e-2, weight_decay=0.01)
    config["optimizer"]["params"]["eps"] = 1e-4
    losses = []
    with deepspeed_engine(decoder(), config) as engine:
        for step in range(STEPS):
            x, y, extra = batch(step)
            loss = loss_of(engine(mine(x), **{name: mine(t) for name, t in extra.items()}), mine(y))
            engine.backward(loss)
            engine.step()
            losses.append(mean(loss.item()))
    return losses


def alone(make: Callable[[], Outcome], dtype: torch.dtype = torch.float64) -> Outcome:
    torch.set_default_dtype(dtype)
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float32)


def check(found: Outcome, wanted: Outcome, tolerance: float = 1e-9) -> None:
    assert found["losses"] == pytest.approx(wanted["losses"], abs=tolerance)
    assert found["weights"].keys() == wanted["weights"].keys()
    for name, tensor in wanted["weights"].items():
        torch.testing.assert_close(found["weights"][name], tensor, atol=tolerance, rtol=0)


def test_data_parallel_fsdp2_and_lora() -> None:
    def run() -> list[Outcome]:
        torch.set_default_dtype(torch.float64)
        return [data_parallel(), fsdp2(tied=False), fsdp2(tied=True), lora()]

    for replicas, full, tied, tuned in launch(run, 2):
        check(replicas, alone(lambda: plain(decoder())))
        check(full, alone(lambda: plain(decoder())))
        check(tied, alone(lambda: plain(decoder(tied=True))))
        check(tuned, alone(lora_alone))


MODES: dict[str, Callable[[], Outcome]] = {
    "tensor": tensors,
    "tied": partial(tensors, tied=True),
    "sequence": partial(tensors, sequence_parallel=True),
    "sequence, gathered once": partial(tensors, sequence_parallel=True, gather_again=False),
    "own words": own_words_alone,
}


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_parallel(ranks: int) -> None:
    def run() -> dict[str, Outcome]:
        torch.set_default_dtype(torch.float64)
        return {name: make() for name, make in MODES.items()}

    one = {tied: alone(lambda tied=tied: plain(decoder(tied=tied))) for tied in (False, True)}
    for outcomes in launch(run, ranks):
        for name, found in outcomes.items():
            check(found, one[name == "tied"])
        size = BATCH * TOKENS * WIDTH * 8
        norms = DEPTH * 2 * ring_all_reduce_bytes(6 * 8, ranks)  # of queries and keys, on each rank's heads alone
        ends = 2 * ring_all_reduce_bytes(size, ranks)  # the sum of the lookups, and the gradient of the head's input
        logits = loss_bytes(BATCH * TOKENS, -(-WORDS // ranks) * ranks, ranks, gathered=True, number=8)
        sent = DEPTH * layer_bytes(size, ranks) + norms + ends
        assert outcomes["tensor"]["sent"] == pytest.approx(sent + logits)
        largest = ring_all_reduce_bytes(BATCH * TOKENS * 8, ranks)  # beside the two sums of a target
        few = ring_all_reduce_bytes(2 * BATCH * TOKENS * 8, ranks) + largest
        assert outcomes["own words"]["sent"] == pytest.approx(sent + few)
        table = -(-WORDS // ranks) * WIDTH * 8
        assert outcomes["tensor"]["held"] - outcomes["tied"]["held"] == table


def test_pipelines() -> None:
    schedules = {"1f1b": one_f_one_b(2, 4), "interleaved": interleaved(2, 4, 2), "zero bubble": zero_bubble_h1(2, 4)}

    def run() -> dict[str, Outcome]:
        torch.set_default_dtype(torch.float64)
        return {name: pipelined(schedule) for name, schedule in schedules.items()}

    one = alone(lambda: plain(decoder()))
    ranks = launch(run, 2)
    for name in schedules:
        for place, outcomes in enumerate(ranks):
            check(outcomes[name], one)
            assert outcomes[name]["sent"] == outcomes[name]["promised"][place]


def test_three_axes_at_once() -> None:
    def run() -> Outcome:
        torch.set_default_dtype(torch.float64)
        return hybrid()

    def without_documents() -> Outcome:
        model = decoder()

        def step_of(x: Tensor, y: Tensor, extra: dict[str, Tensor]) -> float:
            loss = loss_of(model(x), y)
            loss.backward()
            return loss.item()

        return train(model.parameters(), step_of, lambda: {k: whole(v) for k, v in model.state_dict().items()})

    for found in launch(run, 8):
        check(found, alone(without_documents))


def test_zero_and_deepspeed() -> None:
    def run() -> tuple[list[Outcome], list[list[float]]]:
        return [sharded(stage) for stage in range(4)], [deepspeed(stage) for stage in range(4)]

    one = alone(lambda: plain(decoder()), torch.float32)
    for ours, theirs in launch(run, 2):
        for found in ours:
            check(found, one, 2e-5)
        for losses in theirs:
            assert losses == pytest.approx(one["losses"], abs=2e-5)


def test_without_the_sum_the_norms_of_heads_go_astray() -> None:
    """The plausible wrong plan: what is whole needs no care."""

    def run() -> Outcome:
        torch.set_default_dtype(torch.float64)
        plan: Any = tuple(row for row in DECODER if row[1] != "heads")
        return plain(tensor_parallel(decoder(), plan=plan))

    found, one = launch(run, 2)[0], alone(lambda: plain(decoder()))
    name = "decoder.layers.0.attention.q_norm.weight"
    assert not torch.allclose(found["weights"][name], one["weights"][name], atol=1e-4)
