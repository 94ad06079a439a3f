"""What a run holds, sends and takes, on paper: counted before it runs, for any model and machine.

``layer`` and ``decoder`` say what a model is made of, ``config`` reads its sizes, ``transformer`` has those that people
train and their FLOPs, ``activations`` what is kept for backward, ``memory`` bytes per parameter, ``machines`` GPUs,
``plan`` how a model is trained, ``planner`` what then fills a GPU. What is sent, and how long a step takes, is in
:mod:`course_utils.hybrid`. ``python -m course_utils.plan`` prints it all.
"""
