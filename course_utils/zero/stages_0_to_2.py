"""ZeRO, stage by stage: each class shards one thing more than the one before it, and inherits all the rest.

``N`` ranks; ``P`` trained parameters. Stage 0 keeps everything on every rank; stage 1 shards the optimizer's state,
stage 2 the gradients too, stage 3 (in :mod:`course_utils.zero.stage_3`) the parameters as well. All of them
take the same step, up to the order of additions.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054; offload: Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from course_utils.zero.step import HOST, Zero
from course_utils.zero.units import Unit, reduce_scatter


class Stage0(Zero):
    """Plain data parallelism: parameters, gradients and optimizer state whole on every rank."""

    stage = 0

    def _place(self, unit: Unit) -> None:
        """What this rank keeps of the weights: all."""

    def weights_of(self, unit: Unit) -> Tensor:
        """The part of the weights that this rank updates: all, as every other rank does."""
        return unit.flat

    def _gradient_of(self, unit: Unit) -> Tensor:
        """The gradient of that part, averaged over ranks."""
        assert unit.gradient is not None
        return unit.gradient

    def _reduce(self, unit: Unit) -> None:
        """Start to average the gradient over ranks."""
        assert unit.gradient is not None
        unit.reducing = dist.all_reduce(unit.gradient, group=self.group, async_op=True)

    def _reduced(self, unit: Unit) -> None:
        """The gradient is averaged. Nothing to clean up."""

    def _publish(self, unit: Unit) -> None:
        """This rank's part of the weights is new. All ranks have computed the same: nothing to send."""

    def _sum_over_ranks(self, squares: Tensor) -> None:
        """Every rank has the squares of all gradients."""

    def _postpones(self) -> bool:
        """Whether this backward only adds up, on this rank, and leaves averaging to the last one of the step."""
        return self._accumulating


class Stage1(Stage0):
    """Each rank updates one N-th of the weights, and so holds the optimizer's state for one N-th.

    A reduce-scatter brings the averaged gradient of its part, an all-gather carries the new weights to the others: the
    two halves of the all-reduce, with the optimizer's step between them.
    """

    stage = 1

    def weights_of(self, unit: Unit) -> Tensor:
        return unit.shard

    def _gradient_of(self, unit: Unit) -> Tensor:
        assert unit.gradient is not None
        return unit.gradient[unit.mine]

    def _reduce(self, unit: Unit) -> None:
        assert unit.gradient is not None
        unit.reducing = reduce_scatter(unit.gradient[unit.mine], unit.gradient, group=self.group, async_op=True)

    def _publish(self, unit: Unit) -> None:
        unit.gather(self.group)

    def _sum_over_ranks(self, squares: Tensor) -> None:
        dist.all_reduce(squares, group=self.group)


class Stage2(Stage1):
    """Each rank also keeps only its N-th of the gradients: as soon as a unit is averaged, the rest is let go.

    So nothing whole can wait for the last micro-batch: every backward averages, and its shards add up.
    """

    stage = 2

    def _gradient_of(self, unit: Unit) -> Tensor:
        assert unit.gradient_shard is not None
        return unit.gradient_shard

    def _reduced(self, unit: Unit) -> None:
        assert unit.gradient is not None
        shard = unit.gradient[unit.mine].to(HOST if self.offload else unit.flat.device, copy=True)
        unit.gradient = None
        unit.gradient_shard = shard if unit.gradient_shard is None else unit.gradient_shard.add_(shard)

    def _postpones(self) -> bool:
        return False
