"""One training run on one page: model, optimizer, rate, batch, loss, gradient, step; validate, save, go on.

Letters: B images of a batch on this process, C channels, H and W pixels, K classes. The same program runs alone and on
many processes: each of them calls ``train`` with its own share of every batch.
Sources: Karpathy, https://github.com/karpathy/nanoGPT (the order); Goyal et al. 2017, arXiv:1706.02677 (the warm-up);
Loshchilov and Hutter 2017 and 2019, arXiv:1608.03983 and 1711.05101 (cosine, AdamW).
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Batches = Iterable[tuple[Tensor, Tensor]]  # x [B, C, H, W] and the class y [B]


def rate(step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied by: up in a line, then down on half a cosine."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(
    model: nn.Module, epoch_batches: Callable[[int], Batches], held_out: Callable[[], Batches], *,
    epochs: int, steps_per_epoch: int, lr: float, warmup: int, path: Path,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Losses of all steps and accuracies of all epochs. Goes on from the checkpoint at ``path``, if there is one."""
    many = dist.is_initialized() and dist.get_world_size() > 1

    # 1. The optimizer. Matrices decay; biases, gains of norms and positions do not.
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() > 1 and "position" not in name and "token" not in name]
    others = [p for _, p in named if not any(p is q for q in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)

    # 2. Where an earlier run stopped.
    done, losses, accuracies = 0, list[float](), list[float]()
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done, losses, accuracies = saved["epochs"], saved["losses"], saved["accuracies"]

    # 3. The replica, whose backward averages the gradients of all processes.
    replica = DistributedDataParallel(model) if many else model
    for epoch in range(done, epochs):
        replica.train()
        for x, y in epoch_batches(epoch):
            for group in optimizer.param_groups:  # 4. the rate of this step
                group["lr"] = lr * rate(len(losses), epochs * steps_per_epoch, warmup)
            loss = F.cross_entropy(replica(x), y)  # 5. forward: logits [B, K]
            optimizer.zero_grad()
            loss.backward()  # 6. backward
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # 7. clip
            optimizer.step()  # 8. step
            losses.append(mean(loss.detach(), many))

        # 9. Validate, on the bare model: counts, which add up over processes however the images were shared.
        model.eval()
        with torch.no_grad():
            hits = [model(x).argmax(-1) == y for x, y in held_out()]
        right = torch.tensor([sum(int(hit.sum()) for hit in hits), sum(len(hit) for hit in hits)])
        if many:
            dist.all_reduce(right)
        accuracies.append(right[0].item() / right[1].item())

        # 10. Save: whole or not at all, because a rename is.
        if not many or dist.get_rank() == 0:
            reached = {"epochs": epoch + 1, "losses": losses, "accuracies": accuracies}
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **reached}
            torch.save(state, new := path.with_suffix(".new"))
            new.replace(path)
    return losses, accuracies


def mean(loss: Tensor, many: bool) -> float:
    """Of all processes; what one of them sees is the loss of its own images."""
    if many:
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return loss.item()
