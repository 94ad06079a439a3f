"""Tuning few parameters: methods written from scratch, wrapped round the layers of any torch module."""

from course_utils.tuning.bottleneck import HOULSBY_PLACES, PFEIFFER_PLACES, Bottleneck, BottleneckAdapter
from course_utils.tuning.files import load, save
from course_utils.tuning.ia3 import IA3
from course_utils.tuning.inject import count_parameters, fold, inject, merge, set_adapter, unload, unmerge
from course_utils.tuning.layer import Adapter, Method, TunedLayer
from course_utils.tuning.lora import LoRA, LowRank
from course_utils.tuning.names import fingerprint, tuned_layers
from course_utils.tuning.p_tuning import PromptEncoder, PTuning, PTuningV2
from course_utils.tuning.prefix import KeysAndValues, Prefix, PrefixedAttention, PrefixEncoder
from course_utils.tuning.soft_prompt import Prompt, SoftPrompt, nearest_words

__all__ = [
    "HOULSBY_PLACES",
    "IA3",
    "PFEIFFER_PLACES",
    "Adapter",
    "Bottleneck",
    "BottleneckAdapter",
    "KeysAndValues",
    "LoRA",
    "LowRank",
    "Method",
    "PTuning",
    "PTuningV2",
    "Prefix",
    "PrefixEncoder",
    "PrefixedAttention",
    "Prompt",
    "PromptEncoder",
    "SoftPrompt",
    "TunedLayer",
    "count_parameters",
    "fingerprint",
    "fold",
    "inject",
    "load",
    "merge",
    "nearest_words",
    "save",
    "set_adapter",
    "tuned_layers",
    "unload",
    "unmerge",
]
