"""DeepSpeed's Adam for the CPU: a C++ extension that a compiler on this machine builds once, and that is kept.

``python -m course_utils.deepspeed.cpu_adam`` builds it, which takes minutes on two cores, and says how it went.
Nothing else in the course starts a compiler: without the extension everything runs with torch's AdamW in its place.

Source: Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840, section 5.1 (why an Adam of its own).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch._appdirs import user_cache_dir

from course_utils.deepspeed.library import library

COMMAND = "python -m course_utils.deepspeed.cpu_adam"


class CpuAdam(NamedTuple):
    """Whether DeepSpeed's Adam for the CPU can be used here, and a sentence that says so."""

    ready: bool
    sentence: str

    def __repr__(self) -> str:
        return self.sentence


def find_cpu_adam() -> CpuAdam:
    """Look whether the extension was built before; compiles nothing."""
    if _file().exists():
        return CpuAdam(True, "DeepSpeed's CPU Adam was compiled before and is ready.")
    if _compiler() is None:
        return CpuAdam(False, _NO_COMPILER)
    return CpuAdam(False, f"DeepSpeed's CPU Adam is not compiled: `{COMMAND}` does it, once, in some minutes.")


def build_cpu_adam() -> CpuAdam:
    """Compile the extension unless that was done before; takes minutes, and needs a C++ compiler and ninja."""
    if (found := find_cpu_adam()).ready or _compiler() is None:
        return found
    library()
    from deepspeed.ops.op_builder import CPUAdamBuilder

    began, output = time.perf_counter(), io.StringIO()
    try:
        with tools_on_path(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            CPUAdamBuilder().load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[-1:] or ["no reason was given"]
        return CpuAdam(
            False,
            f"DeepSpeed's CPU Adam could not be compiled ({reason[0]:.200}): everything else runs with torch's AdamW",
        )
    return CpuAdam(True, f"DeepSpeed's CPU Adam was compiled in {time.perf_counter() - began:.0f} s and is kept.")


def load_cpu_adam() -> None:
    """Hand the kept extension to DeepSpeed, which would else ask ninja first, and perhaps compile it anew.

    Raises:
        RuntimeError: it is not there, or was compiled for another torch.
    """
    from deepspeed.ops.op_builder.builder import OpBuilder

    if not (found := find_cpu_adam()).ready:
        raise RuntimeError(found.sentence)
    specification = importlib.util.spec_from_file_location("cpu_adam", _file())
    assert specification is not None
    assert specification.loader is not None
    try:
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    except ImportError as error:
        raise RuntimeError(
            f"DeepSpeed's CPU Adam was compiled for another torch ({error}): remove {_file().parent}, run `{COMMAND}`"
        ) from None
    OpBuilder._loaded_ops["cpu_adam"] = module


@contextlib.contextmanager
def tools_on_path() -> Iterator[None]:
    """Let torch find the ninja that pip installed beside this Python, also where no environment was activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def main() -> int:
    """Build, say how it went; the exit code is 0 when the extension is there."""
    found = build_cpu_adam()
    print(found)
    return 0 if found.ready else 1


def _file() -> Path:
    """Where torch keeps what it has compiled for this Python and this torch.

    As ``torch.utils.cpp_extension`` says, which is not asked because its import looks for CUDA, and speaks.
    """
    if root := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(root) / "cpu_adam" / "cpu_adam.so"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    cuda = "cpu" if torch.version.cuda is None else "cu" + torch.version.cuda.replace(".", "")
    return Path(user_cache_dir("torch_extensions")) / f"{python}_{cuda}" / "cpu_adam" / "cpu_adam.so"


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


_NO_COMPILER = (
    "DeepSpeed's CPU Adam is not compiled, and there is no C++ compiler here: install one (Debian and Ubuntu: "
    f"apt install g++; macOS: xcode-select --install), then run `{COMMAND}`; until then torch's AdamW takes its place."
)

if __name__ == "__main__":
    sys.exit(main())
