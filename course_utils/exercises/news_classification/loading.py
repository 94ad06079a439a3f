"""12.3: load tuned weights, or refuse them and leave the model alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_load_tuned = Check("news_classification.3", "load_tuned", parameters=("model", "saved"))


def _model(rng: Rng) -> nn.Module:
    """A frozen body and two parts that train, with a buffer."""
    width = int(rng.integers(3, 7))
    model = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 4), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape)))
    return model


def _saved(rng: Rng, model: nn.Module) -> dict[str, Tensor]:
    """New values for all that trains."""
    return {
        name: torch.from_numpy(rng.normal(size=p.shape)).to(p.dtype)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _load(answer: Answer, model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Call the learner's function itself: a model is changed in place, which ``Answer`` forbids elsewhere."""
    result = answer.function(model, saved)
    if result is not None:
        raise NotOk(("expected", "None: the model is changed in place"), ("got", type(result).__name__))


def _stands(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _refused(answer: Answer, rng: Rng, spoil: Callable[[dict[str, Tensor]], str], what: str) -> None:
    model = _model(rng)
    saved = _saved(rng, model)
    name, before = spoil(saved), _stands(model)
    try:
        _load(answer, model, saved)
    except ValueError as error:
        if name not in str(error):
            raise NotOk(
                ("expected", f"a message that names {name!r}"),
                ("got", f"ValueError: {str(error)[:120]}"),
                hint="Who reads the message wants to know which key it is: put its name into it.",
            ) from None
    except NotImplementedError as error:
        raise NotOk(("raised", str(error)), hint="Nothing is written yet.", ends=True) from None
    except Exception as error:
        raise NotOk(("expected", f"a ValueError, for {what}"), ("raised", f"{type(error).__name__}: {error}")) from None
    else:
        raise NotOk(("expected", f"a ValueError, for {what}"), ("got", "no error: it was loaded"))
    after = model.state_dict()
    if changed := [key for key in before if not torch.equal(before[key], after[key])]:
        raise NotOk(
            ("expected", "the model as it was before"),
            ("changed", ", ".join(changed)),
            hint="Compare everything first; change the first number when nothing can go wrong any more.",
        )


@check_load_tuned.point(
    "what trains gets the saved values, and nothing else changes",
    hint="with torch.no_grad(): parameter.copy_(saved[name]), for every name that trains.",
)
def _(answer: Answer, rng: Rng) -> None:
    model = _model(rng)
    saved, before = _saved(rng, model), _stands(model)
    try:
        _load(answer, model, saved)
    except NotImplementedError as error:
        raise NotOk(("raised", str(error)), hint="Nothing is written yet.", ends=True) from None
    except (ValueError, KeyError, RuntimeError) as error:
        raise NotOk(("given", "exactly the keys that train"), ("raised", f"{type(error).__name__}: {error}")) from None
    for name, value in model.state_dict().items():
        if not torch.equal(value, saved.get(name, before[name])):
            want = "the saved values" if name in saved else "its old values: it is frozen"
            raise NotOk(("expected", f"{name}: {want}"), ("got", "other values"))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (name in saved):
            raise NotOk(("expected", "what trains stays what trains"), ("changed", f"requires_grad of {name}"))


def _first(saved: dict[str, Tensor], rng: Rng) -> str:
    return list(saved)[int(rng.integers(0, len(saved)))]


@check_load_tuned.point(
    "a checkpoint without one of them is refused, and an empty one",
    hint="The names that train and the keys of saved must be the same set: look for names that are missing.",
)
def _(answer: Answer, rng: Rng) -> None:
    def without_one(saved: dict[str, Tensor]) -> str:
        name = _first(saved, rng)
        del saved[name]
        return name

    def empty(saved: dict[str, Tensor]) -> str:
        name = next(iter(saved))
        saved.clear()
        return name

    _refused(answer, rng, empty, "an empty checkpoint")
    _refused(answer, rng, without_one, "a checkpoint that lacks a key")


@check_load_tuned.point(
    "a key too many is refused, also that of a frozen parameter",
    hint="Look for keys of saved that are no name that trains: somebody trained something else.",
)
def _(answer: Answer, rng: Rng) -> None:
    def foreign(saved: dict[str, Tensor]) -> str:
        saved["prompt.vectors"] = torch.zeros(3)
        return "prompt.vectors"

    def frozen(saved: dict[str, Tensor]) -> str:
        saved["0.bias"] = torch.zeros(1)
        return "0.bias"

    _refused(answer, rng, foreign, "a key that the model has not")
    _refused(answer, rng, frozen, "a key of the frozen body")


@check_load_tuned.point(
    "another shape is refused, one that would broadcast, too",
    hint="copy_ spreads a [1, 4] over a [3, 4] without a word: compare the shapes.",
)
def _(answer: Answer, rng: Rng) -> None:
    def longer(saved: dict[str, Tensor]) -> str:
        name = _first(saved, rng)
        saved[name] = torch.zeros(*(size + 1 for size in saved[name].shape))
        return name

    def spread(saved: dict[str, Tensor]) -> str:
        name = next(reversed([name for name in saved if name.endswith("weight")]))
        saved[name] = saved[name][:1]
        return name

    _refused(answer, rng, longer, "another shape")
    _refused(answer, rng, spread, "a shape that broadcasts")
