"""07.2: unscale, then clip, in FP32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check

Rng = np.random.Generator
Gradients = list[NDArray[Any]]

check_unscale_and_clip = Check("mixed_precision.2", "unscale_and_clip", parameters=("gradients", "scale", "max_norm"))


def _right(gradients: Gradients, scale: float, max_norm: float) -> tuple[Gradients, float]:
    true = [g.astype(np.float64) / scale for g in gradients]
    norm = float(np.sqrt(sum(float((g**2).sum()) for g in true)))
    factor = min(1.0, max_norm / norm)
    return [g * factor for g in true], norm


def _mistakes(gradients: Gradients, scale: float, max_norm: float) -> dict[str, Gradients]:
    """The sentence that explains a mistake -> the gradients it gives."""
    raw = [g.astype(np.float64) for g in gradients]
    norm = float(np.sqrt(sum(float((g**2).sum()) for g in raw)))
    each = [g / scale * min(1.0, max_norm / max(float(np.linalg.norm(g / scale)), 1e-300)) for g in raw]
    return {
        "Clipped before it was unscaled: the norm was still 'scale' times too large. Unscale first.": [
            g * min(1.0, max_norm / norm) / scale for g in raw
        ],
        "Each tensor was clipped by itself. One norm over all tensors, one factor for all.": each,
        "Nothing was clipped here.": [g / scale for g in raw],
        "A norm below max_norm must stay as it is; here it was brought up. Was it divided by the scale first?": [
            g / norm * max_norm for g in raw
        ],
        "That is the gradient times the scale once more.": [g * scale for g in raw],
    }


def _same(got: Gradients, want: Gradients) -> bool:
    return all(np.allclose(g, w, rtol=2e-5, atol=1e-12) for g, w in zip(got, want, strict=True))


def _looks(answer: Answer, gradients: Gradients, scale: float, max_norm: float) -> None:
    given = ("given", f"{len(gradients)} tensors of dtype {gradients[0].dtype}, scale {scale:g}, max_norm {max_norm:g}")
    result = answer(gradients, scale, max_norm)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], list):
        raise NotOk(
            given,
            ("expected", "(list of gradients, norm)"),
            ("got", f"{type(result).__name__} {brief(result)}"),
            hint="Return both, in this order: the clipped gradients, and the norm they had before clipping.",
        )
    got, norm = result
    forms = [(getattr(g, "shape", None), str(getattr(g, "dtype", type(g).__name__))) for g in got]
    wanted = [(g.shape, "float32") for g in gradients]
    if forms != wanted:
        hint = "One gradient for each given one, in its shape."
        if [shape for shape, _ in forms] == [shape for shape, _ in wanted]:
            hint = "Cast to float32 before you divide: in float16 the quotient vanishes again."
        raise NotOk(given, ("expected", brief(wanted)), ("got", brief(forms)), hint=hint)
    want, want_norm = _right(gradients, scale, max_norm)
    if not _same(got, want):
        hint = next((s for s, v in _mistakes(gradients, scale, max_norm).items() if _same(got, v)), "")
        sizes = [f"{float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in v))):.6g}" for v in (want, got)]
        raise NotOk(
            given, ("expected", f"gradients of norm {sizes[0]}"), ("got", f"gradients of norm {sizes[1]}"), hint=hint
        )
    if np.ndim(norm) != 0 or not np.isclose(float(norm), want_norm, rtol=1e-4):
        scaled = np.isclose(float(np.max(norm)), want_norm * scale, rtol=1e-4)
        hint = "That is the norm of the scaled gradients." if scaled else "Return the true norm, from before clipping."
        raise NotOk(given, ("expected", f"norm {want_norm:.6g}"), ("got", f"norm {brief(norm)}"), hint=hint)


def _random(rng: Rng, norm: float, scale: float, dtype: type = np.float16) -> Gradients:
    """Gradients of odd shapes whose true global norm is ``norm``, scaled by ``scale``."""
    shapes = [(5, 3), (7,), (2, 3, 4), (1, 1), (int(rng.integers(2, 40)),)]
    raw = [rng.normal(size=s) * 4.0 ** rng.integers(-1, 2) for s in shapes]
    total = np.sqrt(sum((g**2).sum() for g in raw))
    return [(g / total * norm * scale).astype(dtype) for g in raw]


@check_unscale_and_clip.point(
    "a true norm above max_norm is brought down to it",
    hint="Divide by the scale, take one norm over all tensors, multiply all by max_norm / norm.",
)
def _(answer: Answer, rng: Rng) -> None:
    for scale in (2.0**6, 2.0**10):
        _looks(answer, _random(rng, float(rng.uniform(3, 9)), scale), scale, float(rng.uniform(0.5, 2)))


@check_unscale_and_clip.point(
    "a true norm below max_norm is left alone, however large the scaled one is",
    hint="With a true norm of 0.1 and a scale of 65536 the scaled norm is 6553.6: clip after unscaling.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, _random(rng, 0.1, 2.0**16), 2.0**16, 1.0)
    _looks(answer, _random(rng, float(rng.uniform(0.1, 0.9)), 2.0**12), 2.0**12, 1.0)


@check_unscale_and_clip.point(
    "gradients in FP16: sums of squares and quotients that FP16 cannot hold",
    hint="300**2 is inf in float16, and 1e-3 / 65536 is 0: cast to float32 first.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, _random(rng, 1.0, 30000.0), 2.0**15, 0.25)
    _looks(answer, _random(rng, 1e-6, 2.0**16), 2.0**16, 1.0)


@check_unscale_and_clip.point(
    "gradients in FP32, one tensor or many, and a scale of 1",
    hint="The same code serves: astype(np.float32) of a float32 array is a copy.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, _random(rng, 5.0, 1.0, np.float32), 1.0, 2.0)
    _looks(answer, _random(rng, 5.0, 2.0**20, np.float32)[:1], 2.0**20, 1.0)
