"""Tuning few parameters: methods written from scratch, put round the layers of any torch module."""

from course_utils.tuning.adapter import HOULSBY_PLACES, PFEIFFER_PLACES, Bottleneck, BottleneckAdapter
from course_utils.tuning.files import Loaded, load, save
from course_utils.tuning.ia3 import IA3, Factors
from course_utils.tuning.inject import Count, count, fold, inject, merge, switch, unload, unmerge
from course_utils.tuning.layer import Adapter, FullCopy, Injection, Method, TunedLayer
from course_utils.tuning.lora import LoRA, LowRank, LowRankConv2d, LowRankEmbedding, LowRankLinear
from course_utils.tuning.names import fingerprint, tuned_layers
from course_utils.tuning.p_tuning import PTuning, PTuningV2, WrittenPrompt
from course_utils.tuning.prefix import KeysAndValues, Prefix, PrefixedAttention, WrittenKeysAndValues
from course_utils.tuning.soft_prompt import FreePrompt, Prompt, SoftPrompt, nearest_words

__all__ = [
    "HOULSBY_PLACES",
    "IA3",
    "PFEIFFER_PLACES",
    "Adapter",
    "Bottleneck",
    "BottleneckAdapter",
    "Count",
    "Factors",
    "FreePrompt",
    "FullCopy",
    "Injection",
    "KeysAndValues",
    "LoRA",
    "Loaded",
    "LowRank",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLinear",
    "Method",
    "PTuning",
    "PTuningV2",
    "Prefix",
    "PrefixedAttention",
    "Prompt",
    "SoftPrompt",
    "TunedLayer",
    "WrittenKeysAndValues",
    "WrittenPrompt",
    "count",
    "fingerprint",
    "fold",
    "inject",
    "load",
    "merge",
    "nearest_words",
    "save",
    "switch",
    "tuned_layers",
    "unload",
    "unmerge",
]
