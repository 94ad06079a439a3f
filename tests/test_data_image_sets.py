"""A data set is one entry: with it every program reads the set, once, and treats its images as they want to be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from course_utils.data import IMAGE_SETS, NAMES, Images, ImageSet, image_tensors, load_images, load_splits
from course_utils.vision.fine_tune import data as new_images
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.data import load_data
from course_utils.vision.from_scratch.predict import open_run
from course_utils.vision.from_scratch.train import train
from course_utils.vision.images import augmentation

CLASSES = ("bright on the left", "bright on the right", "bright above", "bright below")
TINY: dict[str, Any] = {
    **{"stem": (16, 16, 16), "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "precision": "fp32"},
    **{"data": "halves", "epochs": 2, "batch_size": 32, "validation": 0.25, "optimizer": "adamw", "lr": 0.01},
}


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour images of 10 x 12 pixels, one half of which is brighter. Mirrored, a left half would be a right one."""
    rng = np.random.default_rng(seed)
    y = np.arange(count, dtype=np.int32) % 4
    x = rng.integers(0, 120, (count, 3, 10, 12), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        half = (image[..., :6], image[..., 6:], image[:, :5], image[:, 5:])[label]
        half += 120
    return x, y


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Enters the set; counts how often it is read, and pixel statistics are worked out."""
    found: Counter[str] = Counter()

    def read() -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found["read"] += 1
        return {"train": halves(256, 0), "test": halves(60, 1)}

    def statistics(x: torch.Tensor, plain: Any = image_tensors.channel_statistics) -> Any:
        found["statistics"] += 1
        return plain(x)

    monkeypatch.setitem(IMAGE_SETS, "halves", ImageSet("halves", CLASSES, read, may_be_mirrored=False, padding=1))
    monkeypatch.setattr(image_tensors, "channel_statistics", statistics)
    return found


def test_a_new_set_trains_from_scratch_and_is_read_once(calls: Counter[str], tmp_path: Path) -> None:
    run = train(FromScratch(**TINY, output=str(tmp_path)))
    assert calls == {"read": 1, "statistics": 1}
    assert len(run.losses) == 2 * (192 // 32)
    assert run.losses[-1] < run.losses[0]
    assert all("validation_accuracy" in epoch for epoch in run.epochs)
    assert run.test is not None
    assert run.test.samples == 60
    config, model = open_run(tmp_path)
    assert config.data == "halves"
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 4)  # with its border


def test_a_new_set_is_never_mirrored_by_any_program(calls: Counter[str]) -> None:
    assert "halves" in NAMES
    assert load_images("halves", split="test").classes == CLASSES
    scratch, tuned = load_data(FromScratch(**TINY)), new_images.load_data(FineTune(data="halves"))
    assert scratch.validation is not None
    for part in (*scratch, tuned.train, tuned.validation, tuned.test):
        assert isinstance(part, Images)
        assert not part.may_be_mirrored
    left = tuned.train.x[tuned.train.y == 0].repeat(10, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    augment = augmentation("crop", tuned.train)
    assert augment is not None
    moved = augment(left, generator)
    assert moved[..., :5].min() > moved[..., 7:].max() - 1, "a left half is on the right"
    assert not torch.equal(moved, left)


def test_all_parts_are_normalised_with_the_statistics_of_what_is_trained_on(calls: Counter[str]) -> None:
    train_part, held, test = load_splits("halves", validation=0.25)
    assert held is not None
    assert (len(train_part), len(held), len(test)) == (192, 64, 60)
    assert calls == {"read": 1, "statistics": 1}
    for part in (train_part, held, test):
        torch.testing.assert_close(part.mean_and_std, image_tensors.channel_statistics(train_part.x))
    assert load_splits("halves").validation is None


def test_ones_own_images_keep_the_statistics_of_the_whole() -> None:
    x, y = map(torch.from_numpy, halves(40, 0))
    whole = Images(x, y.long(), CLASSES, "own")
    part = whole.take(whole.y == 0)
    torch.testing.assert_close(part.mean_and_std, image_tensors.channel_statistics(x))
    assert whole.mean_and_std is whole.mean_and_std, "worked out once"
    with pytest.raises(ValueError, match=r"own: y holds labels from 0 to 3, expected 0 to 1, .* 2 classes"):
        Images(x, y.long(), CLASSES[:2], "own")


def test_a_border_may_be_used_up_by_a_shift() -> None:
    """From scratch, 28 pixels get a border of 2; with the 2 that fashion may be shifted by, that is an eighth of 32."""
    assert load_data(FromScratch()).train.padding == 4
    assert not load_data(FromScratch(data="digits")).train.may_be_mirrored
