"""Data: image sets in memory and batches of them."""

from course_utils.data.images import Images, batches, channel_statistics, crop_and_flip, hold_out, load_images

__all__ = ["Images", "batches", "channel_statistics", "crop_and_flip", "hold_out", "load_images"]
