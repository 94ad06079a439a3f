"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import numpy as np
import torch
import torch.distributed as dist
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import data_parallelism


def direct(rank, step, ranks):
    return (rank - step - 1) % ranks if step < ranks - 1 else rank


def bare_sizes(sizes, capacity):
    return [[size] for size in reversed(sizes)]


def by_size(sizes, capacity):
    buckets, used = [], 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if not buckets or used + sizes[i] > capacity:
            buckets.append([])
            used = 0
        buckets[-1].append(i)
        used += sizes[i]
    return buckets


def after_it_is_too_full(sizes, capacity):
    buckets, used = [[]], 0
    for i in reversed(range(len(sizes))):
        if used > capacity:
            buckets.append([])
            used = 0
        buckets[-1].append(i)
        used += sizes[i]
    return [bucket for bucket in buckets if bucket]


def loses_the_last_bucket(sizes, capacity):
    buckets, bucket, used = [], [], 0
    for i in reversed(range(len(sizes))):
        if bucket and used + sizes[i] > capacity:
            buckets.append(bucket)
            bucket, used = [], 0
        bucket.append(i)
        used += sizes[i]
    return buckets


def weights_by_rank(gradients, counts):
    sums = np.where(counts[..., None] > 0, gradients * counts[..., None], 0.0).sum(1)
    return (sums / np.maximum(counts.sum(1), 1)[:, None]).mean(0)


def last_micro_batch_only(gradients, counts):
    g = np.where(counts[..., None] > 0, gradients, 0.0)
    return g[0, :-1].sum(0) / g.shape[1] + g[:, -1].mean(0) / g.shape[1]


def as_in_a_notebook(function):
    """Ranks get a notebook's function by value; one of this file they would look for here, and import all of it."""
    function.__module__ = "__main__"
    return function


@as_in_a_notebook
def by_gathering(gradients, capacity):
    means = []
    for g in gradients:
        parts = [torch.empty_like(g) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, g)
        means.append(torch.stack(parts).mean(0))
    return means


@as_in_a_notebook
def through_a_root(gradients, capacity):
    flat = torch.cat([g.flatten() for g in gradients])
    dist.reduce(flat, 0)
    flat /= dist.get_world_size()
    dist.broadcast(flat, 0)
    parts = flat.split([g.numel() for g in gradients])
    return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]


@as_in_a_notebook
def one_call_each(gradients, capacity):
    means = [g.clone() for g in gradients]
    for mean in means:
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return means


@as_in_a_notebook
def rank_0_alone(gradients, capacity):
    if dist.get_rank() == 0:
        dist.all_reduce(torch.cat([g.flatten() for g in gradients]))
    return gradients


@as_in_a_notebook
def alone(gradients, capacity):
    return [g.clone() for g in gradients]


@as_in_a_notebook
def in_place(gradients, capacity):
    for g in gradients:
        dist.all_reduce(g)
        g /= dist.get_world_size()
    return gradients


FITS = "if not buckets or used + sizes[i] > capacity:"
SUMS = "np.where(counts[..., None] > 0, gradients * counts[..., None], 0.0)"

WRONG = {
    "chunk_to_send": [
        wrong("one chunk late", edit("(rank - step - 1) % ranks", "(rank - step) % ranks"),
              says="expected  chunk 0 complete on rank 0"),
        wrong("always its own chunk", lambda rank, step, ranks: rank,
              says="got       chunk 1 complete there", at_most=0),
        wrong("always the same chunk", edit("(rank - step - 1) % ranks", "(rank - 1) % ranks"),
              says="the numbers of rank 0 added twice", at_most=1),
        wrong("the wrong way round", edit("(rank - step - 1) % ranks", "(rank + step + 1) % ranks"),
              says="expected  one chunk on rank 0 with the numbers of all 3 ranks"),
        wrong("no modulo", edit("return (rank - step - 1) % ranks", "return rank - step - 1"),
              says="take the number modulo `ranks`"),
        wrong("the second half repeats the first chunk", direct, says="on rank 0, chunk"),
        wrong("the second half starts over",
              edit("(rank - (step - (ranks - 1))) % ranks", "(rank - (step - ranks)) % ranks"),
              says="expected  all 2 complete chunks on all ranks"),
        wrong("no number", edit("return (rank - step - 1) % ranks", "return [(rank - step - 1) % ranks]"),
              says="expected  a chunk, 0 to 1"),
    ],
    "cut_into_buckets": [
        wrong("in the order of the model", edit("reversed(range(len(sizes)))", "range(len(sizes))"),
              says="These are in the order of the model"),
        wrong("by size", by_size, says="sort nothing by size"),
        wrong("sizes, not indices", bare_sizes, says="Put the *index* of a parameter into its bucket"),
        wrong("looks too late", after_it_is_too_full, says="look whether it fits *before* you put it in"),
        wrong("never quite full", edit("> capacity", ">= capacity"), says="`<=`, not `<`", at_most=3),
        wrong("the sum is never set back", edit("            used = 0\n", ""), says="count from 0"),
        wrong("the last bucket lost", loses_the_last_bucket, says="Is the last bucket returned too?", at_most=0),
        wrong("an empty bucket", edit("buckets, used = [], 0", "buckets, used = [[]], 0"),
              says="One bucket is empty", at_most=3),
        wrong("one bucket for all", edit(FITS, "if not buckets:"), says="One bucket holds"),
        wrong("flat", edit("buckets[-1].append(i)", "buckets[-1] = i"),
              says="expected  a list of lists of whole numbers"),
    ],
    "global_gradient": [
        wrong("mean of means", lambda gradients, counts: np.nanmean(gradients, axis=(0, 1)),
              says="a micro-batch of 2 counts as much there as one of 6", at_most=1),
        wrong("averaged twice", edit("/ counts.sum()", "/ counts.sum() / len(counts)"),
              says="Averaged over ranks twice"),
        wrong("last micro-batch only", last_micro_batch_only, says="Only the last micro-batch is averaged", at_most=2),
        wrong("a mean for each rank first", weights_by_rank, says="gives a rank with few samples too much weight"),
        wrong("the sum", edit(" / counts.sum()", ""), says="Divide by how many there are", at_most=0),
        wrong("means taken for sums", edit(SUMS, "np.where(counts[..., None] > 0, gradients, 0.0)"),
              says="times its count it is their sum"),
        wrong("NaN of the empty", edit(SUMS, "gradients * counts[..., None]"), says="NaN times 0 is NaN", at_most=3),
        wrong("rank 0 alone", lambda gradients, counts: (gradients * counts[..., None])[0].sum(0) / counts[0].sum(),
              says="the other ranks are missing"),
        wrong("a gradient for each rank", edit("sums.sum(axis=(0, 1))", "sums.sum(axis=1)"), says="expected  shape"),
    ],
    "average_in_buckets": [
        wrong("nothing exchanged", alone, says="nothing was exchanged, or its result was not used", at_most=0),
        wrong("the sum", edit("        flat /= dist.get_world_size()\n", ""), says="That is the sum over ranks"),
        wrong("divided twice", edit("flat /= dist.get_world_size()", "flat /= dist.get_world_size() ** 2"),
              says="Divided by the number of ranks twice"),
        wrong("one call for each", one_call_each, says="Each call costs a latency", at_most=1),
        wrong("one bucket for all", edit("if used + gradients[i].nbytes > capacity:", "if False:"),
              says="One call carries more than the capacity", at_most=1),
        wrong("everything gathered", by_gathering, says="bytes sent by a rank, by all_reduce", at_most=1),
        wrong("through a root", through_a_root, says="by reduce, broadcast", at_most=1),
        wrong("in place", in_place, says="must leave its arguments as they were", at_most=0),
        wrong("shapes lost", edit("part.view_as(gradients[i])", "part"), says="each in its own shape."),
        wrong("one rank alone", rank_0_alone, says="has not returned after 4 s", at_most=0),
        wrong("no return", edit("    return means", "    means = None"), says="Return the list of mean gradients"),
        wrong("raises", edit("flat = torch.cat(", "flat = torch.cats("), says="AttributeError", at_most=0),
    ],
}  # fmt: skip

test_exercise = exercise_tests(data_parallelism, WRONG)
