"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import torch
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import adapters_and_lora


def each_adapter_in_turn(x, weight, a, b, which):
    """Right, and as dear as many models: the whole batch through every adapter."""
    out = torch.zeros(len(x), len(weight))
    for k in range(-1, len(a)):
        y = x @ weight.T
        if k >= 0:
            y = y + x @ a[k].T @ b[k].T
        out[which == k] = y[which == k]
    return out


def sorted_by_adapter(x, weight, a, b, which):
    index = which.clamp(min=0)
    update = torch.einsum("mr,mor->mo", torch.einsum("mi,mri->mr", x, a[index]), b[index]) * (which >= 0)[:, None]
    return (x @ weight.T + update)[which.argsort(stable=True)]


SUM = "x @ weight.T + bias + scaling * (low @ b.T)"
TRAINED = "trained * (4 + 4 + 8)"

WRONG = {
    "low_rank": [
        wrong("not scaled", edit("scaling * (low", "(low"), says="The update is not scaled here"),
        wrong("alpha alone", edit("alpha / len(a)", "alpha"), says="not divided by the rank here", at_most=1),
        wrong("rsLoRA", edit("alpha / len(a)", "alpha / len(a) ** 0.5"), says="This is the scaling of rsLoRA"),
        wrong("divides by the width", edit("len(a)", "x.shape[-1]"), says="this divides by another size"),
        wrong("no frozen layer", edit("x @ weight.T + bias + ", ""), says="The frozen layer is missing"),
        wrong("no bias", edit("+ bias + scaling", "+ scaling"), says="The bias is missing"),
        wrong("frozen layer alone", edit(SUM, "x @ weight.T + bias"), says="The update is missing", at_most=1),
        wrong("scales everything", edit(SUM, "scaling * (x @ weight.T + bias + low @ b.T)"),
              says="something that is zero when b is"),
        wrong("detached", edit("low = x @ a.T", "low = (x @ a.T).detach()"), says="expected  the gradient of x",
              at_most=4),
        wrong("without a gradient", edit("return x", "with torch.no_grad():\n        return x"),
              says="a result that leads back to a and b", at_most=4),
        wrong("forms the product", edit("scaling * (low @ b.T)", "scaling * x @ (b @ a).T"),
              says="(x @ a.T) @ b.T costs r (in + out)", at_most=4),
        wrong("texts only", edit("low = x @ a.T", "low = torch.einsum('ni,ri->nr', x, a)"),
              says="works on the last dimension", at_most=3),
        wrong("in place", edit("return x @", "x.mul_(1.5)\n    return x @"), says="leave its arguments as they were"),
    ],
    "row_by_row": [
        wrong("the first row's for all", edit("which.clamp(min=0)", "which[:1].expand(len(x)).clamp(min=0)"),
              says="Every row gets the adapter of the first row", at_most=1),
        wrong("-1 is the last", edit("+ update * wanted", "+ update"),
              says="multiply by (which >= 0)"),
        wrong("-1 wraps round", edit("which.clamp(min=0)\n", "which % len(a)\n    which = index\n"),
              says="-1 counts from the end", at_most=3),
        wrong("no adapter", edit(" + update * wanted", ""), says="No row gets an adapter here"),
        wrong("sorted", sorted_by_adapter, says="The rows come back sorted by adapter", at_most=1),
        wrong("no frozen layer", edit("x @ weight.T + update", "update"), says="The frozen layer is missing"),
        wrong("zeros for -1", edit("x @ weight.T + update * wanted", "(x @ weight.T + update) * wanted"),
              says="Rows with -1 come back as zeros", at_most=3),
        wrong("every adapter in turn", each_adapter_in_turn, says="One x @ weight.T for the whole batch", at_most=3),
    ],
    "step_bytes": [
        wrong("no frozen weights", edit("frozen * bits / 8 + ", ""),
              says="The frozen weights are missing"),
        wrong("frozen weights alone", edit(f" + {TRAINED}", ""), says="Only the frozen weights are counted"),
        wrong("without A and B", edit("(4 + 4 + 8)", "(4 + 8)"), says="A and B themselves are missing"),
        wrong("no moments", edit("(4 + 4 + 8)", "(4 + 4)"), says="Adam keeps two moments"),
        wrong("gradients for all", edit("frozen * bits / 8", "frozen * (bits / 8 + 12)"),
              says="A frozen weight has no gradient"),
        wrong("bits as bytes", edit("bits / 8", "bits"), says="bits are bits: divide by 8", at_most=0),
        wrong("an update everywhere", edit("for i in tuned", "for i in range(len(shapes))"),
              says="an update at every matrix"),
        wrong("A and B in few bits", edit("(4 + 4 + 8)", "(bits / 8 + 4 + 8)"),
              says="A and B are stored in float32", at_most=3),
        wrong("base in float32", edit("frozen * bits / 8", "frozen * 4"), says="The base's bits are not used"),
        wrong("square matrices", edit("rank * (shapes[i][0] + shapes[i][1])", "2 * rank * shapes[i][0]"),
              says="expected"),
    ],
}  # fmt: skip

test_exercise = exercise_tests(adapters_and_lora, WRONG)
