"""All three axes at once: tensor-parallel layers inside pipeline stages inside data-parallel replicas.

A rank of ``data x pipeline x tensor`` holds a slice of each layer of one stage of one replica. In every step all three
axes work: within a layer the tensor axis adds up, between layers the pipeline axis hands on, and when all micro-batches
are through, the data axis averages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_utils.data_parallel.data_parallel import MB, make_buckets
from course_utils.data_parallel.replicas import make_equal
from course_utils.hybrid.mesh import Mesh
from course_utils.pipeline.pipeline import LossFunction, Pipeline
from course_utils.pipeline.schedule import Schedule
from course_utils.pipeline.stages import Stage
from course_utils.tensor.layers import shards_of
from course_utils.tensor.tensor_parallel import full_state_dict, tensor_parallel


class HybridParallel:
    """This rank's part of a model on a mesh, and how it is trained.

    ::

        mesh = Mesh(data=2, pipeline=2, tensor=2)
        model = HybridParallel(ViT(config), mesh, one_f_one_b(2, 4), F.cross_entropy)
        optimizer = torch.optim.AdamW(model.parameters())
        loss = model.step(images, labels)  # the whole batch on every rank; each takes its part
        model.clip(1.0)
        optimizer.step()

    Args:
        model: the whole model, untouched; ViT, TextModel, or what ``split_into_stages`` and ``tensor_parallel`` take.
        schedule: of the pipeline, for as many ranks as the mesh has stages.
        loss_fn: from an output and a target to the mean loss of a micro-batch.
        layers: of each stage; by default as even as can be.

    Attributes:
        stages: this rank's stages, by number: of each layer a slice.

    Raises:
        ValueError: when heads, layers or schedule do not fit the mesh.
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        schedule: Schedule,
        loss_fn: LossFunction,
        *,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.mesh = mesh
        slices = tensor_parallel(model, mesh.group("tensor"))
        self.pipeline = Pipeline(slices, schedule, loss_fn, layers=layers, group=mesh.group("pipeline"))
        self.stages = {number: stage for number, stage in self.pipeline.stages.items() if isinstance(stage, Stage)}
        for stage in self.stages.values():
            make_equal(stage, mesh.group("data"))
        self._shards = {id(p) for part in self.stages.values() for p in _shard_parameters(part)}

    def parameters(self) -> list[nn.Parameter]:
        """This rank's own, for its optimizer."""
        return list(self.pipeline.parameters())

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Forward and backward of one batch, ``[B, ...]``, the same on every rank; gradients are left in ``.grad``.

        Returns:
            the mean loss of the whole batch, on every rank.

        Raises:
            ValueError: when the batch cannot be cut over the replicas.
        """
        loss = self.pipeline.run(self.my_part(inputs), self.my_part(targets))  # tensor axis inside, pipeline between
        average_gradients(self.parameters(), self.mesh.group("data"))
        return self._mean(loss)

    def my_part(self, batch: Tensor) -> Tensor:
        """The samples of this rank's replica: all its stages and slices work on the same."""
        replicas, mine = self.mesh.grid.size("data"), self.mesh.place("data")
        if not len(batch) or len(batch) % replicas:
            raise ValueError(
                f"a batch of {len(batch)} cannot be shared by {replicas} replicas: choose a multiple of {replicas}"
            )
        return batch.chunk(replicas)[mine]

    def clip(self, max_norm: float) -> float:
        """Scale all gradients down if the norm of the *whole* model's gradient is larger; return that norm."""
        norm = self.gradient_norm()
        scale = max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_ has it
        if scale < 1:
            for p in self.parameters():
                if p.grad is not None:
                    p.grad.mul_(scale)
        return norm

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """The norm of the whole model's gradient, on every rank, each number counted once.

        Slices and stages are different numbers, so their squares add up. What the tensor axis holds whole on each rank
        counts on its first rank alone; replicas hold the same and are not added at all.
        """
        first = self.mesh.place("tensor") == 0
        squares = torch.zeros((), dtype=torch.float64, device=self.parameters()[0].device)
        for p in self.parameters():
            if p.grad is not None and (first or id(p) in self._shards):
                squares += p.grad.double().square().sum()
        dist.all_reduce(squares, group=self.mesh.group("tensor"))
        dist.all_reduce(squares, group=self.mesh.group("pipeline"))
        return float(squares.sqrt())

    def full_state_dict(self) -> dict[str, Tensor]:
        """The state dict of the whole model, on every rank, put together over the tensor and the pipeline axis."""
        mine = {
            name: tensor
            for stage in self.stages.values()
            for name, tensor in full_state_dict(stage.part, self.mesh.group("tensor")).items()
        }
        parts: list[dict[str, Tensor]] = [{}] * self.mesh.grid.size("pipeline")
        dist.all_gather_object(parts, mine, group=self.mesh.group("pipeline"))
        return {name: tensor for part in parts for name, tensor in part.items()}

    def _mean(self, loss: Tensor | None) -> float:
        """The mean of the replicas' losses. The last stage knows its replica's; the others add nothing."""
        mean = torch.zeros((), dtype=torch.float64, device=self.parameters()[0].device)
        if loss is not None:
            mean += loss.detach() / self.mesh.grid.size("data")
        dist.all_reduce(mean, group=self.mesh.group("pipeline"))
        dist.all_reduce(mean, group=self.mesh.group("data"))
        return float(mean)


@torch.no_grad()
def average_gradients(
    parameters: Sequence[nn.Parameter], group: dist.ProcessGroup | None = None, bucket_mb: float = 25.0
) -> None:
    """Average gradients that are complete, in buckets: all all-reduces are started, then waited for.

    ``DataParallel`` does this during backward. A pipeline goes backward many times in a step, whole or in parts, and
    only after the last one is a gradient complete.

    Raises:
        RuntimeError: if a parameter has no gradient; its all-reduce would have to be skipped on all ranks alike.
    """
    trained = [p for p in parameters if p.requires_grad]
    if missing := [tuple(p.shape) for p in trained if p.grad is None]:
        raise RuntimeError(f"{len(missing)} parameters have no gradient, the first of shape {missing[0]}: freeze them")
    under_way = []
    for bucket in make_buckets(reversed(trained), bucket_mb * MB):
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients]) / dist.get_world_size(group)
        under_way.append((gradients, flat, dist.all_reduce(flat, group=group, async_op=True)))
    for gradients, flat, work in under_way:
        work.wait()
        for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


def _shard_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters of which this rank has a slice."""
    return [module.get_parameter(name) for name in shards_of(module)]
