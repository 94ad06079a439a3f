"""Settings of a run: typed, checked, unchangeable; from a YAML or JSON file, the command line, or Python.

A project lists its keys once, as fields with a default and a description, and gets all three::

    class Config(Settings):
        epochs: int = Field(5, ge=1, description="passes over the training images")

    Config.load("run.yaml", epochs=3)
    Config.from_command_line(None, "Train something.")  # --config run.yaml --epochs 3
"""

from __future__ import annotations

import difflib
import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from course_utils.precision import Precision


class Settings(BaseModel):
    """The base of a project's configuration. Unknown keys are refused; so is ``nan``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    example: ClassVar[str] = "epochs: 5"  # a line of a file, shown to who has written none

    @classmethod
    def load(cls, file: str | Path | None = None, **choices: Any) -> Self:
        """What a YAML or JSON file says, or the defaults, with single keys changed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, or holds unknown keys or values that do not fit; each in a sentence.
        """
        found = {} if file is None else read_keys(Path(file), cls.example)
        return cls.checked({**found, **choices}, "the options" if file is None else str(file))

    @classmethod
    def checked(cls, choices: Mapping[str, Any], where: str) -> Self:
        """Settings of these keys, or a ``ValueError`` that says of each what was found, what was expected, what to
        do. ``where`` they come from begins the sentence."""
        try:
            return cls.model_validate(choices)
        except ValidationError as error:
            faults = "; ".join(cls._sentence(dict(fault)) for fault in error.errors())
            raise ValueError(f"{where}: {faults}") from None

    @classmethod
    def from_command_line(cls, words: list[str] | None, description: str) -> Self:
        """One option for each key, ``--head-lr`` or ``--head_lr``, and ``--config FILE``, which they win over. ``none``
        means None; a list is written ``--targets q_proj v_proj``."""
        words = [
            re.sub(r"^--\w+", lambda key: key[0].replace("_", "-"), w)
            for w in (sys.argv[1:] if words is None else words)
        ]
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config")
        file, words = parser.parse_known_args(words)
        # pydantic-settings asks for a class of its own. The command line alone is read, and no environment.
        own = type(cls.__name__, (BaseSettings, cls), {"__doc__": f"{description} --config FILE: a YAML or JSON file."})
        style: dict[str, Any] = {"cli_kebab_case": True, "cli_implicit_flags": True, "cli_parse_none_str": "none"}
        style |= {"cli_exit_on_error": False, "add_argument_method": _add_argument}
        try:
            found = CliSettingsSource(own, cli_parse_args=words, **style)()
        except SettingsError as error:
            if not (unknown := re.search(r"unrecognized arguments: --([\w-]+)", str(error))):
                raise ValueError(f"{str(error).removeprefix('error parsing CLI: ')}: --help lists all keys") from None
            found = {unknown[1].replace("-", "_"): None}
        # Where "none" is one of a key's words, it is that word.
        words_none = {key for key, field in cls.model_fields.items() if "none" in get_args(field.annotation)}
        found = {key: "none" if value is None and key in words_none else value for key, value in found.items()}
        return cls.load(file.config, **found)

    @classmethod
    def _sentence(cls, fault: Mapping[str, Any]) -> str:
        """One complaint of pydantic's, in the words of this course."""
        if not fault["loc"]:
            return str(fault["msg"]).removeprefix("Value error, ")
        key = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, cls.model_fields, n=2, cutoff=0.5)
            return f"unknown key {key!r}: " + (
                f"did you mean {' or '.join(near)}?" if near else f"use {', '.join(cls.model_fields)}"
            )
        expected = re.sub("[Ii]nput should be", "expected", str(fault["msg"]).removeprefix("Value error, "))
        expected = expected[0].lower() + expected[1:]
        return f"{key} is {fault['input']!r}, {expected} ({cls.model_fields[key].description})"


class RunSettings(Settings):
    """The keys that every run has (:mod:`course_utils.training.run`). A project adds its own, and other defaults."""

    epochs: int = Field(5, ge=1, description="passes over the training data, at most")
    batch_size: int = Field(32, ge=1, description="samples of one batch, of all processes together")
    accumulate: int = Field(1, ge=1, description="batches of one optimizer step")
    clip: float | None = Field(1.0, gt=0, description="largest norm of a gradient; none: as large as it is")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation accuracy; none: never"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="share of the run's steps that averaged weights look back over; 0: none are kept"
    )
    precision: Literal["auto", Precision] = Field(
        "auto", description="of matrix products; auto: bf16 or fp16 where the device multiplies it faster"
    )
    compile: bool = Field(False, description="let torch.compile make one program of the model")
    seed: int = Field(0, ge=0, description="of everything that is drawn")

    output: str | None = Field("output", description="folder of the run's files, the same for all machines; none")
    save_every: int = Field(200, ge=1, description="steps between two checkpoints; one follows each epoch too")
    tensorboard: bool = Field(False, description="write the losses for TensorBoard, beside the checkpoints")
    resume: bool = Field(False, description="go on where last.safetensors stands")
    overwrite: bool = Field(False, description="replace a run that is there")
    processes: int = Field(1, ge=0, le=64, description="on this machine; 0: one for each GPU, or for each of two cores")

    @property
    def folder(self) -> Path | None:
        """Where the run's files are."""
        return None if self.output is None else Path(self.output)

    @model_validator(mode="after")
    def _is_a_run(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("resume goes on with the run that overwrite would remove: choose one of them")
        if self.output is None and (self.resume or self.tensorboard):
            raise ValueError("resume and tensorboard need the folder of the run: give output")
        if self.batch_size % max(1, self.processes):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split over {self.processes} processes: choose a multiple, "
                f"such as {(self.batch_size // self.processes + 1) * self.processes}"
            )
        return self


def _add_argument(parser: ArgumentParser, *names: str, **options: Any) -> Any:
    """As argparse does it, but a list takes all words that follow, where pydantic-settings wants commas."""
    if options.get("action") == "append":
        options |= {"action": "extend", "nargs": "+"}
    return ArgumentParser.add_argument(parser, *names, **options)


def read_keys(file: Path, example: str) -> dict[str, Any]:
    """The keys and values of a YAML file, and so of a JSON file; a ``ValueError`` says what is wrong with another."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no configuration file {file}: check the path")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no YAML or JSON ({reason}): write lines such as {example}") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ValueError(f"{file} {found}, expected keys with values: write lines such as {example}")
    return {str(key): value for key, value in content.items()}
