"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import math

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import hybrid_parallelism


def three_axes_only(sizes, axis):
    a, b, c = sizes
    return np.moveaxis(np.arange(a * b * c).reshape(a, b, c), axis, -1).reshape(-1, sizes[axis])


def neighbours(sizes, axis):
    return np.arange(math.prod(sizes)).reshape(-1, sizes[axis])


def a_replica_apart(sizes, axis):
    return np.arange(math.prod(sizes)).reshape(sizes[axis], -1).T


def strings_of_ranks(sizes, axis):
    return [" ".join(map(str, range(n))) for n in sizes]


def one_group(sizes, axis):
    return np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), axis, -1).reshape(-1, sizes[axis])[:1]


def norms_of_norms(sizes, cut, whole):
    _, pipeline, tensor = sizes
    ranks = range(pipeline * tensor)
    return sum(np.linalg.norm(cut[r]) for r in ranks) + sum(np.linalg.norm(whole[r]) for r in ranks if r % tensor == 0)


def whole_divided_by_all(sizes, cut, whole):
    _, pipeline, tensor = sizes
    ranks = range(pipeline * tensor)
    total = sum((cut[r] ** 2).sum() / tensor for r in ranks)
    return math.sqrt(total + sum((whole[r] ** 2).sum() for r in ranks if r % tensor == 0))


def plain(sizes, cut, whole):
    """As if nothing were shared out: what one rank holds is the model."""
    return math.sqrt((cut[0] ** 2).sum() + (whole[0] ** 2).sum())


def every_rank_of_a_crossing_group(groups, sent, per_node):
    return sum(sent * len(g) for g in groups if len({rank // per_node for rank in g}) > 1)


def one_rank_of_a_crossing_group(groups, sent, per_node):
    return sum(sent for g in groups if len({rank // per_node for rank in g}) > 1)


def far_apart(groups, sent, per_node):
    return sum(sent for g in groups for a, b in zip(g, g[1:] + g[:1]) if abs(a - b) >= per_node)  # noqa: B905


def sorts_in_place(groups, sent, per_node):
    total = 0.0
    for group in groups:
        last = group[0]
        for rank in [*group[1:], group[0]]:
            total += sent * (rank // per_node != last // per_node)
            last = rank
        group.append(group[0])
    return total


WRONG = {
    "groups": [
        wrong(
            "the first axis fastest", edit(".reshape(sizes)", '.reshape(sizes, order="F")'), says="runs fastest here"
        ),
        wrong("the axis in front", edit("np.moveaxis(box, axis, -1)", "np.moveaxis(box, axis, 0)"), says="expected"),
        wrong("swapaxes", edit("np.moveaxis(box, axis, -1)", "np.swapaxes(box, axis, -1)"), says="got"),
        wrong("consecutive ranks on every axis", neighbours, says="These groups are neighbours", at_most=1),
        wrong("a replica apart on every axis", a_replica_apart, says="between stand only the axes further in"),
        wrong("three axes only", three_axes_only, says="Do not unpack sizes into three names", at_most=4),
        wrong("one group only", one_group, says="Each rank is in just one group of the axis", at_most=1),
        wrong(
            "in descending order", edit("return rows", "return rows[:, ::-1].copy()\n    return rows"), says="ascending"
        ),
        wrong("strings", strings_of_ranks, says="whole numbers, one row a group", at_most=0),
    ],
    "global_norm": [
        wrong("whole counted on every slice", edit("if rank % tensor == 0:", "if True:"), says="stands on each of its"),
        wrong("all replicas", edit("range(pipeline * tensor)", "range(len(cut))"), says="count one of them"),
        wrong("the first stage only", edit("range(pipeline * tensor)", "range(tensor)"), says="The other stages hold"),
        wrong("one rank as the model", plain, says="add up the slices", at_most=2),
        wrong(
            "whole forgotten", edit("if rank % tensor == 0:", "if False:"), says="belong to the norm as well", at_most=0
        ),
        wrong("the square", edit("math.sqrt(total)", "total"), says="take the root of the sum", at_most=0),
        wrong("norms added", norms_of_norms, says="their squares do", at_most=0),
        wrong("slices averaged", whole_divided_by_all, says="divided by the number of slices"),
    ],
    "slow_bytes": [
        wrong(
            "open ring",
            edit("group[(place + 1) % len(group)]", "group[min(place + 1, len(group) - 1)]"),
            says="open here",
        ),
        wrong(
            "place for machine",
            edit("rank // per_node != after // per_node", "rank % per_node != after % per_node"),
            says="the machine is rank // per_node",
        ),
        wrong("the whole group", every_rank_of_a_crossing_group, says="each rank and its next"),
        wrong("once a group", one_rank_of_a_crossing_group, says="every rank of the ring sends"),
        wrong(
            "all messages",
            edit("if rank // per_node != after // per_node:", "if rank != after:"),
            says="nothing between machines",
        ),
        wrong("distance for machine", far_apart, says="whether the numbers lie per_node apart"),
        wrong("changes the groups", sorts_in_place, says="must leave its arguments as they were", at_most=0),
    ],
}
test_exercise = exercise_tests(hybrid_parallelism, WRONG)
