"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import vit_fine_tuning


def mean_of_means(logits, labels):
    means = []
    for z, y in zip(logits, labels, strict=True):
        top = z.max(axis=1)
        means.append((top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(y)), y]).mean())
    return float(np.mean(means))


def means_over_images(logits, labels):
    return mean_of_means(logits, labels) * len(logits) / sum(map(len, labels))


def accuracy(logits, labels):
    return float(
        np.mean([z.argmax() == y for a, b in zip(logits, labels, strict=True) for z, y in zip(a, b, strict=True)])
    )


def by_steps(depth, lr, decay, head_lr):
    return np.append(lr * (1 - (1 - decay) * np.arange(depth + 1, -1, -1)), head_lr)


def patches_as_first_layer(depth, lr, decay, head_lr):
    return np.append(lr * decay ** np.minimum(np.arange(depth + 1, -1, -1), depth), head_lr)


def without_norm(depth, lr, decay, head_lr):
    return np.append(lr * decay ** np.arange(depth, -1, -1), head_lr)


def last_of_equals(validation, test):
    best = len(validation) - 1 - int(np.argmax(validation[::-1]))
    return best + 1, float(test[best])


TOP = "top + np.log(np.exp(z - top[:, None]).sum(axis=1))"

WRONG = {
    "mean_loss": [
        wrong("mean of means", mean_of_means, says="A small batch counts as much as a large one", at_most=2),
        wrong("means over images", means_over_images, says="too small by about the batch size", at_most=0),
        wrong("sum", edit("float(total / images)", "float(total)"), says="not yet their mean", at_most=0),
        wrong("sign", edit("float(total / images)", "float(-total / images)"),
              says="The sign is turned round", at_most=0),
        wrong("overflow", edit(TOP, "np.log(np.exp(z).sum(axis=1))"), says="exp(800) is inf", at_most=3),
        wrong("last batch", edit("total += losses.sum()", "total = losses.sum() / len(y) * (images + len(y))"),
              says="This is the last batch alone", at_most=1),
        wrong("accuracy", accuracy, says="share of right answers", at_most=0),
        wrong("bits", edit("float(total / images)", "float(total / images / np.log(2))"),
              says="These are bits", at_most=0),
    ],
    "layer_rates": [
        wrong("upside down", edit("np.arange(depth + 1, -1, -1)", "np.arange(depth + 2)"),
              says="The patches learn fastest here", at_most=1),
        wrong("head decays with the rest", edit(", head_lr)\n", ", lr)\n"),
              says="The head has a rate of its own", at_most=0),
        wrong("norm one lower", edit("np.arange(depth + 1, -1, -1)", "np.arange(depth + 2, 0, -1)"),
              says="here it is one step lower already", at_most=1),
        wrong("patches as first layer", patches_as_first_layer, says="one place nearer the image", at_most=1),
        wrong("by equal steps", by_steps, says="It should fall by the same factor", at_most=1),
        wrong("no decay", edit("lr * decay**before_norm", "lr * np.ones(depth + 2)"),
              says="Nothing decays here", at_most=1),
        wrong("norm forgotten", without_norm, says="expected  shape (7,)", at_most=0),
        wrong("head first", edit("np.append(lr * decay**before_norm, head_lr)",
                                 "np.append(head_lr, lr * decay**before_norm)"),
              says="The head stands last", at_most=0),
    ],
    "report_best": [
        wrong("the test chooses", edit("np.argmax(validation)", "np.argmax(test)"),
              says="They may only report", at_most=0),
        wrong("the best test accuracy", edit("float(test[best])", "float(test.max())"),
              says="the accuracy is another epoch's", at_most=0),
        wrong("validation accuracy", edit("float(test[best])", "float(validation[best])"),
              says="It chose, so it flatters", at_most=0),
        wrong("last of equals", last_of_equals, says="Of several best epochs take the first", at_most=2),
        wrong("from zero", edit("best + 1,", "best,"), says="Epochs are counted from 1", at_most=0),
        wrong("the last epoch", edit("int(np.argmax(validation))", "len(test) - 1"),
              says="That is the last epoch", at_most=0),
        wrong("both choose", edit("np.argmax(validation)", "np.argmax(validation + test)"),
              says="Only the validation images may choose", at_most=1),
        wrong("one number", edit("return best + 1, float(test[best])", "return float(test[best])"),
              says="Return both: return epoch, accuracy", at_most=0),
    ],
}  # fmt: skip
test_exercise = exercise_tests(vit_fine_tuning, WRONG)
