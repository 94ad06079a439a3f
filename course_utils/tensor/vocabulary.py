"""The two ends of a language model, cut by words: token embedding, logits, and a loss that never sees all logits.

``t`` ranks; rank r has rows ``r V/t`` to ``(r+1) V/t`` of the ``V`` words (V rounded up to a multiple of t).

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (which sends "batch x tokens" numbers in place of the logits).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.tensor.collectives_with_gradient import Group, copy_to_ranks, gather, sum_over_ranks
from course_utils.tensor.layers import Shard, shard_parameter


class VocabularyParallelEmbedding(nn.Module):
    """``1/t`` of the rows of an ``Embedding``: a rank looks up its own words, has zeros for the others, and the sum
    over ranks is the whole lookup."""

    def __init__(self, whole: nn.Embedding, group: Group = None) -> None:
        super().__init__()
        self.group, self.rank = group, dist.get_rank(group)
        self.words, self.padding_idx = whole.num_embeddings, whole.padding_idx
        self.shards = {"weight": Shard(0, whole.num_embeddings)}
        self.weight = shard_parameter(whole.weight, 0, group)  # [V/t, D]

    def forward(self, ids: Tensor) -> Tensor:
        """``[B, N]`` to ``[B, N, D]``.

        Raises:
            IndexError: for an id beyond the vocabulary, as ``nn.Embedding`` does: no rank would know it, and it would
                pass as a vector of zeros.
        """
        check_ids(ids, self.words)
        rows, mine = local_ids(ids, len(self.weight), self.rank)
        padding = None if self.padding_idx is None else self.padding_idx - self.rank * len(self.weight)
        untrained = padding if padding is not None and 0 <= padding < len(self.weight) else None
        found = F.embedding(rows, self.weight, untrained)  # [B, N, D]
        return sum_over_ranks(found.masked_fill(~mine[..., None], 0), self.group)

    def logits(self, x: Tensor) -> Tensor:
        """How well each of this rank's words fits, by the embedding's own rows: ``[..., D]`` to ``[..., V/t]``."""
        return F.linear(copy_to_ranks(x, self.group), self.weight)


class VocabularyParallelHead(nn.Module):
    """``1/t`` of the words of a head, a ``Linear``: the whole input ``[..., D]`` to the logits of all words, or of this
    rank's.

    Attributes:
        gather_logits: whether all ranks get the logits of all words, ``[..., V]``, as the whole head returns them; if
            not, ``[..., V/t]``, for :func:`vocabulary_parallel_cross_entropy`.
    """

    def __init__(self, whole: nn.Linear, group: Group = None, gather_logits: bool = True) -> None:
        super().__init__()
        self.group, self.words, self.gather_logits = group, whole.out_features, gather_logits
        self.shards = dict.fromkeys(("weight", "bias"), Shard(0, whole.out_features))
        self.weight = shard_parameter(whole.weight, 0, group)  # [V/t, D]
        self.bias = None if whole.bias is None else shard_parameter(whole.bias, 0, group)  # [V/t]

    def forward(self, x: Tensor) -> Tensor:
        logits = F.linear(copy_to_ranks(x, self.group), self.weight, self.bias)
        return gather(logits, self.words, self.group, dim=-1) if self.gather_logits else logits


def vocabulary_parallel_cross_entropy(
    logits: Tensor, targets: Tensor, vocab_size: int, group: Group = None, *, ignore_index: int = -100
) -> Tensor:
    """``F.cross_entropy`` of logits that are sharded over the ranks: the mean over all targets but the ignored ones.

    Three numbers a target are sent: the largest logit, to subtract it; the sum of the exponentials; the target's own
    logit, which one rank has. In backward nothing is sent: each rank has what its columns of softmax need.

    Args:
        logits: ``[..., V/t]``, this rank's words.
        targets: ``[...]`` word ids, the same on all ranks.
        vocab_size: V, words in all; columns beyond them are padding and count for nothing.

    Raises:
        IndexError: for a target beyond the vocabulary.
    """
    kept = targets != ignore_index
    check_ids(targets[kept], vocab_size)
    width, rank = logits.shape[-1], dist.get_rank(group)
    logits = logits if logits.dtype == torch.float64 else logits.float()  # exponentials add up badly in 16 bits
    padding = torch.arange(width, device=logits.device) >= vocab_size - rank * width
    logits = logits.masked_fill(padding, -torch.inf)
    largest = logits.detach().amax(-1)  # [...]
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    shifted = logits - largest[..., None]  # at most 0: no exponential overflows
    columns, mine = local_ids(targets, width, rank)
    own = shifted.gather(-1, columns[..., None])[..., 0].masked_fill(~mine, 0)  # [...]
    exponentials, own = sum_over_ranks(torch.stack([shifted.exp().sum(-1), own]), group)
    return (exponentials.log() - own)[kept].mean()


def local_ids(ids: Tensor, width: int, rank: int) -> tuple[Tensor, Tensor]:
    """Ids counted from this rank's first word (0 for others' words), and which are this rank's: both ``[...]``."""
    local = ids - rank * width
    mine = (local >= 0) & (local < width)
    return local.masked_fill(~mine, 0), mine


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise IndexError unless all ids are words: what no rank knows would pass silently, as zeros."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise IndexError(f"ids run from {int(ids.min())} to {int(ids.max())}, but words from 0 to {vocab_size - 1}")
