"""DeepSpeed's checkpoints: saved with a list of checksums, loaded where every shard is whole, moved between stages.

What DeepSpeed writes is a folder with a file for each rank, cut as the run was cut. Three ways lead on from it:

* :func:`load`: the same stage and as many ranks go on where they were;
* :func:`to_universal`: one folder for each parameter, from which any stage (1 to 3) and any number of ranks can go on;
* :func:`gathered_weights`: the FP32 weights alone, one ordinary ``state_dict``, for everything that is not DeepSpeed.

All of them are pickles, which can run code when they are read: load none that a stranger made.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.deepspeed.library import library, without_stderr
from course_utils.files import atomic_write
from course_utils.launch import agree

CHECKSUMS = "checksums.json"
OF_STAGES_1_AND_2, OF_STAGE_3 = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"


def save(engine: Any, folder: str | Path, tag: str) -> None:
    """Write the engine's state below ``folder/tag``; every rank calls it.

    Rank 0 adds the SHA-256 of each file, after all have written.

    Raises:
        FileExistsError: there is a checkpoint of that name; on all ranks.
    """
    place = Path(folder) / tag
    _on_rank_0(_refuse_existing, place)
    with _quiet():
        engine.save_checkpoint(str(folder), tag=tag)
    dist.barrier()
    _on_rank_0(_write_checksums, place)


def load(engine: Any, folder: str | Path, tag: str) -> int:
    """Put the state below ``folder/tag`` into the engine, after rank 0 has looked at every file; the step it is at.

    Stage and number of ranks must be those of the run that saved, unless the checkpoint is universal and the engine's
    configuration says ``load_universal``.

    Raises:
        FileNotFoundError, ValueError: nothing there, a file is missing or damaged (it is named), or it does not fit
            this engine; on all ranks.
    """
    place = Path(folder) / tag
    _on_rank_0(check_files, place)
    universal = (place / "zero").is_dir()
    if universal != engine.load_universal_checkpoint():
        raise ValueError(
            f"{place} is {'a' if universal else 'no'} universal checkpoint: configure the engine with "
            f"load_universal={universal}" + ("" if universal else ", or convert it with to_universal")
        )
    if not universal and (ranks := len(_shards(place))) != dist.get_world_size():
        raise ValueError(
            f"{place} was saved by {ranks} ranks, and here are {dist.get_world_size()}: convert it with to_universal, "
            "and load that"
        )
    with _quiet():
        path, _ = engine.load_checkpoint(str(folder), tag=tag)
    if path is None:
        raise ValueError(f"DeepSpeed found nothing it could load below {place}: was it saved at stage 1, 2 or 3?")
    return int(engine.global_steps)


def check_files(place: str | Path) -> None:
    """Compare every file of a checkpoint with the checksum that was written beside it.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or has changed.
    """
    place = Path(place)
    if not (place / CHECKSUMS).exists():
        raise FileNotFoundError(
            f"{place} holds no {CHECKSUMS}, so it is no whole checkpoint of save(): take another one"
        )
    for name, expected in json.loads((place / CHECKSUMS).read_text("utf-8")).items():
        if not (place / name).exists():
            raise FileNotFoundError(f"{place} lacks {name}: the checkpoint is incomplete, take an earlier one")
        if _sha256(place / name) != expected:
            raise ValueError(f"{place / name} is not what was saved (its SHA-256 differs): take an earlier checkpoint")


def gathered_weights(folder: str | Path, tag: str) -> dict[str, Tensor]:
    """The whole FP32 weights from the shards of stages 1 to 3, by the model's own names; needs no process group.

    The same as the script ``zero_to_fp32.py`` that DeepSpeed leaves in the folder. Tied parameters have both names.
    """
    check_files(Path(folder) / tag)
    library()
    with without_stderr():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with _quiet():
        weights = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=tag)
    return {name: weight.clone() for name, weight in weights.items()}


def to_universal(folder: str | Path, tag: str, new_tag: str | None = None) -> str:
    """Convert ``folder/tag`` into a checkpoint that stages 1 to 3 load on any number of ranks; its tag is returned.

    Weights, both moments and the step come along; buffers of the model do not. One process calls it, without a group.

    DeepSpeed's own converter keeps within a family, stages 1 and 2 or stage 3; here the few entries are added that
    the other family looks for.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is incomplete, damaged (the file is named) or of stage 0.
    """
    source, new_tag = Path(folder) / tag, new_tag or f"{tag}_universal"
    target = Path(folder) / new_tag
    check_files(source)
    if not _shards(source):
        raise ValueError(f"{source} holds no shards: stage 0 saves whole weights, which need no conversion")
    _refuse_existing(target)
    library()
    with without_stderr():
        from deepspeed.checkpoint import ds_to_universal

    options = argparse.Namespace(
        input_folder=str(source), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    try:
        with _quiet():
            ds_to_universal.main(options)
        _serve_both_families(target)
        _write_checksums(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return new_tag


def _serve_both_families(target: Path) -> None:
    """Let stages 1 and 2 find what stage 3 has written, and the other way round."""
    first, second = target / OF_STAGES_1_AND_2, target / OF_STAGE_3
    shutil.copy(first, second) if first.exists() else shutil.copy(second, first)
    from deepspeed import __version__

    file = target / "zero" / "optimizer_state.pt"
    state = torch.load(file, weights_only=False)
    steps = [torch.load(path, weights_only=False) for path in sorted((target / "zero").glob("*/step.pt"))[:1]]
    state.setdefault("ds_version", __version__)
    if "optimizer_state_dict" not in state:
        groups = state["param_groups"]
        state["optimizer_state_dict"] = {"state": {0: {"step": torch.as_tensor(steps[0])}}, "param_groups": groups}
    step = state["optimizer_state_dict"]["state"][0]["step"]
    groups = torch.load(first, weights_only=False)["param_shapes"]
    shapes = {name: shape for group in groups for name, shape in group.items()}
    for folder in (path for path in (target / "zero").iterdir() if path.is_dir()):
        if not (folder / "step.pt").exists():
            torch.save(step, folder / "step.pt")
        for path in map(folder.joinpath, ("fp32.pt", "exp_avg.pt", "exp_avg_sq.pt")):
            if not path.exists():  # a tied parameter's second name has weights and no moments
                continue
            tensor = torch.load(path, weights_only=False)
            if torch.is_tensor(tensor):  # stage 3's are flat and bare
                torch.save({"param": tensor.view(shapes[folder.name]), "cat_dim": 0}, path)
    torch.save(state, file)


def _shards(place: Path) -> list[Path]:
    return sorted(place.glob("*zero_pp_rank_*_optim_states.pt"))


def _refuse_existing(place: Path) -> None:
    if place.exists():
        raise FileExistsError(f"there is a checkpoint {place} already: choose another tag, or remove it first")


def _write_checksums(place: Path) -> None:
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    with atomic_write(place / CHECKSUMS) as file:
        file.write(json.dumps({str(path.relative_to(place)): _sha256(path) for path in files}).encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _on_rank_0(work: Callable[[Path], None], place: Path) -> None:
    agree(lambda: work(place) if dist.get_rank() == 0 else None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed tells of each file it touches, on standard output and with progress bars; and imports as it goes."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), without_stderr(), \
            warnings.catch_warnings():  # fmt: skip
        warnings.simplefilter("ignore")
        yield
