"""Find layers by name, and recognise a base. Names are always those of the bare model: what wraps a layer does not
show in them."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from course_utils.tuning.layer import TunedLayer

Pattern = str | re.Pattern[str]


def walk(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module inside, by the name it has in the bare model; a tuned layer stands for its layer."""
    for name, child in module._modules.items():  # not named_children, which passes over a module met before
        if child is not None:
            yield prefix + name, child
            yield from walk(child.base if isinstance(child, TunedLayer) else child, f"{prefix}{name}.")


def tuned_layers(model: nn.Module) -> list[tuple[str, TunedLayer]]:
    """The tuned layers of a model by name, outer ones before those inside."""
    return [(name, module) for name, module in walk(model) if isinstance(module, TunedLayer)]


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the layer of this name, and its name there: for ``setattr``."""
    *path, leaf = name.split(".")
    for part in path:
        model = getattr(model, part)
        model = model.base if isinstance(model, TunedLayer) else model
    return model, leaf


def select(
    model: nn.Module, patterns: Sequence[Pattern] | Pattern, kinds: tuple[type[nn.Module], ...], argument: str
) -> tuple[str, ...]:
    """The names of the layers that fit a pattern and are of the kinds given, in the order of the model.

    Args:
        patterns: each a glob, which may leave out the beginning of the name (``"q_proj"``, ``"layers.0.*"``; a star
            stands for dots too), or a compiled regular expression for the whole name.
        argument: what to call the patterns in an error.

    Raises:
        ValueError: a pattern that fits no name (with names like it), or no layer of these kinds.
    """
    modules = {name: m.base if isinstance(m, TunedLayer) else m for name, m in walk(model)}
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str | re.Pattern) else patterns:
        fitting = [name for name in modules if _fits(name, pattern)]
        if not fitting:
            raise ValueError(f"{argument}: {_text(pattern)!r} fits no layer. {_near(pattern, modules, kinds)}")
        right = [name for name in fitting if isinstance(modules[name], kinds) and list(modules[name].parameters())]
        if not right:
            found = ", ".join(sorted({type(modules[name]).__name__ for name in fitting}))
            wanted = ", ".join(kind.__name__ for kind in kinds if kind is not nn.Module) or "layers with parameters"
            raise ValueError(f"{argument}: {_text(pattern)!r} fits {found} alone: choose among {wanted}")
        chosen.update(right)
    return tuple(name for name in modules if name in chosen)


def inside(name: str, outer: Sequence[str]) -> bool:
    """Whether a name is one of ``outer`` or stands below one of them."""
    return any(name == top or name.startswith(f"{top}.") for top in outer)


def fingerprint(model: nn.Module, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """A short mark of every parameter and saved buffer of the bare model, such as ``float32[768, 768] 1f0a66c2``: its
    type, shape, and a hash of 16 of its values, spread evenly. Training changes practically all values, so that these
    few tell one checkpoint from another in milliseconds."""
    marks = {}
    for name, tensor in _tensors(model, ""):
        if not inside(name, leave_out):
            few = tensor.detach().flatten()[:: max(1, tensor.numel() // 16)][:16]
            values = b"" if few.is_meta else few.double().cpu().numpy().tobytes()
            kind = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            marks[name] = f"{kind} {hashlib.sha256(values).hexdigest()[:8]}"
    return marks


def different(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """In a few words, how two fingerprints differ; empty if they do not."""
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    few = [f"{name}: {ours.get(name, 'absent')} here, {theirs.get(name, 'absent')} there" for name in names[:2]]
    return "; ".join(few) + (f"; and {len(names) - 2} more" if len(names) > 2 else "")


def _tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    module = module.base if isinstance(module, TunedLayer) else module
    own = {**module._parameters, **module._buffers}
    for name, tensor in own.items():
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, tensor
    for name, child in module._modules.items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def _fits(name: str, pattern: Pattern) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def _near(pattern: Pattern, modules: dict[str, nn.Module], kinds: tuple[type[nn.Module], ...]) -> str:
    """Last words of names that look like the pattern, or else all of the right kind."""
    names = {name for name, module in modules.items() if isinstance(module, kinds) and list(module.parameters())}
    words = sorted({part for name in names for part in (name.rpartition(".")[2], ".".join(name.split(".")[-2:]))})
    last = _text(pattern).strip(".*").rpartition("*")[2].lstrip(".")
    near = difflib.get_close_matches(last, words, n=5, cutoff=0.6)
    if near:
        return f"Names like it: {', '.join(near)}"
    leaves = sorted({name.rpartition(".")[2] for name in names})
    return f"Layers that can be chosen end in: {', '.join(leaves[:20]) or 'none'}"


def _text(pattern: Pattern) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern
