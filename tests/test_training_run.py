"""What every project gets from a run: read once, share out, keep the best, stop early, compile, log, go on."""

from __future__ import annotations

import builtins
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from course_utils import sealed
from course_utils.data import Images, load_splits
from course_utils.launch import launch
from course_utils.models import ViT, ViTConfig
from course_utils.precision.scaling import MasterWeights
from course_utils.training import checkpoint, folder, run, speed
from course_utils.training.folder import BEST, LAST
from course_utils.training.task import RunResult
from course_utils.vision import images as sharing
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.data import Data
from course_utils.vision.fine_tune.model import Classifier
from course_utils.vision.fine_tune.train import train

TINY: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "save_every": 2, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digits() -> Data:
    images, held, test = load_splits("digits", validation=0.1)
    assert held is not None
    return Data(images.take(slice(72)), held.take(slice(50)), test.take(slice(45)))  # five steps, the last of 8


def tiny() -> Classifier:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "image_size": 8, "patch_size": 4}
    model = ViT(ViTConfig(**sizes, channels=1, num_classes=10, drop_path=0.2))  # type: ignore[arg-type]
    return Classifier(model, "ours", 10, (8, 8), ((0.5,), (0.5,)))


def fine_tune(folder: Path | None, **changes: Any) -> RunResult:
    config = FineTune(**{**TINY, "output": None if folder is None else str(folder), **changes})
    return train(config, digits(), tiny())


def losses(result: RunResult) -> Tensor:
    return torch.tensor(result.losses)


def tensors(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def same(a: Path, b: Path) -> bool:
    x, y = tensors(a), tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def stopped(folder: Path, at: int, **changes: Any) -> RunResult:
    """The run, told to end in a step."""
    step, calls = run.train_step, []

    def told(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **named)

    run.train_step = told
    try:
        return fine_tune(folder, **changes)
    finally:
        run.train_step = step


@pytest.mark.parametrize("at", [2, 5, 7, 10])  # in the first stage, at its end, in the second, at the end of an epoch
def test_fine_tuning_goes_on_where_it_stopped(at: int, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"head_epochs": 1, "ema": 0.2}
    whole = fine_tune(tmp_path / "whole", **changes)
    first = stopped(tmp_path / "parts", at, **changes)
    assert (first.stopped, first.steps, first.test) == (True, at, None)
    second = fine_tune(tmp_path / "parts", resume=True, **changes)
    assert second.losses == whole.losses
    assert (second.best_epoch, second.validation, second.test) == (whole.best_epoch, whole.validation, whole.test)
    assert same(tmp_path / "parts" / LAST, tmp_path / "whole" / LAST)
    assert same(tmp_path / "parts" / BEST, tmp_path / "whole" / BEST)


def test_fine_tuning_on_two_processes_is_the_run(tmp_path: Path) -> None:
    """In the last batch of an epoch the two have 4 images each; with 19 of 75 one has one more."""
    alone = fine_tune(None, head_epochs=1)
    together = launch(partial(fine_tune, None, head_epochs=1), 2, show=False)
    # Drop path draws other numbers on each process, so the losses are near and not equal; the counts are of all.
    assert together[0].losses == together[1].losses
    assert [row["validation_accuracy"] for row in together[0].epochs] == [
        row["validation_accuracy"] for row in together[1].epochs
    ]
    torch.testing.assert_close(losses(together[0]), losses(alone), atol=0.2, rtol=0)
    assert together[0].test is not None
    assert together[0].test.samples == 45


def test_patience_ends_a_run_and_the_best_epoch_is_left_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, accuracies = run.evaluate, iter([0.3, 0.5, 0.4, 0.4, 0.9])
    monkeypatch.setattr(run, "evaluate", lambda *a, **k: replace(real(*a, **k), accuracy=next(accuracies)))
    config = FineTune(**{**TINY, "epochs": 9, "patience": 2, "output": str(tmp_path)})
    model = tiny()
    result = train(config, digits(), model)
    assert (result.best_epoch, len(result.epochs), result.steps) == (2, 4, 20)
    held = checkpoint.load(tmp_path / BEST).parts["model"]
    assert all(torch.equal(p, held[name.replace(".", "/")]) for name, p in model.named_parameters())


def test_a_checkpoint_and_a_data_set_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path, 7)
    read, calls = sealed.read, Counter[str]()

    def counted(path: Path, kind: str) -> Any:
        calls[Path(path).name] += 1
        return read(path, kind)

    monkeypatch.setattr(sealed, "read", counted)
    fine_tune(tmp_path, resume=True)
    assert calls == {LAST: 1, BEST: 1}


def evaluated_here() -> tuple[int, int]:
    """Images that this process prepares to evaluate 45 of them, and those that are counted."""
    made, batches = Counter[str](), sharing.batches

    def counted(images: Images, *arguments: Any, **named: Any) -> Any:
        for x, y in batches(images, *arguments, **named):
            made["images"] += len(y)
            yield x, y

    sharing.batches = counted
    with run.distributed_from_environment() as process:
        shares = sharing.whole_batches(digits().test, process, 10)
        found = run.evaluate(tiny(), shares, processes=process.world_size)
    return made["images"], found.samples


def test_a_process_prepares_its_own_images_only() -> None:
    assert launch(evaluated_here, 2, show=False) == [(25, 45), (20, 45)]  # batches of 10, 10 and 5, and two of 10
    assert [seen for seen, _ in launch(evaluated_here, 4, show=False)] == [15, 10, 10, 10]


def test_compiled_names_never_reach_a_file(tmp_path: Path) -> None:
    compiled: Any = torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager")
    checkpoint.save(tmp_path / "c", model=compiled)
    assert not [name for name in tensors(tmp_path / "c") if "_orig_mod" in name]
    plain, other = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    fresh: Any
    for fresh in (plain, torch.compile(other, backend="eager")):
        checkpoint.load(tmp_path / "c").restore(fresh)
        assert torch.equal(next(fresh.parameters()), next(iter(compiled.state_dict().values())))


def test_compile_is_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(type(self)) or real(self, backend="eager"))
    result = fine_tune(tmp_path, compile=True)
    assert asked == [Classifier]
    torch.testing.assert_close(losses(result), losses(fine_tune(None)))
    assert not [name for name in tensors(tmp_path / LAST) if "_orig_mod" in name]


def test_master_weights_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    """Ten steps too small for BF16, five of them after a resume: the copies remember what the model rounds away."""

    def begin() -> tuple[nn.Module, MasterWeights, torch.optim.Optimizer]:
        model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
        nn.init.ones_(model.weight)
        master = MasterWeights(model)
        return model, master, torch.optim.SGD(master.parameters, lr=1e-4)

    def steps(model: nn.Module, master: MasterWeights, optimizer: torch.optim.Optimizer) -> float:
        for _ in range(5):
            master.parameters[0].grad = torch.ones(1, 1)
            optimizer.step()
            master.weights_to_model()
        return master.parameters[0].item()

    first = begin()
    steps(*first)
    checkpoint.save(tmp_path / "c", model=first[0], master=first[1], optimizer=first[2])
    whole = steps(*first)
    model, master, optimizer = begin()
    with pytest.raises(ValueError, match=r"holds a master .* but none was given"):
        checkpoint.load(tmp_path / "c").restore(model, optimizer=optimizer)
    checkpoint.load(tmp_path / "c").restore(model, optimizer=optimizer, master=master)
    assert steps(model, master, optimizer) == whole == pytest.approx(0.999, abs=1e-6)


def test_speed_and_utilisation_are_logged_where_the_peak_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "mfu" not in fine_tune(None).epochs[0]
    assert fine_tune(None).epochs[0]["images_per_second"] > 0
    monkeypatch.setattr(run, "peak", lambda device: 1e12)
    result = fine_tune(None, precision="bf16", tactic="full", epochs=1)
    row = result.epochs[0]
    macs = 0
    for layer in (m for m in tiny().modules() if isinstance(m, nn.Linear | nn.Conv2d)):
        macs += layer.weight.numel() * (1 if layer.weight.shape[0] == 10 else 4 if isinstance(layer, nn.Conv2d) else 5)
    flops = row["mfu"] * 1e12 / row["images_per_second"]
    assert 0.8 < flops / (6 * macs) < 1.4, "three times the forward pass, and attention besides"


def test_peaks_are_of_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"NVIDIA A100-SXM4-80GB": 312e12, "Tesla T4": 65e12, "NVIDIA L40S": None, "NVIDIA H100 PCIe": 756e12}
    for name, flops in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert speed.peak(torch.device("cuda")) == flops
    assert speed.peak(torch.device("cpu")) is None


def test_tensorboard_is_asked_for_or_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"python -m pip install tensorboard"):
        fine_tune(tmp_path / "a", tensorboard=True)
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    fine_tune(tmp_path / "b", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    log = EventAccumulator(str(tmp_path / "b" / "tensorboard"))
    log.Reload()
    history = json.loads((tmp_path / "b" / "history.json").read_text())
    assert [each.value for each in log.Scalars("loss")][:3] == pytest.approx(history["losses"][:3])
    assert len(log.Scalars("validation_accuracy")) == 3


def test_old_checkpoints_of_news_resume_and_of_other_rates_are_refused(tmp_path: Path) -> None:
    """An older version kept its history under another name, and no losses."""
    fine_tune(tmp_path)
    found = checkpoint.load(tmp_path / LAST)
    assert folder.facts_of(found, "classes")["images"] == 72
    old = replace(found, extra={**found.extra["facts"], "history": found.extra["epochs"]})
    assert folder.facts_of(old, "classes") == old.extra
    config = FineTune(**TINY, output=str(tmp_path))
    folder.check_same_run(old, config, found.extra["facts"])
    with pytest.raises(ValueError, match="images was 72 and is 71"):
        folder.check_same_run(old, config, {**found.extra["facts"], "images": 71})
    with pytest.raises(ValueError, match="of no run"):
        folder.check_same_run(replace(found, extra=None), config, {})


def test_a_lost_loss_ends_the_run_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FloatingPointError, match="the loss is nan at step"):
        fine_tune(None, lr=1e30, clip=None)
