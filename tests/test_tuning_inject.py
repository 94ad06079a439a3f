"""Putting adapters in by name, choosing between them, saving them alone: for any module, with refusals in sentences."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils import sealed
from course_utils.models.text import TextConfig, TextModel
from course_utils.tuning import (
    IA3,
    Bottleneck,
    LoRA,
    count_parameters,
    fingerprint,
    inject,
    load,
    merge,
    save,
    set_adapter,
    tuned_layers,
    unload,
    unmerge,
)

CONFIG = TextConfig(vocab_size=40, width=16, depth=2, heads=2, mlp_ratio=2.0, max_length=12, num_classes=3)
IDS = torch.randint(1, 40, (6, 7), generator=torch.Generator().manual_seed(1))
ATTENTION = ["q_proj", "k_proj", "v_proj"]


def make(seed: int = 0, head_seed: int = 1) -> TextModel:
    """A base that two calls make alike, with a head of its own seed, as a pretrained model gets one."""
    torch.manual_seed(seed)
    model = TextModel(CONFIG)
    torch.manual_seed(head_seed)
    nn.init.normal_(model.head.weight)
    return model.eval()


def disturb(model: nn.Module, seed: int = 3) -> nn.Module:
    """Stand in for training: move everything that trains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


# names


def test_patterns_choose_by_end_glob_and_regular_expression() -> None:
    names = [f"encoder.layers.{i}.attention.{p}" for i in range(2) for p in ATTENTION]
    assert inject(make(), LoRA(), ATTENTION) == names
    assert inject(make(), LoRA(), ["[qkv]_proj"]) == names
    assert inject(make(), LoRA(), re.compile(r".*\.[qkv]_proj")) == names
    assert inject(make(), LoRA(), ["layers.1.attention.[qkv]_proj", "layers.0.*.q_proj"]) == [names[0], *names[3:]]
    assert inject(make(), LoRA(), "encoder.layers.0.mlp.*") == [f"encoder.layers.0.mlp.fc{i}" for i in (1, 2)]
    every = inject(make(), LoRA(), "*", train="head")
    assert len(every) == 3 + 2 * 6 + 1 + 1  # tables, layers, pooler; the head in full, not twice
    assert every[-1] == "head"


@pytest.mark.parametrize(
    ("targets", "train", "named"),
    [
        (["q_prj"], [], "targets: 'q_prj' .* q_proj"),
        (["querry"], [], "'querry' .* fc1, fc2, .*q_proj"),
        (["q_proj", "attn.q_proj"], [], "'attn.q_proj' .* attention.q_proj"),
        (["q_proj"], ["classifier"], "train: 'classifier'"),
        (["norm1"], [], "'norm1' .* LayerNorm .* Linear, Embedding, Conv2d"),
        (["dropout"], [], "'dropout' .* Dropout"),
        ([], [], "targets"),
        (["head"], ["head"], "targets .* train"),
        ([re.compile("q_proj")], [], "'q_proj' .* q_proj"),
    ],
)
def test_names_that_fit_nothing_are_told_with_names_like_them(targets: list, train: list, named: str) -> None:
    model = make()
    before = model.state_dict().keys()
    with pytest.raises(ValueError, match=named):
        inject(model, LoRA(), targets, train=train)
    assert model.state_dict().keys() == before
    assert all(p.requires_grad for p in model.parameters())


def test_layers_that_are_read_and_not_called_are_refused() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
    for target, owner in [("linear1", "TransformerEncoderLayer"), ("out_proj", "MultiheadAttention")]:
        with pytest.raises(ValueError, match=f"{target} .* {owner}"):
            inject(model, LoRA(), target)


# what trains


def test_only_the_adapter_and_the_head_train() -> None:
    model = make()
    inject(model, LoRA(rank=2), ATTENTION, train="head")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".adapters.")[0].rpartition(".")[2] for name in trained} == {*ATTENTION, "head"}
    assert all(".adapters.default." in name for name in trained)
    added, counted = 2 * 3 * 2 * 32, count_parameters(model)
    assert counted == (added + 51, sum(p.numel() for p in make().parameters()) + added)
    assert counted.percent == pytest.approx(100 * counted.trainable / counted.total)


def test_no_method_trains_the_head_alone() -> None:
    model = make()
    assert inject(model, None, train="head") == ["head"]
    assert count_parameters(model) == (51, sum(p.numel() for p in make().parameters()))


@settings(deadline=None, max_examples=25)
@given(
    targets=st.sets(st.sampled_from([*ATTENTION, "out_proj", "fc1", "fc2", "pooler"]), min_size=1),
    method=st.sampled_from([LoRA(rank=3), LoRA(rank=2, dora=True), Bottleneck(width=3), IA3(), None]),
    train=st.sampled_from([[], ["head"], ["head", "norm2"], ["embedding_norm"]]),
)
def test_whatever_is_chosen_the_base_stays_and_the_rest_learns(targets: set, method: Any, train: list) -> None:
    if method is None and not train:
        return
    model, bare = make(), make()
    inject(model, method, sorted(targets), train=train)
    assert torch.equal(model(IDS), bare(IDS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(IDS).square().sum().backward()
        optimizer.step()
    assert not torch.equal(model(IDS), bare(IDS))
    assert fingerprint(model) == fingerprint(bare)
    unload(model)
    assert all(torch.equal(tensor, bare.state_dict()[name]) for name, tensor in model.state_dict().items())


# several adapters


def three() -> TextModel:
    model = make()
    inject(model, LoRA(rank=2), ATTENTION, train="head", name="news")
    disturb(model, 4)
    inject(model, Bottleneck(width=3), ["fc2", "out_proj"], train="head", name="mood")
    disturb(model, 5)
    inject(model, IA3(), ["k_proj", "fc2"], name="spam")
    disturb(model, 6)
    return model


def test_switching_between_several_adapters_on_one_base() -> None:
    model, alone = three(), make()
    outputs = {}
    for name in ("news", "mood", "spam", None):
        set_adapter(model, name)
        outputs[name] = model(IDS)
        trained = {n.split(".adapters.")[1].split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
        assert trained == ({name} if name else set())
    assert torch.equal(outputs[None], alone(IDS))
    inject(alone, LoRA(rank=2), ATTENTION, train="head")
    torch.testing.assert_close(outputs["news"], disturb(alone, 4)(IDS), rtol=0, atol=0)
    assert len({str(output.tolist()) for output in outputs.values()}) == 4
    with pytest.raises(ValueError, match=r"'new': .* mood, news, spam"):
        set_adapter(model, "new")


def test_each_row_of_a_batch_has_its_own_adapter() -> None:
    model = three()
    names = ["mood", None, "news", "mood", "spam", "news"]
    rows = []
    for i, name in enumerate(names):
        set_adapter(model, name)
        rows.append(model(IDS[i : i + 1]))
    set_adapter(model, names)
    mixed = model(IDS)
    torch.testing.assert_close(mixed, torch.cat(rows), rtol=1e-5, atol=1e-5)
    mixed.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if ".adapters." in n)
    with pytest.raises(ValueError, match=r"6 rows, .* 2:"):
        model(IDS[:2])


def test_names_of_adapters_are_checked() -> None:
    model = make()
    for name in ("", "a.b", "keys"):
        with pytest.raises(ValueError, match=repr(name)):
            inject(model, LoRA(), "q_proj", name=name)
    inject(model, LoRA(), "q_proj")
    with pytest.raises(ValueError, match="'default' already"):
        inject(model, LoRA(), "k_proj")
    with pytest.raises(ValueError, match=r"layers\.0\.attention .* train"):
        inject(model, None, train="attention", name="other")


def test_merging_is_refused_where_it_would_be_wrong() -> None:
    model = three()
    set_adapter(model, "mood")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="BottleneckAdapter"):
        merge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # nothing half-done
    set_adapter(model, None)
    with pytest.raises(ValueError, match="set_adapter"):
        merge(model)
    set_adapter(model, "spam")
    merge(model)
    for forbidden in (
        lambda: set_adapter(model, "news"),
        lambda: merge(model),
        lambda: inject(model, LoRA(), "fc1", name="x"),
    ):
        with pytest.raises(ValueError, match=r"unmerge\(model\)"):
            forbidden()
    unmerge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    tied[1].weight = tied[0].weight
    inject(tied, LoRA(), "0")
    with pytest.raises(ValueError, match=r"weight of 0 .*0\.base\.weight, 1\.weight"):
        merge(tied)


# files

METHODS = {
    "lora": (LoRA(rank=2, alpha=3, rslora=True), ATTENTION),
    "dora": (LoRA(rank=2, dora=True), ["fc1", "word_embedding"]),
    "bottleneck": (Bottleneck(width=3), ["fc2"]),
    "ia3": (IA3(), ["k_proj", "fc2"]),
    "head": (None, []),
}


@pytest.mark.parametrize("kind", METHODS)
def test_saved_and_loaded_into_a_fresh_base_gives_equal_logits(kind: str, tmp_path: Path) -> None:
    method, targets = METHODS[kind]
    model, path = make(), tmp_path / "a.safetensors"
    inject(model, method, targets, train="head")
    disturb(model)
    save(model, path, extra={"labels": ["体育", "财经"]})
    fresh = make(head_seed=99)  # another random head: the trained one is in the file
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    loaded = load(fresh, path)
    assert torch.rand(1) == expected  # the caller's random numbers go on as if nothing had been built
    assert loaded == ("default", method, {"labels": ["体育", "财经"]})
    assert torch.equal(fresh(IDS), model(IDS))
    assert count_parameters(fresh) == count_parameters(model)
    held = sum(tensor.numel() for tensor in safetensors.torch.load_file(path).values())
    assert held == count_parameters(model).trainable  # what was tuned, and nothing else
    assert path.stat().st_size < 4 * held + 8000


def test_several_files_on_one_base(tmp_path: Path) -> None:
    model, other = three(), make()
    for name in ("news", "mood"):
        save(model, tmp_path / name, name)
        load(other, tmp_path / name, name=f"{name}2")
    for name in ("news", "mood"):
        set_adapter(model, name)
        set_adapter(other, f"{name}2")
        assert torch.equal(model(IDS), other(IDS))
    with pytest.raises(ValueError, match="'news2' already"):
        load(other, tmp_path / "news", name="news2")


def refused(path: Path, message: str, model: nn.Module | None = None, error: type[Exception] = ValueError) -> None:
    """Loading fails with this sentence, and the model is as it was."""
    model = make() if model is None else model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=message):
        load(model, path)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = make()
    inject(model, LoRA(rank=2), ATTENTION, train="head")
    save(disturb(model), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def rewrite(path: Path, keep: Any = lambda key: True, **changes: Any) -> None:
    """The file again with some tensors or fields changed, and a checksum that fits."""
    tree, tensors = sealed.read(path, "adapter")
    sealed.write(path, "adapter", tree | changes, {key: tensor for key, tensor in tensors.items() if keep(key)})


def test_empty_truncated_damaged_and_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    blob = saved.read_bytes()
    for length in (1, 7, 100, len(blob) // 2, len(blob) - 1):
        saved.write_bytes(blob[:length])
        refused(saved, "is truncated or no adapter")
    saved.write_bytes(b"")
    refused(saved, "is empty and holds no adapter")
    flipped = bytearray(blob)
    flipped[-9] ^= 4
    saved.write_bytes(flipped)
    refused(saved, "is damaged")
    safetensors.torch.save_file({"a": torch.ones(2)}, saved)
    refused(saved, "no adapter of this course")
    torch.save({"a": torch.ones(2)}, saved)
    refused(saved, "looks like a file of torch.save")
    refused(tmp_path, "is a folder", error=IsADirectoryError)
    refused(tmp_path / "none", "there is no adapter", error=FileNotFoundError)


def test_partial_files_are_refused_and_name_what_is_missing(saved: Path) -> None:
    blob = saved.read_bytes()
    for keep, message in [
        (lambda key: False, r"encoder.layers.0.attention.q_proj.A is missing; .*; and 11 more"),
        (lambda key: not key.endswith("1.attention.v_proj.B"), r"encoder.layers.1.attention.v_proj.B is missing$"),
        (lambda key: "head" not in key, "head.copy.weight is missing; head.copy.bias is missing"),
    ]:
        saved.write_bytes(blob)
        rewrite(saved, keep)
        refused(saved, message)
    saved.write_bytes(blob)
    rewrite(saved, train=[], base=fingerprint(make()))
    refused(saved, "head.copy.bias is left over")
    saved.write_bytes(blob)
    rewrite(saved, method={"class": "LoRA", "fields": vars(LoRA(rank=3))})
    refused(saved, r"q_proj.A has shape \[2, 16\] where \[3, 16\] is wanted")
    rewrite(saved, method={"class": "LoRA", "fields": {"rang": 2}})
    refused(saved, "fields that LoRA does not have .*rang")
    rewrite(saved, method={"class": "Prompt", "fields": {}})
    refused(saved, "tuned with Prompt, which is not known here .*LoRA.*: import the module")


def test_another_base_is_refused_and_the_difference_named(saved: Path) -> None:
    refused(
        saved, r"on another base \(word_embedding.weight: float32\[40, 16\] \w{8} here, float32.*more", make(seed=8)
    )
    one = make()
    with torch.no_grad():
        one.encoder.layers[1].mlp.fc1.weight.mul_(1.001)
    refused(saved, r"on another base \(encoder.layers.1.mlp.fc1.weight: [^;]*\)", one)
    refused(saved, r"bfloat16\[40, 16\]", make().bfloat16())
    refused(saved, r"does not have \(3\): encoder.layers.1", TextModel(TextConfig(**(vars(CONFIG) | {"depth": 1}))))
    deeper = TextModel(TextConfig(**(vars(CONFIG) | {"depth": 3})))
    refused(saved, "another base", deeper)
    refused(saved, r"does not have \(7\)", nn.Sequential(nn.Linear(2, 2)))


def test_saving_refuses_what_could_not_be_loaded(tmp_path: Path) -> None:
    path, model = tmp_path / "a.safetensors", make()
    with pytest.raises(ValueError, match="no adapter 'default': it has none"):
        save(model, path)
    inject(model, LoRA(), ATTENTION)
    with pytest.raises(ValueError, match="no adapter 'other': it has default"):
        save(model, path, "other")
    merge(model)
    with pytest.raises(ValueError, match="unmerge"):
        save(model, path)
    unmerge(model)
    with torch.no_grad():
        model.position_embedding.weight.add_(0.1)  # somebody trained the base
    with pytest.raises(
        ValueError, match=r"the base has changed since adapter 'default' was put in \(position_embedding"
    ):
        save(model, path)
    assert not path.exists()
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    inject(convolutional, LoRA(), "0")
    convolutional(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"1.running_mean.*running statistics in train="):
        save(convolutional, path)
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    fresh = copy.deepcopy(convolutional)
    inject(convolutional, LoRA(), "0", train="1")
    convolutional(torch.randn(2, 3, 8, 8))
    save(convolutional, path)
    load(fresh, path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(fresh.eval()(x), convolutional.eval()(x))


def test_a_failed_write_leaves_the_old_file(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, model = saved.read_bytes(), make()
    inject(model, IA3(), ["k_proj"])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("course_utils.files.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device. What was there before is unchanged"):
        save(model, saved)
    assert saved.read_bytes() == blob
    assert list(tmp_path.iterdir()) == [saved]
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"Check that .* exists"):
        save(model, tmp_path / "none" / "a")


def test_a_tuned_model_copies_and_its_state_dict_returns(tmp_path: Path) -> None:
    model = three()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(IDS), model(IDS))
    other = make()
    inject(other, LoRA(rank=2), ATTENTION, train="head", name="news")
    inject(other, Bottleneck(width=3), ["fc2", "out_proj"], train="head", name="mood")
    inject(other, IA3(), ["k_proj", "fc2"], name="spam")
    other.load_state_dict(model.state_dict())  # resuming a run from training.checkpoint works as for any model
    assert torch.equal(other(IDS), model(IDS))
    assert len(tuned_layers(other)) == len(tuned_layers(model))
