"""Packed and padded documents: each token once, nothing across documents, and one loss per token for any sharing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data.packing import IGNORED, pack, pad
from course_utils.launch import launch
from course_utils.training import make_scaler, train_step

END = 9
DOCUMENTS = [[1, 2, 3], [4], [], [5, 6, 7, 8, 1, 2, 3]]


def test_targets_are_the_next_tokens_and_stay_in_their_document():
    rows = pack(DOCUMENTS, 6, END)
    assert rows.input_ids.tolist() == [[9, 1, 2, 3, 9, 4], [9, 9, 5, 6, 7, 8], [1, 2, 3, 9, 9, 9]]
    assert rows.targets.tolist() == [[1, 2, 3, 9, 4, 9], [9, 5, 6, 7, 8, 1], [2, 3, 9, -100, -100, -100]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 0, 1, 2, 3, 4], [0, 1, 2, 0, 0, 0]]
    assert rows.documents.tolist() == [[1, 1, 1, 1, 2, 2], [1, 2, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("length", [1, 2, 5, 15, 16, 100])
def test_each_token_is_a_target_once_however_the_rows_are_cut(length):
    rows = pack(DOCUMENTS, length, END)
    expected = [token for document in DOCUMENTS for token in (*document, END)]
    assert rows.targets[rows.targets != IGNORED].tolist() == expected
    assert rows.tokens == 15
    assert rows.input_ids.shape == (-(-15 // length), length)


def test_one_document_a_row_has_the_same_targets():
    rows = pad(DOCUMENTS, END)
    assert rows.input_ids.shape == (4, 8)
    assert rows.targets[rows.targets != IGNORED].tolist() == pack(DOCUMENTS, 6, END).targets.flatten()[:15].tolist()
    assert rows.documents.sum(dim=1).tolist() == [4, 2, 1, 8]
    assert pad(DOCUMENTS, END, length=3).input_ids.shape == (2 + 1 + 1 + 3, 3)


def test_nothing_to_lay_out_is_refused():
    with pytest.raises(ValueError, match="0 documents"):
        pack([], 6, END)
    with pytest.raises(ValueError, match="rows of 0"):
        pack(DOCUMENTS, 0, END)


def gradients(shares: list[list[int]], processes: int = 1) -> list[float]:
    """Of a small model after a step; ``shares`` are the rows of each micro-batch of this process."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10), nn.Flatten(0, 1))
    model.double()
    rows = pad(DOCUMENTS * 2, END)
    batches = [(rows.input_ids[share], rows.targets[share].flatten()) for share in shares]
    replica = nn.parallel.DistributedDataParallel(model) if processes > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    result = train_step(replica, optimizer, batches, scaler=make_scaler("fp32"), processes=processes)
    return [result.loss, *(p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None)]


def shared(choices: list[list[list[list[int]]]]) -> list[list[float]]:
    """The same for this process's share in each of several ways to share."""
    rank = torch.distributed.get_rank()
    return [gradients(shares[rank], len(shares)) for shares in choices]


WHOLE = [[0, 1, 2, 3, 4, 5, 6, 7]]
FOUR = [[3], [2, 6], [0, 7, 1], [4, 5]]  # 8, 2, 14 and 6 of the 30 tokens


def test_the_loss_is_per_token_however_the_rows_are_shared():
    whole = gradients(WHOLE)
    rows = pad(DOCUMENTS * 2, END)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10)).double()
    sums = F.cross_entropy(model(rows.input_ids).flatten(0, 1), rows.targets.flatten(), reduction="sum")
    assert whole[0] == pytest.approx(sums.item() / 30, rel=1e-6)
    assert gradients(FOUR) == pytest.approx(whole, rel=1e-6)
    # The mean of the micro-batches' means, which is often taken instead, is another number.
    means = [gradients([share])[0] for share in FOUR]
    assert abs(sum(means) / 4 - whole[0]) > 1e-3


def test_ranks_share_the_tokens_as_micro_batches_do():
    whole = gradients(WHOLE)
    choices = [[[[0, 1, 2, 3]], [[4, 5, 6, 7]]], [[[2]], [[0, 1, 3, 4, 5, 6, 7]]], [FOUR[:2], FOUR[2:]]]
    for results in launch(shared, 2, choices):
        for result in results:
            assert result == pytest.approx(whole, rel=1e-6)
