"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import math

import torch
import torch.nn.functional as F
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import vit_from_scratch


def only_reshaped(images, patch_height, patch_width):
    batch, channels, height, width = images.shape
    if height % patch_height or width % patch_width:
        raise ValueError(f"{height} x {width}")
    patches = height * width // (patch_height * patch_width)
    return images.reshape(batch, patches, channels * patch_height * patch_width)


def unfolded_and_reshaped(images, patch_height, patch_width):
    size = (patch_height, patch_width)
    out = F.unfold(images, size, stride=size)
    return out.reshape(len(images), out.shape[2], out.shape[1])


def dropping(images, patch_height, patch_width):
    size = (patch_height, patch_width)
    return F.unfold(images, size, stride=size).transpose(1, 2)


def forgets_the_batch(images, patch_height, patch_width):
    size = (patch_height, patch_width)
    dropped = images.shape[2] % patch_height or images.shape[3] % patch_width
    if dropped:
        raise ValueError(f"{images.shape[2]} x {images.shape[3]}")
    out = F.unfold(images[:1], size, stride=size).transpose(1, 2)
    return out.expand(len(images), -1, -1)


def exp_by_hand(q, k, v, keep):
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).exp() * keep[:, None, None, :]
    return weights / weights.sum(-1, keepdim=True) @ v


def square_scores(q, k, v, keep):
    """Takes it that there are as many queries as tokens."""
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).view(*q.shape[:2], q.shape[2], q.shape[2])
    return scores.masked_fill(~keep[:, None, None, :], -math.inf).softmax(-1) @ v


def heads_mixed(q, k, v, keep):
    return F.scaled_dot_product_attention(q, k, v, keep[:, None, None, :]).flip(1)


def root_of_the_rows(table, old, new):
    side = math.isqrt(table.shape[1] - 1)
    picture = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], picture.flatten(2).transpose(1, 2)], dim=1)


def early_return(table, old, new):
    if old[0] * old[1] == new[0] * new[1]:
        return table
    picture = table[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], picture.flatten(2).transpose(1, 2)], dim=1)


def mixed_both_ways(table, old, new):
    picture = table[:, 1:].reshape(1, -1, *old)
    picture = F.interpolate(picture, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], picture.reshape(1, -1, table.shape[2])], dim=1)


RESIZE = 'F.interpolate(picture, size=new, mode="bicubic", align_corners=False)'
READ = "patches.reshape(1, *old, -1).permute(0, 3, 1, 2)"
ORDER = "0, 2, 4, 1, 3, 5"
MASKED = "scores = scores.masked_fill(~keep[:, None, None, :], -math.inf)"

WRONG = {
    "cut_into_patches": [
        wrong("only a reshape", only_reshaped, says="A reshape alone cuts the image into strips"),
        wrong("unfold reshaped", unfolded_and_reshaped, says="transpose it, do not reshape it"),
        wrong("channels last", edit(ORDER, "0, 2, 4, 3, 5, 1"), says="the channels come last here"),
        wrong("column by column", edit(ORDER, "0, 4, 2, 1, 3, 5"), says="in the order of columns"),
        wrong("patches transposed", edit(ORDER, "0, 2, 4, 1, 5, 3"),
              says="its own rows come before its columns"),
        wrong("square patches only",
              edit("patch_height, columns, patch_width)", "patch_height, columns, patch_height)"),
              says="Height goes with patch_height", at_most=4),
        wrong("floors", dropping, says="pixels were dropped or moved", at_most=4),
        wrong("asserts",
              edit("if height % patch_height:", "assert height % patch_height == 0\n    if height % patch_height:"),
              says="raised    AssertionError", at_most=4),
        wrong("an error without a number",
              edit('f"image height {height} is no multiple of the patch\'s {patch_height}"', '"bad size"'),
              says="Name the size that is wrong: 31", at_most=4),
        wrong("one image for all", forgets_the_batch, says="Leave the first dimension alone", at_most=4),
        wrong("patches still a grid", edit("rows * columns, channels", "rows, columns, channels"),
              says="expected  shape"),
    ],
    "masked_attention": [
        wrong("no scale", edit(" / math.sqrt(q.shape[-1])", ""), says="not divided by sqrt(d)"),
        wrong("divided by d", edit("math.sqrt(q.shape[-1])", "q.shape[-1]"), says="divided by d here"),
        wrong("softmax over queries", edit("softmax(dim=-1)", "softmax(dim=-2)"), says="must sum to one: dim=-1"),
        wrong("no mask", edit(MASKED, "pass"), says="The mask is not used here", at_most=3),
        wrong("mask after the softmax",
              edit(MASKED + "\n    weights = scores.softmax(dim=-1)",
                   "weights = scores.softmax(dim=-1) * keep[:, None, None, :]"),
              says="the rest sums to less than one", at_most=3),
        wrong("scores times zero", edit(MASKED, "scores = scores * keep[:, None, None, :]"), says="exp(0) is 1",
              at_most=3),
        wrong("mask upside down", edit("~keep", "keep"), says="expected  element"),
        wrong("minus ten thousand", edit(MASKED, "scores = scores - 1e4 * ~keep[:, None, None, :]"),
              says="is no -inf", at_most=4),
        wrong("exp by hand", exp_by_hand, says="exp(200) is inf in float32", at_most=4),
        wrong("as many queries as tokens", square_scores, says="need not be equal", at_most=4),
        wrong("heads exchanged", heads_mixed, says="Heads do not mix", at_most=3),
        wrong("weights returned", edit("return weights @ v", "return weights"), says="expected  shape"),
    ],
    "stretch_positions": [
        wrong("channels mixed", edit(READ, "patches.reshape(1, -1, *old)"), says="mixes the channels"),
        wrong("channels mixed both ways", mixed_both_ways, says="keeps the shape, but not what belongs together"),
        wrong("mixed on the way back",
              edit("picture.flatten(2).transpose(1, 2)", "picture.reshape(1, -1, table.shape[2])"),
              says="mixed on the way back"),
        wrong("bilinear", edit('"bicubic"', '"bilinear"'), says="That is bilinear interpolation"),
        wrong("nearest", edit(RESIZE, 'F.interpolate(picture, size=new, mode="nearest")'),
              says="the nearest neighbour"),
        wrong("corners aligned", edit("align_corners=False", "align_corners=True"), says="The corners are aligned"),
        wrong("antialiased", edit("align_corners=False", "align_corners=False, antialias=True"),
              says="This is antialiased", at_most=3),
        wrong("grid swapped", edit("*old, -1", "old[1], old[0], -1"),
              says="Rows and columns of the old grid are swapped"),
        wrong("token at the end", edit("[token, picture.flatten(2).transpose(1, 2)]",
                                       "[picture.flatten(2).transpose(1, 2), token]"), says="put it back in front"),
        wrong("token zeroed", edit("torch.cat([token,", "torch.cat([torch.zeros_like(token),"),
              says="comes back as zeros"),
        wrong("token lost", edit("return torch.cat([token, picture.flatten(2).transpose(1, 2)], dim=1)",
                                 "return picture.flatten(2).transpose(1, 2)"), says="expected  shape"),
        wrong("root of the rows", root_of_the_rows, says="a square root finds neither", at_most=3),
        wrong("equal counts returned as they are", early_return, says="compare the pairs", at_most=3),
    ],
    "count_parameters": [
        wrong("no biases in the MLP", edit("width * mlp_width + mlp_width + mlp_width * width + width",
                                           "2 * width * mlp_width"), says="One layer has 7,087,872"),
        wrong("P positions", edit("(patches + 1) * width", "patches * width"), says="P + 1 rows"),
        wrong("no last norm", edit(" + norm + head", " + head"), says="The last LayerNorm, behind the encoder"),
        wrong("no norms", edit("norm = 2 * width", "norm = 0"), says="The norms are missing here"),
        wrong("one norm a layer", edit("2 * norm)", "norm)"), says="A layer has two LayerNorms, not one"),
        wrong("no output projection", edit("4 * (width", "3 * (width"), says="The output projection of attention"),
        wrong("no positions", edit("width + (patches + 1) * width", "width"), says="The positions are missing here"),
        wrong("no head", edit("num_classes * (width + 1)", "0"), says="The head is missing here", at_most=1),
        wrong("a bias for no head", edit("num_classes * (width + 1)", "num_classes * width + max(1, num_classes)"),
              says="With num_classes = 0 there is no head", at_most=4),
        wrong("MLP of four times the width", edit("mlp = width * mlp_width + mlp_width + mlp_width * width + width",
                                                  "mlp = 8 * width * width + 5 * width"),
              says="only the usual choice", at_most=4),
        wrong("colour images always", edit("channels * patch_size**2", "3 * patch_size**2"),
              says="a patch has channels * patch_size squared", at_most=4),
        wrong("twelve layers always", edit("depth * (attention", "12 * (attention"),
              says="Everything inside a layer counts depth times", at_most=4),
    ],
}  # fmt: skip

test_exercise = exercise_tests(vit_from_scratch, WRONG)
