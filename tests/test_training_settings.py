"""Settings from a file, the command line and Python agree; what is wrong is said in a sentence."""

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
        ("a.yaml", "", "a.yaml is empty: write lines such as epochs: 5"),
        ("a.yaml", "- 3\n", "a.yaml holds a list, expected keys with values"),
        ("a.yaml", "epochs: [", "a.yaml is no YAML"),
        ("a.json", "{", "a.json is no JSON"),
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
    assert "--epochs EPOCHS passes over the data (default: 5)" in said
    assert "--head-lr HEAD_LR of the head (default: none)" in said
