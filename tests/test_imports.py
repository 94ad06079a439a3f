"""Imports run one way (CONTRIBUTING.md), and importing any module of the package does nothing else."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "course_utils"

# Each room, and the rooms it may import besides itself. `runtime`, `files` and `sealed` may be imported by all.
SHARED = {"runtime", "files", "sealed"}
BASE = {"precision", "models", "data", "launch", "measure"}
PARALLEL = {"data_parallel", "pipeline", "tensor", "zero", "deepspeed", "hybrid"}
PROJECTS = {"news", "vision"}
BELOW_TRAINING = SHARED | BASE | PARALLEL | {"plan", "tuning"}
ALLOWED: dict[str, set[str]] = {
    **{name: {"files"} for name in SHARED},
    **dict.fromkeys(BASE, SHARED),
    "pipeline": set(),  # torch alone: the folder can be copied
    "plan": SHARED | BASE | {"pipeline"},  # counts a model from its configuration
    **dict.fromkeys(PARALLEL - {"pipeline", "zero", "hybrid"}, SHARED | BASE | {"plan"}),
    "zero": SHARED | BASE | {"plan", "data_parallel"},
    "hybrid": SHARED | BASE | PARALLEL | {"plan"},
    "tuning": SHARED | BASE | {"plan"},
    "training": BELOW_TRAINING,
    **{name: BELOW_TRAINING | {"training"} for name in PROJECTS},
    "bench": BELOW_TRAINING | PROJECTS | {"training"},
    "figures": BELOW_TRAINING | PROJECTS | {"training"},
    "exercises": BELOW_TRAINING | PROJECTS | {"training", "figures"},
}
# Model code knows nothing of parallelism: the parallel rooms take an untouched module and returns a parallel one.
SERIAL = SHARED | {"precision", "models", "data", "plan"}


def room(module: str) -> str:
    """The room of a dotted module name: `course_utils.models.vit` -> `models`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """The modules that `source` names in import statements, wherever they stand, relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            # `from course_utils import models` and `from torch import distributed` name a module by the last word
            yield from (f"{base}.{alias.name}" for alias in node.names)


def broken_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    """Each import of `module` that runs against the arrows, as a sentence."""
    here, found = room(module), []
    for name in imported(source, module, is_package):
        if name.startswith(("notebooks", "tools", "tests", "conftest")):
            found.append(f"{module} imports {name}: the package must work without the checkout around it")
        elif name.split(".")[0] == "course_utils":
            if (there := room(name)) and there != here and there not in ALLOWED.get(here, set()):
                allowed = ", ".join(sorted(ALLOWED.get(here, set()))) or "none"
                found.append(f"{module} imports {name}, but {here or 'the package itself'} may import: {allowed}")
        elif here in SERIAL and name.startswith(("torch.distributed", "deepspeed", "accelerate", "peft")):
            found.append(f"{module} imports {name}, but {here} must know nothing of parallelism")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts}


def test_every_room_has_its_arrows() -> None:
    rooms = {room(name) for name in MODULES} - {""}
    assert {"runtime", "precision", "models", "data", "training", "figures", "exercises"} <= rooms
    assert rooms <= set(ALLOWED), f"no arrows are set for {rooms - set(ALLOWED)}: set them here and in CONTRIBUTING.md"


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    path = MODULES[name]
    assert broken_arrows(path.read_text(encoding="utf-8"), name, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        (
            "course_utils.models.vit",
            "from course_utils.training.loop import train",
            "models may import: files, runtime, sealed",
        ),
        ("course_utils.models.vit", "from course_utils import figures", "imports course_utils.figures"),
        ("course_utils.models.vit", "from ..training import loop", "imports course_utils.training.loop"),
        (
            "course_utils.models.vit",
            "def f():\n    import course_utils.tuning.lora",
            "imports course_utils.tuning.lora",
        ),
        ("course_utils.models.vit", "import torch.distributed as dist", "must know nothing of parallelism"),
        ("course_utils.models.vit", "from torch import distributed", "must know nothing of parallelism"),
        (
            "course_utils.precision.formats",
            "from course_utils.data import images",
            "precision may import: files, runtime, sealed",
        ),
        ("course_utils.training.loop", "from course_utils.figures import show", "imports course_utils.figures.show"),
        ("course_utils.figures.style", "from course_utils import exercises", "imports course_utils.exercises"),
        ("course_utils.runtime", "from course_utils.data import images", "runtime may import: files"),
        ("course_utils.bench.vit", "from tools import execution", "must work without the checkout"),
    ],
)
def test_each_planted_import_is_named(module: str, source: str, words: str) -> None:
    found = broken_arrows(source, module)
    assert len(found) == 1, found
    assert words in found[0]


def test_imports_along_the_arrows_pass() -> None:
    assert broken_arrows("from course_utils.models import vit", "course_utils.training.loop") == []
    assert broken_arrows("from . import encoder", "course_utils.models", is_package=True) == []
    assert broken_arrows("from .encoder import Encoder\nfrom ..runtime import cores", "course_utils.models.vit") == []
    assert broken_arrows("from course_utils import figures, training", "course_utils.exercises.float_formats") == []


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


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_side_effect_is_named(effects: dict[str, list[str]], name: str) -> None:
    assert any(effect.startswith(PLANTED[name][1]) for effect in effects[name]), effects.get(name)
