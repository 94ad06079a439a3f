"""The project: Vision Transformers trained, from weights that somebody else trained and from none.

Fine-tuning and training from scratch run with no argument at all, on the images and the model that come with the
course; every key of ``FineTune`` and ``FromScratch`` is an option::

    python -m course_utils.vision.fine_tune.train --tactic lora
    python -m course_utils.vision.from_scratch.train --preset deit
    torchrun --nproc-per-node 4 -m course_utils.vision.from_scratch.train --data cifar10 --data-dir PATH

Both folders are read in this order: ``config`` (what can be chosen), ``data``, ``model``, ``optimizer``, ``train``,
``predict``. ``images`` and ``label`` serve both. Import from these modules.
"""
