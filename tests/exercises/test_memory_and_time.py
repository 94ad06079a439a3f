"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import torch
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import memory_and_time

FREE = "free = memory - bytes_each * parameters"
SEQUENCE = "layers * (34 * length * width + 5 * heads * length**2)"
RETURN = "return max(0, free // sequence)"

STATE = "ctx.state = torch.get_rng_state()\n            "
WITHOUT_GRAPH = """with torch.no_grad():
                return function(x)"""


def just_calls(function, x):
    return function(x)


def keeps_everything(function, x):
    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                ctx.x = x.detach().requires_grad_()
                ctx.output = function(ctx.x)
            return ctx.output.detach()

        @staticmethod
        def backward(ctx, grad):
            ctx.output.backward(grad)
            return ctx.x.grad

    return Again.apply(x)


def only_x(function, x):
    """No gradient for the parameters."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            with torch.no_grad():
                return function(x)

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                output = function(x)
            return torch.autograd.grad(output, x, grad)[0]

    return Again.apply(x)


def no_graph(function, x):
    with torch.no_grad():
        return function(x)


def whole_batch(model, loss_fn, x, y, micro_batch):
    model.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    return loss.item()


def one_backward(model, loss_fn, x, y, micro_batch):
    model.zero_grad()
    total = torch.tensor(0.0)
    for px, py in zip(x.split(micro_batch), y.split(micro_batch), strict=True):
        total = total + loss_fn(model(px), py) * (len(px) / len(x))
    total.backward()
    return total.item()


def drops_the_last(model, loss_fn, x, y, micro_batch):
    model.zero_grad()
    total, pieces = 0.0, len(x) // micro_batch
    for k in range(pieces):
        part = slice(k * micro_batch, (k + 1) * micro_batch)
        loss = loss_fn(model(x[part]), y[part]) * (micro_batch / len(x))
        loss.backward()
        total += loss.item()
    return total


SHARE = "(len(px) / len(x))"
LOOP = "    for px, py in zip(x.split(micro_batch), y.split(micro_batch), strict=True):"

WRONG = {
    "largest_batch": [
        wrong("no states", edit(FREE, "free = memory"), says="The model states are left out"),
        wrong("weights only", edit(FREE, "free = memory - 2 * parameters"), says="Only the weights are taken off"),
        wrong("no scores", edit(SEQUENCE, "layers * 34 * length * width"), says="The scores are left out here"),
        wrong("only scores", edit(SEQUENCE, "layers * 5 * heads * length**2"), says="Only the scores are counted"),
        wrong("one layer", edit(SEQUENCE, "34 * length * width + 5 * heads * length**2"),
              says="the room for one layer"),
        wrong("scores not squared", edit("length**2", "length"), says="grow with the square of the length"),
        wrong("always 16 bytes", edit("bytes_each * parameters", "16 * parameters"), says="bytes_each is not always 16",
              at_most=4),
        wrong("negative", edit(RETURN, "return free // sequence"), says="That is a negative number", at_most=4),
        wrong("a fraction", edit(RETURN, "return max(0, free / sequence)"), says="A part of a sequence does not train"),
        wrong("rounded up", edit(RETURN, "return max(0, -(-free // sequence))"), says="one sequence too many"),
        wrong("at least one", edit("max(0,", "max(1,"), says="the answer is 0, not 1", at_most=4),
        wrong("strictly less", edit(RETURN, "return max(0, (free - 1) // sequence)"), says="Stay with whole numbers",
              at_most=4),
    ],
    "recompute": [
        wrong("only calls it", just_calls, says="alive after the forward pass", at_most=3),
        wrong("keeps the graph", keeps_everything, says="bytes are alive", at_most=3),
        wrong("no graph", no_graph, says="one without a graph", at_most=0),
        wrong("no parameters", only_x, says="it reaches x *and* the parameters", at_most=2),
        wrong("ones arrive", edit("output.backward(grad)", "output.backward(torch.ones_like(grad))"),
              says="not used here", at_most=3),
        wrong("other dice", edit("torch.set_rng_state(ctx.state)", "pass"), says="dropped other numbers than the first",
              at_most=3),
        wrong("generator left behind", edit("torch.random.fork_rng(), torch.enable_grad()", "torch.enable_grad()"),
              says="the numbers that come without recomputation", at_most=4),
        wrong("seed instead of state", edit("torch.set_rng_state(ctx.state)", "torch.manual_seed(0)"),
              says="one that differs by", at_most=3),
        wrong("state taken too late",
              edit(STATE + "ctx.save_for_backward(x)\n            " + WITHOUT_GRAPH,
                   "ctx.save_for_backward(x)\n            with torch.no_grad():\n                output = function(x)\n"
                   "            ctx.state = torch.get_rng_state()\n            return output"),
              says="Play the generator's state back", at_most=4),
        wrong("twice in backward", edit("output = function(x)", "function(x)\n                output = function(x)"),
              says="and 2 more", at_most=2),
        wrong("no grad mode in backward", edit(", torch.enable_grad()", ""), says="In backward() gradients are off",
              at_most=1),
    ],
    "accumulate": [
        wrong("the whole batch", whole_batch, says="at most 5 samples at a time", at_most=3),
        wrong("one backward at the end", one_backward, says="keeps the graphs of all", at_most=4),
        wrong("not weighed", edit(" * " + SHARE, ""), says="here they are added up"),
        wrong("mean of means", edit(SHARE, "(1 / len(x.split(micro_batch)))"),
              says="That is the mean of the pieces' means", at_most=4),
        wrong("last piece as if full", edit(SHARE, "(micro_batch / len(x))"), says="counts as if it were full",
              at_most=4),
        wrong("last piece dropped", drops_the_last, says="the last piece of the batch is missing", at_most=4),
        wrong("cleared each time", edit(LOOP, LOOP + "\n        model.zero_grad()"),
              says="did you clear the gradients between"),
        wrong("never cleared", edit("model.zero_grad()", "pass"), says="on top of old ones", at_most=4),
        wrong("no backward", edit("loss.backward()", "pass"), says="Call backward() on the loss of each piece"),
        wrong("last loss", edit("total += loss.item()", "total = loss.item()"), says="the loss that is returned"),
        wrong("keeps the graph in the sum", edit("total += loss.item()", "total = total + loss"),
              says="still a tensor holds on to its graph"),
    ],
}  # fmt: skip

test_exercise = exercise_tests(memory_and_time, WRONG)
