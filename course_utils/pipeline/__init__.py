"""Pipeline parallelism: every rank holds some layers; micro-batches pass through them by a schedule."""

from course_utils.pipeline.pipeline import Pipeline, on_one_clock
from course_utils.pipeline.stages import cut

__all__ = ["Pipeline", "cut", "on_one_clock"]
