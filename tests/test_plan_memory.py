"""The model states against what real optimizers hold after a step."""

import pytest
import torch
from torch import nn

from course_utils.measure import Ledger, held
from course_utils.models.encoder import Encoder, EncoderConfig
from course_utils.plan.memory import (
    FP32_ADAM,
    MASTER_ADAM_FP32_GRADIENTS,
    MODEL_STATES,
    PURE_BF16_ADAM,
    encoder_layer_activations,
)
from course_utils.precision.scaling import MasterWeights


def test_the_published_totals():
    assert [states.total for states in MODEL_STATES] == [16, 16, 16, 18, 20, 8]


@pytest.mark.parametrize(("dtype", "states"), [(torch.float32, FP32_ADAM), (torch.bfloat16, PURE_BF16_ADAM)])
def test_a_real_adam_holds_what_is_said_of_it(dtype, states):
    model = nn.Linear(30, 50).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 30, dtype=dtype)).sum().backward()
    optimizer.step()
    n = sum(p.numel() for p in model.parameters())
    assert held(model, optimizer) == (
        n * states.weights,
        n * states.gradients,
        n * states.master_weights,
        n * states.moments,
    )


def test_master_weights_with_fp32_gradients_are_18_bytes():
    model = nn.Linear(30, 50).to(torch.bfloat16)
    master = MasterWeights(model)
    optimizer = torch.optim.AdamW(master.parameters)
    model(torch.ones(2, 30, dtype=torch.bfloat16)).sum().backward()
    master.gradients_from_model()
    optimizer.step()
    n = sum(p.numel() for p in model.parameters())
    assert held(model, optimizer).total == n * MASTER_ADAM_FP32_GRADIENTS.total


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    assert held(model).parameters == 8 * 8 * 4


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("width", "heads", "mlp_ratio"), [(64, 4, 2.0), (48, 3, 4.0), (96, 2, 1.5)])
def test_an_encoder_layer_saves_what_the_formula_says(width, heads, mlp_ratio, autocast):
    config = EncoderConfig(width=width, heads=heads, depth=1, mlp_ratio=mlp_ratio)
    encoder = Encoder(config)
    x = torch.randn(5, 17, width, requires_grad=True)
    with Ledger(encoder) as ledger, torch.autocast("cpu", enabled=autocast):
        encoder(x)
    copies = sum(saved.nbytes for saved in ledger.saved_tensors if saved.weight_copy)
    matrices = sum(p.numel() for p in encoder.parameters() if p.dim() == 2)
    assert copies == (2 * matrices if autocast else 0)
    assert ledger.saved_peak - copies == encoder_layer_activations(config, 5 * 17, autocast=autocast)
    assert ledger.saved_peak == sum(saved.nbytes for saved in ledger.saved_tensors)
