"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import torch
from mutants import edit, exercise_tests, wrong
from sklearn.metrics import f1_score

from course_utils.exercises import news_classification


def by_id(titles, pad):
    """Finds padding by its id."""
    width = max(len(title) for title in titles)
    ids = torch.tensor([title + [pad] * (width - len(title)) for title in titles])
    return ids, ids != pad


def in_front(titles, pad):
    width = max(len(title) for title in titles)
    ids = torch.tensor([[pad] * (width - len(title)) + title for title in titles])
    return ids, torch.arange(width) >= torch.tensor([[width - len(title)] for title in titles])


def of_means(labels, answers):
    """The F1 of mean precision and mean recall."""
    precision, recall = [], []
    for k in labels.unique():
        hits = ((labels == k) & (answers == k)).sum()
        precision.append(hits / (answers == k).sum().clamp(min=1))
        recall.append(hits / (labels == k).sum())
    p, r = torch.stack(precision).mean(), torch.stack(recall).mean()
    return float(2 * p * r / (p + r))


def with_precision(labels, answers):
    """Divides by the number of answers, which can be 0."""
    scores = []
    for k in labels.unique():
        hits = ((labels == k) & (answers == k)).sum()
        precision, recall = hits / (answers == k).sum(), hits / (labels == k).sum()
        scores.append(2 * precision * recall / (precision + recall))
    return float(torch.stack(scores).mean())


def of_library(labels, answers):
    """Takes the mean over all classes that occur anywhere, as scikit-learn does."""
    return float(f1_score(labels, answers, average="macro", zero_division=0))


def update(model, saved):
    """The common code."""
    state = model.state_dict()
    state.update(saved)
    model.load_state_dict(state)


def lenient(model, saved):
    model.load_state_dict(saved, strict=False)


def one_by_one(model, saved):
    """Checks and copies name by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name in saved:
        if name not in trained:
            raise ValueError(f"{name} does not train")
    for name, parameter in reversed(trained.items()):
        if name not in saved or saved[name].shape != parameter.shape:
            raise ValueError(f"{name} is missing or of another shape")
        with torch.no_grad():
            parameter.copy_(saved[name])


WRONG = {
    "pad_batch": [
        wrong("mask by id", by_id, says="the mask follows from the lengths"),
        wrong("padding in front", in_front, says="The padding stands in front here"),
        wrong("filled with zero", edit("[pad] * (width", "[0] * (width"), says="Fill them with pad"),
        wrong("mask inverted", edit("torch.arange(width) < lengths", "torch.arange(width) >= lengths"),
              says="The mask is the wrong way round"),
        wrong("mask of ones", edit("torch.arange(width) < lengths", "torch.ones_like(ids, dtype=torch.bool)"),
              says="Everything is real here"),
        wrong("mask of numbers", edit("torch.arange(width) < lengths", "(torch.arange(width) < lengths).long()"),
              says="expected  dtype torch.bool", at_most=2),
        wrong("always 20", edit("max(len(title) for title in titles)", "20"), says="the longest title of this batch",
              at_most=0),
        wrong("cut to 20", edit("max(len(title) for title in titles)", "min(20, max(map(len, titles)))"),
              says="The width is the length of the longest title"),
        wrong("ids alone", edit("return ids, torch.arange(width) < lengths", "return ids"),
              says="Return both: return ids, mask"),
        wrong("off by one", edit("torch.arange(width) < lengths", "torch.arange(width) < lengths - 1"),
              says="Compare the places"),
    ],
    "macro_f1": [
        wrong("accuracy", lambda labels, answers: float((labels == answers).double().mean()),
              says="This is the accuracy"),
        wrong("recall", edit("2 * hits / ((labels == k).sum() + (answers == k).sum())", "hits / (labels == k).sum()"),
              says="This is the mean of the recalls"),
        wrong("precision", edit("2 * hits / ((labels == k).sum() + (answers == k).sum())",
                                "hits / (answers == k).sum().clamp(min=1)"), says="This is the mean of the precisions"),
        wrong("F1 of means", of_means, says="this is the F1 of two means"),
        wrong("nan", with_precision, says="0 / 0 must not become nan", at_most=3),
        wrong("of scikit-learn", of_library, says="A class that is answered but has no title counts here", at_most=3),
        wrong("weighted", edit("return float(torch.stack(scores).mean())",
                               "n = torch.stack([(labels == k).sum() for k in labels.unique()])\n"
                               "    return float((torch.stack(scores) * n).sum() / n.sum())"),
              says="all count the same"),
        wrong("always 18 classes", edit("torch.stack(scores).mean()", "torch.stack(scores).sum() / 18"),
              says="the plain mean of them"),
        wrong("no factor two", edit("2 * hits", "hits"), says="2 hits / (titles"),
    ],
    "load_tuned": [
        wrong("the common code", update, says="got       no error: it was loaded", at_most=1),
        wrong("not strict", lenient, says="a ValueError, for an empty checkpoint", at_most=1),
        wrong("missing ones pass", edit("trained.keys() - saved.keys()", "set()"), says="an empty checkpoint"),
        wrong("unknown ones pass", edit("saved.keys() - trained.keys()", "set()"), says="a key that the model has not",
              at_most=3),
        wrong("name by name", one_by_one, says="Compare everything first"),
        wrong("shapes not compared", edit("if saved[name].shape != parameter.shape:", "if False:"),
              says="another shape", at_most=3),
        wrong("sizes compared", edit("if saved[name].shape != parameter.shape:",
                                     "if saved[name].dim() != parameter.dim():"), says="compare the shapes", at_most=3),
        wrong("no name in the message", edit("f\"the checkpoint lacks {', '.join(sorted(missing))}\"",
                                             '"the checkpoint is incomplete"'), says="put its name into it"),
        wrong("trains everything afterwards", edit("            parameter.copy_(saved[name])",
                                                   "            parameter.copy_(saved[name])\n"
                                                   "    model.requires_grad_()"),
              says="what trains stays what trains", at_most=3),
        wrong("frozen ones accepted", edit("if unknown := saved.keys() - trained.keys():",
                                           "if unknown := saved.keys() - dict(model.named_parameters()).keys():"),
              says="a key of the frozen body", at_most=3),
    ],
}  # fmt: skip

test_exercise = exercise_tests(news_classification, WRONG)
