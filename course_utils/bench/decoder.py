"""A decoder of 40 M parameters, 4 texts of 256 tokens: forward and training step against transformers' Llama."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.bench.runner import Result, compare, in_own_process, interleave
from course_utils.bench.vit import LEARNING_RATE, assert_equal, gradient_norm
from course_utils.models.decoder import Decoder
from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.decoder_files import save_decoder
from course_utils.models.rotary import Rope

TEXTS, TOKENS = 4, 256
GOAL = 1.0
CONFIG = DecoderConfig(
    vocab_size=8192, width=512, depth=8, heads=8, kv_heads=2, head_width=64, mlp_width=1792, max_length=512, rope=Rope()
)

Forward = Callable[[Tensor], Tensor]  # token ids to logits


def run(repetitions: int) -> Iterator[Result]:
    """Measure forward and training step, as written at one thread and at two, and compiled at two; each setting in a
    process of its own."""
    for threads, compiled in ((1, False), (2, False), (2, True)):
        yield from in_own_process(measure, CONFIG, threads, compiled, repetitions)


def measure(config: DecoderConfig, threads: int, compiled: bool, repetitions: int, texts: int = TEXTS) -> list[Result]:
    """Time both models on the same texts, after showing that they compute the same.

    Raises:
        AssertionError: if logits or gradients differ.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    text = torch.randint(config.vocab_size, (texts, min(TOKENS, config.max_length - 1) + 1))
    ids, targets = text[:, :-1], text[:, 1:]
    models, forwards = contestants(config, compiled)
    steps = {who: training_step(models[who], forwards[who], ids, targets) for who in models}
    for who, step in steps.items():
        step()
        assert_equal(f"gradient norm of {who}", gradient_norm(models[who]), gradient_norm(models["ours"]))
    inferences = {who: torch.inference_mode()(lambda who=who: forwards[who](ids)) for who in models}
    for model in models.values():
        model.eval()
    assert_equal("logits of transformers", inferences["transformers"](), inferences["ours"]())
    ending = f"{threads}_thread{'s' if threads > 1 else ''}{'_compiled' if compiled else ''}"
    forward = interleave(inferences, repetitions, title=f"forward, {ending}")
    for model in models.values():
        model.train()
    train = interleave(steps, repetitions, title=f"training step, {ending}")
    facts: dict[str, Any] = {"threads": threads, "texts": texts, "compiled": compiled, "torch": torch.__version__}
    return [
        compare(f"decoder_forward_{ending}", forward, GOAL, **facts),
        compare(f"decoder_training_step_{ending}", train, GOAL, **facts),
    ]


def contestants(config: DecoderConfig, compiled: bool) -> tuple[dict[str, nn.Module], dict[str, Forward]]:
    """Our model and the library's with the same weights, and how each is called for logits."""
    import transformers

    ours = Decoder(config)
    with tempfile.TemporaryDirectory() as folder:
        save_decoder(ours, folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    models: dict[str, nn.Module] = {"ours": ours, "transformers": theirs}
    called = {who: torch.compile(model) if compiled else model for who, model in models.items()}
    return models, {
        "ours": lambda ids: called["ours"](ids),
        "transformers": lambda ids: called["transformers"](ids, use_cache=False).logits,
    }


def training_step(model: nn.Module, forward: Forward, ids: Tensor, targets: Tensor) -> Callable[[], object]:
    """Forward, loss, backward and a step of plain SGD, whose cost is small and the same for all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(ids).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()

    return step
