"""The checks of a Vision Transformer from scratch on many processes."""

from course_utils.exercises.vit_ddp_training.counting import check_global_metrics
from course_utils.exercises.vit_ddp_training.rates import check_rate_at
from course_utils.exercises.vit_ddp_training.sharing import check_my_images

__all__ = ["check_global_metrics", "check_my_images", "check_rate_at"]
