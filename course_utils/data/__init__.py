"""Data: image sets in memory and batches of them, and headlines with their labels."""

from course_utils.data.image_sets import IMAGE_SETS, NAMES, ImageSet, image_set
from course_utils.data.image_tensors import Images, channel_statistics
from course_utils.data.images import Splits, batches, hold_out, load_images, load_splits
from course_utils.data.loading import prefetched
from course_utils.data.news import LABELS, Title, describe_titles, index_to_label, label_to_index, load_titles
from course_utils.data.transforms import (
    chain,
    crop_and_flip,
    erase,
    from_torchvision,
    mixup_cutmix,
    rand_augment,
)

__all__ = [
    "IMAGE_SETS",
    "LABELS",
    "NAMES",
    "ImageSet",
    "Images",
    "Splits",
    "Title",
    "batches",
    "chain",
    "channel_statistics",
    "crop_and_flip",
    "describe_titles",
    "erase",
    "from_torchvision",
    "hold_out",
    "image_set",
    "index_to_label",
    "label_to_index",
    "load_images",
    "load_splits",
    "load_titles",
    "mixup_cutmix",
    "prefetched",
    "rand_augment",
]
