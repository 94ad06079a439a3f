"""One list of dependencies, one tested set of versions; README, hooks and workflows call commands that exist."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import drift, sync

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def direct() -> dict[str, Requirement]:
    """Every requirement that pyproject.toml states, in all its extras, but the package's own extras."""
    stated = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    found = [Requirement(line) for line in stated]
    return {canonicalize_name(one.name): one for one in found if canonicalize_name(one.name) != "course-utils"}


def pinned(text: str) -> dict[str, Version]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), "a constraint is `name==version` and no more"
    pins: dict[str, Version] = {
        canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)
    }
    assert len(pins) == len(lines), "a package is named twice in constraints.txt"
    return pins


def disagreements(requirements: dict[str, Requirement], pins: dict[str, Version]) -> list[str]:
    found = [f"{name} is not in constraints.txt" for name in sorted(requirements.keys() - pins.keys())]
    for name, requirement in requirements.items():
        if name in pins and not requirement.specifier.contains(pins[name], prereleases=True):
            found.append(f"{name}=={pins[name]} is not {requirement.specifier}")
    return found


PINS = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def test_the_tested_set_satisfies_every_stated_bound() -> None:
    assert disagreements(direct(), PINS) == []


def test_planted_disagreements_are_named() -> None:
    assert disagreements({"x": Requirement("x>=2")}, {"x": Version("1.9")}) == ["x==1.9 is not >=2"]
    assert disagreements({"x": Requirement("x>=2")}, {}) == ["x is not in constraints.txt"]


def test_no_upper_bound_would_replace_what_colab_ships() -> None:
    stated = [Requirement(line) for line in PROJECT["dependencies"]]
    assert stated
    for requirement in stated:
        assert {part.operator for part in requirement.specifier} == {">="}, f"{requirement}: state a lower bound only"


def test_the_tested_set_fits_every_build_of_torch() -> None:
    named = [name for name in PINS if name.startswith(("nvidia-", "cuda-", "triton", "course-utils"))]
    assert not named, f"each build of torch pins its own CUDA libraries: take {named} out of constraints.txt"
    assert not [pin for pin in PINS.values() if pin.local], (
        "a local version (+cpu, +cu130) fits one build of torch only"
    )


def test_the_conda_environment_is_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, last = environment["dependencies"]
    assert last == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}
    assert {re.split(r"[<>=]", entry)[0] for entry in conda} == {"python", "pip"}, (
        "packages are listed in pyproject.toml"
    )
    python = next(entry for entry in conda if entry.startswith("python"))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert python.removeprefix("python").split(",")[0] == f">={lowest}"
    dev = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["dev"]}
    assert "course-utils" in dev, "the extra `dev` must bring the extras `book` and `test`"


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_make_refuses_an_old_python_with_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python"
    pretend = "import sys; sys.version_info = (3, 9, 6)"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{pretend}\nexec(sys.argv[1])' \"$2\"\n")
    old.chmod(0o755)
    done = _make(tmp_path, "test", f"PYTHON={old}")
    assert done.returncode != 0
    assert all(word in done.stderr for word in ("3.11", "3.9.6", str(old))), done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_installs_the_tested_set_once(tmp_path: Path) -> None:
    done = _make(tmp_path, "--dry-run", "test")
    assert "-m pip install" in done.stdout
    assert "-c constraints.txt --editable '.[dev]'" in done.stdout
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    again = subprocess.run(["make", "-n", "test"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "pip install" not in again
    newest = _make(tmp_path, "-n", "-B", "test", "CONSTRAINTS=").stdout
    assert "constraints.txt" not in newest.split("pip install")[1].split("\n")[0]


def test_the_readme_names_the_two_commands_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make book\b", readme, re.M)
    assert re.search(r"^make test\b", readme, re.M)
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"
    assert re.search(r"^make test\b", script.read_text(encoding="utf-8"), re.M)


def test_the_maintainers_page_names_every_room_and_only_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "course_utils").glob("*/__init__.py")}
    assert rooms - set(re.findall(r"`(\w+)/`", text)) == set(), "the page's table of rooms lacks these"
    files = {name for name in re.findall(r"`([\w/.]+/[\w.]+\.(?:py|js|md|yml))`", text) if "name" not in name}
    assert len(files) > 5
    nowhere = {name for name in files if not any((ROOT / part / name).is_file() for part in ("", "course_utils"))}
    assert {name for name in nowhere if "topic" not in name} == {"book/coverage.md"}, "which the book makes"


def test_links_of_the_readme_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", readme) if "://" not in target]
    targets += re.findall(r'src="([^"]+)"', readme)
    assert targets
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def commands(node: Any) -> list[str]:
    """Every `run` and `entry` of a workflow or of the hooks."""
    if isinstance(node, dict):
        own = [str(value) for key, value in node.items() if key in ("run", "entry") and isinstance(value, str)]
        return own + [one for value in node.values() for one in commands(value)]
    return [one for value in node for one in commands(value)] if isinstance(node, list) else []


def unknown_commands(text: str) -> list[str]:
    """The make targets, our own modules and scripts that a command names and that are not there."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z]+):", rules, re.M), ".venv/installed"}
    found = [f"make {name}" for name in re.findall(r"\bmake ([\w./-]+)", text) if name not in targets]
    for module in re.findall(r"-m ((?:tools|course_utils)[\w.]*)", text):
        path = ROOT.joinpath(*module.split("."))
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
            found.append(f"python -m {module}")
    found += [path for path in re.findall(r"\b(?:tests|tools)/[\w./]+", text) if not (ROOT / path).exists()]
    return found


def test_planted_commands_are_named() -> None:
    planted = "make boook PYTHON=python && python -m tools.nothing && pytest tests/test_nothing.py"
    assert unknown_commands(planted) == ["make boook", "python -m tools.nothing", "tests/test_nothing.py"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"], "say what the job may do"
    assert all("timeout-minutes" in job for job in workflow["jobs"].values() if "environment" not in job)
    texts = commands(workflow["jobs"])
    assert [one for text in texts for one in unknown_commands(text)] == []
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", one) for one in uses)


def test_the_workflows_that_were_promised() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"tests", "book", "drift", "weekly", "links"}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["package"]["strategy"]["matrix"]
    assert len(matrix["python"]) >= 2
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert "macos-latest" in {entry["os"] for entry in matrix["include"]}


def test_a_slow_machine_s_patience_stands_once() -> None:
    files = [ROOT / "Makefile", ROOT / ".ci" / "run", *WORKFLOWS]
    assert [path.name for path in files for _ in re.findall(r"--patience \d", path.read_text("utf8"))] == ["Makefile"]


def test_hooks_call_what_exists() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = hooks["repos"]
    assert [hook["id"] for hook in local["hooks"]] == ["nbstripout", "ruff-check", "ruff-format", "sync", "exercises"]
    assert [one for text in commands(hooks) for one in unknown_commands(text)] == []
    assert (ROOT / "tools" / "python").stat().st_mode & 0o111


def test_drift_tells_what_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = dict(drift.PIN.findall((ROOT / "constraints.txt").read_text(encoding="utf-8")))
    monkeypatch.setattr(drift.importlib.metadata, "version", lambda name: versions[name])
    assert drift.table() == "Nothing has drifted."
    monkeypatch.setitem(versions, "torch", "99.0+cpu")
    tested = PINS["torch"]
    assert drift.table().splitlines()[2:] == [f"| torch | {tested} | 99.0+cpu |"]


def test_the_address_stands_in_one_place() -> None:
    """Every other file gets it from pyproject.toml: by tools.sync, or when the book is assembled."""
    owner_and_name = sync.repository().removeprefix("https://github.com/")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    outside = re.sub(rf"{re.escape(sync.README_BEGIN)}.*?{re.escape(sync.README_END)}", "", readme, flags=re.S)
    folders = ("book", "course_utils", "tools", "tests", ".github")
    files = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".yml", ".js"}
    ]
    holders = [
        path.relative_to(ROOT).as_posix() for path in files if owner_and_name in path.read_text(encoding="utf-8")
    ]
    assert [*holders, *(["README.md"] if owner_and_name in outside else [])] == []
