"""The ledgers against what real optimizers hold after a step."""

import pytest
import torch
from torch import nn

from course_utils.estimate.memory import (
    FP32_ADAM,
    LEDGERS,
    MASTER_ADAM_FP32_GRADIENTS,
    PURE_BF16_ADAM,
    measure_model_states,
)
from course_utils.precision.scaling import MasterWeights


def test_the_published_totals():
    assert [ledger.total for ledger in LEDGERS] == [16, 16, 16, 18, 20, 8]
    assert FP32_ADAM.model_states(7_500_000_000) == 120_000_000_000


@pytest.mark.parametrize(("dtype", "ledger"), [(torch.float32, FP32_ADAM), (torch.bfloat16, PURE_BF16_ADAM)])
def test_a_real_adam_holds_what_the_ledger_says(dtype, ledger):
    model = nn.Linear(30, 50).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 30, dtype=dtype)).sum().backward()
    optimizer.step()
    n = sum(p.numel() for p in model.parameters())
    held = measure_model_states(model, optimizer)
    assert held == {name: n * getattr(ledger, name) for name in held}


def test_master_weights_with_fp32_gradients_are_18_bytes():
    model = nn.Linear(30, 50).to(torch.bfloat16)
    master = MasterWeights(model)
    optimizer = torch.optim.AdamW(master.parameters)
    model(torch.ones(2, 30, dtype=torch.bfloat16)).sum().backward()
    master.take_gradients()
    optimizer.step()
    n = sum(p.numel() for p in model.parameters())
    assert sum(measure_model_states(model, optimizer).values()) == n * MASTER_ADAM_FP32_GRADIENTS.total


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    assert measure_model_states(model, torch.optim.SGD(model.parameters()))["weights"] == 8 * 8 * 4
