"""Text encoders of transformers into the course's: BERT, RoBERTa, ELECTRA and DistilBERT, which differ in little.

=============  =====================================================================================================
RoBERTa        counts positions from the padding's id on: the first rows of its table are never read, and left out
ELECTRA        may embed in fewer numbers than its width, behind which stands a projection
DistilBERT     has no token types; a table of one row of zeros says the same
=============  =====================================================================================================

Sources: Liu et al. 2019, arXiv:1907.11692; Clark et al. 2020, arXiv:2003.10555; Sanh et al. 2019, arXiv:1910.01108.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from course_utils.models.checkpoint_files import Source
from course_utils.models.layouts import TEXT_LAYOUTS, Layout
from course_utils.models.loading import (
    choose_classes,
    choose_heads,
    fill,
    from_transformers_config,
    from_weights,
    read,
    translate,
)
from course_utils.models.text import TextConfig, TextModel

# Of BERT's own two sizes; small text models differ: 384 numbers are split over 6 heads or over 12.
TEXT_HEADS = {768: 12, 1024: 16}
MODEL_TYPES = {  # config.json's word for the architecture -> whose names its parameters have
    "bert": "transformers",
    "roberta": "RoBERTa",
    "xlm-roberta": "RoBERTa",
    "camembert": "RoBERTa",
    "electra": "ELECTRA",
    "distilbert": "DistilBERT",
}
DISTIL_KEYS = {  # DistilBERT's config has words of its own
    "n_heads": "num_attention_heads",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "activation": "hidden_act",
    "seq_classif_dropout": "classifier_dropout",
}


def load_text(
    source: Source,
    *,
    num_classes: int | None = None,
    replace_head: bool = False,
    heads: int | None = None,
    ignore: Collection[str] = ("cls.",),
    **changes: Any,
) -> TextModel:
    """A :class:`TextModel` in float32 with the weights of an encoder of transformers, or of this course.

    Arguments and errors are those of :func:`~course_utils.models.loading.load_vit`, but for these:

    Args:
        num_classes: a checkpoint without a head gets a fresh one, also without ``replace_head``. ELECTRA and DistilBERT
            have heads with another activation than this model's: theirs are never taken over.
        ignore: by default BERT's two pre-training heads; those of the others are left out as well.
        changes: other fields of :class:`TextConfig`; ``pool="mean", pooler=False`` leaves the checkpoint's pooler out.
    """
    state, said, where = read(source, ignore)
    kind = _kind(said, where)
    if kind == "DistilBERT":
        said = {DISTIL_KEYS.get(key, key): value for key, value in said.items()}
    for key in [key for key in state if key.endswith("embeddings.position_ids")]:
        numbers = state.pop(key).flatten()  # this model counts its positions itself
        if not torch.equal(numbers, torch.arange(len(numbers))):
            raise ValueError(f"{where} numbers its positions otherwise than 0, 1, 2, ...: it is no BERT")
    layouts = TEXT_LAYOUTS if kind is None else {name: TEXT_LAYOUTS[name] for name in (kind, "this course")}
    layout = next((each for each in layouts.values() if each.fits(state)), None)
    if layout is not None:
        state = _without_their_heads(state, layout, fresh=bool(num_classes), where=where)
    _, weights = translate(state, layouts, "BERT", where)
    assert layout is not None  # translate has refused what fits none
    if not said and layout is TEXT_LAYOUTS["transformers"] and len(weights.get("token_type_embedding.weight", ())) == 1:
        raise ValueError(
            f"{where} may be a BERT or a RoBERTa, which count their positions differently, and nothing tells which: "
            "give the folder with its config.json"
        )
    if "word_embedding.weight" in weights and layout is TEXT_LAYOUTS["DistilBERT"]:
        weights["token_type_embedding.weight"] = torch.zeros(1, weights["word_embedding.weight"].shape[1])
    told = {**_from_text_weights(weights, where), **_from_text_config(said, where)}
    if layout is TEXT_LAYOUTS["RoBERTa"]:
        told["pad_token"] = told.get("pad_token", 1)
        weights["position_embedding.weight"] = weights["position_embedding.weight"][told["pad_token"] + 1 :].clone()
        told["max_length"] = len(weights["position_embedding.weight"])
    told["heads"] = choose_heads(heads or told.get("heads"), told["width"], TEXT_HEADS, where)
    replace_head = replace_head or bool(num_classes and not told["num_classes"])
    told["num_classes"] = choose_classes(told["num_classes"], num_classes, replace_head, where)
    config = replace(TextConfig(**told), **changes)
    if not config.pooler:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    return fill(TextModel, config, weights, replace_head, where)


def _kind(said: Mapping[str, Any], where: str) -> str | None:
    """Whose names are to be expected, or None where nothing says it."""
    if (name := said.get("model_type")) is None:
        return None
    if name not in MODEL_TYPES:
        raise ValueError(
            f"{where}: config.json says model_type {name!r}, and this encoder reads {', '.join(MODEL_TYPES)}: choose "
            "such a base, for Chinese bert-base-chinese; a model that goes on with a text, such as a GPT or a Llama, "
            "belongs to another project"
        )
    return MODEL_TYPES[name]


def _without_their_heads(state: dict[str, Tensor], layout: Layout, *, fresh: bool, where: str) -> dict[str, Tensor]:
    """Without pre-training heads; and without a head that computes otherwise, if a fresh one is wanted."""
    state = {key: tensor for key, tensor in state.items() if not key.startswith(layout.pretraining)}
    if not fresh and (theirs := [key for key in state if key.startswith(layout.foreign_head)]):
        raise ValueError(
            f"{where} has a head with another activation than this model's ({theirs[0]}): pass num_classes= for a "
            "fresh one in its place"
        )
    return {key: tensor for key, tensor in state.items() if not key.startswith(layout.foreign_head)}


def _from_text_weights(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    tables = {"vocab_size": "word_embedding", "max_length": "position_embedding", "token_types": "token_type_embedding"}
    # The tables may be narrower than the model (ELECTRA); the first layer is as wide as it is.
    needed = [f"{table}.weight" for table in tables.values()]
    told = from_weights(weights, "encoder.layers.0.norm1.weight", 0, needed, where)
    embedded = weights["word_embedding.weight"].shape[1]
    return told | {
        **{field: len(weights[f"{table}.weight"]) for field, table in tables.items()},
        "embedding_width": None if embedded == told["width"] else embedded,
        "norm_first": "norm.weight" in weights,
        "pooler": any(name.startswith("pooler.") for name in weights),
    }


def _from_text_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What ``config.json`` of transformers says beyond the weights."""
    if not config:
        return {}
    said = from_transformers_config(config, (*MODEL_TYPES, None), 0.1, where)
    if (positions := config.get("position_embedding_type") or "absolute") != "absolute":
        raise ValueError(
            f'{where}: config.json says position_embedding_type {positions!r}, and only "absolute" is read'
        )
    if config.get("is_decoder"):
        raise ValueError(f"{where}: config.json describes a decoder (is_decoder), and this is an encoder: take one")
    pad = config.get("pad_token_id")
    said["head_dropout"] = config.get("classifier_dropout")
    return said | {"pad_token": {"RoBERTa": 1}.get(str(_kind(config, where)), 0) if pad is None else pad}
