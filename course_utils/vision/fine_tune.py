"""Fine-tune a pretrained ViT on new images: the epoch is chosen on held-out images, the test images are looked at once.

::

    python -m course_utils.vision.fine_tune --tactic lora --per-class 50
    python -m course_utils.vision.fine_tune --config run.yaml
    python -m course_utils.vision.fine_tune --data cifar10 --data-dir PATH --base google/vit-base-patch16-224 \\
        --lr 5e-5 --head-lr 1e-3 --layer-decay 0.75 --batch-size 128

The folder ``output`` then holds ``best.safetensors``, what was trained, and ``history.json``.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from course_utils.data import Images
from course_utils.files import atomic_write
from course_utils.runtime import device as find_device
from course_utils.runtime import seed_everything
from course_utils.training import Metrics, Precision, checkpoint, evaluate, make_scaler, train
from course_utils.tuning import LoRA, inject
from course_utils.vision.classifier import Classifier, load_classifier
from course_utils.vision.config import FineTune
from course_utils.vision.new_images import Data, augmentation, load_data, view
from course_utils.vision.rates import cosine_of_each, layer_groups

log = logging.getLogger("course_utils.vision")
BEST = "best.safetensors"


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        trainable, total: numbers of parameters.
        best_epoch: counted from 1, the first of the best validation accuracies.
        validation: after that epoch.
        test: of the same weights; the test images were looked at this once.
        history: of each epoch: training loss, validation loss and accuracy, seconds of training.
    """

    trainable: int
    total: int
    best_epoch: int
    validation: Metrics
    test: Metrics
    history: list[dict[str, float]]


def prepare(model: Classifier, config: FineTune) -> None:
    """Choose what trains: everything, the head, or LoRA and the head."""
    if config.tactic != "full":
        method = LoRA(rank=config.rank, alpha=config.alpha) if config.tactic == "lora" else None
        inject(model, method, config.targets if method else (), train=[model.head_name])


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """BF16 on a GPU that has it, FP16 (with loss scaling) on an older one, FP32 on a CPU, unless told otherwise."""
    if wanted != "auto":
        return wanted  # type: ignore[return-value]
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def fit(model: Classifier, data: Data, config: FineTune) -> Result:
    """Train, choose the epoch on the validation images, go back to it, and look at the test images once."""
    prepare(model, config)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    counts = sum(p.numel() for p in trained.values()), sum(p.numel() for p in model.parameters())
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for first, last in _stages(config):  # the head alone, if wanted, and then everything
        _wake(trained, model, head_alone=last == config.head_epochs)
        parts = _optimizer(model, config, steps=(last - first) * _steps(data, config))
        for epoch in range(first, last):
            row = one_epoch(model, data, config, epoch, *parts)
            if row["validation_accuracy"] > max((h["validation_accuracy"] for h in history), default=-1.0):
                best = {name: parameter.detach().clone() for name, parameter in trained.items()}
            history.append(row)
    _wake(trained, model, head_alone=False)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(best[name])
    chosen = max(history, key=lambda row: row["validation_accuracy"])  # of several, the first
    validation = Metrics(chosen["validation_loss"], chosen["validation_accuracy"], len(data.validation))
    return Result(*counts, int(chosen["epoch"]), validation, measure(model, data.test, config), history)


def one_epoch(
    model: Classifier,
    data: Data,
    config: FineTune,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """All training images once, then the validation images: a row of the history."""
    options = {"shuffle": True, "seed": config.seed, "epoch": epoch, "augment": augmentation(config, data.train)}
    run = train(
        model,
        lambda _: view(data.train, config.batch_size, model, **options),
        optimizer,
        steps=_steps(data, config),
        scheduler=scheduler,
        scaler=scaler,
        precision=choose_precision(config.precision, _device(model)),
        clip=config.clip,
        loss_fn=partial(F.cross_entropy, label_smoothing=config.smoothing),
    )
    found = measure(model, data.validation, config)
    row = {"epoch": epoch + 1, "loss": sum(run.loss) / len(run.loss), "seconds": run.seconds[-1]}
    row |= {"validation_loss": found.loss, "validation_accuracy": found.accuracy}
    log.info(", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return row


def measure(model: Classifier, images: Images, config: FineTune) -> Metrics:
    """Loss and accuracy, under the precision that was trained."""
    return evaluate(model, view(images, 512, model), precision=choose_precision(config.precision, _device(model)))


def _stages(config: FineTune) -> list[tuple[int, int]]:
    """First epoch and end of each stage: the head alone, if asked for, and then everything."""
    edges = sorted({0, config.head_epochs, config.epochs})
    return list(itertools.pairwise(edges))


def _steps(data: Data, config: FineTune) -> int:
    """Of an epoch; the last batch may be smaller."""
    return -(-len(data.train) // config.batch_size)


def _optimizer(
    model: Classifier, config: FineTune, steps: int
) -> tuple[torch.optim.AdamW, LambdaLR, torch.amp.GradScaler]:
    rates = {"head_lr": config.head_lr, "layer_decay": config.layer_decay}
    optimizer = torch.optim.AdamW(layer_groups(model, config.rate, weight_decay=config.weight_decay, **rates))
    scheduler = cosine_of_each(optimizer, steps=steps, warmup=int(config.warmup * steps))
    device = _device(model)
    return optimizer, scheduler, make_scaler(choose_precision(config.precision, device), device)


def _device(model: Classifier) -> torch.device:
    return next(model.parameters()).device


def _wake(trained: dict[str, nn.Parameter], model: Classifier, *, head_alone: bool) -> None:
    for name, parameter in trained.items():
        parameter.requires_grad_(name.startswith(model.head_name + ".") or not head_alone)


def run(config: FineTune) -> Result:
    """The whole run from its configuration, files and all.

    Raises:
        FileNotFoundError, OSError: base or data are not there, or nothing can be written.
        ValueError: either is broken or does not fit, or there is a run in the folder already.
    """
    best = config.folder / BEST
    if best.exists() and not config.overwrite:
        raise ValueError(f"{config.folder} holds a run already: replace it (--overwrite) or choose another --output")
    seed_everything(config.seed)
    data = load_data(config)
    model = load_classifier(
        config.base,
        data.classes,
        library=config.library,
        image_size=config.image_size,
        pretrained=config.start == "pretrained",
    ).to(find_device())
    result = fit(model, data, config)
    config.folder.mkdir(parents=True, exist_ok=True)
    extra = {"classes": list(data.train.classes), "validation_accuracy": result.validation.accuracy}
    checkpoint.save(best, model=_trained(model), config=config.model_dump(), extra=extra)
    with atomic_write(config.folder / "history.json", "w") as file:
        json.dump(asdict(result), file, indent=1)
    return result


def open_run(folder: str | Path) -> tuple[Classifier, tuple[str, ...]]:
    """The model of a run, ready to predict, and the names of its classes.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its file is broken, or the base has changed since.
    """
    path = Path(folder) / BEST
    if not path.exists():
        raise FileNotFoundError(
            f"there is no run {folder}: train one with python -m course_utils.vision.fine_tune, or name its folder"
        )
    found = checkpoint.load(path)
    config = FineTune.checked(found.config, str(path))
    classes = tuple(found.extra["classes"])
    model = load_classifier(config.base, len(classes), library=config.library, image_size=config.image_size)
    prepare(model, config)
    checkpoint.load(path, model=_trained(model))
    return model.eval(), classes


def _trained(model: Classifier) -> nn.ParameterDict:
    """What trains, by name: all that a file has to hold. (A ParameterDict allows no dots.)"""
    return nn.ParameterDict({n.replace(".", "/"): p for n, p in model.named_parameters() if p.requires_grad})


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        config = FineTune.from_command_line(arguments, "Fine-tune a Vision Transformer on a set of images.")
        result = run(config)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    log.info(
        "%s of %s parameters trained; best epoch %d: validation accuracy %.4f; test accuracy %.4f of %d images",
        *(f"{result.trainable:,}", f"{result.total:,}", result.best_epoch, result.validation.accuracy),
        *(result.test.accuracy, result.test.samples),
    )


if __name__ == "__main__":
    main()
