"""14.2: a learning rate for each layer."""

from __future__ import annotations

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_layer_rates = Check("vit_fine_tuning.2", "layer_rates", parameters=("depth", "lr", "decay", "head_lr"))


def _look(answer: Answer, depth: int, lr: float, decay: float, head_lr: float) -> None:
    distance = np.arange(depth + 1, -1, -1)  # patches, layers 1 to depth, last norm
    want = np.append(lr * decay**distance, head_lr)
    suspects = {
        "The patches learn fastest here. They are nearest the image, and should learn slowest.":
            np.append(want[:-1][::-1], head_lr),
        "The head has a rate of its own, head_lr, and no decay.": np.append(want[:-1], lr),
        "The norm behind the last layer has lr itself; here it is one step lower already.":
            np.append(want[:-1] * decay, head_lr),
        "Patches and first layer have the same rate here. The patches are one place nearer the image.":
            np.append(lr * decay ** np.minimum(distance, depth), head_lr),
        "The rate falls by the same amount here. It should fall by the same factor.":
            np.append(lr * (1 - (1 - decay) * distance), head_lr),
        "Nothing decays here.": np.append(np.full(depth + 2, lr), head_lr),
        "The head stands last, behind the norm.": np.append(head_lr, want[:-1]),
        "The layers decay from head_lr here, not from lr.": np.append(head_lr * decay**distance, head_lr),
    }  # fmt: skip
    given = f"{answer.name}(depth={depth}, lr={lr:g}, decay={decay:g}, head_lr={head_lr:g})"
    answer.expect(want, depth, lr, decay, head_lr, given=given, suspects=suspects, rtol=1e-9)


@check_layer_rates.point(
    "four layers, 0.7 a layer",
    hint="Seven rates: patches, four layers, norm, head. The norm has lr, each place before it decay times less.",
)
def _(answer: Answer, rng: Rng) -> None:
    _look(answer, 4, 5e-4, 0.7, 1e-2)


@check_layer_rates.point(
    "any depth, one layer too",
    hint="The result has depth + 3 rates.",
)
def _(answer: Answer, rng: Rng) -> None:
    for depth in (1, int(rng.integers(2, 30))):
        _look(answer, depth, float(rng.uniform(1e-5, 1e-2)), float(rng.uniform(0.4, 0.95)), float(rng.uniform(0.01, 1)))


@check_layer_rates.point(
    "a decay of 1 changes nothing",
    hint="With decay 1 every place but the head has lr.",
)
def _(answer: Answer, rng: Rng) -> None:
    depth, lr = int(rng.integers(2, 13)), float(rng.uniform(1e-5, 1e-3))
    answer.expect(np.append(np.full(depth + 2, lr), 0.5), depth, lr, 1.0, 0.5, rtol=1e-9)
