"""Checkpoints: a resumed run equals one that was never stopped; a bad file is named and the good one survives."""

import errno
import json
import os
import pickle
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from course_utils.data import batches, crop_and_flip, load_images
from course_utils.files import atomic_write
from course_utils.training import adamw, load, make_scaler, save, schedule_lr, train, warmup_cosine


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Operations this small are several times slower on two threads when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parts(seed=0):
    """A run's objects: dropout, AdamW in two groups, a schedule, a scaler that overflows now and then."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.LayerNorm(24), nn.Dropout(0.3), nn.Linear(24, 10))
    optimizer = adamw(model, 1e-2)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": schedule_lr(optimizer, warmup_cosine(steps=20, warmup=3)),
        "scaler": make_scaler("fp16", init_scale=2.0**20, growth_interval=4),
    }


def run(run_parts, start, steps):
    """All that can come out of step on a resume: shuffling, augmentation, dropout, noise from NumPy and Python."""
    images = load_images("digits").take(slice(0, 200))

    def noisy(epoch):
        for x, y in batches(images, 32, shuffle=True, epoch=epoch, augment=crop_and_flip):  # 7 batches: 10 is mid-epoch
            yield x + 0.01 * float(np.random.standard_normal()) + 0.01 * random.random(), y  # noqa: NPY002

    settings = {k: v for k, v in run_parts.items() if k in ("scheduler", "scaler")}
    return train(
        run_parts["model"],
        noisy,
        run_parts["optimizer"],
        start=start,
        steps=steps,
        precision="fp16",
        accumulate=2,
        clip=1.0,
        **settings,
    )


def finish(path_in, path_out):
    """The second half, in a process that knows nothing but the file."""
    torch.set_num_threads(1)
    load_images("digits")  # imports scikit-learn, which draws from Python's generator: not after load()
    fresh = parts(seed=99)
    start = load(path_in).restore(**fresh).step
    history = run(fresh, start, 20)
    save(path_out, step=20, extra=history.loss, **fresh)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    load_images("digits")  # for the same reason

    def first(until):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)
        fresh = parts()
        return fresh, run(fresh, 0, until)

    whole, history = first(20)
    save(tmp_path / "whole", step=20, extra=history.loss[10:], **whole)
    assert any(history.skipped), "the scaler must have had something to do"
    half, _ = first(10)
    save(tmp_path / "half", step=10, **half)
    code = "import sys; from test_training_checkpoint import finish; finish(*sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "half", tmp_path / "resumed"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    a, b = (safetensors.torch.load_file(tmp_path / name) for name in ("whole", "resumed"))
    assert a.keys() == b.keys()
    assert {k.split(".")[0] for k in a} == {"model", "optimizer", "rng"}
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    # Schedule, scale, step counts, the other generators, the losses on the way: all the JSON is the same too.
    with safe_open(tmp_path / "whole", "pt") as x, safe_open(tmp_path / "resumed", "pt") as y:
        assert x.metadata() == y.metadata()


@pytest.fixture
def good(tmp_path):
    """A checkpoint after three steps, and its path."""
    saved = parts()
    run(saved, 0, 3)
    save(tmp_path / "good.safetensors", step=3, config={"width": 24}, extra={"best": (1, 0.5)}, **saved)
    return tmp_path / "good.safetensors"


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def test_plain_values_come_back_as_they_were(tmp_path):
    config: dict[Any, Any] = {
        "a": [1, (2.5, None)],
        3: {"inf": float("inf"), "text": "层归一化"},
        "deep": {"t": torch.ones(2, 3).bfloat16()},
    }
    save(tmp_path / "c", model=nn.Linear(1, 1), step=5, config=config, extra=(True, {}))
    back = load(tmp_path / "c")
    assert (back.step, back.extra) == (5, (True, {}))
    assert torch.equal(back.config["deep"].pop("t"), config["deep"].pop("t"))
    assert back.config == config


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_tied_and_low_precision_weights(tmp_path, dtype):
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        model[1].weight = model[0].weight
        return model.to(dtype)

    model, other = tied(), tied()
    save(tmp_path / "c", model=model)
    load(tmp_path / "c").restore(model=other)
    for key, value in model.state_dict().items():
        assert torch.equal(value.float(), other.state_dict()[key].float())
        assert value.dtype == other.state_dict()[key].dtype
    assert other[1].weight is other[0].weight


def test_weights_alone_leave_the_generators_where_they_are(good):
    fresh = parts(5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert load(good).restore(model=fresh["model"]).config == {"width": 24}
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(fresh["model"]), weights_in(good))


def weights_in(path):
    tensors = safetensors.torch.load_file(path)
    model = parts()["model"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    return weights(model)


def other_model(**sizes):
    width = sizes.get("width", 24)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.LayerNorm(width), nn.Dropout(), nn.Linear(width, 10))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model": other_model(width=16)},
            r"1.weight is float32 \[24, 64\] in the file and float32 \[16, 64\] in the model",
        ),
        ({"model": other_model().bfloat16()}, r"1.weight is float32 .* and bfloat16 .*; and 3 more.*same dtype"),
        ({"model": other_model().append(nn.Linear(10, 2))}, "5.weight is in the model but not in the file"),
        ({"model": other_model()[:3]}, "4.weight is in the file but not in the model"),
        ({"scheduler": None}, r"holds a scheduler \(LambdaLR\), but none was given"),
        ({"scaler": None}, r"holds a scaler \(GradScaler\), but none was given"),
        ({"scaler": make_scaler("fp32")}, "or a disabled one"),
        ({"optimizer": None}, "without the optimizer"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(good, change, words):
    given = parts(5) | change
    before = {k: v.clone() for k, v in given["model"].state_dict().items()}
    random_before = torch.get_rng_state()
    with pytest.raises(ValueError, match=words):
        load(good).restore(**given)
    assert all(torch.equal(v, before[k]) for k, v in given["model"].state_dict().items())
    assert given["optimizer"] is None or not given["optimizer"].state
    assert torch.equal(torch.get_rng_state(), random_before)


def test_an_optimizer_of_another_kind_or_grouping_is_named(good, tmp_path):
    given = parts(5)
    model = given["model"]
    named = dict(model.named_parameters())

    def group(*names):
        return {"params": [(n, named[n]) for n in names]}

    vectors = ("1.bias", "2.weight", "2.bias", "4.bias")
    swapped = ("2.bias", "2.weight", "1.bias", "4.bias")  # the same shapes in another order
    for optimizer, words in [
        (
            torch.optim.SGD(model.parameters(), lr=0.1),
            "holds the state of AdamW, but the optimizer given is of class SGD",
        ),
        (torch.optim.AdamW(model.parameters()), r"\[2, 4\] parameters, the one given \[6\]"),
        (
            torch.optim.AdamW([group("1.weight", "4.weight"), group(*swapped)]),
            "1.bias in the file stands where the optimizer has 2.bias",
        ),
        (
            torch.optim.AdamW(
                [{"params": [named["4.weight"], named["1.weight"]]}, {"params": [named[n] for n in vectors]}]
            ),
            r"exp_avg of parameter 0 has shape \(24, 64\), the parameter \(10, 24\)",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            load(good).restore(
                **(given | {"optimizer": optimizer, "scheduler": schedule_lr(optimizer, lambda step: 1.0)})
            )
        assert not optimizer.state

    save(tmp_path / "bare", model=model)
    with pytest.raises(ValueError, match="was saved without an optimizer"):
        load(tmp_path / "bare").restore(model=model, optimizer=torch.optim.SGD(model.parameters()))
    save(tmp_path / "plain", model=model, optimizer=given["optimizer"])
    with pytest.raises(ValueError, match="holds no scheduler, but one was given"):
        load(tmp_path / "plain").restore(**given)


def test_truncated_or_damaged_anywhere(good, tmp_path):
    whole, bad = good.read_bytes(), tmp_path / "bad"
    header = 8 + int.from_bytes(whole[:8], "little")
    model = parts()["model"]
    before = weights(model)
    for size in [0, 1, 7, 8, 9, *range(20, len(whole), len(whole) // 60), header, len(whole) - 1]:
        bad.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"bad( is empty| \([\d,]+ bytes\) is truncated or no checkpoint)"):
            load(bad).restore(model=model)
    for place in [*range(0, header, header // 60), *range(header, len(whole), (len(whole) - header) // 60)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        bad.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"bad .*(damaged|truncated|no checkpoint|version)"):
            load(bad).restore(model=model)
    bad.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="truncated or no checkpoint"):
        load(bad).restore(model=model)
    assert torch.equal(weights(model), before)


class Trap:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


def test_foreign_files_are_named_and_run_no_code(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "foreign"
    path.write_bytes((Path(__file__).parents[1] / "course_utils/data/embedded/fashion_test.png").read_bytes())
    with pytest.raises(ValueError, match="truncated or no checkpoint"):
        load(path)
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match="a pickle can run code"):
        load(path)
    torch.save({"model": Trap(mark)}, path)
    with pytest.raises(ValueError, match=r"looks like a file of torch\.save"):
        load(path)
    assert not mark.exists()
    safetensors.torch.save_file({"w": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"no checkpoint of this course.*load_file"):
        load(path)
    with pytest.raises(IsADirectoryError, match="is a folder, not the file of one checkpoint"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*none"):
        load(tmp_path / "none")


def test_a_newer_format_is_named(good):
    blob = good.read_bytes()
    good.write_bytes(blob.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(ValueError, match="format version 2, this code reads 1: update course_utils"):
        load(good)


def test_values_that_do_not_fit_into_a_file_are_named(tmp_path):
    model = nn.Linear(1, 1)
    for value, words in [
        ({"path": [Path("x")]}, r"config.path.0 is a Posix\w*Path, which a checkpoint cannot hold"),
        ({"lr": np.float32(1)}, r"config.lr is a float32.*\.item\(\)"),
        ({(1, 2): 3}, r"config has the key \(1, 2\)"),
    ]:
        with pytest.raises(TypeError, match=words):
            save(tmp_path / "c", model=model, config=value)
    assert list(tmp_path.iterdir()) == []


# ---- Writing ---------------------------------------------------------------------------------------------------------


def test_the_disk_has_the_bytes_before_the_name(tmp_path, monkeypatch):
    path, log = tmp_path / "f", []
    path.write_text("old")
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor):
        log.append("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "file")  # noqa: PTH112
        fsync(descriptor)

    def logged_replace(self, target):
        log.append("rename")
        assert self.read_text() == "new"
        assert self.parent == path.parent, "a rename is atomic within one folder only"
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    with atomic_write(path, "w") as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert log == ["file", "rename", "folder"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def write_half(path, error):
    with atomic_write(path) as file:
        file.write(b"half")
        raise error


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    for error in (ZeroDivisionError(), KeyboardInterrupt(), FileNotFoundError(2, "another file", "elsewhere")):
        with pytest.raises(type(error)) as caught:
            write_half(path, error)
        assert caught.value is error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_leaves_the_good_checkpoint(good):
    """A limit on the size of files makes a real write fail half way, as a full disk does."""
    before, limits = good.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    saved = parts(5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*good.safetensors.*is unchanged.*space left") as caught:
            save(good, **saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == [good.name]


def test_a_folder_that_is_missing_or_read_only(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"could not write .*gone/c: No such file.*Check that .*gone exists"):
        save(tmp_path / "gone" / "c", model=nn.Linear(1, 1))
    if os.geteuid() == 0:  # no folder is read-only to root

        def refuse(self, *args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", refuse)
    else:
        tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=r"could not write .*c: Permission denied.*may be written to"):
        save(tmp_path / "c", model=nn.Linear(1, 1))
    tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_a_new_file_has_usual_rights(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link", "w") as file:
        json.dump([1], file)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "[1]"
    (tmp_path / "plain").touch()
    assert (tmp_path / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode
