"""Settings of a run: typed, checked, unchangeable; from a YAML or JSON file, the command line, or Python.

A project lists its keys once, as fields with a default and a description, and gets all three::

    class Config(Settings):
        epochs: int = Field(5, ge=1, description="passes over the training images")

    Config.load("run.yaml", epochs=3)
    Config.from_command_line(None, "Train something.")  # --config run.yaml --epochs 3
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


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
    def from_command_line(cls, arguments: list[str] | None, description: str) -> Self:
        """What ``--config FILE`` says and one option for each key, which wins over the file; ``none`` means None."""
        parser = argparse.ArgumentParser(
            description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False
        )
        parser.add_argument("--config", help="a YAML or JSON file with any of the keys below")
        for key, field in cls.model_fields.items():
            more: dict[str, Any] = {}
            if field.annotation is bool:
                more = {"action": argparse.BooleanOptionalAction}
            elif isinstance(field.default, tuple):
                more = {"nargs": "+"}
            told = f"{field.description} (default: {'none' if field.default is None else field.default})"
            parser.add_argument(f"--{key.replace('_', '-')}", dest=key, help=told.replace("%", "%%"), **more)
            if "_" in key:  # as a file spells it
                parser.add_argument(f"--{key}", dest=key, help=argparse.SUPPRESS, **more)
        found = vars(parser.parse_args(arguments))
        file = found.pop("config", None)
        return cls.load(file, **{key: None if value == "none" else value for key, value in found.items()})

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


def read_keys(file: Path, example: str) -> dict[str, Any]:
    """The keys and values of a YAML or JSON file; a ``ValueError`` says what is wrong with another."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no configuration file {file}: check the path")
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if file.suffix == ".json" else "YAML"
        raise ValueError(
            f"{file} is no {kind} ({' '.join(str(error).split())}): write lines such as {example}"
        ) from None
    if content is None:
        raise ValueError(f"{file} is empty: write lines such as {example}, or leave out the file")
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected keys with values, such as {example}")
    return {str(key): value for key, value in content.items()}
