"""The checks of fine-tuning a Vision Transformer."""

from course_utils.exercises.vit_fine_tuning.choosing import check_report_best
from course_utils.exercises.vit_fine_tuning.losses import check_mean_loss
from course_utils.exercises.vit_fine_tuning.rates import check_layer_rates

__all__ = ["check_layer_rates", "check_mean_loss", "check_report_best"]
