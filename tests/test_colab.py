"""A chapter as Colab meets it: a folder with nothing but the notebook, and no course_utils until the first cell runs.

Colab brings torch and the rest; here a fresh environment sees this one's packages, all but the course's own. The first
cell's `git+https://...` is really run: git is told to find that address in a repository made from the files at hand, so
what is tested is what would be pushed. pip may ask no index: nothing that Colab ships may be fetched anew.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest

from tools import sync
from tools.contents import CHAPTERS, ROOT, SOLUTIONS

pytestmark = pytest.mark.once
NOT_IN_COLAB = ("course_utils", "__editable__", "_course_utils", "pip")
NOT_IN_GIT = shutil.ignore_patterns(".venv", ".git", "_build", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(nb, timeout=600, kernel_name="python3").execute()
finally:
    nbformat.write(nb, sys.argv[2])
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every notebook with --thorough, else one: a test below proves that the set-up cells differ in a name alone."""
    if "opened" in metafunc.fixturenames:
        chosen = [*CHAPTERS, *SOLUTIONS] if metafunc.config.getoption("--thorough") else CHAPTERS[:1]
        metafunc.parametrize("opened", chosen, ids=lambda path: f"{path.parent.name}-{path.stem}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the files of this checkout, those not yet committed included."""
    copy = tmp_path_factory.mktemp("pushed") / "course"
    shutil.copytree(ROOT, copy, ignore=NOT_IN_GIT, symlinks=True)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "-b", sync.BRANCH], ["add", "-A"], [*author, "commit", "-qm", "as it stands"]):
        subprocess.run(["git", *command], cwd=copy, check=True, capture_output=True)
    return copy


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built offline."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(repository)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has all that this one has, but not the course's package."""
    base = tmp_path_factory.mktemp("colab")
    shipped = base / "shipped"
    shipped.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(NOT_IN_COLAB) and entry.suffix != ".pth":
            (shipped / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", str(base / "venv")], check=True, capture_output=True)
    python = base / "venv" / "bin" / "python"
    # Before Python 3.12 an environment brings a setuptools of its own, too old to build the package without isolation.
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "setuptools"], check=True, capture_output=True)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    Path(packages, "shipped.pth").write_text(f"{shipped}\n")
    return python


def _environment(repository: Path) -> dict[str, str]:
    """Git finds the course's address in `repository`; pip builds with what is there and asks no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "PYTEST"))}
    return kept | {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": sync.repository(),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as "off": setuptools is taken from the environment
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _importable(python: Path, name: str) -> bool:
    ask = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([python, "-c", ask], cwd=python.parent, check=False).returncode == 0


def _forget(python: Path) -> None:
    """Take the package out again, and prove it: each chapter starts like a new Colab machine."""
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "course-utils"], check=True, capture_output=True)
    assert not _importable(python, "course_utils")
    assert _importable(python, "torch")


def _execute(python: Path, notebook: Path, environment: dict[str, str]) -> nbformat.NotebookNode:
    """Run a notebook from its own folder, which holds nothing else; return the executed copy."""
    assert list(notebook.parent.iterdir()) == [notebook]
    out = notebook.parent.with_name(f"{notebook.parent.name}-executed.ipynb")
    command = [str(python), "-c", EXECUTE, notebook.name, str(out)]
    done = subprocess.run(
        command, cwd=notebook.parent, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{notebook.name} failed as in Colab:\n{done.stderr[-3000:]}"
    return nbformat.read(out, as_version=4)


def test_the_wheel_holds_every_file_of_the_package(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    package = repository / "course_utils"
    wanted = {path.relative_to(repository).as_posix() for path in package.rglob("*") if path.is_file()}
    assert wanted <= inside, f"not in the wheel: {sorted(wanted - inside)}; see package-data in pyproject.toml"
    assert {Path(name).suffix for name in wanted} >= {".py", ".js", ".png", ".typed"}
    licences = {Path(name).name for name in inside if ".dist-info/licenses/" in name}
    assert {"LICENSE", "LICENSE-PROSE"} <= licences
    assert not any(name.startswith(("tools", "tests", "notebooks", "book")) for name in inside)


@pytest.mark.timeout(900)
def test_a_notebook_opened_in_colab(
    opened: Path, colab: Path, repository: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its set-up cell installs the package and nothing else; with --thorough all of a chapter runs then."""
    _forget(colab)
    nb = nbformat.read(opened, as_version=4)
    if opened not in CHAPTERS or not request.config.getoption("--thorough"):
        nb.cells = [_setup(opened)]
    notebook = tmp_path / "empty" / opened.name
    notebook.parent.mkdir()
    nbformat.write(nb, notebook)
    executed = _execute(colab, notebook, _environment(repository))
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    where = "import course_utils; print(course_utils.__file__)"
    found = subprocess.run([colab, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(colab.parent.parent), (
        f"imported from {found}, not as installed by the cell"
    )
    listed = [str(colab), "-m", "pip", "list", "--format", "json"]
    names = {row["name"] for row in json.loads(subprocess.run(listed, capture_output=True, check=True).stdout)}
    assert "course-utils" in names or "course_utils" in names
    local = [path.name for path in Path(found.strip()).parent.parent.iterdir() if path.name.endswith(".dist-info")]
    assert {name.split("-")[0] for name in local} <= {"pip", "setuptools", "course_utils"}, f"fetched more: {local}"


def test_every_notebook_has_the_set_up_cell_that_is_run_here() -> None:
    for path in (*CHAPTERS, *SOLUTIONS):
        assert _setup(path).source == sync.setup_source(path.stem), path
        assert _setup(path).source.count(sync.repository()) == 1, path


def _setup(path: Path) -> nbformat.NotebookNode:
    """A notebook's one set-up cell."""
    (cell,) = (c for c in nbformat.read(path, as_version=4).cells if "setup" in c.metadata.get("tags", []))
    return cell


def test_without_the_address_the_first_cell_fails_aloud(colab: Path, repository: Path, tmp_path: Path) -> None:
    """The planted mistake: an address where nothing is. A set-up that swallowed it would make the tests above blind."""
    _forget(colab)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sync.setup_source("toy"))])
    notebook = tmp_path / "empty" / "toy.ipynb"
    notebook.parent.mkdir()
    nbformat.write(nb, notebook)
    nowhere = _environment(tmp_path / "nowhere")
    with pytest.raises(AssertionError, match="failed as in Colab"):
        _execute(colab, notebook, nowhere)
