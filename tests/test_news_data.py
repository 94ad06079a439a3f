"""Titles to batches: every title once, dynamic padding and its mask, an order of seed and epoch, processes' shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from news_base import PLACES, make_base, one_thread, small  # noqa: F401
from torch import Tensor

from course_utils.data.news import LABELS, Title, index_to_label, load_titles
from course_utils.news.data import Encoded, batches, encode, in_order
from course_utils.news.model import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("news")
    make_base(folder / "base")
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> Encoded:
    built = build(small(folder))
    return encode(load_titles("train")[:101], built.tokenizer, built.pad)


def rows_of(batch: tuple[Tensor, Tensor]) -> list[tuple[int, ...]]:
    """The titles of a batch without their padding, labels behind."""
    x, y = batch
    return [(*ids[mask.bool()].tolist(), int(label)) for (ids, mask), label in zip(x, y, strict=True)]


def all_rows(data: Encoded) -> list[tuple[int, ...]]:
    return [(*ids, int(label)) for ids, label in zip(data.ids, data.labels, strict=True)]


def test_labels_go_round() -> None:
    assert [index_to_label(i) for i in range(18)] == list(LABELS)


def test_a_batch_is_as_wide_as_its_longest_title_and_the_mask_says_what_is_real(data: Encoded) -> None:
    x, y = data.batch([3, 50, 7])
    lengths = [len(data.ids[row]) for row in (3, 50, 7)]
    assert x.shape == (3, 2, max(lengths))
    assert x[:, 1].sum(1).tolist() == lengths
    assert (x[:, 0][x[:, 1] == 0] == data.pad).all()
    assert rows_of((x, y)) == [all_rows(data)[row] for row in (3, 50, 7)]


def test_titles_are_cut_at_max_length_and_counted(folder: Path) -> None:
    built = build(small(folder, max_length=20))
    cut = encode([Title("体育", "短"), Title("体育", "长" * 60), Title("体育", "十" * 18)], built.tokenizer, built.pad)
    assert [len(ids) for ids in cut.ids] == [3, 20, 20]
    assert cut.cut == 1
    assert {ids[0] for ids in cut.ids} == {2}  # [CLS]
    assert {ids[-1] for ids in cut.ids} == {3}  # [SEP] stays


def test_padding_changes_nothing(folder: Path, data: Encoded) -> None:
    """E0-67: the same title alone and beside a longer one; without the mask it is another number."""
    model = build(small(folder)).model.eval()
    short, long = sorted(range(len(data)), key=lambda row: len(data.ids[row]))[:: len(data) - 1]
    alone, together = data.batch([short])[0], data.batch([short, long])[0]
    assert together.shape[2] > alone.shape[2]
    with torch.inference_mode():
        torch.testing.assert_close(model(together)[:1], model(alone), rtol=1e-5, atol=1e-5)
        together[:, 1] = 1
        assert (model(together)[:1] - model(alone)).abs().max() > 1e-2


def test_an_epoch_holds_every_title_once_in_an_order_of_seed_and_epoch(data: Encoded) -> None:
    def epoch(seed: int, number: int) -> list[tuple[int, ...]]:
        return [row for batch in batches(data, 8, seed=seed, epoch=number) for row in rows_of(batch)]

    first = epoch(0, 0)
    assert sorted(first) == sorted(all_rows(data)) == sorted(epoch(0, 1)) == sorted(epoch(1, 0))
    torch.manual_seed(77)
    assert first == epoch(0, 0)
    assert first != epoch(0, 1)
    assert first != epoch(1, 0)


def test_titles_of_like_length_share_a_batch(data: Encoded) -> None:
    def padding(source: list[tuple[Tensor, Tensor]]) -> float:
        return sum(int((x[:, 1] == 0).sum()) for x, _ in source)

    assert padding(list(batches(data, 8, seed=0, epoch=0))) < 0.5 * padding(list(in_order(data, 8)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_batch(data: Encoded, world_size: int) -> None:
    """101 titles in batches of 8 leave 5: of these, each of 4 processes takes 1, each of 2 takes 2."""
    alone = [rows_of(batch) for batch in batches(data, 8, seed=0, epoch=3)]
    shares = [
        [rows_of(batch) for batch in batches(data, 8, seed=0, epoch=3, rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    for i, whole in enumerate(alone):
        parts = [share[i] for share in shares]
        assert len({len(part) for part in parts}) == 1
        assert len(whole) - sum(map(len, parts)) == len(whole) % world_size
        assert {row for part in parts for row in part} <= set(whole)
        assert len({row for part in parts for row in part}) == sum(map(len, parts))


def test_in_order_is_in_order(data: Encoded) -> None:
    assert [row for batch in in_order(data, 7) for row in rows_of(batch)] == all_rows(data)


def test_there_is_room_for_max_length_and_no_more(folder: Path) -> None:
    build(small(folder, max_length=PLACES))
    build(small(folder, max_length=PLACES, tactic="prefix"))
    build(small(folder, max_length=PLACES - 10, tactic="prompt"))
    with pytest.raises(ValueError, match="max_length is 41, expected 3 to 40: this base has room for so many tokens"):
        build(small(folder, max_length=PLACES + 1))
    with pytest.raises(ValueError, match="max_length is 40, expected 3 to 30"):
        build(small(folder, max_length=PLACES, tactic="prompt"))
    with pytest.raises(ValueError, match="length is 500, which leaves a title no room in this base: choose 37 at most"):
        build(small(folder, tactic="prompt", length=500))
    with pytest.raises(ValueError, match="rank is 33, above the width of this base, 32"):
        build(small(folder, rank=33))
