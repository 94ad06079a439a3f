"""One interface to the ViTs of three libraries: the same numbers, a head of the right size, a rate for each layer."""

import json

import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf
from torch import nn

from course_utils.vision.fine_tune.model import Classifier, load_classifier
from course_utils.vision.fine_tune.optimizer import layer_groups

CLASSES = 1000
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two small checkpoints for 1000 classes and 32 x 32 colour images, as transformers and timm write them."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=CLASSES, layer_norm_eps=1e-6)
    theirs = transformers.ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.save_pretrained(root / "transformers")
    (root / "transformers" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]})
    )
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **arguments)
    model.pretrained_cfg |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "input_size": (3, 32, 32)}
    (root / "timm").mkdir()
    save_for_hf(model, str(root / "timm"), model_config={"num_classes": CLASSES}, model_args=arguments)
    return root


def with_head(model: Classifier) -> Classifier:
    """The same head for all: 0.01 in its weights, and the class number as bias."""
    head = model.get_submodule(model.head_name)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, head.weight.numel()).view_as(head.weight))
        head.bias.copy_(torch.arange(head.out_features))
    return model.eval()


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_ours_and_theirs_give_the_same_logits(folders, library):
    torch.manual_seed(1)
    images = torch.randn(3, 3, 32, 32)
    base = str(folders / library)
    ours, theirs = (with_head(load_classifier(base, 7, library=which)) for which in ("ours", library))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)
        assert ours(images).std() > 0.1
    assert (ours.image_size, theirs.image_size) == ((32, 32), (32, 32))
    assert theirs.statistics == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert ours.statistics == theirs.statistics
    assert ours.depth == theirs.depth


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_thousand_way_head_never_survives(folders, library):
    for which in ("ours", library):
        model = load_classifier(str(folders / library), 10, library=which)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    careless = transformers.ViTForImageClassification.from_pretrained(
        str(folders / "transformers"), ignore_mismatched_sizes=True
    )
    assert careless.classifier.out_features == CLASSES  # nothing mismatched, so nothing was replaced
    with pytest.raises(ValueError, match=r"a head for 1000 classes, and the data have 10: ask for num_classes=10"):
        Classifier(careless, "transformers", 10, (32, 32))


@pytest.mark.parametrize("which", ["ours", "transformers", "timm"])
def test_every_parameter_has_its_place(folders, which):
    base = str(folders / ("timm" if which == "timm" else "transformers"))
    model = load_classifier(base, 5, library=which)
    places = {name: model.place(name) for name, _ in model.named_parameters()}
    depth = 2 if which == "timm" else 3
    assert model.depth == depth
    assert set(places.values()) == set(range(depth + 2))
    assert {name.split(".")[1] for name, place in places.items() if place == depth + 1} <= {
        "norm", "head", "vit", "classifier",
    }  # fmt: skip
    first = [name for name, place in places.items() if place == 0]
    assert len(first) == 4, "kernel and bias of the patches, class token, positions"
    # all parameters of one layer stand together, and there are equally many of each
    counts = [sum(place == i for place in places.values()) for i in range(1, depth + 1)]
    assert len(set(counts)) == 1


def test_rates_fall_towards_the_image_and_all_parameters_are_in(folders):
    model = load_classifier(str(folders / "transformers"), 5)
    groups = layer_groups(model, 1e-3, head_lr=0.1, layer_decay=0.5, weight_decay=0.05)
    rate = {name: group["lr"] for group in groups for name, _ in group["params"]}
    decay = {name: group["weight_decay"] for group in groups for name, _ in group["params"]}
    assert rate.keys() == {name for name, _ in model.named_parameters()}
    assert rate["model.head.weight"] == rate["model.head.bias"] == 0.1
    assert rate["model.norm.weight"] == 1e-3
    assert rate["model.encoder.layers.2.mlp.fc1.weight"] == 5e-4
    assert rate["model.encoder.layers.0.mlp.fc1.weight"] == 1.25e-4
    assert rate["model.positions"] == rate["model.patch_embedding.weight"] == 6.25e-5
    assert (decay["model.head.weight"], decay["model.head.bias"], decay["model.class_token"]) == (0.05, 0, 0)


def test_grey_images_reach_a_model_of_colours(folders):
    model = load_classifier(str(folders / "transformers"), 5).eval()
    grey = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_a_base_can_be_drawn_anew(folders):
    for which in ("ours", "transformers", "timm"):
        base = str(folders / ("timm" if which == "timm" else "transformers"))
        model = load_classifier(base, 5, library=which)
        fresh = load_classifier(base, 5, library=which, pretrained=False)
        assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in fresh.named_parameters()}
        matrices = [n for n, p in fresh.named_parameters() if p.dim() == 2]
        assert not any(torch.equal(model.get_parameter(n), fresh.get_parameter(n)) for n in matrices)


def test_what_cannot_be_loaded_is_said(folders, tmp_path):
    torch.save({"a": nn.Linear(2, 2).state_dict()}, tmp_path / "x.bin")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    for file in ("config.json", "model.safetensors"):
        content = (folders / "transformers" / file).read_bytes()
        (tmp_path / "cut" / file).write_bytes(content if file.endswith("json") else content[:1000])
    cases = [
        ({"base": str(tmp_path / "no")}, "there is no file or directory"),
        ({"base": str(tmp_path / "empty")}, "holds none of model.safetensors"),
        ({"base": str(tmp_path / "cut")}, "truncated, damaged or of another kind"),
        ({"base": str(tmp_path / "no"), "library": "transformers"}, "is no model that transformers can load"),
        ({"base": str(tmp_path / "cut"), "library": "transformers"}, "cannot be read by transformers"),
        ({"base": str(tmp_path / "empty"), "library": "timm"}, "is no model that timm can load"),
        ({"base": str(folders / "transformers"), "library": "transformers", "image_size": 64}, "choose library ours"),
        ({"base": "embedded", "library": "timm"}, "the embedded base is a model of ours, not of timm"),
    ]
    for options, words in cases:
        with pytest.raises((ValueError, OSError), match=words):
            load_classifier(**options)


def test_pixel_statistics_come_from_the_hub_with_the_weights(folders, monkeypatch):
    """A guess would be wrong for every checkpoint but the original ones, and in silence."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(folders / "transformers" / file))
    model = load_classifier("somebody/vit", 4)
    assert model.statistics == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))

    def offline(name, file):
        if file == "preprocessor_config.json":
            raise LocalEntryNotFoundError("offline")
        return str(folders / "transformers" / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(OSError, match="mean and deviation of the pixels of 'somebody/vit' could not be fetched"):
        load_classifier("somebody/vit", 4)
