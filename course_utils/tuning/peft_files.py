"""Adapters in the format of the library peft, both ways: ``adapter_config.json`` and ``adapter_model.safetensors``.

What is written opens with ``PeftModel.from_pretrained(model, folder)`` on transformers' BERT with the same base weights
(:func:`course_utils.models.writing.save_text` writes one); what peft wrote there opens here: LoRA, DoRA and
rank-stabilised LoRA, (IA)3, prompts, P-tuning (its prompt, without the network that wrote it) and prefixes. Neither
side runs code to read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from course_utils.files import atomic_write, made_folder
from course_utils.models.layouts import TEXT_LAYOUTS
from course_utils.models.text import TextModel
from course_utils.models.writing import renamed
from course_utils.tuning.ia3 import IA3, Factors
from course_utils.tuning.inject import fold, inject
from course_utils.tuning.layer import FullCopy, Method
from course_utils.tuning.lora import LoRA, LowRank
from course_utils.tuning.names import tuned_layers
from course_utils.tuning.prefix import KeysAndValues, Prefix, ShiftedPositions
from course_utils.tuning.soft_prompt import PromptEmbedding, SoftPrompt

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYOUT = TEXT_LAYOUTS["transformers"]
NOT_READ = {  # options of peft under which an adapter computes something else
    "lora": (
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "use_qalora",
        "alora_invocation_tokens",
        "lora_bias",
    ),
}


def save_peft(model: TextModel, folder: str | Path, base: str, *, name: str = "default") -> Path:
    """Write an adapter of a model as peft would.

    Args:
        model: tuned; networks that write a prompt or a prefix are folded here (:func:`~course_utils.tuning.fold`).
        base: what the base is called: a name on the hub, or a folder.

    Raises:
        ValueError: the model has no such adapter, or peft has none that computes the same.
        OSError: it cannot be written.
    """
    if not any(name in layer.adapters for _, layer in tuned_layers(model)):
        raise ValueError(f"the model has no adapter {name!r}: inject one first")
    fold(model, name)
    layers = {path: layer.adapters[name] for path, layer in tuned_layers(model) if name in layer.adapters}
    injection = next(layer.injections[name] for _, layer in tuned_layers(model) if name in layer.injections)
    config, tensors, inner = _written(model, injection.method, layers)
    heads = {path: adapter for path, adapter in layers.items() if isinstance(adapter, FullCopy)}
    if strange := heads.keys() - {"head"}:
        raise ValueError(f"{min(strange)} is trained in full, and only a head is handed to peft: keep the adapter here")
    for adapter in heads.values():
        tensors |= {f"{inner}classifier.{key}": tensor for key, tensor in adapter.copy.state_dict().items()}
    said = {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": ["classifier"] if heads else None,
        "task_type": "SEQ_CLS",
        **config,
    }
    folder = made_folder(folder)
    own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    with atomic_write(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(own, {"format": "pt"}))
    with atomic_write(folder / CONFIG, "w") as file:
        json.dump(said, file, indent=2)
    return folder


def load_peft(model: TextModel, folder: str | Path) -> list[str]:
    """Put an adapter that peft wrote round a model, as ``inject`` does, with the head that was trained beside it.

    Returns:
        the names of the layers tuned.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: another kind of adapter, or tensors that do not fit the model.
    """
    said, tensors = _read(Path(folder))
    kind = said.get("peft_type")
    bare = {re.sub(r"^base_model\.(model\.)?", "", key): tensor for key, tensor in tensors.items()}
    head = {key.removeprefix("classifier."): bare.pop(key) for key in list(bare) if key.startswith("classifier.")}
    for option in NOT_READ.get(str(kind).lower(), ()):
        if said.get(option):
            raise ValueError(f"{folder} has {option} {said[option]!r}, which is not read here: keep it with peft")
    by_layer = _by_layer(bare)
    method, targets = _method(str(kind), said, bare, by_layer, folder)
    tuned = inject(model, method, targets, train=["head"] if head else ())
    with torch.no_grad():
        for path, layer in tuned_layers(model):
            adapter = layer.adapters["default"]
            if isinstance(adapter, FullCopy):
                adapter.copy.load_state_dict(head)
            elif isinstance(adapter, PromptEmbedding):
                _copy(adapter.prompt, bare["prompt_embeddings"], path)
            elif isinstance(adapter, KeysAndValues):
                number = int(re.findall(r"layers\.(\d+)\.", path)[0])
                rows = bare["prompt_embeddings"].chunk(2 * model.config.depth, dim=1)[2 * number : 2 * number + 2]
                for parameter, values in zip((adapter.keys, adapter.values), rows, strict=True):
                    _copy(parameter, values, path)
            elif isinstance(adapter, LowRank | Factors):
                for key, parameter in _parameters(adapter).items():
                    _copy(parameter, by_layer[path][key].view_as(parameter), path)
    return tuned


def _written(
    model: TextModel, method: Method | None, layers: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """What peft's config says of a method, its tensors, and what stands before the names of the model's own."""
    plain = {path: adapter for path, adapter in layers.items() if not isinstance(adapter, FullCopy)}
    sizes = {
        "num_layers": model.config.depth,
        "num_attention_heads": model.config.heads,
        "token_dim": model.config.embedded_width,
        "num_transformer_submodules": 1,
    }
    if isinstance(method, LoRA | IA3):
        names = {path: _theirs(path) for path in plain}
        more: dict[str, Any]
        tensors: dict[str, Tensor] = {
            f"base_model.model.{names[path]}.{key}": tensor
            for path, adapter in plain.items()
            for key, tensor in _parameters(adapter).items()
        }
        if isinstance(method, IA3):
            tensors = {key: _factors(tensor, plain, names, key) for key, tensor in tensors.items()}
            inputs = [names[path] for path, adapter in plain.items() if adapter.inputs]
            more = {"peft_type": "IA3", "feedforward_modules": inputs, "target_modules": list(names.values())}
        else:
            more = {
                **{"peft_type": "LORA", "r": method.rank, "lora_alpha": method.alpha, "lora_dropout": method.dropout},
                **{"use_rslora": method.rslora, "use_dora": method.dora, "bias": "none", "fan_in_fan_out": False},
                "target_modules": list(names.values()),
            }
        return more, tensors, "base_model.model."
    if isinstance(method, SoftPrompt) and not method.after_first:
        (prompt,) = plain.values()
        more = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": method.length, "prompt_tuning_init": "RANDOM"}
        return more | sizes, {"prompt_embeddings": prompt.prompt}, "base_model."
    if isinstance(method, Prefix):
        if not any(isinstance(adapter, ShiftedPositions) for adapter in plain.values()):
            raise ValueError(
                "transformers' BERT counts positions from the prefix on, and this model from its text: tune with "
                "position_embedding among the targets to share it, or keep it here"
            )
        rows: list[Tensor] = [
            part for each in plain.values() if isinstance(each, KeysAndValues) for part in (each.keys, each.values)
        ]
        more = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": method.length, "prefix_projection": False}
        return more | sizes, {"prompt_embeddings": torch.cat(rows, dim=1)}, "base_model."
    raise ValueError(
        f"peft has nothing for {type(method).__name__}: keep the adapter here, or merge it where it can be"
    )


def _method(
    kind: str, said: Mapping[str, Any], bare: Mapping[str, Tensor], by_layer: Mapping[str, Any], folder: str | Path
) -> tuple[Method, list[str]]:
    """The method of an adapter of peft's, and the layers it goes round."""
    length = len(bare["prompt_embeddings"]) if "prompt_embeddings" in bare else 0
    match kind:
        case "LORA":
            lora = LoRA(
                rank=said["r"],
                alpha=said["lora_alpha"],
                dropout=said.get("lora_dropout", 0.0),
                rslora=said.get("use_rslora", False),
                dora=said.get("use_dora", False),
            )
            return lora, list(by_layer)
        case "IA3":
            inputs = [path for path, parts in by_layer.items() if parts["ia3_l"].shape[0] == 1]
            return IA3(inputs="|".join(map(re.escape, inputs)) or "$^"), list(by_layer)
        case "PROMPT_TUNING" | "P_TUNING" if length:
            return SoftPrompt(length=length, start="random"), ["word_embedding"]
        case "PREFIX_TUNING" if length:
            return Prefix(length=length), ["attention", "position_embedding"]
    raise ValueError(f"{folder} holds an adapter of the kind {kind}, which is not read here: merge it with peft first")


def _parameters(adapter: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of one layer's adapter, by the ends of peft's names."""
    if isinstance(adapter, Factors):
        return {"ia3_l": adapter.factors}
    assert isinstance(adapter, LowRank)
    of_table = type(adapter).__name__ == "LowRankEmbedding"
    found = {"lora_embedding_A": adapter.A, "lora_embedding_B": adapter.B} if of_table else {}
    found = found or {"lora_A.weight": adapter.A, "lora_B.weight": adapter.B}
    return found if adapter.magnitude is None else found | {"lora_magnitude_vector": adapter.magnitude}


def _factors(tensor: Tensor, plain: Mapping[str, Any], names: Mapping[str, str], key: str) -> Tensor:
    """(IA)3's factors as peft keeps them: a row for inputs, a column for outputs."""
    path = next(path for path, theirs in names.items() if f".{theirs}." in key)
    return tensor[None] if plain[path].inputs else tensor[:, None]


def _by_layer(bare: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of layer-wise adapters: our name of the layer -> end of peft's name -> tensor."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bare.items():
        if part := re.fullmatch(r"(.*)\.((?:lora_|ia3_).*)", key):
            ours = LAYOUT.translate(f"{part[1]}.weight")
            if ours is None:
                raise ValueError(f"the adapter tunes {part[1]}, and a BERT of this course has no such layer")
            found.setdefault(ours.removesuffix(".weight"), {})[part[2]] = tensor
        elif key != "prompt_embeddings":
            raise ValueError(f"the adapter holds {key}, which belongs to no method that is read here")
    return found


def _theirs(path: str) -> str:
    """``encoder.layers.0.attention.q_proj`` -> ``bert.encoder.layer.0.attention.self.query``."""
    return next(iter(renamed({f"{path}.weight": torch.empty(0)}, LAYOUT))).removesuffix(".weight")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: give the folder that save_pretrained of peft wrote")
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return said, safetensors.torch.load((folder / WEIGHTS).read_bytes())
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged ({error}): write or download the adapter again") from None


def _copy(parameter: nn.Parameter, values: Tensor, path: str) -> None:
    if parameter.shape != values.shape:
        raise ValueError(
            f"the adapter of {path} has shape {list(values.shape)} where {list(parameter.shape)} is wanted: load it "
            "round the base that it was trained on"
        )
    parameter.copy_(values)
