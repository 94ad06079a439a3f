"""One execution of a chapter, for the test run and for the book alike.

`run` executes a notebook as a stranger would: a fresh kernel in a folder that holds nothing but the notebook, no
network, a watch on time and memory. What it returns is judged by `tools.judge`; a chapter that passes is kept with
`record`, and the book renders that copy. `stamp` says whether a kept copy still stands for what is in the checkout: it
changes with the notebook, with each file of the package that its imports reach, and with any installed version.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from tools import closure
from tools.contents import NOTEBOOKS, ROOT
from tools.watch import GB, Watch, end_leftovers

EXECUTED = ROOT / "_build" / "executed"
MATPLOTLIB = ROOT / "_build" / "matplotlib"
# Its sitecustomize.py refuses the network to every process below the kernel, and notes what each reads of the package.
OFFLINE = ROOT / "tools" / "offline"
# What decides a verdict besides the notebook and the package.
JUDGING = [f"tools/{name}.py" for name in ("execution", "closure", "watch", "judge", "offline/sitecustomize")]

SECONDS_LIMIT, MEMORY_LIMIT_GB = 120, 6.0  # no chapter may ask for more: CONTRIBUTING.md
# A kernel must not inherit what this shell or this test run happens to have set.
LEFT_OUT = {
    "PYTEST_CURRENT_TEST",
    "MPLBACKEND",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
}
LEFT_OUT |= {"LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONWARNINGS", "PYTHONSTARTUP", "PYTHONPYCACHEPREFIX"}
LEFT_OUT |= {"VIRTUAL_ENV_PROMPT"}


@dataclass
class Run:
    """What came of one execution. `stopped` is the sentence of the watch if it ended the run, else empty.

    `reached` holds the files of the package on which the notebook stands by its imports, `read` those that its
    processes read.
    """

    notebook: NotebookNode
    seconds: float = 0.0
    peak_bytes: int = 0
    failing_cell: int | None = None
    stopped: str = ""
    leftovers: list[str] = field(default_factory=list)
    cell_seconds: dict[str, float] = field(default_factory=dict)
    reached: set[Path] = field(default_factory=set)
    read: set[Path] = field(default_factory=set)


def executed(notebook: Path) -> Path:
    """Where the executed copy of a chapter or of a solutions notebook lies."""
    return EXECUTED / notebook.resolve().relative_to(NOTEBOOKS)


def stamp(notebook: Path) -> str:
    """SHA-256 of all that decides what is kept: the notebook's source, what it reaches, the versions, the judges."""
    digest = hashlib.sha256(_source(notebook).encode())
    for path in sorted([*closure.under_notebook(notebook, ROOT), *(ROOT / name for name in JUDGING)]):
        digest.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    digest.update(json.dumps(versions(), sort_keys=True).encode())
    return digest.hexdigest()


def fresh(notebook: Path, patience: float | None = None) -> bool:
    """True if an executed copy is there and nothing that decides its outputs has changed since.

    With `patience`, it must also have kept the budget that a run of now would have.
    """
    copy = executed(notebook)
    try:
        kept = json.loads(copy.with_suffix(".json").read_text(encoding="utf-8"))
        in_time = patience is None or kept["seconds"] <= patience * kept["budget"]["seconds"]
    except (OSError, ValueError, KeyError):
        return False
    return in_time and copy.is_file() and kept.get("stamp") == stamp(notebook)


def record(notebook: Path, run: Run, stamp_before: str) -> Path:
    """Keep the executed copy and, beside it, its record: stamp, date, versions, what it cost of what it may.

    Only a run that the judge found faultless is kept. `stamp_before` is the stamp taken before the run: a file edited
    while the chapter ran makes the copy stale.
    """
    copy = executed(notebook)
    seconds, gigabytes = _budget(notebook, run.notebook)
    kept: dict[str, Any] = {
        "notebook": notebook.resolve().relative_to(ROOT).as_posix(),
        "stamp": stamp_before,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 2),
        "peak_memory_gb": round(run.peak_bytes / GB, 3),
        "budget": {"seconds": seconds, "memory_gb": gigabytes},
        "cell_seconds": {name: round(seconds, 3) for name, seconds in run.cell_seconds.items()},
        "versions": versions(),
    }
    for cell in run.notebook.cells:
        cell.metadata.pop("execution", None)  # clock times: they would change the copy at each run
    write(copy, nbformat.writes(run.notebook))
    write(copy.with_suffix(".json"), json.dumps(kept, indent=1) + "\n")
    return copy


def write(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@functools.cache
def versions() -> dict[str, str]:
    """Python, the machine and every installed distribution that constraints.txt names."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in re.findall(r"^([A-Za-z0-9][\w.-]*)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run(notebook: Path, *, patience: float = 1.0, threads: int | None = None) -> Run:
    """Execute `notebook` and return what came of it; the file itself is only read.

    `patience` multiplies the time budget (for a machine slower than the reference: two cores). `threads` says how many
    the kernel's products may use, where it has to share the cores with others. Raises ValueError when the notebook
    states no budget.
    """
    nb = nbformat.read(notebook, as_version=4)
    seconds, gigabytes = _budget(notebook, nb)
    outcome = Run(nb, reached=closure.under_notebook(notebook, ROOT))
    mark = uuid.uuid4().hex
    _warm_fonts()
    with tempfile.TemporaryDirectory(prefix="chapter-", ignore_cleanup_errors=True) as base:
        folder = Path(base, "reader")
        folder.mkdir()
        (folder / notebook.name).write_bytes(notebook.read_bytes())
        client = NotebookClient(
            nb,
            kernel_name="python3",
            timeout=None,  # the watch below keeps the time of the whole chapter
            record_timing=True,
            extra_arguments=["--log-level=ERROR"],  # jupyter_client says at each start that TCP is not encrypted
            resources={"metadata": {"path": str(folder)}},
        )
        watch = Watch(client, seconds * patience, max(gigabytes, MEMORY_LIMIT_GB) * GB)
        try:
            with watch:
                client.execute(env=_environment(mark, Path(base), threads))
        except CellExecutionError:
            outcome.failing_cell = watch.cell
        except DeadKernelError:
            outcome.failing_cell = watch.cell
            outcome.stopped = watch.stopped or "ended by the death of its kernel: a crash, or no memory was left"
        outcome.leftovers = end_leftovers(mark)
        outcome.seconds, outcome.peak_bytes = watch.seconds, watch.peak_bytes
        outcome.read = _read(Path(base, "read"))
    outcome.cell_seconds = {cell.id: _seconds(cell) for cell in nb.cells if "execution" in cell.metadata}
    return outcome


def _budget(notebook: Path, nb: NotebookNode) -> tuple[float, float]:
    course = nb.metadata.get("course", {})
    if not {"seconds", "memory_gb"} <= set(course):
        raise ValueError(
            f"{notebook.name} states no budget: put `seconds` and `memory_gb` into `course` of the metadata, "
            'such as {"chapter": "float_formats", "seconds": 90, "memory_gb": 2.0, ...} (CONTRIBUTING.md, "A chapter")'
        )
    return float(course["seconds"]), float(course["memory_gb"])


def _read(account: Path) -> set[Path]:
    """The files of the package in the account that `tools/offline/sitecustomize.py` wrote; of a module, its source."""
    lines = account.read_text(encoding="utf-8").splitlines() if account.is_file() else []
    sources = (re.sub(r"__pycache__.(\w+)\.[\w-]+\.pyc(\.\d+)?$", r"\1.py", line) for line in lines)
    return {Path(line) for line in sources}


def _environment(mark: str, base: Path, threads: int | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    if threads is not None:
        kept["OMP_NUM_THREADS"] = str(threads)
    return kept | {
        "COURSE_RUN": mark,  # inherited by every process of the chapter: how leftovers are found
        "PYTHONPATH": str(OFFLINE),  # and nothing else: the package must come from where it is installed
        "COURSE_PACKAGE": str(ROOT / closure.PACKAGE),
        "COURSE_READ": str(base / "read"),  # where each process writes down what it reads of the package
        "IPYTHONDIR": str(base / "ipython"),  # not the user's own start-up files
        "MPLCONFIGDIR": str(MATPLOTLIB),  # nor matplotlib's settings and list of fonts, which others may have spoilt
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # threads that wait leave the core to others: spinning made busy machines crawl
    }


@functools.cache
def _warm_fonts() -> None:
    """matplotlib builds its font cache on first use and says so on stderr: have that done before any chapter."""
    MATPLOTLIB.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "MPLCONFIGDIR": str(MATPLOTLIB)}
    command = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(command, env=environment, check=False, capture_output=True)


def _seconds(cell: NotebookNode) -> float:
    """Seconds between the kernel's word that it took the cell up and its word that it was idle again."""
    times = cell.metadata["execution"]
    ends = times.get("iopub.status.busy"), times.get("shell.execute_reply")
    if None in ends:
        return 0.0
    start, end = (datetime.datetime.fromisoformat(str(when).replace("Z", "+00:00")) for when in ends)
    return (end - start).total_seconds()


def _source(notebook: Path) -> str:
    """The notebook without outputs, counts and ids: what an author wrote."""
    nb = nbformat.read(notebook, as_version=4)
    cells = [[cell.cell_type, cell.source, cell.metadata] for cell in nb.cells]
    return json.dumps([cells, nb.metadata], sort_keys=True)
