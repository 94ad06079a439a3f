"""The ledgers against what real optimizers hold after a step."""

import pytest
import torch
from torch import nn

from course_utils.measure import held
from course_utils.models.encoder import Encoder, EncoderConfig
from course_utils.plan.memory import (
    FP32_ADAM,
    LEDGERS,
    MASTER_ADAM_FP32_GRADIENTS,
    PURE_BF16_ADAM,
    encoder_layer_activations,
    saved_for_backward,
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
    assert held(model, optimizer) == (
        n * ledger.weights,
        n * ledger.gradients,
        n * ledger.master_weights,
        n * ledger.moments,
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
    with saved_for_backward(encoder) as saved, torch.autocast("cpu", enabled=autocast):
        encoder(x)
    assert saved.activations == encoder_layer_activations(config, 5 * 17, autocast=autocast)
    matrices = sum(p.numel() for p in encoder.parameters() if p.dim() == 2)
    assert saved.weight_copies == (2 * matrices if autocast else 0)
    assert saved.total == sum(bytes_ for _, _, bytes_ in saved.shapes)


def test_what_is_saved_counts_once_and_parameters_do_not_count():
    layer = nn.Linear(8, 8, bias=False)
    x = torch.randn(3, 8, requires_grad=True)
    with saved_for_backward(layer) as saved:
        layer(x) * layer(x)  # both products save x; the multiplication saves its two factors
    assert saved.activations == 3 * (3 * 8 * 4)
