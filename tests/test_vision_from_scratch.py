"""From scratch on any number of processes: the same run, counted exactly, killed and resumed without a trace."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from course_utils.data import Images, load_images
from course_utils.launch import Process, RankFailed, distributed_from_environment, launch
from course_utils.launch.agree import agree
from course_utils.launch.launch import _context
from course_utils.models import ViT, ViTConfig
from course_utils.models.stems import ConvStem, stem_macs
from course_utils.training import Metrics, Muon, choose_precision, processes
from course_utils.training import evaluate as evaluate_batches
from course_utils.training import run as running
from course_utils.training.folder import LAST
from course_utils.training.optim import averaging
from course_utils.training.task import RunResult
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.data import load_data, training_batches
from course_utils.vision.from_scratch.model import Mirrored, build_model
from course_utils.vision.from_scratch.optimizer import make_optimizer
from course_utils.vision.from_scratch.predict import open_run
from course_utils.vision.from_scratch.train import main, train
from course_utils.vision.images import whole_batches

Changes = dict[str, Any]
TINY: Changes = {
    **{"data": "digits", "stem": (16, 16, 16), "patch_size": 4, "width": 16, "depth": 1, "heads": 2},
    **{"epochs": 2, "batch_size": 64, "limit": 320, "precision": "fp32", "output": None},
}  # two epochs of five steps
SIZES = (1, 5, 97, 250)  # of sets to evaluate, in batches of 16: not one of them can be shared out evenly


def tiny(**changes: Any) -> FromScratch:
    return FromScratch(**{**TINY, **changes})


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def evaluate(model: Any, images: Images, process: Process, batch_size: int = 250) -> Metrics:
    """All images, shared out over the processes."""
    return evaluate_batches(model, whole_batches(images, process, batch_size), processes=process.world_size)


def what_a_rank_sees(world_size: int) -> dict[str, Any]:
    """A run, exact counts, and the errors that one process would have alone."""
    config = tiny(augment="strong", ema=0.9)
    run = train(config)
    with distributed_from_environment() as process:
        images = load_images("digits", split="test")
        model = build_model(config, (1, 8, 8), 10)
        counts = []
        for size in SIZES:
            found = evaluate(model, images.take(slice(size)), process, batch_size=16)
            counts.append((round(found.accuracy * found.samples), found.samples, found.loss))

        def read() -> None:
            if process.rank == world_size - 1:
                raise FileNotFoundError("no such disk here")

        errors = []
        for call in (partial(agree, read), partial(train, tiny(batch_size=max(1, world_size - 1)))):
            try:
                call()
                errors.append("")
            except (ValueError, OSError) as error:
                errors.append(str(error))
    return {"run": run, "counts": counts, "errors": errors}


def seen_by_all(world_size: int) -> list[dict[str, Any]]:
    return launch(what_a_rank_sees, world_size, world_size, show=False)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    torch.set_num_threads(1)
    return what_a_rank_sees(1)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_is_the_same_run(alone: dict[str, Any], world_size: int) -> None:
    everybody = seen_by_all(world_size)
    reference: RunResult = alone["run"]
    assert len(reference.losses) == 10
    for mine in everybody:
        run: RunResult = mine["run"]
        torch.testing.assert_close(torch.tensor(run.losses), torch.tensor(reference.losses), atol=2e-5, rtol=0)
        assert run.losses == everybody[0]["run"].losses, "every process reports the mean over all"
        assert mine["counts"] == everybody[0]["counts"]
        for (right, seen, loss), (right_alone, seen_alone, loss_alone) in zip(
            mine["counts"], alone["counts"], strict=True
        ):
            assert (right, seen) == (right_alone, seen_alone)
            assert loss == pytest.approx(loss_alone, abs=1e-9)
    assert [mine["errors"][0] for mine in everybody] == [f"rank {world_size - 1}: no such disk here"] * world_size
    assert all("cannot be split over" in mine["errors"][1] for mine in everybody)


def test_evaluation_counts_each_image_once(alone: dict[str, Any]) -> None:
    assert [seen for _, seen, _ in alone["counts"]] == list(SIZES)
    images = load_images("digits", split="test").take(slice(97))
    model = build_model(tiny(), (1, 8, 8), 10).train()
    with distributed_from_environment() as process:
        found = evaluate(model, images, process, batch_size=16)
    assert model.training, "it was training before"
    mean, std = images.statistics or (torch.zeros(1), torch.ones(1))
    with torch.no_grad():
        logits = model.eval()((images.x / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
    loss = torch.nn.functional.cross_entropy(logits, images.y).item()
    assert found.loss == pytest.approx(loss, abs=1e-5), "the mean over images, not over batches of 16 and one of 1"


def test_mirror_images_are_judged_together(tmp_path: Path) -> None:
    images = load_images("digits", split="test").take(slice(97))
    mirrored = replace(images, x=images.x.flip(-1))
    model = build_model(tiny(), (1, 8, 8), 10)
    with distributed_from_environment() as process:
        one, other = (evaluate(model, seen, process) for seen in (images, mirrored))
        both, same = (evaluate(Mirrored(model), seen, process) for seen in (images, mirrored))
    assert one.loss != pytest.approx(other.loss, abs=1e-4), "the model tells an image from its mirror image"
    assert both.loss == pytest.approx(same.loss, abs=1e-6)
    assert both.loss < (one.loss + other.loss) / 2, "the loss of a mean is below the mean of losses"
    assert both.samples == 97
    train_images, _, test = load_data(tiny())
    for may_be_mirrored in (True, False):  # digits may not: a mirrored 2 is none
        folder = tmp_path / str(may_be_mirrored)
        images = replace(train_images, may_be_mirrored=may_be_mirrored)
        run = train(tiny(mirror=True, output=str(folder)), images, test)
        _, model = open_run(folder)
        with distributed_from_environment() as process:
            seen = replace(test, statistics=images.mean_and_std)
            assert run.test == evaluate(Mirrored(model) if may_be_mirrored else model, seen, process)


# Killed and resumed


def dying(after: int, config: FromScratch) -> None:
    """Train, and be killed at the ``after``-th of all steps and all flushes to the disk."""
    count = 0

    def fatal(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == after:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return called

    running.train_step = fatal(running.train_step)  # type: ignore[assignment]
    os.fsync = fatal(os.fsync)  # called when the new checkpoint is written, and again when it is in its place
    train(config)


def killed_ten_times(folder: Path, moments: list[int]) -> None:
    """A chain of processes of which each goes on where the one before was killed; then the rest of the run.

    Called in a process of its own that has not trained yet, so that it can be forked: nothing is imported anew.
    """
    torch.set_num_threads(1)
    for moment in moments:
        child = os.fork()
        if child == 0:
            try:
                dying(moment, tiny(**KILLED, output=str(folder), resume=(folder / LAST).exists()))
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    train(tiny(**KILLED, output=str(folder), resume=True))


KILLED: Changes = {"epochs": 8, "save_every": 1, "augment": "strong", "drop_path": 0.2, "depth": 2, "ema": 0.9}


def tensors(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / LAST)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_ten_kills_leave_no_trace(tmp_path: Path) -> None:
    moments = [random.Random(7).randint(3, 12) for _ in range(10)]
    chain = _context("forkserver").Process(target=killed_ten_times, args=(tmp_path / "killed", moments))
    chain.start()
    chain.join(240)
    assert chain.exitcode == 0
    whole = train(tiny(**KILLED, output=str(tmp_path / "whole")))
    assert whole.steps == 40
    assert equal(tensors(tmp_path / "killed"), tensors(tmp_path / "whole")), "weights, averages and Adam's moments"
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("killed", "whole")]
    assert histories[0]["losses"] == histories[1]["losses"]
    assert len(histories[0]["epochs"]) == 8
    assert not [p for p in (tmp_path / "whole").iterdir() if p.name.startswith(".")]


def stopped_and_resumed(folder: str) -> tuple[bool, int, bool]:
    """Rank 1 alone is told to end; both do, at the same step; then the run goes on."""
    step = running.train_step

    def told(*arguments: Any, **named: Any) -> Any:
        if dist.get_rank() == 1 and len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        calls.append(1)
        return step(*arguments, **named)

    calls: list[int] = []
    running.train_step = told
    first = train(tiny(**TWO, output=folder))
    running.train_step = step
    second = train(tiny(**TWO, output=folder, resume=True))
    return first.stopped, first.steps, second.stopped


TWO: Changes = {"drop_path": 0.2, "depth": 2, "save_every": 3}


def test_stop_kill_and_another_number_of_processes(tmp_path: Path) -> None:
    stopped, killed, whole = (tmp_path / name for name in ("stopped", "killed", "whole"))
    launch(train, 2, tiny(**TWO, output=str(whole)), show=False)
    assert launch(stopped_and_resumed, 2, str(stopped), show=False) == [(True, 4, False)] * 2
    assert equal(tensors(stopped), tensors(whole))

    with pytest.raises(RankFailed, match="SIGKILL"):
        launch(dying, 2, 8, tiny(**TWO, output=str(killed)), show=False)
    at_kill = tensors(killed)
    assert not equal(at_kill, tensors(whole))
    resumed = launch(train, 2, tiny(**TWO, output=str(killed), resume=True), show=False)[0]
    assert equal(tensors(killed), tensors(whole))
    assert resumed.test is not None


def test_begun_alone_finished_by_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = train(tiny())
    step, calls = running.train_step, []

    def told(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **named)

    monkeypatch.setattr(running, "train_step", told)
    first = train(tiny(output=str(tmp_path)))
    assert (first.stopped, first.steps, first.test) == (True, 7, None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "outside, the signal ends a program as ever"
    second = launch(train, 2, tiny(output=str(tmp_path), resume=True), show=False)[0]
    torch.testing.assert_close(torch.tensor(second.losses), torch.tensor(reference.losses), atol=2e-5, rtol=0)
    config, model = open_run(tmp_path)
    assert config.batch_size == 64
    with distributed_from_environment() as process:
        assert evaluate(model, load_images("digits", split="test"), process).accuracy == second.test.accuracy


# What is refused, before a file is written


def cifar(path: Path, **changes: np.ndarray) -> str:
    """A set of eight colour images under the names that are expected."""
    arrays = {"x_train": np.zeros((8, 32, 32, 3), np.uint8), "y_train": np.arange(8)}
    arrays["x_train"][..., ::2, :] = 255
    arrays |= {"x_test": arrays["x_train"], "y_test": arrays["y_train"], **changes}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def truncated(path: Path) -> str:
    cifar(path)
    path.write_bytes(path.read_bytes()[:-3000])
    return str(path)


BAD: dict[str, tuple[Callable[[Path], Changes], str]] = {
    "no data": (lambda p: {"data": "cifar10", "data_dir": str(p / "none.npz")}, "there is no file"),
    "no folder given": (lambda p: {"data": "cifar10", "data_dir": None}, "needs data_dir"),
    "truncated": (lambda p: {"data": "cifar10", "data_dir": truncated(p / "a.npz")}, "cannot be read as CIFAR-10"),
    "wrong size": (
        lambda p: {"data": "cifar10", "data_dir": cifar(p / "b.npz", x_train=np.zeros((8, 28, 28, 3), np.uint8))},
        "expected uint8",
    ),
    "patch does not fit": (lambda p: {"patch_size": 16, "image_size": 24}, "image height 24 is no multiple"),
    "stem does not fit": (lambda p: {"patch_size": 2}, "behind a stem of stride 4"),
    "stem of two": (lambda p: {"stem": (16, 16)}, "three multiples of 16"),
    "batch too large": (lambda p: {"batch_size": 512}, "make no batch of 512"),
    "limit too large": (lambda p: {"limit": 10**6}, "choose fewer"),
    "unknown key": (lambda p: {"learning_rate": 1}, "did you mean|unknown key"),
    "no preset": (lambda p: {"preset": "huge"}, "preset is 'huge'"),
    "floor above the rate": (lambda p: {"lr_min": 1.0}, "above the largest rate"),
    "nothing to resume": (lambda p: {"resume": True}, "nothing to resume"),
    "batch and processes": (lambda p: {"processes": 3}, "cannot be split over 3 processes"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    make, said = BAD[case]
    output = tmp_path / "run"
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(FromScratch.checked({**TINY, "output": str(output), **make(tmp_path)}, "the options"))
    assert not output.exists()


@pytest.mark.parametrize(("data", "patch", "side", "border"), [("fashion", 8, 32, 2), ("fashion", 4, 28, 0)])
def test_a_border_makes_up_the_patches_of_embedded_images(data: str, patch: int, side: int, border: int) -> None:
    config = FromScratch(data=data, patch_size=patch)
    splits = load_data(config)
    for split, images in (("train", splits.train), ("test", splits.test)):
        x, plain = images.x, load_images(config.data, split=split).x
        inside = slice(border, side - border)
        assert x.shape[2:] == (side, side)
        assert torch.equal(x[:, :, inside, inside], plain)
        assert x.sum() == plain.sum()


def test_without_a_choice_the_embedded_images_train() -> None:
    """What the command does when it is given nothing, but for its length."""
    result = train(FromScratch(epochs=1, limit=512, output=None))
    assert result.test is not None
    assert result.test.samples == 2000


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(tiny(output=str(folder), epochs=1, save_every=2))
    return folder


def other(images: Images, **changes: Any) -> Images:
    return Images(**{**vars(images), **changes})


def test_a_run_is_neither_lost_nor_mixed_up(finished: Path) -> None:
    digits = load_images("digits").take(slice(320))
    before = (finished / LAST).read_bytes()
    same: Changes = {"output": str(finished), "epochs": 1, "save_every": 2}
    refusals: dict[str, tuple[Changes, Images | None]] = {
        "holds a run already": ({}, None),
        "lr was 0.002 and is 0.1": ({"resume": True, "lr": 0.1}, None),
        "classes was 10 and is 12": (
            {"resume": True},
            other(digits, classes=(*digits.classes, "a", "b")),
        ),
        r"shape was \[1, 8, 8\] and is \[1, 16, 16\]": (
            {"resume": True, "limit": None},
            other(digits, x=digits.x.repeat_interleave(2, 2).repeat_interleave(2, 3)),
        ),
        "images was 320 and is 64": ({"resume": True}, digits.take(slice(64))),
        "precision was 'fp32' and is 'bf16'": ({"resume": True, "precision": "bf16"}, None),
    }
    for said, (changes, images) in refusals.items():
        with pytest.raises(ValueError, match=said):
            train(tiny(**{**same, **changes}), images)
        assert (finished / LAST).read_bytes() == before


def test_checkpoints_that_cannot_be_read(finished: Path, tmp_path: Path) -> None:
    whole = (finished / LAST).read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    for content, said in ((whole[:5000], "truncated"), (bytes(flipped), "damaged"), (b"", "is empty")):
        (tmp_path / LAST).write_bytes(content)
        with pytest.raises(ValueError, match=said):
            train(tiny(output=str(tmp_path), epochs=1, resume=True))
        assert [p.name for p in tmp_path.iterdir()] == [LAST]


# Recipes


def test_the_rate_belongs_to_the_batch() -> None:
    assert tiny(lr=1e-3, lr_batch=64).rate == 1e-3
    assert tiny(lr=1e-3, lr_batch=64, batch_size=256).rate == 4e-3
    assert FromScratch(preset="deit", batch_size=1024).rate == 1e-3


def test_schedule_and_optimizer_follow_the_recipe() -> None:
    model = build_model(tiny(), (1, 8, 8), 10)
    for config, rates, kind in (
        (tiny(warmup=0.2, lr=1.0, lr_batch=64), [0.0, 0.5, 1.0], Muon),
        (tiny(optimizer="adamw", warmup=0.2, lr=1.0, lr_batch=64), [0.0, 0.5, 1.0], torch.optim.AdamW),
        (FromScratch(preset="tutorial"), [1e-5] * 3, torch.optim.Adam),
    ):
        optimizer, scheduler = make_optimizer(config, model, 10)
        found = []
        for _ in range(3):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert found == pytest.approx(rates)
        assert type(optimizer) is kind


@pytest.mark.parametrize("steps", [50, 500])
def test_averages_look_back_over_the_same_share_of_any_run(steps: int) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    averaged = averaging(model, 0.1, steps)
    assert averaged is not None
    for step in range(steps + 1):  # the weight rises from 0 to 1: its mean lags behind by the steps it looks back over
        torch.nn.init.constant_(model.weight, step / steps)
        averaged.update_parameters(model)
    lag = (1 - next(averaged.module.parameters()).item()) * steps
    assert lag == pytest.approx(0.1 * steps - 1, rel=1e-3), "all but the newest weights of a tenth of the run"


def test_averages_of_less_than_a_step_are_the_weights_and_of_none_are_not_kept() -> None:
    model = torch.nn.Linear(1, 1)
    averaged = averaging(model, 0.01, 5)
    assert averaged is not None
    averaged.update_parameters(model)
    torch.nn.init.ones_(model.weight)
    averaged.update_parameters(model)
    assert next(averaged.module.parameters()).item() == 1
    assert averaging(model, 0.0, 5) is None


@pytest.mark.parametrize(("stem", "convolutions"), [((16, 16, 16), 5), ((), 0)])
def test_muon_turns_the_encoder_and_the_stem_behind_it(stem: tuple[int, ...], convolutions: int) -> None:
    """Matrices between hidden numbers; a plain patch embedding reads pixels, and AdamW keeps it."""
    config = tiny(stem=stem, muon_factor=7.0)
    optimizer, _ = make_optimizer(config, build_model(config, (1, 8, 8), 10), 10)
    turned = [p for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    assert sum(p.dim() == 2 for p in turned) == 6 * config.depth
    assert sum(p.dim() == 4 for p in turned) == convolutions
    assert {group["factor"] for group in optimizer.param_groups if group["muon"]} == {7.0}
    assert {group["factor"] for group in optimizer.param_groups if not group["muon"]} == {1.0}


@pytest.mark.parametrize("preset", ["compact", "compact_long", "deit", "tutorial"])
def test_presets_train(preset: str) -> None:
    """A step of each, on images of 32 pixels; the large ones cut down in depth and width."""
    small: Changes = {} if preset.startswith("compact") else {"width": 16, "depth": 2, "heads": 2, "lr_min": 0.0}
    config = FromScratch.load(None, preset=preset, batch_size=4, epochs=1, output=None, precision="fp32", **small)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = Images(x, torch.arange(4), tuple("abcdefghij"), "cifar10")
    run = train(config, images, images)
    assert run.losses[0] == pytest.approx(np.log(10), abs=1.0)
    assert run.test is not None
    assert run.test.samples == 4


def test_bfloat16_avoids_the_slow_kernel() -> None:
    config = tiny(precision="bf16")
    assert build_model(config, (1, 8, 8), 10, "bf16").config.attention == "written_out"
    assert build_model(config, (1, 8, 8), 10, "fp32").config.attention == "sdpa"
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    run = train(config)
    assert run.losses == pytest.approx(train(tiny()).losses, abs=0.05)


def test_seeds_give_other_runs_and_the_same_seed_the_same() -> None:
    with distributed_from_environment() as process:
        images = load_images("digits")
        labels = [
            next(iter(training_batches(tiny(seed=s), images, e, process)))[1] for s, e in ((0, 0), (0, 1), (1, 0))
        ]
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    first, again, second = (build_model(tiny(seed=s), (1, 8, 8), 10).head.weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


# The stem


@pytest.mark.parametrize(("image", "patch"), [((32, 32), 8), ((28, 28), 4), ((16, 24), (4, 8))])
def test_stem_shapes_and_multiplications(image: tuple[int, int], patch: int | tuple[int, int]) -> None:
    config = ViTConfig(image_size=image, patch_size=patch, channels=3, width=24, depth=1, heads=2, num_classes=5)
    stem = ConvStem(config, (16, 32, 48))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens = stem(torch.randn(2, 3, *image))
    assert tokens.shape == (2, config.patches, 24)
    assert counter.get_total_flops() == 2 * 2 * stem_macs(config, (16, 32, 48))


def test_stem_tokens_keep_their_place() -> None:
    """A token hears of the pixels around its own patch and of no others far away."""
    config = ViTConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2, num_classes=5)
    model = ViT(config, lambda c: ConvStem(c, (16, 16, 16)))
    stem = model.patch_embedding
    for norm in (m for m in stem.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # type: ignore[method-assign]  # it reads the whole image
    image = torch.randn(1, 3, 32, 32)
    changed = image.clone()
    changed[..., 8:16, 24:32] += 1  # the patch of row 1, column 3
    moved = (stem(image) - stem(changed)).abs().sum(-1)[0].view(4, 4)
    assert moved[1, 3] == moved.max()
    assert (moved[:, 0] == 0).all()


# The command


def test_processes_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes.count_processes(tiny(batch_size=64)) == 4
    assert processes.count_processes(tiny(batch_size=6)) == 3, "a batch of 6 cannot be split over four"
    assert processes.count_processes(tiny(processes=2)) == 2
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert processes.count_processes(tiny(processes=2)) == 1, "torchrun has started them"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "digits", "--stem", "16", "16", "16", "--patch-size", "4", "--width", "16", "--depth", "1"]
    options += ["--heads", "2", "--epochs", "1", "--limit", "320", "--processes", "1", "--output", str(tmp_path / "r")]
    main([*options, "--validation", "0.2"])
    history = json.loads((tmp_path / "r" / "history.json").read_text())
    assert history["test"]["samples"] == 360
    assert set(history["epochs"][0]) >= {"loss", "lr", "images_per_second", "validation_accuracy"}
    with pytest.raises(SystemExit, match=r"error: .* holds a run already"):
        main(options)
    with pytest.raises(SystemExit, match=r"error: the options: data cifar10 needs"):
        main(["--data", "cifar10"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_reaches_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    """By default the command starts two. Whoever ends it finds a checkpoint of that step, and a line that says so."""
    options = ["--data", "digits", "--stem", "16", "16", "16", "--patch-size", "4", "--width", "16", "--depth", "1"]
    options += ["--heads", "2", "--epochs", "40", "--limit", "320", "--batch-size", "64", "--save-every", "2"]

    def interrupt() -> None:
        while not (tmp_path / LAST).exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    main([*options, "--processes", "2", "--output", str(tmp_path)])
    thread.join()
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["test"] is None, "the run was stopped, not finished"
    assert 2 <= len(history["losses"]) < 200
