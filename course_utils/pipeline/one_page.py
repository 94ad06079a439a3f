"""1F1B on one page: what one rank of a pipeline does in a step, in three phases.

The model is cut into p stages; rank r holds stage r. The batch is cut into m micro-batches. Autograd knows nothing of
other processes, so the graph is cut where a message goes: a stage treats what it receives as an input of its own, and
sends back the gradient of that input.

Shapes: a micro-batch of b samples; all that travels has one shape, such as [b, N, D] for N tokens of width D.
Source: Narayanan et al. 2021, arXiv:2104.04473, section 2.2.1.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def one_f_one_b(
    stage: nn.Module, inputs: list[Tensor], targets: list[Tensor], loss_fn: Callable, shape: tuple[int, ...]
) -> list[Tensor]:
    """One step of this rank: gradients are added to ``.grad``; the last rank returns the m losses.

    ``inputs`` (m micro-batches, for the first rank) and ``targets`` (for the last) are read there alone.
    """
    rank, ranks, m = dist.get_rank(), dist.get_world_size(), len(inputs)
    first, last = rank == 0, rank == ranks - 1
    dtype = next(stage.parameters()).dtype
    live: deque[tuple[Tensor, Tensor]] = deque()  # input and output of each micro-batch that waits for its backward
    sent: list[tuple[Any, Tensor]] = []
    losses: list[Tensor] = []

    def receive(source: int) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        dist.recv(tensor, source)
        return tensor

    def send(tensor: Any, target: int) -> None:  # without waiting: two ranks that wait for each other never move
        sent.append((dist.isend(tensor, target), tensor))

    def forward(k: int) -> None:
        x = inputs[k] if first else receive(rank - 1).requires_grad_()
        out = stage(x)
        if last:
            out = loss_fn(out, targets[k]) / m  # the batch's loss is the mean of the micro-batches'
            losses.append(out.detach() * m)
        else:
            send(out.detach(), rank + 1)  # a message carries numbers, no graph
        live.append((x, out))

    def backward() -> None:
        x, out = live.popleft()  # the oldest micro-batch; its activations go when this function ends
        out.backward(None if last else receive(rank + 1))
        if not first:
            send(x.grad, rank - 1)

    ahead = min(m, ranks - 1 - rank)
    for k in range(ahead):  # warm-up: run ahead, as far as the first gradient takes to come back
        forward(k)
    for k in range(ahead, m):  # steady: one forward, one backward
        forward(k)
        backward()
    for _ in range(ahead):  # cool-down: the backwards that are left
        backward()
    for work, _ in sent:
        work.wait()
    return losses
