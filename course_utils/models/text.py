"""A text encoder in the manner of BERT: token, position and token-type embeddings, read by the course's one encoder.

Letters used for shapes: ``B`` texts, ``N`` tokens, ``D`` width, ``K`` classes.

Sources: Devlin et al. 2019, arXiv:1810.04805 (BERT); Reimers and Gurevych 2019, arXiv:1908.10084 (mean pooling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.encoder import Encoder, EncoderConfig, check_counts, initialise


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """Everything that decides what a :class:`TextModel` computes: the encoder's fields and these. The default sizes are
    those of bert-base-chinese.

    Args:
        vocab_size: rows of the token table; token ids run from 0 to ``vocab_size - 1``.
        max_length: rows of the position table: the longest text, in tokens.
        token_types: rows of the token-type table; BERT has two, for the first and the second sentence of a pair.
        pad_token: the id that fills short texts; its row starts at zero and is not trained.
        num_classes: width of the head's output; 0 for no head, which makes the model return features.
        pool: what the head reads: ``"cls"``, the first token, or ``"mean"``, the mean of the real tokens.
        pooler: whether one more ``Linear`` and a tanh stand between the first token and the head, as in BERT.
        head_dropout: probability that a feature is dropped before the head; by default ``dropout``.
        embedding_width: numbers of an embedding; by default ``width``. With fewer, a ``Linear`` brings them to the
            width, as in a small ELECTRA.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    norm_first: bool = False
    norm_eps: float = 1e-12
    vocab_size: int = 21128
    max_length: int = 512
    token_types: int = 2
    pad_token: int = 0
    num_classes: int = 0
    pool: Literal["cls", "mean"] = "cls"
    pooler: bool = True
    head_dropout: float | None = None
    embedding_width: int | None = None

    @property
    def embedded_width(self) -> int:
        """Numbers of an embedding."""
        return self.width if self.embedding_width is None else self.embedding_width

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "vocab_size", "max_length", "token_types", "embedded_width")
        if not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise ValueError(f"num_classes {self.num_classes!r} is no count: choose 0 for no head, or a number above")
        if not 0 <= self.pad_token < self.vocab_size:
            raise ValueError(f"pad_token {self.pad_token!r} is no token id: choose one from 0 to {self.vocab_size - 1}")
        if self.pool not in ("cls", "mean"):
            raise ValueError(f'pool {self.pool!r} is unknown: choose "cls" (first token) or "mean" (mean of tokens)')
        if self.pool == "mean" and self.pooler:
            raise ValueError('the pooler reads the first token, and pool is "mean": choose pooler=False, or pool "cls"')
        if self.head_dropout is not None and not 0 <= self.head_dropout < 1:
            raise ValueError(
                f"head_dropout {self.head_dropout!r} is no probability: choose a number from 0 (off) to below 1"
            )


class TextModel(nn.Module):
    """Token ids in; embeddings, LayerNorm; encoder; pooling; head out.

    A ``word_embedding`` that puts vectors in front of a text (see :mod:`course_utils.tuning`) makes all that follows
    longer by them: they count as real tokens of type 0, and the positions run on through them.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        embedded = config.embedded_width
        self.word_embedding = nn.Embedding(config.vocab_size, embedded, padding_idx=config.pad_token)
        self.position_embedding = nn.Embedding(config.max_length, embedded)
        self.token_type_embedding = nn.Embedding(config.token_types, embedded)
        self.embedding_norm = nn.LayerNorm(embedded, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.embedding_projection = nn.Linear(embedded, config.width) if embedded != config.width else nn.Identity()
        self.encoder = Encoder(config)
        # Post-norm layers end in a LayerNorm; behind pre-norm ones stands this.
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.norm_first else nn.Identity()
        self.pooler = nn.Linear(config.width, config.width) if config.pooler else None
        self.head_dropout = nn.Dropout(config.dropout if config.head_dropout is None else config.head_dropout)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        self.apply(initialise)
        for table in (self.word_embedding, self.position_embedding, self.token_type_embedding):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.word_embedding.weight[config.pad_token].zero_()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Classify.

        Args:
            input_ids: ``[B, N]`` integers, the tokens.
            attention_mask: ``[B, N]``, True or 1 where a token is real, False or 0 where it is padding; by default all
                tokens are real, those with the padding's id too.
            token_types: ``[B, N]`` integers; by default all 0.
            inputs_embeds: ``[B, N, embedded_width]`` in the place of ``input_ids``: vectors that need not belong to any
                token, such as a learned prompt before ``model.word_embedding(input_ids)``.
            positions: ``[N]`` or ``[B, N]`` integers; by default 0 to N - 1.

        Returns:
            logits ``[B, K]``; with ``num_classes=0`` the features ``[B, D]``.

        Raises:
            ValueError: shapes that do not fit, ids beyond the vocabulary, a text longer than ``max_length`` or empty.
        """
        x = self._encoded(input_ids, attention_mask, token_types, inputs_embeds=inputs_embeds, positions=positions)
        return self.forward_head(x, attention_mask)

    def forward_head(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What follows the encoder: its tokens ``[B, N, D]`` to what :meth:`forward` returns."""
        features = self._pooled(x, attention_mask)
        return self.head(self.head_dropout(features)) if self.config.num_classes else features

    @staticmethod
    def context(x: Tensor, attention_mask: Tensor | None = None) -> Tensor | None:
        """What all layers are given besides the tokens ``[B, N, D]``: which of them are real."""
        return None if attention_mask is None else attention_mask.bool()

    def features(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """What the head reads, ``[B, D]``; arguments as for :meth:`forward`."""
        return self._pooled(self._encoded(input_ids, attention_mask, *args, **kwargs), attention_mask)

    def tokens(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """All tokens after the last layer, ``[B, N, D]``."""
        return self.norm(self._encoded(input_ids, attention_mask, *args, **kwargs))

    def _encoded(self, input_ids: Tensor | None, attention_mask: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        x = self.embed(input_ids, *args, **kwargs)  # [B, N, D]
        return self.encoder(x, self._checked_mask(attention_mask, x, input_ids))

    def _pooled(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        x = self.norm(x)
        if self.config.pool == "mean":
            if attention_mask is None:
                return x.mean(dim=1)
            real = F.pad(attention_mask, (x.shape[1] - attention_mask.shape[1], 0), value=1)  # those put in front, too
            weights = real[..., None].to(x.dtype)  # [B, N, 1]
            return (x * weights).sum(dim=1) / weights.sum(dim=1)
        return x[:, 0] if self.pooler is None else self.pooler(x[:, 0]).tanh()

    def embed(
        self,
        input_ids: Tensor | None = None,
        token_types: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The tokens that enter the encoder, ``[B, N, D]``: the sum of three embeddings, normalised."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "none of them" if input_ids is None else "both"
            raise ValueError(f"give either input_ids or inputs_embeds: {given} came in")
        words = self._words(input_ids) if inputs_embeds is None else inputs_embeds  # [B, N, embedded_width]
        if words.dim() != 3 or words.shape[-1] != self.config.embedded_width:
            wanted = f"[texts, tokens, {self.config.embedded_width}]"
            raise ValueError(f"inputs_embeds of shape {list(words.shape)} do not fit: give {wanted}")
        if not 0 < words.shape[1] <= self.config.max_length:
            raise ValueError(
                f"a text of {words.shape[1]} tokens does not fit a model for 1 to {self.config.max_length}: truncate "
                "it when you tokenise, or split it"
            )
        if positions is None:
            positions = torch.arange(words.shape[1], device=words.device)
        types = words.new_zeros(1, dtype=torch.long) if token_types is None else token_types
        if token_types is not None and input_ids is not None:
            types = F.pad(token_types, (words.shape[1] - input_ids.shape[1], 0))  # what was put in front is of type 0
        x = words + self._rows("token_types", self.token_type_embedding, types)
        x = x + self._rows("positions", self.position_embedding, positions)
        return self.embedding_projection(self.dropout(self.embedding_norm(x)))  # [B, N, D]

    def _words(self, input_ids: Tensor | None) -> Tensor:
        assert input_ids is not None
        if input_ids.dim() != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"input_ids of {input_ids.dtype} and shape {list(input_ids.shape)} do not fit: give integers of shape "
                "[texts, tokens]"
            )
        return self._rows("input_ids", self.word_embedding, input_ids)

    def _rows(self, name: str, table: nn.Module, ids: Tensor) -> Tensor:
        try:
            return table(ids)
        except IndexError as error:
            rows = {"input_ids": "vocab_size", "token_types": "token_types", "positions": "max_length"}[name]
            raise ValueError(
                f"{name} run from {int(ids.min())} to {int(ids.max())}, but {rows} is {getattr(self.config, rows)}: "
                "use the tokenizer that belongs to this model"
            ) from error

    @staticmethod
    def _checked_mask(mask: Tensor | None, x: Tensor, input_ids: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        given = x.shape[:2] if input_ids is None else input_ids.shape
        if mask.shape != given:
            raise ValueError(
                f"attention_mask of shape {list(mask.shape)} does not fit: give one of {list(given)}, 1 for each "
                "real token and 0 for padding"
            )
        mask = mask.bool()
        if not mask.is_meta and not (real := mask.any(dim=1)).all():
            raise ValueError(
                f"text {int(real.logical_not().nonzero()[0])} of the batch has no real token, so that attention has "
                "nothing to look at: leave it out, or keep its [CLS]"
            )
        return F.pad(mask, (x.shape[1] - given[1], 0), value=True)
