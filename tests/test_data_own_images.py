"""Pictures of one's own: a folder for each class, or arrays, of any size and colour; one bad picture refuses all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils.data import Images, load_images, load_splits
from course_utils.data.cifar import CIFAR100_CLASSES
from course_utils.data.own_images import read_own, read_picture
from course_utils.training import checkpoint
from course_utils.training.task import RunResult
from course_utils.vision.fine_tune import predict as tuned_predict
from course_utils.vision.fine_tune import train as tuning
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.from_scratch import predict as scratch_predict
from course_utils.vision.from_scratch import train as scratch
from course_utils.vision.from_scratch.config import FromScratch

CLASSES = ("above", "below", "left", "right")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(label: int, rng: np.random.Generator, height: int, width: int, colour: bool = True) -> np.ndarray:
    """One half is brighter: that is the class."""
    x = rng.integers(0, 100, (height, width, 3 if colour else 1), dtype=np.uint8)
    half = (x[: height // 2], x[height // 2 :], x[:, : width // 2], x[:, width // 2 :])[label]
    half += 130
    return x if colour else x[..., 0]


def pictures(root: Path, each: int, size: tuple[int, int] = (20, 24), colour: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(picture(label, rng, *size, colour)).save(root / name / f"{i}.png")
    return root


def test_a_folder_of_classes_is_split_by_class(tmp_path: Path) -> None:
    root = pictures(tmp_path / "halves", 30)
    (root / ".DS_Store").write_text("")
    train, held, test = load_splits(str(root), validation=0.1)
    assert held is not None
    assert train.classes == CLASSES
    assert [Counter(part.y.tolist()) for part in (train, held, test)] == [
        Counter(dict.fromkeys(range(4), n)) for n in (21, 3, 6)
    ]
    assert (train.x.shape, train.name, train.may_be_mirrored) == (torch.Size([84, 3, 20, 24]), "halves", False)
    for part in (train, held, test):
        assert part.files is not None
        assert all(name.startswith(CLASSES[y] + "/") for name, y in zip(part.files, part.y.tolist(), strict=True))
        assert torch.equal(part.mean_and_std[0], train.mean_and_std[0])
    assert len({name for part in (train, held, test) for name in part.files}) == 120  # type: ignore[union-attr]
    again = load_splits(str(root), validation=0.1)
    assert torch.equal(again.test.x, test.x)


def test_parts_that_are_there_are_taken(tmp_path: Path) -> None:
    for part, each in (("train", 5), ("val", 2), ("test", 3)):
        pictures(tmp_path / part, each)
    train, held, test = load_splits(str(tmp_path), validation=0.1)
    assert held is not None
    assert [len(part) for part in (train, held, test)] == [20, 8, 12]
    (tmp_path / "test" / "askew").mkdir()
    with pytest.raises(ValueError, match="holds the class 'askew', which the training pictures have not"):
        load_splits(str(tmp_path))


def test_the_same_picture_is_on_one_side(tmp_path: Path) -> None:
    root = pictures(tmp_path, 10)
    for i in range(10, 30):
        (root / "left" / f"{i}.png").write_bytes((root / "left" / f"{i % 10}.png").read_bytes())
    train, _, test = load_splits(str(root))
    assert not {x.numpy().tobytes() for x in train.x} & {x.numpy().tobytes() for x in test.x}


@pytest.mark.parametrize(
    ("size", "colour", "options", "shape"),
    [
        ((20, 24), True, {}, (3, 20, 24)),
        ((20, 24), False, {}, (1, 20, 24)),
        ((200, 100), True, {}, (3, 64, 64)),
        ((200, 100), True, {"pixels": 32, "channels": "grey"}, (1, 32, 32)),
        ((20, 24), False, {"channels": "colour"}, (3, 20, 24)),
    ],
)
def test_any_size_and_colour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: Any, colour: bool, options: Any, shape: tuple[int, ...]
) -> None:
    """What is changed is told."""
    root = pictures(tmp_path, 3, size, colour)
    assert read_own(root, **options).arrays["train"][0].shape == (12, *shape)
    told = [line for line in caplog.messages if f"brought to {shape[1]} x {shape[2]} pixels" in line]
    assert len(told) == (shape[1:] != size)


def test_pictures_of_every_mode_come_to_bytes(tmp_path: Path) -> None:
    """16 bits are scaled and not cut; behind what is transparent it is white; a turned photograph is upright."""
    x = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(x).save(tmp_path / "deep.png")
    assert np.array_equal(read_picture(tmp_path / "deep.png", 1, (8, 8))[0], (x >> 8).astype(np.uint8))
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", 3, (8, 8)) == 255).all()
    turned = Image.fromarray(picture(0, np.random.default_rng(0), 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png", 3, (16, 8))[0, :, 4:].min() >= 130


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("damaged", r"left/3\.png is no picture that can be read"),
        ("cut", r"left/3\.png is no picture that can be read"),
        ("empty class", r"none holds no picture"),
        ("one class", "holds 1 classes, expected 2 or more"),
        ("nothing", "holds no folders with pictures"),
        ("too few", "too few to hold some out for test"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, wrong: str, words: str) -> None:
    import shutil

    root = pictures(tmp_path / "set", 1 if wrong == "too few" else 6)
    file = root / "left" / "3.png"
    if wrong == "damaged":
        file.write_bytes(b"no picture")
    elif wrong == "cut":
        file.write_bytes(file.read_bytes()[:300])
    elif wrong == "empty class":
        (root / "none").mkdir()
    for name in CLASSES:
        if wrong == "nothing" or (wrong == "one class" and name != "left"):
            shutil.rmtree(root / name)
    with pytest.raises(ValueError, match=words):
        load_splits(str(root))


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 9, 7), dtype=np.uint8), np.arange(40) % 2 * 5
    np.savez(tmp_path / "a.npz", x=x, y=y)
    train, _, test = load_splits(str(tmp_path / "a.npz"))
    assert (train.classes, train.x.shape[1:], len(train), len(test)) == (("0", "5"), torch.Size([1, 9, 7]), 32, 8)
    words = np.array(["cat", "dog"])[y // 5]
    np.savez(
        tmp_path / "b.npz",
        x_train=x[..., None].repeat(3, 3),
        y_train=words,
        x_test=x[:4, ..., None].repeat(3, 3),
        y_test=words[:4],
    )
    train, _, test = load_splits(str(tmp_path / "b.npz"))
    assert (train.classes, train.x.shape, len(test)) == (("cat", "dog"), torch.Size([40, 3, 9, 7]), 4)
    for change, said in (
        ({"x_train": x / 255}, r"x_train is float64 \[40, 9, 7\], expected uint8"),
        ({"y_train": y[:3]}, r"y_train is int64 \[3\], expected one whole number"),
        ({"y_test": y[:4] + 1, "x_test": x[:4]}, "y_test holds the label 1, which is no class of x_train"),
        ({"x_train": None}, "has no x_train and y_train"),
    ):
        arrays = {key: value for key, value in ({"x_train": x, "y_train": y} | change).items() if value is not None}
        np.savez(tmp_path / "c.npz", **arrays)
        with pytest.raises(ValueError, match=said):
            load_splits(str(tmp_path / "c.npz"))
    with pytest.raises(FileNotFoundError, match="there is no folder or file"):
        load_splits(str(tmp_path / "nowhere.npz"))


def test_cifar_100(tmp_path: Path) -> None:
    assert (len(set(CIFAR100_CLASSES)), list(CIFAR100_CLASSES)) == (100, sorted(CIFAR100_CLASSES))
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 255, (100, 32, 32, 3), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "c.npz", **arrays, y_train=np.arange(100), y_test=np.arange(100))
    found = load_images("cifar100", root=tmp_path / "c.npz")
    assert (len(found.classes), found.y.max()) == (100, 99)
    with pytest.raises(ValueError, match="holds labels from 0 to 99, expected 0 to 9"):
        load_images("cifar10", root=tmp_path / "c.npz")
    with pytest.raises(FileNotFoundError, match=r"holds no folder cifar-100-python: unpack cifar-100-python\.tar\.gz"):
        load_images("cifar100", root=tmp_path)


# ---- runs --------------------------------------------------------------------------------------------------------


TINY = "--stem 16 16 16 --patch-size 8 --width 16 --depth 1 --heads 2 --precision fp32 --optimizer adamw --lr 0.01"


def judged(lines: list[str]) -> tuple[float, str]:
    line = next(line for line in lines if "test: accuracy" in line)
    return float(line.split("accuracy ")[1].split(",")[0]), line


def test_from_scratch_in_two_commands_from_an_empty_folder(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    pictures(Path("halves"), 40)
    words = "--data halves --epochs 8 --batch-size 16 --validation 0.1 --processes 1 --output run --augment none"
    scratch.main([*words.split(), *TINY.split()])
    accuracy, line = judged(caplog.messages)
    assert accuracy > 0.9
    assert "test part of halves (32 images, SHA-256" in line
    split = json.loads(Path("run/split.json").read_text())
    assert {part: len(files) for part, files in split.items()} == {"train": 112, "validation": 16, "test": 32}
    facts = checkpoint.load("run/best.safetensors").extra["facts"]
    assert facts["names"] == list(CLASSES)
    assert facts["validation data"].startswith("validation part of halves (16 images")
    scratch_predict.main(["--run", "run", *(f"halves/{name}/0.png" for name in CLASSES)])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CLASSES)


def test_fine_tuning_on_pictures_in_grey(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The embedded base reads grey images; colour ones come to it as grey, when that is asked for."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    pictures(Path("halves"), 20)
    words = ["--data", "halves", "--epochs", "2", "--batch-size", "16", "--tactic", "head", "--output", "run"]
    with pytest.raises(SystemExit, match=r"has 3 channels .* or --channels grey"):
        tuning.main(words)
    tuning.main([*words, "--channels", "grey"])
    accuracy, line = judged(caplog.messages)
    assert "test part of halves (16 images" in line
    assert accuracy > 0.4
    tuned_predict.main(["--run", "run", "halves/left/0.png"])
    assert capsys.readouterr().out.endswith("halves/left/0.png\n")


def test_images_given_in_python_are_chosen_by_their_own(tmp_path: Path) -> None:
    """Nothing of the recipe's set is looked at, though it is not the one that was given."""
    splits = load_splits(str(pictures(tmp_path / "halves", 40)))
    config = FromScratch(
        stem=(16, 16, 16), patch_size=8, width=16, depth=1, heads=2, precision="fp32", optimizer="adamw", lr=0.01,
        epochs=8, batch_size=16, validation=0.1, output=str(tmp_path / "run"), augment="none", image_size=24,
    )  # fmt: skip
    images = Images(splits.train.x, splits.train.y, CLASSES, "mine")
    found: RunResult = scratch.train(config, images, splits.test)
    assert found.validation is not None
    assert found.validation.accuracy > 0.8
    facts = checkpoint.load(tmp_path / "run" / "best.safetensors").extra["facts"]
    assert facts["validation data"].startswith("validation part of mine (")


def test_settings_of_paths_are_refused_for_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion").mkdir()
    assert FineTune(data="fashion").data == "fashion", "a folder of that name is not taken for the set"
    assert FineTune(data="./fashion").data == str(tmp_path / "fashion")
    with pytest.raises(ValueError, match="are for images of a path, and 'digits' is a set by name"):
        load_splits("digits", pixels=32)
    with pytest.raises(ValueError, match=r"there is no image set 'mnist': .* or give the path of a folder"):
        FineTune.load(data="mnist")
