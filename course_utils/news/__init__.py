"""The project: Chinese news titles sorted under 18 labels, by any way of tuning, on any BERT.

Each command runs with no argument at all, on the headlines and the encoder that come with the course::

    python -m course_utils.news.train                 # train; every key of Config is an option, --tactic lora
    python -m course_utils.news.evaluate              # score the run on the test titles
    python -m course_utils.news.predict "补时绝平"    # label titles given here, in a file, or on standard input

To be read in this order: ``config`` (what can be chosen), ``data`` (titles to tensors), ``model`` (encoder, head and
tactic), ``optimizer``, ``train``, ``predict``, ``evaluate``. ``with_peft`` takes the tactics from that library,
``with_deepspeed`` the steps of an epoch from that one, and ``study`` makes the runs that the chapter compares. Import
from these modules: ``from course_utils.news.config import Config``.
"""
