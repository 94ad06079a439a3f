"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import torch
import torch.distributed as dist
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import zero_from_scratch


def whole_parameters(sizes, ranks, rank):
    return [(i, 0, size) for i, size in enumerate(sizes) if i % ranks == rank]


def as_in_a_notebook(function):
    """Ranks get a notebook's function by value; one of this file they would look for here, and import all of it."""
    function.__module__ = "__main__"
    return function


@as_in_a_notebook
def replicated(weights, gradient, velocity):
    mean = gradient.clone()
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    whole = torch.cat([velocity] * dist.get_world_size())
    whole = 0.9 * whole + mean
    return weights - 0.1 * whole, whole


@as_in_a_notebook
def by_all_reduce(weights, gradient, velocity):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mean = gradient.clone()
    dist.all_reduce(mean)
    velocity = 0.9 * velocity + (mean / ranks).chunk(ranks)[rank]
    part = weights.chunk(ranks)[rank] - 0.1 * velocity
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part)
    return torch.cat(parts), velocity


@as_in_a_notebook
def keeps_to_itself(weights, gradient, velocity):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mean = torch.empty_like(velocity)
    dist.reduce_scatter(mean, [part.clone() for part in gradient.chunk(ranks)])
    velocity = 0.9 * velocity + mean / ranks
    weights = weights.clone()
    weights.chunk(ranks)[rank].sub_(0.1 * velocity)
    return weights, velocity


@as_in_a_notebook
def in_place(weights, gradient, velocity):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mean = torch.empty_like(velocity)
    dist.reduce_scatter(mean, [part.clone() for part in gradient.chunk(ranks)])
    velocity.mul_(0.9).add_(mean / ranks)
    part = weights.chunk(ranks)[rank] - 0.1 * velocity
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part)
    return torch.cat(parts), velocity


@as_in_a_notebook
def rank_0_alone(weights, gradient, velocity):
    if dist.get_rank() == 0:
        dist.all_reduce(gradient.clone())
    return weights, velocity


OWN = "weights.chunk(ranks)[rank]"
SCATTER = "    dist.reduce_scatter(mean, [part.clone() for part in gradient.chunk(ranks)])\n"

WRONG = {
    "owned": [
        wrong("everything", lambda sizes, ranks, rank: [(i, 0, size) for i, size in enumerate(sizes)],
              says="That is everything: a replica", at_most=0),
        wrong("whole parameters", whole_parameters, says="The cut goes through parameters", at_most=0),
        wrong("rounded down", edit("-(-sum(sizes) // ranks)", "sum(sizes) // ranks"), says="rounded up", at_most=1),
        wrong("positions in the vector", edit("(i, begin - start, end - start)", "(i, begin, end)"),
              says="positions count from the parameter's own beginning", at_most=0),
        wrong("empty pieces", edit("if begin < end:", "if begin <= end:"), says="One piece is empty", at_most=2),
        wrong("lengths", edit("(i, begin - start, end - start)", "(i, begin - start, end - begin)"),
              says="not how long it is"),
        wrong("ranks count from one", edit("rank * part, (rank + 1) * part", "(rank - 1) * part, rank * part"),
              says="Ranks count from 0", at_most=0),
        wrong("pairs", edit("(i, begin - start, end - start)", "(begin - start, end - start)"),
              says="Each piece is a tuple of three whole numbers", at_most=0),
    ],
    "sharded_step": [
        wrong("replicated", replicated, says="A rank keeps the velocity of its own part", at_most=0),
        wrong("by all_reduce", by_all_reduce, says="It needs only its own part of it", at_most=2),
        wrong("the sum", edit("    mean /= ranks\n", ""), says="That is the sum over ranks", at_most=0),
        wrong("nothing exchanged", edit(SCATTER, "    mean.copy_(gradient.chunk(ranks)[rank] * ranks)\n"),
              says="Only this rank's own gradient was used", at_most=0),
        wrong("the others do not hear of it", keeps_to_itself, says="Only this rank's own part is new", at_most=1),
        wrong("uphill", edit(f"{OWN} - 0.1", f"{OWN} + 0.1"), says="That goes uphill", at_most=1),
        wrong("always the first part", edit(OWN, "weights.chunk(ranks)[0]"), says="on rank", at_most=1),
        wrong("in place", in_place, says="an argument was changed: work on copies", at_most=0),
        wrong("weights alone", edit("return torch.cat(parts), velocity", "return torch.cat(parts)"),
              says="Return both", at_most=0),
        wrong("one rank alone", rank_0_alone, says="has not returned after 4 s", at_most=0),
    ],
    "peak_parameters": [
        wrong("a replica", lambda layers, rest, ranks: sum(layers) + rest, says="That is the whole model: a replica"),
        wrong("never released", edit("max(pairs, default=layers[0])", "sum(layers)"),
              says="Layers are released again", at_most=1),
        wrong("no prefetch", edit("max(pairs, default=layers[0])", "max(layers)"),
              says="With prefetch the next one is there as well", at_most=1),
        wrong("the two largest", edit("max(pairs, default=layers[0])", "sum(sorted(layers)[-2:])"),
              says="need not be neighbours", at_most=3),
        wrong("no shards", edit("shards + rest", "rest"), says="The shards are missing", at_most=0),
        wrong("no rest", edit("shards + rest", "shards"), says="gathered for the whole pass", at_most=0),
        wrong("rounded once", edit("sum(-(-size // ranks) for size in [*layers, rest])",
              "-(-(sum(layers) + rest) // ranks)"), says="round up vector by vector", at_most=3),
        wrong("rounded down", edit("-(-size // ranks)", "size // ranks"), says="expected", at_most=3),
        wrong("one layer breaks it", edit("max(pairs, default=layers[0])", "max(pairs)"), says="ValueError", at_most=3),
        wrong("at rest", edit("return shards + rest + max(pairs, default=layers[0])", "return shards"),
              says="Only the shards are there at rest", at_most=0),
    ],
}  # fmt: skip

test_exercise = exercise_tests(zero_from_scratch, WRONG)
