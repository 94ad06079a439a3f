"""Checkpoints of transformers, timm and torchvision: equal logits against each library's own model, no download."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import VisionTransformer as TorchvisionViT

from course_utils.models import ViT, ViTConfig, interpolate_positions, load_vit
from course_utils.models.layouts import VIT_LAYOUTS

WIDTH, DEPTH, HEADS, HIDDEN, CLASSES = 48, 2, 4, 80, 9
Forward = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(model: nn.Module) -> nn.Module:
    """Random weights in which every parameter tells: fresh ones have zero biases and, in torchvision, a zero head."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() in (2, 4) else 0.5)
    return model.eval()


def hugging_face(size: Any = 32, classes: int = CLASSES, **more: Any) -> tuple[nn.Module, Forward]:
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=HIDDEN,
        image_size=size, patch_size=8, num_labels=classes, **more,
    )  # fmt: skip
    model = lively(transformers.ViTForImageClassification(config))
    return model, lambda images: model(pixel_values=images, interpolate_pos_encoding=True).logits


def from_timm(size: Any = 32, classes: int = CLASSES, **more: Any) -> tuple[nn.Module, Forward]:
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": HIDDEN / WIDTH} | more
    model = lively(
        timm.models.vision_transformer.VisionTransformer(img_size=size, patch_size=8, num_classes=classes, **sizes)
    )
    return model, model


def from_torchvision(size: int = 32, classes: int = CLASSES) -> tuple[nn.Module, Forward]:
    model = lively(TorchvisionViT(size, 8, DEPTH, HEADS, WIDTH, HIDDEN, num_classes=classes))
    return model, model


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers 4 called what transformers 5 calls otherwise (as its files on disk still do: see below)."""
    pairs = [
        (".layers.", ".encoder.layer."), (".attention.o_proj.", ".attention.output.dense."),
        (".mlp.fc1.", ".intermediate.dense."), (".mlp.fc2.", ".output.dense."),
        *((f".attention.{w[0]}_proj.", f".attention.attention.{w}.") for w in ("query", "key", "value")),
    ]  # fmt: skip
    renamed = {}
    for key, tensor in state.items():
        for new, old in pairs:
            key = key.replace(new, old)
        renamed[key] = tensor
    return renamed


def assert_equal(ours: nn.Module, theirs: Forward, images: Tensor) -> None:
    with torch.inference_mode():
        expected = theirs(images)
        assert expected.std() > 0.1  # a model that says the same of every image would prove nothing
        torch.testing.assert_close(ours.eval()(images), expected, rtol=1e-5, atol=1e-5)


LIBRARIES = {"transformers": hugging_face, "timm": from_timm, "torchvision": from_torchvision}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("size", [32, 40])
def test_equal_logits(library: str, size: int) -> None:
    model, forward = LIBRARIES[library](size)
    ours = load_vit(model.state_dict(), heads=HEADS)
    assert ours.config.image_size == (size, size)
    assert ours.config.norm_eps == (1e-12 if library == "transformers" else 1e-6)
    assert_equal(ours, forward, torch.randn(3, 3, size, size))


def test_transformers_4_names_in_memory_and_5_names_in_memory_and_on_disk(tmp_path: Path) -> None:
    model, forward = hugging_face()
    model.save_pretrained(tmp_path)
    on_disk = safetensors.torch.load_file(tmp_path / "model.safetensors")
    states = {"on disk": on_disk, "in memory": model.state_dict()}
    if "vit." + VIT_LAYOUTS["transformers 5"].marker in states["in memory"]:
        states["renamed"] = old_names(model.state_dict())
        assert set(states["renamed"]) == set(on_disk)  # so that the names of version 4 are not ours to imagine
    assert len({frozenset(state) for state in states.values()}) == 2
    for state in states.values():
        assert_equal(load_vit(state, heads=HEADS), forward, torch.randn(3, 3, 32, 32))


def test_directory_of_transformers_states_its_config(tmp_path: Path) -> None:
    more = {"layer_norm_eps": 1e-3, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "qkv_bias": False}
    model, _ = hugging_face((24, 40), **more)
    model.save_pretrained(tmp_path)
    ours = load_vit(tmp_path)  # heads, size and epsilon are in config.json
    assert ours.config == ViTConfig(
        width=WIDTH, depth=DEPTH, heads=HEADS, mlp_ratio=HIDDEN / WIDTH, dropout=0.1, attention_dropout=0.2,
        norm_eps=1e-3, qkv_bias=False, image_size=(24, 40), patch_size=(8, 8), num_classes=CLASSES, antialias=False,
    )  # fmt: skip
    with torch.inference_mode():
        images = torch.randn(3, 3, 24, 40)
        torch.testing.assert_close(ours.eval()(images), model(pixel_values=images).logits, rtol=1e-5, atol=1e-5)


def test_epsilon_of_the_library_is_respected_where_it_matters() -> None:
    for library, model_and_forward in ((n, make()) for n, make in LIBRARIES.items()):
        model, forward = model_and_forward
        with torch.no_grad():  # token variance near 1e-6: there the two epsilons part
            for parameter in model.parameters():
                if parameter.dim() in (3, 4):
                    parameter.mul_(1e-3)
        state, images = model.state_dict(), torch.randn(3, 3, 32, 32)
        assert_equal(load_vit(state, heads=HEADS), forward, images)
        other = 1e-6 if library == "transformers" else 1e-12
        wrong = load_vit(state, heads=HEADS, norm_eps=other)
        assert not torch.allclose(wrong(images), forward(images), atol=1e-3)


@pytest.mark.parametrize("antialias", [True, False])
def test_larger_images_interpolate_as_the_library_does(antialias: bool) -> None:
    model, forward = from_timm() if antialias else hugging_face()
    ours = load_vit(model.state_dict(), heads=HEADS, image_size=(64, 48))
    assert ours.config.grid == (8, 6)
    images = torch.randn(2, 3, 64, 48)
    if antialias:  # the positions the model held are stretched once, by timm's own function
        model.set_input_size((64, 48))
    assert_equal(ours, forward, images)
    unchanged = load_vit(model.state_dict(), heads=HEADS, checkpoint_image_size=(64, 48) if antialias else 32)
    torch.testing.assert_close(unchanged(images, interpolate=True), ours(images), rtol=1e-5, atol=1e-5)


def test_224_to_384_equals_timm() -> None:
    from timm.layers import resample_abs_pos_embed

    model = timm.models.vision_transformer.VisionTransformer(224, 16, embed_dim=WIDTH, depth=1, num_heads=HEADS)
    ours = load_vit(model.state_dict(), heads=HEADS, image_size=384)
    assert ours.positions.shape == (1, 577, WIDTH)
    torch.testing.assert_close(ours.positions, resample_abs_pos_embed(model.pos_embed, [24, 24]), rtol=0, atol=0)
    hugging = hugging_face(224)[0].state_dict()
    with_its_curve = load_vit(hugging, heads=HEADS, image_size=384).positions
    table = hugging["vit.embeddings.position_embeddings"]
    assert torch.equal(with_its_curve, interpolate_positions(table, (28, 28), (48, 48), antialias=False))


@pytest.mark.parametrize(
    "more",
    [
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False, "no_embed_class": True, "reg_tokens": 4},
        {"no_embed_class": True, "reg_tokens": 2},
        {"qkv_bias": False},
    ],
)
def test_timm_variants(more: dict[str, Any]) -> None:
    model, forward = from_timm(**more)
    ours = load_vit(model.state_dict(), heads=HEADS, checkpoint_image_size=32)
    assert_equal(ours, forward, torch.randn(3, 3, 32, 32))


@pytest.mark.parametrize(
    ("size", "more"),
    [((24, 40), {}), ((16, 40), {}), (32, {"no_embed_class": True}), ((24, 40), {"no_embed_class": True})],
)
def test_a_grid_that_could_be_another_needs_its_size(size: Any, more: dict[str, Any]) -> None:
    model, forward = from_timm(size, **more)  # 3 x 5 patches and a class token are 16 rows, as many as 4 x 4
    for wrong in (None, 48):
        with pytest.raises(
            ValueError, match=r"positions, which are no square .*checkpoint_image_size=\(height, width\)"
        ):
            load_vit(model.state_dict(), heads=HEADS, checkpoint_image_size=wrong)
    ours = load_vit(model.state_dict(), heads=HEADS, checkpoint_image_size=size)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert_equal(ours, forward, torch.randn(3, 3, height, width))


def test_head_never_survives_or_vanishes_by_accident() -> None:
    state = hugging_face(classes=1000)[0].state_dict()
    load = load_vit
    with pytest.raises(ValueError, match=r"has a head for 1000 classes, and num_classes=10 .* replace_head=True"):
        load(state, heads=HEADS, num_classes=10)
    with pytest.raises(ValueError, match="replace_head=True needs num_classes="):
        load(state, heads=HEADS, replace_head=True)
    with pytest.raises(ValueError, match="num_classes=0 asks for none"):
        load(state, heads=HEADS, num_classes=0)
    ours = load(state, heads=HEADS, num_classes=10, replace_head=True)
    assert ours.head.weight.shape == (10, WIDTH)
    assert ours.head.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert ours.config.num_classes == 10
    assert not torch.equal(
        load(state, heads=HEADS, num_classes=1000, replace_head=True).head.weight, state["classifier.weight"]
    )
    bare = load(state, heads=HEADS, num_classes=0, replace_head=True)
    assert bare(torch.randn(1, 3, 32, 32)).shape == (1, WIDTH)
    with pytest.raises(ValueError, match="has no head, and num_classes=10 asks for one for 10"):
        load(bare.state_dict(), heads=HEADS, num_classes=10)
    assert load(bare.state_dict(), heads=HEADS).config.num_classes == 0


def test_weights_are_copies_in_float32() -> None:
    model, _ = hugging_face()
    state = {key: tensor.half() for key, tensor in model.state_dict().items()}
    assert {p.dtype for p in load_vit(state, heads=HEADS).parameters()} == {torch.float32}
    ours = load_vit(model.state_dict(), heads=HEADS)
    before = [p.clone() for p in model.parameters()]
    torch.optim.SGD(ours.parameters(), lr=1.0).step(lambda: ours(torch.randn(2, 3, 32, 32)).square().sum().backward())
    assert all(p.grad is not None for p in ours.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_headless_models_and_what_is_ignored() -> None:
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=HIDDEN,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = lively(transformers.ViTModel(config, use_mask_token=True))
    with pytest.raises(ValueError, match=r'pooler.dense.*pass ignore=\("pooler.",\)'):
        load_vit(model.state_dict(), heads=HEADS)
    ours = load_vit(model.state_dict(), heads=HEADS, ignore=("pooler.",))
    images, mask = torch.randn(2, 3, 32, 32), torch.rand(2, 16) < 0.5
    with torch.inference_mode():
        theirs = model(pixel_values=images, bool_masked_pos=mask).last_hidden_state
        torch.testing.assert_close(ours.tokens(images, mask=mask), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_left_over_and_misshapen_keys_are_listed(library: str) -> None:
    state = dict(LIBRARIES[library]()[0].state_dict())
    last = [key for key in state if "norm" in key or "ln" in key.split(".")][-1]
    with pytest.raises(ValueError, match=r"norm\.(weight|bias) is missing"):
        load_vit({k: t for k, t in state.items() if k != last}, heads=HEADS)
    with pytest.raises(ValueError, match=r"no place for \(2\): surplus.gamma, other"):
        load_vit(state | {"surplus.gamma": torch.ones(1), "other": torch.ones(1)}, heads=HEADS)
    with pytest.raises(ValueError, match=r"norm.* has shape \[3\] where \[48\] is wanted"):
        load_vit(state | {last: torch.ones(3)}, heads=HEADS)


def test_of_many_faults_the_first_are_listed() -> None:
    state = from_timm()[0].state_dict()
    strange = {f"strange.{i}": torch.ones(1) for i in range(30)}
    with pytest.raises(ValueError, match=r"\(30\): strange.0, .*strange.7 and 22 more"):
        load_vit(state | strange, heads=HEADS)
    with pytest.raises(ValueError, match=r"in 24 places .*encoder\.layers\.0\..* and 16 more"):
        load_vit(
            {key: t for key, t in state.items() if not key.startswith("blocks.1") or "attn" not in key}
            | {key: torch.ones(3) for key in state if "mlp" in key or "norm" in key},
            heads=HEADS,
        )


def test_heads_are_asked_for_where_nothing_tells_them() -> None:
    with pytest.raises(ValueError, match="width 48, and nothing tells over how many heads it is split: pass heads="):
        load_vit(from_timm()[0].state_dict())
    model, forward = from_timm(embed_dim=192, num_heads=3)
    assert_equal(load_vit(model.state_dict()), forward, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_files(tmp_path: Path, name: str) -> None:
    model, forward = from_timm()
    path = tmp_path / name
    if name.endswith("safetensors"):
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    assert_equal(load_vit(path, heads=HEADS), forward, torch.randn(2, 3, 32, 32))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(
        ValueError, match=rf"{name} \(\d+ bytes\) cannot be read as a .*: it is truncated, damaged or of"
    ):
        load_vit(path, heads=HEADS)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


class Replicated(nn.Module):
    """What DistributedDataParallel does to the names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def stale(model: nn.Module) -> dict[str, Tensor]:
    return {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}


def part_compiled(model: nn.Module) -> nn.Module:
    model.blocks[1] = compiled(model.blocks[1])  # type: ignore[index, operator]
    return model


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "in a training script's file": lambda m: {"epoch": 3, "model": m.state_dict()},
    "DDP": lambda m: Replicated(m).state_dict(),
    "compiled": lambda m: compiled(m).state_dict(),
    "compiled, then DDP": lambda m: {"state_dict": Replicated(compiled(m)).state_dict()},
    "DDP, then compiled": lambda m: compiled(Replicated(m)).state_dict(),
    "a compiled layer": lambda m: part_compiled(m).state_dict(),
    "timm with averages": lambda m: {"arch": "vit", "state_dict": stale(m), "state_dict_ema": m.state_dict()},
    "timm without averages": lambda m: {"state_dict": m.state_dict(), "state_dict_ema": None},
    "torchvision with averages": lambda m: {"model": stale(m), "model_ema": AveragedModel(m).state_dict()},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_training_puts_round_a_state_dict_is_taken_off(tmp_path: Path, how: str) -> None:
    model, forward = from_timm()
    torch.save(WRAPPED[how](model), tmp_path / "checkpoint.pth")
    assert_equal(load_vit(tmp_path / "checkpoint.pth", heads=HEADS), forward, torch.randn(2, 3, 32, 32))


def test_two_names_of_one_parameter_are_refused() -> None:
    state = hugging_face()[0].state_dict()
    with pytest.raises(ValueError, match=r"vit\.layernorm\.bias and layernorm\.bias, which are one"):
        load_vit(state | {"layernorm.bias": torch.ones(WIDTH)}, heads=HEADS)


class Foreign:
    """Unpickling this would run code of the file's choosing."""

    def __reduce__(self) -> Any:
        return print, ("code of the file ran",)


def test_foreign_files_say_what_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Foreign(), tmp_path / "code.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_vit(tmp_path / "code.pt")
    assert "ran" not in capsys.readouterr().out
    torch.save({"epoch": 3}, tmp_path / "log.pt")
    with pytest.raises(ValueError, match=r"log.pt holds no state dict: expected tensors by name"):
        load_vit(tmp_path / "log.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(ValueError, match=r"no Vision Transformer in a layout known here .*first keys are weight, bias"):
        load_vit(tmp_path / "linear.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"directory 'empty' holds none of model\.safetensors"):
        load_vit(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"there is no file or directory '.*nowhere.pt'"):
        load_vit(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match=r"is a model: give its model.state_dict\(\)"):
        load_vit(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "deit"}, "model_type 'deit'"),
        ({"model_type": "vit", "hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"architecture": "vit_tiny", "global_pool": "map"}, "global_pool 'map'"),
        ("{", "is no JSON"),
    ],
)
def test_configs_of_other_networks_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    safetensors.torch.save_file(from_timm()[0].state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_vit(tmp_path)


def test_directory_of_timm(tmp_path: Path) -> None:
    model, forward = from_timm((24, 40), global_pool="avg")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_of_this_test", "global_pool": "avg", "model_args": {"num_heads": HEADS}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 24, 40]}}))
    assert_equal(load_vit(tmp_path), forward, torch.randn(3, 3, 24, 40))


def test_hub_name_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fails(*_: Any, **__: Any) -> str:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(OSError, match="'google/vit-base-patch16-224' is no local path and could not be fetched"):
        load_vit("google/vit-base-patch16-224")


def test_hub_name_is_fetched_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    model, forward = hugging_face()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(tmp_path / file))
    assert_equal(load_vit("some/model"), forward, torch.randn(3, 3, 32, 32))


def test_own_checkpoints_and_changes() -> None:
    model = ViT(ViTConfig(image_size=32, patch_size=8, width=WIDTH, heads=3, depth=2, registers=2, num_classes=5))
    lively(model)
    again = load_vit(model.state_dict(), heads=3)
    assert again.config == replace(model.config, image_size=(32, 32), patch_size=(8, 8))
    assert_equal(again, model, torch.randn(3, 3, 32, 32))
    changed = load_vit(model.state_dict(), heads=3, dropout=0.3, attention="written_out")
    assert changed.encoder.layers[1].dropout.p == 0.3
    assert_equal(changed, model, torch.randn(3, 3, 32, 32))
