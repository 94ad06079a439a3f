"""Tuning few parameters: methods written from scratch, put round the layers of any torch module."""

from course_utils.tuning.adapter import HOULSBY_PLACES, PFEIFFER_PLACES, Bottleneck, BottleneckAdapter
from course_utils.tuning.files import Loaded, load, save
from course_utils.tuning.ia3 import IA3, Factors
from course_utils.tuning.inject import Count, count, inject, merge, switch, unload, unmerge
from course_utils.tuning.layer import Adapter, FullCopy, Injection, Method, TunedLayer
from course_utils.tuning.lora import LoRA, LowRank, LowRankConv2d, LowRankEmbedding, LowRankLinear
from course_utils.tuning.names import fingerprint, tuned_layers

__all__ = [
    "HOULSBY_PLACES",
    "IA3",
    "PFEIFFER_PLACES",
    "Adapter",
    "Bottleneck",
    "BottleneckAdapter",
    "Count",
    "Factors",
    "FullCopy",
    "Injection",
    "LoRA",
    "Loaded",
    "LowRank",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLinear",
    "Method",
    "TunedLayer",
    "count",
    "fingerprint",
    "inject",
    "load",
    "merge",
    "save",
    "switch",
    "tuned_layers",
    "unload",
    "unmerge",
]
