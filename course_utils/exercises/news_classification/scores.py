"""12.2: macro-F1 without a library."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_macro_f1 = Check("news_classification.2", "macro_f1", parameters=("labels", "answers"))


def _parts(labels: Tensor, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hits, titles and answers of each class that occurs among the labels."""
    classes = labels.unique()
    hits = torch.stack([((labels == k) & (answers == k)).sum() for k in classes]).double()
    asked = torch.stack([(labels == k).sum() for k in classes]).double()
    said = torch.stack([(answers == k).sum() for k in classes]).double()
    return hits, asked, said


def _expect(answer: Answer, labels: Tensor, answers: Tensor) -> None:
    hits, asked, said = _parts(labels, answers)
    precision, recall = hits / said.clamp(min=1), hits / asked
    f1 = 2 * hits / (asked + said)
    mean_p, mean_r = precision.mean(), recall.mean()
    everywhere = torch.cat([labels, answers]).unique()
    suspects = {
        "This is the accuracy: in it a frequent class counts more.": (labels == answers).double().mean(),
        "Each class counts as often as it has titles here. In the *macro* mean all count the same.":
            (f1 * asked).sum() / asked.sum(),
        "This is the mean of the recalls: F1 also looks at what was answered wrongly.": mean_r,
        "This is the mean of the precisions: F1 also looks at what was not found.": mean_p,
        "Make F1 of each class first, then the mean: this is the F1 of two means.":
            2 * mean_p * mean_r / (mean_p + mean_r).clamp(min=1e-12),
        "Precision and recall are averaged here. F1 is their harmonic mean, 2PR / (P + R).":
            ((precision + recall) / 2).mean(),
        "A class that is answered but has no title counts here. Take the mean over the classes that occur in labels.":
            f1.sum() / len(everywhere),
    }  # fmt: skip
    want = float(f1.mean())
    named = {sentence: float(value) for sentence, value in suspects.items() if abs(float(value) - want) > 1e-6}
    lists = f"labels {labels.tolist()}, answers {answers.tolist()}" if len(labels) <= 10 else f"{len(labels)} titles"
    found = answer(labels, answers)
    number = Answer(lambda *_: float(found), answer.name)  # a tensor with one number is as good
    number.expect(want, labels, answers, given=f"{answer.name} of {lists}", suspects=named, rtol=1e-6, atol=1e-7)


def _drawn(rng: Rng, titles: int, classes: int, right: float) -> tuple[Tensor, Tensor]:
    """Uneven classes, all of which occur among labels and answers."""
    weights = rng.dirichlet(np.ones(classes))
    labels = np.concatenate([np.arange(classes), rng.choice(classes, titles - classes, p=weights)])
    wrong = rng.integers(0, classes, titles)
    answers = np.where(rng.random(titles) < right, labels, wrong)
    answers[:classes] = rng.permutation(classes)
    return torch.from_numpy(labels), torch.from_numpy(answers)


@check_macro_f1.point(
    "two classes, a few titles", hint="F1 of a class is 2 hits / (titles of the class + answers of the class)."
)
def _(answer: Answer, rng: Rng) -> None:
    flip = int(rng.integers(0, 2))
    labels, answers = torch.tensor([0, 0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 1, 0])
    _expect(answer, labels ^ flip, answers ^ flip)


@check_macro_f1.point("many uneven classes", hint="First F1 of each class, then the plain mean of them.")
def _(answer: Answer, rng: Rng) -> None:
    for classes in (3, 18):
        _expect(answer, *_drawn(rng, 120, classes, 0.6))


@check_macro_f1.point(
    "a class that is never answered counts with 0",
    hint="Its F1 is 0: 2 x 0 / (titles + 0). In the form with precision, 0 / 0 must not become nan.",
)
def _(answer: Answer, rng: Rng) -> None:
    labels, answers = _drawn(rng, 60, 4, 0.7)
    gone = int(rng.integers(0, 4))
    _expect(answer, labels, torch.where(answers == gone, (gone + 1) % 4, answers))


@check_macro_f1.point(
    "a class that occurs among the answers alone is no class of the mean",
    hint="The classes are labels.unique(); what is answered beyond them costs the others' precision and recall.",
)
def _(answer: Answer, rng: Rng) -> None:
    labels, answers = _drawn(rng, 60, 4, 0.7)
    answers[int(rng.integers(0, 60)) :: 7] = 9
    _expect(answer, labels, answers)
