"""The answers of the figure ``votes``: what several ways of tuning answer together, by majority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from course_utils.figures.interactive import tabulate


def answers(truth: Tensor, given: Mapping[str, Tensor], labels: Sequence[str]) -> dict[str, Any]:
    """``votes``, for each choice of the ways ``given``: right answers; macro-F1; F1 of each label in per cent; titles
    to which all chosen give the same answer; and the three most frequent mistakes as [label, answer, times].

    A choice is a number: its bit k is set when the k-th way is ticked.

    Args:
        truth, given: integers ``[titles]``, numbers of ``labels``.
    """

    def votes(ticked: int) -> dict[str, Any]:
        chosen = [each for k, each in enumerate(given.values()) if ticked >> k & 1]
        if not chosen:
            raise ValueError("choose at least one")
        together, n = vote(torch.stack(chosen)), len(labels)
        confusion = (truth * n + together).bincount(minlength=n * n).view(n, n)  # row the label, column the answer
        right, asked, said = confusion.diagonal().double(), confusion.sum(1), confusion.sum(0)
        f1 = 2 * right / (asked + said).clamp(min=1)
        wrong = (confusion - confusion.diagonal().diag()).flatten()
        most = wrong.sort(descending=True, stable=True).indices[:3].tolist()
        return {
            "right": int(right.sum()),
            "macro_f1": round(float(f1[asked > 0].mean()), 3),
            "f1": [round(100 * each) for each in f1.tolist()],
            "same": int((torch.stack(chosen) == chosen[0]).all(0).sum()),
            "mistakes": [(*divmod(place, n), int(wrong[place])) for place in most if wrong[place]],
        }

    return {
        "ways": list(given),
        "labels": list(labels),
        "titles": len(truth),
        "votes": tabulate(votes, ticked=range(2 ** len(given))),
    }


def vote(given: Tensor) -> Tensor:
    """The commonest answer to each title, ``[ways, titles]`` -> ``[titles]``; a tie goes to the first of the ways."""
    counts = (given[:, None] == given[None]).sum(0)  # how many gave the same answer, [ways, titles]
    return given.gather(0, counts.argmax(0, keepdim=True))[0]  # argmax takes the first of equals
