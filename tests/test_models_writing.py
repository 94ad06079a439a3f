"""The course's encoders in the folders of other libraries: opened there, logits equal to 1e-5; and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from test_models_checkpoints import lively
from torch import nn

from course_utils.models import TextConfig, TextModel, ViT, ViTConfig, load_text, load_vit
from course_utils.models.embedded_vit import load_embedded_vit
from course_utils.models.writing import save_text, save_vit

LABELS = ("cat", "狗", "bird")
SIZES: dict[str, Any] = {
    "width": 48, "depth": 2, "heads": 4, "mlp_ratio": 1.5, "image_size": (24, 40), "patch_size": 8, "num_classes": 3,
}  # fmt: skip
GREY = ((0.3,), (0.35,))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def opened(library: str, folder: Path) -> nn.Module:
    if library == "timm":
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return transformers.ViTForImageClassification.from_pretrained(folder).eval()


def assert_opens(model: ViT, library: Any, folder: Path) -> nn.Module:
    """Equal logits there, and when it is read again here."""
    save_vit(model, folder, library, LABELS[: model.config.num_classes], GREY)
    theirs = opened(library, folder)
    x = torch.randn(3, model.config.channels, *model.config.image_size)  # type: ignore[misc]
    with torch.inference_mode():
        wanted = model.eval()(x)
        found = theirs(x)
        torch.testing.assert_close(getattr(found, "logits", found), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(load_vit(folder).eval()(x), wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 0.1
    return theirs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("more", [{}, {"norm_eps": 1e-3, "qkv_bias": False}])
def test_a_vit_is_one_of_transformers(tmp_path: Path, more: dict[str, Any], channels: int) -> None:
    model = ViT(ViTConfig(**SIZES, channels=channels, antialias=False, **more))
    theirs: Any = assert_opens(lively(model), "transformers", tmp_path)  # type: ignore[arg-type]
    assert theirs.config.id2label == dict(enumerate(LABELS))
    said = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert (list(said.image_mean), said.size["width"]) == ([0.3], 40)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pool": "mean", "class_token": False},
        {"pool": "mean"},
        {"registers": 2, "class_position": False, "qkv_bias": False},
    ],
)
def test_a_vit_is_one_of_timm(tmp_path: Path, more: dict[str, Any], channels: int) -> None:
    model = ViT(ViTConfig(**SIZES, channels=channels, **more))
    theirs: Any = assert_opens(lively(model), "timm", tmp_path)  # type: ignore[arg-type]
    assert list(theirs.pretrained_cfg["mean"]) == [0.3]
    assert theirs.pretrained_cfg["label_names"] == list(LABELS)


@pytest.mark.parametrize(
    ("library", "more", "words"),
    [
        ("transformers", {"pool": "mean"}, "choose library timm"),
        ("transformers", {"registers": 1}, "choose library timm"),
        ("timm", {"norm_eps": 1e-12}, "choose transformers"),
        ("timm", {"norm_first": False}, "pre-norm"),
        ("timm", {"num_classes": 2}, "2 outputs and there are 3 labels"),
    ],
)
def test_what_a_library_cannot_compute_is_refused(
    tmp_path: Path, library: Any, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        save_vit(ViT(ViTConfig(**{**SIZES, **more})), tmp_path / "out", library, LABELS, GREY)
    assert not (tmp_path / "out").exists()


def test_the_embedded_vit_leaves_for_timm(tmp_path: Path) -> None:
    """It reads the mean of its patches, which transformers' does not."""
    assert_opens(load_embedded_vit(3), "timm", tmp_path)
    with pytest.raises(ValueError, match="choose library timm"):
        save_vit(load_embedded_vit(3), tmp_path / "other", "transformers", LABELS, GREY)


def bert(**more: Any) -> TextModel:
    sizes: dict[str, Any] = {"vocab_size": 97, "width": 48, "depth": 2, "heads": 4, "mlp_ratio": 1.5, "max_length": 24}
    model = lively(TextModel(TextConfig(**sizes, num_classes=3, **more)))
    assert isinstance(model, TextModel)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(20) < torch.tensor([20, 3, 11, 1, 19])[:, None]).long()
    return torch.randint(1, 97, (5, 20)), mask


def test_a_bert_with_a_pooler_is_a_classifier_of_transformers(tmp_path: Path) -> None:
    model, (ids, mask) = bert(head_dropout=0.3, pad_token=2), batch()
    save_text(model.state_dict(), model.config, tmp_path, LABELS)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label[1] == "狗"
    assert (theirs.config.classifier_dropout, theirs.config.pad_token_id) == (0.3, 2)
    with torch.inference_mode():
        wanted = model(ids, mask)
        torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask).logits, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(load_text(tmp_path).eval()(ids, mask), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_without_a_pooler_the_head_lies_beside_the_encoder(tmp_path: Path, pool: Any) -> None:
    from safetensors.torch import load_file

    model, (ids, mask) = bert(pool=pool, pooler=False), batch()
    save_text(model.state_dict(), model.config, tmp_path, LABELS)
    theirs = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    head = load_file(tmp_path / "head.safetensors")
    with torch.inference_mode():
        x = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        features = x[:, 0] if pool == "cls" else (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = features @ head["weight"].T + head["bias"]
        torch.testing.assert_close(found, model(ids, mask), rtol=1e-5, atol=1e-5)


def test_what_is_no_bert_is_refused(tmp_path: Path) -> None:
    for more in ({"norm_first": True}, {"embedding_width": 16}):
        model = bert(**more)
        with pytest.raises(ValueError, match="a BERT is post-norm and embeds in its own width"):
            save_text(model.state_dict(), model.config, tmp_path / "out", LABELS)
    assert not (tmp_path / "out").exists()
