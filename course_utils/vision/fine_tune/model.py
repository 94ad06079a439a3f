"""A pretrained ViT of ours, of transformers or of timm with a new head: one interface, ``model(images) -> logits``.

Whatever the library, the head has exactly the classes that were asked for, and everything but the head comes from the
checkpoint. Both are checked, because each library has a way to go on without.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from course_utils.models import ViT, load_vit
from course_utils.models.embedded_vit import STATISTICS, load_embedded_vit
from course_utils.models.vit_config import pair
from course_utils.tuning import LoRA, inject
from course_utils.vision.fine_tune.config import FineTune

Library = Literal["ours", "transformers", "timm"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel, pixels from 0 to 1
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the original ViT checkpoints': pixels from -1 to 1

# Where each library keeps the head, and the number of a layer in the names of its parameters.
HEADS = {"ours": "head", "transformers": "classifier", "timm": "head"}
LAYERS = {
    "ours": r"encoder\.layers\.(\d+)\.",
    "transformers": r"vit\.(?:encoder\.)?layers?\.(\d+)\.",
    "timm": r"blocks\.(\d+)\.",
}
LAST = ("norm.", "fc_norm.", "vit.layernorm.")  # behind the last layer


class Classifier(nn.Module):
    """A ViT and what fine-tuning has to know of it.

    Args:
        model: the library's own model.
        library: whose.
        classes: outputs that its head must have.
        image_size: (height, width) it takes.
        statistics: mean and deviation of pixels that it was trained with; they belong to the weights.

    Raises:
        ValueError: the head has another number of outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        library: Library,
        classes: int,
        image_size: tuple[int, int],
        statistics: Statistics = HALF,
    ) -> None:
        super().__init__()
        self.model, self.library, self.classes = model, library, classes
        self.image_size, self.statistics = image_size, statistics
        self.head_name = f"model.{HEADS[library]}"
        found = getattr(self.get_submodule(self.head_name), "out_features", 0)
        if found != classes:
            raise ValueError(
                f"the model has a head for {found} classes, and the data have {classes}: ask for num_classes={classes} "
                "where it is built (num_labels= in transformers)"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]``, normalised with :attr:`statistics`, to logits ``[B, classes]``. Grey images reach a
        model of colour images three times over."""
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        output = self.model(images)
        return output if isinstance(output, Tensor) else output.logits  # transformers returns more than the logits

    @property
    def channels(self) -> int:
        """Of the images it was trained on: 3 for colour, 1 for grey."""
        return next(module.in_channels for module in self.modules() if isinstance(module, nn.Conv2d))

    @property
    def depth(self) -> int:
        """The number of encoder layers."""
        return max(self.place(name) for name, _ in self.named_parameters()) - 1

    def place(self, name: str) -> int:
        """How far a parameter is from the image: 0 for patches, tokens and positions, 1 for the first layer, and so on;
        behind the last layer (norm and head) one more."""
        bare = name.removeprefix("model.")
        if layer := re.match(LAYERS[self.library], bare):
            return int(layer[1]) + 1
        if bare.startswith((*LAST, HEADS[self.library] + ".")):
            numbers = (re.match(LAYERS[self.library], n) for n, _ in self.model.named_parameters())
            return max(int(found[1]) for found in numbers if found) + 2
        return 0


def prepare(model: Classifier, config: FineTune) -> None:
    """Choose what trains: everything, the head, or LoRA and the head."""
    if config.tactic != "full":
        method = LoRA(rank=config.rank, alpha=config.alpha) if config.tactic == "lora" else None
        inject(model, method, config.targets if method else (), train=[model.head_name])


def build(config: FineTune, classes: int, *, pretrained: bool = True) -> Classifier:
    """The base of a configuration with a fresh head. Raises as :func:`load_classifier`."""
    size = config.image_size
    return load_classifier(config.base, classes, library=config.library, image_size=size, pretrained=pretrained)


def load_classifier(
    base: str = "embedded",
    classes: int = 10,
    *,
    library: Library = "ours",
    image_size: int | None = None,
    pretrained: bool = True,
) -> Classifier:
    """A pretrained ViT with a fresh head, drawn from torch's generator.

    Args:
        base: ``"embedded"``; a file or folder; or the name of a model on the hub, such as
            ``"google/vit-base-patch16-224"`` (ours, transformers) or ``"vit_base_patch16_224"`` (timm).
        image_size: pixels, if they shall not be those the base was trained for; positions are interpolated.
        pretrained: False keeps the base's shape and draws all weights anew.

    Raises:
        FileNotFoundError, OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: it is broken, incomplete or of another kind.
    """
    model: Any
    statistics: Statistics
    if base == "embedded":
        if library != "ours":
            raise ValueError(f"the embedded base is a model of ours, not of {library}: name another base")
        model = load_embedded_vit(classes, **({} if image_size is None else {"image_size": image_size}))
        size, statistics = pair(model.config.image_size), STATISTICS
    elif library == "ours":
        model = load_vit(base, num_classes=classes, replace_head=True, image_size=image_size)
        size, statistics = pair(model.config.image_size), _said_statistics(base)
    elif library == "transformers":
        model = _from_transformers(base, classes, image_size)
        size, statistics = _pair(model.config.image_size), _said_statistics(base)
    else:
        model = _from_timm(base, classes, image_size)
        said = model.pretrained_cfg
        size, statistics = model.patch_embed.img_size, (tuple(said["mean"]), tuple(said["std"]))
    if not pretrained:
        model = _drawn_anew(model)
    return Classifier(model, library, classes, size, statistics)


def _from_transformers(base: str, classes: int, image_size: int | None) -> nn.Module:
    import transformers

    with _quiet():
        try:
            loaded: Any = transformers.ViTForImageClassification.from_pretrained(
                base, num_labels=classes, ignore_mismatched_sizes=True, output_loading_info=True
            )
        except OSError as error:
            raise OSError(
                f"{base!r} is no model that transformers can load ({_first_line(error)}): check the path, or the name "
                "and the network"
            ) from None
        except Exception as error:  # a broken file raises whatever its reader does
            raise ValueError(
                f"{base!r} cannot be read by transformers ({_first_line(error)}): fetch it again"
            ) from None
    model, report = loaded
    replaced = {key for key, *_ in report["mismatched_keys"]} | set(report["missing_keys"])
    if strange := sorted(key for key in replaced if not key.startswith("classifier.")):
        raise ValueError(
            f"{base!r} did not fill {len(strange)} weights, {strange[0]} among them, which would stay random: it is no "
            "checkpoint of this ViT"
        )
    if image_size not in (None, model.config.image_size):
        raise ValueError(
            f"{base!r} takes {model.config.image_size} pixels and image_size is {image_size}: leave it out, or choose "
            "library ours, which interpolates the positions when it loads"
        )
    return model


def _from_timm(base: str, classes: int, image_size: int | None) -> nn.Module:
    import timm

    name = f"local-dir:{base}" if Path(base).is_dir() else base
    more: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    with _quiet():
        try:
            model = timm.create_model(name, pretrained=True, num_classes=classes, **more)
        except Exception as error:  # timm and the hub's client have a dozen kinds
            raise OSError(
                f"{base!r} is no model that timm can load ({_first_line(error)}): check the path, or the name and "
                "the network"
            ) from None
    if not hasattr(model, "blocks"):
        raise ValueError(f"{base!r} is a {type(model).__name__}, expected a Vision Transformer of timm")
    return model


def _said_statistics(base: str) -> Statistics:
    """What the files beside the checkpoint say, in the way of transformers or of timm; the original models' where
    there are none."""
    folder = Path(base) if Path(base).exists() else _files_on_hub(base)
    for name, mean, std in (("preprocessor_config.json", "image_mean", "image_std"), ("config.json", "mean", "std")):
        if (file := folder / name).is_file():
            said = json.loads(file.read_text(encoding="utf-8"))
            said = said.get("pretrained_cfg", said)
            if mean in said and std in said:
                return tuple(said[mean]), tuple(said[std])
    return HALF


def _files_on_hub(name: str) -> Path:
    """The cached folder of a model on the hub, with its ``preprocessor_config.json`` if it has one."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(name, "preprocessor_config.json")).parent
    except LocalEntryNotFoundError:  # no network, and it was not fetched before
        raise OSError(
            f"the mean and deviation of the pixels of {name!r} could not be fetched from the Hugging Face Hub: check "
            "the network, or download the model with its preprocessor_config.json and give its folder"
        ) from None
    except EntryNotFoundError:
        return Path(huggingface_hub.hf_hub_download(name, "config.json")).parent


def _drawn_anew(model: nn.Module) -> nn.Module:
    """The same shape with fresh weights, as its library draws them."""
    if isinstance(model, ViT):
        return ViT(model.config)
    if hasattr(model, "blocks"):
        model.init_weights()  # type: ignore[operator]
        return model
    return type(model)(model.config)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the table of replaced weights and the progress bars; what they say is checked instead."""
    import transformers

    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]
