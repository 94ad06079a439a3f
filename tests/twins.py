"""One small BERT twice, ours and transformers', with the same weights: what prompts and prefixes are compared on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from course_utils.models import TextModel, load_text
from course_utils.tuning import Method, inject, set_adapter, unload

WIDTH, DEPTH, HEADS, HIDDEN, CLASSES, TOKENS, ROWS = 32, 3, 4, 48, 5, 9, 4
LABELS = torch.tensor([0, 3, 4, 1])
IDS = torch.randint(1, 60, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(TOKENS) < torch.tensor([[9], [4], [7], [1]])
TYPES = torch.randint(0, 2, (ROWS, TOKENS), generator=torch.Generator().manual_seed(2))


def bert(seed: int = 0) -> Any:
    """transformers' model, with weights in which every parameter tells."""
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=HIDDEN,
        max_position_embeddings=24, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.BertForSequenceClassification(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def ours(seed: int = 0, **changes: Any) -> TextModel:
    return load_text(bert(seed).state_dict(), heads=HEADS, **changes).eval()


MAKERS: dict[str, Callable[[], nn.Module]] = {"ours": ours, "transformers": bert}


def with_peft(config: peft.PeftConfig) -> Any:
    return peft.get_peft_model(bert(), config).eval()


def logits(model: Any, **arguments: Any) -> Tensor:
    """Of either twin, for the padded batch with two sentence types."""
    bare = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    if isinstance(bare, TextModel):
        return model(IDS, MASK, TYPES, **arguments)
    return model(input_ids=IDS, attention_mask=MASK.long(), token_type_ids=TYPES, **arguments).logits


def copy_head(model: nn.Module, theirs: Any) -> None:
    """Give both the same trained head, not the base's."""
    head: Any = model.get_submodule("head.adapters.default.copy")
    other = theirs.get_submodule("base_model.classifier.modules_to_save.default")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    other.load_state_dict(head.state_dict())


def disturb(model: nn.Module, seed: int = 3) -> None:
    """Stand in for training: move everything that trains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def check_learns(model: nn.Module, rate: float, run: Callable[[Any], Tensor] = logits) -> None:
    """Eight steps of AdamW on what trains: the loss must fall."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)  # the frozen ones have no gradient
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(run(model), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def check_leaves_the_base(
    make: Callable[[], nn.Module], run: Callable[[Any], Tensor], method: Method, targets: Any, head: str
) -> None:
    """A fresh adapter changes not one bit, training changes the outputs, and the base comes out as it was put in."""
    model, bare = make(), make()
    before = run(bare)
    inject(model, method, targets, train=head)
    assert torch.equal(run(model), before)
    check_learns(model.train(), 1e-2, run)
    model.eval()
    assert not torch.equal(run(model), before)
    set_adapter(model, None)
    assert torch.equal(run(model), before)
    unload(model)
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert all(torch.equal(tensor, bare.state_dict()[name]) for name, tensor in model.state_dict().items())
