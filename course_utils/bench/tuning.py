"""What the benchmarks of tuning methods share: a BERT base of our own and of transformers, a batch, a training step."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.bench.runner import Result, compare, interleave
from course_utils.bench.vit import assert_equal
from course_utils.models import TextConfig, TextModel
from course_utils.models.layouts import TEXT_LAYOUTS
from course_utils.tuning import KeysAndValues, PrefixEncoder, TunedLayer, count_parameters
from course_utils.tuning.prefix import Trunk

TEXTS, TOKENS = 8, 20  # a batch of headlines
LEARNING_RATE = 1e-4
BASE = TextConfig(num_classes=18, dropout=0.0, attention_dropout=0.0)  # bert-base-chinese in size

Forward = Callable[[Tensor, Tensor], Tensor]  # token ids and mask [B, N] to logits [B, K]


def bert_like(ours: TextModel) -> nn.Module:
    """transformers' model for classification with the weights of ours."""
    import transformers

    config = ours.config
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length,
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "num_labels": config.num_classes,
        "attn_implementation": "sdpa",
    }
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
    weights = ours.state_dict()
    names = {key: TEXT_LAYOUTS["transformers"].translate(key) for key in theirs.state_dict()}
    theirs.load_state_dict({key: weights[str(name)] for key, name in names.items()})
    return theirs


def with_peft(base: nn.Module, config: Any) -> Any:
    """peft's model round a copy of a base."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses names that transformers has deprecated
        return peft.get_peft_model(copy.deepcopy(base), config)


def copy_to_peft(ours: TextModel, theirs: Any) -> None:
    """Give peft's prompt encoder the weights of our prompt or prefix, whichever it is, and the head's."""
    network = theirs.prompt_encoder["default"]
    words, heads = ours.get_submodule("word_embedding"), [p for name, p in theirs.named_parameters() if "_save" in name]
    copied: list[tuple[Tensor, Sequence[Tensor]]] = []  # peft's, and ours that make it up
    if isinstance(words, TunedLayer):
        for name, parameter in words.adapters["default"].named_parameters():
            where = (
                "embedding.weight" if name in ("prompt", "embedding") else re.sub(r"^(mlp|lstm)\.", r"\1_head.", name)
            )
            copied.append((network.get_parameter(where), [parameter]))
    elif free := [part for part in ours.modules() if isinstance(part, KeysAndValues)]:
        copied.append((network.embedding.weight, [rows for part in free for rows in (part.keys, part.values)]))
    else:
        written = [part for part in ours.modules() if isinstance(part, PrefixEncoder)]
        trunk, outs = written[0].shared[0], [part.out for part in written]
        assert isinstance(trunk, Trunk)
        copied.append((network.embedding.weight, [trunk.embedding]))
        copied += [
            (p, [own]) for p, own in zip(network.transform[0].parameters(), trunk.linear.parameters(), strict=True)
        ]
        copied += [(network.transform[2].weight, [out.weight for out in outs])]
        copied += [(network.transform[2].bias, [out.bias for out in outs])]
    copied += zip(heads, [[p] for p in ours.get_submodule("head").parameters() if p.requires_grad], strict=True)
    with torch.no_grad():
        for other, mine in copied:
            joined = torch.cat(tuple(mine), dim=1 if other is network.embedding.weight else 0)
            other.copy_(joined)


def compare_steps(
    name: str,
    contestants: Mapping[str, tuple[nn.Module, Forward]],
    repetitions: int,
    goal: float | None,
    *,
    same_training: bool = True,
    **facts: Any,
) -> Result:
    """Time one training step of each, after showing that they compute the same logits, and gradients of the same length
    where they train the same parameters (``same_training``).

    Raises:
        AssertionError: if they differ.
    """
    model, forward = contestants["ours"]
    vocab = max(parameter.shape[0] for parameter in model.parameters())  # the largest table is that of the words
    ids = torch.randint(1, vocab, (TEXTS, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(TOKENS) < torch.arange(TOKENS, TOKENS - TEXTS, -1)[:, None]  # texts of different lengths
    labels = torch.arange(TEXTS) % forward(ids, mask).shape[1]
    norms: dict[str, Tensor] = {}
    for who, (model, forward) in contestants.items():
        logits = forward(ids, mask)
        F.cross_entropy(logits, labels).backward()
        norms[who] = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        assert_equal(f"logits of {who}", logits, contestants["ours"][1](ids, mask))
        if same_training:
            assert_equal(f"gradient norm of {who}", norms[who], norms["ours"])
    steps = {who: training_step(*contestants[who], ids, mask, labels) for who in contestants}
    runs = interleave(steps, repetitions, title=name)
    trained = {who: count_parameters(each).trainable for who, (each, _) in contestants.items()}
    return compare(name, runs, goal, texts=TEXTS, tokens=TOKENS, trained=trained, torch=torch.__version__, **facts)


def training_step(
    model: nn.Module, forward: Forward, ids: Tensor, mask: Tensor, labels: Tensor
) -> Callable[[], object]:
    """Forward, loss, backward and AdamW over what trains."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(ids, mask), labels).backward()
        optimizer.step()

    return step
