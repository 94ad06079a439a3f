"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import pipeline_parallelism


def gpipe(rank, ranks, micro_batches):
    return [f"{kind}{number}" for kind in "FB" for number in range(micro_batches)]


def one_at_a_time(rank, ranks, micro_batches):
    return [f"{kind}{number}" for number in range(micro_batches) for kind in "FB"]


def last_in_first_out(rank, ranks, micro_batches):
    return [f"F{n}" for n in range(micro_batches)] + [f"B{n}" for n in reversed(range(micro_batches))]


def even(seconds, stages):
    return [len(seconds) // stages + (stage < len(seconds) % stages) for stage in range(stages)]


def until_the_mean(seconds, stages):
    """Fill each stage from the left until it has its share: good in the middle, bad at the end."""
    cut, share = [0], seconds.sum() / stages
    for place, time in enumerate(seconds):
        left = len(seconds) - place
        full = seconds[place - cut[-1] : place].sum() + time > share
        if cut[-1] and len(cut) < stages and (full or left <= stages - len(cut)):
            cut.append(0)
        cut[-1] += 1
    return cut + [1] * (stages - len(cut)) if len(cut) == stages else even(seconds, stages)


def sorted_layers(seconds, stages):
    """The best cut of other layers: they were put in order of their times first."""
    best = None
    ordered = np.sort(seconds)[::-1]
    for first in range(1, len(seconds) - stages + 2):
        rest = even(ordered[first:], stages - 1) if stages > 1 else []
        if stages == 1:
            return [len(seconds)]
        slowest = max(ordered[:first].sum(), ordered[first : first + rest[0]].sum())
        if best is None or slowest < best[0]:
            best = (slowest, [first, *rest])
    return best[1]


WRONG = {
    "enough_micro_batches": [
        wrong("the other convention", edit(" * (1 - idle)", ""), says="That is for the overhead over the ideal time"),
        wrong("rounded down", edit("math.ceil(needed - 1e-9)", "math.floor(needed)"), says="That is one too few"),
        wrong("not rounded", edit("max(1, math.ceil(needed - 1e-9))", "needed"), says="micro-batches are whole"),
        wrong("one more, to be safe", edit("math.ceil(needed - 1e-9)", "math.ceil(needed - 1e-9) + 1"),
              says="That is one too many"),
        wrong("strictly below", edit("math.ceil(needed - 1e-9)", "math.floor(needed + 1e-9) + 1"),
              says="exactly at the limit", at_most=3),
        wrong("chunks forgotten", edit("(idle * chunks)", "idle"), says="More chunks need fewer",
              at_most=3),
        wrong("no multiple", edit("math.ceil(fewest / ranks) * ranks", "fewest"), says="take the next multiple",
              at_most=3),
        wrong("always a multiple", edit("if chunks > 1:", "if ranks > 1:"), says="is needed for interleaving only"),
        wrong("none for one rank", edit("max(1, math.ceil(needed - 1e-9))", "math.ceil(needed - 1e-9)"),
              says="One rank has no bubble, and yet", at_most=3),
    ],
    "one_f_one_b": [
        wrong("GPipe", gpipe, says="That is GPipe", at_most=3),
        wrong("one at a time", one_at_a_time, says="One micro-batch at a time", at_most=4),
        wrong("one ahead too many", edit("ranks - 1 - rank", "ranks - rank"),
              says="at most 2 live micro-batches on rank 0", at_most=3),
        wrong("one ahead too few", edit("ranks - 1 - rank)", "max(0, ranks - 2 - rank))"),
              says="it waits in every turn for a gradient", at_most=4),
        wrong("the ranks counted from the other end", edit("ranks - 1 - rank", "rank"), says="each waits for another"),
        wrong("backwards in the opposite order", last_in_first_out, says="the oldest goes first", at_most=0),
        wrong("no end", edit("range(micro_batches - ahead, micro_batches)", "range(0)"),
              says="The backwards should be those of the micro-batches 0 to", at_most=0),
        wrong("few micro-batches forgotten", edit("min(micro_batches, ranks - 1 - rank)", "ranks - 1 - rank"),
              says="There are no more than m forwards to run ahead with", at_most=4),
        wrong("backward before forward",
              edit('f"F{ahead + number}", f"B{number}"', 'f"B{number}", f"F{ahead + number}"'),
              says="before the forward of micro-batch 0", at_most=1),
        wrong("one string", edit("return program", 'return " ".join(program)'), says="a list of strings such as",
              at_most=0),
    ],
    "balanced_cut": [
        wrong("equally many layers", even, says="Equally many layers are not equally much time", at_most=2),
        wrong("every layer on every rank", lambda seconds, stages: [len(seconds)] * stages,
              says="All layers on every rank is no cut", at_most=0),
        wrong("filled to the mean", until_the_mean, says="What looks good from the left", at_most=3),
        wrong("layers sorted by time", sorted_layers, says="a slowest stage of", at_most=2),
        wrong("stages left empty", edit("[cut[longest] - 1, 1]", "[cut[longest], 0]"), says="A stage without a layer",
              at_most=3),
        wrong("too few stages", edit("while len(cut) < stages:", "while False:"), says="numbers, one for each stage"),
        wrong("the places of the cuts", edit("return cut", "return np.cumsum(cut).tolist()"), 
              says="the places of the cuts"),
        wrong("the first limit above the mean", edit("if limit < seconds.max():",
              "if limit < seconds.sum() / stages + seconds.max():"), says="whose slowest stage takes"),
        wrong("an array of times", lambda seconds, stages: np.full(stages, seconds.sum() / stages),
              says="a list of whole numbers", at_most=0),
    ],
}  # fmt: skip

test_exercise = exercise_tests(pipeline_parallelism, WRONG)
