"""The checks of chapter 14, fine-tuning a Vision Transformer."""

from course_utils.exercises.ch14.choosing import check_report_best
from course_utils.exercises.ch14.losses import check_mean_loss
from course_utils.exercises.ch14.rates import check_layer_rates

__all__ = ["check_layer_rates", "check_mean_loss", "check_report_best"]
