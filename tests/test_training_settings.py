"""Settings from a file, the command line and Python agree; what is wrong is said in a sentence."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from course_utils.training.settings import Settings


class Run(Settings):
    epochs: int = Field(5, ge=1, description="passes over the data")
    head_lr: float | None = Field(None, gt=0, description="of the head")
    layers: tuple[str, ...] = Field(("a",), min_length=1, description="which")
    resume: bool = Field(False, description="go on")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "epochs: 3\nhead_lr: 1e-3\nlayers: [q, v]\nresume: yes\n"),
        ("run.json", '{"epochs": 3, "head_lr": 0.001, "layers": ["q", "v"], "resume": true}'),
    ],
)
def test_file_command_line_and_python_agree(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    wanted = Run(epochs=3, head_lr=1e-3, layers=("q", "v"), resume=True)
    assert Run.load(tmp_path / name) == wanted
    words = ["--epochs", "3", "--head-lr", "1e-3", "--layers", "q", "v", "--resume"]
    assert Run.from_command_line(words, "") == wanted
    changed = Run.from_command_line(["--config", str(tmp_path / name), "--epochs", "2", "--head-lr", "none"], "")
    assert (changed.epochs, changed.head_lr, changed.layers) == (2, None, ("q", "v"))
    assert Run.from_command_line([], "") == Run.load() == Run()
    with pytest.raises(ValidationError, match="frozen"):
        wanted.epochs = 4


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", None, "there is no configuration file .*a.yaml: check the path"),
        ("a.yaml", "", "a.yaml is empty, .*: write lines such as epochs: 5"),
        ("a.yaml", "- 3\n", "a.yaml holds a list, expected keys with values"),
        ("a.yaml", "epochs: [", "a.yaml is no YAML"),
        ("a.json", "{", "a.json is no YAML or JSON"),
        ("a.yaml", "epoch: 3\n", r"a.yaml: unknown key 'epoch': did you mean epochs\?"),
        ("a.yaml", "zzz: 3\n", "unknown key 'zzz': use epochs, head_lr, layers, resume"),
        ("a.yaml", "epochs: 0\n", r"epochs is 0, expected greater than or equal to 1 \(passes over the data\)"),
        ("a.yaml", "epochs: many\n", "epochs is 'many', expected a valid integer"),
        ("a.yaml", "head_lr: .nan\n", "head_lr is nan, expected a finite number"),
        ("a.yaml", "layers: []\nepochs: -1\n", "epochs is -1.*layers is .*at least 1 item"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Run.load(tmp_path / name)


def test_help_names_every_key_and_its_default(capsys):
    with pytest.raises(SystemExit):
        Run.from_command_line(["--help"], "Run something.")
    said = " ".join(capsys.readouterr().out.split())
    assert "Run something." in said
    assert "--config FILE" in said
    for key, default in (("--epochs", "5"), ("--head-lr", "none"), ("--resume", "False")):
        assert key in said
        assert f"(default: {default})" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epoch", "3"], "unknown key 'epoch': did you mean epochs"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--epochs", "0"], "epochs is '0'.* greater than or equal to 1"),
    ],
)
def test_the_command_line_says_what_is_wrong(words, said):
    with pytest.raises(ValueError, match=said):
        Run.from_command_line(words, "")


def test_a_key_may_be_spelled_as_in_a_file_and_the_environment_is_not_read(monkeypatch):
    monkeypatch.setenv("EPOCHS", "77")
    assert Run.from_command_line(["--head_lr", "0.5", "--layers", "a_b", "c"], "") == Run(
        head_lr=0.5, layers=("a_b", "c")
    )
    assert Run.from_command_line(["--head_lr=0.5"], "").head_lr == 0.5


def test_a_word_that_is_none_is_not_nothing():
    class Augmented(Run):
        augment: Literal["none", "crop"] = Field("crop", description="what is done")

    found = Augmented.from_command_line(["--augment", "none", "--head-lr", "none"], "")
    assert (found.augment, found.head_lr) == ("none", None)
