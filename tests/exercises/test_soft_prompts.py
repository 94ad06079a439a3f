"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import torch
import torch.nn.functional as F
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import soft_prompts


def one_by_one(words, mask, prompt):
    """Takes it that there is one text."""
    inputs = torch.cat([prompt[None], words[:1]], dim=1)
    return inputs, F.pad(mask, (len(prompt), 0), value=True)


def no_prefix(q, k, v, keys, values, mask):
    return F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :])


def mixed_heads(q, k, v, keys, values, mask):
    batch, heads, _, width = k.shape
    keys, values = (rows.reshape(heads, -1, width).expand(batch, -1, -1, -1) for rows in (keys, values))
    k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
    mask = F.pad(mask, (keys.shape[2], 0), value=True)[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, mask)


def asks_too(q, k, v, keys, values, mask):
    """Gives the prefix queries of its own, as a prompt has."""
    batch, heads, _, width = k.shape
    keys, values = (rows.view(-1, heads, width).transpose(0, 1).expand(batch, -1, -1, -1) for rows in (keys, values))
    q = torch.cat([keys, q], dim=2)
    k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
    mask = F.pad(mask, (keys.shape[2], 0), value=True)[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, mask)


VALUES = "torch.cat([values.expand(batch, -1, -1, -1), v], dim=2)"

WRONG = {
    "put_in_front": [
        wrong("behind the text", edit("torch.cat([rows, words], dim=1)", "torch.cat([words, rows], dim=1)"),
              says="The prompt stands behind the text here"),
        wrong("upside down", edit("prompt.expand(", "prompt.flip(0).expand("), says="The prompt is upside down here"),
        wrong("its mean", edit("prompt.expand(", "prompt.mean(0, keepdim=True).expand_as(prompt).expand("),
              says="Every vector of the prompt is the same here"),
        wrong("mask grows at its end", edit("torch.cat([real, mask], dim=1)", "torch.cat([mask, real], dim=1)"),
              says="The mask grows at its end here. The prompt stands in front"),
        wrong("prompt masked", edit("torch.ones(len(words), len(prompt), dtype=torch.bool)",
                                    "torch.zeros(len(words), len(prompt), dtype=torch.bool)"),
              says="The prompt is masked here", at_most=3),
        wrong("mask not grown", edit("return inputs, torch.cat([real, mask], dim=1)", "return inputs, mask"),
              says="expected  shape (4, 10)"),
        wrong("mask all true", edit("torch.cat([real, mask], dim=1)", "torch.cat([real, mask | True], dim=1)"),
              says="The padding of the texts must stay masked"),
        wrong("mask of numbers", edit("dtype=torch.bool)", "dtype=torch.float32)"), says="expected  dtype torch.bool"),
        wrong("detached", edit("prompt.expand(", "prompt.detach().expand("), says="inputs that lead back", at_most=4),
        wrong("inputs alone", edit("return inputs, torch.cat([real, mask], dim=1)", "return inputs"),
              says="Return both: return inputs, mask"),
        wrong("one text only", one_by_one, says="expand makes it [B, l, D] without copying", at_most=2),
    ],
    "attend_with_prefix": [
        wrong("no prefix", no_prefix, says="The prefix is not heard here"),
        wrong("heads mixed", mixed_heads, says="dealt out to the wrong heads", at_most=1),
        wrong("values behind", edit(VALUES, "torch.cat([v, values.expand(batch, -1, -1, -1)], dim=2)"),
              says="a weight must meet its own value"),
        wrong("keys as values", edit("torch.cat([values.expand(", "torch.cat([keys.expand("),
              says="The keys are used as values here"),
        wrong("no root", edit(" / math.sqrt(width)", ""), says="The scores are not divided by sqrt(d) here"),
        wrong("mask at its end", edit("(keys.shape[1], 0), value=True", "(0, keys.shape[1]), value=True"),
              says="The mask grows at its end here", at_most=4),
        wrong("mask unused", edit("~mask[:, None, None, :]", "(~mask & False)[:, None, None, :]"),
              says="The mask is not used here", at_most=4),
        wrong("prefix masked", edit("value=True)", "value=False)"), says="it is missing, or masked"),
        wrong("asks in the prefix's place", asks_too, says="expected  shape", at_most=0),
        wrong("exp by hand", edit("scores.softmax(dim=-1)", "scores.exp() / scores.exp().sum(-1, keepdim=True)"),
              says="exp(200) is inf", at_most=4),
        wrong("softmax over queries", edit("softmax(dim=-1)", "softmax(dim=-2)"), says="Concatenate along the tokens"),
    ],
    "step_macs": [
        wrong("forward alone", edit("return depth * 3 * (linear + scores)", "return depth * (linear + scores)"),
              says="This is the forward pass alone"),
        wrong("FLOPs", edit("2 * linear + 3 * scores)", "2 * linear + 3 * scores) * 2"), says="These are FLOPs"),
        wrong("prompt not counted", edit("tokens + length if", "tokens if"), says="The prompt is not counted here"),
        wrong("all weights train", edit("(2 * linear + 3 * scores)", "3 * (linear + scores)"),
              says="This counts as if all weights trained"),
        wrong("backward equals forward", edit("(2 * linear + 3 * scores)", "2 * (linear + scores)"),
              says="In attention both factors are activations"),
        wrong("one matrix in the MLP", edit("2 * read * width * hidden", "read * width * hidden"),
              says="The MLP has two matrices"),
        wrong("no output projection", edit("4 * read * width**2", "3 * read * width**2"),
              says="Attention has four matrices"),
        wrong("one layer", edit("return depth * (2", "return (2"), says="multiply by depth"),
        wrong("MLP always four times as wide", edit("width * hidden", "width * 4 * width"),
              says="Take hidden and depth from the arguments"),
        wrong("length counts always", edit("tokens + length if method == \"prompt\" else tokens", "tokens + length"),
              says="Three times that with backward"),
    ],
}  # fmt: skip

test_exercise = exercise_tests(soft_prompts, WRONG)
