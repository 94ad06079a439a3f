"""The project: Vision Transformers trained, from weights that somebody else trained and from none.

Fine-tuning runs with no argument at all, on the images and the model that come with the course::

    python -m course_utils.vision.fine_tune                  # every key of FineTune is an option, --tactic lora
    python -m course_utils.vision.fine_tune --data cifar10 --data-dir PATH --base google/vit-base-patch16-224

To be read in this order: ``config`` (what can be chosen), ``classifier`` (one interface to three libraries' models),
``new_images``, ``rates`` (a learning rate for each layer), ``fine_tune``. Import from these modules.

From scratch, on any number of processes::

    python -m course_utils.vision.train_ddp                  # every key of FromScratch is an option, --preset deit
    torchrun --nproc-per-node 4 -m course_utils.vision.train_ddp --data cifar10 --data-dir PATH --preset compact

Here the order is ``recipes`` (what can be chosen), ``assembly`` (a recipe made concrete), ``together`` (what processes
do as one), ``runs`` and ``state`` (their files), ``train_ddp``.
"""
