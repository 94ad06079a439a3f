"""Data: image sets in memory and batches of them, and headlines with their labels."""

from course_utils.data.images import Images, batches, channel_statistics, crop_and_flip, hold_out, load_images
from course_utils.data.news import LABELS, Title, describe_titles, index_to_label, label_to_index, load_titles

__all__ = [
    "LABELS",
    "Images",
    "Title",
    "batches",
    "channel_statistics",
    "crop_and_flip",
    "describe_titles",
    "hold_out",
    "index_to_label",
    "label_to_index",
    "load_images",
    "load_titles",
]
