"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import vit_ddp_training


def ranks_first(order, batch, ranks, rank):
    own = np.array_split(order, ranks)[rank]
    steps, share = len(order) // batch, batch // ranks
    return own[: steps * share].reshape(steps, share)


def padded(order, batch, ranks, rank):
    steps = -(-len(order) // batch)
    whole = np.concatenate([order, order])[: steps * batch].reshape(steps, batch)
    share = batch // ranks
    return whole[:, rank * share : (rank + 1) * share]


def shuffled_by_rank(order, batch, ranks, rank):
    steps, share = len(order) // batch, batch // ranks
    mixed = np.random.default_rng(rank).permutation(order)
    return mixed[: steps * batch].reshape(steps, batch)[:, rank * share : (rank + 1) * share]


def places(order, batch, ranks, rank):
    steps, share = len(order) // batch, batch // ranks
    return np.arange(steps * batch).reshape(steps, batch)[:, rank * share : (rank + 1) * share]


SHARE = "batches[:, rank * share : (rank + 1) * share]"
SUMS = "np.where(seen > 0, losses, 0.0) * seen"

WRONG = {
    "my_images": [
        wrong("the whole batch on each rank", edit(SHARE, "batches"),
              says="`batch` is that of all ranks together", at_most=1),
        wrong("the same share on each rank", edit(SHARE, "batches[:, :share]"), says="Some image is on two ranks"),
        wrong("cut into ranks first", ranks_first, says="together must hold order[s * batch : (s + 1) * batch]"),
        wrong("the last batch padded", padded, says="The last batch is not full", at_most=2),
        wrong("shuffled on each rank", shuffled_by_rank, says="expected", at_most=0),
        wrong("places for images", places, says="Return the images, order[i]", at_most=0),
        wrong("one batch after the other in one row", edit(SHARE, "batches.reshape(-1)"),
              says="expected  an array of shape", at_most=0),
    ],
    "global_metrics": [
        wrong("means of means",
              lambda losses, right, seen: np.array([np.nan_to_num(losses).mean(), (right / seen.clip(1)).mean()]),
              says="counts as much there as one with many", at_most=1),
        wrong("the loss a mean of means", edit("sums.sum() / seen.sum()", "np.where(seen > 0, losses, 0.0).mean()"),
              says="The loss is the mean of the ranks' means", at_most=1),
        wrong("the accuracy a mean of accuracies",
              edit("right.sum() / seen.sum()", "(right / np.maximum(seen, 1)).mean()"),
              says="The accuracy is the mean of the ranks' accuracies", at_most=1),
        wrong("means taken for sums", edit(SUMS, "np.where(seen > 0, losses, 0.0)"),
              says="times seen[r] it is a sum", at_most=0),
        wrong("NaN of the rank that saw nothing", edit(SUMS, "losses * seen"), says="NaN times 0 is NaN", at_most=2),
        wrong("per cent", edit("right.sum() / seen.sum()", "100 * right.sum() / seen.sum()"),
              says="a share from 0 to 1", at_most=0),
        wrong("rank 0 alone", lambda losses, right, seen: np.array([losses[0], right[0] / seen[0]]),
              says="That is rank 0 alone"),
        wrong("a tuple", edit("return np.array([sums.sum() / seen.sum(), right.sum() / seen.sum()])",
                              "return sums.sum() / seen.sum(), right.sum() / seen.sum()"),
              says="expected  a NumPy array of shape (2,)", at_most=0),
    ],
    "rate_at": [
        wrong("not tied to the batch", edit("peak = lr * batch / 512", "peak = lr"),
              says="does not grow with the batch", at_most=0),
        wrong("the other way", edit("lr * batch / 512", "lr * 512 / batch"), says="not shrink", at_most=0),
        wrong("square root", edit("lr * batch / 512", "lr * (batch / 512) ** 0.5"), says="square root", at_most=0),
        wrong("no warm-up", edit("warmup = steps / 10", "warmup = 0"),
              says="before, the rate rises in a line", at_most=0),
        wrong("the cosine over one epoch", edit("images // batch * epochs", "images // batch"),
              says="expected", at_most=0),
        wrong("the last batch counted", edit("images // batch * epochs", "-(-images // batch) * epochs"),
              says="The last batch of an epoch is left out", at_most=3),
        wrong("the cosine from step 0", edit("(step - warmup) / (steps - warmup)", "step / steps"),
              says="it begins where the warm-up ends", at_most=1),
        wrong("a whole cosine", edit("peak / 2 * (1 + math.cos(math.pi * done))", "peak * math.cos(math.pi * done)"),
              says="Half a cosine ends at zero"),
        wrong("constant", lambda step, images, batch, epochs, lr: lr * batch / 512,
              says="That is the largest rate, at every step", at_most=1),
    ],
}  # fmt: skip

test_exercise = exercise_tests(vit_ddp_training, WRONG)
