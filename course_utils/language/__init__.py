"""The project: a small language model that writes verses, or goes on with any text it was trained on.

Each command runs with no argument at all, on the quatrains that come with the course::

    python -m course_utils.language.train              # train; every key of Config is an option, --text my.txt
    python -m course_utils.language.generate "明月"    # write on, from words given here or from nothing
    python -m course_utils.language.evaluate           # nats a character on held-out texts, and of models that count

To be read in this order: ``config`` (what can be chosen), ``data`` (texts to rows of tokens), ``model`` (the decoder
and its tokenizer), ``optimizer``, ``train``, ``generate`` (the ``predict`` of the other projects), ``ngrams`` (what has
to be beaten), ``evaluate``. Import from these modules: ``from course_utils.language.config import Config``.
"""
