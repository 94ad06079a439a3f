"""Pipeline parallelism: every rank holds some layers; micro-batches pass through them by a schedule."""

from course_utils.pipeline.pipeline import Pipeline, on_one_clock
from course_utils.pipeline.stages import Stage, split_into_stages

__all__ = ["Pipeline", "Stage", "on_one_clock", "split_into_stages"]
