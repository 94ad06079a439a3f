"""The same tactics through the library peft, on transformers' own BERT with the same weights.

peft puts prompts and prefixes into models of transformers alone. So the encoder, whatever it came from, is handed over
weight by weight; what pools and classifies stands here, because transformers' BERT reads the first token only.
"""

from __future__ import annotations

import re
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from course_utils.models.layouts import TEXT_LAYOUTS
from course_utils.models.text import TextModel
from course_utils.news.config import Config

LAYOUT = TEXT_LAYOUTS["transformers"]


class PooledBert(transformers.BertPreTrainedModel):
    """transformers' BERT, pooled as the course's :class:`TextModel` pools, and a head."""

    def __init__(self, config: transformers.BertConfig, classes: int, pool: str, pooler: bool) -> None:
        super().__init__(config)
        self.pool = pool
        self.bert = transformers.BertModel(config, add_pooling_layer=pooler)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, classes)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Logits ``[B, classes]``; the arguments are those that peft fills in."""
        read = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
        )
        x = read.last_hidden_state  # [B, N, D], a prompt's vectors among them; a prefix is no token, but in the mask
        if self.bert.pooler is not None:
            pooled = read.pooler_output
        elif self.pool == "cls":
            pooled = x[:, 0]
        else:
            assert attention_mask is not None
            weights = attention_mask[:, -x.shape[1] :, None].to(x.dtype)  # [B, N, 1]
            pooled = (x * weights).sum(1) / weights.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))


def handed_over(model: TextModel) -> PooledBert:
    """A model of transformers with the weights of ours, head included.

    Raises:
        ValueError: a pre-norm encoder, or one that embeds in fewer numbers than its width.
    """
    ours = model.config
    if ours.norm_first:
        raise ValueError("transformers' BERT is post-norm, and this encoder pre-norm: choose library ours")
    if ours.embedded_width != ours.width:
        raise ValueError("transformers' BERT embeds in its own width, and this encoder in fewer: choose library ours")
    config = transformers.BertConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.width,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.heads,
        intermediate_size=ours.mlp_width,
        max_position_embeddings=ours.max_length,
        type_vocab_size=ours.token_types,
        layer_norm_eps=ours.norm_eps,
        pad_token_id=ours.pad_token,
        hidden_dropout_prob=ours.dropout,
        attention_probs_dropout_prob=ours.attention_dropout,
    )
    with torch.random.fork_rng():  # its first values are overwritten at once
        bert = PooledBert(config, ours.num_classes, ours.pool, ours.pooler)
    weights = model.state_dict()
    bert.load_state_dict({key: weights[our_name(key)] for key in bert.state_dict()})
    return bert


def our_name(key: str) -> str:
    """``bert.encoder.layer.0.output.dense.bias`` -> ``encoder.layers.0.mlp.fc2.bias``."""
    name = LAYOUT.translate(key)
    assert name is not None, key
    return name


def wrapped(model: TextModel, config: Config) -> nn.Module:
    """The model with the tactic put in by peft; it takes ``input_ids`` and ``attention_mask``.

    Raises:
        ValueError: LoRA's targets are not names that can be handed over.
    """
    classify, length = peft.TaskType.SEQ_CLS, config.length
    method: peft.PeftConfig
    match config.tactic:
        case "lora":
            method = peft.LoraConfig(
                task_type=classify,
                r=config.rank,
                lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number will do
                lora_dropout=config.lora_dropout,
                target_modules=_pattern(config.targets),
            )
        case "ia3":
            layers = ("k_proj", "v_proj", "fc2")
            method = peft.IA3Config(
                task_type=classify, target_modules=_pattern(layers), feedforward_modules=_pattern(layers[2:])
            )
        case "prompt":
            method = peft.PromptTuningConfig(
                task_type=classify, num_virtual_tokens=length, prompt_tuning_init="SAMPLE_VOCAB"
            )
        case "p_tuning":
            method = peft.PromptEncoderConfig(
                task_type=classify, num_virtual_tokens=length, encoder_hidden_size=config.hidden
            )
        case "prefix":
            method = peft.PrefixTuningConfig(
                task_type=classify, num_virtual_tokens=length, prefix_projection=True, encoder_hidden_size=config.hidden
            )
        case _:
            method = peft.PrefixTuningConfig(task_type=classify, num_virtual_tokens=length)  # peft's P-tuning v2
    return peft.get_peft_model(handed_over(model), method)


def _pattern(targets: tuple[str, ...]) -> str:
    """peft's regular expression for layers that are called by our last names, such as ``q_proj``."""
    parts = {ours.rpartition(".")[2]: name for name, ours in LAYOUT.parts.items()}
    theirs = {name: part for name, part in parts.items() if "norm" not in name}
    if unknown := [target for target in targets if target not in theirs]:
        raise ValueError(
            f"targets: {unknown[0]!r} cannot go to peft: choose among {', '.join(theirs)}, or library ours"
        )
    return rf".*\.layer\.\d+\.({'|'.join(re.escape(theirs[target]) for target in targets)})"
