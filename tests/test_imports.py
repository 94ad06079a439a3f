"""Imports run one way (pyproject.toml says which), and importing any module of the package does nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import closure
from tools.contents import ROOT

PACKAGE = ROOT / "course_utils"
LINT = "import sys\nfrom importlinter.cli import lint_imports\nsys.exit(lint_imports(no_cache=True, no_logo=True))"
# These take an untouched module; it is the parallel rooms that make a parallel one of it.
SERIAL = ("precision", "models", "data", "plan")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, held against the package in ``folder``."""
    command = [sys.executable, "-c", LINT]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def test_imports_run_one_way() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_runs_against_the_order_is_named(tmp_path: Path) -> None:
    """In a copy of the package: an import upwards, one in a function, a circle, a library, the checkout, a new room."""
    shutil.copytree(PACKAGE, tmp_path / "course_utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "course_utils" / "attic").mkdir()
    planted = {
        "models/vit.py": "from course_utils.training.loop import train",
        "runtime.py": "def f():\n    from course_utils.data import images",
        "precision/formats.py": "from course_utils.precision import blocks",
        "plan/memory.py": "import deepspeed",
        "bench/vit.py": "from tools import execution",
        "bench/lora.py": "from course_utils import figures",
        "attic/__init__.py": "",
    }
    for name, source in planted.items():
        with (tmp_path / "course_utils" / name).open("a", encoding="utf8") as file:
            file.write(f"\n{source}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    for arrow in (
        "course_utils.models.vit -> course_utils.training.loop",
        "course_utils.runtime -> course_utils.data",
        "cycles are allowed in course_utils.precision",
        "course_utils.plan.memory -> deepspeed",
        "course_utils.bench.vit -> tools",
        "course_utils.bench.lora -> course_utils.figures",
        "attic",
    ):
        assert arrow in said, f"{arrow}\n{done.stdout}"


def parallel(source: str, package: str) -> list[str]:
    """What a source imports of torch.distributed, which the linter cannot tell from torch."""
    names = closure.imported(ast.walk(ast.parse(source)), package)
    return [name for name in names if f"{name}.".startswith("torch.distributed.")]


def test_serial_rooms_know_nothing_of_torch_distributed() -> None:
    for room in SERIAL:
        for path in (PACKAGE / room).rglob("*.py"):
            assert not parallel(path.read_text("utf8"), f"course_utils.{room}"), path
    for source in ("import torch.distributed as dist", "def f():\n    from torch import distributed"):
        assert parallel(source, "course_utils.models")
    assert not parallel("import torch\nfrom torch import distributions", "course_utils.models")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_name(path) for path in sorted(PACKAGE.rglob("*.py"))]


# Runs in a process of its own. First it imports what the modules build on, so that what is left is their own doing.
WATCH = """
import importlib, json, os, random, signal, sys, tempfile, threading
import numpy, torch, torchvision, pandas, matplotlib, matplotlib.pyplot, psutil, sklearn.datasets, IPython.display
import transformers, timm, safetensors.torch, ml_dtypes
from transformers import ViTConfig, ViTForImageClassification

asked = []
def hear(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"):
        asked.append(f"{event} {args[:2]!r}")
    elif event == "open" and set(str(args[1])) & set("wax+") and "__pycache__" not in str(args[0]):
        asked.append(f"open {args[0]!r} for writing")
sys.addaudithook(hear)

def state():
    return {
        "torch threads": torch.get_num_threads(),
        "default dtype": str(torch.get_default_dtype()),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "torch seed": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy seed": hash(numpy.random.get_state()[1].tobytes()),
        "python seed": hash(random.getstate()),
        "environment": hash(tuple(sorted(os.environ.items()))),
        "folder": os.getcwd(),
        "matplotlib settings": hash(str(dict(matplotlib.rcParams))),
        "float printing": str(torch._tensor_str.PRINT_OPTS) + str(numpy.get_printoptions()),
        "threads": threading.active_count(),
        "signal handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "excepthook": str(sys.excepthook),
    }

found = {}
with tempfile.TemporaryFile() as output:
    out, err = os.dup(1), os.dup(2)
    os.dup2(output.fileno(), 1); os.dup2(output.fileno(), 2)
    for name in json.loads(sys.argv[1]):
        before, asked[:] = state(), []
        output.seek(0); output.truncate()
        importlib.import_module(name)
        sys.stdout.flush(); sys.stderr.flush()
        heard, after = list(asked), state()
        output.seek(0)
        said = output.read().decode()
        effects = [f"changes {key}" for key in before if before[key] != after[key]]
        effects += [f"prints {said[:80]!r}"] if said else []
        effects += [f"asks for {what}" for what in heard]
        if effects:
            found[name] = effects
    os.dup2(out, 1); os.dup2(err, 2)
print(json.dumps(found))
"""


PLANTED = {
    "planted_print": ("print('hello')", "prints 'hello\\n'"),
    "planted_threads": ("import torch\ntorch.set_num_threads(torch.get_num_threads() + 1)", "changes torch threads"),
    "planted_seed": ("import torch\ntorch.manual_seed(3)", "changes torch seed"),
    "planted_variable": ("import os\nos.environ['X_Y'] = '1'", "changes environment"),
    "planted_style": ("import matplotlib\nmatplotlib.rcParams['lines.linewidth'] = 9", "changes matplotlib settings"),
    "planted_question": ("import socket\nsocket.getaddrinfo('127.0.0.1', 80)", "asks for socket.getaddrinfo"),
    "planted_file": ("open('left.txt', 'w').close()", "asks for open 'left.txt' for writing"),
}


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What importing did besides importing: of every module of the package, then of modules that misbehave."""
    folder = tmp_path_factory.mktemp("imports")
    for name, (source, _) in PLANTED.items():
        (folder / f"{name}.py").write_text(source)
    names = [name for name in MODULES if not name.endswith("__main__")]
    command = [sys.executable, "-c", WATCH, json.dumps([*names, *PLANTED])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_importing_has_no_side_effects(effects: dict[str, list[str]]) -> None:
    assert {name: what for name, what in effects.items() if name not in PLANTED} == {}
    for name, (_, planted) in PLANTED.items():
        assert any(effect.startswith(planted) for effect in effects[name]), (name, effects.get(name))
