"""ZeRO's formulas give the paper's tables."""

from __future__ import annotations

import pytest

from course_utils.zero.cost import PER_PARAMETER, STAGES, break_even_ranks, sent_per_rank, states_per_rank

# Rajbhandari et al. 2020, Table 1: GB on one device; ranks -> (parameters, stages 1, 2, 3)
TABLE_1: dict[int, list[tuple[float, ...]]] = {
    4: [(7.5e9, 52.5, 41.3, 30), (128e9, 896, 704, 512), (1e12, 7000, 5500, 4000)],
    16: [(7.5e9, 35.6, 21.6, 7.5), (128e9, 608, 368, 128), (1e12, 4750, 2875, 1000)],
    64: [(7.5e9, 31.4, 16.6, 1.88), (128e9, 536, 284, 32), (1e12, 4187, 2218, 250)],
    1024: [(7.5e9, 30.1, 15.1, 0.12), (128e9, 513, 257, 2), (1e12, 4011, 2013, 15.6)],
}


@pytest.mark.parametrize("ranks", TABLE_1)
def test_the_papers_table(ranks: int) -> None:
    for parameters, *expected in TABLE_1[ranks]:
        for stage, gigabytes in enumerate(expected, start=1):
            device, host = states_per_rank(parameters, ranks, stage)
            assert device.total / 1e9 == pytest.approx(gigabytes, rel=0.004, abs=0.01)
            assert host.total == 0
        assert states_per_rank(parameters, ranks, 0)[0].total == 16 * parameters


def test_one_rank_gains_nothing_and_loses_nothing() -> None:
    for precision in PER_PARAMETER:
        assert {states_per_rank(1e6, 1, stage, precision=precision)[0].total for stage in STAGES} == {16e6}
        assert all(sum(sent_per_rank(1e6, 1, stage, precision=precision).values()) == 0 for stage in STAGES)


def test_offload_moves_and_does_not_vanish() -> None:
    for stage in (1, 2, 3):
        plain, nothing = states_per_rank(1e9, 8, stage)
        device, host = states_per_rank(1e9, 8, stage, offload=True)
        assert nothing.total == 0
        assert device.total + host.total == plain.total
    device, host = states_per_rank(1e9, 8, 2, offload=True)
    assert (device.total, host.total) == (2e9, 14e9 / 8)
    assert states_per_rank(1e9, 8, 2, precision="fp32", offload=True)[1].total == 16e9 / 8  # a master copy of its own


def test_stages_send_2_2_2_3() -> None:
    size, ranks = 2e9, 64
    in_sizes = [sum(sent_per_rank(1e9, ranks, stage).values()) / (size * (ranks - 1) / ranks) for stage in STAGES]
    assert in_sizes == [2, 2, 2, 3]
    accumulated = [sum(sent_per_rank(1e9, ranks, s, micro_batches=8).values()) / (size * 63 / 64) for s in STAGES]
    assert accumulated == [2, 2, 9, 24]


def test_stage_3_beats_stage_2_with_offload_from_eight_ranks_on() -> None:
    assert break_even_ranks() == 8
    for ranks in (2, 4, 8, 16):
        offloaded = states_per_rank(1e9, ranks, 2, offload=True)[0].total
        sharded = states_per_rank(1e9, ranks, 3)[0].total
        assert (sharded > offloaded) == (ranks < 8)


def test_wrong_use_is_told() -> None:
    for stage in (-1, 4):
        with pytest.raises(ValueError, match=f"stage {stage}"):
            states_per_rank(1, 1, stage)
        with pytest.raises(ValueError, match=f"stage {stage}"):
            sent_per_rank(1, 1, stage)
    with pytest.raises(ValueError, match="stage 0"):
        states_per_rank(1, 2, 0, offload=True)
    with pytest.raises(ValueError, match="fp8"):
        states_per_rank(1, 2, 0, precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 ranks"):
        states_per_rank(1, 0, 1)
